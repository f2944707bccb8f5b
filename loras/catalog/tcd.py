"""TCD: trajectory consistency distillation, stochastic by gamma.

Zheng et al. 2024, arXiv 2402.19159.
"""

from __future__ import annotations

from ..accelerator import Accelerator, Kind, PublishedFile, Solver
from ..bases import Base
from ..schedules import ConsistencyGrid
from . import makes
from .lcm import RENAME
from .licences import MIT, secondary

STEPS = (2, 3, 4, 8, 16, 20)


def tcd_lora(id: str, base: Base, file: PublishedFile, *unverified: str) -> Accelerator:
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
        files=(file,),
        name_words=("tcd",),
        sources=("github jabir-zheng/TCD README", "github JettHu/ComfyUI-TCD README"),
        notes=(RENAME,),
        unverified=unverified,
    )


FILE = "pytorch_lora_weights.safetensors"
HEADER = "key format and rank of the published file"

RECORDS = (
    tcd_lora("tcd-lora-sd15", Base.SD15, PublishedFile("h1t/TCD-SD15-LoRA", FILE), HEADER),
    tcd_lora(
        "tcd-lora-sdxl",
        Base.SDXL,
        PublishedFile("h1t/TCD-SDXL-LoRA", FILE, 64, make=makes.SDXL),
        "value of the alphas in the published file",
    ),
    tcd_lora(
        "tcd-lora-sd21",
        Base.SD21,
        PublishedFile("h1t/TCD-SD21-base-LoRA", FILE),
        HEADER,
        "file name",
    ),
)
