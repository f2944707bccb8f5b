"""Texts that reach a stream while it runs: the same clip as with a timeline that has them at that
time, whichever thread sends them and whatever the host unloads meanwhile.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace

import comfy.model_management
import comfy.utils
import pytest
import torch
from comfy_api.v0_0_2 import io
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes.demo import FewStepDemo
from comfyui_fewstep.nodes.host import live as live_streams
from comfyui_fewstep.nodes.host import stream as stream_run
from comfyui_fewstep.nodes.host.live import LiveStream, NotTaken, running, stream_of
from comfyui_fewstep.nodes.host.live_routes import MOST_BYTES, text_of
from comfyui_fewstep.nodes.host.timeline import with_start
from comfyui_fewstep.nodes.negative import FewStepNegative
from comfyui_fewstep.nodes.stream import FewStepStream
from comfyui_fewstep.samplers.causal import Timeline, make_stream_plan
from comfyui_fewstep.samplers.plan import PlanError

import nodes as core
import small_models
from test_stream import interrupt_at, with_settings

NODE, FRAMES = "7", 5
FIRST, SECOND, THIRD = (
    "a red circle moving right",
    "a blue square moving left",
    "a green triangle growing",
)


@pytest.fixture(scope="module")
def demo():
    """The causal demo model, its VAE and its CLIP."""
    if not small_models.HAS_CAUSAL_WAN:
        pytest.skip("this ComfyUI has no causal Wan")
    model, _, _, vae, _, clip = FewStepDemo.execute(FIRST, 17, "causal").args
    return SimpleNamespace(model=model, vae=vae, clip=clip)


@pytest.fixture(scope="module")
def plan(demo):
    """Of the clip that run makes: a latent frame to a block, at 8 pictures a second."""
    return make_stream_plan(
        CATALOG["fewstep-demo-causal"],
        FRAMES,
        lambda t: t / 1000,
        timeline=Timeline(frame_rate=8.0),
    )


def encoded(demo, text):
    with torch.inference_mode():
        return core.CLIPTextEncode().encode(demo.clip, text)[0]


def timeline(demo, texts):
    """texts: by the second at which they begin."""
    return [with_start(encoded(demo, text)[0], second) for second, text in texts.items()]


def run(demo, positive=None, batch=1, **more):
    """(latent, report) of a clip at node 7."""
    node = FewStepStream.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: NODE}})
    latent = {"samples": torch.zeros(batch, 16, FRAMES, 8, 8)}
    with torch.inference_mode():
        output = node.execute(
            demo.model, positive or encoded(demo, FIRST), latent, 3, 0, 0, 0, **more
        )
    return output.args[0]["samples"], output.ui["fewstep_report"][0]


def last_evaluation(plan, block):
    """Of this block's steps, counted from 1."""
    return sum(each.steps + 1 for each in plan.blocks[:block]) + plan.blocks[block].steps


def at(monkeypatch, evaluation, act):
    """Call this in a thread of its own, as a server does, during an evaluation of the run."""
    seen = []
    after = stream_run.Screen.after_evaluation

    def evaluated(self, *args):
        seen.append(0)
        if len(seen) == evaluation:
            thread = threading.Thread(target=act)
            thread.start()
            thread.join()
        after(self, *args)

    monkeypatch.setattr(stream_run.Screen, "after_evaluation", evaluated)


def sending(text, answers=None):
    def send():
        try:
            answer = stream_of(NODE).offer(text)
        except ValueError as refusal:
            answer = refusal
        if answers is not None:
            answers.append(answer)

    return send


# ---------------------------------------------------------------- the demo's words as a CLIP


def test_the_demos_clip_encodes_as_the_demo_does():
    _, positive, negative, _, _, clip = FewStepDemo.execute(SECOND, 1, "base").args
    for text, expected in ((SECOND, positive), ("", negative)):
        (found,) = core.CLIPTextEncode().encode(clip, text)[0]
        assert torch.equal(found[0], expected[0][0])
    with pytest.raises(ValueError, match="The demo model does not know elephant. It knows: "):
        core.CLIPTextEncode().encode(clip, "a red elephant")


def test_the_demos_clip_goes_through_nodes_that_clone_it():
    clip = FewStepDemo.execute(SECOND, 1, "base").args[5]
    (cut,) = core.CLIPSetLastLayer().set_last_layer(clip, -1)
    (found,) = core.CLIPTextEncode().encode(cut, SECOND)[0]
    assert torch.equal(found[0], core.CLIPTextEncode().encode(clip, SECOND)[0][0][0])
    assert clip.tokenize("red", return_word_ids=True)["words"][0][0][2] == 1


# ---------------------------------------------------------------- the clip it makes


@pytest.mark.parametrize("block", [0, 2])
def test_a_text_sent_in_a_block_takes_over_at_the_next_as_a_timeline_does(
    demo, plan, monkeypatch, block
):
    answers, following = [], plan.blocks[block + 1].start
    second = plan.timeline.begins(following)
    expected, planned = run(demo, timeline(demo, {0.0: FIRST, second: SECOND}))
    with monkeypatch.context() as patch:
        at(patch, last_evaluation(plan, block), sending(SECOND, answers))
        latent, report = run(demo, clip=demo.clip)
    assert torch.equal(latent, expected)
    assert report["evaluations"] == planned["evaluations"]
    (change,) = report["prompt_changes"]
    assert (change["frame"], change["second"]) == (answers[0].frame, answers[0].second)
    assert answers[0].second == second and not answers[0].replaces
    assert change["text"] == SECOND and change["seconds"] > 0
    # Not the clip of the first prompt alone.
    assert not torch.allclose(latent, run(demo)[0], atol=1e-2)


def test_without_a_text_a_clip_input_changes_not_a_bit(demo):
    alone, listening = run(demo), run(demo, clip=demo.clip)
    assert torch.equal(alone[0], listening[0])
    assert alone[1]["evaluations"] == listening[1]["evaluations"]


def test_a_text_before_the_first_block_begins_takes_its_place(demo, plan):
    live = LiveStream(plan, demo.clip)
    effect = live.offer(SECOND)
    assert (effect.frame, effect.second) == (0, 0.0)
    with torch.inference_mode():
        made = stream_run.run_stream(
            demo.model, plan, encoded(demo, FIRST), torch.Size((1, 16, FRAMES, 8, 8)), 3, live=live
        )
    assert torch.equal(made.samples, run(demo, encoded(demo, SECOND))[0])
    assert made.evaluations == plan.evaluations


def test_the_last_of_several_texts_wins_and_the_sender_is_told(demo, plan, monkeypatch):
    answers = []

    def send():
        sending(THIRD, answers)()
        sending(SECOND, answers)()

    expected = run(demo, timeline(demo, {0.0: FIRST, plan.timeline.begins(2): SECOND}))[0]
    at(monkeypatch, last_evaluation(plan, 1), send)
    latent, report = run(demo, clip=demo.clip)
    assert torch.equal(latent, expected) and len(report["prompt_changes"]) == 1
    assert [answer.replaces for answer in answers] == [False, True]


def test_a_text_goes_before_the_timelines_prompt_of_the_same_block(demo, plan, monkeypatch):
    starts = {0.0: FIRST, plan.timeline.begins(2): THIRD, plan.timeline.begins(4): FIRST}
    expected = run(demo, timeline(demo, {**starts, plan.timeline.begins(2): SECOND}))[0]
    at(monkeypatch, last_evaluation(plan, 1), sending(SECOND))
    latent, report = run(demo, timeline(demo, starts), clip=demo.clip)
    # The timeline goes on with its next prompt.
    assert torch.equal(latent, expected)
    assert [change["text"] for change in report["prompt_changes"]] == [SECOND, ""]


def test_a_text_encoder_that_drives_the_model_out_changes_not_a_bit(demo, plan, monkeypatch):
    encode, unloaded = demo.clip.encode_from_tokens_scheduled, []

    def encode_alone(tokens):
        # As where memory is short: the host unloads everything else for what it loads.
        comfy.model_management.unload_all_models()
        unloaded.append(len(comfy.model_management.current_loaded_models))
        return encode(tokens)

    clip = demo.clip.clone()
    clip.encode_from_tokens_scheduled = encode_alone
    expected = run(demo, timeline(demo, {0.0: FIRST, plan.timeline.begins(2): SECOND}))[0]
    at(monkeypatch, last_evaluation(plan, 1), sending(SECOND))
    latent, _ = run(demo, clip=clip, vae=demo.vae)
    assert unloaded == [0] and torch.equal(latent, expected)
    there = [each.model.model for each in comfy.model_management.current_loaded_models]
    assert demo.model.model in there and demo.vae.first_stage_model in there


def test_an_encoder_that_finds_no_memory_leaves_the_prompt_as_it_was(demo, plan, monkeypatch):
    def no_memory(tokens):
        raise comfy.model_management.OOM_EXCEPTION("out of memory")

    clip = demo.clip.clone()
    clip.encode_from_tokens_scheduled = no_memory
    at(monkeypatch, last_evaluation(plan, 1), sending(SECOND))
    latent, report = run(demo, clip=clip)
    assert torch.equal(latent, run(demo)[0]) and report["prompt_changes"] == []
    assert f'The text "{SECOND}" was left out: there was no memory' in str(report["notes"])


def test_a_clip_of_another_model_is_named_and_the_clip_goes_on(demo, plan, monkeypatch):
    clip, answers = demo.clip.clone(), []
    clip.encode_from_tokens_scheduled = lambda tokens: [[torch.zeros(1, 6, 768), {}]]

    def send_twice():
        if not answers:
            answers.append(None)
            return sending(SECOND)()
        return sending(THIRD, answers)()

    seen = []
    after = stream_run.Screen.after_evaluation

    def evaluated(self, *args):
        seen.append(0)
        if len(seen) in (last_evaluation(plan, 0), last_evaluation(plan, 2)):
            send_twice()
        after(self, *args)

    monkeypatch.setattr(stream_run.Screen, "after_evaluation", evaluated)
    latent, report = run(demo, clip=clip)
    assert "clip makes 768 numbers a token, and this model takes 4096" in str(report["notes"])
    assert isinstance(answers[1], NotTaken) and "Connect the model's own CLIP" in str(answers[1])
    monkeypatch.undo()
    assert torch.equal(latent, run(demo)[0])


def test_a_text_that_an_interruption_overtakes_is_told(demo, plan, monkeypatch):
    evaluation = last_evaluation(plan, 2) - 1
    interrupt_at(monkeypatch, evaluation)
    at(monkeypatch, evaluation, sending(SECOND))
    _, report = run(demo, clip=demo.clip)
    assert report["interrupted"] and report["prompt_changes"] == []
    assert f'The text "{SECOND}" was sent, and the run ended before' in str(report["notes"])


@pytest.fixture(scope="module")
def wan(models):
    """A small causal Wan, and the host's own umt5 beside it: the real classes, random weights."""
    if not small_models.HAS_CAUSAL_WAN:
        pytest.skip("this ComfyUI has no causal Wan")
    path = models / "diffusion_models" / "live_causal.safetensors"
    model = small_models.load_model(small_models.write_wan(path, "wan21_causal", seed=2))
    return SimpleNamespace(
        model=with_settings(model, CATALOG["self-forcing-dmd"]), clip=small_models.wan_clip()
    )


@pytest.mark.parametrize("is_short", [False, True], ids=["memory for both", "memory for one"])
def test_the_hosts_own_text_encoder_is_loaded_between_two_blocks(wan, monkeypatch, is_short):
    latent = {"samples": torch.zeros(1, 16, 9, 8, 8)}

    def clip_of(positive, **more):
        node = FewStepStream.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: NODE}})
        with torch.inference_mode():
            output = node.execute(wan.model, positive, latent, 3, 0, 0, 0, **more)
        return output.args[0]["samples"], output.ui["fewstep_report"][0]

    first, second = encoded(wan, "a fox trots"), encoded(wan, "it sits down")
    assert first[0][0].shape == (1, 512, 4096)
    # Blocks of three begin at 0, 0.5625 and 1.3125 s.
    expected, planned = clip_of([with_start(first[0], 0.0), with_start(second[0], 1.0)])
    if is_short:
        load = wan.clip.load_model

        def load_alone(*args, **options):
            comfy.model_management.unload_all_models()
            return load(*args, **options)

        monkeypatch.setattr(wan.clip, "load_model", load_alone)
    at(monkeypatch, 8, sending("it sits down"))  # in the second block
    made, report = clip_of(first, clip=wan.clip)
    assert torch.equal(made, expected) and report["evaluations"] == planned["evaluations"]
    assert [change["frame"] for change in report["prompt_changes"]] == [21]


def test_a_text_is_followed_by_a_batch_and_under_a_negative_prompt(demo, plan, monkeypatch):
    kept_out = FewStepNegative.execute(
        demo.model, encoded(demo, "a green circle"), 5.0, 0.5, 2.5, 0.0, 1.0
    ).args[0]
    both = SimpleNamespace(model=kept_out, clip=demo.clip)
    second = plan.timeline.begins(2)
    expected = run(both, timeline(demo, {0.0: FIRST, second: SECOND}), batch=2)[0]
    with monkeypatch.context() as patch:
        at(patch, last_evaluation(plan, 1), sending(SECOND))
        latent = run(both, encoded(demo, FIRST), batch=2, clip=demo.clip)[0]
    assert latent.shape[0] == 2 and torch.equal(latent, expected)
    without = run(demo, timeline(demo, {0.0: FIRST, second: SECOND}), batch=2)[0]
    assert not torch.allclose(latent, without, atol=1e-2)


def test_progress_counts_what_a_text_adds(demo, plan, monkeypatch):
    shown = []
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda value, total, preview, node_id=None: shown.append((value, total)),
    )
    at(monkeypatch, last_evaluation(plan, 2), sending(SECOND))
    _, report = run(demo, clip=demo.clip)
    # Three blocks are in view, and the last is read anyway.
    assert report["evaluations"] == plan.evaluations + 2
    assert shown[0][1] == plan.evaluations and shown[-1] == (plan.evaluations + 2,) * 2


def test_a_stream_that_takes_texts_is_run_anew_each_time():
    assert FewStepStream.fingerprint_inputs(seed=1) == FewStepStream.fingerprint_inputs(seed=1)
    changed = FewStepStream.fingerprint_inputs(seed=1, clip=None)  # as the host has a link here
    assert changed != changed


# ---------------------------------------------------------------- who is let in


def test_a_stream_is_there_while_it_runs_and_no_longer(demo, plan, monkeypatch):
    states = []
    at(monkeypatch, 1, lambda: states.append(stream_of(NODE).state))
    run(demo, clip=demo.clip)
    assert states == [{"takes_text": True, "next_frame": 1}]
    with pytest.raises(NotTaken, match="No stream runs at node 7. None runs now") as refusal:
        stream_of(NODE)
    assert refusal.value.status == 404


def test_a_run_that_fails_leaves_no_stream_behind(demo, monkeypatch):
    def fail(self, *args):
        raise RuntimeError("broken")

    monkeypatch.setattr(stream_run.Screen, "after_evaluation", fail)
    with pytest.raises(RuntimeError, match="broken"):
        run(demo, clip=demo.clip)
    assert live_streams.all_running() == {}


def test_where_another_stream_runs_its_node_is_named(plan):
    with running("12:3", LiveStream(plan)), pytest.raises(NotTaken, match="One runs at node 12:3:"):
        stream_of(NODE)
    with running("", LiveStream(plan)):
        assert live_streams.all_running() == {}


def test_a_stream_without_a_clip_takes_no_text_and_says_what_to_connect(demo, plan, monkeypatch):
    answers = []
    at(monkeypatch, 1, sending(SECOND, answers))
    run(demo)
    assert answers[0].status == 409 and "connect a CLIP to the clip input" in str(answers[0])


def test_in_the_last_block_no_text_is_taken(demo, plan, monkeypatch):
    answers = []
    at(monkeypatch, last_evaluation(plan, FRAMES - 1), sending(SECOND, answers))
    _, report = run(demo, clip=demo.clip)
    assert answers[0].status == 409 and "The last block of this stream" in str(answers[0])
    assert report["prompt_changes"] == []


def test_a_word_that_the_model_does_not_know_is_refused_where_it_is_sent(demo, plan, monkeypatch):
    answers = []
    at(monkeypatch, 1, sending("a red elephant", answers))
    latent, report = run(demo, clip=demo.clip)
    assert "does not know elephant" in str(answers[0]) and report["notes"] == []
    assert torch.equal(latent, run(demo)[0])


def test_a_clip_with_hooks_is_refused(demo):
    clip = demo.clip.clone()
    clip.apply_hooks_to_conds = object()
    with pytest.raises(PlanError, match="clip carries hooks"):
        run(demo, clip=clip)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Send JSON with the text"),
        (b"[1]", "Send JSON with the text"),
        (b'{"text": 3}', "Send JSON with the text"),
        (b'{"text": "  "}', "Send JSON with the text"),
        (b"\xff", "Send JSON with the text"),
        (b"[" * 40000, "Send JSON with the text"),
        (b'{"text": "%s"}' % (b"a" * 4001), "too long: send at most 4000 characters"),
    ],
    ids=["nothing", "a list", "a number", "blank", "no text at all", "deep", "long"],
)
def test_what_is_no_text_is_refused_in_words(body, message):
    with pytest.raises(NotTaken, match=message) as refusal:
        text_of(body)
    assert refusal.value.status == 400


def test_the_longest_text_fits_into_the_longest_body():
    import json

    body = json.dumps({"text": "\U0001f600" * 4000}).encode()
    assert len(body) <= MOST_BYTES and text_of(body) == "\U0001f600" * 4000


def test_many_threads_may_send_and_the_stream_follows_one_of_them_at_a_time(plan, demo):
    live = LiveStream(plan, demo.clip)
    threads = [threading.Thread(target=live.offer, args=(SECOND,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert live.take(plan.made[0]).text == SECOND
    assert live.take(plan.made[1]) is None
