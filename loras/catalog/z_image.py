"""Z-Image-Turbo and the distillation LoRAs for the undistilled Z-Image."""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, PublishedFile, TemplateWay
from ..bases import Base
from ..schedules import ShiftedFlow
from .licences import APACHE, secondary

FUN = "alibaba-pai/Z-Image-Fun-Lora-Distill"
SPLIT = "split_files/diffusion_models"

distill_lora = partial(
    Accelerator,
    family="Z-Image-Turbo",
    kind=Kind.LORA,
    bases=(Base.Z_IMAGE,),
    schedule=ShiftedFlow(3.0),
    strength=0.8,
    licence=secondary(APACHE),
    name_words=("distill",),
    name_excludes=("udcai",),
    sources=("file names seen in public repositories", "third-party bench of the files"),
    notes=("For Z-Image itself, not for Z-Image-Turbo. Strengths of 0.5 to 1 are in use.",),
    unverified=(
        "sampler and shift (the base's own 3 is taken)",
        "rank and header of the published file",
    ),
)

RECORDS = (
    Accelerator(
        id="z-image-turbo",
        family="Z-Image-Turbo",
        kind=Kind.MODEL,
        bases=(Base.Z_IMAGE,),
        steps=(8,),
        schedule=ShiftedFlow(3.0),
        licence=APACHE,
        files=(
            PublishedFile(
                "Comfy-Org/z_image_turbo",
                f"{SPLIT}/z_image_turbo_bf16.safetensors",
                folder="diffusion_models",
            ),
            PublishedFile(
                "Comfy-Org/z_image_turbo",
                f"{SPLIT}/z_image_turbo_int8_convrot.safetensors",
                folder="diffusion_models",
            ),
            PublishedFile(
                "drbaph/Z-Image-Turbo-FP8",
                "z_image_turbo_fp8_e4m3fn.safetensors",
                folder="diffusion_models",
            ),
        ),
        name_words=("turbo",),
        sources=(
            "github Tongyi-MAI/Z-Image README",
            "comfyui-workflow-templates image_z_image_turbo.json",
        ),
        notes=("diffusers counts 9 for these 8 evaluations.",),
        template_ways=(
            TemplateWay(sampler="res_multistep"),
            TemplateWay(steps=9, sampler="res_multistep"),
            TemplateWay(steps=4, sampler="res_multistep"),
            TemplateWay(steps=5, sampler="dpmpp_2m_sde", noise="beta, shift 3"),
            TemplateWay(steps=5, sampler="dpmpp_2m_sde", noise="beta57, shift 3"),
        ),
    ),
    distill_lora(
        id="z-image-fun-distill-8step-lora",
        steps=(8,),
        files=(
            PublishedFile(FUN, "Z-Image-Fun-Lora-Distill-8-Steps-2603-ComfyUI.safetensors"),
            PublishedFile(FUN, "Z-Image-Fun-Lora-Distill-8-Steps-2602-ComfyUI.safetensors"),
        ),
    ),
    distill_lora(
        id="z-image-fun-distill-4step-lora",
        steps=(4,),
        files=(
            PublishedFile(FUN, "Z-Image-Fun-Lora-Distill-4-Steps-2603-ComfyUI.safetensors"),
            PublishedFile(FUN, "Z-Image-Fun-Lora-Distill-4-Steps-2602-ComfyUI.safetensors"),
        ),
        unverified=(
            "strength: that of the 8-step files is taken",
            "sampler and shift (the base's own 3 is taken)",
            "rank",
        ),
    ),
    distill_lora(
        id="z-image-fun-distill-2step-lora",
        steps=(2,),
        strength=0.9,
        files=tuple(
            PublishedFile(FUN, f"Z-Image-Fun-Lora-Distill-2-Steps-2603{suffix}.safetensors")
            for suffix in ("-ComfyUI", "")
        ),
        sources=("huggingface alibaba-pai/Z-Image-Fun-Lora-Distill, card and discussion 12",),
        notes=(
            "For Z-Image itself, not for Z-Image-Turbo.",
            "Its card has the second step start between sigma 0.8 and 0.5; shift 3 gives 0.75.",
        ),
        unverified=(
            "strength, solver and shift: a user's, in discussion 12",
            "rank and header of the published file",
        ),
    ),
    distill_lora(
        id="z-image-fun-distill-8step-udcai-lora",
        steps=(8,),
        licence=APACHE,
        files=(
            PublishedFile(
                "UDCAI/Z-Image-Fun-Distill-ComfyUI",
                "Z-Image-Fun-Lora-Distill-8-Steps-2602_UDCAI_ComfyUI.safetensors",
            ),
        ),
        name_words=("udcai",),
        name_excludes=(),
        sources=("huggingface UDCAI/Z-Image-Fun-Distill-ComfyUI README",),
        notes=(
            "The 8-step file without its feed-forward layers, by a third party.",
            "Its card favours samplers that add noise, such as LCM; Euler is the original's.",
        ),
        unverified=(
            "sampler and shift (the base's own 3 is taken)",
            "rank and header of the published file",
        ),
    ),
)
