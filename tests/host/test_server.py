"""A real server over HTTP: what an API caller gets, and that it survives every bad request."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfy_client import JobFailed, PromptRefused, outputs
from prompts import accelerator, core_sampler, few_steps, node, sd15, wan_inputs, wan_model
from small_loras import Target, write_lora
from small_models import WAN_SMALL, unet_patcher, wan_shapes

LCM = "lcm-lora-sdv1-5.safetensors"
HIGH = "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors"
LOW = "wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors"


# LightX2V's pairs for Wan 2.2 image-to-video of which the low-noise half is Wan 2.1's LoRA, with
# its image branch. The first is known to the byte.
PAIRS_WITH_WAN21_LAYERS = {
    "1022": (
        "wan2.2_i2v_A14b_high_noise_lora_rank64_lightx2v_4step_1022.safetensors",
        "wan2.2_i2v_A14b_low_noise_lora_rank64_lightx2v_4step_1022.safetensors",
    ),
    "MoE": ("high_noise_model_rank64.safetensors", "low_noise_model_rank64.safetensors"),
}


@pytest.fixture(scope="module")
def files(server):
    """LoRA files in the server's own models folder."""
    loras = server.base / "models" / "loras"
    write_lora(loras / LCM, unet_patcher("sd15"), "kohya-diffusers", rank=4, alpha=4.0, only="attn")
    write_lora(
        loras / "sdxl_lightning_4step_lora.safetensors",
        unet_patcher("sdxl"),
        "kohya-diffusers",
        rank=1,
        only="middle",
    )
    wan = Target(wan_shapes("wan21_t2v"), WAN_SMALL)
    for seed, name in (
        (1, HIGH),
        (2, LOW),
        (3, "wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors"),
    ):
        write_lora(loras / name, wan, "native", rank=4, seed=seed, differences=True)
    for high, low in PAIRS_WITH_WAN21_LAYERS.values():
        for name, variant in ((high, "wan22_i2v"), (low, "wan21_i2v")):
            target = Target(wan_shapes(variant), WAN_SMALL)
            write_lora(loras / name, target, "native", rank=4, differences=True)
    whole = (loras / LCM).read_bytes()
    (loras / "lcm_truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    (loras / "lcm_empty.safetensors").write_bytes(b"")
    (loras / "lcm_text.safetensors").write_text("<html>404 not found</html>")
    # The text is as wide as SD 1.5's, and no model has such layers.
    alien = [f"lora_unet_transformer_blocks_0_attn2_to_{part}" for part in ("k", "v")]
    down = {f"{layer}.lora_down.weight": torch.zeros(4, 768) for layer in alien}
    up = {f"{layer}.lora_up.weight": torch.zeros(32, 4) for layer in alien}
    save_file(down | up, loras / "lcm_alien.safetensors")
    return loras


def image_prompt(**sampler) -> dict:
    """SD 1.5's architecture with an LCM LoRA, 4 steps; the result goes into a file too."""
    return {
        **sd15(),
        "lora": accelerator("model", LCM),
        "sample": few_steps("lora", **sampler),
        "result": node("TestLatentReport", samples=["sample", 0]),
        "file": node("SaveLatent", samples=["sample", 0], filename_prefix="fewstep"),
    }


def video_prompt(
    loras: tuple[str, str] = (HIGH, LOW), model: str = "wan21_t2v.safetensors", **sampler
) -> dict:
    """Wan 2.2's two experts with their LoRAs, 4 steps, decoded and saved as an animated file."""
    return {
        **wan_inputs(length=5, width=32, height=32),
        "high": wan_model(model),
        "low": wan_model(model),
        "high_lora": accelerator("high", loras[0]),
        "low_lora": accelerator("low", loras[1]),
        "sample": few_steps("high_lora", **({"model_low_noise": ["low_lora", 0]} | sampler)),
        "result": node("TestLatentReport", samples=["sample", 0]),
        "vae": node("VAELoader", vae_name="wan_vae.safetensors"),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["vae", 0]),
        "file": node(
            "SaveAnimatedWEBP",
            images=["decode", 0],
            filename_prefix="fewstep",
            fps=8.0,
            lossless=False,
            quality=80,
            method="default",
        ),
    }


def latent_of(entry) -> dict:
    return outputs(entry, "test_latent")[0]


def report_of(entry, name: str) -> dict:
    return next(report for report in outputs(entry, "fewstep_report") if report["node"] == name)


@pytest.mark.parametrize("prompt", [image_prompt, video_prompt])
def test_four_steps_cost_four_evaluations_and_leave_a_file_and_a_report(server, files, prompt):
    entry = server.client.run(prompt())
    report = report_of(entry, "Few-Step Sampler")
    assert (report["steps"], report["evaluations"], report["forward_passes"], report["rows"]) == (
        4,
        4,
        4,
        4,
    )
    assert report_of(entry, "Accelerator Loader")["layers_lost"] == 0
    saved = [*outputs(entry, "latents"), *outputs(entry, "images")][0]
    assert (server.base / "output" / saved["subfolder"] / saved["filename"]).stat().st_size > 0


@pytest.mark.parametrize("pair", PAIRS_WITH_WAN21_LAYERS)
def test_a_pair_whose_low_noise_half_has_wan_21s_layers_runs_in_four_steps(server, files, pair):
    prompt = video_prompt(PAIRS_WITH_WAN21_LAYERS[pair], "wan22_i2v.safetensors")
    entry = server.client.run(prompt)
    sampled = report_of(entry, "Few-Step Sampler")
    assert (sampled["steps"], sampled["evaluations"], sampled["rows"]) == (4, 4, 4)
    assert sampled["accelerators"] == ["wan22-i2v-lightning-high", "wan22-i2v-lightning-low"]
    loaded = {
        report["accelerator"]: report
        for report in outputs(entry, "fewstep_report")
        if report["node"] == "Accelerator Loader"
    }
    assert [report["layers_lost"] for report in loaded.values()] == [0, 0]
    # Keys, values and a norm of each of four blocks, two layers and two norms of the embedding.
    assert loaded["wan22-i2v-lightning-low"]["layers_not_needed"] == 3 * 4 + 4
    assert loaded["wan22-i2v-lightning-high"]["layers_not_needed"] == 0
    assert "image branch" in loaded["wan22-i2v-lightning-low"]["evidence"][0]


def test_core_ksampler_at_the_same_sigmas_and_noise_gives_the_same_image_latent(server, files):
    ours = image_prompt()
    theirs = image_prompt()
    theirs["sample"] = core_sampler("lora", steps=4, seed=5, sampler_name="lcm")
    assert_latents_agree(server, ours, theirs)


def test_chained_core_samplers_give_the_same_video_latent(server, files):
    theirs = video_prompt()
    common = {
        "noise_seed": 5,
        "steps": 4,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "positive": ["text", 0],
        "negative": ["text", 0],
    }
    theirs["half"] = node(
        "KSamplerAdvanced",
        model=["high_lora", 0],
        latent_image=["size", 0],
        add_noise="enable",
        start_at_step=0,
        end_at_step=2,
        return_with_leftover_noise="enable",
        **common,
    )
    theirs["sample"] = node(
        "KSamplerAdvanced",
        model=["low_lora", 0],
        latent_image=["half", 0],
        add_noise="disable",
        start_at_step=2,
        end_at_step=4,
        return_with_leftover_noise="disable",
        **common,
    )
    assert_latents_agree(server, video_prompt(), theirs)


def assert_latents_agree(server, ours: dict, theirs: dict) -> None:
    """Compare the saved latents of two prompts: every number to 1e-5."""
    saved = []
    for prompt in (ours, theirs):
        prompt["file"] = node("SaveLatent", samples=["sample", 0], filename_prefix="compare")
        item = outputs(server.client.run(prompt), "latents")[0]
        path = server.base / "output" / item["subfolder"] / item["filename"]
        saved.append(load_file(path)["latent_tensor"].float())
    torch.testing.assert_close(saved[0], saved[1], rtol=0, atol=1e-5)


def test_the_same_seed_is_bit_identical_when_nothing_is_cached(server, files):
    first = latent_of(server.client.run(video_prompt()))
    server.client.forget()
    again = latent_of(server.client.run(video_prompt()))
    other = latent_of(server.client.run(video_prompt(seed=6)))
    assert first["sha256"] == again["sha256"] != other["sha256"]


def test_interrupting_leaves_the_next_run_untouched(server, files):
    expected = latent_of(server.client.run(image_prompt()))
    stopped_at = image_prompt(seed=77, model=["fault", 0])
    stopped_at["fault"] = node("TestFault", model=["lora", 0], kind="wait", evaluation=2, run=0)
    events = []

    def stop(event):
        events.append(event["type"])
        if event["type"] in ("progress", "progress_state") and "stopped" not in events:
            server.client.interrupt()
            events.append("stopped")

    with pytest.raises(JobFailed) as stopped:
        server.client.run(stopped_at, stop)
    assert stopped.value.is_interruption
    server.client.forget()
    assert latent_of(server.client.run(image_prompt()))["sha256"] == expected["sha256"]


def with_lora(name: str, accelerator: str = "auto") -> dict:
    prompt = image_prompt()
    prompt["lora"]["inputs"] |= {"lora_name": name, "accelerator": accelerator}
    return prompt


def with_experts(high: str, low: str) -> dict:
    prompt = video_prompt()
    prompt["high_lora"]["inputs"]["lora_name"], prompt["low_lora"]["inputs"]["lora_name"] = (
        high,
        low,
    )
    return prompt


def t2v_lora_on_i2v() -> dict:
    prompt = video_prompt()
    prompt["high"]["inputs"]["unet_name"] = "wan21_i2v.safetensors"
    return prompt


# name -> (the request, and in its answer: what was expected, what was found, what to do)
BAD_REQUESTS = {
    "truncated file": (
        lambda: with_lora("lcm_truncated.safetensors"),
        "a complete .safetensors file",
        "lcm_truncated.safetensors",
        "download it again",
    ),
    "empty file": (
        lambda: with_lora("lcm_empty.safetensors"),
        "Expected a .safetensors file",
        "is empty (0 bytes)",
        "download it again",
    ),
    "not safetensors": (
        lambda: with_lora("lcm_text.safetensors"),
        "a complete .safetensors file",
        "lcm_text.safetensors (26 bytes) is not",
        "download it again",
    ),
    "missing file": (
        lambda: with_lora("lcm-lora-sdv1-6.safetensors"),
        "is not in models/loras",
        "The nearest files there: lcm-lora-sdv1-5.safetensors",
        "Put the file there, or choose another",
    ),
    "another base": (
        lambda: with_lora("sdxl_lightning_4step_lora.safetensors"),
        "is for SDXL",
        "the connected model is SD 1.5",
        "Connect a model of that kind, or choose an accelerator made for this one",
    ),
    "no matching key": (
        lambda: with_lora("lcm_alien.safetensors", "lcm-lora-sd15"),
        "does not fit the connected model",
        "none of its 2 layers is in this model",
        "Choose the file made for this model",
    ),
    "more steps than its grid has": (
        lambda: image_prompt(steps=51),
        "can run at most 50 steps",
        "steps is 51",
        "Set steps to 2 to 8",
    ),
    "cfg from the API": (
        lambda: image_prompt(cfg=7),
        "distilled to run at cfg 1",
        "the request says 7",
        "Remove cfg",
    ),
    "no accelerator": (
        lambda: image_prompt(model=["model", 0]),
        "Accelerator Loader in front of it",
        "No accelerator is attached to model",
        "or use the core KSampler",
    ),
    "T2V LoRA on I2V model": (
        t2v_lora_on_i2v,
        "is for Wan 2.1/2.2 text-to-video",
        "the connected model is Wan 2.1 image-to-video",
        "Connect a model of that kind",
    ),
    "experts swapped": (
        lambda: with_experts(LOW, HIGH),
        "model takes Wan 2.2's high-noise expert",
        "it carries the low-noise expert's",
        "Swap the two models",
    ),
    "high-noise LoRA on the low-noise input": (
        lambda: with_experts(HIGH, HIGH),
        "model_low_noise takes Wan 2.2's low-noise expert",
        "it carries the high-noise expert's",
        "or load the other LoRA",
    ),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_answered_and_the_server_lives(server, files, name):
    make, *words = BAD_REQUESTS[name]
    with pytest.raises((JobFailed, PromptRefused)) as refused:
        server.client.run(make())
    message = str(refused.value)
    assert [word for word in words if word not in message] == [], message
    assert server.is_alive and server.client.get("/system_stats")
