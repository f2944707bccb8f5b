"""PCM: phased consistency, one file for each step count. Wang et al. 2024, arXiv 2405.18407.

The small-cfg files run without guidance, the normal-cfg ones with it. All but the "lcmlike" ones
follow the ODE: the LCM sampler is wrong for them.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, PublishedFile, Solver
from ..bases import Base
from ..schedules import ShiftedFlow, Trailing
from . import makes
from .licences import UNKNOWN

REPO = "wangfuyun/PCM_Weights"

pcm = partial(
    Accelerator,
    family="PCM",
    kind=Kind.LORA,
    schedule=Trailing(),
    licence=UNKNOWN,
    sources=("wangfuyun/PCM_Weights model card", "github G-U-N/Phased-Consistency-Model README"),
    unverified=("licence of the weights (the code is Apache-2.0)",),
)

# Folder and prefix of the files.
BASES = ((Base.SD15, "sd15"), (Base.SDXL, "sdxl"))
MAKES = {"sd15": makes.SD15, "sdxl": makes.SDXL}


def file_of(name: str, variant: str) -> tuple[PublishedFile]:
    path = f"{name}/pcm_{name}_{variant}_converted.safetensors"
    return (PublishedFile(REPO, path, 64, make=MAKES[name]),)


def records_of(base: Base, name: str) -> list[Accelerator]:
    small = [
        pcm(
            id=f"pcm-{name}-{n}step-smallcfg-lora",
            bases=(base,),
            steps=(n,),
            files=file_of(name, f"smallcfg_{n}step"),
            name_words=("pcm", "smallcfg"),
            notes=("CFG 1 to 2 by its card; locked to 1, where a step costs one evaluation.",),
        )
        for n in (2, 4, 8, 16)
    ]
    normal = [
        pcm(
            id=f"pcm-{name}-{n}step-normalcfg-lora",
            bases=(base,),
            steps=(n,),
            cfg=3.0,
            files=file_of(name, f"normalcfg_{n}step"),
            name_words=("pcm", "normalcfg"),
            notes=(
                (
                    "Distilled with guidance kept: CFG 2.5 to 3.5 at 4 steps, 3 to 6 at 8; it runs"
                    " at 3 and needs a negative."
                ),
            ),
        )
        for n in (4, 8, 16)
    ]
    stochastic = pcm(
        id=f"pcm-{name}-lcmlike-lora",
        bases=(base,),
        steps=(2, 4, 8),
        default_steps=4,
        solver=Solver.LCM,
        files=file_of(name, "lcmlike_lora"),
        name_words=("pcm", "lcmlike"),
        unverified=("exact timesteps: trailing ones are taken", "licence"),
    )
    return [*small, *normal, stochastic]


def sd3_record(steps: int, shift: int) -> Accelerator:
    return pcm(
        id=f"pcm-sd3-{steps}step-shift{shift}-lora",
        bases=(Base.SD3,),
        width=1536,
        steps=(steps,),
        schedule=ShiftedFlow(float(shift)),
        files=(PublishedFile(REPO, f"sd3/pcm_deterministic_{steps}step_shift{shift}.safetensors"),),
        name_words=("pcm", f"shift{shift}"),
        sources=("wangfuyun/PCM_Weights model card",),
        notes=("The shift is part of the file's name; SD3's own is 3.",),
        unverified=("key format, CFG, licence and file ending",),
    )


RECORDS = (
    *(record for base, name in BASES for record in records_of(base, name)),
    sd3_record(2, 1),
    sd3_record(4, 1),
    sd3_record(4, 3),
)
