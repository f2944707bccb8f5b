"""What a run may cost, and what fewer steps do to the picture."""

from __future__ import annotations

from workflow_graph import Graph

from .files import SDXL_BASE, accelerator_file
from .parts import (
    IMAGE_PROMPT,
    accelerate,
    few_steps,
    finish_image,
    prompt_box,
    sample,
    save_picture,
)
from .workflow import workflow


@workflow(
    "SDXL LCM with a step budget",
    "sdxl_step_budget",
    """
    ## As many steps as the time allows

    Step Budget measures what one evaluation and the decoding cost on this machine, at this size,
    and sets the sampler's steps: as many as fit into **seconds** together with the decoding, and
    always a number the accelerator was distilled for (LCM: 2 to 8).

    **seconds** 0 takes the experience's own: a few for *interactive*, one for *live*, no limit
    for *batch*.

    Its report lists every way to run the model, with seconds, price and licence.

    **Files**: save the LoRA as `lcm-lora-sdxl.safetensors`.
    """,
)
def budget(graph: Graph) -> None:
    lora = accelerator_file("lcm-lora-sdxl", save_as="lcm-lora-sdxl.safetensors")
    with graph.group("Models"):
        loaded = graph.node("CheckpointLoaderSimple", ckpt_name=SDXL_BASE)
        fast = accelerate(graph, loaded, lora, "lcm-lora-sdxl")
    with graph.group("Prompt and size"):
        positive = prompt_box(graph, loaded["CLIP"], IMAGE_PROMPT)
        latent = graph.node("EmptyLatentImage", width=1024, height=1024)["LATENT"]
    with graph.group("Budget", width=360):
        budget = graph.node(
            "FewStepBudget",
            model=fast["model"],
            latent_image=latent,
            experience="interactive",
            vae=loaded["VAE"],
        )
        graph.node("PreviewAny", "Ways to run it", source=budget["report"])
        graph.node("PreviewImage", "Seconds and steps", images=budget["chart"])
    sampled = sample(graph, fast, positive, latent, steps=budget["steps"])
    finish_image(graph, sampled, loaded["VAE"])


@workflow(
    "SDXL compare 8 steps and 1 step",
    "sdxl_compare",
    """
    ## What do fewer steps cost?

    One Hyper-SD file runs 1 to 8 steps. The same prompt and the same seed, once in 8 steps and
    once in one, side by side: the difference, PSNR, SSIM, and both times.

    Use **one seed for both**: with two seeds two different pictures are compared.

    A distilled model may paint the same prompt well and otherwise. Look at the sheet, not only at
    the figures.
    """,
    steps=8,
    seeds="fixed",
)
def compare(graph: Graph) -> None:
    with graph.group("Models"):
        loaded = graph.node("CheckpointLoaderSimple", ckpt_name=SDXL_BASE)
        fast = accelerate(graph, loaded, accelerator_file("hyper-sdxl-1step-lora"))
    with graph.group("Prompt and size"):
        positive = prompt_box(graph, loaded["CLIP"], IMAGE_PROMPT)
        latent = graph.node("EmptyLatentImage", width=1024, height=1024)["LATENT"]
    with graph.group("Eight steps"):
        slow = few_steps(graph, fast, positive, latent, "8 steps", steps=8)
        slow_picture = graph.node("VAEDecode", samples=slow["latent"], vae=loaded["VAE"])
    with graph.group("One step", below=True):
        quick = few_steps(graph, fast, positive, latent, "1 step", steps=1)
        quick_picture = graph.node("VAEDecode", samples=quick["latent"], vae=loaded["VAE"])
    with graph.group("Compare"):
        compared = graph.node(
            "FewStepCompare",
            reference=slow_picture["IMAGE"],
            candidate=quick_picture["IMAGE"],
            reference_report=slow["report"],
            candidate_report=quick["report"],
        )
        graph.node("PreviewAny", "Report", source=compared["report"])
    with graph.group("Both pictures"):
        save_picture(graph, compared["sheet"])


WORKFLOWS = (budget, compare)
