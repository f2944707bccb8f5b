"""Making good for forecasts once the evaluation after them shows what they missed.

A solver whose steps are linear in what the model returns has a known reply to every error in it. So the error that forecasts have left
in the latent can be reckoned as soon as the next evaluation is there, and taken out by what the sampler is given from then on: a
corrector in the sense of predictor-corrector methods, at no evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .history import Entry, Weights, combine, parabola_weights
from .schedule import Schedule
from .solver import Solver


@dataclass(frozen=True)
class Missed:
    """A forecast that stood in for an evaluation. weights: its weights of the entries then in the history."""

    step: int
    level: float
    weights: Weights


class Corrector:
    """What is to be added to the denoised latents that a sampler is given. For solvers with a reply only; made anew for each run."""

    def __init__(self, schedule: Schedule, solver: Solver):
        self.schedule, self.solver = schedule, solver
        self.missed: list[Missed] = []
        # What was added at the last step: a multistep solver will use it once more.
        self.added: Tensor | None = None
        self.added_at = 0

    @property
    def bytes(self) -> int:
        return 0 if self.added is None else self.added.numel() * self.added.element_size()

    def skipped(self, missed: Missed) -> Tensor | None:
        """To be added to this forecast."""
        self.missed.append(missed)
        return self._note(missed.step, self._echo(missed.step))

    def computed(self, step: int, level: float, derivative: Tensor, entries: Sequence[Entry]) -> Tensor | None:
        """To be added to this evaluation. entries: those that the forecasts since the last one were made from."""
        missed, self.missed = self.missed, []
        echo, correction = self._echo(step), None
        if missed and entries:
            tensors = [*(entry.derivative for entry in entries), derivative]
            correction = combine(tensors, self._correction(step, level, missed, entries), derivative.device)
        if correction is None or echo is None:
            return self._note(step, echo if correction is None else correction)
        return self._note(step, correction + echo)

    def _correction(self, step: int, level: float, missed: Sequence[Missed], entries: Sequence[Entry]) -> list[float]:
        """Weights of the entries' derivatives and of the one just computed: what brings x to where the true ones would have led it.

        The true derivative at a missed level is read off the parabola through the last two entries and the new evaluation; derivatives
        are taken to be the same at both x.
        """
        sigmas = self.schedule.sigmas
        levels = (entries[-2].level, entries[-1].level, level)
        astray = [0.0] * (len(entries) + 1)  # by how much x lies short of where it should be
        short = [0.0] * (len(entries) + 1)  # and the denoised latent of the step before
        for forecast in missed:
            truth = (*[0.0] * (len(entries) - 2), *parabola_weights(levels, forecast.level))
            error = [sigmas[forecast.step] * (said - true) for said, true in zip((*forecast.weights, 0.0), truth)]
            now, before = self.solver.reply(sigmas, forecast.step)
            astray = [far + now * new + before * old for far, new, old in zip(astray, error, short)]
            short = error
        now, before = self.solver.reply(sigmas, step)
        return [(far + before * old) / now for far, old in zip(astray, short)]

    def _echo(self, step: int) -> Tensor | None:
        """What takes back the solver's second use of what was added at the step before."""
        if self.added is None or self.added_at != step - 1:
            return None
        now, before = self.solver.reply(self.schedule.sigmas, step)
        return self.added * (-before / now)

    def _note(self, step: int, added: Tensor | None) -> Tensor | None:
        if self.solver.looks_back:
            self.added, self.added_at = added, step
        return added
