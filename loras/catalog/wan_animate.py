"""Wan-Animate 2, distilled as a whole, and LoRA pairs of the community for Wan 2.2's experts."""

from __future__ import annotations

from ..accelerator import Accelerator, Expert, Kind, PublishedFile, Solver
from ..bases import Base
from ..schedules import ShiftedFlow
from .licences import APACHE, UNKNOWN

BOUNDARY = {Base.WAN_T2V: 0.875, Base.WAN22_I2V: 0.9}


def community(
    id: str, base: Base, repo: str, name: str, words: tuple[str, ...], note: str
) -> tuple[Accelerator, ...]:
    """A pair for the two experts, two steps each. name: of a file, without its expert."""
    return tuple(
        Accelerator(
            id=f"{id}-{expert.word}",
            partner=f"{id}-{expert.other.word}",
            family="Wan 2.2 community",
            kind=Kind.LORA,
            bases=(base,),
            width=5120,
            steps=(4,),
            schedule=ShiftedFlow(5.0),
            licence=APACHE,
            expert=expert,
            boundary=BOUNDARY[base],
            files=(PublishedFile(repo, f"{name}_{expert.word}_noise.safetensors"),),
            name_words=words,
            sources=(f"huggingface {repo}, as public lists of models have it",),
            notes=(note,),
            unverified=(
                "shift and solver: those of LightX2V, which it is named after, are taken",
                "rank and header of the published file",
            ),
        )
        for expert in Expert
    )


RECORDS = (
    Accelerator(
        id="wan-animate2-distill",
        family="Wan-Animate 2 distilled",
        kind=Kind.MODEL,
        bases=(Base.WAN_ANIMATE2,),
        width=5120,
        steps=(10,),
        schedule=ShiftedFlow(5.0),
        solver=Solver.LCM,
        licence=UNKNOWN,
        files=tuple(
            PublishedFile(
                "Comfy-Org/Wan-Animate-2",
                f"diffusion_models/wan_animate_2_distill_{kind}.safetensors",
                folder="diffusion_models",
            )
            for kind in ("int8_convrot", "bf16")
        ),
        name_words=("animate", "distill"),
        sources=(
            "comfyui-workflow-templates video_wan_animate2_distilled.json",
            "github ModelTC/LightX2V configs/wan22/wan_animate2_distill.json",
        ),
        unverified=("licence",),
    ),
    *community(
        "wan22-bernini-r-4step",
        Base.WAN_T2V,
        "rzgar/Bernini-R-LightX2V-4step-loras",
        "Bernini-R_LightX2V",
        ("bernini", "lightx2v"),
        "For Bernini-R, which ComfyUI loads as Wan 2.2 text-to-video.",
    ),
    *community(
        "wan22-i2v-2step",
        Base.WAN22_I2V,
        "rzgar/Wan2.2_I2V_LightX2V_2Step",
        "Wan2.2_I2V_LightX2V_2step",
        ("i2v", "lightx2v", "2step"),
        "Two steps for each expert, four in all.",
    ),
)
