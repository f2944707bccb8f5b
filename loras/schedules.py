"""The schedules accelerators were distilled for: each gives its own noise levels.

Plain floats; tensors are the host's business.

A new schedule is one dataclass here, and one entry in declaration.SCHEDULES if a user may declare
it. What most of them have in common, they have from Schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from .bases import BaseRow, Levels
from .words import counted

TRAINING_TIMESTEPS = 1000

# Noise level of a training timestep, by the model's own table: 0..999 for Stable Diffusion, 0..1000
# for a flow, which is all noise at 1000.
SigmaOf = Callable[[float], float]


class Schedule:
    """The noise levels of a run, as a function of its step count.

    Any student knows the few noise levels it was distilled at and no others, so denoise < 1 runs
    the last int(steps · denoise) of them. Two kinds of schedule cut otherwise and say so.
    """

    # A formula has any step count from 1 up; a list has only those that were published.
    is_formula: bool = True
    most_steps: int | None = None  # of a formula, where there is a limit
    # The shift that the model's own sampling is set to, so that the host reads these noise levels
    # as they are meant. None: it is left as it is.
    shift: float | None = None
    # Of a second signal, sound, which keeps a shift of its own.
    audio_shift: float | None = None
    needs_size: bool = False  # the noise levels depend on the size of the picture
    has_timesteps: bool = False  # they are training timesteps, so Stable Diffusion's alone
    # The first one lies below the model's largest, and what it belongs to is noise all the same.
    starts_on_noise: bool = False
    lists: tuple[tuple[float, ...], ...] = ()  # the sigmas that are written out, without closing 0s

    def has_steps(self, steps: int) -> bool:
        """Whether it says what `steps` steps are."""
        return True

    def fits(self, base: BaseRow) -> bool:
        """Whether the base's noise levels are of this kind."""
        own = Levels.TIMESTEPS if self.has_timesteps else Levels.FLOW
        return base.levels in (own, Levels.UNKNOWN)

    def sigmas(
        self, steps: int, denoise: float, sigma_of: SigmaOf, image_tokens: int | None = None
    ) -> list[float]:
        """steps' worth of descending sigmas and the closing 0, N+1 in all; fewer where denoise < 1
        cuts them short.

        sigma_of: the model's sigma of a training timestep. image_tokens: 16 x 16 pixel patches of
        the picture, for schedules that depend on its size. Raises ValueError when denoise leaves no
        step, or the size is needed and missing.
        """
        if self.needs_size and image_tokens is None:
            raise ValueError(
                "the schedule depends on the size of the picture: connect latent_image."
            )
        whole = self._levels(steps, sigma_of, image_tokens or 0)
        kept = truncated_steps(steps, denoise)
        if kept == 0:
            raise ValueError(
                f"denoise {denoise:g} leaves none of {counted(steps, 'step')}; the smallest is"
                f" {least_denoise(steps):g}. Raise denoise, or take an accelerator with more"
                " steps."
            )
        return [*whole[steps - kept :], 0.0]

    def runs(self, steps: int, sigma_of: SigmaOf) -> Iterator[list[float]]:
        """The sigmas of its runs of so many steps: at any denoise, a run is the end of one of
        these. Only of schedules that do not depend on the picture's size.
        """
        yield self.sigmas(steps, 1.0, sigma_of)

    def _levels(self, steps: int, sigma_of: SigmaOf, image_tokens: int) -> list[float]:
        """All sigmas but the closing 0, at denoise 1."""
        raise NotImplementedError

    def words_of_cut(self, left: int, steps: int) -> str:
        """What denoise < 1 left of a run, where it left fewer steps."""
        return f"the last {left} of the {steps} distilled steps"


# ---------------------------------------------------------------- Stable Diffusion's timesteps


@dataclass(frozen=True)
class Trailing(Schedule):
    """Timesteps from the last training one down, evenly: 999, 749, 499, 249 for 4 steps.

    "Trailing" of Lin et al. 2024, Common Diffusion Noise Schedules and Sample Steps Are Flawed,
    section 3.3.
    """

    has_timesteps = True

    def _levels(self, steps: int, sigma_of: SigmaOf, image_tokens: int) -> list[float]:
        return [sigma_of(timestep) for timestep in trailing_timesteps(steps)]


@dataclass(frozen=True)
class ConsistencyGrid(Schedule):
    """An even choice from a consistency model's `original_steps`: 999, 759, 499, 259.

    Such a model knows its whole grid, so denoise < 1 spreads all its steps over the low end.
    """

    has_timesteps = True
    original_steps: int = 50

    @property
    def most_steps(self) -> int:  # type: ignore[override]
        return self.original_steps

    def has_steps(self, steps: int) -> bool:
        return steps <= self.original_steps

    def timesteps(self, steps: int, denoise: float) -> list[int]:
        return consistency_timesteps(steps, self.original_steps, denoise)

    def sigmas(
        self, steps: int, denoise: float, sigma_of: SigmaOf, image_tokens: int | None = None
    ) -> list[float]:
        return [*(sigma_of(timestep) for timestep in self.timesteps(steps, denoise)), 0.0]

    def runs(self, steps: int, sigma_of: SigmaOf) -> Iterator[list[float]]:
        grid = consistency_grid(self.original_steps)
        for kept in range(steps, len(grid) + 1):
            yield [*map(sigma_of, even_choice(steps, grid[-kept:])), 0.0]


@dataclass(frozen=True)
class FirstTimesteps(Schedule):
    """The first timesteps of a list, one per step: 999, 899, 799, 699 for SD-Turbo.

    denoise < 1 takes them from the list's low end.
    """

    is_formula = False
    has_timesteps = True
    starts_on_noise = True
    timesteps: tuple[int, ...]

    def has_steps(self, steps: int) -> bool:
        return steps <= len(self.timesteps)

    def sigmas(
        self, steps: int, denoise: float, sigma_of: SigmaOf, image_tokens: int | None = None
    ) -> list[float]:
        timesteps = first_timesteps(self.timesteps, steps, denoise)
        return [*(sigma_of(timestep) for timestep in timesteps), 0.0]

    def runs(self, steps: int, sigma_of: SigmaOf) -> Iterator[list[float]]:
        for first in range(len(self.timesteps)):
            yield [*map(sigma_of, self.timesteps[first : first + steps]), 0.0]

    def words_of_cut(self, left: int, steps: int) -> str:
        return f"{left} of {steps} steps, all that it was distilled for there"


# ---------------------------------------------------------------- flows


@dataclass(frozen=True)
class ShiftedFlow(Schedule):
    """Even flow times 1, (N-1)/N, ... 1/N, shifted: 1, .9375, .8333, .625 for 4 steps at 5."""

    shift: float = field()  # without a default: None is Schedule's

    def _levels(self, steps: int, sigma_of: SigmaOf, image_tokens: int) -> list[float]:
        return shifted_flow(steps, self.shift)


@dataclass(frozen=True)
class HostSpacedFlow(Schedule):
    """A shifted flow, spaced by the host's `normal` or `sgm_uniform`: all that a release says."""

    shift: float = field()
    scheduler: str = field()

    def _levels(self, steps: int, sigma_of: SigmaOf, image_tokens: int) -> list[float]:
        return host_spaced_flow(steps, self.shift, self.scheduler)


@dataclass(frozen=True)
class FluxFlow(Schedule):
    """Even flow times, shifted more for larger pictures: mu rises from base_shift to max_shift."""

    needs_size = True
    base_shift: float = 0.5
    max_shift: float = 1.15

    def _levels(self, steps: int, sigma_of: SigmaOf, image_tokens: int) -> list[float]:
        mu = flux_mu(image_tokens, self.base_shift, self.max_shift)
        return shifted_flow(steps, math.exp(mu))


@dataclass(frozen=True)
class SizedTimes(Schedule):
    """Published flow times, one list for each step count, shifted by size as FluxFlow's are."""

    is_formula = False
    needs_size = True
    times: tuple[tuple[float, ...], ...]
    base_shift: float = 0.5
    max_shift: float = 1.15

    def has_steps(self, steps: int) -> bool:
        return any(len(times) == steps for times in self.times)

    def _levels(self, steps: int, sigma_of: SigmaOf, image_tokens: int) -> list[float]:
        times = next(times for times in self.times if len(times) == steps)
        shift = math.exp(flux_mu(image_tokens, self.base_shift, self.max_shift))
        return [shift_sigma(time, shift) for time in times]


@dataclass(frozen=True)
class OwnFlow(Schedule):
    """Even flow times at the shift that the model has already: all that a release says."""

    def _levels(self, steps: int, sigma_of: SigmaOf, image_tokens: int) -> list[float]:
        return [sigma_of(TRAINING_TIMESTEPS * (1.0 - step / steps)) for step in range(steps)]


@dataclass(frozen=True)
class Flux2Flow(Schedule):
    """Even flow times, shifted by FLUX.2's empirical mu of picture size and step count."""

    needs_size = True

    def _levels(self, steps: int, sigma_of: SigmaOf, image_tokens: int) -> list[float]:
        return shifted_flow(steps, math.exp(flux2_mu(image_tokens, steps)))


@dataclass(frozen=True)
class TwoClockFlow(Schedule):
    """A shifted flow whose sound keeps its own shift: MiniMax-H3. The sampler walks the video's."""

    video_shift: float
    audio_shift: float = field()

    @property
    def shift(self) -> float:  # type: ignore[override]
        return self.video_shift

    def _levels(self, steps: int, sigma_of: SigmaOf, image_tokens: int) -> list[float]:
        return shifted_flow(steps, self.video_shift)


@dataclass(frozen=True)
class TrigFlow(Schedule):
    """rCM: noise levels as angles: arctan(sigma_max), then `angles`; sigma = sin / (sin + cos).

    N steps take the first N.
    """

    is_formula = False
    sigma_max: float
    angles: tuple[float, ...] = (1.5, 1.4, 1.0)

    def has_steps(self, steps: int) -> bool:
        return steps <= 1 + len(self.angles)

    def _levels(self, steps: int, sigma_of: SigmaOf, image_tokens: int) -> list[float]:
        return [trig_sigma(angle) for angle in (math.atan(self.sigma_max), *self.angles)[:steps]]


@dataclass(frozen=True)
class LiteralSigmas(Schedule):
    """Published lists that no formula gives, one for each step count, without their closing 0s."""

    is_formula = False
    lists: tuple[tuple[float, ...], ...] = field()

    def has_steps(self, steps: int) -> bool:
        return any(len(sigmas) == steps for sigmas in self.lists)

    def fits(self, base: BaseRow) -> bool:
        return True  # whatever the kind of its noise levels, they are written out

    def _levels(self, steps: int, sigma_of: SigmaOf, image_tokens: int) -> list[float]:
        return list(next(sigmas for sigmas in self.lists if len(sigmas) == steps))


# ---------------------------------------------------------------- formulas


def of_a_base(shift: float | None) -> Schedule:
    """The noise levels that a base itself has: of a flow of this shift; None: of timesteps."""
    return Trailing() if shift is None else ShiftedFlow(shift)


def truncated_steps(steps: int, denoise: float) -> int:
    """How many of a student's steps lie at or below the noise that `denoise`, 0 to 1, asks for.

    As diffusers truncates, in LCMScheduler's grid and in img2img's step counts alike, to the float:
    50 steps at 0.58 are 28.999... and so 28.
    """
    return int(steps * denoise)


def scaled_linear_sigma(timestep: float, start: float = 0.00085, end: float = 0.012) -> float:
    """Sigma of an integer training timestep of Stable Diffusion, variance-exploding form.

    Betas are linear in their square root (Rombach et al. 2022); sigma^2 = (1 - a) / a with a the
    product of 1 - beta.
    """
    a = 1.0
    for t in range(int(timestep) + 1):
        root = math.sqrt(start) + (math.sqrt(end) - math.sqrt(start)) * t / (TRAINING_TIMESTEPS - 1)
        a *= 1.0 - root * root
    return math.sqrt((1.0 - a) / a)


def trailing_timesteps(steps: int) -> list[int]:
    """Equal strides down from the last training timestep; 4 steps: 999, 749, 499, 249."""
    # Rounded as numpy's arange rounds it, so that a stride that ends on a half, as 48 steps have,
    # falls to the side that it falls to in diffusers.
    stride = TRAINING_TIMESTEPS - (TRAINING_TIMESTEPS - TRAINING_TIMESTEPS / steps)
    return [round(TRAINING_TIMESTEPS - step * stride) - 1 for step in range(steps)]


def consistency_timesteps(steps: int, original_steps: int, denoise: float = 1.0) -> list[int]:
    """An even choice of `steps` from a consistency model's grid; 4 of 50: 999, 759, 499, 259.

    `denoise` < 1 chooses from the noisiest that share of the grid's low end, as img2img asks. Luo
    et al. 2023, section 4.3. Raises ValueError when the grid has fewer timesteps than steps.
    """
    kept = truncated_steps(original_steps, denoise)
    grid = consistency_grid(original_steps)[original_steps - kept :]
    if len(grid) < steps:
        raise ValueError(
            f"{counted(steps, 'step')} {'does' if steps == 1 else 'do'} not fit into the"
            f" {counted(len(grid), 'timestep')} that denoise {denoise:g} leaves. Raise denoise"
            + (", or take fewer steps." if grid else ".")
        )
    return even_choice(steps, grid)


def consistency_grid(original_steps: int) -> list[int]:
    """All timesteps of a consistency model, the noisiest first; of 50: 999, 979, ... 19."""
    stride = TRAINING_TIMESTEPS // original_steps
    return [stride * (index + 1) - 1 for index in range(original_steps)][::-1]


def even_choice(steps: int, grid: Sequence[int]) -> list[int]:
    # Multiplied last, as numpy's linspace does: for 22 steps it rounds otherwise.
    return [grid[math.floor(step * (len(grid) / steps))] for step in range(steps)]


def least_denoise(steps: int) -> float:
    """The smallest denoise that leaves one of so many steps, in hundredths as people enter it."""
    return math.ceil(100 / steps) / 100


def first_timesteps(timesteps: tuple[int, ...], steps: int, denoise: float = 1.0) -> list[int]:
    """The first `steps` of a list, or of its low end where `denoise` < 1; fewer if it ends early.

    Raises ValueError when denoise leaves none.
    """
    start = len(timesteps) - truncated_steps(len(timesteps), denoise)
    if start == len(timesteps):
        raise ValueError(
            f"denoise {denoise:g} leaves none of the {len(timesteps)} timesteps it was distilled"
            f" at. Raise it to {least_denoise(len(timesteps)):g} or more."
        )
    return list(timesteps[start : start + steps])


def shift_sigma(sigma: float, shift: float) -> float:
    """Spend more of a flow schedule at high noise: s·sigma / (1 + (s - 1)·sigma).

    sigma in 0..1, shift > 0.

    FLUX writes the same with mu = ln(shift). Esser et al. 2024, Scaling Rectified Flow
    Transformers, section 5.3.2.
    """
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)


def shifted_flow(steps: int, shift: float) -> list[float]:
    """Even flow times 1, (N-1)/N, ... 1/N, shifted."""
    return [shift_sigma(1.0 - step / steps, shift) for step in range(steps)]


def host_spaced_flow(steps: int, shift: float, scheduler: str) -> list[float]:
    """A shifted flow as the host's `normal` or `sgm_uniform` scheduler spaces it.

    Both walk evenly from sigma 1 to the smallest sigma of the host's 1000-entry table and shift
    what they meet, though that end is shifted already; `normal` runs to it, `sgm_uniform` stops one
    stride before.
    """
    end = shift_sigma(1.0 / TRAINING_TIMESTEPS, shift)
    strides = steps if scheduler == "sgm_uniform" else max(steps - 1, 1)
    return [shift_sigma(1.0 + (end - 1.0) * step / strides, shift) for step in range(steps)]


def flux_mu(image_tokens: int, base_shift: float, max_shift: float) -> float:
    """FLUX.1's mu, linear in the tokens.

    From base_shift at 256 tokens (256 x 256 pixels) to max_shift at 4096 (1024 x 1024).
    """
    return base_shift + (max_shift - base_shift) * (image_tokens - 256) / (4096 - 256)


def flux2_mu(image_tokens: int, steps: int) -> float:
    """FLUX.2's empirical mu of picture size and step count; 2.2912 for 4 steps at 1024 x 1024.

    Two lines in the number of 16 x 16 pixel tokens, fitted at 10 and at 200 steps, and between them
    a line in the steps; above 4300 tokens the second alone. Constants: black-forest-labs/flux2,
    compute_empirical_mu.
    """
    at_200 = 0.00016927 * image_tokens + 0.45666666
    if image_tokens > 4300:
        return at_200
    at_10 = 8.73809524e-05 * image_tokens + 1.89833333
    return at_200 + (at_200 - at_10) / 190.0 * (steps - 200)


def trig_sigma(angle: float) -> float:
    """Flow sigma of an angle of TrigFlow, where x = cos·x0 + sin·n: sin / (sin + cos)."""
    return math.sin(angle) / (math.sin(angle) + math.cos(angle))
