"""The demo's training scripts: the reading of clips, and the causal model's parallel form against
the host's cached one.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

import in_host
import pytest
import torch
from thinning import EVERYTHING, some_of

from small_models import HAS_CAUSAL_WAN

with in_host.demo_scripts():
    import clips
    import distill
    import measure
    import size_reader
    import teacher
    import train_base
    import train_causal
    import turns


@pytest.mark.parametrize("frames", some_of([17, 65], 17))
def test_every_true_clip_is_read_right(frames):
    rng = random.Random(11)
    scenes = [clips.draw_scene(rng) for _ in range(40)]
    videos = clips.render(scenes, frames) / 2 + 0.5
    assert measure.accuracy(videos, [scene.sentence() for scene in scenes]) == 1.0


def test_every_kind_of_scene_is_drawn():
    rng = random.Random(0)
    scenes = [clips.draw_scene(rng) for _ in range(500)]
    for name, all_of_them in (
        ("colour", clips.COLOURS),
        ("shape", clips.SHAPES),
        ("motion", clips.MOTIONS),
        ("size", clips.SIZES),
        ("background", clips.BACKGROUNDS),
    ):
        assert {getattr(scene, name) for scene in scenes} == set(all_of_them)


def test_a_true_clip_is_not_read_as_another():
    rng = random.Random(12)
    scene = clips.draw_scene(rng)
    reading = measure.read_clip(clips.render([scene])[0] / 2 + 0.5)
    others = {"colour": clips.COLOURS, "shape": clips.SHAPES, "motion": clips.MOTIONS}
    for name, values in others.items():
        for value in set(values) - {getattr(scene, name)}:
            assert not reading.agrees_with(scene.sentence().replace(getattr(scene, name), value))


def test_every_true_clip_that_turns_is_read_right_and_none_the_wrong_way_round():
    pairs = turns.draw_pairs(40 if EVERYTHING else 12, 33)
    videos = turns.render(pairs, 65) / 2 + 0.5
    rng = random.Random(0)
    for video, pair in zip(videos, pairs, strict=True):
        first, second = pair.sentences(rng)
        assert turns.read_turn(video, (first, second), 33) == turns.Followed(True, True, True)
        assert turns.read_turn(video, (second, first), 33) == turns.Followed(False, False, False)


def test_a_pair_differs_in_colour_shape_and_direction_and_in_nothing_else():
    for pair in turns.draw_pairs(100, 33):
        first, second = pair.sentences(random.Random(0))
        differing = [one != other for one, other in zip(first.split(), second.split(), strict=True)]
        assert sum(differing) == 3 and "moving" in first and "moving" in second


def test_what_a_scene_turns_into_goes_on_from_its_place_and_size():
    rng = random.Random(9)
    for scene in (clips.draw_scene(rng) for _ in range(100)):
        for motion in set(clips.MOTIONS) - {scene.motion}:
            after = clips.turned(scene, 21, motion=motion)
            x, y = clips.place_of(scene, 20)
            along = clips.DIRECTIONS.get(motion.split()[-1], (0, 0))
            expected = (x + scene.speed * along[0], y + scene.speed * along[1])
            assert clips.place_of(after, 21) == pytest.approx(expected)
            sizes = clips.radii(scene, 21)[-1].item(), clips.radii(after, 22)[-1].item()
            assert sizes[0] == pytest.approx(sizes[1], rel=1e-5)
        # What does not change is as if nothing had.
        recoloured = clips.turned(scene, 21, colour="white", shape="circle")
        assert replace(recoloured, colour=scene.colour, shape=scene.shape) == scene


def test_turns_change_anything_and_the_second_prompt_says_what():
    rng, changed = random.Random(1), set()
    for _ in range(400):
        turn = turns.draw_turn(train_causal.long_scene(rng), 13, rng)
        sentence = turn.sentences(rng)[1]
        for name in ("colour", "shape", "motion", "size", "background"):
            value = getattr(turn.after, name)
            if value != getattr(turn.before, name):
                changed.add(name)
                assert value in sentence
        radii = clips.radii(turn.after, 33)[13:]
        assert 6 < radii.min() <= radii.max() < 20
    assert changed == {"colour", "shape", "motion", "size", "background"}


def test_a_clip_that_turns_is_the_one_scene_before_and_the_other_after():
    rng = random.Random(2)
    drawn = [turns.draw_turn(clips.draw_scene(rng), frame, rng) for frame in (5, 13)]
    for turn, video in zip(drawn, turns.render(drawn, 17), strict=True):
        before, after = clips.render([turn.before, turn.after], 17)
        assert video[:, : turn.frame].equal(before[:, : turn.frame])
        assert video[:, turn.frame :].equal(after[:, turn.frame :])


def test_the_students_sigmas_are_four_even_steps_at_shift_five():
    assert torch.allclose(teacher.SIGMAS, torch.tensor([1, 0.9375, 5 / 6, 0.625, 0]))


def test_the_mask_lets_each_frame_see_what_the_cache_would_hold():
    """Three frames of one token, a window of two: rows and columns are clean 0 1 2, noisy 0 1 2."""
    assert train_causal.block_causal_mask(3, 1, train_causal.View(2)).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],  # the first noisy frame sees itself alone
        [1, 0, 0, 0, 1, 0],
        [0, 1, 0, 0, 0, 1],
    ]
    with_sink = train_causal.block_causal_mask(3, 1, train_causal.View(2, has_sink=True)).int()
    assert with_sink[[2, 5]].tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 1]]


def test_frames_that_are_read_again_see_nothing_that_has_left_the_view():
    """Four frames of one token; at the third another prompt takes over, with a window of two."""
    view = train_causal.View(2, turn=2)
    assert train_causal.block_causal_mask(4, 1, view)[[1, 2, 6, 7]].int().tolist() == [
        [0, 1, 0, 0, 0, 0, 0, 0],  # the one frame in view, read again without the one before it
        [0, 1, 1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0, 0, 0, 1],
    ]
    with_sink = train_causal.block_causal_mask(4, 1, replace(view, has_sink=True)).int()
    assert with_sink[1].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert view.first == 2


def test_a_sink_put_further_back_spoils_no_frame_that_sees_more_of_it():
    assert [train_causal.View(4, has_sink=True, gap=gap).first for gap in (0, 7)] == [1, 4]


def test_a_resized_scene_differs_in_its_size_alone_once_each_way():
    rng = random.Random(3)
    scenes = [clips.draw_scene(rng) for _ in range(200)]
    pairs = [train_causal.resized(scene, rng) for scene in scenes]
    factors = [one.radius / scene.radius for scene, (one, _) in zip(scenes, pairs, strict=True)]
    assert (
        min(factors) < 0.85
        and max(factors) > 1.2
        and 1 / train_causal.RESIZE <= min(factors) <= max(factors) <= train_causal.RESIZE
    )
    for scene, (one, other) in zip(scenes, pairs, strict=True):
        assert one.radius * other.radius == pytest.approx(scene.radius**2)
        assert replace(one, radius=scene.radius) == replace(other, radius=scene.radius) == scene


def test_a_shape_that_moves_through_a_long_clip_begins_whole_and_often_crosses_the_border():
    rng = random.Random(5)
    scenes = [
        scene
        for scene in (train_causal.long_scene(rng) for _ in range(200))
        if scene.motion.startswith("moving")
    ]
    videos = clips.render(scenes, train_causal.FRAMES)
    empty = clips.render(
        [replace(scene, radius=0.01, position=(32.0, 32.0), speed=0.0) for scene in scenes], 1
    )
    border = torch.zeros(64, 64, dtype=torch.bool)
    border[[0, -1]] = border[:, [0, -1]] = True
    touches = ((videos - empty).abs().amax(1) > 0.1)[:, :, border].any(2)  # (B, T)
    assert not touches[:, 0].any()
    assert touches.any(1).float().mean() > 0.6


def test_sizes_are_those_of_the_frames_a_latent_frame_stands_for():
    scene = replace(clips.draw_scene(random.Random(0)), motion="growing", radius=10.0)
    growth = [clips.GROWTH ** min(1, frame / 8 - 1) for frame in range(9)]
    expected = [math.log(10 / size_reader.UNIT_RADIUS * growth[0])]
    expected += [
        sum(math.log(10 / size_reader.UNIT_RADIUS * factor) for factor in part) / 4
        for part in (growth[1:5], growth[5:9])
    ]
    assert size_reader.sizes([scene], 3)[0].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.skipif(not HAS_CAUSAL_WAN, reason="this host has no causal Wan")
def test_a_student_that_was_written_is_read_back(tmp_path):
    student, other = train_causal.load_causal_base("cpu"), train_causal.load_causal_base("cpu")
    for model in (student, other):
        distill.add_deltas(model, 4)
    generator = torch.Generator().manual_seed(0)
    for weight in distill.trained_state(student).values():
        weight.add_(0.01 * torch.randn(weight.shape, generator=generator))
    distill.write_lora(student, tmp_path / "student.safetensors", {})
    distill.read_lora(other, tmp_path / "student.safetensors")
    for name, weight in distill.trained_state(student).items():
        assert torch.allclose(weight, distill.trained_state(other)[name], atol=2e-3), name


def random_causal() -> torch.nn.Module:
    model = train_base.build_model(causal=True)
    train_base.initialise(model)
    torch.nn.init.normal_(model.head.head.weight, std=0.05)  # initialise() leaves the output 0
    return model


@pytest.mark.skipif(not HAS_CAUSAL_WAN, reason="this host has no causal Wan")
@torch.no_grad()
def test_one_pass_over_all_frames_equals_the_hosts_cached_pass_over_each():
    model, generator = random_causal(), torch.Generator().manual_seed(0)
    clean, noisy = torch.randn((2, 2, 16, 4, 8, 8), generator=generator)
    context = torch.randn(2, 10, 4096, generator=generator)
    steps = torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])
    at_once = train_causal.teacher_forced(model, clean, noisy, steps, context, train_causal.View(4))

    caches = model.init_kv_caches(2, 4 * 16, torch.device("cpu"), torch.float32)
    for frame in range(4):
        part = slice(frame, frame + 1)

        def forward(x, timestep, part=part):
            texts = [{"is_init": False} for _ in model.blocks]
            return model.forward_block(x[:, :, part], timestep, context, part.start, caches, texts)

        alone = forward(noisy, teacher.SIGMAS[steps[:, part]] * 1000)
        # bfloat16 in one pass, float32 in the other.
        assert (at_once[:, :, part] - alone).norm() < 0.03 * alone.norm()
        for cache in caches:
            cache["end"] -= 16
        forward(clean, torch.zeros(2, 1))


@pytest.mark.skipif(not HAS_CAUSAL_WAN, reason="this host has no causal Wan")
@torch.no_grad()
def test_one_pass_with_a_turn_equals_the_hosts_cache_once_it_was_read_again():
    """Five frames, the prompt changes at the fourth; two in view beside the first, which stays."""
    model, generator = random_causal(), torch.Generator().manual_seed(0)
    clean, noisy = torch.randn((2, 2, 16, 5, 8, 8), generator=generator)
    context = torch.randn(2, 10, 4096, generator=generator)
    steps = torch.tensor([[0, 0, 0, 1, 2], [0, 0, 0, 3, 0]])
    view = train_causal.View(2, has_sink=True, turn=3)
    at_once = train_causal.teacher_forced(model, clean, noisy, steps, context, view)

    caches = model.init_kv_caches(2, 3 * 16, torch.device("cpu"), torch.float32)

    def forward(x, frame, sigma):
        texts = [{"is_init": False} for _ in model.blocks]
        part = x[:, :, frame : frame + 1]
        return model.forward_block(part, sigma * 1000, context, frame, caches, texts)

    for frame in (0, 2):  # what is in view, read again
        forward(clean, frame, torch.zeros(2, 1))
    for frame in (3, 4):
        alone = forward(noisy, frame, teacher.SIGMAS[steps[:, frame : frame + 1]])
        assert (at_once[:, :, frame : frame + 1] - alone).norm() < 0.03 * alone.norm()
        for cache in caches:
            cache["end"] -= 16
        forward(clean, frame, torch.zeros(2, 1))
        for cache in caches:  # the oldest beside the sink goes
            cache["end"] -= 16
            for name in ("k", "v"):
                cache[name][:, 16:32] = cache[name][:, 32:48].clone()


@pytest.mark.skipif(not HAS_CAUSAL_WAN, reason="this host has no causal Wan")
@torch.no_grad()
def test_a_past_with_a_turn_is_made_anew_under_the_prompt_of_each_frame():
    model, generator = random_causal(), torch.Generator().manual_seed(0)
    latents = torch.randn(3, 2, 16, 5, 8, 8, generator=generator)
    context, earlier, another = torch.randn(3, 2, 10, 4096, generator=generator)
    batch = train_causal.Batch(latents, torch.zeros(2, 5), context, turn=3, earlier=earlier)

    def made(batch):
        draws = train_causal.Draws(batch, torch.Generator().manual_seed(1))
        view = train_causal.View(5, turn=batch.turn)
        return train_causal.remade(model, latents[0], draws, view)

    own, of_one = made(batch), made(replace(batch, context=earlier, turn=0))
    assert own[:, :, :3].equal(of_one[:, :, :3]) and own[:, :, :1].equal(latents[0][:, :, :1])
    assert not own[:, :, 3:].allclose(of_one[:, :, 3:], atol=0.01)
    with_another = made(replace(batch, earlier=another))
    assert own[:, :, 3:].equal(with_another[:, :, 3:])
    assert not own[:, :, 1:3].allclose(with_another[:, :, 1:3], atol=0.01)
