"""Distilling an accelerator: what a student learns of its teacher, and the loop that teaches it.

The teacher walks from noise to a picture in many guided steps, once, and what it passes at the
student's few noise levels is kept. The student, without guidance, learns the straight step from
each of these points that lands on the next one; then it walks itself, and learns from where its own
steps have led it to land on the teacher's points all the same.

Everything is in the terms of k-diffusion, in which one formula is right for a flow and for a model
that predicts noise or v: x at noise level sigma, and what a model takes for the clean picture in
it, here called denoised.

What follows whom:

* A student that does in one step what its teacher does in several, with the x0 for which its own
  solver lands where the teacher landed as its target: Salimans and Ho 2022, Progressive
  Distillation, arXiv 2202.00512. There the steps are halved again and again; here a student learns
  its few steps at once from a long path, as the students of ODE pairs do (Yin et al. 2024, CausVid,
  arXiv 2412.07772, which regresses to the end of the path from each level instead).
* Guidance goes into the student: Meng et al. 2022, On Distillation of Guided Diffusion Models,
  arXiv 2210.03142. Here for one scale, so that the network takes no new input.
* A solution of its own for each stretch between two of the student's levels, in place of one for
  the whole path: Wang et al. 2024, Phased Consistency Models, arXiv 2405.18407. Here regression to
  the stretch's end takes the place of consistency.
* Training on the student's own states, so that its errors do not add up: Garrepalli et al. 2024,
  DDIL, arXiv 2410.11971, who see distillation as imitation learning.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# x (B, ...), its noise levels (B,), the number of each row's prompt -> denoised (B, ...).
Denoise = Callable[[Tensor, Tensor, Sequence[int]], Tensor]

# Share of the iterations after which the student learns from its own states.
OWN_STATES_FROM = 0.25
# Share of the loss that the last of its steps has then: it alone decides where the student ends,
# and those before it are of use to it. Of a run of five minutes a student came 1 dB nearer to the
# demo model with it than with the same share for each step.
LAST_SHARE = 2 / 3
WARM_UP = 50  # iterations, or a tenth of a short run
FLAT_SHARE = 0.5  # of a run; after it the learning rate falls to 0
# Walks of the teacher before the first iteration, and iterations between two later ones: so few
# paths at first, or used so often, were learned by heart.
FIRST_WALKS = 4
FRESH_EVERY = 10
MOMENTUM = 0.95
# Of the fifth-order iteration that makes a matrix nearly orthogonal: Jordan et al. 2024, Muon.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
# An orthogonal update has the size of one of Adam's when it is multiplied by this and the root of
# its longer side: Liu et al. 2025, Muon is Scalable for LLM Training, arXiv 2502.16982.
ADAMS_SIZE = 0.2
CHECKS = 20  # in a run: how far the student's end is from the teacher's


# ---------------------------------------------------------------- formulas


def euler_step(x: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """The straight step from sigma to sigma_next, both (B,), in the direction of denoised."""
    share = _over(sigma_next / sigma, x)
    return share * x + (1 - share) * denoised


def landing_on(x: Tensor, target: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """The denoised for which euler_step lands on target; target itself where sigma_next is 0."""
    share = _over(sigma_next / sigma, x)
    return (target - share * x) / (1 - share)


def loss_weight(sigma: Tensor) -> Tensor:
    """Weight of a squared error in denoised: 1 / sigma^2, but no less than 1.

    For a flow it is the error in its velocity. For a model that predicts noise it is Salimans and
    Ho's truncated SNR: by the error in the noise alone, pure noise would count for next to nothing.
    """
    return sigma.square().reciprocal().clamp(min=1.0)


def weighted_error(denoised: Tensor, target: Tensor, sigma: Tensor) -> Tensor:
    """Mean over rows and elements, in float32."""
    each = (denoised.float() - target.float()).square().flatten(1).mean(1)
    return (loss_weight(sigma) * each).mean()


def walk(
    denoise: Denoise, x: Tensor, grid: Sequence[float], prompts: Sequence[int]
) -> Iterator[Tensor]:
    """Every state of a path down the grid, x itself first.

    Two-step Adams-Bashforth in sigma with steps of any size: of second order for one evaluation a
    step. The first step is Euler's.
    """
    yield x
    slope_last, step_last = None, 0.0
    for sigma, sigma_next in zip(grid, grid[1:]):
        levels = x.new_full((len(x),), sigma)
        slope = (x - denoise(x, levels, prompts)) / sigma
        step = sigma_next - sigma
        ahead = slope
        if slope_last is not None:
            ahead = slope + step / (2 * step_last) * (slope - slope_last)
        x = x + step * ahead
        slope_last, step_last = slope, step
        yield x


def learning_share(done: float) -> float:
    """Share of the learning rate when so much of a run is done, 0 to 1: flat, then falling to 0."""
    return min(1.0, (1.0 - done) / (1.0 - FLAT_SHARE))


def step_share(step: int, steps: int) -> float:
    """Share of the loss that a step of the student's own path has."""
    if steps == 1:
        return 1.0
    return LAST_SHARE if step == steps - 1 else (1 - LAST_SHARE) / (steps - 1)


def is_check_due(before: float, done: float) -> bool:
    """Whether a check comes after an iteration. before, done: share of the run in front of it and
    behind it. The last one always has one.
    """
    return int(min(done, 1.0) * CHECKS) > int(before * CHECKS)


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix with nearly the same directions whose singular values are all near 1."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if is_tall else x


def _over(values: Tensor, x: Tensor) -> Tensor:
    """(B,) -> (B, 1, ...), to be multiplied with x."""
    return values.view(-1, *[1] * (x.ndim - 1))


# ---------------------------------------------------------------- what the student learns from


@dataclass(frozen=True)
class DistilSettings:
    """What a user asks for."""

    steps: int  # of the accelerator
    cfg: float  # that goes into it
    iterations: int
    minutes: float  # after which a run ends all the same; 0 for no limit
    rank: int
    learning_rate: float
    seed: int
    teacher_steps: int = 16

    @property
    def substeps(self) -> int:
        """Of the teacher, for each of the student's."""
        return max(1, -(-self.teacher_steps // self.steps))

    @property
    def lasting(self) -> dict[str, float]:
        """What must be the same where a run is gone on with."""
        return {
            "steps": self.steps,
            "cfg": self.cfg,
            "rank": self.rank,
            "teacher_steps": self.steps * self.substeps,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Course:
    """What is learned, and how."""

    levels: tuple[float, ...]  # (steps + 1,) the student's noise levels, falling to 0
    grid: tuple[float, ...]  # the teacher's, every one of the levels among them
    iterations: int
    rows: int  # of a batch
    learning_rate: float
    seed: int
    most_paths: int  # of the teacher's that are kept at once, the latest ones
    first_scale: float = 1.0  # of the noise that a run begins with

    @property
    def steps(self) -> int:
        return len(self.levels) - 1

    @property
    def places(self) -> tuple[int, ...]:
        """Where in the grid the levels are."""
        return tuple(self.grid.index(level) for level in self.levels)

    @property
    def warm_up(self) -> int:
        """Iterations in which the learning rate rises."""
        return max(1, min(WARM_UP, self.iterations // 10))

    @property
    def own_rows(self) -> int:
        """Of a batch that goes through all of the student's steps."""
        return max(1, self.rows // 2)

    def work_share(self, done: float) -> float:
        """Share of a run's work in its first iterations, in evaluations; learning from one takes
        about three. done: share of the iterations, above 0.
        """
        walking = 2 * self.rows * (len(self.grid) - 1) / FRESH_EVERY
        before, after = walking + 3 * self.rows, walking + 3 * self.own_rows * self.steps

        def work(share: float) -> float:
            own = max(0.0, share - OWN_STATES_FROM)
            return (share - own) * before + own * after

        return work(done) / work(1.0)

    @property
    def fewest_paths(self) -> int:
        """Walks of the teacher that are learned from at once, at least."""
        return min(FIRST_WALKS, max(1, self.most_paths // self.rows))


@dataclass(frozen=True)
class Paths:
    """Where the teacher passed the student's levels, from several noises at once."""

    states: Tensor  # (steps + 1, B, ...), half precision, on the CPU
    prompts: tuple[int, ...]  # of each row
    group: int  # of those prompts that fit into one batch

    @property
    def end(self) -> Tensor:
        return self.states[-1].float()


def walked(
    denoise: Denoise, course: Course, noise: Tensor, prompts: Sequence[int], group: int
) -> Paths:
    """The paths of a teacher from noise (B, ...), which is scaled to the first level."""
    kept, states = set(course.places), []
    with torch.no_grad():
        for place, state in enumerate(walk(denoise, noise, course.grid, prompts)):
            if place in kept:
                states.append(state.to("cpu", torch.float16))
    return Paths(torch.stack(states), tuple(prompts), group)


def sampled(denoise: Denoise, course: Course, noise: Tensor, prompts: Sequence[int]) -> Tensor:
    """What the student's own few steps make of noise (B, ...)."""
    with torch.no_grad():
        x = noise
        for sigma, sigma_next in zip(course.levels, course.levels[1:]):
            now, then = x.new_full((len(x),), sigma), x.new_full((len(x),), sigma_next)
            x = euler_step(x, denoise(x, now, prompts), now, then)
        return x


# ---------------------------------------------------------------- the optimizer


class Diverged(ArithmeticError):
    """A loss or a gradient that is no finite number, and what to do."""


class Muon:
    """Moves matrices by the momentum of their gradients, made orthogonal (Jordan et al. 2024).

    One momentum for each weight, in float32. On LoRA's thin matrices it costs next to nothing. Not
    torch.optim.Muon, which torch has from 2.9 on: ComfyUI runs on older ones.
    """

    def __init__(self, weights: Mapping[str, Tensor]):
        """weights: matrices that require a gradient, by name."""
        self.weights = dict(weights)
        self.momenta = {name: torch.zeros_like(weight) for name, weight in weights.items()}

    def step(self, rate: float) -> None:
        """Clip the gradients, move the weights, drop the gradients. Raises Diverged, and has moved
        nothing, where a gradient is no finite number.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        if not norm.isfinite():
            raise Diverged(
                "The gradient is no finite number any more, as where the learning rate is too high"
                " for a model. Lower learning_rate; with resume on, it goes on from what was saved"
                " last."
            )
        with torch.no_grad():
            for name, weight in self.weights.items():
                if weight.grad is None:
                    continue
                momentum = self.momenta[name].lerp_(weight.grad, 1 - MOMENTUM)
                update = orthogonal(weight.grad.lerp(momentum, MOMENTUM))
                size = ADAMS_SIZE * math.sqrt(max(weight.shape))
                weight.sub_(update, alpha=rate * size)
                weight.grad = None


# ---------------------------------------------------------------- the loop


@dataclass
class Distillation:
    """A run, from its first iteration to its last, and all that a broken one needs to go on.

    The same seed on the same machine gives the same weights to the bit, broken off and gone on with
    or not: every random number is of one generator, and a walk or an iteration is kept whole or not
    at all.
    """

    course: Course
    weights: Mapping[str, Tensor]  # the student's matrices, which are changed
    groups: Sequence[Sequence[int]]  # numbers of prompts; those of a group fit into one batch
    shape: tuple[int, ...]  # of one row
    device: torch.device

    iteration: int = 0  # how many are done
    walks: int = 0  # of the teacher
    own_from: int = 0  # the iterations before the first that learned from its own states
    losses: list[float] = field(default_factory=list)  # of each iteration
    # (iterations done, distance of the student's end from the teacher's, as a share of its size)
    checks: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.course.seed)
        self.optimizer = Muon(self.weights)
        self.bank: list[Paths] = []
        self.held_out: Paths | None = None

    @property
    def walks_due(self) -> int:
        """One of them is held out, to be checked against."""
        return 1 + FIRST_WALKS + self.iteration // FRESH_EVERY

    def go_on(self, teacher: Denoise, student: Denoise, done: float) -> float:
        """One iteration; its loss. done: share of the run, which says how it learns now."""
        while self.walks < self.walks_due or len(self.bank) < self.course.fewest_paths:
            self._walk(teacher)
        with self._or_not_at_all():
            if done < OWN_STATES_FROM:
                loss = self._learn_steps(student)
            else:
                loss = self._learn_own_steps(student)
        rising = min(1.0, (self.iteration + 1) / self.course.warm_up)
        self.optimizer.step(self.course.learning_rate * rising * learning_share(done))
        self.iteration += 1
        self.losses.append(loss)
        if done < OWN_STATES_FROM:
            self.own_from = self.iteration
        return loss

    @contextlib.contextmanager
    def _or_not_at_all(self) -> Iterator[None]:
        """Where it does not come to its end, the same random numbers are drawn again."""
        before = self.generator.get_state()
        try:
            yield
        except BaseException:
            self.generator.set_state(before)
            for weight in self.weights.values():
                weight.grad = None
            raise

    def _walk(self, teacher: Denoise) -> None:
        course = self.course
        with self._or_not_at_all():
            group = self._drawn([len(group) for group in self.groups])
            chosen = torch.randint(
                len(self.groups[group]), (course.rows,), generator=self.generator
            )
            prompts = [self.groups[group][place] for place in chosen.tolist()]
            noise = torch.randn(course.rows, *self.shape, generator=self.generator)
            x = noise.to(self.device) * course.first_scale
            paths = walked(teacher, course, x, prompts, group)
        self.walks += 1
        if self.held_out is None:
            self.held_out = paths
            return
        self.bank.append(paths)
        while (
            len(self.bank) > 1 and sum(len(each.prompts) for each in self.bank) > course.most_paths
        ):
            self.bank.pop(0)

    def _drawn(self, sizes: Sequence[int]) -> int:
        """A place in a list, each as likely as its size says."""
        share = torch.rand((), generator=self.generator).item() * sum(sizes)
        for place, size in enumerate(sizes):
            share -= size
            if share < 0:
                return place
        return len(sizes) - 1

    def _batch(self, rows: int) -> tuple[Tensor, list[int]]:
        """(states (steps + 1, B, ...), prompts) of paths drawn from all of one group."""
        group = self.bank[self._drawn([len(each.prompts) for each in self.bank])].group
        places = [
            (each, row)
            for each in self.bank
            if each.group == group
            for row in range(len(each.prompts))
        ]
        order = torch.randperm(len(places), generator=self.generator)[:rows].tolist()
        chosen = [places[place] for place in order]
        states = torch.stack([each.states[:, row] for each, row in chosen], 1)
        return states.to(self.device).float(), [each.prompts[row] for each, row in chosen]

    def _learn_steps(self, student: Denoise) -> float:
        """The straight steps between the teacher's points, each row another one."""
        states, prompts = self._batch(self.course.rows)
        rows = torch.arange(len(prompts), device=states.device)
        first = torch.randint(self.course.steps, (), generator=self.generator).item()
        steps = (rows + first) % self.course.steps
        levels = torch.tensor(self.course.levels, device=states.device)
        x, sigma, sigma_next = states[steps, rows], levels[steps], levels[steps + 1]
        target = landing_on(x, states[steps + 1, rows], sigma, sigma_next)
        loss = weighted_error(student(x, sigma, prompts), target, sigma)
        torch.autograd.backward(loss)
        return loss.item()

    def _learn_own_steps(self, student: Denoise) -> float:
        """The steps from where its own have led the student, each to the teacher's next point."""
        states, prompts = self._batch(self.course.own_rows)
        x, total = states[0], 0.0
        for step in range(self.course.steps):
            sigma, sigma_next = (
                x.new_full((len(x),), level) for level in self.course.levels[step : step + 2]
            )
            denoised = student(x, sigma, prompts)
            target = landing_on(x, states[step + 1], sigma, sigma_next)
            loss = step_share(step, self.course.steps) * weighted_error(denoised, target, sigma)
            torch.autograd.backward(loss)
            total += loss.item()
            x = euler_step(x, denoised.detach().float(), sigma, sigma_next)
        return total

    def check(self, student: Denoise) -> Tensor:
        """What the student makes of the noise that was held out; how far that is from the teacher's
        end is added to the checks.
        """
        held = self.held_out
        if held is None:
            raise RuntimeError("The teacher has not walked yet.")
        made = sampled(student, self.course, held.states[0].to(self.device).float(), held.prompts)
        end = held.end.to(made.device)
        distance = (made - end).square().mean().sqrt() / end.square().mean().sqrt()
        self.checks.append((self.iteration, distance.item()))
        return made

    # ------------------------------------------------ broken off and gone on with

    def tensors(self, with_paths: bool = True) -> dict[str, Tensor]:
        """The numbers of its state, on the CPU; see facts for the rest. Without its paths, which
        are most of it, a run that came to its end can still be gone on with, on new ones.
        """
        state = {f"weight.{name}": weight for name, weight in self.weights.items()}
        state |= {f"momentum.{name}": each for name, each in self.optimizer.momenta.items()}
        paths = self._all_paths() if with_paths else []
        state |= {f"paths.{place}": each.states for place, each in enumerate(paths)}
        state["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        state["random numbers"] = self.generator.get_state()
        return {name: each.detach().cpu().contiguous() for name, each in state.items()}

    def facts(self, with_paths: bool = True) -> dict[str, Any]:
        """The rest of its state, as JSON has it."""
        paths = self._all_paths() if with_paths else []
        return {
            "iteration": self.iteration,
            "walks": self.walks,
            "own_from": self.own_from,
            "checks": self.checks,
            "paths": [[each.group, list(each.prompts)] for each in paths],
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from a state that `tensors` and `facts` gave. Where facts name no paths, the
        teacher walks anew.
        """
        self.iteration, self.walks = facts["iteration"], facts["walks"]
        self.own_from = facts["own_from"]
        self.checks = [(iteration, distance) for iteration, distance in facts["checks"]]
        self.losses = tensors["losses"].tolist()
        self.generator.set_state(tensors["random numbers"])
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(tensors[f"weight.{name}"])
                self.optimizer.momenta[name].copy_(tensors[f"momentum.{name}"])
        paths = [
            Paths(tensors[f"paths.{place}"], tuple(prompts), group)
            for place, (group, prompts) in enumerate(facts["paths"])
        ]
        self.held_out, self.bank = (paths[0], paths[1:]) if paths else (None, [])

    def _all_paths(self) -> list[Paths]:
        """The one that is held out first."""
        return [*([] if self.held_out is None else [self.held_out]), *self.bank]
