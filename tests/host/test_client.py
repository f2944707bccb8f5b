"""The tests' own server and client do what the other tests take for granted."""

from __future__ import annotations

import pytest

from comfy_client import JobFailed, PromptRefused, outputs
from comfy_server import PACK_NAME, Server
from prompts import core_sampler, node, sd15

CORE_SAMPLER = {
    **sd15(),
    "sample": core_sampler("model", steps=2),
    "result": node("TestLatentReport", samples=["sample", 0]),
}


def test_pack_is_loaded_without_a_complaint(server: Server) -> None:
    log = server.log.read_text(encoding="utf-8")
    assert "IMPORT FAILED" not in log
    assert PACK_NAME in log


def test_websocket_brings_the_progress_of_every_step(server: Server) -> None:
    server.client.forget()
    events: list[dict] = []
    entry = server.client.run(CORE_SAMPLER, events.append)
    (latent,) = outputs(entry, "test_latent")
    assert latent["shape"] == [1, 4, 8, 8]
    steps = [event["data"] for event in events if event["type"] == "progress"]
    assert steps[-1]["value"] == steps[-1]["max"] == 2


def test_forgetting_makes_the_server_compute_again_and_the_bits_are_the_same(
    server: Server,
) -> None:
    first = outputs(server.client.run(CORE_SAMPLER), "test_latent")
    server.client.forget()
    events: list[dict] = []
    assert outputs(server.client.run(CORE_SAMPLER, events.append), "test_latent") == first
    assert any(event["type"] == "progress" for event in events)


def test_workflow_that_names_no_node_is_refused(server: Server) -> None:
    with pytest.raises(PromptRefused, match="NoSuchNode"):
        server.client.run({"1": node("NoSuchNode")})


def test_error_in_a_node_comes_back_with_its_message(server: Server) -> None:
    broken = {
        **CORE_SAMPLER,
        "text": node("TestConditioning", width=5, length=77, seed=0),
    }
    with pytest.raises(JobFailed, match="KSampler") as failure:
        server.client.run(broken)
    assert not failure.value.is_interruption
    assert server.is_alive


@pytest.mark.slow
def test_full_width_checkpoint_is_loaded_by_the_hosts_own_loader(
    server: Server, sd15_files: dict[str, str]
) -> None:
    prompt = {
        **CORE_SAMPLER,
        "model": node("CheckpointLoaderSimple", ckpt_name=sd15_files["checkpoint"]),
        "text": node("CLIPTextEncode", clip=["model", 1], text="a lighthouse"),
        "sample": core_sampler("model", steps=1),
        "decoded": node("VAEDecode", samples=["sample", 0], vae=["model", 2]),
        "image": node("PreviewImage", images=["decoded", 0]),
    }
    entry = server.client.run(prompt)
    assert outputs(entry, "test_latent")[0]["deviation"] > 0.1
    (image,) = outputs(entry, "images")
    assert server.client.file(image).startswith(b"\x89PNG")
