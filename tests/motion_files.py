"""Synthetic motion modules: random weights under the published key names, and the same in
diffusers' own classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.models import MotionAdapter
from safetensors.torch import save_file
from torch import Tensor

SMALL_WIDTHS = (32, 64, 128, 128)
FULL_WIDTHS = (320, 640, 1280, 1280)


def motion_adapter(
    widths: tuple[int, ...] = SMALL_WIDTHS,
    positions: int = 32,
    has_middle: bool = True,
    seed: int = 0,
    size: float = 1.0,
) -> MotionAdapter:
    """diffusers' motion adapter with random weights. size: deviation of the output layers, 1 for as
    large as the others.

    The defaults have the tensors of AnimateDiff v2 and AnimateDiff-Lightning.
    """
    torch.manual_seed(seed)
    adapter = MotionAdapter(
        block_out_channels=widths,
        motion_layers_per_block=2,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=8,
        motion_norm_num_groups=32,
        motion_max_seq_length=positions,
        use_motion_mid_block=has_middle,
    )
    for name, parameter in adapter.named_parameters():
        # Fresh norms are all ones and zeros, which would hide one put in another's place.
        if "norm" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
        if "proj_out" in name:
            parameter.data *= size
    return adapter.eval()


def animatediff_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A diffusers adapter's tensors under AnimateDiff's own names, as in the files for ComfyUI."""
    renamed = {}
    for key, tensor in tensors.items():
        place, index, rest = (
            key.partition("motion_modules.")[0],
            *key.partition("motion_modules.")[2].split(".", 1),
        )
        new = f"{place}motion_modules.{index}.temporal_transformer.{rest}"
        for theirs, ours in (
            (".attn1.", ".attention_blocks.0."),
            (".attn2.", ".attention_blocks.1."),
            (".norm1.", ".norms.0."),
            (".norm2.", ".norms.1."),
            (".norm3.", ".ff_norm."),
        ):
            new = new.replace(theirs, ours)
        if "pos_embed" in new:
            for block in (0, 1):
                renamed[new.replace("pos_embed.pe", f"attention_blocks.{block}.pos_encoder.pe")] = (
                    tensor
                )
        else:
            renamed[new] = tensor
    return renamed


def save(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Path:
    """Write a .safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.to(dtype).clone().contiguous() for key, tensor in tensors.items()}, path)
    return path
