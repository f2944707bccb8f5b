"""LTX-2, which makes picture and sound together."""

from __future__ import annotations

from workflow_graph import Graph, Output, Placed

from .files import accelerator_file, split_file
from .parts import (
    WAN_PROMPT,
    accelerate,
    few_steps,
    no_negative,
    prompt_box,
    save_clip,
    show_report,
)
from .workflow import workflow

GEMMA = split_file("text_encoders", "Comfy-Org/ltx-2", "gemma_3_12B_it_fp4_mixed")
PROMPT = f"{WAN_PROMPT}. Crunching snow, a distant bird call"
FRAMES, RATE = 121, 24.0


@workflow(
    "LTX-2 distilled 8 steps",
    "ltx2_distilled",
    """
    ## LTX-2 video with sound in 8 steps

    The checkpoint is distilled itself, so `lora_name` is **none** and `accelerator` says which
    model it is. Picture and sound are sampled together.

    **Length** counts video frames: 8 n + 1, 121 is five seconds at 24 frames a second.

    **CFG is locked to 1**: a negative prompt has no effect.
    """,
    steps=8,
)
def distilled(graph: Graph) -> None:
    checkpoint = accelerator_file("ltx2-19b-distilled")
    with graph.group("Models"):
        loaded = graph.node("CheckpointLoaderSimple", ckpt_name=checkpoint)
        fast = accelerate(graph, loaded, None, "ltx2-19b-distilled")
        text = graph.node("LTXAVTextEncoderLoader", text_encoder=GEMMA, ckpt_name=checkpoint)
        audio_vae = graph.node("LTXVAudioVAELoader", ckpt_name=checkpoint)["Audio VAE"]
    with graph.group("Prompt and size"):
        positive = prompt_with_rate(graph, text["CLIP"])
        picture = graph.node(
            "EmptyLTXVLatentVideo", "Video size", width=960, height=544, length=FRAMES
        )
        sound = graph.node(
            "LTXVEmptyLatentAudio",
            "Sound length",
            audio_vae=audio_vae,
            frames_number=FRAMES,
            frame_rate=RATE,
        )
    with graph.group("Sampling"):
        both = graph.node(
            "LTXVConcatAVLatent",
            "Picture and sound",
            video_latent=picture["LATENT"],
            audio_latent=sound["Latent"],
        )
        sampled = few_steps(graph, fast, positive, both["latent"])
        apart = graph.node("LTXVSeparateAVLatent", "Picture, sound", av_latent=sampled["latent"])
    save_with_sound(graph, apart, loaded["VAE"], audio_vae)
    show_report(graph, sampled)


def prompt_with_rate(graph: Graph, clip: Output) -> Output:
    """The prompt, and at how many frames a second it is to be shown."""
    prompt = prompt_box(graph, clip, PROMPT)
    return graph.node(
        "LTXVConditioning",
        "LTXV Conditioning",
        positive=prompt,
        negative=no_negative(graph, prompt),
        frame_rate=RATE,
    )["positive"]


def save_with_sound(graph: Graph, apart: Placed, vae: Output, audio_vae: Output) -> None:
    with graph.group("Decoding", below=True):
        sound = graph.node("LTXVAudioVAEDecode", samples=apart["audio_latent"], audio_vae=audio_vae)
        decoded = graph.node("VAEDecodeTiled", samples=apart["video_latent"], vae=vae)
    with graph.group("Video"):
        save_clip(graph, decoded["IMAGE"], RATE, audio=sound["Audio"])


WORKFLOWS = (distilled,)
