"""Streaming without the host: which blocks are made, what the window keeps, and the loop on a
denoiser one can reckon with.
"""

from __future__ import annotations

import json
import struct
import weakref

import pytest
import torch
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.samplers.causal import (
    Block,
    Handover,
    Timeline,
    Window,
    make_stream_plan,
    refuse_partial_patches,
    seeded_draw,
    unroll,
)
from comfyui_fewstep.samplers.plan import PlanError
from safetensors.torch import save_file

import mark_causal

CHUNKS, FRAMES = CATALOG["self-forcing-dmd"], CATALOG["causal-forcing-framewise"]
ONE_STEP = CATALOG["causal-forcing-plus-framewise-1step"]
CAUSAL = [record for record in CATALOG.values() if record.causal]
# Shift 5 on even times 1, .75, .5, .25: 5t / (1 + 4t).
FOUR = pytest.approx((1.0, 0.9375, 5 / 6, 0.625, 0.0))


def flow_sigma(timestep):
    return timestep / 1000


def plan(record=CHUNKS, frames=6, **more):
    return make_stream_plan(record, frames, flow_sigma, **more)


# ---------------------------------------------------------------- the plan


def test_a_clip_is_blocks_of_the_accelerators_own_size():
    assert [(block.start, block.frames) for block in plan(frames=9).blocks] == [
        (0, 3),
        (3, 3),
        (6, 3),
    ]
    assert all(block.sigmas == FOUR for block in plan(frames=9).blocks)
    assert len(plan(FRAMES, frames=9).blocks) == 9


def test_every_step_costs_one_evaluation_and_every_block_but_the_last_one_more():
    # Two blocks of four steps and one context pass between them.
    assert plan(frames=6).evaluations == 9
    # Four steps in the first block, one in each of the two others, and two context passes.
    assert plan(ONE_STEP, frames=3).evaluations == 4 + 1 + 1 + 2
    # One given frame is read once: one pass more.
    assert plan(ONE_STEP, frames=4, given=1).evaluations == 1 + 4 + 1 + 1 + 2


def test_the_first_block_made_has_its_own_list_even_after_a_given_frame():
    first, second, third = plan(ONE_STEP, frames=3, given=1).blocks
    assert first.is_given and first.steps == 0
    assert second.sigmas == FOUR and third.sigmas == (1.0, 0.0)


def test_a_given_first_frame_over_stands_alone():
    assert [(b.start, b.frames) for b in plan(frames=7, given=4).blocks] == [(0, 1), (1, 3), (4, 3)]
    assert [(b.start, b.frames) for b in plan(frames=6, given=3).blocks] == [(0, 3), (3, 3)]


def test_given_frames_that_the_window_leaves_behind_are_not_read():
    # 30 frames exist. A block of 3 in a window of 9 with 1 sink sees the 5 before it: from frame
    # 25, which lies in block 24..26.
    long = plan(frames=33, given=30, window=Window(9, 1))
    assert [b.start for b in long.blocks] == [0, 24, 27, 30]
    # Without sinks it sees 6: from 24.
    assert [b.start for b in plan(frames=33, given=30, window=Window(9)).blocks] == [24, 27, 30]


@pytest.mark.parametrize("record", CAUSAL, ids=lambda record: record.id)
def test_every_causal_record_plans(record):
    size = record.causal.frames_per_block
    made = plan(record, frames=4 * size, window=Window(2 * size + 1, 1))
    assert [b.frames for b in made.blocks] == [size] * 4
    for block in made.blocks:
        assert block.sigmas[-1] == 0 and list(block.sigmas) == sorted(
            set(block.sigmas), reverse=True
        )


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"frames": 7}, "not a whole number of blocks of 3. Set the video's length to 21 or 33"),
        ({"frames": 2}, "Set the video's length to 9"),
        (
            {"frames_per_block": 1},
            "distilled to make 3 latent frames at a time, not 1. Set frames_per_block to 3",
        ),
        (
            {"given": 6},
            "holds 6 of them, so nothing is left to make. Make latent_image longer: length 33",
        ),
        ({"given": 2, "frames": 8}, "start_latent holds 2 latent frames; .* Cut it to 1"),
        ({"given": 5, "frames": 8}, "Cut it to 3 or 4"),
        (
            {"given": 1},
            (
                "The clip has 5 latent frames to make after the 1 it starts with, .* Set the"
                " video's length to 13 or 25"
            ),
        ),
        (
            {"window": Window(2)},
            (
                r"window_frames is 2; it must hold the block being made \(3\), 3 latent frames at"
                r" least"
            ),
        ),
        ({"window": Window(4, 2)}, "and the 2 of sink_frames, 5 latent frames at least"),
        ({"window": Window(0, 2)}, "sink_frames is 2 and window_frames is 0"),
        ({"record": None}, "No accelerator is attached to model"),
        (
            {"record": CATALOG["wan21-t2v-lightx2v-4step"]},
            "is not causal: .* Use the Few-Step Sampler",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_words(request_, message):
    with pytest.raises(PlanError, match=message):
        plan(**request_)


@pytest.mark.parametrize(
    ("size", "patch", "message"),
    [
        (
            (59, 104),
            (1, 2, 2),
            (
                r"latent_image is 832 x 472 pixels, .* patches of 16 x 16. Set the height to 464 or"
                r" 480.$"
            ),
        ),
        ((59, 105), (1, 2, 2), "Set the width to 832 or 848 and the height to 464 or 480"),
        ((60, 1), (1, 2, 2), "Set the width to 16.$"),
        ((60, 104), (1, 4, 3), "patches of 24 x 32. Set the width to 816 or 840"),
    ],
)
def test_a_part_of_a_patch_is_refused_in_pixels(size, patch, message):
    with pytest.raises(PlanError, match=message):
        refuse_partial_patches(*size, patch, 8)


def test_whole_patches_are_not_refused():
    refuse_partial_patches(60, 104, (1, 2, 2), 8)
    refuse_partial_patches(59, 105, (1, 1, 1), 8)


# ---------------------------------------------------------------- the window


def test_the_window_lets_the_oldest_go_after_the_sinks():
    window = Window(9, 1)
    # 6 remembered and 3 to come fit; with 9 remembered, 3 must go.
    assert (window.evicted(6, 3), window.evicted(9, 3), window.evicted(0, 3)) == (0, 3, 0)
    assert (window.capacity(6), window.capacity(100)) == (6, 9)
    assert (Window().evicted(1000, 3), Window().capacity(100)) == (0, 100)


# ---------------------------------------------------------------- the loop


class Recorded:
    """A model whose x0 is half of its input. It remembers frame numbers in place of keys."""

    def __init__(self, window=Window()):
        self.window, self.frames, self.seen = window, [], []

    def make_room(self, block):
        evicted, sink = self.window.evicted(len(self.frames), block.frames), self.window.sink
        self.frames[sink : sink + evicted] = []

    def evaluate(self, x, sigma, block):
        self.seen.append((block.start, sigma, tuple(self.frames)))
        return x / 2

    def keep(self, block):
        self.frames += range(block.start, block.end)

    def forget(self, frame):
        self.frames.clear()


def draw_ones(block):
    return torch.ones(block.steps, 1, 1, block.frames, 1, 1)


def test_re_noising_by_hand():
    # x = 1·n = 1; x0 = 0.5; x = 0.5·0.5 + 0.5·1 = 0.75; x0 = 0.375.
    block = Block(0, 1, (1.0, 0.5, 0.0))
    ((made, latent),) = unroll(Recorded(), [block], draw_ones)
    assert made is block and latent.item() == 0.375


def test_every_block_is_read_once_more_without_noise_and_the_last_is_not():
    memory = Recorded()
    list(unroll(memory, plan(frames=6).blocks, draw_ones))
    levels = [1.0, 0.9375, 5 / 6, 0.625]
    assert [start for start, _, _ in memory.seen] == [0] * 5 + [3] * 4
    assert [sigma for _, sigma, _ in memory.seen] == pytest.approx([*levels, 0.0, *levels])
    # Nothing before the first block, its three frames before the second.
    assert {frames for _, _, frames in memory.seen[:5]} == {()} and memory.seen[-1][2] == (0, 1, 2)


def test_what_a_block_sees_through_a_window_with_a_sink():
    memory = Recorded(Window(6, 1))
    list(unroll(memory, plan(frames=15).blocks, draw_ones))
    seen = {start: frames for start, _, frames in memory.seen}
    assert seen == {0: (), 3: (0, 1, 2), 6: (0, 4, 5), 9: (0, 7, 8), 12: (0, 10, 11)}


def test_given_frames_are_read_and_not_made():
    memory, given = Recorded(), torch.arange(4.0).reshape(1, 1, 4, 1, 1)
    made = list(unroll(memory, plan(frames=7, given=4).blocks, draw_ones, given))
    assert [block.start for block, _ in made] == [4]
    assert memory.seen[:2] == [(0, 0.0, ()), (1, 0.0, (0,))] and memory.seen[-1][2] == (0, 1, 2, 3)


def test_a_block_is_handed_out_before_it_is_read_again():
    memory = Recorded()
    next(unroll(memory, plan(frames=6).blocks, draw_ones))
    assert len(memory.seen) == 4 and memory.frames == []


def test_a_longer_clip_begins_like_a_shorter_one_and_the_global_generator_is_left_alone():
    def noise(count):
        draw = seeded_draw(7, (1, 2, 3, 3), torch.device("cpu"))
        return [draw(block) for block in plan(FRAMES, frames=count).blocks]

    state = torch.random.get_rng_state()
    short, long = noise(2), noise(5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(short, long))
    assert short[0].shape == (4, 1, 2, 1, 3, 3) and not torch.equal(short[0], short[1])


# ---------------------------------------------------------------- prompts that change


def timed(*seconds, **more):
    """Blocks of three latent frames begin at picture 0, 9, 21, 33 and 45: at 16 pictures a second
    those are 0, 0.5625, 1.3125, 2.0625 and 2.8125 s.
    """
    return plan(**{"frames": 15, **more}, timeline=Timeline(seconds, 16.0))


def starts(parts):
    return [(part.start, part.frames) for part in parts]


def test_a_prompt_takes_over_at_the_first_block_that_begins_at_its_time_or_after_it():
    made = timed(0.0, 1.0, 2.0625)
    assert [(turn.prompt, turn.frame) for turn in made.turns] == [(1, 6), (2, 9)]
    assert [made.timeline.begins(turn.frame) for turn in made.turns] == [1.3125, 2.0625]
    # All that is in view is read again, a block at a time.
    assert starts(made.turns[0].read) == [(0, 3), (3, 3)]
    assert starts(made.turns[1].read) == [(0, 3), (3, 3), (6, 3)]


def test_a_time_may_be_written_with_two_digits():
    assert [turn.frame for turn in timed(0.0, 2.81).turns] == [12]
    assert [turn.frame for turn in timed(0.0, 1.32).turns] == [6]
    assert [turn.frame for turn in timed(0.0, 1.35).turns] == [9]


def test_reading_again_costs_what_is_in_view_but_for_the_block_that_is_read_anyway():
    # Five blocks of four steps and four context passes, then one and two more.
    assert (timed(0.0).evaluations, timed(0.0, 1.0, 2.0).evaluations) == (24, 24 + 1 + 2)
    keeps = {"handover": Handover(reads_again=False, keeps_sinks=True)}
    assert timed(0.0, 1.0, 2.0, **keeps).evaluations == 24
    assert timed(0.0, 1.0, 2.0, window=Window(6)).evaluations == 24


@pytest.mark.parametrize(
    ("window", "handover", "read"),
    [
        (Window(), Handover(keeps_sinks=True), [(0, 3), (3, 3), (6, 3), (9, 3)]),
        # Three of six are the block to come, one is the sink: frames 10 and 11 are left.
        (Window(6, 1), Handover(keeps_sinks=True), [(0, 1), (10, 2)]),
        (Window(9, 3), Handover(keeps_sinks=True), [(0, 3), (9, 3)]),
        (Window(9, 3), Handover(), [(9, 3)]),
        (Window(9, 1), Handover(keeps_sinks=True, frames=2), [(0, 1), (10, 2)]),
        (Window(), Handover(keeps_sinks=True, frames=4), [(8, 1), (9, 3)]),
        (Window(8, 2), Handover(keeps_sinks=True), [(0, 2), (9, 3)]),
        (Window(), Handover(reads_again=False, keeps_sinks=True), []),
        # Both in one block: frame 1 was left behind between them.
        (Window(14, 1), Handover(keeps_sinks=True), [(0, 1), (2, 1), (3, 3), (6, 3), (9, 3)]),
    ],
)
def test_what_is_read_again_is_what_the_next_block_sees(window, handover, read):
    assert starts(timed(0.0, 2.5, window=window, handover=handover).turns[0].read) == read


def test_all_that_there_is_may_be_sinks():
    assert Handover().kept((0, 1, 2), 3) == (0, 1, 2)
    assert Handover().kept((0, 1, 2, 3), 3) == (3,)


def test_frames_that_are_not_read_again_all_stay():
    with pytest.raises(ValueError, match="Frames that are not read again all stay"):
        Handover(reads_again=False)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            {"seconds": (0.0, 3.6)},
            r"begins at 3.6 s, and the clip ends at 3.56 s, .* Set start_seconds to 2.81 s or less",
        ),
        ({"seconds": (0.0, 3.0)}, "begins at 3 s, and the last block of the clip begins at 2.81 s"),
        (
            {"seconds": (0.0, 1.4, 1.9)},
            "begin at 1.4 s and 1.9 s would take over at the same block, .* A block lasts 0.75 s",
        ),
        ({"seconds": (0.0, 0.02)}, "begin at 0 s and 0.02 s would take over at the same block"),
    ],
)
def test_a_prompt_that_nothing_is_made_under_is_refused(request_, message):
    with pytest.raises(PlanError, match=message):
        timed(*request_["seconds"])


def test_the_earliest_prompt_serves_from_the_start():
    late = timed(1.0, 2.0)
    assert late.opening == 0 and [turn.prompt for turn in late.turns] == [1]


def test_prompts_whose_time_the_given_frames_cover_are_over():
    # Six frames are given: the first block begins at 1.3125 s.
    made = timed(0.0, 0.6, 1.3, 2.0, given=6)
    assert made.opening == 2 and [(turn.prompt, turn.frame) for turn in made.turns] == [(3, 9)]


class Followed:
    """Prompts that turn at these frames. They note what is read again."""

    def __init__(self, *frames):
        self.frames, self.read = frames, {}

    def is_turn(self, block):
        return block.start in self.frames

    def turn(self, block, read):
        self.read[block.start] = tuple(read)


@pytest.mark.parametrize("record", [CHUNKS, FRAMES], ids=["chunks", "frames"])
@pytest.mark.parametrize(
    "window", [Window(), Window(4), Window(5, 1), Window(7, 2), Window(9, 3)], ids=str
)
@pytest.mark.parametrize(
    "handover",
    [
        Handover(keeps_sinks=True),
        Handover(),
        Handover(keeps_sinks=True, frames=1),
        Handover(reads_again=False, keeps_sinks=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("given", [0, 4])
def test_the_loop_does_what_the_plan_says(record, window, handover, given):
    frames = 15 + (given % record.causal.frames_per_block)
    made = timed(
        0.0, 1.5, 2.5, record=record, frames=frames, given=given, window=window, handover=handover
    )
    memory, prompts = Recorded(window), Followed(*(turn.frame for turn in made.turns))
    start = torch.zeros(1, 1, given, 1, 1)
    clip = unroll(memory, made.blocks, draw_ones, start, prompts, window, handover)
    assert [block for block, _ in clip] == list(made.made)
    assert len(memory.seen) == made.evaluations
    assert prompts.read == {turn.frame: turn.read for turn in made.turns}
    # After each turn the block sees what was read again, and nothing else.
    for turn in made.turns:
        seen = next(seen for start, sigma, seen in memory.seen if (start, sigma) == (turn.frame, 1))
        if handover.reads_again:
            assert seen == tuple(
                frame for part in turn.read for frame in range(part.start, part.end)
            )


def test_the_frames_that_are_read_again_are_those_that_were_made():
    class Read(Recorded):
        def evaluate(self, x, sigma, block):
            if sigma == 0:
                read.append((block.start, x.flatten().tolist()))
            return torch.full_like(x, block.start) + torch.arange(block.frames).reshape(-1, 1, 1)

    read = []
    list(unroll(Read(), plan(frames=9).blocks, draw_ones, None, Followed(6)))
    # The first block's own pass, then both under the new prompt.
    assert read == [(0, [0, 1, 2]), (0, [0, 1, 2]), (3, [3, 4, 5])]


def test_frames_that_no_prompt_can_read_again_are_let_go():
    alive, window = [], Window(6, 1)
    memory = Recorded(window)
    for _, latent in unroll(memory, plan(frames=60).blocks, draw_ones, None, Followed(), window):
        alive.append(weakref.ref(latent.untyped_storage()))
        del latent
    assert len(alive) == 20 and len([each for each in alive if each() is not None]) <= 3


def test_a_prompt_that_takes_over_at_the_first_block_reads_nothing_without_given_frames():
    memory, prompts = Recorded(), Followed(0)
    list(unroll(memory, plan(frames=6).blocks, draw_ones, None, prompts))
    assert prompts.read == {0: ()} and len(memory.seen) == plan(frames=6).evaluations
    memory, prompts = Recorded(), Followed(3)
    list(
        unroll(
            memory, plan(frames=6, given=3).blocks, draw_ones, torch.zeros(1, 1, 3, 1, 1), prompts
        )
    )
    assert starts(prompts.read[3]) == [(0, 3)]
    # Given frames are read under the new prompt alone.
    assert len(memory.seen) == plan(frames=6, given=3).evaluations


# ---------------------------------------------------------------- the mark


def test_marking_a_file_changes_its_header_alone(tmp_path):
    from safetensors.torch import load_file, safe_open, save_file

    tensors = {"blocks.0.x": torch.randn(3, 5), "head": torch.randn(7)}
    save_file(
        tensors, tmp_path / "in.safetensors", {"title": "mine", "config": json.dumps({"vae": 1})}
    )
    mark_causal.mark(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    marked = load_file(tmp_path / "out.safetensors")
    assert marked.keys() == tensors.keys() and all(
        torch.equal(marked[name], tensors[name]) for name in tensors
    )
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata()["title"] == "mine"
        assert json.loads(file.metadata()["config"]) == {
            "vae": 1,
            "transformer": {"causal_ar": True},
        }
    start = struct.unpack("<Q", (tmp_path / "out.safetensors").read_bytes()[:8])[0]
    assert start % 8 == 0 and not (tmp_path / "out.partial").exists()


def test_a_pickle_of_the_training_code_is_converted(tmp_path):
    from safetensors.torch import load_file

    weights = {"model._fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.x": torch.ones(2)}
    torch.save(
        {"generator": {"model.blocks.0.x": torch.zeros(2)}, "generator_ema": weights},
        tmp_path / "in.pt",
    )
    mark_causal.mark(tmp_path / "in.pt", tmp_path / "out.safetensors")
    assert torch.equal(load_file(tmp_path / "out.safetensors")["blocks.0.x"], torch.ones(2))


def test_marking_refuses_other_names_and_existing_files(tmp_path):
    (tmp_path / "there.safetensors").touch()
    for name, message in (
        ("there.safetensors", "exists already"),
        ("model.pt", "must end in .safetensors"),
    ):
        with pytest.raises(SystemExit, match=message):
            mark_causal.mark(tmp_path / "in.pt", tmp_path / name)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(SystemExit, match="holds no Wan model"):
        mark_causal.mark(tmp_path / "other.pt", tmp_path / "out.safetensors")
    save_file({"decoder.weight": torch.zeros(1)}, tmp_path / "vae.safetensors")
    (tmp_path / "text.safetensors").write_text("no safetensors file", encoding="utf-8")
    for name, message in (
        ("vae", "vae.safetensors cannot be marked: it holds no Wan model"),
        ("text", "text.safetensors cannot be marked"),
        ("absent", "absent.safetensors cannot be marked"),
    ):
        with pytest.raises(SystemExit, match=message):
            mark_causal.mark(tmp_path / f"{name}.safetensors", tmp_path / "out.safetensors")
    assert not [path for path in tmp_path.iterdir() if path.stem == "out"]
