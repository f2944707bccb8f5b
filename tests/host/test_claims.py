"""The claims of few-step generation, on the trained demo model: benchmarks/claims.py at a few
prompts, with room for chance.

demo/README.md has the figures of 200 prompts. At the few here a share is uncertain by ten points
and more, so the bounds are set where a student that was lost, a wrong sigma or guidance applied
twice would fall through, not at the measured figures.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from claims import CAUSAL, LEFT_GUIDED, PLAIN, RENOISE, STUDENT, TEACHER, Bench
from comfyui_fewstep.samplers.guided import GuidedSettings
from negative import DEFAULTS, Reader, rows_of
from thinning import EVERYTHING, thorough
from turning import TIMELINE, PairBench

from small_models import HAS_CAUSAL_WAN

PROMPTS = 16 if EVERYTHING else 4
PAIRS = 20 if EVERYTHING else 8
needs_causal = pytest.mark.skipif(not HAS_CAUSAL_WAN, reason="this host has no causal Wan")


@pytest.fixture(scope="module")
def bench() -> Bench:
    """With the teacher's clips to compare with."""
    return Bench(PROMPTS)


@pytest.fixture(scope="module")
def teacher(bench):
    return bench.measure(TEACHER)


@pytest.fixture(scope="module")
def student(bench, teacher):
    return bench.measure(STUDENT)


def test_the_teacher_follows_its_prompts_at_a_hundred_evaluations(teacher):
    assert teacher.evaluations == 100
    assert teacher.right >= 0.8


def test_the_student_follows_them_at_four(student):
    assert student.evaluations == 4
    assert student.right >= 0.7


def test_the_student_makes_nearly_the_teachers_clip(student):
    assert student.psnr > 22 and student.ssim > 0.8


@thorough
def test_plain_few_steps_are_far_from_it(bench, student):
    plain = bench.measure(PLAIN)
    assert plain.evaluations == 4
    assert (
        plain.psnr < student.psnr - 3
        and plain.ssim < student.ssim
        and plain.feature > 1.3 * student.feature
    )


def test_guidance_left_on_ruins_the_student(bench, student):
    guided = bench.measure(LEFT_GUIDED)
    assert guided.evaluations == 8
    assert guided.psnr < student.psnr - 5 and guided.feature > 1.7 * student.feature


@pytest.mark.parametrize("steps", [1, pytest.param(4, marks=thorough)])
def test_the_renoise_student_works_from_one_step_to_four(bench, teacher, steps):
    result = bench.measure(replace(RENOISE, steps=steps), features=False)
    assert result.evaluations == steps
    assert result.right >= 0.6


@needs_causal
@pytest.mark.parametrize(("frames", "least"), [(17, 0.75), pytest.param(65, 0.6, marks=thorough)])
def test_the_causal_model_follows_its_prompts_and_goes_on_after_its_training_length(
    bench, frames, least
):
    """It was trained on 33 frames. From there on it misses the target of 90 %; demo/README.md says
    by how much.
    """
    result = bench.measure(replace(CAUSAL, frames=frames))
    # Four steps for every latent frame, four more for the first, and the reading of each finished
    # one but the last.
    assert result.evaluations == 5 * ((frames - 1) // 4 + 1) + 4 - 1
    assert result.right >= least


@thorough
@needs_causal
def test_a_prompt_that_changes_on_the_way_is_followed_and_its_price_is_counted():
    """The first prompt before the change, and the second from nine frames after it."""
    result = PairBench(PAIRS).measure(TIMELINE)
    # Those of one prompt; without the sink four frames are in view, and one is read either way.
    assert result.evaluations == 5 * 13 + 4 - 1 + 3
    assert result.before >= 0.6
    assert result.after >= 0.5 and result.end >= 0.5


@thorough
def test_a_guided_start_follows_its_prompts_too_and_its_price_is_counted(bench, student):
    guided = replace(STUDENT, name="guided", guided=GuidedSettings(1, 4, 5.0))
    result = bench.measure(guided, features=False)
    # Four steps of two, and the three that are left to the accelerator.
    assert result.evaluations == 11
    assert result.right >= 0.7 and result.psnr > student.psnr


def test_a_negative_prompt_keeps_out_what_it_names():
    """Where a prompt names no shape, the student makes triangles."""
    reader = Reader(STUDENT)
    without, with_it = rows_of(reader, "shape", PROMPTS, [DEFAULTS["scale"]])
    assert without[0] == "triangle"
    shares = [[float(share.rstrip("%")) / 100 for share in row[2:]] for row in (without, with_it)]
    (had, _), (has, followed) = shares
    assert had > 0.7 and has < 0.4 and followed > 0.8
