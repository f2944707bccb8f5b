"""A guided start: the undistilled model makes the first part of an accelerated run, with guidance.

Distilled models settle the layout in their first step, and there variety and motion are lost; the
undistilled model in place of that step brings them back. Gandikota and Bau 2025, Distilling
Diversity and Control in Diffusion Models, arXiv 2503.10637. They run the undistilled
model on the distilled one's own first timestep; here it may take several steps over that stretch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class GuidedSettings:
    """What a Guided Start asks for."""

    distilled_steps: int  # first steps of the accelerator's schedule that it stands in for
    guided_steps: int  # steps that it takes over their stretch
    cfg: float  # its guidance scale; 1 leaves the negative prompt out

    @property
    def per_step(self) -> int:
        """Evaluations of one guided step."""
        return 1 if math.isclose(self.cfg, 1.0) else 2

    @property
    def evaluations(self) -> int:
        """Of the whole guided part, for one sample."""
        return self.guided_steps * self.per_step


@dataclass(frozen=True)
class GuidedPart:
    """The guided part of a run, decided."""

    settings: GuidedSettings
    sigmas: tuple[float, ...]  # guided_steps + 1, from the run's first down to the hand-over


def levels_between(
    levels: Sequence[float], start: float, end: float, steps: int
) -> tuple[float, ...]:
    """steps + 1 noise levels from start down to end, evenly spaced in a model's training time.

    levels: the model's own sigma of each of its training timesteps, ascending and above 0. Between
    two entries it is their logarithms that are interpolated, as the host does it. Raises ValueError
    where the table has no levels between the two ends.
    """
    first, last = _place(levels, start), _place(levels, end)
    places = [first + (last - first) * step / steps for step in range(1, steps)]
    sigmas = (start, *(_level(levels, place) for place in places), end)
    if any(now <= then for now, then in zip(sigmas, sigmas[1:])):
        raise ValueError(
            f"the model has no {steps} noise levels between sigma {start:.4g} and {end:.4g}"
        )
    return sigmas


def _place(levels: Sequence[float], sigma: float) -> float:
    """Where in the table a noise level lies, 0 to the last index; one outside lies at the end."""
    above = sum(level < sigma for level in levels)
    if above in (0, len(levels)):
        return float(min(above, len(levels) - 1))
    low, high = math.log(levels[above - 1]), math.log(levels[above])
    return above - 1 + (math.log(sigma) - low) / (high - low)


def _level(levels: Sequence[float], place: float) -> float:
    """The noise level at a place in the table."""
    below = min(math.floor(place), len(levels) - 2)
    low, high = math.log(levels[below]), math.log(levels[below + 1])
    return math.exp(low + (high - low) * (place - below))
