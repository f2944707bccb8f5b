"""Plans: what is decided for a request, and what is refused in which words."""

from __future__ import annotations

import dataclasses
import functools
import math

import pytest
from comfyui_fewstep.loras.accelerator import Accelerator, Expert, Solver
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.schedules import (
    least_denoise,
    scaled_linear_sigma,
    shift_sigma,
    truncated_steps,
)
from comfyui_fewstep.samplers.guided import GuidedSettings, levels_between
from comfyui_fewstep.samplers.plan import (
    PlanError,
    Runner,
    make_expert_plan,
    make_high_noise_plan,
    make_plan,
    refuse_other_cfg,
    with_guided,
)

sd_sigma = functools.cache(scaled_linear_sigma)

LIGHTNING = CATALOG["sdxl-lightning-4step-lora"]
LCM = CATALOG["lcm-lora-sd15"]
GUIDED = CATALOG["hyper-sdxl-8step-cfg-lora"]
HIGH, LOW = CATALOG["wan22-t2v-lightning-high"], CATALOG["wan22-t2v-lightning-low"]

SINGLE = [record for record in CATALOG.values() if record.expert is None]


def test_zero_steps_are_the_accelerators_own():
    assert make_plan(LIGHTNING, 0, 1.0, sd_sigma).steps == 4
    assert make_plan(LCM, 0, 1.0, sd_sigma).steps == 4


def test_a_plan_costs_one_evaluation_a_step_and_two_where_guidance_was_kept():
    assert make_plan(LIGHTNING, 4, 1.0, sd_sigma).evaluations == 4
    assert make_plan(GUIDED, 8, 1.0, sd_sigma).evaluations == 16


def test_a_consistency_model_keeps_its_step_count_below_denoise_1():
    assert make_plan(LCM, 4, 0.5, sd_sigma).steps == 4
    shorter = make_plan(LIGHTNING, 4, 0.5, sd_sigma)
    assert shorter.steps == 2
    assert "last 2 of the 4" in shorter.notes[0]


@pytest.mark.parametrize("steps", [1, 3, 5, 6, 8, 50])
def test_other_steps_than_the_distilled_ones_run_on_the_same_formula_and_are_told(steps):
    plan = make_plan(LIGHTNING, steps, 1.0, sd_sigma)
    # Trailing: round(1000 - step * 1000 / steps) - 1, so 999, 799, 599, 399, 199 for 5.
    timesteps = [round(1000 - step * 1000 / steps) - 1 for step in range(steps)]
    assert plan.sigmas == (*map(sd_sigma, timesteps), 0.0)
    assert plan.distilled_for == "4"
    words = f"{steps} step{'s' * (steps != 1)}"
    assert plan.notes == (f"Distilled for 4, run at {words} on the same formula.",)


def test_the_distilled_steps_need_no_words():
    assert make_plan(LIGHTNING, 4, 1.0, sd_sigma).notes == ()
    assert make_plan(LIGHTNING, 4, 1.0, sd_sigma).distilled_for == ""


def test_a_range_of_steps_is_named_as_one():
    assert make_plan(LCM, 12, 1.0, sd_sigma).distilled_for == "2 to 8"


def test_a_grid_has_no_more_steps_than_timesteps():
    assert make_plan(LCM, 50, 1.0, sd_sigma).steps == 50
    with pytest.raises(PlanError, match="at most 50 steps.*steps is 51.*Set steps to 2 to 8"):
        make_plan(LCM, 51, 1.0, sd_sigma)


@pytest.mark.parametrize(
    ("id", "steps", "own"),
    [
        ("ltxv-13b-098-distilled", 5, "3 or 7 steps"),
        ("dmd2-sdxl-1step", 2, "1 step"),
        ("rcm-wan21-t2v-14b", 5, "1 to 4 steps"),
    ],
)
def test_a_list_of_noise_levels_has_its_own_steps_alone(id, steps, own):
    with pytest.raises(PlanError, match=f"list of noise levels, which has {own} and not {steps}"):
        make_plan(CATALOG[id], steps, 1.0, sd_sigma)


def test_tcd_takes_the_stochasticity_of_the_nearest_count():
    tcd = CATALOG["tcd-lora-sdxl"]
    nearest = min(tcd.gamma, key=lambda count: (abs(count - 5), count))
    plan = make_plan(tcd, 5, 1.0, sd_sigma)
    timesteps = tcd.schedule.timesteps(5, 1.0)[1:]
    down = [sd_sigma(math.floor((1 - tcd.gamma[nearest]) * t)) for t in timesteps]
    assert plan.sigmas_down == (*down, 0.0)


@pytest.mark.parametrize("denoise", [0.0, -0.5, 1.01, float("nan")])
def test_denoise_outside_its_range_is_refused(denoise):
    with pytest.raises(PlanError, match="denoise"):
        make_plan(LIGHTNING, 4, denoise, sd_sigma)


def test_denoise_below_the_last_step_is_refused_with_the_smallest():
    with pytest.raises(PlanError, match="the smallest is 0.25"):
        make_plan(LIGHTNING, 4, 0.2, sd_sigma)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 9, 13, 60])
def test_the_smallest_denoise_that_is_advised_is_one_that_runs(steps):
    least = least_denoise(steps)
    assert truncated_steps(steps, least) >= 1
    assert steps == 1 or truncated_steps(steps, least - 0.01) == 0


def test_advice_on_denoise_is_the_schedules_own():
    with pytest.raises(
        PlanError,
        match=(
            "8 steps do not fit into the 5 timesteps that denoise 0.1 leaves. Raise denoise, or"
            " take fewer"
        ),
    ):
        make_plan(LCM, 8, 0.1, sd_sigma)
    turbo = CATALOG["sd-turbo"]
    assert (
        make_plan(turbo, 4, 0.2, sd_sigma)
        .notes[0]
        .startswith("denoise 0.2: 2 of 4 steps, all that it was distilled for there")
    )
    with pytest.raises(PlanError, match="Raise it to 0.1 or more"):
        make_plan(turbo, 4, 0.05, sd_sigma)


def test_a_refusal_is_shown_under_the_packs_name_and_not_its_path():
    assert PlanError.__module__ == "comfyui_fewstep"


def test_a_model_without_accelerator_is_refused_with_what_to_do():
    with pytest.raises(PlanError, match="No accelerator.*Accelerator Loader.*KSampler"):
        make_plan(None, 0, 1.0, sd_sigma)
    with pytest.raises(PlanError, match="model_low_noise"):
        make_expert_plan(HIGH, None, 0, 1.0, sd_sigma)


@pytest.mark.parametrize("cfg", [1, 1.0, "1.0"])
def test_the_plans_own_cfg_may_be_sent(cfg):
    refuse_other_cfg(make_plan(LIGHTNING, 4, 1.0, sd_sigma), cfg)


@pytest.mark.parametrize("cfg", [7, 0.0, 1.5, "seven", None, ["3", 0]])
def test_any_other_cfg_is_refused_by_name(cfg):
    with pytest.raises(PlanError, match="cfg is locked.*sdxl-lightning-4step-lora"):
        refuse_other_cfg(make_plan(LIGHTNING, 4, 1.0, sd_sigma), cfg)


def test_a_guided_accelerator_runs_at_its_own_cfg():
    plan = make_plan(GUIDED, 8, 1.0, sd_sigma)
    assert plan.cfg == 5.0
    refuse_other_cfg(plan, 5)
    with pytest.raises(PlanError, match="cfg 5"):
        refuse_other_cfg(plan, 1.0)


def test_two_experts_share_one_schedule_and_switch_at_the_boundary():
    plan = make_expert_plan(HIGH, LOW, 0, 1.0, sd_sigma)
    assert plan.sigmas == pytest.approx((1, 0.9375, 2.5 / 3, 0.625, 0))
    assert plan.switch_step == 2
    assert plan.evaluations == 4


@pytest.mark.parametrize(
    ("high", "low", "message"),
    [
        (LOW, HIGH, "model takes Wan 2.2's high-noise expert.*Swap"),
        (HIGH, HIGH, "model_low_noise takes Wan 2.2's low-noise expert"),
        (
            HIGH,
            CATALOG["wan21-t2v-lightx2v-4step"],
            "which is for a single model.*choose wan22-t2v-wan21-lora-high and"
            " wan22-t2v-wan21-lora-low",
        ),
        (
            HIGH,
            CATALOG["wan21-t2v-lightx2v-4step-model"],
            "which is for a single model. For a single model leave model_low_noise unconnected",
        ),
        (HIGH, CATALOG["wan22-i2v-lightning-low"], "distilled differently: bases"),
    ],
)
def test_experts_that_do_not_belong_together_are_refused(high, low, message):
    with pytest.raises(PlanError, match=message):
        make_expert_plan(high, low, 0, 1.0, sd_sigma)


def test_the_high_noise_expert_alone_is_refused_and_the_low_noise_one_told():
    with pytest.raises(PlanError, match="never finishes a picture.*model_low_noise.*Schedule"):
        make_plan(HIGH, 0, 1.0, sd_sigma)
    plan = make_plan(LOW, 0, 1.0, sd_sigma)
    assert plan.sigmas == make_expert_plan(HIGH, LOW, 0, 1.0, sd_sigma).sigmas
    assert plan.switch_step is None
    assert "low-noise expert, which runs the whole schedule here" in plan.notes[0]


def test_the_experts_parts_of_a_schedule_meet_at_the_switch():
    plan = make_expert_plan(HIGH, LOW, 6, 1.0, sd_sigma)
    high, low = plan.parts
    assert high[-1] == low[0] and (*high, *low[1:]) == plan.sigmas
    assert min(high[:-1]) >= HIGH.boundary > low[0]
    assert plan.distilled_for == "4"


def test_of_a_high_noise_expert_its_part_alone_can_be_had():
    whole = make_expert_plan(HIGH, LOW, 0, 1.0, sd_sigma)
    assert make_high_noise_plan(HIGH, 0, 1.0, sd_sigma).parts[0] == whole.parts[0]


@pytest.mark.parametrize("record", SINGLE, ids=lambda record: record.id)
def test_every_record_plans_at_each_of_its_step_counts(record):
    for steps in record.steps:
        plan = make_plan(record, steps, 1.0, sd_sigma, image_tokens=4096)
        assert plan.steps == steps
        assert plan.sigmas[-1] == 0.0
        assert all(now > then for now, then in zip(plan.sigmas, plan.sigmas[1:], strict=False))
        if not record.is_guided:
            assert plan.evaluations == steps


@pytest.mark.parametrize(
    ("change", "law"),
    [
        ({"id": "Not An Id"}, "id is lower-case"),
        ({"steps": (4, 2)}, "ascending"),
        ({"default_steps": 5}, "one of steps"),
        ({"cfg": 0.5}, "cfg is at least 1"),
        ({"strength": 0.0}, "strength"),
        ({"gamma": {4: 0.3}}, "gamma"),
        ({"expert": Expert.HIGH_NOISE}, "boundary"),
        ({"boundary": 0.9}, "boundary"),
        ({"sources": ()}, "sources"),
        ({"bases": ()}, "base"),
    ],
)
def test_a_record_that_breaks_a_law_does_not_exist(change, law):
    with pytest.raises(ValueError, match=law):
        dataclasses.replace(LIGHTNING, **change)


def test_a_record_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LIGHTNING.cfg = 7.0
    with pytest.raises(TypeError):
        CATALOG["hyper-sd15-1step-lora"].gamma[4] = 1.0
    assert isinstance(LIGHTNING, Accelerator)


# ---------------------------------------------------------------- a guided start

# As Wan's own flow: a thousand even times, shifted by 8.
FLOW_8 = [shift_sigma(step / 1000, 8.0) for step in range(1, 1001)]
SD_TABLE = [sd_sigma(timestep) for timestep in range(1000)]


@pytest.mark.parametrize(
    ("levels", "start", "end", "steps", "places"),
    [
        # Of a table of 1000 entries the places 999 and 749; half-way lies 874.
        (SD_TABLE, SD_TABLE[999], SD_TABLE[749], 2, [874]),
        # Thirds of the same stretch fall between two entries: 915 2/3 and 832 1/3.
        (SD_TABLE, SD_TABLE[999], SD_TABLE[749], 3, [999 - 250 / 3, 999 - 500 / 3]),
        # Flow times 1 and 0.8, at places 999 and 799, in four parts of 50.
        (FLOW_8, shift_sigma(1.0, 8.0), shift_sigma(0.8, 8.0), 4, [949, 899, 849]),
        (SD_TABLE, SD_TABLE[999], SD_TABLE[749], 1, []),
    ],
)
def test_guided_levels_are_even_in_the_models_own_training_time(levels, start, end, steps, places):
    between = levels_between(levels, start, end, steps)
    assert (between[0], between[-1], len(between)) == (start, end, steps + 1)
    for sigma, place in zip(between[1:-1], places, strict=True):
        below = math.floor(place)
        low, high = levels[below], levels[math.ceil(place)]
        assert sigma == pytest.approx(low * (high / low) ** (place - below), rel=1e-9)


def test_a_start_above_the_models_table_is_its_end():
    """As where an accelerator begins at sigma 80: what is above the table lies at its end."""
    between = levels_between(SD_TABLE, 80.0, SD_TABLE[749], 2)
    assert between == pytest.approx((80.0, SD_TABLE[874], SD_TABLE[749]))


def test_levels_that_a_table_does_not_have_are_refused():
    with pytest.raises(ValueError, match="no 2 noise levels between sigma 90 and 80"):
        levels_between(SD_TABLE, 90.0, 80.0, 2)
    settings = GuidedSettings(1, 2, 3.5)
    with pytest.raises(PlanError, match="Guided Start: the model has no 2.*guided_steps lower"):
        with_guided(make_plan(LIGHTNING, 4, 1.0, sd_sigma), settings, [0.1, 0.2])


@pytest.mark.parametrize("replaced", [1, 2, 3])
def test_a_guided_start_leaves_the_rest_of_the_schedule_as_it_is(replaced):
    plain = make_plan(LIGHTNING, 4, 1.0, sd_sigma)
    plan = with_guided(plain, GuidedSettings(replaced, 3, 3.5), SD_TABLE)
    guided, rest = plan.stages
    assert (guided.runner, guided.solver, guided.cfg) == (Runner.GUIDED, Solver.EULER, 3.5)
    assert (rest.runner, rest.sigmas, rest.cfg) == (Runner.FIRST, plain.sigmas[replaced:], 1.0)
    assert (guided.sigmas[0], guided.sigmas[-1]) == (plain.sigmas[0], rest.sigmas[0])
    # Three steps of two evaluations, and one for each step that is left of four.
    assert plan.evaluations == 6 + (4 - replaced)
    assert plan.sigmas == plain.sigmas and plan.steps == 4


def test_at_cfg_1_a_guided_step_costs_one_evaluation():
    plan = with_guided(make_plan(GUIDED, 8, 1.0, sd_sigma), GuidedSettings(2, 4, 1.0), SD_TABLE)
    # Four of one, and the other six of an accelerator that kept guidance at two each.
    assert plan.evaluations == 4 + 12


def test_a_pair_has_three_stages_and_two_where_nothing_is_left_of_one():
    pair = make_expert_plan(HIGH, LOW, 0, 1.0, float)
    three = with_guided(pair, GuidedSettings(1, 2, 3.5), FLOW_8).stages
    assert [stage.runner for stage in three] == [Runner.GUIDED, Runner.FIRST, Runner.LOW_NOISE]
    assert [stage.steps for stage in three] == [2, 1, 2]
    two = with_guided(pair, GuidedSettings(2, 2, 3.5), FLOW_8).stages
    assert [stage.runner for stage in two] == [Runner.GUIDED, Runner.LOW_NOISE]
    with pytest.raises(PlanError, match="distilled_steps is 3.*first 2 steps.*at most 2"):
        with_guided(pair, GuidedSettings(3, 2, 3.5), FLOW_8)
    late = make_expert_plan(HIGH, LOW, 0, 0.5, float)
    with pytest.raises(PlanError, match="begins below the boundary"):
        with_guided(late, GuidedSettings(1, 2, 3.5), FLOW_8)


def test_a_guided_start_leaves_the_accelerator_a_step():
    plan = make_plan(LIGHTNING, 4, 1.0, sd_sigma)
    with pytest.raises(PlanError, match="has 4 steps: none would be left.*at most 3"):
        with_guided(plan, GuidedSettings(4, 2, 3.5), SD_TABLE)
    one = make_plan(LIGHTNING, 1, 1.0, sd_sigma)
    with pytest.raises(PlanError, match="a single step, and Guided Start must leave it one"):
        with_guided(one, GuidedSettings(1, 2, 3.5), SD_TABLE)


@pytest.mark.parametrize("record", SINGLE, ids=lambda record: record.id)
def test_the_stages_of_a_run_without_a_guided_start_are_the_run(record):
    plan = make_plan(record, 0, 1.0, sd_sigma, 4096)
    (stage,) = plan.stages
    assert (stage.sigmas, stage.solver, stage.cfg) == (plan.sigmas, plan.solver, plan.cfg)
