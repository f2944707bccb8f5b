"""The accelerators of the pack's own demo model; demo/README.md says how they were distilled."""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Causal, Kind, Licence, PublishedFile, Solver
from ..bases import Base
from ..schedules import ShiftedFlow

OURS = "Comes with the pack, for its Demo Model alone."

student = partial(
    Accelerator,
    family="Demo",
    kind=Kind.LORA,
    bases=(Base.WAN_T2V,),
    # No width: the small models of the tests share this one's, and an accelerator of the catalogue
    # must go on them too.
    schedule=ShiftedFlow(shift=5.0),
    licence=Licence("GPL-3.0-or-later", True),
    sources=("demo/README.md of this pack",),
    notes=(OURS,),
)

RECORDS = (
    student(
        id="fewstep-demo-4step",
        steps=(4,),
        files=(PublishedFile("", "fewstep_demo_lightx2v_4step.safetensors"),),
        name_words=("demo", "4step"),
    ),
    student(
        id="fewstep-demo-lcm",
        steps=(1, 2, 4),
        default_steps=4,
        solver=Solver.LCM,
        files=(PublishedFile("", "fewstep_demo_lcm.safetensors"),),
        name_words=("demo", "lcm"),
    ),
    student(
        id="fewstep-demo-causal",
        kind=Kind.MODEL,
        bases=(Base.WAN_CAUSAL,),
        steps=(4,),
        solver=Solver.LCM,
        causal=Causal(frames_per_block=1, first_block=ShiftedFlow(shift=5.0), first_block_steps=8),
        notes=(OURS, "The first frame made takes eight steps."),
        files=(PublishedFile("", "fewstep_demo_causal.safetensors", folder="diffusion_models"),),
        name_words=("demo", "causal"),
    ),
)
