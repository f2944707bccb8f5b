"""SDXL-Lightning: progressive adversarial distillation, one file for each step count.

Lin et al. 2024, arXiv 2402.13929.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, Parameterization, PublishedFile
from ..bases import Base
from ..schedules import Trailing
from . import makes
from .licences import OPENRAIL

REPO = "ByteDance/SDXL-Lightning"

lightning = partial(
    Accelerator,
    family="SDXL-Lightning",
    bases=(Base.SDXL,),
    schedule=Trailing(),
    licence=OPENRAIL,
    name_words=("lightning",),
    sources=("ByteDance/SDXL-Lightning model card",),
)


def lightning_lora(steps: int) -> Accelerator:
    return lightning(
        id=f"sdxl-lightning-{steps}step-lora",
        kind=Kind.LORA,
        steps=(steps,),
        files=(
            PublishedFile(
                REPO, f"sdxl_lightning_{steps}step_lora.safetensors", 64, make=makes.SDXL
            ),
        ),
        name_words=("lightning", "sdxl|xl|lora"),
        notes=(
            (
                "The card prefers the full distilled model on the SDXL base itself; the LoRA is for"
                " other SDXL checkpoints."
            ),
        ),
        unverified=(
            "value of the alphas in the published file",
            *(("rank and header: those of the 4-step file are taken",) if steps != 4 else ()),
        ),
    )


def lightning_model(steps: int) -> Accelerator:
    return lightning(
        id=f"sdxl-lightning-{steps}step",
        kind=Kind.MODEL,
        steps=(steps,),
        files=(
            PublishedFile(REPO, f"sdxl_lightning_{steps}step.safetensors", folder="checkpoints"),
            PublishedFile(
                REPO, f"sdxl_lightning_{steps}step_unet.safetensors", folder="diffusion_models"
            ),
        ),
        name_excludes=("lora", "x0"),
    )


RECORDS = (
    *(lightning_lora(steps) for steps in (2, 4, 8)),
    *(lightning_model(steps) for steps in (2, 4, 8)),
    lightning(
        id="sdxl-lightning-1step-x0",
        kind=Kind.MODEL,
        steps=(1,),
        parameterization=Parameterization.X0,
        files=(
            PublishedFile(REPO, "sdxl_lightning_1step_x0.safetensors", folder="checkpoints"),
            PublishedFile(
                REPO, "sdxl_lightning_1step_unet_x0.safetensors", folder="diffusion_models"
            ),
        ),
        notes=(
            (
                "It predicts the picture, not the noise. Experimental by its card; there is no"
                " 1-step LoRA."
            ),
        ),
    ),
)
