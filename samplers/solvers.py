"""The solvers the host lacks: sample_x(model, x, sigmas, extra_args, callback, disable, ...).

Euler and LCM are the host's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import trange

NoiseSampler = Callable[[Any, Any], Tensor]


def seeded_noise(x: Tensor, seed: int | None) -> NoiseSampler:
    """Standard normal noise like x, drawn on the CPU: a seed gives one picture on every device."""
    generator = torch.Generator(device="cpu")
    # The host drew the initial noise from a generator seeded with `seed` itself: start elsewhere.
    generator.manual_seed(((seed or 0) + 1) % 2**64)
    return lambda sigma, sigma_next: torch.randn(
        x.shape, generator=generator, dtype=torch.float32
    ).to(device=x.device, dtype=x.dtype)


@torch.no_grad()
def sample_tcd(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    noise_sampler: NoiseSampler | None = None,
    *,
    sigmas_down: Mapping[float, float],
) -> Tensor:
    """Trajectory consistency distillation: jump to sigma_down, then re-noise to sigma_next.

    Zheng et al. 2024, arXiv 2402.19159, algorithm 4, for x = x0 + sigma·n, where re-noising from
    sigma_down to sigma_next adds noise of variance sigma_next² - sigma_down². sigmas: (N+1,),
    descending, the whole of a schedule or a part of it.
    sigmas_down: sigma_next -> sigma_down, at most as much, to the last bit as in `sigmas`. The
    reference implementation's last step stops at timestep 0 (sigma 0.029); this one lands on x0.
    Raises ValueError for sigmas of another schedule.
    """
    extra_args = extra_args or {}
    noise_sampler = noise_sampler or seeded_noise(x, extra_args.get("seed"))
    levels = sigmas.tolist()
    if strange := [level for level in levels[1:] if level not in sigmas_down]:
        raise ValueError(
            "TCD jumps to levels of its own before it re-noises, and knows them only for the sigmas"
            f" of the Few-Step Schedule; {strange[0]:.4g} is not one of them. Connect that node's"
            " sigmas as they are, whole or split."
        )
    ones = x.new_ones([x.shape[0]])
    for step in trange(len(levels) - 1, disable=disable):
        denoised = model(x, sigmas[step] * ones, **extra_args)
        if callback is not None:
            callback(
                {
                    "x": x,
                    "i": step,
                    "sigma": sigmas[step],
                    "sigma_hat": sigmas[step],
                    "denoised": denoised,
                }
            )
        sigma, sigma_next = levels[step], levels[step + 1]
        sigma_down = sigmas_down[sigma_next]
        x = denoised + (x - denoised) * (sigma_down / sigma)
        if sigma_next > sigma_down:
            x = x + noise_sampler(sigmas[step], sigmas[step + 1]) * math.sqrt(
                sigma_next**2 - sigma_down**2
            )
    return x
