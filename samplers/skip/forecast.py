"""Step Skip's own method: a planned number of evaluations, the others extrapolated.

Three things were chosen by measurement (benchmarks/skip.py): the straight line in the logarithm of
the signal-to-noise ratio, where a model's output bends least; where the skips lie; and, for solvers
that are known, making good for the forecasts once the evaluation after them is there
(corrector.py).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ...loras.words import counted
from .corrector import Corrector, Missed
from .history import Entry, Weights, combine, newton_weights
from .method import Decision, Moment, Settings, SkipMethod
from .placement import Credit, planned_shares, steps_left_out
from .schedule import RunSchedule
from .tally import Tally
from .traits import SamplerTraits

# How much of the line's slope to believe in the first, second and third forecast in a row, on flow
# models. Noise-prediction models did better with all of it.
DAMPING = (0.75, 0.75, 0.5)
# The same for solvers known to look a step back: they give what is new in an evaluation half as
# much weight again, and so what is wrong in a forecast.
MULTISTEP_DAMPING = 0.25
# How much of a shift of x a model's denoised latent follows, for the corrector. With Euler it
# hardly mattered; with multistep solvers 0 was best on the demo model and on a noise-prediction
# mixture, 1 on a flow mixture.
RESPONSE = 1.0
MULTISTEP_RESPONSE = 0.5
# How much of the line's bend to believe in, in long runs of a noise-prediction model without
# injected noise. On flow models it changed nothing, and in short runs it did harm as often as good.
CURVATURE = 0.3
LONG_RUN = 25  # steps
# A sampler that injects noise moves x off the line: a quarter of the slope where x is all noise,
# more as there is less of it, and a quarter for a second forecast in a row; and half of the weight
# on the denoised latent, which new noise changes less than it changes the derivative.
STOCHASTIC_DAMPING = 0.25
STOCHASTIC_SHARE = 0.5
# An early error is carried on by all noise after it: better two in a row late than one alone early.
STOCHASTIC_START = 0.25
STOCHASTIC_RUN = 2
STOCHASTIC_SPEEDUP = 1.6  # at most; beyond it EasyCache came out nearer


class Forecast(SkipMethod):
    """Keeps to target_speedup, but evaluates where a forecast's expected error tops threshold."""

    does = "extrapolates along the noise level and keeps to target_speedup."
    about_target_speedup = (
        "evaluations without the node divided by evaluations with it. Higher is faster and less"
        " faithful; 1 changes nothing. The warm-up and the last step bound what can be reached."
    )
    about_threshold = (
        "the relative error to be expected, from the last forecast checked, above which an"
        " evaluation is made after all; lower is safer and slower."
    )

    def __init__(self, schedule: RunSchedule, settings: Settings, traits: SamplerTraits):
        super().__init__(schedule, settings, traits)
        self.keeps_denoised, self.extra_latents = traits.is_stochastic, int(traits.looks_back)
        is_curved = not schedule.is_flow and not traits.is_stochastic and schedule.steps >= LONG_RUN
        self.curvature = CURVATURE if is_curved else 0.0
        self.keeps = 3 if is_curved else 2
        speedup = settings.target_speedup
        if traits.is_stochastic:
            schedule = replace(schedule, start=max(schedule.start, STOCHASTIC_START))
            speedup = min(speedup, STOCHASTIC_SPEEDUP)
            self.longest_run = min(self.longest_run, STOCHASTIC_RUN)
        to_skip = schedule.steps - round(schedule.steps / speedup)
        self.shares = planned_shares(schedule, to_skip, self.longest_run)
        if not any(self.shares):
            self.refusal = f"a speed-up of {speedup:g} leaves none of the open steps out"
        self.credit = Credit(self.shares)
        self.corrector = None
        if traits.is_known:
            response = MULTISTEP_RESPONSE if traits.looks_back else RESPONSE
            self.corrector = Corrector(schedule, traits, response)

    @property
    def bytes(self) -> int:
        return 0 if self.corrector is None else self.corrector.bytes

    def decide(self, moment: Moment) -> Decision:
        """Where a sampler evaluates twice at one level (Heun), the second is known almost exactly:
        there it is the cheap one.
        """
        if self.shares[moment.step] == 0:
            return Decision.EVALUATE
        self.credit.earn(moment.step)
        price = 0.5 if moment.is_repeat else 1.5 if moment.has_repeats else 1.0
        if not self.credit.covers(price):
            return Decision.EVALUATE
        expected = moment.expected_error
        too_wrong = expected is not None and expected > self.settings.threshold
        return Decision.VETO if too_wrong else Decision.SKIP

    def predict(
        self, x: Tensor, moment: Moment, entries: tuple[Entry, ...], run_length: int
    ) -> Tensor:
        weights = self._weights(moment, entries, run_length)
        derivative = combine([entry.derivative for entry in entries], weights, x.device)
        denoised = [entry.denoised for entry in entries if entry.denoised is not None]
        if not denoised:
            return derivative
        return torch.lerp(
            derivative,
            (x.float() - combine(denoised, weights, x.device)) / moment.sigma,
            STOCHASTIC_SHARE,
        )

    def _weights(self, moment: Moment, entries: tuple[Entry, ...], run_length: int) -> Weights:
        damping = self._damping(moment.level, run_length)
        return newton_weights(entries, moment.level, damping, self.curvature)

    def _damping(self, level: float, run_length: int) -> float:
        if self.traits.is_stochastic:
            noise = 1 / math.hypot(1, math.exp(level)) if run_length == 1 else 1.0  # its share of x
            return 1 - (1 - STOCHASTIC_DAMPING) * noise
        if not self.schedule.is_flow:
            return 1.0
        return (
            MULTISTEP_DAMPING
            if self.traits.looks_back
            else DAMPING[min(run_length, len(DAMPING)) - 1]
        )

    def skipped(self, moment: Moment, entries: tuple[Entry, ...], run_length: int) -> Tensor | None:
        self.credit.spend()
        if self.corrector is None or moment.has_repeats:
            return None
        return self.corrector.skipped(
            Missed(moment.step, moment.level, self._weights(moment, entries, run_length))
        )

    def computed(
        self, moment: Moment, derivative: Tensor, entries: tuple[Entry, ...]
    ) -> Tensor | None:
        # None of the known solvers evaluates twice at one level; if something else makes them,
        # their reply is not known either.
        if self.corrector is None or moment.has_repeats:
            return None
        return self.corrector.computed(moment.step, moment.level, derivative, entries)

    def notes(self, tally: Tally) -> tuple[str, ...]:
        """What kept it from the target, where something did."""
        target = self.settings.target_speedup
        wanted = tally.asked - round(tally.asked / target)
        if tally.refusal is not None or tally.skipped >= wanted:
            return ()
        came = f"{target:g}x was asked for, and {tally.estimated_speedup:.2f}x came of it"
        why = ", ".join(self._bounds(tally, wanted))
        return (f"{came}: {why}" if why else came,)

    def _bounds(self, tally: Tally, wanted: int) -> list[str]:
        """In words, what kept it from leaving out `wanted` evaluations."""
        bounds = []
        planned = len(steps_left_out(self.shares, self.longest_run))
        planned = planned * tally.asked // self.schedule.steps  # of all evaluations in a step
        if planned < wanted:
            bounds.append("the warm-up, the window and max_consecutive allow no more")
            if self.traits.is_stochastic:
                bounds.append(
                    f"a sampler that injects noise gets {STOCHASTIC_SPEEDUP:g}x at most,"
                    f" {STOCHASTIC_RUN} skips in a row and none in the first"
                    f" {STOCHASTIC_START:.0%} of the steps"
                )
        if tally.vetoes:
            made = counted(tally.vetoes, "evaluation")
            bounds.append(f"{made} were made after all, as threshold asks")
        if tally.changes and tally.skipped + tally.vetoes < min(planned, wanted):
            bounds.append(
                "prompts, ControlNets or sizes that change on the way have evaluations made anew"
            )
        return bounds
