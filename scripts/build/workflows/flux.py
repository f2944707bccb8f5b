"""FLUX.1 and FLUX.2."""

from __future__ import annotations

from workflow_graph import Graph

from .files import CLIP_L, FLUX_VAE, QWEN3, T5_XXL, accelerator_file, file, split_file
from .parts import split_image
from .workflow import workflow

FLUX_DEV = file("diffusion_models", "Comfy-Org/flux1-dev", "flux1-dev.safetensors")
FLUX_SCHNELL = file("diffusion_models", "Comfy-Org/flux1-schnell", "flux1-schnell.safetensors")
KLEIN = split_file("diffusion_models", "Comfy-Org/flux2-klein", "flux-2-klein-4b")
FLUX2_VAE = split_file("vae", "Comfy-Org/flux2-dev", "flux2-vae")
TEXT = {"clip_name1": CLIP_L, "clip_name2": T5_XXL, "type": "flux"}


@workflow(
    "FLUX.1 schnell 4 steps",
    "flux1_schnell",
    """
    ## FLUX.1 schnell in 4 steps

    The model is distilled itself, so `lora_name` is **none** and `accelerator` says which model
    it is. 1 to 4 steps.

    **Licence**: Apache 2.0.

    **CFG is locked to 1.** schnell has no embedded guidance either.
    """,
)
def schnell(graph: Graph) -> None:
    split_image(graph, (FLUX_SCHNELL, FLUX_VAE), TEXT, None, "flux1-schnell")


@workflow(
    "FLUX.1 dev Hyper-SD 8 steps",
    "flux1_dev_hyper_sd",
    """
    ## FLUX.1 dev in 8 steps with Hyper-SD

    The LoRA is released for strength 0.125. The loader knows that: leave `strength` at 1.

    **Embedded guidance** (3.5) is an input of the model and stays. **CFG** is another knob and is
    locked to 1.

    **Licence**: FLUX.1 dev is for non-commercial use.
    """,
    steps=8,
)
def hyper(graph: Graph) -> None:
    lora = accelerator_file("hyper-flux-8step-lora")
    split_image(graph, (FLUX_DEV, FLUX_VAE), TEXT, lora, guidance=3.5)


@workflow(
    "FLUX.2 klein 4 steps",
    "flux2_klein",
    """
    ## FLUX.2 klein in 4 steps

    The 4B model is distilled itself, so `lora_name` is **none** and `accelerator` says which
    model it is. The files with *base* in their name are not distilled and are refused.

    Its noise levels depend on the picture's size; the sampler works them out.

    **CFG is locked to 1.**
    """,
)
def klein(graph: Graph) -> None:
    text = {"clip_name": QWEN3, "type": "flux2"}
    split_image(
        graph, (KLEIN, FLUX2_VAE), text, None, "flux2-klein-4b", latent="EmptyFlux2LatentImage"
    )


WORKFLOWS = (schnell, hyper, klein)
