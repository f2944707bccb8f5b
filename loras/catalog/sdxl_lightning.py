"""SDXL-Lightning: progressive adversarial distillation, one file for each step count. Lin et al. 2024, arXiv 2402.13929."""

from __future__ import annotations

from ..accelerator import Accelerator, Base, Kind, Licence, PublishedFile, Solver, Trailing

OPENRAIL = Licence("openrail++", True)


def lightning_lora(steps: int) -> Accelerator:
    return Accelerator(
        id=f"sdxl-lightning-{steps}step-lora",
        family="SDXL-Lightning",
        kind=Kind.LORA,
        bases=(Base.SDXL,),
        steps=(steps,),
        default_steps=steps,
        schedule=Trailing(),
        solver=Solver.EULER,
        licence=OPENRAIL,
        files=(PublishedFile("ByteDance/SDXL-Lightning", f"sdxl_lightning_{steps}step_lora.safetensors"),),
        name_words=("lightning",),
        sources=("ByteDance/SDXL-Lightning model card",),
        notes=("The card prefers the full distilled model on the SDXL base itself; the LoRA is for other SDXL checkpoints.",),
        unverified=("key format, alpha and rank of the published file",),
    )


RECORDS = tuple(lightning_lora(steps) for steps in (2, 4, 8))
