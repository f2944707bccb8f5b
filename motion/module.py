"""The motion module: attention between a clip's frames, after every spatial block of SD 1.5.

Guo et al. 2023, AnimateDiff, arXiv 2307.04725, section 4.2. The weights' names here are our own;
keys.py translates the published layouts to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Of every published motion module; no file says it.
HEADS = 8
NORM_GROUPS = 32
# Spatial blocks at each resolution of the UNet, on the way down and on the way up.
DOWN_PER_LEVEL, UP_PER_LEVEL = 2, 3

# Queries, keys and values (N, L, heads·d) and the number of heads -> (N, L, heads·d).
Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Architecture:
    """What differs between motion modules.

    widths: channels at each resolution, finest first. positions: longest clip.
    """

    widths: tuple[int, ...]
    positions: int
    has_middle: bool


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head attention, torch's own. q, k, v and the result: (N, L, heads·d)."""
    q, k, v = (
        torch.unflatten(x, -1, (heads, -1)).transpose(1, 2) for x in (q, k, v)
    )  # (N, heads, L, d)
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)


def sinusoids(positions: int, channels: int) -> Tensor:
    """Position encodings (1, positions, channels): sines in even channels, cosines in odd ones.

    Vaswani et al. 2017, section 3.5. Files carry theirs; this one is for those that do not
    (AnimateLCM).
    """
    rates = torch.exp(torch.arange(0, channels, 2) * (-math.log(10000.0) / channels))
    angles = torch.arange(positions).unsqueeze(1) * rates  # (positions, channels / 2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).unsqueeze(0)


class Positions(nn.Module):
    """Adds each frame's place in the clip. A layer of its own: hosts move whole layers."""

    def __init__(self, channels: int, positions: int, **factory: Any):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, positions, channels, **factory))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, T, C), T at most the number of positions."""
        return x + self.weight[:, : x.shape[1]].to(x)


class TemporalAttention(nn.Module):
    """Normalise, add the positions, attend from every frame to every frame."""

    def __init__(
        self, channels: int, positions: int, attention: Attention, operations: Any, **factory: Any
    ):
        super().__init__()
        self.attention = attention
        self.norm = operations.LayerNorm(channels, **factory)
        self.positions = Positions(channels, positions, **factory)
        self.to_q = operations.Linear(channels, channels, bias=False, **factory)
        self.to_k = operations.Linear(channels, channels, bias=False, **factory)
        self.to_v = operations.Linear(channels, channels, bias=False, **factory)
        self.to_out = operations.Linear(channels, channels, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, T, C)."""
        x = self.positions(self.norm(x))
        attended: Tensor = self.to_out(
            self.attention(self.to_q(x), self.to_k(x), self.to_v(x), HEADS)
        )
        return attended


class FeedForward(nn.Module):
    """Normalise, widen fourfold with a gated GELU (Shazeer 2020, arXiv 2002.05202), come back."""

    def __init__(self, channels: int, operations: Any, **factory: Any):
        super().__init__()
        self.norm = operations.LayerNorm(channels, **factory)
        self.proj_in = operations.Linear(channels, 8 * channels, **factory)
        self.proj_out = operations.Linear(4 * channels, channels, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, T, C)."""
        wide, gate = self.proj_in(self.norm(x)).chunk(2, dim=-1)
        narrowed: Tensor = self.proj_out(wide * functional.gelu(gate))
        return narrowed


class TemporalBlock(nn.Module):
    """Two temporal attentions and a feed-forward, each added to what it was given."""

    def __init__(
        self, channels: int, positions: int, attention: Attention, operations: Any, **factory: Any
    ):
        super().__init__()
        self.attentions = nn.ModuleList(
            TemporalAttention(channels, positions, attention, operations, **factory)
            for _ in range(2)
        )
        self.feed_forward = FeedForward(channels, operations, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, T, C)."""
        for layer in (*self.attentions, self.feed_forward):
            x = x + layer(x)
        return x


class TemporalTransformer(nn.Module):
    """One motion module: every place in the picture attends along time, and only along time."""

    def __init__(
        self, channels: int, positions: int, attention: Attention, operations: Any, **factory: Any
    ):
        super().__init__()
        self.norm = operations.GroupNorm(NORM_GROUPS, channels, eps=1e-6, **factory)
        self.proj_in = operations.Linear(channels, channels, **factory)
        self.block = TemporalBlock(channels, positions, attention, operations, **factory)
        self.proj_out = operations.Linear(channels, channels, **factory)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """x: (B·T, C, H, W), a clip in T = frames rows. Clips do not see each other."""
        height, width = x.shape[-2:]
        # The statistics are those of the whole clip, as in diffusers; the authors' own code takes
        # each frame's.
        hidden: Tensor = self.norm(
            torch.unflatten(x, 0, (-1, frames)).transpose(1, 2)
        )  # (B, C, T, H, W)
        hidden = hidden.permute(0, 3, 4, 2, 1).flatten(0, 2)  # (B·H·W, T, C)
        hidden = self.proj_out(self.block(self.proj_in(hidden)))
        hidden = torch.unflatten(hidden, 0, (-1, height, width)).permute(
            0, 3, 4, 1, 2
        )  # (B, T, C, H, W)
        return x + hidden.flatten(0, 1)


class MotionModule(nn.Module):
    """All motion modules of a UNet, down[level][i], middle and up[level][i] as its spatial blocks.

    operations: where the layers come from (torch.nn, or a host's that manages their memory).
    attention: how to attend.
    """

    def __init__(
        self,
        architecture: Architecture,
        attention: Attention = scaled_dot_product,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.architecture = architecture

        def transformer(channels: int) -> TemporalTransformer:
            return TemporalTransformer(
                channels, architecture.positions, attention, operations, dtype=dtype, device=device
            )

        def level(channels: int, count: int) -> nn.ModuleList:
            return nn.ModuleList(transformer(channels) for _ in range(count))

        widths = architecture.widths
        self.down = nn.ModuleList(level(channels, DOWN_PER_LEVEL) for channels in widths)
        self.middle = transformer(widths[-1]) if architecture.has_middle else None
        self.up = nn.ModuleList(level(channels, UP_PER_LEVEL) for channels in reversed(widths))
