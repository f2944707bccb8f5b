"""Timesteps and sigmas of the schedules accelerators were distilled for. Plain floats; tensors are
the host's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..loras.accelerator import (
    ConsistencyGrid,
    FirstTimesteps,
    Flux2Flow,
    FluxFlow,
    HostSpacedFlow,
    LiteralSigmas,
    Schedule,
    ShiftedFlow,
    Trailing,
    TrigFlow,
    TwoClockFlow,
)

TRAINING_TIMESTEPS = 1000

# Noise level of a training timestep, 0..999: the model's own table.
SigmaOf = Callable[[float], float]


def scaled_linear_sigma(timestep: float, start: float = 0.00085, end: float = 0.012) -> float:
    """Sigma of an integer timestep of Stable Diffusion's training schedule, variance-exploding
    form.

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
    stride = TRAINING_TIMESTEPS / steps
    return [round(TRAINING_TIMESTEPS - step * stride) - 1 for step in range(steps)]


def consistency_timesteps(steps: int, original_steps: int, denoise: float = 1.0) -> list[int]:
    """An even choice of `steps` from the grid a consistency model knows; 4 of 50: 999, 759, 499,
    259.

    `denoise` < 1 chooses from the noisiest that share of the grid's low end, as img2img asks. Luo
    et al. 2023, section 4.3. Raises ValueError when the grid has fewer timesteps than steps.
    """
    stride = TRAINING_TIMESTEPS // original_steps
    grid = [stride * (index + 1) - 1 for index in range(int(original_steps * denoise))][::-1]
    if len(grid) < steps:
        raise ValueError(
            f"{steps} steps do not fit into the {len(grid)} timesteps that denoise {denoise:g}"
            " leaves. Raise denoise" + (", or take fewer steps." if grid else ".")
        )
    return [grid[math.floor(step * len(grid) / steps)] for step in range(steps)]


def first_timesteps(timesteps: tuple[int, ...], steps: int, denoise: float = 1.0) -> list[int]:
    """The first `steps` of a list, or of its low end where `denoise` < 1; fewer where it ends
    before.

    Raises ValueError when denoise leaves none.
    """
    start = len(timesteps) - truncated_steps(len(timesteps), denoise)
    if start == len(timesteps):
        raise ValueError(
            f"denoise {denoise:g} leaves none of the {len(timesteps)} timesteps it was distilled"
            f" at. Raise it to {1 / len(timesteps):g} or more."
        )
    return list(timesteps[start : start + steps])


def shift_sigma(sigma: float, shift: float) -> float:
    """Spend more of a flow schedule at high noise: s·sigma / (1 + (s - 1)·sigma), sigma in 0..1,
    shift > 0.

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
    """FLUX.1's mu: linear from base_shift at 256 tokens (256 x 256 pixels) to max_shift at 4096
    (1024 x 1024).
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


def sigmas_of(
    schedule: Schedule,
    steps: int,
    denoise: float,
    sigma_of: SigmaOf,
    image_tokens: int | None = None,
) -> list[float]:
    """steps' worth of descending sigmas and the closing 0, N+1 in all, at the noise levels of the
    distillation.

    A consistency model knows its whole grid, so denoise < 1 spreads all its steps over the low end.
    Any other student knows its own few noise levels and no others, so denoise < 1 runs the last
    int(steps · denoise) of them and returns fewer.
    image_tokens: 16 x 16 pixel patches of the picture, for schedules that depend on its size.
    Raises ValueError when denoise leaves no step, or the size is needed and missing.
    """
    if isinstance(schedule, ConsistencyGrid):
        timesteps = consistency_timesteps(steps, schedule.original_steps, denoise)
        return [*(sigma_of(timestep) for timestep in timesteps), 0.0]
    if isinstance(schedule, FirstTimesteps):
        return [
            *(
                sigma_of(timestep)
                for timestep in first_timesteps(schedule.timesteps, steps, denoise)
            ),
            0.0,
        ]
    sigmas = _whole_schedule(schedule, steps, sigma_of, image_tokens)
    kept = truncated_steps(steps, denoise)
    if kept == 0:
        raise ValueError(
            f"denoise {denoise:g} leaves none of the {steps} steps; the smallest is {1 / steps:g}."
            " Raise denoise, or take an accelerator with more steps."
        )
    return [*sigmas[steps - kept :], 0.0]


def needs_size(schedule: Schedule) -> bool:
    """Whether the sigmas depend on the size of the picture."""
    return isinstance(schedule, FluxFlow | Flux2Flow)


def _whole_schedule(
    schedule: Schedule, steps: int, sigma_of: SigmaOf, image_tokens: int | None
) -> list[float]:
    """All sigmas but the closing 0 of a schedule that denoise can only cut short."""
    if needs_size(schedule) and image_tokens is None:
        raise ValueError("the schedule depends on the size of the picture: connect latent_image.")
    match schedule:
        case Trailing():
            return [sigma_of(timestep) for timestep in trailing_timesteps(steps)]
        case ShiftedFlow(shift) | TwoClockFlow(video_shift=shift):
            return shifted_flow(steps, shift)
        case HostSpacedFlow(shift, scheduler):
            return host_spaced_flow(steps, shift, scheduler)
        case FluxFlow(base_shift, max_shift):
            return shifted_flow(steps, math.exp(flux_mu(image_tokens or 0, base_shift, max_shift)))
        case Flux2Flow():
            return shifted_flow(steps, math.exp(flux2_mu(image_tokens or 0, steps)))
        case TrigFlow(sigma_max, angles):
            return [trig_sigma(angle) for angle in (math.atan(sigma_max), *angles)[:steps]]
        case LiteralSigmas(lists):
            return list(next(sigmas for sigmas in lists if len(sigmas) == steps))
    raise TypeError(f"{schedule} is no schedule.")


def tcd_sigmas_down(
    schedule: Schedule, steps: int, denoise: float, gamma: float, sigma_of: SigmaOf
) -> list[float]:
    """The noise level each TCD step jumps to before it is re-noised to the next: sigma of floor((1
    - gamma) · t_next).

    The last is 0: the last step lands on x0. gamma 0 never re-noises, 1 always jumps to the first
    timestep. Zheng et al. 2024, arXiv 2402.19159, algorithm 4 (strategic stochastic sampling).
    """
    if not isinstance(schedule, ConsistencyGrid):
        raise TypeError(f"TCD needs a consistency grid, not {schedule}.")
    timesteps = consistency_timesteps(steps, schedule.original_steps, denoise)
    return [*(sigma_of(math.floor((1.0 - gamma) * timestep)) for timestep in timesteps[1:]), 0.0]


def truncated_steps(steps: int, denoise: float) -> int:
    """How many of a student's steps lie at or below the noise that `denoise`, 0 to 1, asks for."""
    # 0.7 * 10 is 6.999...: a hair's breadth must not cost a step.
    return math.floor(steps * denoise + 1e-9)


def switch_step(sigmas: list[float], boundary: float) -> int:
    """First step that the low-noise expert runs: the first whose sigma lies below the boundary."""
    return sum(sigma >= boundary for sigma in sigmas[:-1])
