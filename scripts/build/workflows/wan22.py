"""Wan 2.2, which has an expert for high and one for low noise, each with its own accelerator."""

from __future__ import annotations

from dataclasses import dataclass

from workflow_graph import Graph, Output, Placed

from .files import accelerator_file, split_file
from .parts import (
    MOTION_PROMPT,
    VIDEO_NEGATIVE,
    WAN_PROMPT,
    accelerate,
    few_steps,
    finish_video,
    guided_start,
    no_negative,
    prompt_box,
    sample,
    start_picture,
    video_size,
    wan_text_and_vae,
)
from .workflow import workflow

WAN22 = "Comfy-Org/Wan_2.2_ComfyUI_Repackaged"


@dataclass(frozen=True)
class Loaded:
    """Both experts with their Lightning LoRAs, the text encoder and the VAE."""

    high: Placed
    low: Placed
    clip: Placed
    vae: Placed
    high_alone: Placed  # the high-noise expert without its LoRA


def load(graph: Graph, task: str) -> Loaded:
    """The models of "t2v" or "i2v"."""
    # Wide enough to show which of the experts a file is for.
    with graph.group("Experts, each with its own accelerator", width=470):
        high, low = (expert_model(graph, task, expert) for expert in ("high", "low"))
    with graph.group("Text and VAE"):
        clip, vae = wan_text_and_vae(graph)
    return Loaded(high, low, clip, vae, high.values["model"].node)


def expert_model(graph: Graph, task: str, expert: str) -> Placed:
    """One expert with its Lightning LoRA."""
    name = f"wan2.2_{task}_{expert}_noise_14B_fp8_scaled"
    model = graph.node(
        "UNETLoader",
        f"{expert.capitalize()}-noise expert",
        unet_name=split_file("diffusion_models", WAN22, name),
    )
    return lightning(graph, model, task, expert)


def lightning(graph: Graph, model: Placed, task: str, expert: str) -> Placed:
    version = "v1.1" if task == "t2v" else "v1"
    lora = accelerator_file(
        f"wan22-{task}-lightning-{expert}",
        f"wan2.2_{task}_lightx2v_4steps_lora_{version}_{expert}_noise.safetensors",
    )
    return accelerate(graph, model, lora, title=f"Accelerator, {expert} noise")


def sample_from_pictures(
    graph: Graph,
    loaded: Loaded,
    start_node: tuple[str, str],
    positive: Output,
    negative: Output,
    **pictures: Output,
) -> Placed:
    """Both experts from pictures. start_node: type and title of the node that takes them."""
    with graph.group("Sampling"):
        start = from_pictures(graph, loaded, start_node, positive, negative, **pictures)
        return few_steps(
            graph,
            loaded.high,
            start["positive"],
            start["latent"],
            model_low_noise=loaded.low["model"],
        )


def from_pictures(
    graph: Graph,
    loaded: Loaded,
    start_node: tuple[str, str],
    positive: Output,
    negative: Output,
    **pictures: Output,
) -> Placed:
    """The node that puts pictures into both prompts and makes the latent."""
    return graph.node(
        *start_node,
        positive=positive,
        negative=negative,
        vae=loaded.vae["VAE"],
        **pictures,
        width=832,
        height=480,
        length=81,
    )


@workflow(
    "Wan 2.2 T2V fast, LightX2V Lightning 4 steps",
    "wan22_t2v_lightning",
    """
    ## Wan 2.2 text to video in 4 steps

    Wan 2.2 has two experts. One sampler runs both: `model` is the high-noise expert,
    `model_low_noise` the low-noise one, and it changes over where the accelerator was trained to
    (after step 2).

    Each expert needs **its own** LoRA: high on high, low on low. Mixed up, the loader or the
    sampler says so.

    Less motion than the full model comes from the high-noise LoRA; a lower `strength` there gives
    some of it back.

    **CFG is locked to 1**: a negative prompt has no effect.
    """,
)
def text_to_video(graph: Graph) -> None:
    loaded = load(graph, "t2v")
    with graph.group("Prompt and size", below=True):
        positive = prompt_box(graph, loaded.clip["CLIP"], WAN_PROMPT)
        size = video_size(graph)
    sampled = sample(graph, loaded.high, positive, size, model_low_noise=loaded.low["model"])
    finish_video(graph, sampled, loaded.vae["VAE"], fps=16)


@workflow(
    "Wan 2.2 I2V fast, LightX2V Lightning 4 steps",
    "wan22_i2v_lightning",
    """
    ## Wan 2.2 image to video in 4 steps

    Choose a start picture and say how it should move.

    One sampler runs both experts: `model` is the high-noise expert, `model_low_noise` the
    low-noise one, each with **its own** LoRA. It changes over where the accelerator was trained
    to.

    **CFG is locked to 1**: Wan Image to Video wants a negative prompt, so it gets an empty one
    that is never evaluated.
    """,
)
def image_to_video(graph: Graph) -> None:
    loaded = load(graph, "i2v")
    with graph.group("Start picture and prompt", below=True):
        positive = prompt_box(graph, loaded.clip["CLIP"], MOTION_PROMPT)
        negative = no_negative(graph, positive)
        picture = start_picture(graph)
    start_node = ("WanImageToVideo", "Wan Image to Video")
    sampled = sample_from_pictures(
        graph, loaded, start_node, positive, negative, start_image=picture
    )
    finish_video(graph, sampled, loaded.vae["VAE"], fps=16)


@workflow(
    "Wan 2.2 first and last frame, LightX2V Lightning 4 steps",
    "wan22_flf2v_lightning",
    """
    ## Wan 2.2 from a first to a last picture in 4 steps

    Choose the first and the last frame and say what happens between them. It uses the
    image-to-video experts, each with **its own** LoRA.

    **CFG is locked to 1**: a negative prompt has no effect.
    """,
)
def first_and_last_frame(graph: Graph) -> None:
    loaded = load(graph, "i2v")
    with graph.group("Prompt", below=True):
        positive = prompt_box(graph, loaded.clip["CLIP"], MOTION_PROMPT)
        negative = no_negative(graph, positive)
    with graph.group("Pictures"):
        first = graph.node("LoadImage", "First frame", image="example.png")
        last = graph.node("LoadImage", "Last frame", image="example.png")
    start_node = ("WanFirstLastFrameToVideo", "Wan First and Last Frame to Video")
    pictures = {"start_image": first["IMAGE"], "end_image": last["IMAGE"]}
    sampled = sample_from_pictures(graph, loaded, start_node, positive, negative, **pictures)
    finish_video(graph, sampled, loaded.vae["VAE"], fps=16)


# The same for both.
ABOUT_GUIDED_START = """
    **Guided Start** lets the high-noise expert without its LoRA make the first of the four steps,
    in two steps of its own with real guidance and a negative prompt; then the accelerated expert
    goes on, and the low-noise one finishes. It is what a three-sampler graph is built for, on the
    exact schedule and with one noise.

    It costs 7 evaluations instead of 4. More **guided_steps** stay closer to the full model, two
    evaluations each. The report says what each part took.
    """


@workflow(
    "Wan 2.2 T2V Guided Start",
    "wan22_t2v_guided_start",
    f"""
    ## Wan 2.2 text to video with a guided start
    {ABOUT_GUIDED_START}
    The negative prompt counts in the guided part alone.
    """,
)
def text_to_video_guided(graph: Graph) -> None:
    loaded = load(graph, "t2v")
    with graph.group("Prompts and size", below=True):
        positive = prompt_box(graph, loaded.clip["CLIP"], WAN_PROMPT)
        negative = prompt_box(graph, loaded.clip["CLIP"], VIDEO_NEGATIVE, "Negative prompt")
        size = video_size(graph)
    guided = guided_start(graph, loaded.high, loaded.high_alone, negative)
    low = loaded.low["model"]
    sampled = sample(graph, guided, positive, size, below=True, model_low_noise=low)
    finish_video(graph, sampled, loaded.vae["VAE"], fps=16)


@workflow(
    "Wan 2.2 I2V Guided Start",
    "wan22_i2v_guided_start",
    f"""
    ## Wan 2.2 image to video with a guided start

    Choose a start picture and say how it should move.
    {ABOUT_GUIDED_START}
    Both prompts go through Wan Image to Video, which puts the picture into them: Guided Start takes
    its **negative**.
    """,
)
def image_to_video_guided(graph: Graph) -> None:
    loaded = load(graph, "i2v")
    with graph.group("Prompts", below=True):
        positive = prompt_box(graph, loaded.clip["CLIP"], MOTION_PROMPT)
        negative = prompt_box(graph, loaded.clip["CLIP"], VIDEO_NEGATIVE, "Negative prompt")
    with graph.group("Start picture"):
        picture = start_picture(graph)
        start_node = ("WanImageToVideo", "Wan Image to Video")
        start = from_pictures(graph, loaded, start_node, positive, negative, start_image=picture)
    guided = guided_start(graph, loaded.high, loaded.high_alone, start["negative"])
    low = loaded.low["model"]
    sampled = sample(
        graph, guided, start["positive"], start["latent"], below=True, model_low_noise=low
    )
    finish_video(graph, sampled, loaded.vae["VAE"], fps=16)


WORKFLOWS = (
    text_to_video,
    image_to_video,
    first_and_last_frame,
    text_to_video_guided,
    image_to_video_guided,
)
