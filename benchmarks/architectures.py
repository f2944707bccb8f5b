"""The architectures that benchmarks/full_size.py runs, at the authors' own size and small.

What a run costs does not depend on what the weights are, so they are random. Each network is made
on the device, in bfloat16 or in fp8 (e4m3 weights, computed in bfloat16, as core's loader has it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from sampling import EXPERTS, LIGHTX2V

from more_models import SMALL
from small_models import FULL_WIDTH, SMALL_WIDTH, WAN_SMALL, unet_config

PRECISIONS = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
SELF_FORCING = "self-forcing-dmd"

# Sizes: the authors' configurations, as the host's detection writes them down.
WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "in_dim": 16,
    "out_dim": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "patch_size": (1, 2, 2),
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
}
WAN_14B = {**WAN, "dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40}
WAN_1_3B = {**WAN, "dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30}
SHALLOW = {
    "transformer_depth": [0, 0, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
}
FLUX = {"context_in_dim": 4096, "hidden_size": 3072, "num_heads": 24}
FLUX_DEPTH = {"depth": 19, "depth_single_blocks": 38}


@dataclass(frozen=True)
class Subject:
    """An architecture of the host's at the authors' own size, and the usual work."""

    words: str
    kind: str  # the host's class for it
    settings: Mapping[str, Any]  # of its network
    small: Mapping[str, Any]  # those that make it small
    latent: tuple[int, ...]
    text: tuple[int, int]  # (tokens, width)
    records: tuple[str, ...]  # of the accelerator, or of both experts'
    cfg: float = 5.0  # of the undistilled run
    rounds: int = 5  # at most, of runs that are timed in turns


def wan(words: str, settings: Mapping[str, Any], *records: str, causal: bool = False) -> Subject:
    """81 frames of 832 x 480."""
    return Subject(
        f"{words}, 81 frames of 832 x 480",
        "WAN21_CausalAR_T2V" if causal else "WAN21_T2V",
        settings,
        WAN_SMALL,
        (1, 16, 21, 60, 104),
        (512, 4096),
        records,
    )


def flux(words: str, kind: str, *records: str) -> Subject:
    """1024 x 1024. Guidance is an input of the network, or it has none."""
    settings = {**SMALL[kind], **FLUX, **FLUX_DEPTH}
    latent = (1, 16, 128, 128)
    return Subject(words, kind, settings, SMALL[kind], latent, (256, 4096), records, cfg=1.0)


SUBJECTS = {
    "sdxl": Subject(
        "SDXL, 1024 x 1024",
        "SDXL",
        unet_config("sdxl", FULL_WIDTH),
        unet_config("sdxl", SMALL_WIDTH) | SHALLOW,
        (1, 4, 128, 128),
        (77, 2048),
        ("sdxl-lightning-4step-lora",),
    ),
    "flux-schnell": flux("FLUX.1 schnell, 1024 x 1024", "FluxSchnell", "flux1-schnell"),
    "flux-dev": flux("FLUX.1 dev, 1024 x 1024", "Flux"),
    "wan-1.3b": wan("Wan 2.1 1.3B", WAN_1_3B, "rcm-wan21-t2v-1-3b-lora"),
    "wan-14b": wan("Wan 2.1 14B", WAN_14B, LIGHTX2V),
    "stream-1.3b": wan("causal Wan 2.1 1.3B", WAN_1_3B, SELF_FORCING, causal=True),
    "stream-14b": wan("causal Wan 2.1 14B", WAN_14B, SELF_FORCING, causal=True),
    "wan22-a14b": wan("Wan 2.2 A14B, both experts", WAN_14B, *EXPERTS),
    "qwen-image": Subject(
        "Qwen-Image, 1328 x 1328",
        "QwenImage",
        {
            **SMALL["QwenImage"],
            "num_layers": 60,
            "num_attention_heads": 24,
            "joint_attention_dim": 3584,
        },
        SMALL["QwenImage"],
        (1, 16, 1, 166, 166),
        (128, 3584),
        ("qwen-image-lightning-4step-lora",),
    ),
}


def made_small(subject: Subject) -> Subject:
    """The same at a size for any machine: small latents too."""
    settings = {**subject.settings, **subject.small}
    width = next(
        settings[name]
        for name in ("joint_attention_dim", "context_in_dim", "context_dim", "text_dim")
        if name in settings
    )
    latent = small_latent(subject)
    return replace(subject, settings=settings, latent=latent, text=(8, width), rounds=1)


def small_latent(subject: Subject) -> tuple[int, ...]:
    """Of the fewest frames and patches that the same code runs on: of a stream, two blocks."""
    frames = 6 if "Causal" in subject.kind else 2
    return (*subject.latent[:2], *((frames,) if len(subject.latent) == 5 else ()), 8, 8)


def network(subject: Subject, dtype: torch.dtype) -> ModelPatcher:
    """The host's model with random weights, made where they will stay."""
    device = comfy.model_management.get_torch_device()
    config = getattr(comfy.supported_models, subject.kind)(dict(subject.settings))
    config.set_inference_dtype(dtype, torch.bfloat16 if dtype.itemsize == 1 else None)
    model = config.get_model({}, "", device=device).to(device)
    for weight in model.diffusion_model.parameters():
        # By 1/sqrt(inputs), so that activations neither die nor explode.
        deviation = 1 / math.sqrt(max(math.prod(weight.shape[1:]), 1))
        made = torch.randn(weight.shape, device=device, dtype=torch.bfloat16)
        weight.data = made.mul_(deviation).to(weight.dtype)
    return ModelPatcher(model, load_device=device, offload_device=device)


def bytes_of(subject: Subject, dtype: torch.dtype) -> int:
    """Of the weights, before they are made."""
    config = getattr(comfy.supported_models, subject.kind)(dict(subject.settings))
    config.set_inference_dtype(dtype, torch.bfloat16 if dtype.itemsize == 1 else None)
    with torch.device("meta"):
        model = config.get_model({}, "", device="meta")
    weights = sum(weight.nbytes for weight in model.diffusion_model.parameters())
    return weights * max(len(subject.records), 1)


def conditioning_of(subject: Subject, seed: int) -> list:
    """Random text; FLUX's and SDXL's pooled text beside it."""
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, 1280 if subject.kind == "SDXL" else 768, generator=generator)
    return [[torch.randn(1, *subject.text, generator=generator), {"pooled_output": pooled}]]
