"""DMD2: distribution matching, re-noised at four trailing timesteps without the LCM boundary.

Yin et al. 2024, arXiv 2405.14867.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, Licence, PublishedFile, Solver
from ..bases import Base
from ..schedules import FirstTimesteps, Trailing
from . import makes

REPO = "tianweiy/DMD2"
PICKLE = "a diffusers pickle: convert it to .safetensors"

dmd2 = partial(
    Accelerator,
    family="DMD2",
    bases=(Base.SDXL,),
    solver=Solver.LCM,
    licence=Licence("CC BY-NC-SA 4.0", False, "the repository's; its card says CC-BY-NC-4.0"),
    name_words=("dmd2|dmd",),
    sources=("github tianweiy/DMD2 README and LICENSE",),
)

RECORDS = (
    dmd2(
        id="dmd2-sdxl-4step-lora",
        kind=Kind.LORA,
        steps=(4,),
        schedule=Trailing(),
        files=(PublishedFile(REPO, "dmd2_sdxl_4step_lora_fp16.safetensors", 64, make=makes.SDXL),),
        notes=(
            (
                "Its timesteps are 999, 749, 499, 249: the LCM grid's 999, 759, 499, 259 are not"
                " its own."
            ),
        ),
        unverified=("value of the alphas in the published file",),
    ),
    dmd2(
        id="dmd2-sdxl-4step",
        kind=Kind.MODEL,
        steps=(4,),
        schedule=Trailing(),
        files=(
            PublishedFile(
                REPO, "dmd2_sdxl_4step_unet_fp16.bin", folder="diffusion_models", caution=PICKLE
            ),
        ),
    ),
    dmd2(
        id="dmd2-sdxl-1step",
        kind=Kind.MODEL,
        steps=(1,),
        schedule=FirstTimesteps((399,)),
        files=(
            PublishedFile(
                REPO, "dmd2_sdxl_1step_unet_fp16.bin", folder="diffusion_models", caution=PICKLE
            ),
        ),
        notes=("Starts at timestep 399 on whole noise, as the authors' diffusers pipeline does.",),
        unverified=("scaling of the first latent in the host",),
    ),
)
