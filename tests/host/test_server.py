"""A real server over HTTP: what an API caller gets, and that no bad request takes the server down."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from comfy_client import JobFailed, PromptRefused, outputs
from small_loras import Target, write_lora
from small_models import WAN_SMALL, unet_patcher, wan_shapes

LCM = "lcm-lora-sdv1-5.safetensors"
HIGH = "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors"
LOW = "wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors"


@pytest.fixture(scope="module")
def files(server):
    """LoRA files in the server's own models folder."""
    loras = server.base / "models" / "loras"
    write_lora(loras / LCM, unet_patcher("sd15"), "kohya-diffusers", rank=4, alpha=4.0, only="attn")
    write_lora(loras / "sdxl_lightning_4step_lora.safetensors", unet_patcher("sdxl"), "kohya-diffusers", rank=1, only="middle")
    wan = Target(wan_shapes("wan21_t2v"), WAN_SMALL)
    for seed, name in ((1, HIGH), (2, LOW), (3, "wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors")):
        write_lora(loras / name, wan, "native", rank=4, seed=seed, differences=True)
    whole = (loras / LCM).read_bytes()
    (loras / "lcm_truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    (loras / "lcm_empty.safetensors").write_bytes(b"")
    (loras / "lcm_text.safetensors").write_text("<html>404 not found</html>")
    return loras


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def image_prompt(**sampler) -> dict:
    """SD 1.5's architecture with an LCM LoRA, 4 steps; the result into the history and into a file."""
    return {
        "model": node("TestModel", architecture="sd15", seed=0),
        "text": node("TestConditioning", width=768, length=77, seed=0),
        "size": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "lora": node("FewStepAccelerator", model=["model", 0], lora_name=LCM, accelerator="auto", strength=1.0),
        "sample": node("FewStepSampler", **{"model": ["lora", 0], "positive": ["text", 0], "latent_image": ["size", 0], "seed": 5,
                                            "steps": 0, "denoise": 1.0, **sampler}),
        "result": node("TestLatentReport", samples=["sample", 0]),
        "file": node("SaveLatent", samples=["sample", 0], filename_prefix="fewstep"),
    }


def video_prompt(**sampler) -> dict:
    """Wan 2.2's two experts with their LoRAs, 4 steps, decoded and saved as an animated file."""
    return {
        "high": node("UNETLoader", unet_name="wan21_t2v.safetensors", weight_dtype="default"),
        "low": node("UNETLoader", unet_name="wan21_t2v.safetensors", weight_dtype="default"),
        "text": node("TestConditioning", width=4096, length=6, seed=0),
        "size": node("EmptyHunyuanLatentVideo", width=32, height=32, length=5, batch_size=1),
        "high_lora": node("FewStepAccelerator", model=["high", 0], lora_name=HIGH, accelerator="auto", strength=1.0),
        "low_lora": node("FewStepAccelerator", model=["low", 0], lora_name=LOW, accelerator="auto", strength=1.0),
        "sample": node("FewStepSampler", **{"model": ["high_lora", 0], "positive": ["text", 0], "latent_image": ["size", 0],
                                            "seed": 5, "steps": 0, "denoise": 1.0, "model_low_noise": ["low_lora", 0], **sampler}),
        "result": node("TestLatentReport", samples=["sample", 0]),
        "vae": node("VAELoader", vae_name="wan_vae.safetensors"),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["vae", 0]),
        "file": node("SaveAnimatedWEBP", images=["decode", 0], filename_prefix="fewstep", fps=8.0, lossless=False, quality=80,
                     method="default"),
    }


def latent_of(entry) -> dict:
    return outputs(entry, "test_latent")[0]


def report_of(entry, name: str) -> dict:
    return next(report for report in outputs(entry, "fewstep_report") if report["node"] == name)


@pytest.mark.parametrize("prompt", [image_prompt, video_prompt])
def test_four_steps_cost_four_evaluations_and_leave_a_file_and_a_report(server, files, prompt):
    entry = server.client.run(prompt())
    report = report_of(entry, "Few-Step Sampler")
    assert (report["steps"], report["evaluations"], report["forward_passes"], report["rows"]) == (4, 4, 4, 4)
    assert report_of(entry, "Accelerator Loader")["layers_lost"] == 0
    saved = [*outputs(entry, "latents"), *outputs(entry, "images")][0]
    assert (server.base / "output" / saved["subfolder"] / saved["filename"]).stat().st_size > 0


def test_core_ksampler_at_the_same_sigmas_and_noise_gives_the_same_image_latent(server, files):
    ours = image_prompt()
    theirs = image_prompt()
    theirs["sample"] = node("KSampler", model=["lora", 0], positive=["text", 0], negative=["text", 0], latent_image=["size", 0],
                            seed=5, steps=4, cfg=1.0, sampler_name="lcm", scheduler="simple", denoise=1.0)
    assert_latents_agree(server, ours, theirs)


def test_chained_core_samplers_give_the_same_video_latent(server, files):
    theirs = video_prompt()
    common = {"noise_seed": 5, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "positive": ["text", 0],
              "negative": ["text", 0]}
    theirs["half"] = node("KSamplerAdvanced", model=["high_lora", 0], latent_image=["size", 0], add_noise="enable", start_at_step=0,
                          end_at_step=2, return_with_leftover_noise="enable", **common)
    theirs["sample"] = node("KSamplerAdvanced", model=["low_lora", 0], latent_image=["half", 0], add_noise="disable",
                            start_at_step=2, end_at_step=4, return_with_leftover_noise="disable", **common)
    assert_latents_agree(server, video_prompt(), theirs)


def assert_latents_agree(server, ours: dict, theirs: dict) -> None:
    """Compare the saved latents of two prompts to 1e-5 of the latent's own size."""
    saved = []
    for prompt in (ours, theirs):
        prompt["file"] = node("SaveLatent", samples=["sample", 0], filename_prefix="compare")
        item = outputs(server.client.run(prompt), "latents")[0]
        path = server.base / "output" / item["subfolder"] / item["filename"]
        saved.append(load_file(path)["latent_tensor"].float())
    assert torch.allclose(saved[0], saved[1], atol=1e-5 * max(1.0, saved[1].std().item()))


def test_the_same_seed_is_bit_identical_when_nothing_is_cached(server, files):
    first = latent_of(server.client.run(video_prompt()))
    server.client.forget()
    again = latent_of(server.client.run(video_prompt()))
    other = latent_of(server.client.run(video_prompt(seed=6)))
    assert first["sha256"] == again["sha256"] != other["sha256"]


def test_interrupting_leaves_the_next_run_untouched(server, files):
    expected = latent_of(server.client.run(image_prompt()))
    slow = image_prompt(seed=77)
    slow["size"] = node("EmptyLatentImage", width=512, height=512, batch_size=4)
    events = []

    def stop(event):
        events.append(event["type"])
        if event["type"] in ("progress", "progress_state") and "stopped" not in events:
            server.client.interrupt()
            events.append("stopped")

    with pytest.raises(JobFailed) as stopped:
        server.client.run(slow, stop)
    assert stopped.value.is_interruption
    server.client.forget()
    assert latent_of(server.client.run(image_prompt()))["sha256"] == expected["sha256"]


def with_lora(name: str, accelerator: str = "auto") -> dict:
    prompt = image_prompt()
    prompt["lora"]["inputs"] |= {"lora_name": name, "accelerator": accelerator}
    return prompt


def swapped_experts() -> dict:
    prompt = video_prompt()
    prompt["high_lora"]["inputs"]["lora_name"], prompt["low_lora"]["inputs"]["lora_name"] = LOW, HIGH
    return prompt


def t2v_lora_on_i2v() -> dict:
    prompt = video_prompt()
    prompt["high"]["inputs"]["unet_name"] = "wan21_i2v.safetensors"
    return prompt


def without_accelerator() -> dict:
    return image_prompt(model=["model", 0])


BAD_REQUESTS = {
    "truncated file": (lambda: with_lora("lcm_truncated.safetensors"), "not a complete .safetensors file", "download it again"),
    "empty file": (lambda: with_lora("lcm_empty.safetensors"), "is empty (0 bytes)", "download it again"),
    "not safetensors": (lambda: with_lora("lcm_text.safetensors"), "not a complete .safetensors file", "download it again"),
    "missing file": (lambda: with_lora("lcm-lora-sdv1-6.safetensors"), "is not in models/loras", "lcm-lora-sdv1-5.safetensors"),
    "another base": (lambda: with_lora("sdxl_lightning_4step_lora.safetensors"), "is for SDXL", "connected model is SD 1.5"),
    "no matching key": (lambda: with_lora(HIGH), "Wan", "SD 1.5"),
    "steps it was not distilled for": (lambda: image_prompt(steps=12), "distilled for 2 to 8 steps, not 12", "Set steps to 4"),
    "cfg from the API": (lambda: image_prompt(cfg=7), "cfg is locked", "Remove cfg"),
    "no accelerator": (without_accelerator, "No accelerator is attached", "Accelerator Loader"),
    "T2V LoRA on I2V model": (t2v_lora_on_i2v, "text-to-video", "image-to-video"),
    "experts swapped": (swapped_experts, "high-noise expert", "Swap the two models"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_answered_and_the_server_lives(server, files, name):
    make, found, advice = BAD_REQUESTS[name]
    with pytest.raises((JobFailed, PromptRefused)) as refused:
        server.client.run(make())
    message = str(refused.value)
    assert found in message and advice in message
    assert server.is_alive and server.client.get("/system_stats")


def test_steps_3_on_a_4_step_lightning_names_the_allowed_steps(server, files):
    prompt = image_prompt(steps=3)
    prompt["model"] = node("TestModel", architecture="sdxl", seed=0)
    prompt["text"] = node("TestConditioning", width=2048, length=77, seed=0)
    prompt["lora"]["inputs"]["lora_name"] = "sdxl_lightning_4step_lora.safetensors"
    prompt["lora"]["inputs"]["accelerator"] = "sdxl-lightning-4step-lora"
    with pytest.raises(JobFailed, match="distilled for 4 steps, not 3.*Set steps to 4"):
        server.client.run(prompt)


