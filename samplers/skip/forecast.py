"""Step Skip's own method: a planned number of evaluations, the others extrapolated.

Three things were chosen by measurement (benchmarks/skip.py): the straight line in the logarithm of the signal-to-noise ratio, where
a model's output bends least; even spacing after the warm-up; and, for Euler, making good for the forecast once the evaluation
after it is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .history import Entry, Weights, combine, linear_weights, parabola_weights
from .run import Decision, Moment, Settings
from .schedule import Schedule
from .solver import Solver

# How much of the line's slope to believe in the first, second and third forecast in a row.
DAMPING = (1.0, 0.75, 0.5)
# A sampler that injects noise moves x off the line: half the slope, and half of the weight on the denoised latent, which new noise
# changes less than it changes the derivative.
STOCHASTIC_DAMPING = 0.5
STOCHASTIC_SHARE = 0.5
# Half a skip in advance, so that the first comes in the middle of its interval and the count rounds to the nearest.
FIRST_CREDIT = 0.5
MOST_CREDIT = 2.0


@dataclass(frozen=True)
class Missed:
    """A forecast that stood in for one Euler step. width: sigma - sigma_next. weights: of the (older, newer) evaluation."""

    width: float
    level: float
    weights: Weights


class Forecast:
    """settings.threshold: the largest error to be expected of a forecast at which it may stand in for an evaluation."""

    def __init__(self, schedule: Schedule, settings: Settings, solver: Solver):
        self.schedule, self.threshold, self.solver = schedule, settings.threshold, solver
        self.keeps_denoised = solver.is_stochastic
        self.longest_run = 1 if solver.is_stochastic else settings.max_consecutive
        self.rate = skip_rate(schedule, settings.target_speedup, self.longest_run)
        self.refusal = None if self.rate > 0 else f"a speed-up of {settings.target_speedup:g} leaves nothing out"
        self.credit = FIRST_CREDIT
        self.missed: list[Missed] = []

    def signal(self, x: Tensor, sigma: Tensor) -> Tensor | None:
        return None

    def decide(self, moment: Moment) -> Decision:
        """Every evaluation that may be left out earns a share of one; a whole one is spent on leaving one out.

        Where a sampler evaluates twice at one level (Heun), the second is known almost exactly: there it is the cheap one.
        """
        self.credit = min(self.credit + self.rate, MOST_CREDIT)
        price = 0.5 if moment.is_repeat else 1.5 if moment.has_repeats else 1.0
        if self.credit < price - 1e-9:  # the credit is a sum of rounded numbers
            return Decision.EVALUATE
        too_wrong = moment.expected_error is not None and moment.expected_error > self.threshold
        return Decision.VETO if too_wrong else Decision.SKIP

    def predict(self, x: Tensor, moment: Moment, pair: tuple[Entry, Entry], run_length: int) -> Tensor:
        older, newer = pair
        weights = self._weights(moment, pair, run_length)
        derivative = combine((older.derivative, newer.derivative), weights, x.device)
        if not self.solver.is_stochastic:
            return derivative
        denoised = combine((older.denoised, newer.denoised), weights, x.device)
        return torch.lerp(derivative, (x.float() - denoised) / moment.sigma, STOCHASTIC_SHARE)

    def _weights(self, moment: Moment, pair: tuple[Entry, Entry], run_length: int) -> Weights:
        damping = STOCHASTIC_DAMPING if self.solver.is_stochastic else DAMPING[min(run_length, len(DAMPING)) - 1]
        return linear_weights(pair, moment.level, damping)

    def skipped(self, moment: Moment, pair: tuple[Entry, Entry], run_length: int) -> None:
        self.credit -= 1
        if self.solver.is_euler:
            self.missed.append(Missed(moment.width, moment.level, self._weights(moment, pair, run_length)))

    def computed(self, moment: Moment, derivative: Tensor, pair: tuple[Entry, Entry] | None) -> Tensor | None:
        """What Euler's steps since the last evaluation missed, as far as a parabola through this one shows it.

        A step moved x by width·forecast where width·parabola would have been better. The difference, divided by this step's own
        width, rides on this step's derivative: a corrector in the sense of predictor-corrector methods, at no evaluation.
        """
        missed, self.missed = self.missed, []
        if not missed or pair is None or moment.width == 0:
            return None
        total = [0.0, 0.0, 0.0]
        levels = (pair[0].level, pair[1].level, moment.level)
        for step in missed:
            parabola = parabola_weights(levels, step.level)
            for index, forecast in enumerate((*step.weights, 0.0)):
                total[index] += step.width * (parabola[index] - forecast)
        tensors = (pair[0].derivative, pair[1].derivative, derivative)
        return combine(tensors, [share / moment.width for share in total], derivative.device)


def skip_rate(schedule: Schedule, target_speedup: float, longest_run: int) -> float:
    """The share of the evaluations within the open part that has to be left out, for the whole run to reach the speed-up."""
    to_skip = schedule.steps - round(schedule.steps / target_speedup)
    if to_skip <= 0 or schedule.open_steps == 0:
        return 0.0
    return min(to_skip / schedule.open_steps, longest_run / (longest_run + 1))
