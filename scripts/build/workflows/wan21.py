"""Wan 2.1."""

from __future__ import annotations

from workflow_graph import Graph

from .files import WAN21, WAN21_T2V, accelerator_file, split_file
from .parts import (
    MOTION_PROMPT,
    WAN_PROMPT,
    accelerate,
    few_steps,
    finish_video,
    no_negative,
    prompt_box,
    sample,
    start_picture,
    video_size,
    wan_text_and_vae,
)
from .workflow import workflow

WAN21_I2V = split_file("diffusion_models", WAN21, "wan2.1_i2v_480p_14B_fp16")
CLIP_VISION = split_file("clip_vision", WAN21, "clip_vision_h")


@workflow(
    "Wan 2.1 T2V LightX2V 4 steps",
    "wan21_t2v_lightx2v",
    """
    ## Wan 2.1 text to video in 4 steps

    The 14B model with the LightX2V LoRA: 4 evaluations instead of 100.

    The accelerator sets the shift it was trained at (5); no ModelSampling node is needed.

    **Length** counts video frames: 4 n + 1, 81 is five seconds at 16 frames a second.

    **CFG is locked to 1**: a negative prompt has no effect.
    """,
)
def text_to_video(graph: Graph) -> None:
    lora = accelerator_file(
        "wan21-t2v-lightx2v-4step",
        "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors",
    )
    with graph.group("Models"):
        model = graph.node("UNETLoader", unet_name=WAN21_T2V)
        clip, vae = wan_text_and_vae(graph)
    with graph.group("Accelerator"):
        fast = accelerate(graph, model, lora)
    with graph.group("Prompt and size", below=True):
        positive = prompt_box(graph, clip["CLIP"], WAN_PROMPT)
        size = video_size(graph)
    finish_video(graph, sample(graph, fast, positive, size), vae["VAE"], fps=16)


@workflow(
    "Wan 2.1 I2V LightX2V 4 steps",
    "wan21_i2v_lightx2v",
    """
    ## Wan 2.1 image to video in 4 steps

    Choose a start picture and say how it should move.

    The I2V model needs the **I2V** LoRA: the text-to-video one is refused.

    **CFG is locked to 1**: Wan Image to Video wants a negative prompt, so it gets an empty one
    that is never evaluated.
    """,
)
def image_to_video(graph: Graph) -> None:
    lora = accelerator_file(
        "wan21-i2v-lightx2v-4step", "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors"
    )
    with graph.group("Models"):
        model = graph.node("UNETLoader", unet_name=WAN21_I2V)
        clip, vae = wan_text_and_vae(graph)
        vision = graph.node("CLIPVisionLoader", clip_name=CLIP_VISION)
    with graph.group("Accelerator"):
        fast = accelerate(graph, model, lora)
    with graph.group("Start picture and prompt"):
        picture = start_picture(graph)
        seen = graph.node(
            "CLIPVisionEncode", clip_vision=vision["CLIP_VISION"], image=picture, crop="none"
        )
        positive = prompt_box(graph, clip["CLIP"], MOTION_PROMPT)
        negative = no_negative(graph, positive)
    with graph.group("Sampling"):
        start = graph.node(
            "WanImageToVideo",
            "Wan Image to Video",
            positive=positive,
            negative=negative,
            vae=vae["VAE"],
            clip_vision_output=seen["CLIP_VISION_OUTPUT"],
            start_image=picture,
            width=832,
            height=480,
            length=81,
        )
        sampled = few_steps(graph, fast, start["positive"], start["latent"])
    finish_video(graph, sampled, vae["VAE"], fps=16)


WORKFLOWS = (text_to_video, image_to_video)
