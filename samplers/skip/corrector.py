"""Making good for forecasts once the evaluation after them shows what they missed.

A solver whose steps are linear in what the model returns has a known reply to every error in it. So
the error that forecasts have left in the latent can be reckoned as soon as the next evaluation is
there, and taken out by what the sampler is given from then on: a corrector in the sense of
predictor-corrector methods, at no evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .history import Entry, Weights, combine, parabola_weights
from .schedule import RunSchedule
from .traits import SamplerTraits


@dataclass(frozen=True)
class Missed:
    """A forecast that stood in for an evaluation."""

    step: int
    level: float
    weights: Weights  # of the entries that were in the history then


class Corrector:
    """What to add to the denoised latents a sampler gets, for solvers whose reply is known.

    Made anew for each run.

    response: how much of a shift of x the model's denoised latent is taken to follow. 1 where
    derivatives are the same at both x, as on smooth data; 0 where the denoised latents are, as
    between the modes of the data.
    """

    def __init__(self, schedule: RunSchedule, traits: SamplerTraits, response: float):
        self.schedule, self.traits, self.response = schedule, traits, response
        self.missed: list[Missed] = []
        # By how much the denoised latent of the last step was too much: a multistep solver will use
        # it once more.
        self.excess: Tensor | None = None
        self.excess_step = 0

    @property
    def bytes(self) -> int:
        return 0 if self.excess is None else self.excess.nbytes

    def skipped(self, missed: Missed) -> Tensor | None:
        """To be added to this forecast."""
        self.missed.append(missed)
        echo = self._echo(missed.step)
        self._remember(missed.step, echo)
        return echo

    def computed(
        self, step: int, level: float, derivative: Tensor, entries: Sequence[Entry]
    ) -> Tensor | None:
        """What to add to this evaluation. entries: those that the last forecasts were made from."""
        missed, self.missed = self.missed, []
        echo = self._echo(step)
        if not missed or not entries:
            self._remember(step, echo)
            return echo
        correction, excess = self._correction(step, level, missed, entries)
        tensors = [*(entry.derivative for entry in entries), derivative]
        if self.traits.looks_back:
            where_history_is = entries[-1].derivative.device
            kept = combine(tensors, excess, where_history_is)
            self._remember(step, kept if echo is None else kept + echo)
        added = combine(tensors, correction, derivative.device)
        return added if echo is None else added + echo.to(added.device)

    def _correction(
        self, step: int, level: float, missed: Sequence[Missed], entries: Sequence[Entry]
    ) -> tuple[Weights, Weights]:
        """Weights of the entries' derivatives and of the one just computed: of what brings x to
        where it should be at the end of this step, and of the excess it leaves in the denoised
        latent.

        The true derivative at a missed level is read off the parabola through the last two entries
        and the new evaluation.
        """
        sigmas = self.schedule.sigmas
        levels = (entries[-2].level, entries[-1].level, level)
        lag = [0.0] * (len(entries) + 1)  # by how much x falls short
        short = lag  # by how much the denoised latent of the step before does
        for forecast in missed:
            truth = (*[0.0] * (len(entries) - 2), *parabola_weights(levels, forecast.level))
            sigma = sigmas[forecast.step]
            shorter = [
                self.response * x + sigma * (said - true)
                for x, said, true in zip(lag, (*forecast.weights, 0.0), truth)
            ]
            now, before = self.traits.reply(sigmas, forecast.step)
            lag = [
                (1 - now - before) * x + now * new + before * old
                for x, new, old in zip(lag, shorter, short)
            ]
            short = shorter
        now, before = self.traits.reply(sigmas, step)
        followed = [self.response * x for x in lag]
        correction = [
            x + ((1 - now - before) * far + before * old) / now
            for x, far, old in zip(followed, lag, short)
        ]
        return tuple(correction), tuple(added - x for added, x in zip(correction, followed))

    def _echo(self, step: int) -> Tensor | None:
        """What undoes the solver's second use of the excess; it leaves a smaller one, and so on."""
        if self.excess is None or self.excess_step != step - 1:
            return None
        now, before = self.traits.reply(self.schedule.sigmas, step)
        return self.excess * (-before / now) if before else None

    def _remember(self, step: int, excess: Tensor | None) -> None:
        self.excess, self.excess_step = excess, step
