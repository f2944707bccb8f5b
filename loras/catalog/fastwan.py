"""FastWan: sparse distillation by FastVideo, three re-noised steps; and the Wan 2.2 5B Turbo.

The three steps are at 1000, 757 and 522, unshifted.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, PublishedFile, Solver
from ..bases import Base
from ..schedules import LiteralSigmas, ShiftedFlow
from . import makes
from .licences import APACHE, UNKNOWN

KIJAI = "Kijai/WanVideo_comfy"
FASTVIDEO = "github hao-ai-lab/FastVideo configs and docs"

fastwan = partial(
    Accelerator,
    family="FastWan",
    steps=(3,),
    # dmd_denoising_steps of its configs, in thousandths.
    schedule=LiteralSigmas(((1.0, 0.757, 0.522),)),
    solver=Solver.LCM,
    licence=APACHE,
    name_words=("fastwan|fastwanfullattn",),
    sources=(FASTVIDEO,),
)
model = partial(fastwan, kind=Kind.MODEL, unverified=("file name in the host",))
lora = partial(
    fastwan,
    kind=Kind.LORA,
    sources=(FASTVIDEO, "github kijai/ComfyUI-WanVideoWrapper"),
)
turbo = partial(
    Accelerator,
    family="FastWan",
    bases=(Base.WAN22_TI2V,),
    width=3072,
    steps=(4,),
    schedule=ShiftedFlow(5.0),
    licence=UNKNOWN,
    name_words=("turbo",),
    sources=("github kijai/ComfyUI-WanVideoWrapper",),
    unverified=("trained list, sampler and licence", "header of the published file"),
)


def whole(
    repo: str, path: str = "", caution: str = "diffusers folder: convert it"
) -> tuple[PublishedFile]:
    return (PublishedFile(repo, path, folder="diffusion_models", caution=caution),)


RECORDS = (
    model(
        id="fastwan21-1-3b",
        bases=(Base.WAN_T2V,),
        width=1536,
        files=whole("FastVideo/FastWan2.1-T2V-1.3B-Diffusers"),
    ),
    model(
        id="fastwan21-14b",
        bases=(Base.WAN_T2V,),
        width=5120,
        files=whole("FastVideo/FastWan2.1-T2V-14B-480P-Diffusers"),
        unverified=("exact repository, and file name in the host",),
    ),
    model(
        id="fastwan22-5b",
        bases=(Base.WAN22_TI2V,),
        width=3072,
        files=whole("FastVideo/FastWan2.2-TI2V-5B-FullAttn-Diffusers"),
    ),
    lora(
        id="fastwan22-5b-lora",
        bases=(Base.WAN22_TI2V,),
        width=3072,
        files=(
            PublishedFile(
                KIJAI,
                "FastWan/Wan2_2_5B_FastWanFullAttn_lora_rank_128_bf16.safetensors",
                128,
                size=660_874_456,
                make=makes.KIJAI_5B,
            ),
        ),
    ),
    lora(
        id="fastwan21-14b-lora",
        bases=(Base.WAN_T2V,),
        width=5120,
        files=(
            PublishedFile(
                KIJAI,
                "FastWan/FastWan_T2V_14B_480p_lora_rank_128_bf16.safetensors",
                128,
                make=makes.NATIVE_NAMES,
            ),
        ),
        unverified=("alpha and header",),
    ),
    turbo(
        id="wan22-5b-turbo-lora",
        kind=Kind.LORA,
        files=(
            PublishedFile(
                KIJAI, "LoRAs/Wan22-Turbo/Wan22_TI2V_5B_Turbo_lora_rank_64_fp16.safetensors", 64
            ),
        ),
        name_words=("turbo", "5b|ti2v"),
    ),
    turbo(
        id="wan22-5b-turbo",
        kind=Kind.MODEL,
        files=whole(KIJAI, "Wan2_2-TI2V-5B-Turbo_fp16.safetensors", caution=""),
        unverified=("path, licence and shift",),
    ),
)
