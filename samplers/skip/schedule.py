"""Where in a run an evaluation stands, found by its noise level alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

WARM_UP_SHARE = 0.15  # of the steps; the picture's layout is decided there
WARM_UP_STEPS = 3
# A flow schedule starts at sigma 1, where the signal-to-noise ratio is zero and its logarithm has
# no value.
LEAST_SIGNAL = 1e-3
SAME_SIGMA = 1e-5  # relative: samplers recompute sigmas in float32


@dataclass(frozen=True)
class RunSchedule:
    """One run's noise levels and the part of them in which evaluations may be skipped."""

    sigmas: tuple[float, ...]  # N + 1 values, descending
    is_flow: bool  # x = (1 - σ)·x0 + σ·n, else x = x0 + σ·n
    # Shares of the steps between which evaluations may be skipped, whatever the spacing: by noise
    # level, half of a Karras schedule would lie past 95 %.
    start: float = 0.0
    end: float = 1.0

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def is_descending(self) -> bool:
        return all(left > right for left, right in zip(self.sigmas, self.sigmas[1:]))

    def step_of(self, sigma: float) -> int:
        """The step of an evaluation at this level: the last one that starts at or above it."""
        threshold = sigma * (1 - SAME_SIGMA)
        return max(0, sum(start >= threshold for start in self.sigmas[:-1]) - 1)

    def level(self, sigma: float) -> float:
        """Half the log of the signal-to-noise ratio: outputs change most evenly in it.

        Infinite at sigma 0, where no noise is left.

        The variable of DPM-Solver (Lu et al. 2022, arXiv 2206.00927). In sigma itself, a forecast
        over the long last steps of a flow schedule goes wrong.
        """
        if sigma <= 0:
            return math.inf
        signal = max(1 - sigma, LEAST_SIGNAL) if self.is_flow else 1.0
        return math.log(signal / sigma)

    @property
    def warm_up(self) -> int:
        """Steps at the start that are always made."""
        return max(WARM_UP_STEPS, _ceil(max(WARM_UP_SHARE, self.start) * self.steps))

    def is_open(self, sigma: float) -> bool:
        """Whether an evaluation at this level may be skipped at all."""
        return self.is_open_step(self.step_of(sigma))

    def is_open_step(self, step: int) -> bool:
        """After the warm-up, before the last step and the window's end."""
        return self.warm_up <= step < min(self.steps - 1, 1 + _floor(self.end * self.steps))

    @property
    def open_steps(self) -> int:
        return sum(map(self.is_open_step, range(self.steps)))


def _ceil(steps: float) -> int:
    return math.ceil(steps - 1e-9)  # 0.55 * 20 is 11.000000000000002


def _floor(steps: float) -> int:
    return math.floor(steps + 1e-9)


def is_same_sigma(a: float, b: float) -> bool:
    return abs(a - b) <= SAME_SIGMA * max(a, b)
