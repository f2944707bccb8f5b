"""LCM-LoRA: latent consistency models, any count of 2..8 re-noised steps. Luo et al. 2023, arXiv 2311.05556."""

from __future__ import annotations

from ..accelerator import Accelerator, Base, ConsistencyGrid, Kind, Licence, Parameterization, PublishedFile, Solver

OPENRAIL = Licence("openrail++", True, "from a secondary source")


def lcm_lora(id: str, base: Base, repo: str) -> Accelerator:
    return Accelerator(
        id=id,
        family="LCM",
        kind=Kind.LORA,
        bases=(base,),
        steps=(2, 3, 4, 5, 6, 7, 8),
        default_steps=4,
        schedule=ConsistencyGrid(original_steps=50),
        solver=Solver.LCM,
        parameterization=Parameterization.LCM,
        licence=OPENRAIL,
        files=(PublishedFile(repo, "pytorch_lora_weights.safetensors"),),
        name_words=("lcm",),
        sources=(
            "github luosiallen/latent-consistency-model README",
            "github comfyanonymous/ComfyUI_examples lcm/README.md",
            "diffusers LCMScheduler and examples/consistency_distillation",
        ),
        notes=("Published as pytorch_lora_weights.safetensors like every LCM repository: rename it when you save it.",
               "CFG 1 to 2 is usable by the authors' account; locked to 1, where a step costs one evaluation."),
        unverified=("rank and header of the published file",),
    )


RECORDS = (
    lcm_lora("lcm-lora-sd15", Base.SD15, "latent-consistency/lcm-lora-sdv1-5"),
    lcm_lora("lcm-lora-sdxl", Base.SDXL, "latent-consistency/lcm-lora-sdxl"),
    lcm_lora("lcm-lora-ssd-1b", Base.SSD1B, "latent-consistency/lcm-lora-ssd-1b"),
)
