"""A LATENT on its way through a node: as core's samplers take it, and as nodes hand it on."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import comfy.model_management
import comfy.sample
import torch
from torch import Tensor

# How many of an empty latent's two ratios the host asks for: 0.20.1 does not know the temporal one.
RATIOS = len(inspect.signature(comfy.sample.fix_empty_latent_channels).parameters) - 2


def fitted_latent(model, latent: Mapping[str, Any]) -> Tensor:
    """A LATENT's tensor as core's samplers take it: an empty one is fitted to the model."""
    ratios = (latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal"))
    return comfy.sample.fix_empty_latent_channels(model, latent["samples"], *ratios[:RATIOS])


def first_tensor(samples: Tensor) -> Tensor:
    """The tensor of a latent; of several at once, such as a clip and its sound, the first."""
    return samples.unbind()[0] if samples.is_nested else samples


def handed_on(latent: Mapping[str, Any], samples: Tensor) -> dict[str, Any]:
    """The LATENT with what was made of it, as nodes take it. The scale that an empty one says of
    itself is obeyed by then.
    """
    kept = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
    return {**kept, "samples": samples.to(**between_nodes())}


def between_nodes() -> dict[str, Any]:
    """Where and how precisely the host hands latents on. 0.16 does not set the precision."""
    dtype = getattr(comfy.model_management, "intermediate_dtype", lambda: torch.float32)
    return {"device": comfy.model_management.intermediate_device(), "dtype": dtype()}


def image_tokens(model, latent: Mapping[str, Any]) -> int:
    """16 x 16 pixel patches in a LATENT's picture: what FLUX's schedules depend on."""
    height, width = first_tensor(fitted_latent(model, latent)).shape[-2:]
    scale = model.get_model_object("latent_format").spacial_downscale_ratio
    return round(height * scale * width * scale / (16 * 16))
