"""The last real evaluations of a run, and what they say about the next one.

What is kept is the derivative d = (x - denoised) / σ: the velocity of a flow model, the noise
estimate of the others. It changes slowly along a trajectory, whereas `denoised - x` shrinks with σ
and must not be reused as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .schedule import is_same_sigma

Weights = tuple[float, ...]


@dataclass(frozen=True)
class Entry:
    """One real evaluation. Tensors are float32, (B, ...) or, of several outputs, (K, B, ...)."""

    sigma: float
    level: float
    derivative: Tensor
    denoised: Tensor | None = None

    @property
    def bytes(self) -> int:
        return sum(
            tensor.nbytes for tensor in (self.derivative, self.denoised) if tensor is not None
        )


@dataclass
class History:
    """The last entries of a run, of descending sigma."""

    length: int = 2  # entries kept, at most
    device: torch.device | None = None  # where they are kept; None: where they were made
    entries: list[Entry] = field(default_factory=list)

    def record(self, entry: Entry) -> None:
        """Add an evaluation. It replaces those at or below its level, as after a step back."""
        kept = [
            old
            for old in self.entries
            if old.sigma > entry.sigma and not is_same_sigma(old.sigma, entry.sigma)
        ]
        self.entries = [*kept, self._stored(entry)][-self.length :]

    def _stored(self, entry: Entry) -> Entry:
        if self.device is None:
            return entry
        denoised = None if entry.denoised is None else entry.denoised.to(self.device)
        return Entry(entry.sigma, entry.level, entry.derivative.to(self.device), denoised)

    def usable(self, sigma: float) -> tuple[Entry, ...]:
        """The entries at or above this level, oldest first; none if fewer than two."""
        entries = tuple(
            entry
            for entry in self.entries
            if entry.sigma > sigma or is_same_sigma(entry.sigma, sigma)
        )
        return entries if len(entries) >= 2 else ()

    def clear(self) -> None:
        self.entries = []

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries)


def newton_weights(
    entries: Sequence[Entry], level: float, damping: float = 1.0, curvature: float = 0.0
) -> Weights:
    """Weights of the evaluations, oldest first, of Newton's polynomial read at `level`.

    newest + damping·(line through the last two - newest) + curvature·(parabola through the last
    three - line). damping 0 repeats the newest; curvature needs three entries.
    """
    weights = [0.0] * (len(entries) - 1) + [1.0]
    older, newer = entries[-2].level, entries[-1].level
    if newer == older:
        return tuple(weights)
    slope = damping * (level - newer) / (newer - older)
    weights[-1] += slope
    weights[-2] -= slope
    oldest = entries[-3].level if len(entries) >= 3 else older
    if curvature and oldest != older:
        bend = curvature * (level - newer) * (level - older) / (newer - oldest)
        weights[-1] += bend / (newer - older)
        weights[-2] -= bend / (newer - older) + bend / (older - oldest)
        weights[-3] += bend / (older - oldest)
    return tuple(weights)


def reach(entries: Sequence[Entry], level: float) -> float:
    """How far out a straight line is read: its error is this times half the second derivative."""
    return abs((level - entries[-2].level) * (level - entries[-1].level))


def combine(tensors: Sequence[Tensor], weights: Sequence[float], device: torch.device) -> Tensor:
    """The weighted sum, on this device, as a new tensor."""
    total = tensors[0].to(device) * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:]):
        total = torch.add(total, tensor.to(device), alpha=weight)
    return total


def parabola_weights(levels: Sequence[float], level: float) -> tuple[float, float, float]:
    """Lagrange's weights of three evaluations for the parabola through them, read at `level`."""
    a, b, c = levels
    return (
        (level - b) * (level - c) / ((a - b) * (a - c)),
        (level - a) * (level - c) / ((b - a) * (b - c)),
        (level - a) * (level - b) / ((c - a) * (c - b)),
    )
