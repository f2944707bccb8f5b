"""LTX-Video, LTX-2, 2.3 and 2.5 distilled, whole and as LoRAs, on Lightricks' own lists.

The list of eight is a linear stretch from 1 to 0.975 and a quadratic one to 0. LTX-2's refining
pass is its last three, so denoise 0.38 runs it.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, PublishedFile, Solver, TemplateWay
from ..bases import Base
from ..schedules import LiteralSigmas
from . import makes
from .licences import LTX, UNKNOWN

EIGHT = LiteralSigmas(((1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875),))
# configs/ltxv-*-0.9.8-distilled.yaml: the first pass of seven and the second, on the enlarged
# latent, of three.
TWO_PASSES = LiteralSigmas(
    ((1.0, 0.9937, 0.9875, 0.9812, 0.975, 0.9094, 0.725), (0.9094, 0.725, 0.4219))
)
SECOND_PASS = (
    "Steps 3 is the second pass of the published pipeline: it starts at sigma 0.9094 on an enlarged"
    " latent."
)
REFINE = (
    "denoise 0.38 runs the last three steps, the published refining pass (0.909375, 0.725,"
    " 0.421875)."
)

# Where the official templates start that pass since 2.3.
REFINE_FROM_085 = "sigmas 0.85, 0.725, 0.4219"

ltx = partial(
    Accelerator, family="LTX distilled", name_words=("distilled",), name_excludes=("lora",)
)
video = partial(
    ltx,
    kind=Kind.MODEL,
    bases=(Base.LTXV,),
    licence=UNKNOWN,
    sources=("github Lightricks/LTX-Video configs",),
)
two_passes = partial(
    video,
    steps=(3, 7),
    default_steps=7,
    schedule=TWO_PASSES,
    notes=(SECOND_PASS,),
    unverified=("licence",),
)
audio_video = partial(
    ltx,
    bases=(Base.LTXAV,),
    steps=(8,),
    schedule=EIGHT,
    licence=LTX,
    notes=(REFINE,),
    sources=(
        "github Lightricks/LTX-2 README and packages",
        "comfyui-workflow-templates video_ltx2_*.json",
    ),
)
# github Lightricks/LTX-2, ltx_pipelines/distilled.py: ANCESTRAL_SAMPLER_SINCE_VERSION is (2, 5),
# ANCESTRAL_ETA 1, which is the host's own.
audio_video_25 = partial(
    audio_video,
    solver=Solver.EULER_ANCESTRAL,
    sources=(
        "github Lightricks/LTX-2 packages/ltx-pipelines/src/ltx_pipelines/distilled.py",
        "comfyui-workflow-templates video_ltx2_5_*.json",
    ),
)
ANCESTRAL = (
    "Re-noised at every step (Euler ancestral, eta 1), unlike LTX-2 and 2.3. Lightricks' first code"
    " left the refining pass deterministic; its newer code and the official templates do not."
)
lora = partial(
    audio_video,
    kind=Kind.LORA,
    name_excludes=(),
    notes=(REFINE, "LoRAs of 2, 2.3 and 2.5 are not interchangeable."),
    unverified=("header of the published file",),
)
checkpoint = partial(PublishedFile, folder="checkpoints")

RECORDS = (
    video(
        id="ltxv-2b-096-distilled",
        width=2048,
        steps=(8,),
        schedule=EIGHT,
        solver=Solver.LCM,
        files=(checkpoint("Lightricks/LTX-Video", "ltxv-2b-0.9.6-distilled-04-25.safetensors"),),
        name_words=("distilled", "2b", "6"),
        notes=("Re-noised at every step (stochastic_sampling of its config).",),
        unverified=("licence", "sigma list: that of the later releases is taken"),
    ),
    two_passes(
        id="ltxv-13b-098-distilled",
        width=4096,
        files=(checkpoint("Lightricks/LTX-Video", "ltxv-13b-0.9.8-distilled.safetensors"),),
        name_words=("distilled", "13b"),
    ),
    two_passes(
        id="ltxv-2b-098-distilled",
        width=2048,
        files=(checkpoint("Lightricks/LTX-Video", "ltxv-2b-0.9.8-distilled.safetensors"),),
        name_words=("distilled", "2b", "8"),
    ),
    audio_video(
        id="ltx2-19b-distilled",
        kind=Kind.MODEL,
        template_ways=(
            TemplateWay(sampler="euler_ancestral"),
            TemplateWay(sampler="gradient_estimation"),
        ),
        files=(
            checkpoint("Lightricks/LTX-2", "ltx-2-19b-distilled.safetensors"),
            checkpoint("Lightricks/LTX-2", "ltx-2-19b-distilled-fp8.safetensors"),
            PublishedFile(
                "Kijai/LTXV2_comfy",
                "diffusion_models/ltx-2-19b-distilled_transformer_only_bf16.safetensors",
                folder="diffusion_models",
            ),
        ),
        name_words=("distilled", "19b"),
    ),
    audio_video(
        id="ltx23-22b-distilled",
        kind=Kind.MODEL,
        template_ways=(
            TemplateWay(sampler="euler_ancestral"),
            TemplateWay(sampler="euler_ancestral", noise="linear_quadratic, the model's own shift"),
        ),
        files=(
            checkpoint("Lightricks/LTX-2.3", "ltx-2.3-22b-distilled.safetensors"),
            checkpoint("Lightricks/LTX-2.3", "ltx-2.3-22b-distilled-1.1.safetensors"),
            checkpoint("Lightricks/LTX-2.3-fp8", "ltx-2.3-22b-distilled-fp8.safetensors"),
        ),
        name_words=("distilled", "22b", "3"),
    ),
    audio_video_25(
        id="ltx25-22b-distilled",
        kind=Kind.MODEL,
        notes=(REFINE, ANCESTRAL),
        template_ways=(TemplateWay(steps=3, noise=REFINE_FROM_085),),
        files=tuple(
            PublishedFile(
                "Lightricks/LTX-2.5",
                f"diffusion_models/ltx-2.5-22b-distilled-transformer-{kind}.safetensors",
                folder="diffusion_models",
            )
            for kind in ("bf16", "comfy-int8-convrot")
        ),
        name_words=("distilled", "22b", "5"),
    ),
    lora(
        id="ltx2-19b-distilled-lora",
        template_ways=(
            TemplateWay(sampler="euler_ancestral"),
            TemplateWay(sampler="gradient_estimation"),
            TemplateWay(steps=12, sampler="euler_ancestral", noise="LTXVScheduler"),
        ),
        files=(
            PublishedFile(
                "Lightricks/LTX-2", "ltx-2-19b-distilled-lora-384.safetensors", 384, make=makes.LTX2
            ),
        ),
        unverified=("header: it was rebuilt from the model, and comes near the published size",),
        name_words=("distilled", "19b"),
        notes=(
            REFINE,
            "0.6 (ComfyUI-LTXVideo) and 0.8 (the authors' Python docs) are also in use.",
        ),
    ),
    lora(
        id="ltx23-22b-distilled-lora",
        strength=0.5,
        template_ways=(
            TemplateWay(sampler="euler_ancestral_cfg_pp"),
            TemplateWay(steps=3, sampler="euler_cfg_pp", noise=REFINE_FROM_085),
            TemplateWay(steps=3, noise=REFINE_FROM_085),
        ),
        files=(
            *(
                PublishedFile(
                    "Lightricks/LTX-2.3",
                    f"ltx-2.3-22b-distilled-lora-384{version}.safetensors",
                    384,
                    make=makes.LTX23,
                )
                for version in ("", "-1.1")
            ),
            PublishedFile(
                "Comfy-Org/ltx-2.3",
                "split_files/loras/ltx_2.3_22b_distilled_1.1_lora_dynamic_fro09_avg_rank_111_bf16.safetensors",
            ),
        ),
        name_words=("distilled", "22b", "3"),
        unverified=(
            "what 21,872 bytes of the header hold beside the keys",
            "header of the file with dynamic ranks",
        ),
    ),
    lora(
        id="ltx25-22b-distilled-lora",
        strength=0.5,
        solver=Solver.EULER_ANCESTRAL,
        notes=(REFINE, ANCESTRAL, "LoRAs of 2, 2.3 and 2.5 are not interchangeable."),
        sources=audio_video_25.keywords["sources"],
        files=(
            PublishedFile(
                "Lightricks/LTX-2.5", "loras/ltx-2.5-22b-distilled-lora-450-bf16.safetensors", 450
            ),
        ),
        name_words=("distilled", "22b", "5"),
    ),
)
