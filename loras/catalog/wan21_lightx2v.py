"""LightX2V step- and guidance-distilled Wan 2.1 14B, LoRA or whole: four Euler steps at shift 5.

The T2V LoRA is also a favourite on Wan 2.2's experts, at other strengths: wan22_lightning has that
recipe.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, Make, PublishedFile
from ..bases import Base
from ..schedules import ShiftedFlow
from . import makes
from .licences import APACHE

KIJAI = "Kijai/WanVideo_comfy"
MODELS = "lightx2v/Wan2.1-Distill-Models"

lightx2v = partial(
    Accelerator,
    family="LightX2V (Wan 2.1)",
    width=5120,
    steps=(4,),
    schedule=ShiftedFlow(shift=5.0),
    licence=APACHE,
    sources=("github ModelTC/LightX2V configs/ and lora adapter code",),
)
lightx2v_lora = partial(lightx2v, kind=Kind.LORA)
lightx2v_model = partial(
    lightx2v,
    kind=Kind.MODEL,
    name_words=("lightx2v", "4step"),
    name_excludes=("high", "low"),
    unverified=("that the host loads the files without _comfyui in their name",),
)


def kijai(folder_name: str, rank: int | None, make: Make) -> PublishedFile:
    """His extracts carry no alpha, so it is their rank."""
    return PublishedFile(KIJAI, f"Lightx2v/{folder_name}.safetensors", rank, make=make)


T2V_FILES = (
    PublishedFile(
        "lightx2v/Wan2.1-T2V-14B-StepDistill-CfgDistill-Lightx2v",
        "loras/Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors",
        64,
        make=makes.WAN_T2V,
    ),
    PublishedFile(
        "lightx2v/Wan2.1-Distill-Loras",
        "wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors",
        64,
        make=makes.NATIVE_NAMES,
    ),
    PublishedFile(
        KIJAI,
        "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors",
        32,
        make=makes.KIJAI_T2V_OLDER,
    ),
    *(
        kijai(
            f"lightx2v_T2V_14B_cfg_step_distill_v2_lora_rank{rank}_bf16",
            rank,
            makes.KIJAI_T2V if rank == 64 else makes.NATIVE_NAMES,
        )
        for rank in (16, 32, 64, 128, 256)
    ),
    kijai(
        "lightx2v_14B_T2V_cfg_step_distill_lora_adaptive_rank_quantile_0.15_bf16",
        None,
        makes.NATIVE_NAMES,
    ),
)

# One file, byte for byte, of Wan 2.1's LoRA and of Wan 2.2's low-noise expert.
I2V_BYTES = 739_472_104

I2V_FILES = (
    *(
        PublishedFile(
            f"lightx2v/Wan2.1-I2V-14B-{size}-StepDistill-CfgDistill-Lightx2v",
            "loras/Wan21_I2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors",
            64,
            make=makes.WAN_I2V,
        )
        for size in ("480P", "720P")
    ),
    PublishedFile(
        "lightx2v/Wan2.1-Distill-Loras",
        "wan2.1_i2v_lora_rank64_lightx2v_4step.safetensors",
        64,
        size=I2V_BYTES,
        make=makes.WAN_I2V,
    ),
    *(
        kijai(
            f"lightx2v_I2V_14B_480p_cfg_step_distill_rank{rank}_bf16",
            rank,
            makes.KIJAI_I2V if rank == 64 else makes.NATIVE_NAMES,
        )
        for rank in (4, 8, 16, 32, 64, 128, 256)
    ),
)


def model_files(*names: str) -> tuple[PublishedFile, ...]:
    return tuple(
        PublishedFile(MODELS, f"{name}.safetensors", folder="diffusion_models") for name in names
    )


RECORDS = (
    lightx2v_lora(
        id="wan21-t2v-lightx2v-4step",
        bases=(Base.WAN_T2V,),
        files=T2V_FILES,
        name_words=("lightx2v", "t2v"),
        notes=(
            (
                "On Wan 2.2 the same file runs at 3.0 (high-noise) and 1.0 (low-noise): choose"
                " wan22-t2v-wan21-lora-high and -low."
            ),
        ),
        unverified=("whether Kijai's v2 files of rank 16 and 32 exist",),
    ),
    lightx2v_lora(
        id="wan21-i2v-lightx2v-4step",
        bases=(Base.WAN21_I2V,),
        files=I2V_FILES,
        name_words=("lightx2v", "i2v"),
        notes=(
            (
                "On Wan 2.2 image-to-video its image branch is not needed: choose"
                " wan22-i2v-wan21-lora-high and -low."
            ),
        ),
        unverified=(
            "whether Kijai's file of rank 8 exists",
            "whether the 720P repository's file is the 480P one",
        ),
    ),
    lightx2v_model(
        id="wan21-t2v-lightx2v-4step-model",
        bases=(Base.WAN_T2V,),
        files=model_files(
            "wan2.1_t2v_14b_lightx2v_4step", "wan2.1_t2v_14b_scaled_fp8_e4m3_lightx2v_4step_comfyui"
        ),
    ),
    lightx2v_model(
        id="wan21-i2v-lightx2v-4step-model",
        bases=(Base.WAN21_I2V,),
        files=model_files(
            *(
                name
                for size in ("480p", "720p")
                for name in (
                    f"wan2.1_i2v_{size}_lightx2v_4step",
                    f"wan2.1_i2v_{size}_scaled_fp8_e4m3_lightx2v_4step_comfyui",
                )
            )
        ),
    ),
)
