"""TCD: trajectory consistency distillation, stochastic by gamma.

Zheng et al. 2024, arXiv 2402.19159.
"""

from __future__ import annotations

from ..accelerator import Accelerator, Kind, PublishedFile, Solver
from ..bases import Base
from ..schedules import ConsistencyGrid
from .lcm import RENAME
from .licences import MIT, secondary

STEPS = (2, 3, 4, 8, 16, 20)


def tcd_lora(id: str, base: Base, repo: str) -> Accelerator:
    return Accelerator(
        id=id,
        family="TCD",
        kind=Kind.LORA,
        bases=(base,),
        steps=STEPS,
        default_steps=4,
        schedule=ConsistencyGrid(original_steps=50),
        solver=Solver.TCD,
        # The authors' default; higher where there are more steps, 0 never re-noises, 1 is LCM-like.
        gamma={steps: 0.3 for steps in STEPS},
        licence=secondary(MIT),
        files=(PublishedFile(repo, "pytorch_lora_weights.safetensors"),),
        name_words=("tcd",),
        sources=("github jabir-zheng/TCD README", "github JettHu/ComfyUI-TCD README"),
        notes=(RENAME,),
        unverified=(
            "key format and rank of the published file",
            *(("file name",) if base is Base.SD21 else ()),
        ),
    )


RECORDS = (
    tcd_lora("tcd-lora-sd15", Base.SD15, "h1t/TCD-SD15-LoRA"),
    tcd_lora("tcd-lora-sdxl", Base.SDXL, "h1t/TCD-SDXL-LoRA"),
    tcd_lora("tcd-lora-sd21", Base.SD21, "h1t/TCD-SD21-base-LoRA"),
)
