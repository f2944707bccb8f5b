"""One sampling run with some evaluations left out: what every method shares. Pure torch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from .history import Entry, History, reach
from .method import Decision, Moment, SkipMethod
from .schedule import RunSchedule, is_same_sigma
from .tally import Tally
from .traits import SamplerTraits

# Below this, running fewer steps gives the better picture: measured on trained models, break-even
# lies at 10 to 12.
LEAST_EVALUATIONS = 10


@dataclass(frozen=True)
class Check:
    """A forecast held against the evaluation it would have stood in for."""

    reach: float  # history.reach of it
    width: float  # Moment.width of it
    error: Tensor  # of its derivative, relative to the latent; 0-dim


class SkipRun:
    """Stands between a sampler and its model for one run. State: a short history and counters."""

    def __init__(
        self,
        schedule: RunSchedule,
        traits: SamplerTraits,
        method: SkipMethod,
        *,
        device: torch.device | None = None,
        regime_of: Callable[[float], Hashable] = lambda sigma: None,
    ):
        """device: where the history is kept, None for where it is made. regime_of: what conditions
        the model at a noise level; evaluations of one regime say nothing about another.
        """
        self.schedule, self.method = schedule, method
        self.regime_of = regime_of
        self.regime: Hashable = None
        self.history = History(method.keeps, device)
        self.tally = Tally()
        self.run_length = 0
        self.unread: Check | None = None
        # What the last forecast checked says of others: error of the derivative per reach.
        self.error_per_reach: float | None = None
        self.is_worth_it = False
        self.has_repeats = False
        self.tally.refusal = traits.refusal or self._refusal_of_schedule() or method.refusal

    @property
    def refusal(self) -> str | None:
        """Why the whole run passes through, if it does."""
        return self.tally.refusal

    def pass_through(self, reason: str) -> None:
        """From now on every evaluation is made."""
        self.tally.refusal = reason
        self.history.clear()

    def _refusal_of_schedule(self) -> str | None:
        if not self.schedule.is_descending:
            return "the noise levels do not descend"
        if self.schedule.open_steps == 0:
            return (
                f"no step of the {self.schedule.steps} lies in the part of the schedule where"
                " skipping is allowed"
            )
        return None

    def evaluate(self, x: Tensor, sigma: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """The denoised latent at x: from the model, or forecast from earlier ones on a skip.

        x: (B, ...). sigma: 0-dim. compute returns (B, ...) or several outputs (K, B, ...) for the
        same x.
        """
        self.tally.asked += 1
        if self.refusal is not None:
            self.tally.made += 1
            return compute()
        moment = self._moment(x, sigma)
        self._follow_regime(x, moment.sigma)
        entries = self.history.usable(moment.sigma)
        if entries and self._is_left_out(moment):
            return self._skip(x, moment, entries)
        return self._compute(x, moment, entries, compute)

    def finish(self) -> Tally:
        """The tally once the run is over."""
        if self.unread is not None:
            self._take_error(self.unread, float(self.unread.error))
        return self.tally

    def _moment(self, x: Tensor, sigma: Tensor) -> Moment:
        """All numbers that live on the device in one read.

        This is the only point where the host waits for the device: a position found by sigma needs
        the sigma. It costs the device the few kernel launches that would have been queued ahead,
        well under a millisecond per evaluation, and the forecast's error of the evaluation before
        comes along for nothing.
        """
        signal = self.method.signal(x, sigma)
        wanted = [sigma, None if self.unread is None else self.unread.error, signal]
        present = [
            value.detach().to(x.device, torch.float32).reshape(())
            for value in wanted
            if value is not None
        ]
        numbers = iter(torch.stack(present).tolist())
        level = next(numbers)
        if self.unread is not None:
            self._take_error(self.unread, next(numbers))
        last = self.history.entries[-1] if self.history.entries else None
        is_repeat = last is not None and is_same_sigma(last.sigma, level)
        self.has_repeats = self.has_repeats or is_repeat
        self.tally.starts.append((time.perf_counter(), False))
        step = self.schedule.step_of(level)
        width = max(level - self.schedule.sigmas[step + 1], 0.0)
        return Moment(
            sigma=level,
            level=self.schedule.level(level),
            step=step,
            width=width,
            is_repeat=is_repeat,
            has_repeats=self.has_repeats,
            expected_error=self._expected_error(level, width),
            signal=next(numbers) if signal is not None else None,
        )

    def _expected_error(self, sigma: float, width: float) -> float | None:
        """A line errs in proportion to its reach: the product of distances to its evaluations."""
        entries = self.history.usable(sigma)
        if not entries or self.error_per_reach is None:
            return None
        if width == 0:  # as at sigma 0, out of reach of any line: it moves the latent nowhere
            return 0.0
        return self.error_per_reach * reach(entries, self.schedule.level(sigma)) * width

    def _take_error(self, check: Check, error: float) -> None:
        self.tally.errors.append(error * check.width)
        self.error_per_reach = error / check.reach if check.reach > 0 else self.error_per_reach
        self.unread = None

    def _follow_regime(self, x: Tensor, sigma: float) -> None:
        # Some samplers evaluate at several sizes of the latent in one step.
        regime = (x.shape, self.regime_of(sigma))
        if regime != self.regime:
            self.tally.changes += bool(self.history.entries)
            self.history.clear()
        self.regime = regime

    def _is_left_out(self, moment: Moment) -> bool:
        if not self.schedule.is_open(moment.sigma):
            return False
        if not self.is_worth_it:
            # By now the warm-up has shown how many evaluations this sampler makes per step.
            # One with noise levels of its own may be far down the schedule after a few of them.
            expected = round((self.tally.asked - 1) / moment.step * self.schedule.steps)
            expected = max(expected, self.schedule.steps)
            if expected < LEAST_EVALUATIONS:
                self.pass_through(
                    f"{expected} evaluations are too few: below {LEAST_EVALUATIONS}, fewer plain"
                    " steps give the better picture at the same cost"
                )
                return False
            self.is_worth_it = True
        decision = self.method.decide(moment)
        self.tally.vetoes += decision is Decision.VETO
        return decision is Decision.SKIP and self.run_length < self.method.longest_run

    def _skip(self, x: Tensor, moment: Moment, entries: tuple[Entry, ...]) -> Tensor:
        self.run_length += 1
        denoised = x - moment.sigma * self.method.predict(x, moment, entries, self.run_length)
        correction = self.method.skipped(moment, entries, self.run_length)
        self.tally.steps_skipped.append(moment.step)
        self.tally.starts[-1] = (self.tally.starts[-1][0], True)
        return (denoised if correction is None else denoised + correction.to(x.device)).to(x.dtype)

    def _compute(
        self, x: Tensor, moment: Moment, entries: tuple[Entry, ...], compute: Callable[[], Tensor]
    ) -> Tensor:
        self.tally.made += 1
        denoised = compute()
        if moment.sigma <= 0:
            return denoised
        derivative = (x.float() - denoised.float()) / moment.sigma
        if entries:
            missed = self.method.predict(x, moment, entries, self.run_length + 1) - derivative
            error = missed.norm() / (x.float().norm() * math.sqrt(missed.numel() / x.numel()))
            self.unread = Check(reach(entries, moment.level), moment.width, error)
        correction = self.method.computed(moment, derivative, entries)
        # A copy: the sampler is free to overwrite what it is given.
        kept = denoised.to(torch.float32, copy=True) if self.method.keeps_denoised else None
        self.history.record(Entry(moment.sigma, moment.level, derivative, kept))
        self.tally.history_bytes = max(
            self.tally.history_bytes, self.history.bytes + self.method.bytes
        )
        self.run_length = 0
        if correction is None:
            return denoised
        return (denoised.float() + correction.to(x.device)).to(denoised.dtype)
