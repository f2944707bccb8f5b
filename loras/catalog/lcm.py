"""Latent consistency models: any count of 2..8 re-noised steps.

Luo et al. 2023, arXiv 2310.04378 and 2311.05556.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, Parameterization, PublishedFile, Solver
from ..bases import Base
from ..schedules import ConsistencyGrid
from . import makes
from .licences import OPENRAIL, UNKNOWN, secondary

RENAME = (
    "Published as pytorch_lora_weights.safetensors like every LCM and TCD repository: rename it"
    " when you save it."
)
NO_EMBEDDING = (
    "Its guidance of 8 is fed in as an embedding (time_cond_proj), which the host has no place for:"
    " it runs without, unlike its authors' pipeline. The LCM-LoRA of this base has no such input."
)

lcm = partial(
    Accelerator,
    family="LCM",
    steps=(2, 3, 4, 5, 6, 7, 8),
    default_steps=4,
    schedule=ConsistencyGrid(original_steps=50),
    solver=Solver.LCM,
    parameterization=Parameterization.LCM,
    name_words=("lcm",),
    name_excludes=("animatelcm",),
    sources=(
        "github luosiallen/latent-consistency-model README",
        "github comfyanonymous/ComfyUI_examples lcm/README.md",
        "diffusers LCMScheduler and examples/consistency_distillation",
    ),
)
lcm_lora = partial(
    lcm,
    kind=Kind.LORA,
    licence=secondary(OPENRAIL),
    notes=(
        RENAME,
        (
            "CFG 1 to 2 is usable by the authors' account; locked to 1, where a step costs one"
            " evaluation."
        ),
    ),
)
full_lcm = partial(
    lcm,
    kind=Kind.MODEL,
    licence=UNKNOWN,
    embedded_guidance=8.0,
    notes=(NO_EMBEDDING,),
    unverified=("file name and licence", "quality without the guidance embedding"),
)

LORA_FILE = "pytorch_lora_weights.safetensors"

RECORDS = (
    lcm_lora(
        id="lcm-lora-sd15",
        bases=(Base.SD15,),
        files=(
            PublishedFile("latent-consistency/lcm-lora-sdv1-5", LORA_FILE, 64, make=makes.SD15),
        ),
    ),
    lcm_lora(
        id="lcm-lora-sdxl",
        bases=(Base.SDXL,),
        files=(PublishedFile("latent-consistency/lcm-lora-sdxl", LORA_FILE, 64, make=makes.SDXL),),
        unverified=("what 600 bytes of its header hold beside the keys",),
    ),
    lcm_lora(
        id="lcm-lora-ssd-1b",
        bases=(Base.SSD1B,),
        files=(
            PublishedFile("latent-consistency/lcm-lora-ssd-1b", LORA_FILE, 64, make=makes.SSD1B),
        ),
        unverified=("rank 64: inferred from the file's size",),
    ),
    full_lcm(
        id="lcm-dreamshaper-v7",
        bases=(Base.SD15,),
        steps=(1, 2, 3, 4, 5, 6, 7, 8),
        files=(PublishedFile("SimianLuo/LCM_Dreamshaper_v7", folder="checkpoints"),),
        name_words=("lcm", "dreamshaper"),
    ),
    full_lcm(
        id="lcm-sdxl",
        bases=(Base.SDXL,),
        files=(PublishedFile("latent-consistency/lcm-sdxl", folder="diffusion_models"),),
        unverified=(
            "file name and licence",
            "whether the host loads it",
            "quality without the guidance embedding",
        ),
    ),
    lcm(
        id="animatelcm-sd15",
        kind=Kind.MOTION_MODULE,
        bases=(Base.SD15,),
        licence=UNKNOWN,
        files=(PublishedFile("wangfuyun/AnimateLCM", folder="animatediff_models"),),
        name_words=("animatelcm",),
        name_excludes=(),
        notes=(
            (
                "It comes with a LoRA for the image layers, AnimateLCM_sd15_t2v_lora.safetensors,"
                " and both are needed: load that LoRA with core's Load LoRA, then this with the"
                " Motion Module Loader."
            ),
        ),
        unverified=("file names, licence and step counts", "header of the published file"),
    ),
)
