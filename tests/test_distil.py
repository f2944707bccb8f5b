"""What a student learns of its teacher: formulas by hand-worked numbers, the loop on networks that
are one matrix.
"""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from comfyui_fewstep.samplers import distil
from comfyui_fewstep.samplers.distil import Course, Distillation, Muon
from thinning import EVERYTHING
from torch import Tensor

WIDTH = 4


def ones(*values: float) -> Tensor:
    return torch.tensor(values)


# ---------------------------------------------------------------- formulas


def test_a_straight_step_goes_its_share_of_the_way():
    # From 4 at sigma 2 towards 1: the slope is (4 - 1) / 2 = 1.5, and a step of -1 makes 2.5.
    x, denoised = ones(4.0).view(1, 1), ones(1.0).view(1, 1)
    assert distil.euler_step(x, denoised, ones(2.0), ones(1.0)).item() == 2.5


def test_the_target_is_what_lands_the_step_where_the_teacher_was():
    x, there = ones(4.0).view(1, 1), ones(2.5).view(1, 1)
    target = distil.landing_on(x, there, ones(2.0), ones(1.0))
    assert target.item() == 1.0
    assert distil.euler_step(x, target, ones(2.0), ones(1.0)).item() == 2.5


def test_the_last_steps_target_is_the_teachers_end_itself():
    end = torch.randn(2, 3)
    target = distil.landing_on(torch.randn(2, 3), end, ones(0.5, 0.7), ones(0.0, 0.0))
    assert torch.equal(target, end)


def test_every_row_of_a_batch_has_its_own_noise_levels():
    x, denoised = torch.full((2, 3), 4.0), torch.full((2, 3), 1.0)
    # The second row goes from 2 to 0.5: a quarter of the 3 that it is away is left.
    made = distil.euler_step(x, denoised, ones(2.0, 2.0), ones(1.0, 0.5))
    assert made.tolist() == [[2.5] * 3, [1.75] * 3]


def test_an_error_in_x0_counts_as_one_in_velocity_and_never_less_than_itself():
    assert distil.loss_weight(ones(0.5, 1.0, 14.6)).tolist() == [4.0, 1.0, 1.0]
    # At sigma 0.5 an error of 3 in x0 is one of 6 in velocity: 36; at 1 it is 9; the mean 22.5.
    error = distil.weighted_error(torch.full((2, 5), 3.0), torch.zeros(2, 5), ones(0.5, 1.0))
    assert error.item() == 22.5


def test_the_last_of_the_students_steps_counts_for_most_and_all_together_for_one():
    shares = [distil.step_share(step, 4) for step in range(4)]
    assert shares == pytest.approx([1 / 9, 1 / 9, 1 / 9, 2 / 3])
    assert distil.step_share(0, 1) == 1.0


def test_a_walk_to_one_point_ends_there_on_any_grid():
    point = torch.randn(2, 3)
    states = list(
        distil.walk(
            lambda x, sigma, prompts: point, torch.randn(2, 3), [1.0, 0.7, 0.2, 0.0], [0, 0]
        )
    )
    assert len(states) == 4 and torch.allclose(states[-1], point, atol=1e-6)


def test_a_walk_is_of_second_order():
    """Gaussian data of deviation 1: denoised is x / (1 + sigma^2), and a path from sigma s ends at
    x / sqrt(1 + s^2).
    """

    def denoise(x: Tensor, sigma: Tensor, prompts) -> Tensor:
        return x / (1 + sigma.view(-1, 1) ** 2)

    start = torch.ones(1, 1, dtype=torch.float64)
    errors = []
    for steps in (16, 32, 64, 128):
        grid = [10.0 * (1 - step / steps) ** 2 for step in range(steps + 1)]
        *_, end = distil.walk(denoise, start, grid, [0])
        errors.append(abs(end.item() - 1 / math.sqrt(101)))
    ratios = [one / other for one, other in zip(errors, errors[1:])]
    assert all(3.0 < ratio < 6.0 for ratio in ratios[1:]), ratios


def test_a_walk_evaluates_once_a_step():
    calls = []

    def denoise(x: Tensor, sigma: Tensor, prompts) -> Tensor:
        calls.append(sigma[0].item())
        return x * 0

    list(distil.walk(denoise, torch.ones(1, 1), [1.0, 0.5, 0.25, 0.0], [0]))
    assert calls == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("shape", [(4, 32), (32, 4), (8, 8)])
def test_an_update_goes_as_far_in_every_direction(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(distil.orthogonal(matrix))
    assert singular.min() > 0.6 and singular.max() < 1.3


# ---------------------------------------------------------------- the loop


def matrix(seed: int) -> Tensor:
    return 0.3 * torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed))


class Pupil:
    """A student whose network is one matrix and a LoRA, and a teacher with another matrix. Each
    prompt adds a point of its own.
    """

    def __init__(self, fails_at: int | None = None):
        self.weights = {
            "up": torch.zeros(WIDTH, WIDTH, requires_grad=True),
            "down": matrix(2).requires_grad_(True),
        }
        self.evaluations, self.fails_at = 0, fails_at
        self.seen: list[tuple[Tensor, Tensor, list[int]]] = []  # by the student, with a gradient

    def _evaluated(self) -> None:
        self.evaluations += 1
        if self.evaluations - 1 == self.fails_at:
            raise KeyboardInterrupt

    def teacher(self, x: Tensor, sigma: Tensor, prompts) -> Tensor:
        assert not torch.is_grad_enabled()
        self._evaluated()
        return x @ matrix(1).T + 0.1 * torch.tensor(prompts).view(-1, 1)

    def student(self, x: Tensor, sigma: Tensor, prompts) -> Tensor:
        self._evaluated()
        if torch.is_grad_enabled():
            self.seen.append((x, sigma, list(prompts)))
        changed = matrix(0) + self.weights["up"] @ self.weights["down"]
        return x @ changed.T + 0.1 * torch.tensor(prompts).view(-1, 1)


def run_for(pupil: Pupil, iterations: int = 60, groups=((0, 1), (2,)), **changes) -> Distillation:
    settings = {
        "levels": (1.0, 0.75, 0.5, 0.25, 0.0),
        "grid": tuple(1 - step / 16 for step in range(17)),
        "iterations": iterations,
        "rows": 6,
        "learning_rate": 0.02,
        "seed": 5,
        "most_paths": 40,
    }
    return Distillation(
        Course(**settings | changes), pupil.weights, groups, (WIDTH,), torch.device("cpu")
    )


def finish(run: Distillation, pupil: Pupil) -> None:
    """Go on to the end, again where it was broken off, with a check in every tenth iteration."""
    while run.iteration < run.course.iterations:
        with contextlib.suppress(KeyboardInterrupt):
            run.go_on(pupil.teacher, pupil.student, run.iteration / run.course.iterations)
        while run.iteration % 10 == 0 and (run.iteration, 0.0) > max(run.checks, default=(0, 1.0)):
            with contextlib.suppress(KeyboardInterrupt):
                run.check(pupil.student)


def test_a_student_comes_nearer_to_its_teacher():
    pupil = Pupil()
    run = run_for(pupil, 300)
    run.go_on(pupil.teacher, pupil.student, 0.0)
    run.check(pupil.student)
    finish(run, pupil)
    first, last = run.checks[0][1], run.checks[-1][1]
    # One matrix for all noise levels cannot do all that the teacher does.
    assert last < 0.5 * first


def bits(run: Distillation) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in run.weights.items()}


def assert_same(run: Distillation, other: Distillation) -> None:
    assert run.losses == other.losses and run.checks == other.checks
    for name, weight in bits(run).items():
        assert torch.equal(weight, bits(other)[name]), name


def test_one_seed_gives_one_student_to_the_bit_and_another_seed_another():
    runs = []
    for seed in (5, 5, 6):
        pupil = Pupil()
        runs.append(run_for(pupil, seed=seed))
        finish(runs[-1], pupil)
    assert_same(runs[0], runs[1])
    assert not torch.equal(bits(runs[0])["up"], bits(runs[2])["up"])


def test_the_global_random_numbers_are_neither_drawn_nor_seeded():
    before = torch.random.get_rng_state()
    pupil = Pupil()
    finish(run_for(pupil), pupil)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("broken_off", [1, 14, 15, 16, 59])
def test_a_run_gone_on_with_from_its_state_is_the_run_itself(broken_off):
    whole, pupil = Pupil(), Pupil()
    expected = run_for(whole)
    finish(expected, whole)
    first = run_for(pupil)
    for _ in range(broken_off):
        first.go_on(pupil.teacher, pupil.student, first.iteration / 60)
        if first.iteration % 10 == 0:
            first.check(pupil.student)
    other = Pupil()
    run = run_for(other)
    run.restore(first.tensors(), first.facts())
    finish(run, other)
    assert_same(run, expected)


def test_an_iteration_broken_off_anywhere_is_begun_again_as_if_nothing_had_been():
    whole = Pupil()
    expected = run_for(whole, 30)
    finish(expected, whole)
    for evaluation in range(0, whole.evaluations, 1 if EVERYTHING else 7):
        pupil = Pupil(fails_at=evaluation)
        run = run_for(pupil, 30)
        finish(run, pupil)
        assert pupil.evaluations > whole.evaluations, "it did not break off"
        for name, weight in bits(expected).items():
            assert torch.equal(weight, bits(run)[name]), (evaluation, name)


def test_the_rows_of_a_batch_are_of_prompts_that_fit_together():
    pupil = Pupil()
    finish(run_for(pupil, 200), pupil)
    kinds = {frozenset(prompt == 2 for prompt in prompts) for _, _, prompts in pupil.seen}
    assert kinds == {frozenset({True}), frozenset({False})}


def test_what_is_held_out_is_never_learned_from():
    pupil = Pupil()
    run = run_for(pupil)
    finish(run, pupil)
    held = {tuple(row) for row in run.held_out.states[0].float().tolist()}
    assert len(held) == 6
    learned = {tuple(row) for x, _, _ in pupil.seen for row in x.tolist()}
    assert not held & learned and len(learned) > 100


def test_without_its_paths_a_run_goes_on_from_as_many_new_ones_as_it_began_with():
    pupil = Pupil()
    first = run_for(pupil, 30)
    finish(first, pupil)
    run = run_for(Pupil(), 60, most_paths=400)
    run.restore(first.tensors(with_paths=False), first.facts(with_paths=False))
    run.go_on(pupil.teacher, pupil.student, 0.5)
    assert run.held_out is not None and len(run.bank) == distil.FIRST_WALKS
    assert run.walks == first.walks + 1 + distil.FIRST_WALKS


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_ends_the_run_and_moves_nothing(bad):
    pupil = Pupil()
    run = run_for(pupil)
    run.go_on(pupil.teacher, pupil.student, 0.0)
    before, momenta = bits(run), dict(run.optimizer.momenta)
    for weight in run.weights.values():
        weight.register_hook(lambda gradient: gradient * bad)
    with pytest.raises(distil.Diverged, match="Lower learning_rate"):
        run.go_on(pupil.teacher, pupil.student, 0.0)
    for name, weight in before.items():
        assert torch.equal(run.weights[name], weight)
        assert momenta[name].isfinite().all()
    assert run.iteration == 1


def test_a_run_is_checked_twenty_times_and_once_more_at_its_end():
    for iterations in (1, 7, 30, 1200):
        shares = [number / iterations for number in range(iterations + 1)]
        due = [distil.is_check_due(*pair) for pair in zip(shares, shares[1:])]
        assert sum(due) == min(iterations, distil.CHECKS) and due[-1], iterations
    # By the clock a run goes over its end.
    assert distil.is_check_due(0.97, 1.3) and not distil.is_check_due(0.951, 0.999)


def test_no_more_paths_are_kept_than_there_is_room_for():
    pupil = Pupil()
    run = run_for(pupil, most_paths=14)
    for _ in range(60):
        run.go_on(pupil.teacher, pupil.student, 0.9)
        assert sum(len(paths.prompts) for paths in run.bank) <= 14
    assert len(run.bank) == 2 and run.walks > 3


def test_the_teacher_walks_again_while_the_student_learns():
    pupil = Pupil()
    run = run_for(pupil, 2 * distil.FRESH_EVERY + 1)
    finish(run, pupil)
    # One that is held out, those to begin with, and one more after each FRESH_EVERY iterations.
    assert run.walks == 1 + distil.FIRST_WALKS + 2


def test_the_learning_rate_rises_stays_and_falls_to_nothing():
    shares = [distil.learning_share(done) for done in (0.0, 0.5, 0.75, 1.0)]
    assert shares == [1.0, 1.0, 0.5, 0.0]


def test_an_optimizer_step_moves_each_matrix_as_far_as_its_rate_says():
    weight = torch.zeros(2, 8, requires_grad=True)
    weight.grad = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    Muon({"weight": weight}).step(0.1)
    # A nearly orthogonal update of two rows, each of length near 1, times 0.1 * 0.2 * sqrt(8).
    length = weight.detach().norm(dim=1)
    assert torch.all((length - 0.1 * 0.2 * math.sqrt(8)).abs() < 0.4 * 0.1 * 0.2 * math.sqrt(8))
    assert weight.grad is None
