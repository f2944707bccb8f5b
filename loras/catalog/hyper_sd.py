"""Hyper-SD: trajectory-segmented consistency distillation with human feedback.

Ren et al. 2024, arXiv 2404.13686.

The 2, 4 and 8-step files follow the ODE. The "1step" file is a unified consistency model for 1..8
TCD steps. The "CFG" files keep guidance: running them at CFG 1 is as wrong as running the others at
7.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, Licence, PublishedFile, Solver
from ..bases import Base
from ..schedules import ConsistencyGrid, FirstTimesteps, FluxFlow, ShiftedFlow, Trailing
from . import makes
from .licences import FLUX1_DEV, UNKNOWN, secondary

REPO = "ByteDance/Hyper-SD"
LICENCE = Licence(
    "ByteDance Hyper-SD OpenRAIL-style licence",
    True,
    "use restrictions; an older card says openrail++",
)
CARD = "ByteDance/Hyper-SD model card"
NEWER_CARD = "third-party copies of the newer ByteDance/Hyper-SD card"
# Of the sizes of the whole family, about 269, 787, 472 and 1388 MB, each is that of one header.
SIZE_ALONE = "rank and header: those of the 8-step file, of about the same size, are taken"
F32_OR_F16 = "that it is rank 64 in F32: rank 128 in F16 would have the same size"
KEEPS_GUIDANCE = (
    "Distilled with guidance kept: the card gives CFG 5 to 8, so it runs at 5 and needs a negative."
)

hyper = partial(
    Accelerator,
    family="Hyper-SD",
    kind=Kind.LORA,
    licence=LICENCE,
    name_words=("hyper",),
    name_excludes=("cfg", "lightning"),
    sources=(CARD,),
)

# File-name stem and catalogue prefix of each base.
BASES = ((Base.SD15, "Hyper-SD15", "hyper-sd15"), (Base.SDXL, "Hyper-SDXL", "hyper-sdxl"))
MAKES = {Base.SD15: makes.SD15_F32, Base.SDXL: makes.SDXL_F32}
EIGHT_STEPS = "Hyper-SDXL-8steps-lora"


def lora_file(base: Base, name: str) -> PublishedFile:
    return PublishedFile(REPO, f"{name}.safetensors", 64, make=MAKES[base])


def not_confirmed(base: Base, name: str) -> tuple[str, ...]:
    """Every file for SD 1.5 has one published size; of those for SDXL one is known to the byte."""
    if base is Base.SD15:
        return ()
    return (F32_OR_F16,) if name == EIGHT_STEPS else (SIZE_ALONE,)


def unified(base: Base, stem: str, prefix: str) -> Accelerator:
    """One LoRA for any count of 1 to 8 steps."""
    return hyper(
        id=f"{prefix}-1step-lora",
        bases=(base,),
        steps=tuple(range(1, 9)),
        schedule=ConsistencyGrid(original_steps=50),
        solver=Solver.TCD,
        # The card: eta 1 for one step, lower for more detail at more. 0.3 is TCD's own default
        # (arXiv 2402.19159).
        gamma={n: 1.0 if n == 1 else 0.3 for n in range(1, 9)},
        files=(lora_file(base, f"{stem}-1step-lora"),),
        unverified=(
            *not_confirmed(base, f"{stem}-1step-lora"),
            "gamma above one step: the card says lower for more detail and names no value",
        ),
    )


def records_of(base: Base, stem: str, prefix: str) -> list[Accelerator]:
    fixed = [
        hyper(
            id=f"{prefix}-{n}step-lora",
            bases=(base,),
            steps=(n,),
            schedule=Trailing(),
            files=(lora_file(base, f"{stem}-{n}steps-lora"),),
            unverified=not_confirmed(base, f"{stem}-{n}steps-lora"),
        )
        for n in (2, 4, 8)
    ]
    guided = [
        hyper(
            id=f"{prefix}-{n}step-cfg-lora",
            bases=(base,),
            steps=(n,),
            schedule=Trailing(),
            cfg=5.0,
            files=(lora_file(base, f"{stem}-{n}steps-CFG-lora"),),
            unverified=not_confirmed(base, f"{stem}-{n}steps-CFG-lora"),
            name_words=("hyper", "cfg"),
            name_excludes=(),
            notes=(KEEPS_GUIDANCE,),
            sources=(CARD, NEWER_CARD),
        )
        for n in (8, 12)
    ]
    return [unified(base, stem, prefix), *fixed, *guided]


ONE_STEP_UNET = hyper(
    id="hyper-sdxl-1step-unet",
    kind=Kind.MODEL,
    bases=(Base.SDXL,),
    steps=(1,),
    schedule=FirstTimesteps((800,)),
    solver=Solver.LCM,
    files=(
        PublishedFile(REPO, "Hyper-SDXL-1step-Unet.safetensors", folder="diffusion_models"),
        PublishedFile(REPO, "Hyper-SDXL-1step-Unet-Comfyui.fp16.safetensors", folder="checkpoints"),
    ),
    sources=(CARD, "github fofr/ComfyUI-HyperSDXL1StepUnetScheduler"),
    notes=(
        "Starts at timestep 800, sigma 5.111, not at the highest noise; no stock scheduler does.",
    ),
)

SD3 = [
    hyper(
        id=f"hyper-sd3-{n}step-cfg-lora",
        bases=(Base.SD3,),
        width=1536,
        steps=(n,),
        schedule=ShiftedFlow(3.0),
        cfg=5.0,
        strength=0.125,
        licence=UNKNOWN,
        files=(
            PublishedFile(REPO, f"Hyper-SD3-{n}steps-CFG-lora.safetensors", 64, make=makes.SD3),
        ),
        name_words=("hyper", "sd3"),
        name_excludes=(),
        sources=(NEWER_CARD,),
        notes=(
            (
                "For SD3 Medium, not 3.5. Distilled with guidance kept: it runs at 5 and needs a"
                " negative."
            ),
        ),
        unverified=("shift (3, the base's own, is taken), CFG range and licence",),
    )
    for n in (4, 8, 16)
]

FLUX = [
    hyper(
        id=f"hyper-flux-{n}step-lora",
        bases=(Base.FLUX,),
        steps=(n,),
        schedule=FluxFlow(),
        embedded_guidance=3.5,
        strength=0.125,
        licence=secondary(FLUX1_DEV),
        files=(
            PublishedFile(
                REPO, f"Hyper-FLUX.1-dev-{n}steps-lora.safetensors", 64, make=makes.FLUX_F32
            ),
        ),
        name_words=("hyper", "flux"),
        sources=(NEWER_CARD,),
        notes=("Released at strength 0.125 (0.12 to 0.125); at 1 it destroys the picture.",),
        unverified=(
            *((SIZE_ALONE,) if n != 8 else ()),
            "shift: FLUX's own, as the card's pipeline has it",
        ),
    )
    for n in (8, 16)
]

RECORDS = (
    *(record for base, stem, prefix in BASES for record in records_of(base, stem, prefix)),
    ONE_STEP_UNET,
    *SD3,
    *FLUX,
)
