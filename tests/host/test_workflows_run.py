"""Every shipped API workflow on a real server: accepted as it is, and run to the end on small
models.

A few of them run every time. For all, which takes minutes:

    FEWSTEP_ALL_WORKFLOWS=1 python scripts/test.py --tier host -k workflow_runs

They are a part of `python scripts/test.py --all`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from comfyui_fewstep.nodes.host.motion import host_patches_layers
from thinning import some_of, thorough

import node_schema
from comfy_client import JobFailed, outputs
from comfy_server import Server
from host import DEFAULT_VERSION, Host
from small_models import HAS_CAUSAL_WAN
from small_workflows import FAMILIES, QUICK, WAN_CAUSAL, Family, shrink, write_files
from workflows import all_graphs

API = Path(__file__).resolve().parents[2] / "workflows" / "api"
GRAPHS = all_graphs(node_schema.load())
# These come with their models.
DEMOS = ("demo", "demo_compare", "demo_stream", "distil_demo")


def prompt_of(slug: str) -> dict[str, Any]:
    return json.loads((API / f"{slug}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def object_info(server: Server) -> dict[str, Any]:
    return server.client.get("/object_info")


@pytest.mark.parametrize("slug", GRAPHS)
def test_converter_of_comfy_cli_makes_the_same_prompt(
    host: Host, object_info: dict[str, Any], slug: str
) -> None:
    """The command-line tool converts editor files without a browser; so do people who drive a
    server with it.
    """
    if host.version != DEFAULT_VERSION:
        pytest.skip(
            "core's nodes have other inputs in another ComfyUI; it drops those it does not know"
        )
    converter = pytest.importorskip("comfy_cli.workflow_to_api")
    editor_file = API.parent / f"{GRAPHS[slug].title}.json"
    workflow = json.loads(editor_file.read_text(encoding="utf-8"))
    assert converter.convert_ui_to_api(workflow, object_info) == prompt_of(slug)


@pytest.mark.parametrize(
    "slug",
    [
        slug
        if slug in QUICK or os.environ.get("FEWSTEP_ALL_WORKFLOWS")
        else pytest.param(slug, marks=thorough)
        for slug in FAMILIES
    ],
)
def test_workflow_runs_to_the_end_on_small_models(server: Server, slug: str) -> None:
    prompt, family = prompt_of(slug), FAMILIES[slug]
    skip_where_the_host_is_too_old(prompt, family)
    write_files(prompt, family, server.base / "models")
    place_pictures(server, prompt)
    entry = server.client.run(shrink(prompt, family))
    saved = [
        item
        for kind in ("images", "video")  # the Streaming Sampler's record is the latter
        for item in outputs(entry, kind)
        if item["type"] == "output"
    ]
    assert saved and (family.has_files or outputs(entry, "test_latent")), "nothing came out"
    if any(node["class_type"] == "SaveVideo" for node in prompt.values()):
        assert server.client.file(saved[0])[4:8] == b"ftyp", "an MP4 begins with its type"
    # A number, or a link from Step Budget.
    asked = {
        str(node["inputs"]["steps"])
        for node in prompt.values()
        if node["class_type"] == "FewStepSampler"
    }
    reports = [
        report
        for report in outputs(entry, "fewstep_report")
        if report["node"] == "Few-Step Sampler"
    ]
    # Guided Start's two steps of two evaluations stand in for one of the accelerator's.
    guided = 3 * any(node["class_type"] == "FewStepGuidedStart" for node in prompt.values())
    assert [report["evaluations"] for report in reports] == [
        report["steps"] + guided for report in reports
    ]
    if asked == {"0"}:
        assert {report["steps"] for report in reports} == {GRAPHS[slug].steps}


def test_every_workflow_is_run_by_one_of_these_tests() -> None:
    assert {*FAMILIES, *DEMOS} == set(GRAPHS)


@pytest.mark.parametrize("slug", some_of(DEMOS, "demo_stream"))
def test_demo_runs_as_it_is_shipped(server: Server, slug: str) -> None:
    if slug == "demo_stream" and not HAS_CAUSAL_WAN:
        pytest.skip("this ComfyUI has no causal Wan")
    prompt = prompt_of(slug)
    for node in prompt.values():
        if (
            "seed" in node["inputs"]
        ):  # one of its own, or the server hands out what an equal sampler made for another test
            node["inputs"]["seed"] += 100 + DEMOS.index(slug)
        if node["class_type"] == "FewStepDistill":  # minutes, as it is shipped
            node["inputs"].update(iterations=2, teacher_steps=4)
    entry = server.client.run(prompt)
    video, *_ = [item for item in outputs(entry, "images") if item["type"] == "output"]
    assert server.client.file(video)
    reports = {report["node"]: report for report in outputs(entry, "fewstep_report")}
    if slug == "distil_demo":
        made = reports["Distil Accelerator"]
        assert (made["lora_name"], made["iterations"]) == ("my_demo_accelerator.safetensors", 2)
        assert reports["Accelerator Loader"]["accelerator"] == made["accelerator"]
    if slug == "demo_stream":
        # 65 frames are 17 latent ones, each of 4 steps (the first of 8) and a context pass, which
        # the last does not need. At 4 s (8 frames a second) the prompt changes and the sink goes:
        # of the 5 frames that stay in view the one before is read anyway.
        report = reports["Streaming Sampler"]
        assert report["evaluations"] == 17 * 5 + 4 - 1 + 4
        assert [change["frame"] for change in report["prompt_changes"]] == [33]
    else:
        assert (
            reports["Few-Step Sampler"]["evaluations"] == reports["Few-Step Sampler"]["steps"] == 4
        )


def test_no_workflow_reached_for_another_machine(server: Server) -> None:
    """Until here all shipped workflows of this run ran. Whatever else uses the server is held to
    the same when it is stopped.
    """
    log = server.base / "network.log"
    assert not log.exists(), log.read_text(encoding="utf-8")
    # The guard works: a name is refused like an address, and both are written down.
    for address in ("192.0.2.1", "example.com"):
        with pytest.raises(JobFailed, match="the tests let nothing out of this machine"):
            server.client.run({"1": {"class_type": "TestNetwork", "inputs": {"address": address}}})
        assert repr(address) in log.read_text(encoding="utf-8")
    log.unlink()


def skip_where_the_host_is_too_old(prompt: dict[str, Any], family: Family) -> None:
    if family.architecture == WAN_CAUSAL.architecture and not HAS_CAUSAL_WAN:
        pytest.skip("this ComfyUI has no causal Wan")
    if (
        any(node["class_type"] == "FewStepMotion" for node in prompt.values())
        and not host_patches_layers()
    ):
        pytest.skip("this ComfyUI is too old for motion modules")


def place_pictures(server: Server, prompt: dict[str, Any]) -> None:
    from PIL import Image

    for node in prompt.values():
        if node["class_type"] == "LoadImage":
            Image.new("RGB", (64, 64), "#4080c0").save(
                server.base / "input" / node["inputs"]["image"]
            )
