"""The shipped API workflows on small models: the same graph, smaller numbers, stand-ins for what
cannot be made small.

Model files are written under the very names a workflow asks for. What the host detects at full size
only is built small in the server (TestModel), text encoders become random conditioning
(TestConditioning), and where no small VAE exists the latent is reported (TestLatentReport) and
plain pictures are shown and saved in its place (EmptyImage).
"""

from __future__ import annotations

import copy
import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from more_models import SMALL, small_patcher
from small_loras import write_lora
from small_models import UNETS, load_model, unet_patcher, write_wan, write_wan_vae

Prompt = dict[str, dict[str, Any]]

SMALL_INPUTS = {"width": 64, "height": 64, "fps": 8}
FRAMES = 4
TEXT_ENCODERS = {"CLIPTextEncode", "TextEncodeQwenImageEditPlus"}
TEXT_LOADERS = {
    "CLIPLoader",
    "DualCLIPLoader",
    "LTXAVTextEncoderLoader",
    "CLIPVisionLoader",
    "CLIPVisionEncode",
}
MODEL_LOADERS = {"CheckpointLoaderSimple", "UNETLoader"}
DECODERS = {"VAEDecode", "VAEDecodeTiled"}
# What a sound is decoded with, which cannot be made small; a video may go without sound.
SOUND_DECODERS = {"LTXVAudioVAELoader", "LTXVAudioVAEDecode"}


@dataclass(frozen=True)
class Family:
    """How the workflows of one architecture are made small.

    lora_layout: the published one of its accelerators. has_files: its model and VAE are small files
    that the host loads.
    lengths: what becomes of a workflow's different clip lengths, the shortest first.
    """

    architecture: str
    text_width: int
    lora_layout: str
    has_files: bool = False
    lengths: tuple[int, ...] = (5,)

    def patcher(self, models: Path):
        if self.architecture in UNETS:
            return unet_patcher(self.architecture)
        if self.architecture in SMALL:
            return small_patcher(self.architecture)
        return load_model(
            write_wan(
                models / "diffusion_models" / f"small_{self.architecture}.safetensors",
                self.architecture,
            )
        )


SD15 = Family("sd15", 768, "kohya-diffusers")
SDXL = Family("sdxl", 2048, "kohya-diffusers")
WAN_T2V = Family("wan21_t2v", 4096, "native", has_files=True)
WAN21_I2V = Family("wan21_i2v", 4096, "native", has_files=True)
WAN22_I2V = Family("wan22_i2v", 4096, "native", has_files=True)
# Three latent frames, which is a block of Self Forcing, and where a clip is continued three more.
WAN_CAUSAL = Family("wan21_causal", 4096, "native", has_files=True, lengths=(9, 21))
# Three blocks of Self Forcing, for as many prompts.
WAN_TIMELINE = Family("wan21_causal", 4096, "native", has_files=True, lengths=(33,))
QWEN = Family("QwenImage", 64, "bare-peft")

# The ones that every test run takes; the others a run of everything, or one where
# FEWSTEP_ALL_WORKFLOWS is set.
QUICK = (
    "sd15_lcm",
    "animatediff_lightning",
    "sdxl_lightning",
    "sdxl_hyper_sd",
    "sdxl_negative",
    "wan21_t2v_lightx2v",
    "wan22_t2v_lightning",
    "wan22_i2v_lightning",
    "wan22_t2v_guided_start",
    "causal_forcing_stream",
)

# Workflow -> family. The demo is not here: it runs as it is shipped.
FAMILIES = {
    "sd15_lcm": SD15,
    "animatediff_lightning": SD15,
    "sdxl_lightning": SDXL,
    "sdxl_hyper_sd": SDXL,
    "sdxl_hyper_sd_1step": SDXL,
    "sdxl_dmd2": SDXL,
    "sdxl_turbo": SDXL,
    "sdxl_core_sampler": SDXL,
    "sdxl_guided_start": SDXL,
    "sdxl_negative": SDXL,
    "sdxl_step_skip": SDXL,
    "sdxl_step_budget": SDXL,
    "sdxl_compare": SDXL,
    "wan21_t2v_lightx2v": WAN_T2V,
    "wan21_i2v_lightx2v": WAN21_I2V,
    "wan21_t2v_step_skip": WAN_T2V,
    "wan22_t2v_lightning": WAN_T2V,
    "wan22_i2v_lightning": WAN22_I2V,
    "wan22_flf2v_lightning": WAN22_I2V,
    "wan22_t2v_guided_start": WAN_T2V,
    "wan22_i2v_guided_start": WAN22_I2V,
    "causal_forcing_stream": WAN_CAUSAL,
    "causal_forcing_i2v_stream": WAN_CAUSAL,
    "causal_forcing_continued": WAN_CAUSAL,
    "self_forcing_stream": WAN_CAUSAL,
    "self_forcing_timeline": WAN_TIMELINE,
    "flux1_dev_hyper_sd": Family("Flux", 64, "native"),
    "flux1_schnell": Family("FluxSchnell", 64, "native"),
    "flux2_klein": Family("Flux2", 64, "native"),
    "z_image_turbo": Family("ZImage", 64, "native"),
    "hunyuan15_t2v_lightx2v": Family("HunyuanVideo15", 64, "native"),
    # LTX-2 takes a text for each of its two signals, side by side.
    "ltx2_distilled": Family("LTXAV", 128, "native"),
    "qwen_image_lightning": QWEN,
    "qwen_image_edit_lightning": QWEN,
}


def write_files(prompt: Prompt, family: Family, models: Path) -> None:
    """Every model file this workflow names, small, under its own name."""
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if maker := MAKERS.get(name):
                maker(models, value, family)


def write_accelerator(models: Path, name: str, family: Family) -> None:
    if name != "none":
        shutil.copy(lora_of(models, family), models / "loras" / name)


@functools.cache
def lora_of(models: Path, family: Family) -> Path:
    """One LoRA for all workflows of a family: what it changes does not matter here."""
    path = models / f"{family.architecture}.safetensors"
    return write_lora(path, family.patcher(models), family.lora_layout, rank=4, alpha=4.0).path


def write_diffusion_model(models: Path, name: str, family: Family) -> None:
    if family.has_files:
        write_wan(models / "diffusion_models" / name, family.architecture)


def write_vae(models: Path, name: str, family: Family) -> None:
    write_wan_vae(models / "vae" / name)


def write_motion(models: Path, name: str, family: Family) -> None:
    from motion_files import animatediff_keys, motion_adapter, save

    save(
        models / "animatediff_models" / name,
        animatediff_keys(motion_adapter(size=0.3).state_dict()),
    )


MAKERS: dict[str, Callable[[Path, str, Family], None]] = {
    "lora_name": write_accelerator,
    "unet_name": write_diffusion_model,
    "vae_name": write_vae,
    "motion_name": write_motion,
}


def shrink(prompt: Prompt, family: Family) -> Prompt:
    """The same workflow for small models and small pictures."""
    small = copy.deepcopy(prompt)
    lengths = sorted(
        {node["inputs"]["length"] for node in small.values() if "length" in node["inputs"]}
    )
    starts = sorted(
        {
            node["inputs"]["start_seconds"]
            for node in small.values()
            if "start_seconds" in node["inputs"]
        }
    )
    is_video = any(node["class_type"] == "CreateVideo" for node in small.values())
    for id, node in list(small.items()):
        shrink_inputs(node["inputs"])
        if "length" in node["inputs"]:
            node["inputs"]["length"] = family.lengths[lengths.index(node["inputs"]["length"])]
        if "start_seconds" in node["inputs"]:
            # A block each: Self Forcing's begin at 0, 0.5625 and 1.3125 s.
            place = 1 + starts.index(node["inputs"]["start_seconds"])
            node["inputs"]["start_seconds"] = 0.5 * place
        if node["class_type"] in TEXT_ENCODERS:
            replace(node, "TestConditioning", width=family.text_width, length=16, seed=0)
        if node["class_type"] in MODEL_LOADERS and not family.has_files:
            replace(node, "TestModel", architecture=family.architecture, seed=0)
        elif node["class_type"] == "FluxKontextImageScale":  # to about a million pixels
            replace(
                node,
                "ImageScale",
                image=node["inputs"]["image"],
                upscale_method="area",
                width=64,
                height=64,
                crop="disabled",
            )
        elif node["class_type"] == "LTXVEmptyLatentAudio":
            replace(node, "TestAudioLatent")
        elif node["class_type"] in DECODERS and not family.has_files:
            small[f"{id}-latent"] = {
                "class_type": "TestLatentReport",
                "inputs": {"samples": node["inputs"]["samples"]},
            }
            # A colour of its own: what a comparison compares here is two colours and the samplers'
            # reports.
            replace(
                node,
                "EmptyImage",
                width=64,
                height=64,
                batch_size=FRAMES if is_video else 1,
                color=0x102030 * int(id),
            )
    drop(small, lambda node: node["class_type"] in TEXT_LOADERS | SOUND_DECODERS)
    # A TestModel has neither the text encoder nor the VAE of the checkpoint in whose place it is.
    models = {id for id, node in small.items() if node["class_type"] == "TestModel"}
    unlink(small, lambda source, output: source in models and output > 0)
    return small


def shrink_inputs(inputs: dict[str, Any]) -> None:
    for name, value in SMALL_INPUTS.items():
        if name in inputs:
            inputs[name] = value
    for name in ("frames", "batch_size"):
        if isinstance(inputs.get(name), int) and inputs[name] > 1:
            inputs[name] = FRAMES


def replace(node: dict[str, Any], class_type: str, **inputs: Any) -> None:
    node["class_type"], node["inputs"] = class_type, inputs


def drop(prompt: Prompt, unwanted: Callable[[dict[str, Any]], bool]) -> None:
    """Take nodes out, and the links to them; an input that loses its link is an optional one."""
    gone = {id for id, node in prompt.items() if unwanted(node)}
    for id in gone:
        del prompt[id]
    unlink(prompt, lambda source, _: source in gone)


def unlink(prompt: Prompt, unwanted: Callable[[str, int], bool]) -> None:
    """Take links out, by the id of the node and the output that they come from."""
    for node in prompt.values():
        links = {name: value for name, value in node["inputs"].items() if isinstance(value, list)}
        for name, (source, output) in links.items():
            if unwanted(source, output):
                del node["inputs"][name]
