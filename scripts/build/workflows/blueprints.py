"""The two commonest graphs as single nodes."""

from __future__ import annotations

from blueprint import Blueprint, Exposed
from node_schema import Schema

from . import sdxl, wan22

ALIASES = ("lightning", "lcm", "hyper-sd", "lightx2v", "turbo", "4 step", "few step", "fast")


def blueprints(schema: Schema) -> list[Blueprint]:
    return [text_to_image(schema), text_to_video(schema)]


def text_to_image(schema: Schema) -> Blueprint:
    return Blueprint(
        sdxl.lightning.graph(schema),
        "Few-Step Text to Image",
        "A picture in the few steps that the accelerator was distilled for: SD 1.5, SDXL and"
        " other checkpoints with LCM, Lightning, Hyper-SD, DMD2.",
        ALIASES,
        (
            Exposed("Prompt", "text", "prompt"),
            Exposed("EmptyLatentImage", "width", "width"),
            Exposed("EmptyLatentImage", "height", "height"),
            Exposed("FewStepSampler", "seed", "seed"),
            Exposed("FewStepSampler", "steps", "steps"),
            Exposed("CheckpointLoaderSimple", "ckpt_name", "ckpt_name"),
            Exposed("FewStepAccelerator", "lora_name", "lora_name"),
            Exposed("FewStepAccelerator", "accelerator", "accelerator"),
        ),
        {"IMAGE": ("VAEDecode", "IMAGE"), "report": ("FewStepSampler", "report")},
    )


def text_to_video(schema: Schema) -> Blueprint:
    return Blueprint(
        wan22.text_to_video.graph(schema),
        "Few-Step Text to Video (Wan 2.2)",
        "Wan 2.2 text to video in 4 steps: both experts with their Lightning LoRAs in one sampler.",
        ALIASES,
        (
            Exposed("Prompt", "text", "prompt"),
            Exposed("Video size", "width", "width"),
            Exposed("Video size", "height", "height"),
            Exposed("Video size", "length", "length"),
            Exposed("FewStepSampler", "seed", "seed"),
            Exposed("High-noise expert", "unet_name", "high_noise_model"),
            Exposed("Accelerator, high noise", "lora_name", "high_noise_lora"),
            Exposed("Low-noise expert", "unet_name", "low_noise_model"),
            Exposed("Accelerator, low noise", "lora_name", "low_noise_lora"),
            Exposed("CLIPLoader", "clip_name", "clip_name"),
            Exposed("VAELoader", "vae_name", "vae_name"),
        ),
        {"VIDEO": ("CreateVideo", "VIDEO"), "report": ("FewStepSampler", "report")},
    )
