"""The last real evaluations of a run, and what they say about the next one.

What is kept is the derivative d = (x - denoised) / σ: the velocity of a flow model, the noise estimate of the others. It changes
slowly along a trajectory, whereas `denoised - x` shrinks with σ and must not be reused as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .schedule import is_same_sigma

Weights = tuple[float, float]


@dataclass(frozen=True)
class Entry:
    """One real evaluation. derivative, denoised: (B, ...) or, with several outputs, (K, B, ...), float32."""

    sigma: float
    level: float
    derivative: Tensor
    denoised: Tensor | None = None

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.derivative, self.denoised) if tensor is not None)


@dataclass
class History:
    """At most `length` entries of descending sigma, kept on `device` (None: where they were made)."""

    length: int = 2
    device: torch.device | None = None
    entries: list[Entry] = field(default_factory=list)

    def record(self, entry: Entry) -> None:
        """Take in an evaluation. It replaces those at its own level and below, which a sampler that goes back leaves behind."""
        kept = [old for old in self.entries if old.sigma > entry.sigma and not is_same_sigma(old.sigma, entry.sigma)]
        self.entries = [*kept, self._stored(entry)][-self.length :]

    def _stored(self, entry: Entry) -> Entry:
        if self.device is None:
            return entry
        denoised = None if entry.denoised is None else entry.denoised.to(self.device)
        return Entry(entry.sigma, entry.level, entry.derivative.to(self.device), denoised)

    def pair(self, sigma: float) -> tuple[Entry, Entry] | None:
        """The two last entries at or above this level, or None where there are fewer."""
        usable = [entry for entry in self.entries if entry.sigma > sigma or is_same_sigma(entry.sigma, sigma)]
        return (usable[-2], usable[-1]) if len(usable) >= 2 else None

    def clear(self) -> None:
        self.entries = []

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries)


def linear_weights(pair: tuple[Entry, Entry], level: float, damping: float) -> Weights:
    """Weights (older, newer) of the straight line through two evaluations, its slope scaled by damping (0 repeats the newer).

    newer + damping·(level - newer.level)·(newer - older) / (newer.level - older.level)
    """
    older, newer = pair
    if newer.level == older.level:
        return 0.0, 1.0
    slope = damping * (level - newer.level) / (newer.level - older.level)
    return -slope, 1.0 + slope


def reach(pair: tuple[Entry, Entry], level: float) -> float:
    """How far out of two evaluations a straight line is read: its error is this times half the second derivative."""
    return abs((level - pair[0].level) * (level - pair[1].level))


def combine(tensors: Sequence[Tensor], weights: Sequence[float], device: torch.device) -> Tensor:
    """The weighted sum, on this device, as a new tensor."""
    total = tensors[0].to(device) * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:]):
        total = torch.add(total, tensor.to(device), alpha=weight)
    return total


def parabola_weights(levels: Sequence[float], level: float) -> tuple[float, float, float]:
    """Lagrange's weights of three evaluations at these levels for the parabola through them, read at `level`."""
    a, b, c = levels
    return (
        (level - b) * (level - c) / ((a - b) * (a - c)),
        (level - a) * (level - c) / ((b - a) * (b - c)),
        (level - a) * (level - b) / ((c - a) * (c - b)),
    )
