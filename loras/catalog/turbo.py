"""Adversarially distilled Stable Diffusion: SD-Turbo, SDXL-Turbo, SD 3.5 Turbo, TurboX.

SD-Turbo and SDXL-Turbo are ADD, SD 3.5 Turbo is LADD: Sauer et al. 2023, arXiv 2311.17042, and
2024, arXiv 2403.12015.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, Licence, PublishedFile, Solver
from ..bases import Base
from ..schedules import FirstTimesteps, ShiftedFlow
from .licences import UNKNOWN

STABILITY = "github Stability-AI/generative-models scripts/demo/turbo.py"
HOST = "ComfyUI 0.30.0 SDTurboScheduler"
# Every hundredth timestep, counted down; one to four steps take the first so many. The rest is
# where img2img begins.
HUNDREDTHS = FirstTimesteps(tuple(range(999, 0, -100)))

turbo = partial(
    Accelerator, family="Turbo", kind=Kind.MODEL, name_words=("turbo",), sources=(STABILITY, HOST)
)
add = partial(
    turbo, steps=(1, 2, 3, 4), default_steps=4, schedule=HUNDREDTHS, solver=Solver.EULER_ANCESTRAL
)
sd35 = partial(turbo, bases=(Base.SD3,), width=2432)

LARGE_TURBO_FILES = (
    PublishedFile(
        "stabilityai/stable-diffusion-3.5-large-turbo",
        "sd3.5_large_turbo.safetensors",
        folder="checkpoints",
    ),
)
sd35_large_turbo = partial(
    sd35,
    steps=(4,),
    schedule=ShiftedFlow(3.0),
    licence=Licence(
        "Stability Community License", None, "free below a revenue limit; from a secondary source"
    ),
    files=LARGE_TURBO_FILES,
    name_words=("turbo", "large"),
    name_excludes=("turbox",),
    sources=("github comfyanonymous/ComfyUI_examples sd3/README.md", "third-party model survey"),
    unverified=("sampler of the official example picture",),
)
turbox = partial(
    sd35,
    steps=(8,),
    schedule=ShiftedFlow(5.0),
    licence=UNKNOWN,
    name_words=("turbox",),
    sources=("github mcmonkeyprojects/SwarmUI docs/Model Support.md",),
    unverified=("file names, kind, licence and sampler",),
)
TURBOX = "tensorart/stable-diffusion-3.5-large-TurboX"

RECORDS = (
    add(
        id="sdxl-turbo",
        bases=(Base.SDXL,),
        licence=Licence("Stability AI Non-Commercial Research Community License", False),
        files=(
            PublishedFile(
                "stabilityai/sdxl-turbo", "sd_xl_turbo_1.0_fp16.safetensors", folder="checkpoints"
            ),
        ),
        notes=("Made for 512 x 512 pixels.",),
    ),
    add(
        id="sd-turbo",
        bases=(Base.SD21,),
        licence=Licence("Stability non-commercial research licence (LICENCE-SD-Turbo)", False),
        files=(
            PublishedFile("stabilityai/sd-turbo", "sd_turbo.safetensors", folder="checkpoints"),
        ),
        notes=("Made for 512 x 512 pixels.",),
    ),
    sd35_large_turbo(
        id="sd35-large-turbo",
        notes=(
            (
                "Runs at CFG 1, as it was distilled. The ComfyUI example raises it to 1.2 at twice"
                " the cost: sd35-large-turbo-cfg."
            ),
        ),
    ),
    sd35_large_turbo(
        id="sd35-large-turbo-cfg",
        cfg=1.2,
        only_by_choice=True,
        notes=("The ComfyUI example's CFG 1.2: two evaluations a step and a negative prompt.",),
    ),
    turbox(id="sd35-turbox-8step", files=(PublishedFile(TURBOX, folder="checkpoints"),)),
    turbox(id="sd35-turbox-8step-lora", kind=Kind.LORA, files=(PublishedFile(TURBOX),)),
)
