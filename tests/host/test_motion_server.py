"""The Motion Module Loader in a real server: small models for the ways of the graph, full width
once for the whole way to a file.
"""

from __future__ import annotations

import pytest
import torch

from comfy_client import JobFailed, PromptRefused, outputs
from prompts import core_sampler, few_steps, node, sd15
from small_models import RandomWeights, shapes_of

pytest.importorskip("diffusers")
from comfyui_fewstep.nodes.host.motion import host_patches_layers
from motion_files import FULL_WIDTHS, animatediff_keys, motion_adapter, save

pytestmark = pytest.mark.skipif(
    not host_patches_layers(), reason="this ComfyUI is too old for motion modules"
)
LIGHTNING = "animatediff_lightning_4step_comfyui.safetensors"


def clip_prompt(frames=4, batch=4, motion_name="small.lightning.4step.safetensors", seed=1):
    """A small clip, whose latent goes into the history."""
    return {
        **sd15(batch=batch),
        "motion": node("FewStepMotion", model=["model", 0], motion_name=motion_name, frames=frames),
        "clip": few_steps("motion", seed=seed),
        "out": node("TestLatentReport", samples=["clip", 0]),
        "words": node("PreviewAny", source=["motion", 1]),
    }


@pytest.fixture(scope="module")
def motion_folder(server):
    folder = server.base / "models" / "animatediff_models"
    save(
        folder / "small.lightning.4step.safetensors",
        animatediff_keys(motion_adapter(size=0.3).state_dict()),
    )
    return folder


def test_the_server_lists_the_folders_files(server, motion_folder):
    required = server.client.get("/object_info/FewStepMotion")["FewStepMotion"]["input"]["required"]
    assert "small.lightning.4step.safetensors" in str(required["motion_name"])


def test_a_clip_is_made_in_four_evaluations_and_reported(server, motion_folder):
    entry = server.client.run(clip_prompt())
    (latent,) = outputs(entry, "test_latent")
    assert latent["shape"] == [4, 4, 8, 8]
    reports = {report["node"]: report for report in outputs(entry, "fewstep_report")}
    assert reports["Motion Module Loader"]["accelerator"] == "animatediff-lightning-4step"
    assert reports["Few-Step Sampler"]["evaluations"] == 4


def still_prompt(clip):
    """The clip's model without motion, a branch of that graph in a graph of its own."""
    return {name: clip[name] for name in ("model", "text", "size")} | {
        "still": core_sampler("model", steps=2, seed=4),
        "still_out": node("TestLatentReport", samples=["still", 0]),
    }


def test_with_and_without_motion_in_one_graph(server, motion_folder):
    moving = clip_prompt(seed=8)
    together = server.client.run(moving | still_prompt(moving))["outputs"]
    server.client.forget()
    assert together["still_out"] == server.client.run(still_prompt(moving))["outputs"]["still_out"]
    server.client.forget()
    assert together["out"] == server.client.run(moving)["outputs"]["out"]


def test_an_interrupted_clip_leaves_the_branch_without_motion_as_it_was(server, motion_folder):
    moving = clip_prompt(seed=8)
    expected = server.client.run(still_prompt(moving))["outputs"]["still_out"]
    # From here on the server keeps one model, which the interrupted clip and the branch after it
    # share.
    server.client.forget()
    stopped_at, seen = clip_prompt(seed=8), []
    stopped_at["fault"] = node("TestFault", model=["motion", 0], kind="wait", evaluation=2, run=0)
    stopped_at["clip"]["inputs"]["model"] = ["fault", 0]

    def stop(event):
        steps = (
            event["data"]["nodes"].get("clip", {}).get("value", 0)
            if event["type"] == "progress_state"
            else 0
        )
        if 1 <= steps < 4 and not seen:
            seen.append(steps)
            server.client.interrupt()

    with pytest.raises(JobFailed) as stopped:
        server.client.run(stopped_at, stop)
    assert stopped.value.is_interruption and seen
    assert server.client.run(still_prompt(moving))["outputs"]["still_out"] == expected


def test_a_latent_of_another_length_fails_with_words_and_the_server_goes_on(server, motion_folder):
    with pytest.raises(JobFailed, match="should have 16 frames and the latent holds 4"):
        server.client.run(clip_prompt(frames=16))
    assert outputs(server.client.run(clip_prompt(seed=3)), "test_latent")


def test_a_file_that_is_not_there_is_refused_before_the_run(server, motion_folder):
    with pytest.raises(PromptRefused, match="is not in models/animatediff_models"):
        server.client.run(clip_prompt(motion_name="elsewhere.safetensors"))


def write_full_size_module(path):
    """A motion module of published size (453 million weights, float16) under AnimateDiff's key
    names.
    """
    with torch.device("meta"):
        shapes = shapes_of(motion_adapter(widths=FULL_WIDTHS))
    tensors = RandomWeights(5, torch.float16).fill(shapes)
    return save(path, animatediff_keys(tensors), torch.float16)


@pytest.mark.slow
def test_full_width_from_checkpoint_and_motion_module_to_an_animated_file(
    server, sd15_files, motion_folder
):
    write_full_size_module(motion_folder / LIGHTNING)
    entry = server.client.run(
        {
            "checkpoint": node("CheckpointLoaderSimple", ckpt_name=sd15_files["checkpoint"]),
            "positive": node(
                "CLIPTextEncode", clip=["checkpoint", 1], text="a paper boat on a stream"
            ),
            "motion": node(
                "FewStepMotion", model=["checkpoint", 0], motion_name=LIGHTNING, frames=4
            ),
            "size": node("EmptyLatentImage", width=64, height=64, batch_size=4),
            "clip": few_steps("motion", positive=["positive", 0], seed=1),
            "pictures": node("VAEDecode", samples=["clip", 0], vae=["checkpoint", 2]),
            "file": node(
                "SaveAnimatedWEBP",
                images=["pictures", 0],
                filename_prefix="motion",
                fps=8.0,
                lossless=False,
                quality=80,
                method="fastest",
            ),
        },
        timeout=1800,
    )
    reports = {report["node"]: report for report in outputs(entry, "fewstep_report")}
    assert reports["Few-Step Sampler"]["evaluations"] == 4
    assert reports["Motion Module Loader"]["accelerator"] == "animatediff-lightning-4step"
    (item,) = entry["outputs"]["file"]["images"]
    made = server.client.file(item)
    # A WebP file with an animation of four frames.
    assert made[:4] == b"RIFF" and made[8:12] == b"WEBP" and made.count(b"ANMF") == 4
