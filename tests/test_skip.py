"""Step Skip's pure part: where a run stands, what is left out and what is put in its place, against
numbers worked out by hand.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from comfyui_fewstep.samplers.skip import METHODS, forecast
from comfyui_fewstep.samplers.skip.forecast import LONG_RUN, Forecast
from comfyui_fewstep.samplers.skip.history import (
    Entry,
    History,
    combine,
    newton_weights,
    parabola_weights,
)
from comfyui_fewstep.samplers.skip.method import (
    Decision,
    ModelSignals,
    Moment,
    RunFacts,
    Settings,
    SkipMethod,
    WanShape,
)
from comfyui_fewstep.samplers.skip.placement import planned_shares, skip_shares, steps_left_out
from comfyui_fewstep.samplers.skip.run import SkipRun
from comfyui_fewstep.samplers.skip.schedule import RunSchedule
from comfyui_fewstep.samplers.skip.tally import Tally
from comfyui_fewstep.samplers.skip.teacache import (
    IDENTITY,
    POLYNOMIALS,
    TeaCache,
    evaluate_polynomial,
    wan_polynomial,
)
from comfyui_fewstep.samplers.skip.traits import REFUSALS, SamplerTraits, traits_of
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
EULER = traits_of("sample_euler", {})
SHAPE = (2, 4, 3, 3)


def linear_schedule(steps: int) -> RunSchedule:
    """sigma falls evenly from 1 to 0, as a flow model's with shift 1."""
    return RunSchedule(tuple(1 - step / steps for step in range(steps + 1)), is_flow=True)


def exponential_schedule(steps: int) -> RunSchedule:
    """sigma halves at every step; the level of step i is i·ln 2 - ln 16."""
    return RunSchedule((*(16.0 * 0.5**step for step in range(steps)), 0.0), is_flow=False)


def noise(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """The exact denoiser of Gaussian data of deviation 0.5 on a flow path: the posterior mean."""
    signal = 1 - sigma
    return x * signal * 0.25 / (signal**2 * 0.25 + sigma**2)


def euler(
    run: SkipRun | None,
    schedule: RunSchedule,
    denoiser,
    x: Tensor,
    calls: list[float] | None = None,
) -> Tensor:
    """Euler's method with the denoiser, through a run if there is one. calls collects the sigmas of
    real evaluations.
    """
    for sigma, sigma_next in zip(schedule.sigmas, schedule.sigmas[1:]):

        def compute(x: Tensor = x, sigma: float = sigma) -> Tensor:
            if calls is not None:
                calls.append(sigma)
            return denoiser(x, sigma)

        denoised = (
            compute()
            if run is None
            else run.evaluate(x, torch.tensor(sigma, dtype=torch.float64), compute)
        )
        x = x + (sigma_next - sigma) * (x - denoised) / sigma
    return x


def forecast_run(
    schedule: RunSchedule, solver: SamplerTraits = EULER, regime_of=lambda sigma: None, **settings
) -> SkipRun:
    options = Settings(**{"threshold": math.inf, **settings})
    return SkipRun(schedule, solver, Forecast(schedule, options, solver), regime_of=regime_of)


def teacache_run(schedule: RunSchedule, signal_of, polynomial=IDENTITY, **settings) -> SkipRun:
    return SkipRun(
        schedule, EULER, TeaCache(schedule, Settings(**settings), EULER, signal_of, polynomial)
    )


# --- where a run stands ---


def test_a_step_is_found_by_sigma_alone():
    schedule = linear_schedule(10)
    assert [schedule.step_of(sigma) for sigma in (1.0, 0.9, 0.85, 0.5, 0.05)] == [0, 1, 1, 5, 9]
    # Float32 rounding does not move an evaluation to the step before.
    assert schedule.step_of(0.9000001) == 1
    assert schedule.step_of(1.2) == 0  # a sampler that churns starts above the schedule


def test_level_is_half_the_logarithm_of_the_signal_to_noise_ratio():
    assert linear_schedule(10).level(0.5) == 0.0  # ln(0.5 / 0.5)
    assert linear_schedule(10).level(0.25) == pytest.approx(math.log(3))
    assert exponential_schedule(5).level(16.0) == pytest.approx(-math.log(16))
    assert math.isfinite(linear_schedule(10).level(1.0))
    # No noise is left at 0.
    assert linear_schedule(10).level(0.0) == exponential_schedule(5).level(0.0) == math.inf


@pytest.mark.parametrize(("steps", "warm_up"), [(10, 3), (20, 3), (21, 4), (30, 5), (50, 8)])
def test_warm_up_is_15_percent_and_at_least_three_steps(steps, warm_up):
    schedule = linear_schedule(steps)
    assert schedule.warm_up == warm_up
    # Open are the steps after the warm-up but for the last.
    assert [schedule.is_open(sigma) for sigma in schedule.sigmas[:-1]] == [
        warm_up <= i < steps - 1 for i in range(steps)
    ]


def test_window_closes_steps_before_start_and_after_end():
    for start, end, first, last in (
        (0.3, 0.7, 6, 14),
        (0.55, 0.95, 11, 18),
        (0.0, 1.0, 3, 18),
    ):  # both ends belong to the window
        schedule = RunSchedule(linear_schedule(20).sigmas, True, start, end)
        assert [
            i for i, sigma in enumerate(schedule.sigmas[:-1]) if schedule.is_open(sigma)
        ] == list(range(first, last + 1))


def test_the_window_is_in_steps_whatever_their_spacing():
    even, karras = linear_schedule(20), exponential_schedule(20)
    assert [even.is_open(sigma) for sigma in even.sigmas[:-1]] == [
        karras.is_open(sigma) for sigma in karras.sigmas[:-1]
    ]


# --- what a forecast is made of ---


def entry(sigma: float, level: float, value: float) -> Entry:
    return Entry(sigma, level, torch.full(SHAPE, value))


def test_history_keeps_two_and_replaces_what_a_sampler_goes_back_over():
    history = History()
    for sigma in (1.0, 0.8, 0.6):
        history.record(entry(sigma, 1 - sigma, sigma))
    assert [kept.sigma for kept in history.entries] == [0.8, 0.6]
    history.record(entry(0.6, 0.4, 9.0))  # Heun evaluates twice at one level: the later one stands
    assert [(kept.sigma, kept.derivative.flatten()[0].item()) for kept in history.entries] == [
        (0.8, pytest.approx(0.8)),
        (0.6, 9.0),
    ]
    history.record(entry(0.7, 0.3, 1.0))
    assert [kept.sigma for kept in history.entries] == [0.8, 0.7]
    assert history.usable(0.75) == () and len(history.usable(0.7)) == 2
    assert history.bytes == 2 * 4 * math.prod(SHAPE)


def test_linear_weights_follow_the_line_and_damping_shortens_it():
    pair = (entry(1.0, 0.0, 1.0), entry(0.8, 2.0, 5.0))
    # Slope (5 - 1) / 2 = 2, so at level 3 the line reads 7; at half slope 6; at none the newer
    # value, 5.
    for damping, value in ((1.0, 7.0), (0.5, 6.0), (0.0, 5.0)):
        weights = newton_weights(pair, 3.0, damping)
        assert sum(weights) == pytest.approx(1.0)
        total = combine((pair[0].derivative, pair[1].derivative), weights, torch.device("cpu"))
        assert total.flatten()[0].item() == pytest.approx(value)


def test_curvature_goes_from_the_line_to_the_parabola():
    # Values 0, 1, 4 at levels 0, 1, 2: the line through the last two reads 7 at level 3, the
    # parabola 9.
    entries = (entry(1.0, 0.0, 0.0), entry(0.8, 1.0, 1.0), entry(0.6, 2.0, 4.0))
    for curvature, value in ((0.0, 7.0), (0.5, 8.0), (1.0, 9.0)):
        weights = newton_weights(entries, 3.0, curvature=curvature)
        total = combine([kept.derivative for kept in entries], weights, torch.device("cpu"))
        assert total.flatten()[0].item() == pytest.approx(value)


def test_parabola_weights_reproduce_a_parabola():
    def square(t: float) -> float:
        return 3 - 2 * t + t * t

    weights = parabola_weights((0.0, 1.0, 3.0), 2.0)
    assert sum(weight * square(t) for weight, t in zip(weights, (0.0, 1.0, 3.0))) == pytest.approx(
        square(2.0)
    )


# --- forecast: the plan ---


def test_plan_of_twenty_steps_at_twice_the_speed():
    # Open are steps 3 to 18, 16 of them; 10 have to go: 10/16 = 0.625 of one is earned at each.
    # Credit starts at 0.5: 3: 1.125 skip -> 0.125   4: 0.75             5: 1.375 skip -> 0.375   6:
    # 1.0 skip -> 0      7: 0.625 8: 1.25 skip -> 0.25     9: 0.875           10: 1.5 skip -> 0.5
    # 11: 1.125 skip -> 0.125, then as from 4 on.
    schedule = exponential_schedule(20)
    assert skip_shares(schedule, 10, 3) == (0.0,) * 3 + (0.625,) * 16 + (0.0,)
    run = forecast_run(schedule, target_speedup=2.0)
    euler(run, schedule, gaussian, noise())
    assert run.finish().steps_skipped == [3, 5, 6, 8, 10, 11, 13, 14, 16, 18]
    assert (run.tally.asked, run.tally.made, run.tally.estimated_speedup) == (20, 10, 2.0)


def test_on_flow_models_the_last_but_one_is_made_and_runs_lie_late():
    # Open are steps 3 to 17 but not 18, 15 of them. 8 can go alone, two more make runs where two
    # thirds are over.
    schedule = linear_schedule(20)
    assert skip_shares(schedule, 7, 3) == (0.0,) * 4 + (0.5,) * 14 + (0.0,) * 2
    shares = skip_shares(schedule, 10, 3)
    assert (
        sum(shares) == pytest.approx(10) and shares[:3] == (0.0,) * 3 and shares[18:] == (0.0,) * 2
    )
    assert 0.5 < shares[3] < shares[8] < shares[12] > shares[17] > 0.5 and shares.index(
        max(shares)
    ) in (12, 13)
    run = forecast_run(schedule, target_speedup=2.0)
    euler(run, schedule, gaussian, noise())
    assert run.finish().steps_skipped == [3, 5, 7, 8, 10, 11, 12, 14, 15, 17]


@pytest.mark.parametrize("longest", [1, 2, 3])
@pytest.mark.parametrize("speedup", [1.1, 1.6, 2.0, 2.3, 3.0, 10.0])
def test_shares_add_up_to_what_has_to_go_as_far_as_runs_allow(speedup, longest):
    for schedule in (linear_schedule(30), exponential_schedule(30)):
        to_skip = 30 - round(30 / speedup)
        shares = skip_shares(schedule, to_skip, longest)
        open_steps, most = sum(share > 0 for share in shares), longest / (longest + 1)
        assert sum(shares) == pytest.approx(min(to_skip, open_steps * most))
        assert max(shares) <= most


@pytest.mark.parametrize(
    ("schedule", "left_out"),
    [
        (exponential_schedule(20), [9, 11, 13, 15, 17]),  # open are steps 3 to 18
        (linear_schedule(20), [8, 10, 12, 14, 16]),  # and 3 to 17
    ],
)
def test_few_skips_are_every_other_step_as_late_as_they_can_lie(schedule, left_out):
    assert steps_left_out(planned_shares(schedule, 5, 3), 3) == left_out


def test_low_targets_give_isolated_skips():
    schedule = linear_schedule(30)
    run = forecast_run(schedule, target_speedup=1.5)
    euler(run, schedule, gaussian, noise())
    skipped = run.finish().steps_skipped
    assert len(skipped) == 10 and all(
        after - before > 1 for before, after in zip(skipped, skipped[1:])
    )


def test_max_consecutive_bounds_runs_and_the_rate():
    schedule = linear_schedule(40)
    assert max(skip_shares(schedule, 36, 1)) == 0.5
    for longest in (1, 2, 3):
        run = forecast_run(schedule, target_speedup=10.0, max_consecutive=longest)
        euler(run, schedule, gaussian, noise())
        runs = "".join(
            "s" if step in run.tally.steps_skipped else " " for step in range(40)
        ).split()
        assert max(map(len, runs)) == longest


STEP_COUNTS = (10, 12, 16, 20, 25, 30, 40, 50, 60)
WINDOWS = ((0.15, 0.95), (0.0, 1.0), (0.3, 0.7), (0.5, 1.0))
TARGETS = (1.05, 1.1, 1.2, 1.3, 1.5, 1.6, 1.8, 2.0, 2.2, 2.4, 2.5, 2.8, 3.0, 3.5, 4.0)
SCHEDULES = {
    "flow": lambda steps: linear_schedule(steps),
    "shifted flow": lambda steps: shifted_schedule(steps),
    "strongly shifted flow": lambda steps: shifted_schedule(steps, 8.0),
    "Karras": lambda steps: karras_schedule(steps),
    "even in the level": lambda steps: karras_schedule(steps, rho=1000.0),
}


def karras_schedule(steps: int, rho: float = 7.0) -> RunSchedule:
    """Karras et al. 2022, arXiv 2206.00364, equation 5, from 14.6 to 0.03. A large rho spaces the
    logarithms evenly.
    """
    first, last = 14.6 ** (1 / rho), 0.03 ** (1 / rho)
    places = [step / (steps - 1) for step in range(steps)]
    sigmas = ((first + place * (last - first)) ** rho for place in places)
    return RunSchedule((*sigmas, 0.0), is_flow=False)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "euler_ancestral"])
@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("window", WINDOWS)
def test_equal_evaluations_are_equally_placed_and_fall_with_the_target(kind, window, sampler):
    traits = traits_of(f"sample_{sampler}", {})
    for steps in STEP_COUNTS:
        schedule = replace(SCHEDULES[kind](steps), start=window[0], end=window[1])
        placements: dict[int, list[int]] = {}
        for longest in (3, 4, 6, 10):
            counts = []
            for target in TARGETS:
                settings = Settings(target_speedup=target, max_consecutive=longest)
                method = Forecast(schedule, settings, traits)
                skipped = steps_left_out(method.shares, method.longest_run)
                assert placements.setdefault(len(skipped), skipped) == skipped
                counts.append(len(skipped))
            # A higher target leaves out as many or more, and never more than it asks for.
            assert counts == sorted(counts)
            assert all(
                count <= steps - round(steps / target) for count, target in zip(counts, TARGETS)
            )


@pytest.mark.parametrize("target", [1.3, 2.0, 2.4, 4.0])
@pytest.mark.parametrize("longest", [1, 3, 10])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_run_leaves_out_the_steps_that_are_planned(kind, longest, target):
    schedule = SCHEDULES[kind](30)
    run = forecast_run(schedule, target_speedup=target, max_consecutive=longest)
    planned = steps_left_out(run.method.shares, run.method.longest_run)
    euler(run, schedule, gaussian, noise())
    assert planned and run.finish().steps_skipped == planned


@pytest.mark.parametrize("sampler", ["euler", "another"])
@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("longest", [1, 2, 3, 10])
def test_the_error_falls_with_the_target(kind, longest, sampler):
    # The derivative bends one way all along, so no forecast's error makes up for another's. What is
    # left is the rounding of the plan to whole steps, which is worth 2 %.
    traits = traits_of(f"sample_{sampler}", {})
    for steps, (start, end) in itertools.product((10, 20, 45), WINDOWS[:3]):
        schedule = replace(SCHEDULES[kind](steps), start=start, end=end)

        def denoiser(x: Tensor, sigma: float, schedule: RunSchedule = schedule) -> Tensor:
            return x - sigma * math.exp(0.3 * schedule.level(sigma))

        exact = euler(None, schedule, denoiser, torch.zeros(1, 1, dtype=torch.float64))
        errors = []
        for target in (1.2, 1.6, 2.0, 2.3, 2.5, 3.0, 4.0):
            run = forecast_run(schedule, traits, target_speedup=target, max_consecutive=longest)
            x = torch.zeros(1, 1, dtype=torch.float64)
            errors.append((euler(run, schedule, denoiser, x) - exact).abs().item())
        assert all(low <= 1.02 * high for low, high in itertools.combinations(errors, 2)), errors


def test_a_target_beyond_reach_is_what_can_be_reached():
    # Open are 23 of the 30 steps, of which runs of four leave out 18: the 12 evaluations that 2.5x
    # asks for. 3x asks for 10.
    schedule = linear_schedule(30)
    reached, beyond = (
        forecast_run(schedule, target_speedup=target, max_consecutive=4) for target in (2.5, 3.0)
    )
    assert torch.equal(
        euler(beyond, schedule, gaussian, noise()), euler(reached, schedule, gaussian, noise())
    )
    assert reached.finish().made == beyond.finish().made == 12
    (note,) = beyond.method.notes(beyond.tally)
    assert note.startswith("3x was asked for, and 2.50x came of it: the warm-up, the window and")
    assert reached.method.notes(reached.tally) == ()


def test_whole_steps_that_can_do_no_better_are_no_bound():
    # 1.6x of 12 steps asks for 7.5 evaluations, which round() makes 8.
    schedule = exponential_schedule(12)
    run = forecast_run(schedule, target_speedup=1.6)
    euler(run, schedule, gaussian, noise())
    assert run.finish().made == 8 and run.method.notes(run.tally) == ()


def test_what_changes_on_the_way_is_the_bound_where_it_is():
    schedule = linear_schedule(30)
    run = forecast_run(schedule, target_speedup=2.0)
    run.regime_of = lambda sigma: sigma < 0.5
    euler(run, schedule, gaussian, noise())
    (note,) = run.method.notes(run.finish())
    assert note.endswith(
        "x came of it: prompts, ControlNets or sizes that change on the way have evaluations made"
        " anew"
    )


def test_a_sampler_that_looks_at_another_size_in_between_is_evaluated_there():
    """As euler_dy and euler_smea_dy of another pack do."""
    schedule = linear_schedule(20)
    run = forecast_run(schedule, SamplerTraits("another"), target_speedup=2.0)
    x, sizes = noise(), []

    def compute(x: Tensor) -> Tensor:
        sizes.append(x.shape)
        return gaussian(x, 0.5)

    for step, sigma in enumerate(schedule.sigmas[:-1]):
        for part in (x, x[..., ::2]) if 2 <= step < 5 else (x,):
            made = run.evaluate(part, torch.tensor(sigma), lambda part=part: compute(part))
            assert made.shape == part.shape
    assert sizes.count(x[..., ::2].shape) == 3
    assert run.finish().skipped > 0


def test_a_sampler_with_levels_of_its_own_is_not_taken_for_one_of_few_evaluations():
    """As dpm_fast, whose third evaluation lies in step 7 of 20."""
    schedule = linear_schedule(20)
    run = forecast_run(schedule, SamplerTraits("another"), target_speedup=2.0)
    for step in (0, 4, 7, *range(8, 20)):
        sigma = schedule.sigmas[step]
        run.evaluate(noise(), torch.tensor(sigma), lambda sigma=sigma: gaussian(noise(), sigma))
    assert run.refusal is None and run.finish().skipped > 0


def test_runs_are_no_longer_than_it_takes():
    short, long = (planned_shares(linear_schedule(30), 15, longest) for longest in (3, 10))
    assert steps_left_out(short, 3) == steps_left_out(long, 10)
    assert steps_left_out(planned_shares(linear_schedule(30), 18, 10), 10) == steps_left_out(
        planned_shares(linear_schedule(30), 18, 4), 4
    )


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("steps", [10, 17, 20, 30, 50])
@pytest.mark.parametrize("speedup", [1.3, 2.0, 4.0])
def test_warm_up_and_last_step_are_always_real(method, steps, speedup):
    schedule = linear_schedule(steps)
    run = SkipRun(schedule, EULER, METHODS[method](schedule, Settings(speedup, 3.0), EULER))
    calls: list[float] = []
    euler(run, schedule, gaussian, noise(), calls)
    made = [schedule.step_of(sigma) for sigma in calls]
    assert made[: schedule.warm_up] == list(range(schedule.warm_up)) and made[-1] == steps - 1
    assert len(made) == run.finish().made == steps - len(run.tally.steps_skipped)


def test_below_ten_evaluations_it_passes_through_and_says_why():
    for steps in (4, 6, 8, 9):
        schedule = linear_schedule(steps)
        run = forecast_run(schedule, target_speedup=2.0)
        assert torch.equal(
            euler(run, schedule, gaussian, noise()), euler(None, schedule, gaussian, noise())
        )
        assert run.finish().made == steps and run.refusal
    schedule = linear_schedule(9)
    run = forecast_run(schedule, target_speedup=2.0)
    euler(run, schedule, gaussian, noise())
    assert "9 evaluations are too few" in run.refusal


def test_evaluations_are_counted_not_steps_for_samplers_that_make_two_a_step():
    # Heun asks at 1, .875, .875, .75, .75, ...: at the first open evaluation (step 3) it has made 5
    # for 3 steps, so 8 steps stand for round(5 / 3 * 8) = 13 evaluations, which is worth it;
    # Euler's 8 are not.
    schedule = linear_schedule(8)
    run = forecast_run(schedule, SamplerTraits("heun"), target_speedup=2.0)
    x = noise()
    for sigma, sigma_next in zip(schedule.sigmas, schedule.sigmas[1:]):
        for level in (sigma, sigma_next) if sigma_next else (sigma,):
            run.evaluate(x, torch.tensor(level), lambda level=level: gaussian(x, level))
    assert run.refusal is None and run.finish().skipped > 0


def test_heun_gives_away_the_second_evaluation_at_a_level_first():
    schedule = linear_schedule(20)
    run = forecast_run(schedule, SamplerTraits("heun"), target_speedup=20 / 13)
    x, calls = noise(), []
    for sigma, sigma_next in zip(schedule.sigmas, schedule.sigmas[1:]):
        for kind, level in (
            (("first", sigma), ("second", sigma_next)) if sigma_next else (("first", sigma),)
        ):

            def compute(kind: str = kind, level: float = level) -> Tensor:
                calls.append((kind, round(level, 2)))
                return gaussian(x, level)

            run.evaluate(x, torch.tensor(level), compute)
    # 7 of 20 steps are to be saved out of 15 open ones: nearly half of the evaluations. All left
    # out are the ones that open a step, at the level the step before has just closed with.
    assert len(run.finish().steps_skipped) >= 12
    assert [level for kind, level in calls if kind == "second"] == [
        round(1 - step / 20, 2) for step in range(1, 20)
    ]


def test_a_bad_forecast_vetoes_the_next_skip():
    schedule = linear_schedule(20)

    def jumps(x: Tensor, sigma: float) -> Tensor:
        return x * 0 + (5.0 if 0.45 < sigma < 0.65 else 0.0)

    free = forecast_run(schedule, target_speedup=2.0)
    euler(free, schedule, jumps, noise())
    strict = forecast_run(schedule, target_speedup=2.0, threshold=0.2)
    euler(strict, schedule, jumps, noise())
    assert strict.finish().vetoes > 0 and strict.tally.made > free.finish().made
    assert max(strict.tally.errors) > 0.2


# --- forecast: what it puts in place ---


def test_forecast_is_exact_where_the_derivative_is_linear_in_the_level():
    schedule = exponential_schedule(20)
    slope, offset = noise(1), noise(2)

    def denoiser(x: Tensor, sigma: float) -> Tensor:
        return x - sigma * (offset + schedule.level(sigma) * slope)

    run = forecast_run(schedule, target_speedup=1.5, max_consecutive=1)
    x = noise() * 16
    torch.testing.assert_close(
        euler(run, schedule, denoiser, x), euler(None, schedule, denoiser, x), rtol=1e-4, atol=1e-4
    )
    assert run.finish().skipped > 5


def solve(
    solver: SamplerTraits, run: SkipRun | None, schedule: RunSchedule, denoiser, x: Tensor
) -> Tensor:
    """The solver's own method with the denoiser, through a run if there is one, from what it is
    said to make of each evaluation.
    """
    before = torch.zeros_like(x)
    for step, sigma in enumerate(schedule.sigmas[:-1]):

        def compute(x: Tensor = x, sigma: float = sigma) -> Tensor:
            return denoiser(x, sigma)

        denoised = (
            compute()
            if run is None
            else run.evaluate(x, torch.tensor(sigma, dtype=torch.float64), compute)
        )
        now, last = solver.reply(schedule.sigmas, step)
        x = schedule.sigmas[step + 1] / sigma * x + now * denoised + last * before
        before = denoised
    return x


def test_solvers_reply_as_worked_out_by_hand():
    sigmas = (8.0, 4.0, 1.0, 0.0)
    euler, multistep, exponential = (
        traits_of(f"sample_{name}", {}) for name in ("euler", "dpmpp_2m", "res_multistep")
    )
    assert euler.reply(sigmas, 1) == (0.75, 0.0)
    for solver in (euler, multistep, exponential):
        assert solver.reply(sigmas, 0) == (0.5, 0.0) and solver.reply(sigmas, 2) == (1.0, 0.0)
    # The last step was ln 2, this one is ln 4: r is 1/2, and (1 + 1/2r)·D - 1/2r·D_before is 2·D -
    # D_before.
    assert multistep.reply(sigmas, 1) == pytest.approx((1.5, -0.75))
    # (1 + h / (e^-h - 1)) / h_last is (1 - ln 4 / 0.75) / ln 2.
    share = (1 - math.log(4) / 0.75) / math.log(2)
    assert exponential.reply(sigmas, 1) == pytest.approx((0.75 * (1 - share), 0.75 * share))


def shifted_schedule(steps: int, shift: float = 5.0) -> RunSchedule:
    """A flow schedule whose steps in ln sigma grow towards the end."""
    even = [1 - step / steps for step in range(steps + 1)]
    return RunSchedule(
        tuple(shift * sigma / (1 + (shift - 1) * sigma) for sigma in even), is_flow=True
    )


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "res_multistep"])
@pytest.mark.parametrize(
    "schedule", [exponential_schedule(20), linear_schedule(20), shifted_schedule(20)]
)
def test_what_follows_a_skip_makes_good_for_it_where_the_solver_is_known(
    schedule, name, monkeypatch
):
    # This model's derivatives are the same at every x.
    monkeypatch.setattr(forecast, "MULTISTEP_RESPONSE", 1.0)

    def denoiser(
        x: Tensor, sigma: float
    ) -> Tensor:  # a parabola in the level: no straight line forecasts it
        return x - sigma * schedule.level(sigma) ** 2

    x, known = noise() * schedule.sigmas[0], traits_of(f"sample_{name}", {})
    exact = solve(known, None, schedule, denoiser, x)

    def error(solver: SamplerTraits) -> float:
        run = forecast_run(schedule, solver, target_speedup=1.5)
        return (solve(known, run, schedule, denoiser, x) - exact).abs().max().item()

    assert error(known) < 0.005 * error(SamplerTraits(f"another {name}"))


def test_long_runs_of_noise_prediction_models_believe_in_some_of_the_bend():
    steps = LONG_RUN
    noise_prediction, flow = exponential_schedule(steps), linear_schedule(steps)
    assert (
        Forecast(noise_prediction, Settings(), EULER).keeps,
        Forecast(flow, Settings(), EULER).keeps,
    ) == (3, 2)
    assert Forecast(exponential_schedule(steps - 1), Settings(), EULER).keeps == 2
    # The history is then one latent longer, and the corrector still lands on a parabola.
    run = forecast_run(noise_prediction, target_speedup=1.5)

    def denoiser(x: Tensor, sigma: float) -> Tensor:
        return x - sigma * noise_prediction.level(sigma) ** 2

    x = noise() * 16
    difference = euler(run, noise_prediction, denoiser, x) - euler(
        None, noise_prediction, denoiser, x
    )
    assert difference.abs().max().item() < 1e-3
    assert run.finish().history_bytes == 3 * 4 * math.prod(SHAPE)


def test_skipping_half_stays_closer_to_the_full_run_than_half_the_steps():
    # Gaussian data: with all steps Euler ends at s_full·x; compare the two ways of making 15
    # evaluations.
    full, half = linear_schedule(30), linear_schedule(15)
    x = noise()
    exact = euler(None, full, gaussian, x)
    run = forecast_run(full, target_speedup=2.0)
    skipping, fewer = euler(run, full, gaussian, x), euler(None, half, gaussian, x)
    assert run.finish().made == 15
    assert (skipping - exact).norm() < 0.1 * (fewer - exact).norm()


def test_samplers_that_inject_noise_get_late_skips_short_runs_and_no_more_than_was_measured():
    schedule = linear_schedule(20)
    method = Forecast(
        schedule, Settings(target_speedup=3.0), SamplerTraits("euler_ancestral", is_stochastic=True)
    )
    assert (method.longest_run, method.keeps_denoised) == (2, True)
    assert method.shares[:5] == (0.0,) * 5 and all(method.shares[5:18])
    assert sum(method.shares) == pytest.approx(8)  # 20 / 1.6 is 12.5, of which round() makes 12
    alone = Forecast(
        schedule, Settings(max_consecutive=1), SamplerTraits("euler_ancestral", is_stochastic=True)
    )
    assert alone.longest_run == 1


def test_with_injected_noise_a_forecast_follows_the_line_as_far_as_x_is_not_noise():
    schedule = linear_schedule(20)
    method = Forecast(schedule, Settings(), SamplerTraits("er_sde", is_stochastic=True))

    def read(sigma: float, run_length: int) -> float:
        """Where the last evaluation was 1 and the line through both reads 2."""
        level = schedule.level(sigma)
        pair = (entry(sigma + 0.2, level - 2, 0.0), entry(sigma + 0.1, level - 1, 1.0))
        moment = Moment(sigma, level, 10, 0.05, False, False, None, None)
        return method.predict(noise(), moment, pair, run_length).flatten()[0].item()

    assert read(0.9, 1) == pytest.approx(1 + 1 - 0.75 * 0.9 / math.hypot(0.9, 0.1))
    assert read(0.5, 1) == pytest.approx(1 + 1 - 0.75 * math.sqrt(0.5))
    assert read(0.001, 1) == pytest.approx(2, abs=1e-3)
    assert read(0.001, 2) == read(0.5, 2) == pytest.approx(1.25)


# --- a method of one's own ---


class Repeat(SkipMethod):
    """Every second step repeats the derivative of the evaluation before it."""

    does = "repeats every second step."

    def decide(self, moment: Moment) -> Decision:
        return Decision.SKIP if moment.step % 2 else Decision.EVALUATE

    def predict(self, x: Tensor, moment: Moment, entries, run_length: int) -> Tensor:
        return entries[-1].derivative.to(x.device, copy=True)


def test_a_new_method_is_one_class_and_one_entry():
    methods = {**METHODS, "repeat": Repeat}
    schedule = linear_schedule(20)
    method = methods["repeat"].for_run(RunFacts(schedule, Settings(), EULER))
    run, calls = SkipRun(schedule, EULER, method), []
    repeated = euler(run, schedule, gaussian, noise(), calls)
    # The first three steps and the last are made anyway; of the others every odd one is repeated.
    assert run.finish().steps_skipped == [3, 5, 7, 9, 11, 13, 15, 17]
    assert (run.tally.asked, run.tally.made, len(calls)) == (20, 12, 12)
    assert method.notes(run.tally) == () and run.refusal is None
    # Two derivatives are what it may look at, and nothing else is remembered.
    assert method.latents_kept == 2 and run.tally.history_bytes == 2 * 4 * math.prod(SHAPE)
    exact = euler(None, schedule, gaussian, noise())
    assert 0 < (repeated - exact).norm() < 0.2 * exact.norm()


@pytest.mark.parametrize("method", METHODS.values())
def test_a_method_says_what_it_does_and_which_settings_it_reads(method):
    assert issubclass(method, SkipMethod) and method.does.endswith(".")
    assert method.about_target_speedup or method.about_threshold


def test_teacache_takes_the_signal_that_the_model_offers():
    schedule = linear_schedule(14)

    def of(signals: ModelSignals) -> TeaCache:
        return TeaCache.for_run(RunFacts(schedule, Settings(), EULER, signals))

    x, sigma = noise(), torch.tensor(0.5)
    plain = of(ModelSignals(model_input=lambda sigma, x: x / 2))
    assert torch.equal(plain.signal_of(sigma, x), x / 2) and plain.polynomial == IDENTITY
    assert plain.notes(Tally()) == ("signal: the model input, not rescaled",)
    known = WanShape(1536, 16, False)
    wan = of(ModelSignals(time_embedding=lambda sigma: 3 * sigma, wan=known, latent_pixels=6240))
    assert wan.signal_of(sigma, x) == 1.5 and wan.polynomial == POLYNOMIALS["Wan2.1 T2V 1.3B"]
    assert wan.notes(Tally()) == ("signal: the time embedding, rescaled for Wan2.1 T2V 1.3B",)
    small = of(ModelSignals(time_embedding=lambda sigma: sigma, wan=replace(known, dim=256)))
    assert small.polynomial == IDENTITY
    assert small.notes(Tally()) == ("signal: the time embedding, not rescaled",)


# --- state ---


@pytest.mark.parametrize("method", list(METHODS))
def test_second_run_equals_the_first_bit_for_bit(method):
    schedule = linear_schedule(20)

    def result() -> Tensor:
        return euler(
            SkipRun(schedule, EULER, METHODS[method](schedule, Settings(2.0, 0.5), EULER)),
            schedule,
            gaussian,
            noise(),
        )

    assert torch.equal(result(), result())


@pytest.mark.parametrize("method", list(METHODS))
def test_nothing_skipped_changes_nothing_bit_for_bit(method):
    schedule = linear_schedule(20)
    settings = {"forecast": Settings(target_speedup=1.0), "teacache": Settings(threshold=0.0)}[
        method
    ]
    run = SkipRun(schedule, EULER, METHODS[method](schedule, settings, EULER))
    assert torch.equal(
        euler(run, schedule, gaussian, noise()), euler(None, schedule, gaussian, noise())
    )
    assert run.finish().skipped == 0


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("solver", [EULER, SamplerTraits("euler_ancestral", is_stochastic=True)])
def test_no_tensor_it_was_given_is_changed(method, solver):
    schedule = linear_schedule(20)
    run = SkipRun(schedule, solver, METHODS[method](schedule, Settings(2.0, 5.0), solver))
    outputs: list[tuple[Tensor, Tensor]] = []
    for sigma in schedule.sigmas[:-1]:
        x = noise(int(sigma * 100))
        output = run.evaluate(x, torch.tensor(sigma), lambda x=x, sigma=sigma: gaussian(x, sigma))
        assert torch.equal(x, noise(int(sigma * 100)))
        outputs.append((output, output.clone()))
    assert run.finish().skipped > 0
    assert all(torch.equal(output, copy) for output, copy in outputs)


def test_a_sampler_may_overwrite_its_own_tensors():
    schedule = linear_schedule(20)

    def run_with(in_place: bool) -> list[Tensor]:
        run, x, seen = forecast_run(schedule, target_speedup=2.0), noise(), []
        for sigma, sigma_next in zip(schedule.sigmas, schedule.sigmas[1:]):
            given = x if in_place else x.clone()
            denoised = run.evaluate(
                given, torch.tensor(sigma), lambda x=x, sigma=sigma: gaussian(x.clone(), sigma)
            )
            moved = x + (sigma_next - sigma) * (x - denoised) / sigma
            seen.append(moved.clone())
            if in_place:
                x.copy_(moved)
                denoised.zero_()
            else:
                x = moved
        return seen

    assert all(torch.equal(a, b) for a, b in zip(run_with(True), run_with(False)))


def test_a_change_of_prompt_forces_evaluations_and_forgets():
    schedule = linear_schedule(20)
    run = forecast_run(schedule, target_speedup=2.0, regime_of=lambda sigma: sigma > 0.52)
    calls: list[float] = []
    euler(run, schedule, gaussian, noise(), calls)
    # Step 10 is the first below 0.52. Two evaluations of the new prompt are needed for a line: 10
    # and 11, planned as skips.
    made = [schedule.step_of(sigma) for sigma in calls]
    assert {10, 11} <= set(made) and not {10, 11} & set(run.finish().steps_skipped)


def test_several_outputs_are_forecast_together():
    # CFG++ needs the unconditional prediction beside the guided one.
    schedule = exponential_schedule(20)
    run = forecast_run(schedule, SamplerTraits("euler_cfg_pp"), target_speedup=1.5)
    for sigma in schedule.sigmas[:-1]:
        x = noise(3)

        def compute(x: Tensor = x, sigma: float = sigma) -> Tensor:
            return torch.stack([x - sigma, x - sigma * schedule.level(sigma)])

        outputs = run.evaluate(x, torch.tensor(sigma), compute)
        torch.testing.assert_close(outputs, compute(), rtol=1e-3, atol=1e-4)
    assert run.finish().skipped > 0


@pytest.mark.parametrize(
    "schedule", [linear_schedule(20), exponential_schedule(20)], ids=["flow", "noise prediction"]
)
def test_an_evaluation_at_sigma_0_is_made(schedule):
    # Its level is infinite; by then forecasts have been checked, so that an error could be expected
    # of the next one.
    run = forecast_run(schedule, target_speedup=1.5)
    x = euler(run, schedule, gaussian, noise())
    made = run.tally.made
    assert run.evaluate(x, torch.tensor(0.0), lambda: x + 1).equal(x + 1)
    assert run.tally.made == made + 1 and math.isfinite(max(run.finish().errors))


def test_schedules_that_do_not_descend_pass_through():
    schedule = RunSchedule(tuple(reversed(linear_schedule(20).sigmas)), is_flow=True)
    run = forecast_run(schedule, target_speedup=2.0)
    assert run.refusal == "the noise levels do not descend"


# --- teacache ---


def test_teacache_decisions_by_hand():
    # The signal is 1, 1.1, 1.1^2, ...: every change is 0.1. From step 3 on it adds up: 3: 0.1 skip,
    # 4: 0.2 skip, 5: 0.3, not below 0.3, so it is evaluated and the sum starts over.
    schedule = linear_schedule(14)
    run = teacache_run(
        schedule, lambda sigma, x: 1.1 ** torch.round((1 - sigma) * 14).reshape(1), threshold=0.29
    )
    euler(run, schedule, gaussian, noise())
    assert run.finish().steps_skipped == [3, 4, 6, 7, 9, 10, 12]


def test_teacache_polynomial_rescales_the_change():
    # p(d) = 2d: each change counts 0.2, so with threshold 0.29 every second evaluation is made.
    schedule = linear_schedule(14)
    run = teacache_run(
        schedule,
        lambda sigma, x: 1.1 ** torch.round((1 - sigma) * 14).reshape(1),
        (2.0, 0.0),
        threshold=0.29,
    )
    euler(run, schedule, gaussian, noise())
    assert run.finish().steps_skipped == [3, 5, 7, 9, 11]


def test_teacache_repeats_the_last_derivative():
    schedule = linear_schedule(14)
    run = teacache_run(schedule, lambda sigma, x: torch.ones(1), threshold=0.5, max_consecutive=1)
    values = iter(range(100))
    derivatives = []
    for sigma in schedule.sigmas[:-1]:
        x = noise(4)
        denoised = run.evaluate(
            x, torch.tensor(sigma), lambda x=x, sigma=sigma: x - sigma * next(values)
        )
        derivatives.append(round(((x - denoised) / sigma).mean().item(), 3))
    # Evaluated: steps 0, 1, 2, 4, 6, ... The one in between repeats the value before.
    assert derivatives == [0, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8]


def test_polynomials_are_read_highest_power_first():
    assert evaluate_polynomial((2.0, 3.0, 5.0), 10.0) == 235.0
    assert evaluate_polynomial(IDENTITY, 0.37) == 0.37


@pytest.mark.parametrize(
    ("dim", "in_dim", "image", "pixels", "name"),
    [
        (1536, 16, False, 6240, "Wan2.1 T2V 1.3B"),
        (5120, 16, False, 6240, "Wan2.1 T2V 14B"),
        (5120, 36, True, 104 * 60, "Wan2.1 I2V 480P"),
        (5120, 36, True, 160 * 90, "Wan2.1 I2V 720P"),
        (3072, 48, False, 3520, "Wan2.2 TI2V 5B"),
        (5120, 36, False, 6240, None),
        (256, 16, False, 64, None),
    ],
)
def test_polynomial_of_a_wan_is_found_by_its_shape(dim, in_dim, image, pixels, name):
    assert wan_polynomial(dim, in_dim, image, pixels) == name
    assert name is None or name in POLYNOMIALS


# --- samplers ---


@pytest.mark.parametrize(
    ("function", "options", "known", "stochastic", "refused"),
    [
        ("sample_euler", {}, True, False, False),
        ("sample_euler", {"s_churn": 5.0}, False, True, False),
        ("sample_euler_cfg_pp", {}, False, False, False),
        ("sample_heun", {}, False, False, False),
        ("sample_dpmpp_2m", {}, True, False, False),
        ("sample_dpmpp_2m_cfg_pp", {}, False, False, False),
        ("sample_res_multistep", {}, True, False, False),
        # CFG++ with two steps of history, since ComfyUI 0.35.
        ("sample_cfgpp_ud10_ab", {}, False, False, False),
        ("sample_unipc", {}, False, False, False),
        ("sample_euler_ancestral", {}, False, True, False),
        ("sample_euler_ancestral", {"eta": 0.0}, False, False, False),
        ("sample_dpmpp_2m_sde_gpu", {}, False, True, False),
        ("sample_er_sde", {}, False, True, False),
        ("sample_seeds_2", {}, False, True, False),
        ("sample_sa_solver_pece", {}, False, True, False),
        ("sample_lcm", {}, False, False, True),
        ("sample_tcd", {}, False, False, True),
        ("dpm_adaptive_function", {}, False, False, True),
        ("sample_ar_video", {}, False, False, True),
    ],
)
def test_samplers_are_known_by_name(function, options, known, stochastic, refused):
    solver = traits_of(function, options)
    assert (solver.is_known, solver.is_stochastic, solver.refusal is not None) == (
        known,
        stochastic,
        refused,
    )


def test_every_sampler_that_passes_through_is_named_where_the_node_is_described():
    names = {
        "lcm": "LCM",
        "tcd": "TCD",
        "dpm_adaptive": "dpm_adaptive",
        "ar_video": "causal",
        "causal": "causal",
        "stream": "causal",
    }
    assert names.keys() == REFUSALS.keys()
    described = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))[
        "FewStepSkip"
    ]["description"]
    page = (
        (ROOT / "web" / "docs" / "FewStepSkip.md").read_text(encoding="utf-8").split("## Inputs")[0]
    )
    assert [name for name in names.values() if name not in described or name not in page] == []
