"""Budget arithmetic: every experience with every accelerator and allowance, and the words that go
with a choice.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from comfyui_fewstep.loras.accelerator import Causal, is_taken
from comfyui_fewstep.loras.bases import Base, StepRange, unlisted
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.samplers.budget.advice import Machine, levers, pitfalls
from comfyui_fewstep.samplers.budget.cost import (
    EXPERIENCES,
    BlockCost,
    BudgetError,
    Cost,
    Overhead,
    Work,
    allowance_of,
    given_blocks,
    seconds_in_words,
    streaming_cost,
)
from comfyui_fewstep.samplers.budget.decoding import TinyVae, is_worth_a_word
from comfyui_fewstep.samplers.budget.ways import (
    MOST_SPEEDUP,
    CarriedSkip,
    Choice,
    Route,
    accelerated_way,
    candidates,
    choose,
    full_run_of,
    full_way,
    known_ways,
)
from comfyui_fewstep.samplers.causal import make_stream_plan

COST = Cost(
    evaluation=0.5, guided_step=0.9, blocks={1: BlockCost(0.05, 0.11), 3: BlockCost(0.1, 0.22)}
)
PICTURE = Work(samples=1)
CLIP = Work(samples=1, latent_frames=21, clip_seconds=81 / 16)
ALLOWANCES = (0.001, 0.4, 0.5, 0.51, 1.0, 2.0, 3.9, 4.0, 5.0, 20.0, 1e9, math.inf)
RECORDS = list(CATALOG.values())


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.id)
def test_an_accelerator_is_never_given_steps_it_was_not_distilled_for(record) -> None:
    for experience, seconds, work in itertools.product(
        EXPERIENCES, (0.0, *ALLOWANCES[:-1]), (PICTURE, CLIP)
    ):
        allowance = allowance_of(experience, seconds, work)
        ways = candidates(record, None, COST, work)
        choice = choose(ways, allowance)
        assert choice.way.steps in record.steps
        assert choice.way.target_speedup == 1.0
        expected = {steps: seconds_of(record, steps, work) for steps in record.steps}
        assert {way.steps: way.seconds for way in ways} == pytest.approx(expected)
        fitting = [way.steps for way in ways if way.seconds <= allowance]
        # The most steps that fit; where none does, the fewest there are, and the miss to the last
        # digit.
        assert choice.way.steps == (max(fitting) if fitting else record.steps[0])
        assert choice.misses == (0.0 if fitting else choice.way.seconds - allowance)


def seconds_of(record, steps: int, work: Work) -> float:
    """What a run costs at COST, reckoned from what the record says and by sums of series."""
    if record.causal is None:
        return steps * (0.5 if record.cfg == 1.0 else 0.9)
    first, last = {1: (0.05, 0.11), 3: (0.1, 0.22)}[record.causal.frames_per_block]
    blocks = max(1, work.latent_frames // record.causal.frames_per_block)
    opening = (record.causal.first_block_steps or steps) * first
    if blocks == 1:
        return opening
    stride = (last - first) / (blocks - 1)
    in_steps = steps * (blocks - 1) * (first + stride + last) / 2
    in_context = (blocks - 1) * (first + last - stride) / 2
    return opening + in_steps + in_context


FULL_CHOICES = [
    # allowance, steps, target_speedup, misses: a guided step is 0.9 s, so 50 steps take 45 s and 25
    # of them 22.5 s
    (math.inf, 50, 1.0, 0.0),
    (45.0, 50, 1.0, 0.0),
    (44.9, 50, 1.05, 0.0),  # 50 / 1.05 = 47.6, 48 steps made: 43.2 s
    (30.0, 50, 1.5, 0.0),  # 33 made: 29.7 s
    (22.5, 50, 2.0, 0.0),
    (22.4, 49, 2.0, 0.0),  # 49 / 2 = 24.5, which rounds to the even 24: 21.6 s
    (11.0, 25, 2.0, 0.0),  # 12 made: 10.8 s
    (10.0, 25, 2.0, 0.8),
]


@pytest.mark.parametrize(("allowance", "steps", "speedup", "misses"), FULL_CHOICES)
def test_without_an_accelerator_it_skips_before_it_cuts_steps(
    allowance, steps, speedup, misses
) -> None:
    choice = choose(candidates(None, StepRange(25, 50), COST, PICTURE), allowance)
    assert (choice.way.steps, choice.way.target_speedup) == (steps, pytest.approx(speedup))
    assert choice.misses == pytest.approx(misses)


@pytest.mark.parametrize("base", [unlisted("NewModel"), *Base], ids=lambda base: base.label)
@pytest.mark.parametrize("is_guidance_distilled", [False, True])
def test_every_base_has_an_answer_within_its_range(base, is_guidance_distilled) -> None:
    run = full_run_of(base, is_guidance_distilled)
    if run is None:
        with pytest.raises(BudgetError, match="Accelerator Loader"):
            candidates(None, run, COST, PICTURE)
        # An upscaler with nodes of its own, left out of the catalogue.
        assert base is Base.SEEDVR2 or any(base in record.bases for record in RECORDS)
        return
    for allowance in ALLOWANCES:
        way = choose(candidates(None, run, COST, PICTURE), allowance).way
        assert run.least <= way.steps <= run.most
        assert 1.0 <= way.target_speedup <= MOST_SPEEDUP
        assert run.is_guided == (way.evaluations > way.steps / way.target_speedup + 1)
        _assert_most_faithful(way, run, allowance)


def _assert_most_faithful(way, run, allowance) -> None:
    """Reckoned without `candidates`: no run of more steps and no lesser skipping fits as well;
    where none fits, it is the cheapest.
    """
    seconds = COST.guided_step if run.is_guided else COST.evaluation

    def cost_of(steps: int, speedup: float) -> float:
        return round(steps / speedup) * seconds

    if cost_of(way.steps, way.target_speedup) > allowance:
        assert way.seconds == min(cost_of(steps, 2.0) for steps in range(run.least, run.most + 1))
        return
    if way.steps < run.most:
        assert way.target_speedup == 2.0 and cost_of(way.steps + 1, 2.0) > allowance
    elif way.target_speedup > 1.0:
        assert cost_of(run.most, way.target_speedup - 0.05) > allowance


CHEAPEST = [
    # is_guided, allowance, steps, target_speedup, misses: of 20 to 50 steps, 20 and 21 at 2x both
    # make ten evaluations (10.5 is even 10)
    (True, 9.0, 21, 2.0, 0.0),  # they fit: the more faithful of the two
    (True, 8.9, 20, 2.0, 0.1),  # they do not: the fewest steps
    (True, 1.0, 20, 2.0, 8.0),
    (True, 10.0, 22, 2.0, 0.0),  # 11 made: 9.9 s; 23 would be 11.5, an even 12
    (True, 45.0, 50, 1.0, 0.0),
    (False, 5.0, 21, 2.0, 0.0),
    (False, 4.9, 20, 2.0, 0.1),
    (False, 25.0, 50, 1.0, 0.0),
    (False, 24.9, 50, 1.05, 0.0),  # 48 made: 24 s
]


@pytest.mark.parametrize(("is_guided", "allowance", "steps", "speedup", "misses"), CHEAPEST)
def test_of_two_that_cost_the_same_and_do_not_fit_it_takes_fewer_steps(
    is_guided, allowance, steps, speedup, misses
) -> None:
    choice = choose(candidates(None, StepRange(20, 50, is_guided), COST, PICTURE), allowance)
    assert (choice.way.steps, choice.way.target_speedup) == (steps, pytest.approx(speedup))
    assert choice.misses == pytest.approx(misses)


def test_candidates_fall_in_cost() -> None:
    seconds = [way.seconds for way in candidates(None, StepRange(20, 50), COST, PICTURE)]
    assert seconds == sorted(seconds, reverse=True)


def test_experiences_have_allowances_and_seconds_override_them() -> None:
    assert allowance_of("batch", 0, PICTURE) == math.inf
    assert allowance_of("interactive", 0, PICTURE) == 5
    assert allowance_of("live", 0, PICTURE) == 1
    # Live video may take as long as it plays: 81 frames at 16 a second.
    assert allowance_of("live", 0, CLIP) == pytest.approx(5.0625)
    assert [allowance_of(experience, 3.5, CLIP) for experience in EXPERIENCES] == [3.5] * 3


def test_guidance_that_is_an_input_of_the_network_costs_nothing() -> None:
    assert full_run_of(Base.FLUX, is_guidance_distilled=True) == StepRange(20, 50, is_guided=False)
    assert full_run_of(Base.SDXL, is_guidance_distilled=False) == StepRange(25, 50)
    assert full_run_of(Base.FLUX, True, is_negative_forced=True) == StepRange(20, 50)
    assert full_way(full_run_of(Base.FLUX, True), 50, 1.0, COST).seconds == 25.0


def test_an_accelerator_that_kept_guidance_costs_two_evaluations_a_step() -> None:
    way = accelerated_way((CATALOG["hyper-sdxl-8step-cfg-lora"],), 8, COST, PICTURE)
    assert (way.evaluations, way.seconds) == (16, pytest.approx(7.2))


def test_a_forced_negative_branch_is_paid_for() -> None:
    way = accelerated_way(
        (CATALOG["sdxl-lightning-4step-lora"],), 4, COST, PICTURE, is_negative_forced=True
    )
    assert (way.evaluations, way.seconds) == (8, pytest.approx(3.6))


def test_a_stream_pays_for_every_block_and_its_context_pass() -> None:
    record = CATALOG["self-forcing-dmd"]
    assert record.causal == Causal(frames_per_block=3)
    way = accelerated_way((record,), 4, COST, CLIP)
    # 21 frames in 7 blocks of 4 steps, with a context pass between each two.
    assert (
        way.evaluations
        == 34
        == make_stream_plan(record, 21, lambda timestep: timestep / 1000).evaluations
    )
    # An evaluation of the blocks costs 0.10, 0.12 ... 0.20 s, five of each, and 0.22 s, four: 4.5 +
    # 0.88.
    assert way.seconds == pytest.approx(5.38)
    assert way.first_block == pytest.approx(0.4)


def test_a_first_block_of_more_steps_is_paid_for() -> None:
    record = CATALOG["fewstep-demo-causal"]
    way = accelerated_way((record,), 4, COST, Work(1, 3, 9 / 8))
    assert (
        way.evaluations
        == 8 + 1 + 4 + 1 + 4
        == make_stream_plan(record, 3, lambda timestep: timestep / 1000).evaluations
    )
    # 0.05, 0.08 and 0.11 s an evaluation, context passes on all but the last.
    assert way.seconds == pytest.approx(9 * 0.05 + 5 * 0.08 + 4 * 0.11)
    assert way.first_block == pytest.approx(8 * 0.05)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_stream_of_one_block_has_no_context_pass(frames) -> None:
    way = accelerated_way((CATALOG["self-forcing-dmd"],), 4, COST, Work(1, frames, 1.0))
    assert (way.evaluations, way.seconds) == (4, pytest.approx(0.4))


def test_a_length_that_is_no_whole_number_of_blocks_is_reckoned_as_the_next_longer_one() -> None:
    ways = [
        accelerated_way((CATALOG["self-forcing-dmd"],), 4, COST, Work(1, frames, 5.0))
        for frames in (20, 21)
    ]
    assert ways[0] == ways[1]


def test_a_given_cost_is_that_of_a_block_of_the_accelerator_at_hand() -> None:
    cost = streaming_cost(given_blocks(0.3, 3, {1, 3}), 3)
    assert (cost.evaluation, cost.blocks) == (
        0.3,
        {1: BlockCost(pytest.approx(0.1), pytest.approx(0.1)), 3: BlockCost(0.3, 0.3)},
    )
    assert accelerated_way((CATALOG["self-forcing-dmd"],), 4, cost, CLIP).seconds == pytest.approx(
        34 * 0.3
    )


def test_a_measured_stream_is_told_by_its_block_half_way() -> None:
    assert streaming_cost({3: BlockCost(0.1, 0.3)}, 3).evaluation == pytest.approx(0.2)


def test_a_stream_whose_blocks_have_no_cost_is_not_listed() -> None:
    cost = Cost(0.5, 0.9, {1: BlockCost(0.05, 0.11)})
    listed = [
        way.records[0] for way in known_ways(Base.WAN_CAUSAL, None, None, RECORDS, cost, CLIP)
    ]
    assert listed and all(record.causal.frames_per_block == 1 for record in listed)


def test_steps_outside_the_record_are_refused() -> None:
    with pytest.raises(BudgetError, match=r"distilled for \[4\] steps, not 5"):
        accelerated_way((CATALOG["sdxl-lightning-4step-lora"],), 5, COST, PICTURE)


@pytest.mark.parametrize("base", [unlisted("NewModel"), *Base], ids=lambda base: base.label)
def test_known_ways_hold_every_accelerator_of_the_base_once(base) -> None:
    ways = known_ways(base, None, full_run_of(base, False), RECORDS, COST, CLIP)
    listed = [record.id for way in ways for record in way.records]
    own = [record.id for record in RECORDS if base in record.bases]
    taken = [record.id for record in RECORDS if is_taken(record, base)]
    assert sorted(listed) == sorted(own + taken) and bool(taken) == bool(base.takes)
    assert all(way.steps == way.records[0].default_steps for way in ways if way.records)


def test_the_two_experts_of_a_release_are_one_way() -> None:
    ways = known_ways(Base.WAN22_I2V, 5120, full_run_of(Base.WAN22_I2V, False), RECORDS, COST, CLIP)
    pairs = {tuple(record.id for record in way.records) for way in ways}
    assert ("wan22-i2v-lightning-high", "wan22-i2v-lightning-low") in pairs


def test_known_ways_leave_out_other_sizes() -> None:
    ways = known_ways(Base.WAN_T2V, 1536, full_run_of(Base.WAN_T2V, False), RECORDS, COST, CLIP)
    assert {record.width for way in ways for record in way.records} <= {1536, None}


def test_price_is_of_one_picture_of_the_batch() -> None:
    way = accelerated_way((CATALOG["sdxl-lightning-4step-lora"],), 4, COST, PICTURE)
    assert way.price(3.6, Work(samples=4)) == pytest.approx(2.0 * 3.6 / 3600 / 4)


def test_the_levers_say_what_would_fit() -> None:
    run = full_run_of(Base.SDXL, False)
    ways = known_ways(Base.SDXL, None, run, RECORDS, COST, PICTURE)
    choice = choose(candidates(None, run, COST, PICTURE), 2.0)
    quantise, skip, distil, stack = levers(choice, ways, Machine(16, "FP8"), PICTURE)
    assert "FP8" in quantise
    assert "target_speedup 2" in skip
    assert "fit, for example" in distil
    assert "exclude each other" in stack
    assert choice.misses == pytest.approx(10.8 - 2.0)


def test_the_levers_own_up_when_nothing_fits() -> None:
    run = full_run_of(Base.SDXL, False)
    choice = choose(candidates(None, run, COST, PICTURE), 0.1)
    distil = levers(
        choice, known_ways(Base.SDXL, None, run, RECORDS, COST, PICTURE), Machine(8), PICTURE
    )[2]
    assert "no accelerator fits either" in distil and "0.5 s" in distil


def test_the_accelerator_named_is_one_that_is_there_then_one_that_may_be_sold() -> None:
    names = (
        "sdxl-turbo",
        "hyper-sdxl-1step-lora",
        "sdxl-lightning-4step-lora",
        "dmd2-sdxl-4step-lora",
    )
    records = [CATALOG[name] for name in names]
    run = full_run_of(Base.SDXL, False)
    choice = choose(candidates(None, run, COST, PICTURE), 2.0)
    ways = known_ways(Base.SDXL, None, run, records, COST, PICTURE)

    def named(*there: str) -> str:
        return levers(choice, ways, Machine(16), PICTURE, there)[2].partition("for example ")[2]

    free = [record.id for record in records if record.licence.commercial is True]
    bound = [record.id for record in records if record.licence.commercial is False]
    assert free and bound
    assert named().startswith(tuple(free))
    # On disk comes first, whatever it is; of two on disk the one that is free.
    for name in names:
        assert named(name).startswith(f"{name} at ")
    assert named(bound[0], free[0]).startswith(free[0])


def test_the_accelerator_named_comes_with_its_pitfalls() -> None:
    run = full_run_of(Base.SDXL, False)
    choice = choose(candidates(None, run, COST, PICTURE), 2.0)

    def named(id: str) -> str:
        return levers(
            choice,
            known_ways(Base.SDXL, None, run, [CATALOG[id]], COST, PICTURE),
            Machine(16),
            PICTURE,
        )[2]

    turbo, hyper = named("sdxl-turbo"), named("hyper-sdxl-1step-lora")
    assert turbo.startswith("Distil: what fits is sdxl-turbo at 4 steps, about 2 s.")
    assert (
        "CFG 1 and only there" in turbo
        and "NON-COMMERCIAL" in turbo
        and "soft fine detail" not in turbo
    )
    assert (
        "hyper-sdxl-1step-lora at 1 step, about 0.5 s." in hyper
        and "1 step: expect soft fine detail." in hyper
    )


FULL_RUN = full_way(StepRange(20, 50), 50, 1.0, COST)
SKIP_LEVERS = [
    (
        accelerated_way((CATALOG["lcm-lora-sdxl"],), 4, COST, PICTURE),
        "Skip: nothing to gain at 4 steps; it pays above 10.",
    ),
    (
        accelerated_way((CATALOG["hyper-sdxl-1step-unet"],), 1, COST, PICTURE),
        "Skip: nothing to gain at 1 step; it pays above 10.",
    ),
    (
        replace(FULL_RUN, route=Route.ACCELERATOR, steps=12, records=(CATALOG["lcm-lora-sdxl"],)),
        "Skip: not with an accelerator; it was distilled to make every one of its 12 steps.",
    ),
    (
        full_way(StepRange(20, 50), 50, 1.5, COST),
        (
            "Skip: put Step Skip on the model with target_speedup 1.5; the step count above counts"
            " on it."
        ),
    ),
    (FULL_RUN, "Skip: not needed for this allowance; Step Skip would bring up to 2x at 50 steps."),
]


@pytest.mark.parametrize(("way", "words"), SKIP_LEVERS)
def test_the_skip_lever_says_what_skipping_would_bring(way, words) -> None:
    assert levers(Choice(way, math.inf), [], Machine(16), PICTURE)[1] == words


FORECAST_15 = CarriedSkip("forecast at target_speedup 1.5", 1.5)


@pytest.mark.parametrize(
    ("steps", "settings", "made"),
    [
        (20, dict(), 10),
        (20, dict(longest_run=1), 12),
        (20, dict(start=0.5), 14),
        (30, dict(end=0.6), 19),
    ],
)
def test_what_step_skip_on_the_model_makes_follows_from_its_settings(steps, settings, made) -> None:
    carried = CarriedSkip("forecast at target_speedup 2", 2.0, is_flow=True, **settings)
    assert carried.made(steps) == made
    (way,) = candidates(None, StepRange(steps, steps, False), COST, PICTURE, carried_skip=carried)
    assert way.evaluations == made


TEACACHE = CarriedSkip("teacache at threshold 0.2", None)


@pytest.mark.parametrize(
    ("allowance", "carried", "steps", "speedup", "evaluations"),
    [
        # A guided step is 0.9 s. At 1.5x 50 steps make 33 of them (29.7 s), as 49 do, and 26 make
        # 17 (15.3 s), as 25 do: steps are cut, the Step Skip that is there stays as it is set.
        (30.0, FORECAST_15, 50, 1.5, 66),
        (29.6, FORECAST_15, 48, 1.5, 64),
        (15.3, FORECAST_15, 26, 1.5, 34),
        (1.0, FORECAST_15, 25, 1.5, 34),
        # What teacache leaves out is not counted on.
        (45.0, TEACACHE, 50, 1.0, 100),
        (44.9, TEACACHE, 49, 1.0, 98),
    ],
)
def test_a_step_skip_on_the_model_is_counted_on_as_it_is_set(
    allowance, carried, steps, speedup, evaluations
) -> None:
    ways = candidates(None, StepRange(25, 50), COST, PICTURE, carried_skip=carried)
    way = choose(ways, allowance).way
    assert (way.steps, way.target_speedup, way.evaluations) == (steps, speedup, evaluations)


SKIP_DONE = [
    (
        full_way(StepRange(20, 50), 50, 1.5, COST),
        FORECAST_15,
        "Skip: done, Step Skip is on the model (forecast at target_speedup 1.5); the figures above"
        " count on it.",
    ),
    (
        FULL_RUN,
        TEACACHE,
        "Skip: done, Step Skip is on the model (teacache at threshold 0.2). What it leaves out"
        " cannot be foreseen and is not in these figures.",
    ),
    (
        accelerated_way((CATALOG["lcm-lora-sdxl"],), 4, COST, PICTURE),
        FORECAST_15,
        "Skip: Step Skip is on the model and changes nothing at 4 steps: below 10 evaluations it"
        " does not pay.",
    ),
    (
        replace(FULL_RUN, route=Route.ACCELERATOR, steps=12, records=(CATALOG["lcm-lora-sdxl"],)),
        FORECAST_15,
        "Skip: take Step Skip off the model; its accelerator was distilled to make every one of its"
        " 12 steps.",
    ),
]


@pytest.mark.parametrize(("way", "carried", "words"), SKIP_DONE)
def test_nobody_is_advised_to_put_step_skip_on_twice(way, carried, words) -> None:
    told = levers(Choice(way, math.inf), [], Machine(16), PICTURE, carried_skip=carried)
    assert told[1] == words and not any("put Step Skip" in text for text in told)


@pytest.mark.parametrize(("speedup", "seconds"), [(1.6, None), (1.65, "28 s"), (2.0, "28 s")])
def test_a_target_that_noisy_samplers_do_not_reach_is_a_pitfall(speedup, seconds) -> None:
    # 50 guided steps at 1.65x are 30 made in 27 s, at 2x 25 in 22.5 s; at 1.6x both would take 28
    # s.
    told = " ".join(
        pitfalls(Choice(full_way(StepRange(20, 50), 50, speedup, COST), math.inf), "batch", PICTURE)
    )
    assert ("get 1.6x from Step Skip at most" in told) == (seconds is not None)
    assert seconds is None or f"take about {seconds}." in told


def test_a_choice_says_in_words_whether_it_fits() -> None:
    assert str(Choice(FULL_RUN, math.inf)) == "any time is allowed"
    assert str(Choice(FULL_RUN, 50.0)) == "fits 50 s"
    assert str(Choice(FULL_RUN, 40.0)) == "misses the allowance of 40 s by 5 s"


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (Machine(16, ""), "saves memory only"),
        (Machine(16, "FP8"), "faster in FP8"),
        (Machine(8, "FP8"), "8-bit"),
    ],
)
def test_quantising_is_advised_only_where_it_pays(machine, words) -> None:
    choice = choose(candidates(CATALOG["lcm-lora-sd15"], None, COST, PICTURE), 1.0)
    assert words in levers(choice, [], machine, PICTURE)[0]


def test_pitfalls_are_those_of_the_choice() -> None:
    turbo = choose(candidates(CATALOG["sdxl-turbo"], None, COST, PICTURE), 0.6)
    told = " ".join(pitfalls(turbo, "live", PICTURE))
    assert "CFG 1 and only there" in told and "NON-COMMERCIAL" in told and "1 step:" in told
    assert "causal" not in told
    guided = choose(candidates(CATALOG["hyper-sdxl-8step-cfg-lora"], None, COST, PICTURE), 60)
    assert "CFG 1 and only there" not in " ".join(pitfalls(guided, "batch", PICTURE))
    video = choose(candidates(None, Base.WAN_T2V.full_run, COST, CLIP), 1.0)
    assert "needs a causal model" in " ".join(pitfalls(video, "live", CLIP))
    stream = choose(candidates(CATALOG["self-forcing-dmd"], None, COST, CLIP), 1.0)
    told = " ".join(pitfalls(stream, "live", CLIP))
    assert "needs a causal model" not in told and "window_frames 0" in told
    # 21 latent frames are 7 blocks: half-way 3 are in view, of which the last is read anyway.
    assert "has what is in view read again: 2 evaluations more here, and fewer" in told
    short = replace(CLIP, latent_frames=6)
    assert "read again" not in " ".join(pitfalls(stream, "live", short))


def test_the_route_is_named_after_what_is_done() -> None:
    ways = known_ways(Base.WAN_CAUSAL, 1536, None, RECORDS, COST, CLIP)
    assert {way.route for way in ways} == {Route.STREAM}
    first, second = known_ways(Base.SD15, None, StepRange(), [], COST, PICTURE)
    assert (first.route, second.route) == (Route.FULL, Route.SKIP)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0431, "0.0431 s"),
        (4.26, "4.26 s"),
        (43.4, "43 s"),
        (430, "7 min 10 s"),
        (math.inf, "any time"),
    ],
)
def test_seconds_are_told_in_words(seconds, words) -> None:
    assert seconds_in_words(seconds) == words


# ---------------------------------------------------------------- the whole wait

OVERHEAD = Overhead(decoding=1.0, once=0.25)


@pytest.mark.parametrize("record", RECORDS[::7], ids=lambda record: record.id)
def test_what_fits_with_decoding_is_what_fits_without_in_the_time_that_is_left(record) -> None:
    for work in (PICTURE, CLIP):
        alone = candidates(record, None, COST, work)
        whole = candidates(record, None, replace(COST, overhead=OVERHEAD), work)
        for allowance in ALLOWANCES:
            # 1.25 s of it go to decoding and to what a run costs once.
            left, choice = choose(alone, allowance - 1.25), choose(whole, allowance)
            assert choice.way.steps == left.way.steps
            assert choice.misses == pytest.approx(left.misses)
            assert choice.way.seconds == left.way.seconds
            assert choice.way.whole == pytest.approx(left.way.seconds + 1.25)


def test_without_a_vae_the_whole_is_the_sampling() -> None:
    way = full_way(StepRange(25, 50), 50, 1.0, COST)
    assert way.overhead is None and way.whole == way.seconds and way.decoding_share == 0.0


def test_the_price_is_that_of_the_whole() -> None:
    way = full_way(StepRange(25, 50), 50, 1.0, replace(COST, overhead=OVERHEAD))
    # 50 guided steps of 0.9 s and 1.25 s, at a thousandth a second.
    assert way.price(3.6, PICTURE) == pytest.approx(0.04625)


def test_the_first_block_of_a_stream_is_shown_once_its_own_pictures_are_decoded() -> None:
    record = next(
        each for each in RECORDS if each.causal is not None and each.causal.frames_per_block == 3
    )
    cost = replace(COST, overhead=Overhead(decoding=8.1))
    (way, *_), (alone, *_) = (candidates(record, None, each, CLIP) for each in (cost, COST))
    # 3 latent frames are 9 of 81 pictures.
    assert way.first_block == pytest.approx(alone.first_block + 0.9)


def test_decoding_is_worth_a_word_above_a_fifth_of_the_whole() -> None:
    def way(decoding: float):
        cost = Cost(0.5, 1.0, overhead=Overhead(decoding))
        return accelerated_way((CATALOG["lcm-lora-sdxl"],), 8, cost, PICTURE)

    # 8 steps of half a second: a second of decoding is a fifth of the whole.
    assert way(1.0).decoding_share == pytest.approx(0.2)
    assert not is_worth_a_word(way(1.0)) and is_worth_a_word(way(1.01))


TINY = TinyVae(("taesdxl_encoder.safetensors", "taesdxl_decoder.safetensors"))


@pytest.mark.parametrize(
    ("tiny", "told"),
    [
        (TinyVae(is_connected=True), "The connected VAE is a tiny one already."),
        (TinyVae(), "ComfyUI knows no tiny VAE for this model."),
        (
            TINY,
            "A tiny VAE is faster, with less fine detail: put taesdxl_encoder.safetensors and"
            " taesdxl_decoder.safetensors into models/vae_approx, choose it in Load VAE, and this"
            " node measures it too.",
        ),
        # 8 steps of half a second and 0.1 s in place of 4 s.
        (
            replace(TINY, option="taesdxl", seconds=0.1),
            "taesdxl, a tiny VAE, takes 0.1 s in place of 4 s, which makes the whole 4.1 s, with"
            " less fine detail: choose it in Load VAE.",
        ),
        (
            replace(TINY, option="taesdxl", seconds=5.0),
            "taesdxl, the tiny VAE that is there, takes 5 s: no gain.",
        ),
        (
            replace(TINY, option="taesdxl", problem="it could not be measured: why."),
            "taesdxl in Load VAE is a tiny VAE for this model; it could not be measured: why.",
        ),
    ],
)
def test_what_decodes_faster_is_named(tiny, told) -> None:
    cost = Cost(0.5, 1.0, overhead=Overhead(4.0))
    way = accelerated_way((CATALOG["lcm-lora-sdxl"],), 8, cost, PICTURE)
    text = levers(Choice(way, 5.0), [way], Machine(16), PICTURE, tiny=tiny)[0]
    assert text == f"Decode: 50% of the whole at 8 steps. {told}"


def test_what_is_left_out_of_the_whole_is_told() -> None:
    way = accelerated_way((CATALOG["lcm-lora-sdxl"],), 8, COST, PICTURE)
    assert "Text encoding and the VAE are not" in pitfalls(Choice(way, 5.0), "live", PICTURE)[0]
    whole = replace(way, overhead=OVERHEAD)
    told = pitfalls(Choice(whole, 5.0), "live", PICTURE)[0]
    assert "Loading models and saving pictures are not" in told and "keeps the result" in told


def test_a_stochastic_sampler_decodes_no_slower() -> None:
    cost = Cost(0.5, 1.0, overhead=Overhead(decoding=3.0))
    # 50 steps at 2x are 25 of a second; at 1.6x they would be 31.25, and decoding stays.
    way = full_way(StepRange(25, 50), 50, 2.0, cost)
    assert any("about 34 s" in text for text in pitfalls(Choice(way, 5.0), "batch", PICTURE))
