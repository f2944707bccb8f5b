"""Schedules against diffusers, which the accelerators' authors used, and against numbers worked out
by hand.
"""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from comfyui_fewstep.loras import schedules
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.schedules import (
    ConsistencyGrid,
    FirstTimesteps,
    Flux2Flow,
    FluxFlow,
    HostSpacedFlow,
    LiteralSigmas,
    OwnFlow,
    Schedule,
    ShiftedFlow,
    SizedTimes,
    Trailing,
    TrigFlow,
    TwoClockFlow,
)
from comfyui_fewstep.samplers.plan import switch_step, tcd_sigmas_down
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionImg2ImgPipeline,
    TCDScheduler,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers_sigmas import STABLE_DIFFUSION, scheduler_of, sigmas_of_scheduler

sd_sigma = functools.cache(schedules.scaled_linear_sigma)


def cases(kind: type) -> list:
    return [
        pytest.param(record, steps, id=f"{record.id}-{steps}")
        for record in CATALOG.values()
        if isinstance(record.schedule, kind)
        for steps in record.steps
    ]


def assert_sigmas_are(ours: list[float], scheduler) -> None:
    assert ours == pytest.approx(sigmas_of_scheduler(scheduler), rel=0, abs=1e-5)


@pytest.mark.parametrize(("record", "steps"), [*cases(Trailing), *cases(ShiftedFlow)])
def test_trailing_and_flow_sigmas_equal_diffusers_euler(record, steps):
    assert_sigmas_are(
        record.schedule.sigmas(steps, 1.0, sd_sigma),
        scheduler_of(record.schedule, steps),
    )


@pytest.mark.parametrize(("record", "steps"), cases(ConsistencyGrid))
@pytest.mark.parametrize("scheduler", [LCMScheduler, TCDScheduler])
def test_consistency_sigmas_equal_diffusers(record, steps, scheduler):
    assert_sigmas_are(
        record.schedule.sigmas(steps, 1.0, sd_sigma),
        scheduler_of(record.schedule, steps, scheduler),
    )


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("denoise", [0.25, 0.5, 0.75])
def test_consistency_img2img_equals_diffusers_strength(steps, denoise):
    reference = LCMScheduler(**STABLE_DIFFUSION)
    reference.set_timesteps(steps, strength=denoise)
    assert schedules.consistency_timesteps(steps, 50, denoise) == reference.timesteps.tolist()


@pytest.mark.parametrize("hundredths", range(1, 101))
def test_denoise_truncates_as_diffusers_does(hundredths):
    # One rule for the grid and for the step count. 50 · .58 is 28.999... in floats: 28, not 29.
    denoise = hundredths / 100
    for original_steps in (50, 100):
        reference = LCMScheduler(**STABLE_DIFFUSION, original_inference_steps=original_steps)
        for steps in (1, 2, 4, 8):
            try:
                reference.set_timesteps(steps, strength=denoise)
            except ValueError:
                with pytest.raises(ValueError, match="1 step does not|steps do not fit into"):
                    schedules.consistency_timesteps(steps, original_steps, denoise)
                continue
            ours = schedules.consistency_timesteps(steps, original_steps, denoise)
            assert ours == reference.timesteps.tolist()
    for steps in range(1, 101):
        scheduler = EulerDiscreteScheduler(**STABLE_DIFFUSION)
        scheduler.set_timesteps(steps)
        pipeline = SimpleNamespace(scheduler=scheduler)
        _, kept = StableDiffusionImg2ImgPipeline.get_timesteps(pipeline, steps, denoise, "cpu")
        assert schedules.truncated_steps(steps, denoise) == kept


@pytest.mark.parametrize("steps", range(1, 51))
def test_a_formula_equals_diffusers_at_any_count(steps):
    for formula in (Trailing(), ShiftedFlow(5.0), ConsistencyGrid(50)):
        assert_sigmas_are(formula.sigmas(steps, 1.0, sd_sigma), scheduler_of(formula, steps))


@pytest.mark.parametrize(
    "kind", [Trailing(), ConsistencyGrid(50), FirstTimesteps(tuple(range(999, 0, -100)))], ids=str
)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_run_at_any_denoise_is_a_part_of_those_that_a_schedule_names(kind, steps):
    runs = [*kind.runs(steps, sd_sigma)]
    assert runs.count(kind.sigmas(steps, 1.0, sd_sigma)) == 1
    for hundredths in range(math.ceil(100 / steps), 101):
        sigmas = kind.sigmas(steps, hundredths / 100, sd_sigma)
        assert any(run[len(run) - len(sigmas) :] == sigmas for run in runs)


# What a formula gives for any count, and a list for its own alone.
FORMULAS = (
    Trailing(),
    ConsistencyGrid(50),
    ShiftedFlow(3.0),
    HostSpacedFlow(3.0, "normal"),
    HostSpacedFlow(3.0, "sgm_uniform"),
    FluxFlow(),
    Flux2Flow(),
    OwnFlow(),
    TwoClockFlow(6.0, 3.0),
)
LISTS = (
    (FirstTimesteps((999, 899, 799)), {1, 2, 3}),
    (TrigFlow(80.0), {1, 2, 3, 4}),
    (LiteralSigmas(((1.0, 0.5), (1.0, 0.9, 0.5, 0.2))), {2, 4}),
    (SizedTimes(((1.0, 0.5), (1.0, 0.75, 0.5, 0.25))), {2, 4}),
)


def test_every_kind_of_schedule_is_a_formula_or_a_list():
    kinds = {type(schedule) for schedule in (*FORMULAS, *(schedule for schedule, _ in LISTS))}
    assert kinds == set(Schedule.__subclasses__())


@pytest.mark.parametrize("formula", FORMULAS, ids=str)
def test_a_formula_has_every_count_from_one_up(formula):
    assert formula.is_formula
    for steps in range(1, 51):
        assert formula.has_steps(steps)
        sigmas = formula.sigmas(steps, 1.0, sd_sigma, 4096)
        assert len(sigmas) == steps + 1 and sigmas[-1] == 0.0
        assert all(now > then for now, then in pairwise(sigmas))


@pytest.mark.parametrize(("schedule", "counts"), LISTS, ids=str)
def test_a_list_has_its_own_counts_alone(schedule, counts):
    assert not schedule.is_formula
    assert {steps for steps in range(1, 51) if schedule.has_steps(steps)} == counts
    for steps in counts:
        assert len(schedule.sigmas(steps, 1.0, sd_sigma, 4096)) == steps + 1


def test_a_schedule_says_what_the_model_must_be_set_to():
    shifts = {type(schedule): schedule.shift for schedule in FORMULAS if schedule.shift}
    assert shifts == {ShiftedFlow: 3.0, HostSpacedFlow: 3.0, TwoClockFlow: 6.0}
    assert TwoClockFlow(6.0, 3.0).audio_shift == 3.0
    assert [type(schedule) for schedule in FORMULAS if schedule.needs_size] == [FluxFlow, Flux2Flow]


@pytest.mark.parametrize("formula", [FluxFlow(), Flux2Flow(), SizedTimes(((1.0, 0.5, 0.4, 0.3),))])
def test_a_size_that_is_needed_is_asked_for(formula):
    with pytest.raises(ValueError, match="connect latent_image"):
        formula.sigmas(4, 1.0, sd_sigma)


# Qwen/Qwen-Image-2.1 scheduler_config.json, without its shift_terminal, as Viggle and LightX2V run.
QWEN_IMAGE21 = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
}


@pytest.mark.parametrize("size", [(1024, 1024), (2048, 2048), (1376, 768)])
@pytest.mark.parametrize(
    ("id", "times"),
    [
        ("qwen-image-21-viggle-turbo-lora", [1.0, 0.9375, 0.875, 0.75, 0.5, 0.25]),
        ("qwen-image-21-viggle-turbo-lora", [1.0, 0.75, 0.5, 0.25]),
        ("qwen-image-21-viggle-turbo-4step-lora", [1.0, 0.75, 0.5, 0.25]),
        ("qwen-image-21-lightning-4step-lora", [1.0, 0.75, 0.5, 0.25]),
    ],
)
def test_qwen_image_21_loras_shift_by_size_as_diffusers_does(size, id, times):
    tokens = size[0] * size[1] // 256
    mu = calculate_shift(tokens, 256, 8192, 0.5, 0.9)
    reference = FlowMatchEulerDiscreteScheduler(**QWEN_IMAGE21)
    reference.set_timesteps(sigmas=times, mu=mu)
    ours = CATALOG[id].schedule.sigmas(len(times), 1.0, sd_sigma, tokens)
    assert_sigmas_are(ours, reference)


@pytest.mark.parametrize("shift", [1.0, 3.0, math.exp(2.02)])
@pytest.mark.parametrize("steps", [1, 4, 16])
def test_a_models_own_flow_is_the_one_it_is_shifted_by(shift, steps):
    own = OwnFlow().sigmas(steps, 1.0, lambda t: schedules.shift_sigma(t / 1000, shift))
    assert own == pytest.approx(ShiftedFlow(shift).sigmas(steps, 1.0, sd_sigma))


def test_known_timesteps():
    # The lists on the model cards and in the papers.
    assert schedules.trailing_timesteps(4) == [999, 749, 499, 249]
    assert schedules.trailing_timesteps(8) == [999, 874, 749, 624, 499, 374, 249, 124]
    assert schedules.consistency_timesteps(4, 50) == [999, 759, 499, 259]
    assert schedules.consistency_timesteps(8, 50) == [999, 879, 759, 639, 499, 379, 259, 139]


def test_known_sigmas():
    assert sd_sigma(999) == pytest.approx(14.6146, abs=5e-5)
    assert sd_sigma(0) == pytest.approx(0.0292, abs=5e-5)
    # 5·.75 / (1 + 4·.75) = 3.75 / 4 = .9375;  5·.5 / 3 = .8333;  5·.25 / 2 = .625
    assert ShiftedFlow(5.0).sigmas(4, 1.0, sd_sigma) == pytest.approx(
        [1, 0.9375, 2.5 / 3, 0.625, 0]
    )


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 5.0, 12.0])
@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_shifting_back_undoes_the_shift(shift, sigma):
    assert schedules.shift_sigma(schedules.shift_sigma(sigma, shift), 1 / shift) == pytest.approx(
        sigma
    )


@pytest.mark.parametrize("mu", [0.5, 1.15, 2.2912])
def test_shift_is_the_exponential_of_flux_mu(mu):
    t = 0.37
    flux = math.exp(mu) / (math.exp(mu) + (1 / t - 1))
    assert schedules.shift_sigma(t, math.exp(mu)) == pytest.approx(flux)


@pytest.mark.parametrize(
    ("steps", "denoise", "kept"),
    # int(steps · denoise): as diffusers shortens img2img.
    [(4, 1.0, 4), (4, 0.75, 3), (4, 0.74, 2), (4, 0.5, 2), (4, 0.25, 1), (10, 0.7, 7), (1, 1.0, 1)],
)
def test_denoise_keeps_the_end_of_a_fixed_schedule(steps, denoise, kept):
    whole = ShiftedFlow(5.0).sigmas(steps, 1.0, sd_sigma)
    assert ShiftedFlow(5.0).sigmas(steps, denoise, sd_sigma) == whole[steps - kept :]


@pytest.mark.parametrize("kind", [Trailing(), ShiftedFlow(5.0), ConsistencyGrid(50)])
def test_denoise_too_small_for_any_step_is_refused(kind):
    with pytest.raises(ValueError, match="denoise 0.01"):
        kind.sigmas(4, 0.01, sd_sigma)


def test_expert_switch_is_the_first_step_below_the_boundary():
    shift_5 = [1, 0.9375, 0.8333, 0.625, 0]
    assert switch_step(shift_5, 0.875) == 2
    assert switch_step(shift_5, 0.9) == 2
    # Shift 8: .8889 still belongs to the high-noise expert at 0.875 and not at 0.9.
    assert switch_step([1, 0.96, 0.8889, 0.7273, 0], 0.875) == 3
    assert switch_step([1, 0.96, 0.8889, 0.7273, 0], 0.9) == 2


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_tcd_jumps_to_the_timesteps_of_diffusers(gamma):
    timesteps = schedules.consistency_timesteps(4, 50)
    down = tcd_sigmas_down(ConsistencyGrid(50), 4, 1.0, gamma, sd_sigma)
    # TCDScheduler.step: timestep_s = floor((1 - eta) · prev_timestep)
    expected = [sd_sigma(int(torch.floor(torch.tensor((1 - gamma) * t)))) for t in timesteps[1:]]
    assert down == pytest.approx([*expected, 0.0], rel=1e-6)
