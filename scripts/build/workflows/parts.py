"""Groups of nodes that several workflows share, and the texts of their prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow_graph import Graph, Model, Output, Placed

from .files import UMT5, WAN_VAE

IMAGE_PROMPT = (
    "a lighthouse on a rocky coast at sunset, waves breaking, warm light in the windows, detailed,"
    " photograph"
)
WAN_PROMPT = (
    "A red fox trots along a snowy forest path at dawn, breath visible in the cold air, the camera"
    " follows at its height, soft golden light between the trees"
)
VIDEO_NEGATIVE = "still picture, static camera, slow motion, blurred, overexposed, deformed"
MOTION_PROMPT = "The scene comes to life: gentle natural motion, the camera moves slowly forward"


# --- single nodes


def accelerate(
    graph: Graph,
    model: Placed,
    accelerator: Model | str | None,
    record: str = "auto",
    title: str | None = None,
    output: str = "MODEL",
    **more: bool,
) -> Placed:
    """The Accelerator Loader. Without a file, the record says which distilled model it is."""
    return graph.node(
        "FewStepAccelerator",
        title,
        model=model[output],
        lora_name=accelerator or "none",
        accelerator=record,
        **more,
    )


def guided_start(
    graph: Graph, fast: Placed, model: Placed, negative: Output, output: str = "MODEL"
) -> Placed:
    """Guided Start in a group of its own. model: without the accelerator that is on `fast`."""
    with graph.group("Guided start"):
        return graph.node(
            "FewStepGuidedStart",
            model=fast["model"],
            model_guided=model[output],
            negative=negative,
        )


def prompt_box(graph: Graph, clip: Output, text: str, title: str = "Prompt") -> Output:
    return graph.node("CLIPTextEncode", title, clip=clip, text=text)["CONDITIONING"]


def takes_over(graph: Graph, positive: Output, seconds: float, earlier: Output) -> Output:
    """A prompt that follows others in a stream."""
    later = graph.node("FewStepTimeline", positive=positive, start_seconds=seconds, earlier=earlier)
    return later["positive"]


def no_negative(graph: Graph, positive: Output) -> Output:
    """An empty negative prompt, for core nodes that ask for one."""
    zero = graph.node(
        "ConditioningZeroOut", "No negative prompt", collapsed=True, conditioning=positive
    )
    return zero["CONDITIONING"]


def start_picture(graph: Graph) -> Output:
    return graph.node("LoadImage", "Start picture", image="example.png")["IMAGE"]


def video_size(graph: Graph, length: int = 81) -> Output:
    """An empty latent for a Wan video of so many frames."""
    return graph.node(
        "EmptyHunyuanLatentVideo", "Video size", width=832, height=480, length=length
    )["LATENT"]


def wan_text_and_vae(graph: Graph) -> tuple[Placed, Placed]:
    vae = graph.node("VAELoader", vae_name=WAN_VAE)
    return graph.node("CLIPLoader", clip_name=UMT5, type="wan"), vae


def few_steps(
    graph: Graph,
    model: Placed,
    positive: Output,
    latent: Output,
    title: str | None = None,
    **more: Any,
) -> Placed:
    """The Few-Step Sampler."""
    return graph.node(
        "FewStepSampler",
        title,
        model=model["model"],
        positive=positive,
        latent_image=latent,
        seed=1,
        **more,
    )


# --- groups


def sample(
    graph: Graph,
    model: Placed,
    positive: Output,
    latent: Output,
    below: bool = False,
    **more: Any,
) -> Placed:
    """The Few-Step Sampler in a group of its own; `below`: under the group before."""
    with graph.group("Sampling", below=below):
        return few_steps(graph, model, positive, latent, **more)


def show_report(graph: Graph, sampled: Placed, width: float | None = None) -> None:
    with graph.group("What was done", below=True, width=width):
        graph.node("PreviewAny", "Report", source=sampled["report"])


def picture(graph: Graph, latent: Output, vae: Output) -> None:
    """Decode and save a picture."""
    with graph.group("Picture"):
        decoded = graph.node("VAEDecode", samples=latent, vae=vae)
        save_picture(graph, decoded["IMAGE"])


def video(graph: Graph, latent: Output, vae: Output, fps: float) -> None:
    """Decode a clip and save it as MP4 with the workflow inside."""
    with graph.group("Video"):
        decoded = graph.node("VAEDecode", samples=latent, vae=vae)
        save_clip(graph, decoded["IMAGE"], fps)


def save_picture(graph: Graph, image: Output) -> Placed:
    return graph.node("SaveImage", images=image, filename_prefix=prefix(graph))


def save_clip(
    graph: Graph, frames: Output, fps: float, *, collapsed: bool = False, **more: Output
) -> Placed:
    """Save a clip as MP4. collapsed: the node that makes it is shown as its title alone."""
    made = graph.node("CreateVideo", collapsed=collapsed, images=frames, fps=fps, **more)
    return graph.node("SaveVideo", video=made["VIDEO"], filename_prefix=prefix(graph))


def prefix(graph: Graph) -> str:
    return f"few-step/{graph.slug}"


def finish_image(graph: Graph, sampled: Placed, vae: Output) -> None:
    """Decode and save, and show the report under the picture."""
    picture(graph, sampled["latent"], vae)
    show_report(graph, sampled)


def finish_video(graph: Graph, sampled: Placed, vae: Output, fps: float) -> None:
    video(graph, sampled["latent"], vae, fps)
    show_report(graph, sampled)


# --- whole workflows


def checkpoint_image(
    graph: Graph,
    checkpoint: Model,
    accelerator: Model | None,
    size: tuple[int, int] = (1024, 1024),
    record: str = "auto",
    **more: Any,
) -> None:
    """Text to image from one checkpoint, and an accelerator LoRA unless that is distilled."""
    with graph.group("Models"):
        loaded = graph.node("CheckpointLoaderSimple", ckpt_name=checkpoint)
        fast = accelerate(graph, loaded, accelerator, record)
    with graph.group("Prompt and size"):
        positive = prompt_box(graph, loaded["CLIP"], IMAGE_PROMPT)
        latent = graph.node("EmptyLatentImage", width=size[0], height=size[1])
    sampled = sample(graph, fast, positive, latent["LATENT"], **more)
    finish_image(graph, sampled, loaded["VAE"])


def split_image(
    graph: Graph,
    files: tuple[Model, Model],
    clip: Mapping[str, Model | str],
    accelerator: Model | None,
    record: str = "auto",
    latent: str = "EmptySD3LatentImage",
    size: tuple[int, int] = (1024, 1024),
    guidance: float | None = None,
) -> None:
    """Text to image from separate files.

    (model, VAE), the values of the text encoder's loader, and the node of the latent.
    """
    with graph.group("Models"):
        model = graph.node("UNETLoader", unet_name=files[0])
        text = graph.node("DualCLIPLoader" if "clip_name1" in clip else "CLIPLoader", **clip)
        vae = graph.node("VAELoader", vae_name=files[1])
    with graph.group("Accelerator"):
        fast = accelerate(graph, model, accelerator, record)
    with graph.group("Prompt and size", below=True):
        positive = prompt_box(graph, text["CLIP"], IMAGE_PROMPT)
        if guidance is not None:
            # Embedded guidance is an input of the model, not CFG: it stays.
            positive = graph.node(
                "FluxGuidance", "Embedded guidance", conditioning=positive, guidance=guidance
            )["CONDITIONING"]
        empty = graph.node(latent, "Picture size", width=size[0], height=size[1])
    sampled = sample(graph, fast, positive, empty["LATENT"])
    finish_image(graph, sampled, vae["VAE"])
