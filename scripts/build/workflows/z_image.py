"""Z-Image."""

from __future__ import annotations

from workflow_graph import Graph

from .files import FLUX_VAE, QWEN3, Z_IMAGE, split_file
from .parts import split_image
from .workflow import workflow

TURBO = split_file("diffusion_models", Z_IMAGE, "z_image_turbo_bf16")


@workflow(
    "Z-Image-Turbo 8 steps",
    "z_image_turbo",
    """
    ## Z-Image-Turbo in 8 steps

    The model is distilled itself, so `lora_name` is **none** and `accelerator` says which model
    it is. The Z-Image base model is not distilled and is refused.

    **Licence**: Apache 2.0.

    **CFG is locked to 1.**
    """,
    steps=8,
)
def turbo(graph: Graph) -> None:
    text = {"clip_name": QWEN3, "type": "lumina2"}
    split_image(graph, (TURBO, FLUX_VAE), text, None, "z-image-turbo")


WORKFLOWS = (turbo,)
