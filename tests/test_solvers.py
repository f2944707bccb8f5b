"""TCD against diffusers' scheduler driven by the same denoiser and noise, and against a solution
known in closed form.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch
from comfyui_fewstep.loras import schedules
from comfyui_fewstep.loras.schedules import ConsistencyGrid
from comfyui_fewstep.samplers.plan import tcd_sigmas_down
from comfyui_fewstep.samplers.solvers import sample_tcd, seeded_noise
from diffusers import TCDScheduler

sd_sigma = functools.cache(schedules.scaled_linear_sigma)
GRID = ConsistencyGrid(50)
DATA_VARIANCE = 0.25


def gaussian_denoiser(x, sigma, **_):
    """The exact denoiser of data with variance s²: D = x·s² / (s² + sigma²)."""
    return x * DATA_VARIANCE / (DATA_VARIANCE + sigma.view(-1, *[1] * (x.ndim - 1)) ** 2)


def run_tcd(steps, gamma, x, denoiser=gaussian_denoiser, seed=7, part=slice(None), **options):
    sigmas = torch.tensor(GRID.sigmas(steps, 1.0, sd_sigma), dtype=torch.float64)
    down = dict(
        zip(
            sigmas[1:].tolist(),
            tcd_sigmas_down(GRID, steps, 1.0, gamma, sd_sigma),
            strict=True,
        )
    )
    return sample_tcd(
        denoiser, x, sigmas[part], {"seed": seed}, disable=True, sigmas_down=down, **options
    )


@pytest.mark.parametrize("steps", [2, 4, 8])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_tcd_equals_diffusers_up_to_the_last_jump(steps, gamma):
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen = []
    ours = torch.Generator().manual_seed(8)
    run_tcd(
        steps,
        gamma,
        start * sd_sigma(999),
        callback=lambda info: seen.append(info["denoised"]),
        noise_sampler=lambda *sigmas: torch.randn(start.shape, generator=ours, dtype=start.dtype),
    )

    reference = TCDScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    reference.set_timesteps(steps)
    theirs = torch.Generator().manual_seed(8)
    # diffusers works on the variance-preserving sample x / sqrt(1 + sigma²).
    sample = start * sd_sigma(999) / math.sqrt(1 + sd_sigma(999) ** 2)
    for index, t in enumerate(reference.timesteps):
        sigma = sd_sigma(int(t))
        x = sample * math.sqrt(1 + sigma**2)
        eps = (x - gaussian_denoiser(x, torch.tensor([sigma, sigma]))) / sigma
        step = reference.step(eps, t, sample, eta=gamma, generator=theirs)
        # The denoised estimate of every step depends on all the updates before it.
        assert torch.allclose(seen[index], x - sigma * eps, atol=1e-5), f"step {index}"
        sample = step.prev_sample


def test_one_step_is_the_denoised_estimate_itself():
    x = torch.randn(1, 4, 4, 4) * sd_sigma(999)
    assert torch.equal(run_tcd(1, 1.0, x), gaussian_denoiser(x, torch.tensor([sd_sigma(999)])))


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_any_solver_ends_on_a_constant_denoiser_and_calls_it_once_a_step(gamma):
    calls = []

    def constant(x, sigma, **_):
        calls.append(sigma)
        return torch.full_like(x, 3.0)

    result = run_tcd(6, gamma, torch.randn(1, 2, 3, 3), constant)
    assert torch.equal(result, torch.full_like(result, 3.0))
    assert len(calls) == 6


def test_gamma_0_draws_no_noise():
    def forbidden(*sigmas):
        raise AssertionError("noise was drawn")

    run_tcd(4, 0.0, torch.randn(1, 4, 4, 4), noise_sampler=forbidden)


def test_the_given_tensor_is_not_changed_and_a_seed_repeats():
    x = torch.randn(1, 4, 4, 4)
    before = x.clone()
    first, second, other = run_tcd(4, 0.3, x), run_tcd(4, 0.3, x), run_tcd(4, 0.3, x, seed=8)
    assert torch.equal(x, before)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_noise_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    seeded_noise(torch.zeros(2, 3), 5)(1.0, 0.5)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_not_the_hosts_initial_noise_again():
    initial = torch.randn(2, 3, generator=torch.Generator().manual_seed(5))
    assert not torch.equal(seeded_noise(torch.zeros(2, 3), 5)(1.0, 0.5), initial)


def test_every_seed_of_the_host_is_one():
    largest = 2**64 - 1
    assert seeded_noise(torch.zeros(1), largest)(1.0, 0.5).isfinite()


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_the_parts_of_a_schedule_are_the_whole_of_it(cut):
    x = torch.randn(1, 4, 4, 4, dtype=torch.float64) * sd_sigma(999)
    draw = seeded_noise(x, 7)
    half = run_tcd(4, 0.3, x, part=slice(0, cut + 1), noise_sampler=draw)
    assert torch.equal(
        run_tcd(4, 0.3, half, part=slice(cut, None), noise_sampler=draw), run_tcd(4, 0.3, x)
    )


def test_the_sigmas_of_another_schedule_are_refused():
    x = torch.randn(1, 4, 4, 4)
    with pytest.raises(
        ValueError, match=r"Few-Step Schedule.*5 is not one of them.*whole or split"
    ):
        sample_tcd(
            gaussian_denoiser,
            x,
            torch.tensor([14.0, 5.0, 0.0]),
            {},
            disable=True,
            sigmas_down={1.0: 0.5, 0.0: 0.0},
        )
