"""Hyper-SD: trajectory-segmented consistency distillation with human feedback. Ren et al. 2024, arXiv 2404.13686.

The 2, 4 and 8-step files follow the ODE. The "1step" file is a unified consistency model for 1..8 TCD steps. The "CFG"
files keep guidance: running them at CFG 1 is as wrong as running the others at 7.
"""

from __future__ import annotations

from ..accelerator import Accelerator, Base, ConsistencyGrid, Kind, Licence, PublishedFile, Schedule, Solver, Trailing

REPO = "ByteDance/Hyper-SD"
LICENCE = Licence("ByteDance Hyper-SD OpenRAIL-style licence", True, "use restrictions; an older card says openrail++")
CARD = "ByteDance/Hyper-SD model card"
UNVERIFIED = ("key format and rank of the published file",)

# File-name stem and catalogue prefix of each base.
BASES = ((Base.SD15, "Hyper-SD15", "hyper-sd15"), (Base.SDXL, "Hyper-SDXL", "hyper-sdxl"))


def hyper_lora(
    id: str, base: Base, file: str, steps: tuple[int, ...], schedule: Schedule = Trailing(), solver: Solver = Solver.EULER,
    cfg: float = 1.0, gamma: dict[int, float] | None = None, notes: tuple[str, ...] = (), unverified: tuple[str, ...] = (),
) -> Accelerator:
    return Accelerator(
        id=id,
        family="Hyper-SD",
        kind=Kind.LORA,
        bases=(base,),
        steps=steps,
        default_steps=steps[0],
        schedule=schedule,
        solver=solver,
        cfg=cfg,
        gamma=gamma or {},
        licence=LICENCE,
        files=(PublishedFile(REPO, file),),
        name_words=("hyper",),
        sources=(CARD,),
        notes=notes,
        unverified=UNVERIFIED + unverified,
    )


def records_of(base: Base, stem: str, prefix: str) -> list[Accelerator]:
    fixed = [hyper_lora(f"{prefix}-{n}step-lora", base, f"{stem}-{n}steps-lora.safetensors", (n,)) for n in (2, 4, 8)]
    guided = [
        hyper_lora(f"{prefix}-{n}step-cfg-lora", base, f"{stem}-{n}steps-CFG-lora.safetensors", (n,), cfg=5.0,
                   notes=("Distilled with guidance kept: the card gives CFG 5 to 8, so it runs at 5 and needs a negative.",))
        for n in (8, 12)
    ]
    unified = hyper_lora(
        f"{prefix}-1step-lora", base, f"{stem}-1step-lora.safetensors", tuple(range(1, 9)),
        schedule=ConsistencyGrid(original_steps=50), solver=Solver.TCD,
        # The card: eta 1 for one step, lower for more detail at more. 0.3 is TCD's own default (arXiv 2402.19159).
        gamma={n: 1.0 if n == 1 else 0.3 for n in range(1, 9)},
        unverified=("gamma above one step: the card says lower for more detail and names no value",),
    )
    return [unified, *fixed, *guided]


RECORDS = tuple(record for base, stem, prefix in BASES for record in records_of(base, stem, prefix))
