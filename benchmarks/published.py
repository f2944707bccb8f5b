"""Published ways to leave evaluations out, written anew from their papers to be measured beside
Step Skip. Benchmark-only code.

TaylorSeer: Liu et al. 2025, "From Reusing to Forecasting: Accelerating Diffusion Models with
TaylorSeers", arXiv 2503.06923. HiCache: Feng et al. 2025, "HiCache: Training-free Acceleration of
Diffusion Models via Hermite Polynomial-based Feature Caching", arXiv 2508.16984. MagCache: Ma et
al. 2025, "MagCache: Fast Video Generation with Magnitude-Aware Cache", arXiv 2506.09045.

Their authors work on features inside the network, of every layer (TaylorSeer, HiCache) or of all
layers together (MagCache). Here each works on the network's input and output, as Step Skip does:
the same rules for what is made and what stands in for the rest, on what every network has.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

# What their authors offer to be set. Each method is run with every combination, and its best error
# at a number of evaluations counts.
INTERVALS = (2, 3, 4)  # one evaluation in so many
ORDERS = (1, 2)  # of the expansion
FIRST = (2, 3, 5, 8, 12)  # evaluations made before the first is left out; 2 or 3 in their code
HERMITE_SCALES = (0.5, 0.7)
MAGNITUDES = (0.01, 0.02, 0.04, 0.06, 0.09, 0.12, 0.18, 0.24, 0.36, 0.5)  # accumulated error
MOST_IN_A_ROW = (2, 4)  # K
RETENTION = (0.1, 0.2)  # share of the steps before the first is left out; 0.2 in their code


class Method(Protocol):
    """One run's state. Every step is asked for once, in order."""

    def is_made(self, step: int) -> bool: ...

    def keep(self, step: int, x: Tensor, output: Tensor) -> None: ...

    def forecast(self, step: int, x: Tensor) -> Tensor: ...


@dataclass
class Expansion:
    """TaylorSeer, and HiCache where a scale is given: differences of what was made last, times a
    polynomial in the steps since.
    """

    interval: int
    order: int
    first: int
    scale: float | None = None
    made: list[int] = field(default_factory=list)
    differences: list[Tensor] = field(default_factory=list)  # of order 0, 1, ...

    def is_made(self, step: int) -> bool:
        return step < self.first or step - self.made[-1] >= self.interval

    def keep(self, step: int, x: Tensor, output: Tensor) -> None:
        before, self.differences = self.differences, [output]
        for older in before[: self.order]:
            distance = step - self.made[-1]
            self.differences.append((self.differences[-1] - older) / distance)
        self.made.append(step)

    def forecast(self, step: int, x: Tensor) -> Tensor:
        ahead = step - self.made[-1]
        terms = (
            difference * (self._basis(n, ahead) / math.factorial(n))
            for n, difference in enumerate(self.differences)
        )
        return sum(terms, start=0 * self.differences[0])

    def _basis(self, n: int, ahead: int) -> float:
        """ahead^n, or the Hermite polynomial of this order, scaled inside and outside."""
        if self.scale is None:
            return ahead**n
        return self.scale**n * hermite(n, self.scale * ahead) if n else 1.0


def hermite(n: int, x: float) -> float:
    """The physicists' Hermite polynomial: 1, 2x, 4x^2 - 2, ..."""
    previous, current = 0.0, 1.0
    for k in range(n):
        previous, current = current, 2 * x * current - 2 * k * previous
    return current


@dataclass
class MagCache:
    """An error is reckoned from how the residual's size is known to change, and the
    last residual is reused while the errors add up to less than a threshold.
    """

    ratios: Sequence[float]  # of each step's residual to the one before, from calibration
    threshold: float
    most: int
    retention: float
    residual: Tensor | None = None
    ratio: float = 1.0
    error: float = 0.0
    in_a_row: int = 0

    def is_made(self, step: int) -> bool:
        if step < max(1, int(len(self.ratios) * self.retention)):
            return True
        self.ratio *= self.ratios[step]
        self.error += abs(1 - self.ratio)
        self.in_a_row += 1
        if self.error < self.threshold and self.in_a_row <= self.most:
            return False
        self.ratio, self.error, self.in_a_row = 1.0, 0.0, 0
        return True

    def keep(self, step: int, x: Tensor, output: Tensor) -> None:
        self.residual = output - x

    def forecast(self, step: int, x: Tensor) -> Tensor:
        return x + self.residual


@dataclass
class Calibration:
    """Makes every evaluation, and notes how the residual's size changes from step to step."""

    ratios: list[float] = field(default_factory=list)
    residual: Tensor | None = None

    def is_made(self, step: int) -> bool:
        return True

    def keep(self, step: int, x: Tensor, output: Tensor) -> None:
        """The mean over all positions of the ratio of lengths over the channels."""
        residual = output - x
        before = residual if self.residual is None else self.residual
        self.ratios.append((residual.norm(dim=1) / before.norm(dim=1)).mean().item())
        self.residual = residual

    def forecast(self, step: int, x: Tensor) -> Tensor:
        raise AssertionError("every evaluation is made")


def with_method(model, make: Callable[[], Method]) -> Any:
    """The model with a method around its network, for one run."""
    runs: dict[tuple[int, ...], Method] = {}  # by the prompts that the host evaluates together

    def around(executor, x: Tensor, *args, **kwargs):
        options = next(
            value
            for value in (*args, *kwargs.values())
            if isinstance(value, dict) and "sample_sigmas" in value
        )
        distance = (options["sample_sigmas"][:-1] - options["sigmas"][0]).abs()
        step, prompts = int(distance.argmin()), tuple(options["cond_or_uncond"])
        method = runs.setdefault(prompts, make())
        if not method.is_made(step):
            return method.forecast(step, x)
        before = x.clone()  # networks may add into it
        output = executor(x, *args, **kwargs)
        method.keep(step, before, output)
        return output

    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "benchmark.published", around)
    return patched


def taylor_seers(steps: int) -> dict[tuple, Callable[[], Method]]:
    """TaylorSeer at each of its settings that differs from the others in a run of so many steps."""
    return _expansions((None,), steps)


def hi_caches(steps: int) -> dict[tuple, Callable[[], Method]]:
    """HiCache, likewise."""
    return _expansions(HERMITE_SCALES, steps)


def _expansions(scales: Sequence[float | None], steps: int) -> dict[tuple, Callable[[], Method]]:
    makes = {}
    for order, scale, first, interval in itertools.product(ORDERS, scales, FIRST, INTERVALS):
        make = functools.partial(Expansion, interval, order, first, scale)
        makes[made_by(make, steps), order, scale] = make
    return makes


def mag_caches(ratios: Sequence[float]) -> dict[tuple, Callable[[], Method]]:
    """MagCache, likewise. ratios: of a Calibration in a run of as many steps."""
    makes = {}
    for retention, most, threshold in itertools.product(RETENTION, MOST_IN_A_ROW, MAGNITUDES):
        make = functools.partial(MagCache, ratios, threshold, most, retention)
        makes[(made_by(make, len(ratios)),)] = make
    return makes


def made_by(make: Callable[[], Method], steps: int) -> tuple[int, ...]:
    """The steps that are evaluated: with all of these methods known before the run."""
    method, nothing, made = make(), torch.zeros(1, 1), []
    for step in range(steps):
        if method.is_made(step):
            method.keep(step, nothing, nothing)
            made.append(step)
    return tuple(made)
