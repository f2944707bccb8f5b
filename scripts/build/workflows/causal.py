"""Causal Wan models, which show a clip while they make it."""

from __future__ import annotations

from typing import Any

from pack import CATALOG
from workflow_graph import Converted, Graph, Model, Output, Placed

from .files import accelerator_file
from .parts import (
    MOTION_PROMPT,
    WAN_PROMPT,
    accelerate,
    prefix,
    prompt_box,
    save_clip,
    show_report,
    start_picture,
    takes_over,
    video_size,
    wan_text_and_vae,
)
from .workflow import workflow

# The one causal release that is published as ComfyUI loads it.
CAUSAL_FORCING = accelerator_file(
    "causal-forcing-framewise", "causal_forcing-framewise.safetensors"
)
SELF_FORCING = Converted(
    "self_forcing_dmd.safetensors", CATALOG["self-forcing-dmd"].files[0].url, "diffusion_models"
)
NEXT_PROMPT = (
    "The red fox stops in a clearing, looks up and sits down in the snow, the camera comes to rest"
    " beside it"
)
LAST_PROMPT = (
    "The red fox leaps up and runs towards the camera through falling snow, the path and the trees"
    " behind it blurred"
)


def causal_models(
    graph: Graph, file: Model = CAUSAL_FORCING, record: str = "causal-forcing-framewise"
) -> tuple[Placed, Placed, Placed]:
    """(model with its record, text encoder, VAE)"""
    with graph.group("Models"):
        model = graph.node("UNETLoader", unet_name=file)
        fast = accelerate(graph, model, None, record)
        clip, vae = wan_text_and_vae(graph)
    return fast, clip, vae


def stream(
    graph: Graph, model: Placed, positive: Output, size: Output, vae: Placed, **more: Any
) -> Placed:
    """A clip that is shown while it is made."""
    return graph.node(
        "FewStepStream",
        model=model["model"],
        positive=positive,
        latent_image=size,
        vae=vae["VAE"],
        seed=1,
        **more,
    )


def save_streamed(graph: Graph, streamed: Placed) -> None:
    with graph.group("Video"):
        save_clip(graph, streamed["images"], fps=16)


def stream_video(
    graph: Graph, model: Placed, positive: Output, size: Output, vae: Placed, **more: Any
) -> None:
    """Make, show and save a clip."""
    with graph.group("Streaming"):
        streamed = stream(graph, model, positive, size, vae, **more)
    save_streamed(graph, streamed)
    show_report(graph, streamed)


def prompt_to_stream(graph: Graph, fast: Placed, clip: Placed, vae: Placed) -> None:
    """A clip of five seconds from a prompt alone."""
    with graph.group("Prompt and size"):
        positive = prompt_box(graph, clip["CLIP"], WAN_PROMPT)
        size = video_size(graph)
    stream_video(graph, fast, positive, size, vae)


@workflow(
    "Causal Forcing T2V stream",
    "causal_forcing_stream",
    """
    ## Video that is shown while it is made

    A causal Wan model makes a clip from its first frame to its last. With the VAE connected, each
    finished block is decoded and shown on the sampler at once.

    **Longer clips**: set `window_frames` to 21 or less, and memory stays the same however long
    the clip is. `sink_frames` keeps the first frames in view for good.

    **Interrupt** keeps the blocks that are finished.

    **Self Forcing** has a workflow of its own; the other models run in this graph. Convert their
    .pt file with `scripts/mark_causal.py` of this pack's repository, load it, and set
    `accelerator` to auto.

    The model is distilled itself, so `lora_name` is **none**. 4 steps for each frame, **CFG
    locked to 1**.
    """,
)
def text_to_video(graph: Graph) -> None:
    prompt_to_stream(graph, *causal_models(graph))


@workflow(
    "Causal Forcing I2V stream",
    "causal_forcing_i2v_stream",
    """
    ## A picture that goes on, shown while it is made

    The start picture becomes the first frame, and the causal model goes on from it, frame after
    frame.

    **start_latent** may also be the latent of an earlier clip: then the new one continues it.
    `length` counts its frames too.

    **Size**: the picture is scaled and cropped to the video's.

    The model is distilled itself, so `lora_name` is **none**. 4 steps for each frame, **CFG
    locked to 1**.
    """,
)
def image_to_video(graph: Graph) -> None:
    fast, clip, vae = causal_models(graph)
    with graph.group("Start picture, prompt and size"):
        sized = graph.node(
            "ImageScale",
            "To the video's size",
            image=start_picture(graph),
            upscale_method="lanczos",
            width=832,
            height=480,
            crop="center",
        )
        start = graph.node("VAEEncode", collapsed=True, pixels=sized["IMAGE"], vae=vae["VAE"])
        positive = prompt_box(graph, clip["CLIP"], MOTION_PROMPT)
        size = video_size(graph)
    stream_video(graph, fast, positive, size, vae, start_latent=start["LATENT"])


@workflow(
    "Causal Forcing continued clip",
    "causal_forcing_continued",
    """
    ## A clip that goes on with another prompt, on disk while it is made

    The first sampler makes five seconds; the second one goes on from their last 21 latent frames,
    as many as it sees (`window_frames`), and makes five more. Its **length** counts them: 161 are
    81 and 80 new ones.

    Both **record**: a block is in the file as soon as it is finished, and the second file begins
    where the first one ends. Nothing is connected to `images`, so no picture is kept in memory.

    **Another day**: Save Latent keeps the last 21 in `output/latents`. Move the file to ComfyUI's
    input folder, load it with Load Latent, and connect that to `start_latent` of the second
    sampler.

    The model is distilled itself, so `lora_name` is **none**. 4 steps for each frame, **CFG
    locked to 1**.
    """,
)
def continued(graph: Graph) -> None:
    fast, clip, vae = causal_models(graph)
    with graph.group("What to show first"):
        begun = prompt_box(graph, clip["CLIP"], WAN_PROMPT)
        five_seconds = video_size(graph)
    with graph.group("What then", below=True):
        positive = prompt_box(graph, clip["CLIP"], NEXT_PROMPT)
        size = video_size(graph, 161)
    record = prefix(graph)
    with graph.group("First five seconds"):
        first = stream(graph, fast, begun, five_seconds, vae, record=record)
    with graph.group("Five more"):
        start = last_latents(graph, first)
        window = {"window_frames": 21, "sink_frames": 1}
        streamed = stream(
            graph, fast, positive, size, vae, start_latent=start, record=record, **window
        )
    with graph.group("To go on another day"):
        graph.node(
            "SaveLatent",
            samples=last_latents(graph, streamed),
            filename_prefix=f"latents/{graph.slug}",
        )
    show_report(graph, streamed)


def last_latents(graph: Graph, streamed: Placed) -> Output:
    """As many latent frames of a clip as the next one sees."""
    return graph.node(
        "LatentCut",
        "The last 21",
        collapsed=True,
        samples=streamed["latent"],
        dim="t",
        index=-21,
        amount=21,
    )["LATENT"]


@workflow(
    "Self Forcing T2V stream",
    "self_forcing_stream",
    """
    ## Video that is shown while it is made, three latent frames at a time

    Self Forcing is a causal Wan model. With the VAE connected, each finished block of three
    latent frames (12 of video) is decoded and shown on the sampler at once.

    **The model** is published as `self_forcing_dmd.pt`, which ComfyUI cannot load as a causal
    model. Convert it once, with ComfyUI's Python: `python mark_causal.py self_forcing_dmd.pt
    self_forcing_dmd.safetensors`. The script is in `scripts/` of this pack's repository.

    **Length**: 9, 21, 33, ..., 81 frames, whole blocks. Beyond that set `window_frames` to 21 or
    less.

    **Interrupt** keeps the blocks that are finished.

    **Licence**: the weights are CC BY-NC-SA 4.0, for non-commercial use.

    The model is distilled itself, so `lora_name` is **none**. 4 steps for each block, **CFG
    locked to 1**.
    """,
)
def self_forcing(graph: Graph) -> None:
    prompt_to_stream(graph, *causal_models(graph, SELF_FORCING, "self-forcing-dmd"))


@workflow(
    "Self Forcing three prompts",
    "self_forcing_timeline",
    """
    ## A video whose prompt changes while it goes on

    Three prompts, each with the second at which it takes over: a **Prompt Timeline** for each but
    the first. It begins with the next block of three latent frames; what is in view is read again
    under it, and the report says what that took.

    **Write them alike**: who and where stay, one thing changes. How well the published models
    follow could not be measured for this pack.

    **Say something while it runs**: `clip` is connected, so the stream takes texts, as
    `scripts/live.py` of this pack's repository sends them.

    **The model**: convert the published file once, `python mark_causal.py self_forcing_dmd.pt
    self_forcing_dmd.safetensors` (in `scripts/` too). Its weights are CC BY-NC-SA 4.0, for
    non-commercial use. 4 steps for each block, **CFG locked to 1**.
    """,
)
def three_prompts(graph: Graph) -> None:
    fast, clip, vae = causal_models(graph, SELF_FORCING, "self-forcing-dmd")
    with graph.group("What to show first"):
        prompts = prompt_box(graph, clip["CLIP"], WAN_PROMPT)
    with graph.group("What then", below=True):
        then = prompt_box(graph, clip["CLIP"], NEXT_PROMPT)
        prompts = takes_over(graph, then, 4.0, prompts)
    with graph.group("What at last, and size"):
        at_last = prompt_box(graph, clip["CLIP"], LAST_PROMPT)
        prompts = takes_over(graph, at_last, 8.0, prompts)
        size = video_size(graph, 189)
    window = {"window_frames": 21, "sink_frames": 3, "clip": clip["CLIP"]}
    stream_video(graph, fast, prompts, size, vae, **window)


WORKFLOWS = (text_to_video, image_to_video, continued, self_forcing, three_prompts)
