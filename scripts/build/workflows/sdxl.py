"""Stable Diffusion XL."""

from __future__ import annotations

from workflow_graph import Graph

from .files import SDXL_BASE, accelerator_file, file
from .parts import (
    IMAGE_PROMPT,
    accelerate,
    checkpoint_image,
    few_steps,
    finish_image,
    guided_start,
    no_negative,
    picture,
    prompt_box,
    sample,
)
from .workflow import workflow


@workflow(
    "SDXL Lightning 4 steps",
    "sdxl_lightning",
    """
    ## SDXL in 4 steps with Lightning

    Works on any SDXL checkpoint. Each Lightning LoRA belongs to one step count: the 4-step file
    runs 4 steps and refuses others. For 2 or 8 steps choose that file.

    **Steps**: leave at 0.

    **CFG is locked to 1**: each step costs one evaluation and a negative prompt has no effect.
    """,
)
def lightning(graph: Graph) -> None:
    checkpoint_image(graph, SDXL_BASE, accelerator_file("sdxl-lightning-4step-lora"))


@workflow(
    "SDXL Hyper-SD 4 steps",
    "sdxl_hyper_sd",
    """
    ## SDXL in 4 steps with Hyper-SD

    Works on any SDXL checkpoint. Hyper-SD has files for 2, 4 and 8 steps, and one "1step" file
    that runs 1 to 8.

    **Steps**: leave at 0.

    **CFG is locked to 1**. The files with CFG in their name are the exception: they run at CFG 5
    and need a negative prompt.
    """,
)
def hyper(graph: Graph) -> None:
    checkpoint_image(graph, SDXL_BASE, accelerator_file("hyper-sdxl-4step-lora"))


@workflow(
    "SDXL Hyper-SD 1 step",
    "sdxl_hyper_sd_1step",
    """
    ## SDXL in one step with Hyper-SD

    One evaluation for a whole picture. The same file also runs 2 to 8 steps: more steps, more
    detail.

    It is a TCD model: the sampler takes the noise back in between steps by itself.

    **CFG is locked to 1.**
    """,
    steps=1,
)
def hyper_one_step(graph: Graph) -> None:
    checkpoint_image(graph, SDXL_BASE, accelerator_file("hyper-sdxl-1step-lora"), steps=1)


@workflow(
    "SDXL DMD2 4 steps",
    "sdxl_dmd2",
    """
    ## SDXL in 4 steps with DMD2

    It renews the noise at every step, at its own timesteps (999, 749, 499, 249): the core LCM
    patch would move them, so it is left out.

    **Licence**: the weights are for non-commercial use.

    **CFG is locked to 1.**
    """,
)
def dmd2(graph: Graph) -> None:
    id = "dmd2-sdxl-4step-lora"
    checkpoint_image(graph, SDXL_BASE, accelerator_file(id), record=id)


@workflow(
    "SDXL Turbo",
    "sdxl_turbo",
    """
    ## SDXL Turbo, 1 to 4 steps

    The checkpoint is distilled itself, so `lora_name` is **none** and `accelerator` says which
    model it is.

    Made for 512 x 512. Set **steps** to 1 for the fastest picture.

    **Licence**: non-commercial.

    **CFG is locked to 1.**
    """,
)
def turbo(graph: Graph) -> None:
    checkpoint = file("checkpoints", "stabilityai/sdxl-turbo", "sd_xl_turbo_1.0_fp16.safetensors")
    checkpoint_image(graph, checkpoint, None, (512, 512), record="sdxl-turbo")


@workflow(
    "SDXL Lightning in a core sampler",
    "sdxl_core_sampler",
    """
    ## The exact schedule in another sampler

    Few-Step Schedule hands out the accelerator's noise levels, sampler, CFG and step count.
    Connect **all of them**: the noise levels alone with another sampler, or with CFG above 1,
    give a washed-out picture.

    Use it for samplers that take SIGMAS, such as SamplerCustom or those of multi-GPU packs.
    """,
)
def core_sampler(graph: Graph) -> None:
    with graph.group("Models"):
        loaded = graph.node("CheckpointLoaderSimple", ckpt_name=SDXL_BASE)
        fast = accelerate(graph, loaded, accelerator_file("sdxl-lightning-4step-lora"))
    with graph.group("Prompt and size"):
        positive = prompt_box(graph, loaded["CLIP"], IMAGE_PROMPT)
        negative = no_negative(graph, positive)
        latent = graph.node("EmptyLatentImage", width=1024, height=1024)
    with graph.group("Sampling"):
        schedule = graph.node("FewStepSchedule", model=fast["model"])
        sampled = graph.node(
            "SamplerCustom",
            "Core sampler",
            model=fast["model"],
            positive=positive,
            negative=negative,
            sampler=schedule["sampler"],
            sigmas=schedule["sigmas"],
            cfg=schedule["cfg"],
            latent_image=latent["LATENT"],
            noise_seed=1,
        )
    picture(graph, sampled["output"], loaded["VAE"])


@workflow(
    "SDXL Lightning with a negative prompt",
    "sdxl_negative",
    """
    ## A negative prompt at CFG 1

    The sampler's own negative is not read at CFG 1. **Few-Step Negative Prompt** keeps a text out
    inside the model's attention instead, for a few per cent of a step.

    Name the thing itself: *boats, people*, not *no boats*. Raise **scale** where it still shows;
    lower it where the picture turns flat or harsh.

    The same node goes on Wan, LTX, SD 1.5, FLUX and Qwen-Image models.
    """,
)
def negative(graph: Graph) -> None:
    with graph.group("Models"):
        loaded = graph.node("CheckpointLoaderSimple", ckpt_name=SDXL_BASE)
        fast = accelerate(graph, loaded, accelerator_file("sdxl-lightning-4step-lora"))
    with graph.group("Prompts and size"):
        positive = prompt_box(graph, loaded["CLIP"], IMAGE_PROMPT)
        away = prompt_box(graph, loaded["CLIP"], "boats, people, oversaturated", "Negative prompt")
        latent = graph.node("EmptyLatentImage", width=1024, height=1024)
    with graph.group("Sampling"):
        kept_out = graph.node("FewStepNegative", model=fast["model"], negative=away)
        sampled = few_steps(graph, kept_out, positive, latent["LATENT"])
    finish_image(graph, sampled, loaded["VAE"])


@workflow(
    "SDXL Guided Start",
    "sdxl_guided_start",
    """
    ## SDXL with a guided start

    The checkpoint without the LoRA makes the first of Hyper-SD's four steps, in two steps of its
    own with real guidance and a negative prompt; then the accelerator makes the other three. It is
    for accelerators whose pictures of one prompt look too much alike.

    It costs 7 evaluations instead of 4. More **guided_steps** stay closer to the full model, two
    evaluations each. The negative prompt counts in the guided part alone.
    """,
)
def guided(graph: Graph) -> None:
    with graph.group("Models"):
        loaded = graph.node("CheckpointLoaderSimple", ckpt_name=SDXL_BASE)
        fast = accelerate(graph, loaded, accelerator_file("hyper-sdxl-4step-lora"))
    with graph.group("Prompts and size"):
        positive = prompt_box(graph, loaded["CLIP"], IMAGE_PROMPT)
        negative = prompt_box(graph, loaded["CLIP"], "blurred, watermark, text", "Negative prompt")
        latent = graph.node("EmptyLatentImage", width=1024, height=1024)
    start = guided_start(graph, fast, loaded, negative)
    sampled = sample(graph, start, positive, latent["LATENT"])
    finish_image(graph, sampled, loaded["VAE"])


WORKFLOWS = (lightning, hyper, hyper_one_step, dmd2, turbo, core_sampler, negative, guided)
