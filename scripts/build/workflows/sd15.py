"""Stable Diffusion 1.5."""

from __future__ import annotations

from workflow_graph import Graph

from .files import DREAMSHAPER, accelerator_file
from .parts import checkpoint_image
from .workflow import workflow


@workflow(
    "SD 1.5 LCM",
    "sd15_lcm",
    """
    ## SD 1.5 in 4 steps with LCM

    Any SD 1.5 checkpoint and the LCM LoRA: 4 evaluations instead of 50 or more.

    **Files**: the publisher calls the LoRA `pytorch_lora_weights.safetensors`. Save it as
    `lcm-lora-sdv1-5.safetensors`, or choose the file you have; the loader checks its contents
    either way.

    **Steps**: 0 means 4. LCM allows 2 to 8.

    **CFG is locked to 1**, so there is no negative prompt.
    """,
)
def lcm(graph: Graph) -> None:
    lora = accelerator_file("lcm-lora-sd15", save_as="lcm-lora-sdv1-5.safetensors")
    # Named, not auto: the file says little about itself, and many keep its published name.
    checkpoint_image(graph, DREAMSHAPER, lora, (512, 512), record="lcm-lora-sd15")


WORKFLOWS = (lcm,)
