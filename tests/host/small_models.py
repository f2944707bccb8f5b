"""The host's own architectures at small size with random weights: what the host tier and the demo
run on.

No real weights are needed: the classes, the key names, the detection and the sampling are
ComfyUI's, and only the numbers in the weights are ours. Every weight follows from the seed and its
name, so two processes make the same model. Import this only where ComfyUI is importable
(enter_host.py).
"""

from __future__ import annotations

import functools
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.ldm.flux.model
import comfy.ldm.models.autoencoder
import comfy.ldm.wan.model
import comfy.ldm.wan.vae
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.text_encoders.wan
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]

# One long row of normal numbers that every tensor is cut from: a 2 GB checkpoint takes seconds, and
# the odd length keeps the copies inside a large tensor out of step with its rows.
ROW_LENGTH = (1 << 22) + 1009
# Seeds and precisions whose rows are kept, twice 16 MB each: most tests take the same few.
ROWS_KEPT = 4

# Older ComfyUIs have not; their tests skip what needs it.
HAS_CAUSAL_WAN = hasattr(comfy.supported_models, "WAN21_CausalAR_T2V")

SMALL_WIDTH = 32
FULL_WIDTH = 320

# What the UNets have in common, as the host's own detection writes it down.
UNET_COMMON = {
    "use_checkpoint": False,
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
SDXL_COMMON = {
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_head_channels": 64,
}
# Architecture -> (the host's class for it, its UNet but for the width). Text widths and depths are
# the real ones: they are what tells these models apart.
UNETS: dict[str, tuple[type, dict[str, Any]]] = {
    "sd15": (
        comfy.supported_models.SD15,
        {
            "adm_in_channels": None,
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 2, 4, 4],
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_middle": 1,
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "use_linear_in_transformer": False,
            "context_dim": 768,
            "num_heads": 8,
        },
    ),
    "sdxl": (
        comfy.supported_models.SDXL,
        {
            **SDXL_COMMON,
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_middle": 10,
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        },
    ),
    "ssd1b": (
        comfy.supported_models.SSD1B,
        {
            **SDXL_COMMON,
            "transformer_depth": [0, 0, 2, 2, 4, 4],
            "transformer_depth_middle": -1,
            "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4],
        },
    ),
}

WAN_SMALL = {
    "dim": 256,
    "ffn_dim": 512,
    "num_heads": 2,
    "num_layers": 4,
    "text_dim": 4096,
    "freq_dim": 256,
    "out_dim": 16,
}
# Variant -> what differs. The Wan 2.2 A14B image-to-video experts have no image branch: the image
# comes in as channels.
WANS: dict[str, dict[str, Any]] = {
    "wan21_t2v": {"model_type": "t2v", "in_dim": 16},
    "wan21_i2v": {"model_type": "i2v", "in_dim": 36},
    "wan22_i2v": {"model_type": "t2v", "in_dim": 36},
    "wan21_causal": {"model_type": "t2v", "in_dim": 16},
}
# How the host knows a causal Wan: the weights have the same names and shapes, so the file has to
# say it.
WAN_METADATA = {"wan21_causal": {"config": json.dumps({"transformer": {"causal_ar": True}})}}

FLUX_SMALL = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 256,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}

WAN_VAE_SMALL = {
    "dim": 8,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "dropout": 0.0,
}

SD_VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


@functools.lru_cache(ROWS_KEPT)
def row_twice(seed: int, dtype: torch.dtype) -> Tensor:
    """Normal numbers, and the same again: a part of any beginning is one piece of it."""
    row = torch.randn(ROW_LENGTH, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return row.repeat(2)


class RandomWeights:
    """Weights that follow from a seed and their names, scaled so that activations neither die nor
    explode.
    """

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32):
        self.dtype = dtype
        self.row = row_twice(seed, dtype)

    def normal(self, name: str, shape: tuple[int, ...], deviation: float) -> Tensor:
        """Normal numbers of this standard deviation, the same ones every time for the same name."""
        count, start = math.prod(shape), zlib.crc32(name.encode()) % ROW_LENGTH
        row = self.row[start : start + min(count, ROW_LENGTH)]
        if count > ROW_LENGTH:
            row = row.repeat(-(-count // ROW_LENGTH))[:count]
        return row.reshape(shape) * deviation

    def weight(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A weight of the kind its name and shape say it is."""
        if name.endswith(("norm.weight", "gamma", "scale")) or (
            name.endswith("weight") and len(shape) == 1
        ):
            return 1 + self.normal(name, shape, 0.05)
        if len(shape) < 2 or name.endswith("modulation"):
            return self.normal(name, shape, 0.05)
        return self.normal(name, shape, 1 / math.sqrt(math.prod(shape[1:])))

    def fill(self, shapes: Shapes) -> dict[str, Tensor]:
        """A whole state dict."""
        return {name: self.weight(name, shape) for name, shape in shapes.items()}


def shapes_of(module: torch.nn.Module, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Name and shape of everything in a module's state dict."""
    return {prefix + name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


# --- in-process models


def unet_config(architecture: str, width: int = SMALL_WIDTH) -> dict[str, Any]:
    """The UNet settings of sd15, sdxl or ssd1b at this width."""
    return {
        **UNET_COMMON,
        **UNETS[architecture][1],
        "model_channels": width,
        "dtype": torch.float32,
    }


def unet_patcher(
    architecture: str, seed: int = 0, **changes: Any
) -> comfy.model_patcher.ModelPatcher:
    """A MODEL of sd15, sdxl or ssd1b at small width: the host detects these at full width only, so
    it is built here.

    changes: of the UNet's settings.
    """
    config = UNETS[architecture][0](unet_config(architecture) | changes)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    model.diffusion_model.load_state_dict(
        RandomWeights(seed).fill(shapes_of(model.diffusion_model))
    )
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(
        model, load_device=device, offload_device=torch.device("cpu")
    )


def load_model(path: Path) -> comfy.model_patcher.ModelPatcher:
    """A MODEL from one of the files below, through the host's own loader. Skips the test on a
    ComfyUI that has no causal Wan.
    """
    with safe_open(path, framework="pt") as file:
        is_causal = "causal_ar" in str(file.metadata())
    if is_causal and not HAS_CAUSAL_WAN:
        import pytest  # not in the server, which this file is a part of, too

        pytest.skip("this ComfyUI has no causal Wan")
    return comfy.sd.load_diffusion_model(str(path))


def conditioning(
    model: comfy.model_patcher.ModelPatcher | None = None,
    seed: int = 0,
    *,
    width: int | None = None,
    length: int = 8,
) -> list[list[Any]]:
    """A CONDITIONING of random numbers: the width a model expects (768, 2048, 4096), or the one
    given.

    It stands in for the text encoder where that cannot be made small (Wan's umt5) and where the
    text does not matter. length: tokens; a real encoder's 77 or 512 are most of what a small
    network computes.
    """
    if width is None:
        config = model.model.model_config.unet_config if model is not None else {}
        width = config.get("context_dim") or config.get("context_in_dim") or 4096
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, 1280 if width == 2048 else 768, generator=generator)
    return [[torch.randn(1, length, width, generator=generator), {"pooled_output": pooled}]]


# --- files that the host detects and loads


class Letters:
    """A tokenizer of Wan's text encoder that gives every letter a number: its own takes a file."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        pass

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options):
        letters = [2 + ord(letter) % 250 for letter in text] + [1]
        return {"umt5xxl": [[(token, 1.0) for token in letters + [0] * (512 - len(letters))]]}


def wan_clip(seed: int = 0) -> comfy.sd.CLIP:
    """A CLIP of the host's own class of umt5, as wide as the real one: two layers, random."""
    small = {"num_layers": 2, "num_heads": 2, "d_ff": 64, "vocab_size": 260}
    target = SimpleNamespace(clip=comfy.text_encoders.wan.te(), tokenizer=Letters, params={})
    clip = comfy.sd.CLIP(target, model_options={"umt5xxl_model_config": small})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in clip.cond_stage_model.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return clip


def wan_shapes(variant: str, layers: int = WAN_SMALL["num_layers"]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a small Wan's weights."""
    settings = {**WAN_SMALL, **WANS[variant], "num_layers": layers}
    model = comfy.ldm.wan.model.WanModel(
        **settings, cross_attn_norm=True, device="meta", operations=comfy.ops.disable_weight_init
    )
    return shapes_of(model)


def write_wan(
    path: Path, variant: str = "wan21_t2v", seed: int = 0, layers: int = WAN_SMALL["num_layers"]
) -> Path:
    """A small Wan diffusion model: wan21_t2v, wan21_i2v, wan22_i2v or wan21_causal. layers: 40 for
    as many as the 14B has.
    """
    return save(
        path, RandomWeights(seed).fill(wan_shapes(variant, layers)), WAN_METADATA.get(variant)
    )


def write_wan_vae(path: Path, seed: int = 0) -> Path:
    """The Wan 2.1 VAE with 8 channels instead of 96."""
    with torch.device("meta"):
        shapes = shapes_of(comfy.ldm.wan.vae.WanVAE(**WAN_VAE_SMALL))
    return save(path, RandomWeights(seed).fill(shapes))


def write_flux(path: Path, seed: int = 0) -> Path:
    """A small Flux (guidance-embedded, as FLUX.1 dev)."""
    model = comfy.ldm.flux.model.Flux(
        **FLUX_SMALL, device="meta", operations=comfy.ops.disable_weight_init
    )
    return save(path, RandomWeights(seed).fill(shapes_of(model)))


def sd15_unet_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the full-width SD 1.5 UNet."""
    unet = UNetModel(
        **unet_config("sd15", FULL_WIDTH), device="meta", operations=comfy.ops.disable_weight_init
    )
    return shapes_of(unet)


def write_sd15_checkpoint(path: Path, seed: int = 0) -> Path:
    """A full-width SD 1.5 checkpoint (2 GB, float16) in the published key layout: UNet, CLIP and
    VAE.
    """
    config = comfy.supported_models.SD15(unet_config("sd15", FULL_WIDTH))
    with torch.device("meta"):
        clip = comfy.sd1_clip.SD1ClipModel(device="meta", dtype=torch.float16)
        vae = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=SD_VAE, embed_dim=4)
    unet = {f"model.diffusion_model.{name}": shape for name, shape in sd15_unet_shapes().items()}
    text = config.process_clip_state_dict_for_saving(shapes_of(clip))
    image = shapes_of(vae, prefix=config.vae_key_prefix[0])
    return save(path, RandomWeights(seed, torch.float16).fill({**unet, **text, **image}))


def save(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a .safetensors file in one step, so that a broken-off run leaves nothing that looks
    whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        partial,
        metadata=dict(metadata or {}),
    )
    partial.replace(path)
    return path
