"""Models without an accelerator in all their steps, some of which Step Skip leaves out."""

from __future__ import annotations

from typing import Any

from workflow_graph import Graph, Output, Placed

from .files import SDXL_BASE, WAN21_T2V
from .parts import (
    IMAGE_PROMPT,
    WAN_PROMPT,
    finish_image,
    finish_video,
    prompt_box,
    video_size,
    wan_text_and_vae,
)
from .workflow import workflow


def prompts(graph: Graph, clip: Output, positive: str, negative: str) -> dict[str, Output]:
    """Both prompts, as inputs of a sampler."""
    return {
        "positive": prompt_box(graph, clip, positive),
        "negative": prompt_box(graph, clip, negative, "Negative prompt"),
    }


def all_steps(graph: Graph, skipping: Placed, sampler: str, scheduler: str, **more: Any) -> Placed:
    """Core's sampler at 30 steps with guidance, and behind it the node that says what it did."""
    sampled = graph.node(
        "KSampler",
        model=skipping["model"],
        **more,
        seed=1,
        steps=30,
        cfg=6.0,
        sampler_name=sampler,
        scheduler=scheduler,
    )
    return graph.node("FewStepReport", latent=sampled["LATENT"], model=skipping["model"])


@workflow(
    "SDXL full steps with Step Skip, TeaCache",
    "sdxl_step_skip",
    """
    ## The full model, with some evaluations left out

    No accelerator: the model takes its 30 steps with guidance, and Step Skip forecasts some of
    them from the others. Right when the look of the full model matters more than the last factor
    of speed.

    **target_speedup** 1.5 is nearly the same picture. Higher is faster and less faithful.

    Below 10 steps it changes nothing: then an accelerator is the better way.

    **Run Report** says which steps were left out, and why no more.
    """,
    steps=30,
)
def sdxl(graph: Graph) -> None:
    with graph.group("Model"):
        loaded = graph.node("CheckpointLoaderSimple", ckpt_name=SDXL_BASE)
        skipping = graph.node("FewStepSkip", model=loaded["MODEL"])
    with graph.group("Prompts and size"):
        texts = prompts(graph, loaded["CLIP"], IMAGE_PROMPT, "blurry, low quality, text")
        latent = graph.node("EmptyLatentImage", width=1024, height=1024)["LATENT"]
    with graph.group("Sampling"):
        sampled = all_steps(graph, skipping, "dpmpp_2m", "karras", **texts, latent_image=latent)
    finish_image(graph, sampled, loaded["VAE"])


@workflow(
    "Wan 2.1 T2V full steps with Step Skip, TeaCache",
    "wan21_t2v_step_skip",
    """
    ## Wan 2.1 without an accelerator, with some evaluations left out

    The model takes its 30 steps with guidance, and Step Skip forecasts some of them from the
    others: full motion and detail, in less time.

    **target_speedup** 1.5 is nearly the same video. Higher is faster and less faithful.

    For 4 steps take the LightX2V workflow; the two do not stack.

    **Run Report** says which steps were left out, and why no more.
    """,
    steps=30,
)
def wan21(graph: Graph) -> None:
    with graph.group("Models"):
        model = graph.node("UNETLoader", unet_name=WAN21_T2V)
        shifted = graph.node("ModelSamplingSD3", "Shift", model=model["MODEL"], shift=8.0)
        skipping = graph.node("FewStepSkip", model=shifted["MODEL"])
        clip, vae = wan_text_and_vae(graph)
    with graph.group("Prompts and size"):
        unwanted = "static, blurry, low quality, subtitles"
        texts = prompts(graph, clip["CLIP"], WAN_PROMPT, unwanted)
        size = video_size(graph)
    with graph.group("Sampling"):
        sampled = all_steps(graph, skipping, "uni_pc", "simple", **texts, latent_image=size)
    finish_video(graph, sampled, vae["VAE"], fps=16)


WORKFLOWS = (sdxl, wan21)
