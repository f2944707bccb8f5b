"""Prompts that change in a stream, on a real causal Wan: equal to attention without a cache whose
past was read under the new prompt, and to the same clip where nothing changes.
"""

from __future__ import annotations

import pytest
import torch
from comfyui_fewstep.nodes.guided_start import FewStepGuidedStart
from comfyui_fewstep.nodes.host import stream as stream_run
from comfyui_fewstep.nodes.host import stream_cache
from comfyui_fewstep.nodes.host.timeline import START, with_start
from comfyui_fewstep.nodes.negative import FewStepNegative
from comfyui_fewstep.nodes.sampler import FewStepSampler
from comfyui_fewstep.nodes.stream import FewStepStream
from comfyui_fewstep.nodes.timeline import FewStepTimeline
from comfyui_fewstep.samplers.causal import (
    Handover,
    Timeline,
    Window,
    make_stream_plan,
    seeded_draw,
)
from comfyui_fewstep.samplers.plan import PlanError
from thinning import corners

import small_models
from test_stream import (
    CHUNKS,
    FRAMES,
    SIDE,
    Reference,
    clip_of,
    interrupt_at,
    run,
    video,
    with_settings,
)


@pytest.fixture(scope="module")
def causal(models):
    if not small_models.HAS_CAUSAL_WAN:
        pytest.skip("this ComfyUI has no causal Wan")
    path = small_models.write_wan(
        models / "diffusion_models" / "causal.safetensors", "wan21_causal", seed=2
    )
    return small_models.load_model(path)


@pytest.fixture(scope="module")
def texts():
    """Three prompts; the second is longer than the others, as encoded ones may be."""
    return [
        small_models.conditioning(seed=seed, length=length)
        for seed, length in ((0, 6), (1, 9), (2, 6))
    ]


def timeline(texts, *seconds):
    return [with_start(text[0], start) for text, start in zip(texts, seconds, strict=True)]


def planned(record, frames, *seconds, given=0, **more):
    return make_stream_plan(
        record, frames, lambda t: t / 1000, given, timeline=Timeline(seconds, 16.0), **more
    )


def reference(model, texts, plan, seed=3, given=None):
    """The clip of a plan with one prompt after another, without any cache: what follows a turn is
    made after the frames that it reads again as if those had been given, under the new prompt.
    """
    draw = seeded_draw(seed, (1, 16, SIDE, SIDE), torch.device("cpu"))
    ends = [*(turn.frame for turn in plan.turns), plan.frames]
    parts = [((), plan.opening), *((turn.read, turn.prompt) for turn in plan.turns)]
    begin, clip = 0, given
    with torch.inference_mode():
        for end, (read, prompt) in zip(ends, parts):
            part = [block for block in plan.blocks if begin <= block.start < end]
            network = Reference(model, texts[prompt], [*read, *part], plan.window)
            clip = network.sample(draw, clip)
            begin = end
        return model.model.process_latent_out(clip)


WINDOWS = [Window(), Window(4), Window(5, 1), Window(7, 2)]


@corners()
@pytest.mark.parametrize("record", [CHUNKS, FRAMES], ids=["chunks", "frames"])
@pytest.mark.parametrize("window", WINDOWS, ids=["all", "4", "5 with 1 sink", "7 with 2 sinks"])
def test_a_turn_equals_attention_to_a_past_that_was_read_under_the_new_prompt(
    causal, texts, record, window
):
    latent, _, report = run(
        with_settings(causal, record),
        timeline(texts, 0.0, 1.0, 2.0),
        video(12),
        window=window.frames,
        sink=window.sink,
    )
    plan = planned(record, 12, 0.0, 1.0, 2.0, window=window)
    assert torch.allclose(latent, reference(causal, texts, plan), atol=1e-4)
    assert report["evaluations"] == plan.evaluations
    assert [(change["frame"], change["evaluations"]) for change in report["prompt_changes"]] == [
        (4 * turn.frame - 3, turn.evaluations) for turn in plan.turns
    ]
    assert len(plan.turns) == 2


@corners()
@pytest.mark.parametrize(
    "handover",
    [Handover(keeps_sinks=True), Handover(frames=2, keeps_sinks=True), Handover(frames=1)],
    ids=str,
)
@pytest.mark.parametrize("record", [CHUNKS, FRAMES], ids=["chunks", "frames"])
def test_a_turn_that_lets_some_of_the_past_go_sees_nothing_of_it(causal, texts, record, handover):
    plan = planned(record, 12, 0.0, 1.2, window=Window(6, 1), handover=handover)
    with torch.inference_mode():
        made = stream_run.run_stream(
            with_settings(causal, record),
            plan,
            timeline(texts[:2], 0.0, 1.2),
            torch.Size((1, 16, 12, SIDE, SIDE)),
            3,
        )
    assert torch.allclose(made.samples, reference(causal, texts, plan), atol=1e-4)
    assert made.evaluations == plan.evaluations


def test_a_turn_after_a_given_start(causal, texts):
    start = clip_of(3, seed=5)
    latent, _, _ = run(
        with_settings(causal, CHUNKS), timeline(texts[:2], 0.0, 1.0), video(9), start_latent=start
    )
    plan = planned(CHUNKS, 9, 0.0, 1.0, given=3)
    with torch.inference_mode():
        given = causal.model.process_latent_in(start["samples"])
    assert torch.allclose(latent, reference(causal, texts, plan, given=given), atol=1e-4)
    assert [turn.frame for turn in plan.turns] == [6]


def test_positions_counted_anew_change_nothing_at_a_turn(causal, texts, monkeypatch):
    model, prompts = with_settings(causal, FRAMES), timeline(texts[:2], 0.0, 2.0)
    settings = {"window": 4, "sink": 1}
    before, _, _ = run(model, prompts, video(12), **settings)
    # The sink stands at frame 0, and the turn is at frame 9: they are apart by more than that.
    monkeypatch.setattr(stream_cache, "exact_integers", lambda dtype: 5)
    places, evaluate = [], stream_cache.CachedFrames.evaluate

    def counted(self, x, sigma, block):
        places.append(block.start - self.origin)
        return evaluate(self, x, sigma, block)

    monkeypatch.setattr(stream_cache.CachedFrames, "evaluate", counted)
    assert torch.allclose(before, run(model, prompts, video(12), **settings)[0], atol=1e-4)
    # The network is asked for no place that its precision could not tell from the next.
    assert min(places) == 0 and max(places) < 5


# ---------------------------------------------------------------- where nothing changes


@pytest.mark.parametrize("record", [CHUNKS, FRAMES], ids=["chunks", "frames"])
def test_a_timeline_of_one_prompt_is_the_prompt(causal, texts, record):
    model = with_settings(causal, record)
    plain, _, report = run(model, texts[0], video(6), window=5, sink=1)
    timed, _, same = run(model, timeline(texts[:1], 0.0), video(6), window=5, sink=1)
    assert torch.equal(plain, timed) and report["evaluations"] == same["evaluations"]
    assert report["prompt_changes"] == [] and report["notes"] == same["notes"]


def test_before_its_time_a_prompt_changes_not_a_bit_and_after_it_does(causal, texts):
    model = with_settings(causal, FRAMES)
    plain, _, _ = run(model, texts[0], video(8))
    changed, _, report = run(model, timeline(texts[:2], 0.0, 1.0), video(8))
    turn = planned(FRAMES, 8, 0.0, 1.0).turns[0].frame
    assert torch.equal(plain[:, :, :turn], changed[:, :, :turn])
    assert not torch.allclose(plain[:, :, turn], changed[:, :, turn], atol=1e-2)
    assert [change["frame"] for change in report["prompt_changes"]] == [4 * turn - 3]


def test_the_report_says_when_each_prompt_took_over_and_what_it_took(causal, texts):
    with torch.inference_mode():
        output = FewStepStream.execute(
            with_settings(causal, FRAMES), timeline(texts[:2], 0.0, 1.0), video(8), 3, 0, 0, 0
        )
    # At 16 frames a second frame 17 is the first at 1 s or later that a block begins with; five
    # blocks are in view, and the last is read anyway.
    assert (
        "- prompts: one from the start; another from 1.06 s (frame 17, 4 evaluations more)\n"
        in output.args[2]
    )


def test_the_same_prompt_once_more_is_the_same_clip(causal, texts):
    # Read again under the same words, the whole past has the keys that it had.
    model = with_settings(causal, CHUNKS)
    plain, _, _ = run(model, texts[0], video(9))
    again, _, _ = run(model, timeline([texts[0], texts[0]], 0.0, 1.0), video(9))
    assert torch.allclose(plain, again, atol=1e-4)


def test_without_reading_again_the_past_keeps_its_keys(causal, texts):
    model, shape = with_settings(causal, CHUNKS), torch.Size((1, 16, 9, SIDE, SIDE))
    prompts = timeline(texts[:2], 0.0, 1.0)
    clips = []
    for handover in (Handover(), Handover(reads_again=False, keeps_sinks=True)):
        plan = planned(CHUNKS, 9, 0.0, 1.0, handover=handover)
        with torch.inference_mode():
            made = stream_run.run_stream(model, plan, prompts, shape, 3)
        assert made.evaluations == plan.evaluations
        clips.append(made.samples)
    assert torch.equal(clips[0][:, :, :6], clips[1][:, :, :6])
    assert not torch.allclose(clips[0][:, :, 6:], clips[1][:, :, 6:], atol=1e-2)


def test_a_run_after_one_that_turned_begins_with_the_first_prompt(causal, texts):
    model, prompts = with_settings(causal, CHUNKS), timeline(texts[:2], 0.0, 1.0)
    before = run(model, prompts, video(9))[0]
    assert torch.equal(before, run(model, prompts, video(9))[0])
    assert [START in entry[1] for entry in prompts] == [True, True]


def test_an_interruption_while_the_past_is_read_again_keeps_the_finished_blocks(
    causal, texts, monkeypatch
):
    model, prompts = with_settings(causal, CHUNKS), timeline(texts[:2], 0.0, 1.0)
    whole = run(model, prompts, video(9))[0]
    # Two blocks of five evaluations without the second's own pass, then the first of two that read
    # them again.
    interrupt_at(monkeypatch, 10)
    latent, _, report = run(model, prompts, video(9))
    assert report["interrupted"] and torch.equal(latent, whole[:, :, :6])


# ---------------------------------------------------------------- the node


def chained(positive, seconds, earlier=None):
    return FewStepTimeline.execute(positive, seconds, earlier).args[0]


def test_the_node_puts_prompts_in_the_order_of_their_times_whatever_the_chain_is(texts):
    first, second, third = texts
    # Two ways to say the same: the last one first, or with the first one plain.
    backwards = chained(first, 0.0, chained(second, 1.0, chained(third, 2.0)))
    forwards = chained(third, 2.0, chained(second, 1.0, first))
    for prompts in (backwards, forwards):
        assert [prompt[1][START] for prompt in prompts] == [0.0, 1.0, 2.0]
        for prompt, (text,) in zip(prompts, texts, strict=True):
            assert prompt[0] is text[0]
    assert START not in first[0][1]


def test_the_nodes_timeline_is_what_the_stream_plays(causal, texts):
    model, prompts = with_settings(causal, CHUNKS), chained(texts[1], 1.0, texts[0])
    made = run(model, prompts, video(9))[0]
    assert torch.equal(made, run(model, timeline(texts[:2], 0.0, 1.0), video(9))[0])


@pytest.mark.parametrize("seconds", [0.0, 0.001])
def test_two_prompts_at_one_time_are_refused(texts, seconds):
    with pytest.raises(PlanError, match="Two prompts begin at 0 s: .* Set start_seconds to the"):
        chained(texts[1], seconds, texts[0])


def test_the_node_takes_one_prompt_and_says_where_a_timeline_goes(texts):
    prompts = chained(texts[1], 1.0, texts[0])
    with pytest.raises(
        PlanError, match="positive is a Prompt Timeline, .* Connect the timeline to"
    ):
        chained(prompts, 2.0)
    with pytest.raises(PlanError, match="positive holds 2 prompts, combined"):
        chained([*texts[0], *texts[1]], 2.0)
    with pytest.raises(PlanError, match="earlier holds 2 prompts, combined"):
        chained(texts[2], 2.0, [*texts[0], *texts[1]])
    with pytest.raises(PlanError, match="positive holds 0 prompts"):
        chained([], 2.0)


@pytest.mark.parametrize("where", ["positive", "earlier"])
def test_the_node_refuses_a_prompt_for_a_part_of_the_picture(texts, where):
    masked = [[texts[0][0][0], {"mask": torch.ones(1)}]]
    prompts = {"positive": texts[1], "earlier": texts[0], where: masked}
    with pytest.raises(PlanError, match="The prompt carries a mask"):
        chained(prompts["positive"], 1.0, prompts["earlier"])


# ---------------------------------------------------------------- what is refused and told


def test_prompts_that_are_combined_are_refused_with_or_without_times(causal, texts):
    model = with_settings(causal, CHUNKS)
    for prompts in ([*texts[0], *texts[1]], [*texts[0], *timeline(texts[1:2], 1.0)]):
        with pytest.raises(PlanError, match="holds 2 prompts, combined; .* or a Prompt Timeline"):
            run(model, prompts, video(9))


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    ("more", "message"),
    [({"mask": torch.ones(1)}, "carries a mask"), ({"hooks": object()}, "carries hooks")],
)
def test_each_prompt_of_a_timeline_is_looked_at(causal, texts, place, more, message):
    prompts = timeline(texts[:2], 0.0, 1.0)
    prompts[place][1].update(more)
    with pytest.raises(PlanError, match=message):
        run(with_settings(causal, CHUNKS), prompts, video(9))


def test_a_prompt_beyond_the_end_is_refused(causal, texts):
    with pytest.raises(PlanError, match="begins at 9 s, and the clip ends at 2.06 s"):
        run(with_settings(causal, CHUNKS), timeline(texts[:2], 0.0, 9.0), video(9))


def test_a_first_prompt_that_begins_late_serves_from_the_start_and_says_so(causal, texts):
    model = with_settings(causal, CHUNKS)
    latent, _, report = run(model, timeline(texts[:1], 1.0), video(6))
    assert torch.equal(latent, run(model, texts[0], video(6))[0])
    assert "begins at 1 s; with none before it it serves from the start" in report["notes"][0]


def test_prompts_that_a_given_start_covers_are_told(causal, texts):
    model, start = with_settings(causal, CHUNKS), clip_of(6, seed=5)
    latent, _, report = run(model, timeline(texts[:2], 0.0, 1.0), video(9), start_latent=start)
    assert torch.equal(latent, run(model, texts[1], video(9), start_latent=start)[0])
    assert "The start that was given lasts 1.31 s, so 1 prompt of the timeline is" in str(report)


@pytest.mark.parametrize("name", ["positive", "negative"])
def test_samplers_that_would_blend_all_prompts_refuse_a_timeline(texts, name):
    model = small_models.unet_patcher("sd15")
    prompts = {"positive": texts[0], "negative": texts[0], name: timeline(texts[:2], 0.0, 1.0)}
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    with pytest.raises(PlanError, match=f"{name} is a Prompt Timeline of 2 prompts"):
        FewStepSampler.execute(
            model, prompts["positive"], latent, 3, 0, 1.0, negative=prompts["negative"]
        )


def test_nodes_that_keep_a_negative_prompt_refuse_a_timeline(texts):
    model, prompts = small_models.unet_patcher("sd15"), timeline(texts[:2], 0.0, 1.0)
    message = "negative is a Prompt Timeline of 2 prompts, which only the Streaming Sampler shows"
    with pytest.raises(PlanError, match=message):
        FewStepNegative.execute(model, prompts, 4.0, 0.25, 2.5, 0.0, 1.0)
    with pytest.raises(PlanError, match=message):
        FewStepGuidedStart.execute(model, model, prompts, 1, 2, 3.5)
