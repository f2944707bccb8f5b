"""From an accelerator and a request to the exact run. What cannot be run is refused here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from ..loras.accelerator import Accelerator, Expert, Solver, ids_in_words
from ..loras.bases import bases_in_words
from ..loras.catalog import recipes_for_experts
from ..loras.refusal import Refusal
from ..loras.schedules import ConsistencyGrid, Schedule, SigmaOf
from ..loras.words import counted
from .guided import GuidedPart, GuidedSettings, levels_between

# What the two experts of one run must agree on: there is one schedule and one solver.
SHARED_BY_EXPERTS = ("bases", "schedule", "solver", "boundary", "cfg")


# People make stills so.
_LOW_NOISE_ALONE = (
    "{} is for Wan 2.2's low-noise expert, which runs the whole schedule here: layout and motion"
    " are the high-noise expert's work. For video connect that one to model, and this one to"
    " model_low_noise."
)


class PlanError(Refusal):
    """A request this accelerator cannot honour. Says what was expected, found and what to do."""


class Runner(Enum):
    """Which of a run's models makes a stage of it."""

    GUIDED = "guided"  # the undistilled model of a Guided Start
    FIRST = "first"  # the accelerated model, of a pair the high-noise expert
    LOW_NOISE = "low-noise"


@dataclass(frozen=True)
class Stage:
    """A stretch of a run that one model samples."""

    runner: Runner
    sigmas: tuple[float, ...]  # steps + 1, descending; where it ends the next stage begins
    solver: Solver
    cfg: float

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def per_step(self) -> int:
        """Evaluations of a step for one sample."""
        return 1 if math.isclose(self.cfg, 1.0) else 2


@dataclass(frozen=True)
class SamplingPlan:
    """One run, decided."""

    accelerators: tuple[Accelerator, ...]  # one, or those of the two experts
    sigmas: tuple[float, ...]  # steps + 1, descending, last 0
    solver: Solver
    cfg: float
    sigmas_down: tuple[float, ...] = ()  # TCD's level between two steps, empty for other solvers
    switch_step: int | None = None  # first step of the low-noise expert, if any
    noise_clip: float = 0.0  # as in Accelerator
    starts_on_noise: bool = False  # the first sigma is the record's noise, below the model's own
    # The counts it was distilled for, in words, where the run has another.
    distilled_for: str = ""
    notes: tuple[str, ...] = ()
    guided: GuidedPart | None = None  # what stands in for the first steps, if anything

    @property
    def steps(self) -> int:
        """Of the accelerator's schedule, those that a guided start stands in for among them."""
        return len(self.sigmas) - 1

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The run in the order in which its models make it; a model without a step has no stage."""
        switch = self.steps if self.switch_step is None else self.switch_step
        stages, begin = [], 0
        if self.guided is not None:
            # The undistilled model follows the ODE, whatever the student was distilled for.
            settings, begin = self.guided.settings, self.guided.settings.distilled_steps
            stages = [Stage(Runner.GUIDED, self.guided.sigmas, Solver.EULER, settings.cfg)]
        for runner, first, last in (
            (Runner.FIRST, begin, switch),
            (Runner.LOW_NOISE, max(begin, switch), self.steps),
        ):
            if first < last:
                stages.append(Stage(runner, self.sigmas[first : last + 1], self.solver, self.cfg))
        return tuple(stages)

    @property
    def parts(self) -> tuple[tuple[float, ...], ...]:
        """The noise levels of each expert's part, or of the one model's whole run."""
        if self.switch_step is None:
            return (self.sigmas,)
        return (self.sigmas[: self.switch_step + 1], self.sigmas[self.switch_step :])

    @property
    def evaluations(self) -> int:
        """Expected model evaluations for one sample: one a step, two where there is guidance."""
        return sum(stage.steps * stage.per_step for stage in self.stages)


def make_plan(
    record: Accelerator | None,
    steps: int,
    denoise: float,
    sigma_of: SigmaOf,
    image_tokens: int | None = None,
) -> SamplingPlan:
    """The run of one model. steps: 0 takes the accelerator's own. denoise: above 0, up to 1.

    sigma_of gives the connected model's sigma of a training timestep; image_tokens the picture's 16
    x 16 pixel patches, read by schedules that depend on its size. Raises PlanError.
    """
    record = _require(record, "model")
    if record.expert is Expert.HIGH_NOISE:
        raise PlanError(
            f"{record.id} belongs to Wan 2.2's high-noise expert, which never finishes a picture."
            " Connect the low-noise model, with its own accelerator, to model_low_noise. For the"
            " high-noise part alone take the sigmas of the Few-Step Schedule and a core sampler."
        )
    plan = _plan(record, _step_count((record,), steps), denoise, sigma_of, image_tokens)
    if record.expert is Expert.LOW_NOISE:
        return replace(plan, notes=(*plan.notes, _LOW_NOISE_ALONE.format(record.id)))
    return plan


def make_expert_plan(
    high: Accelerator | None, low: Accelerator | None, steps: int, denoise: float, sigma_of: SigmaOf
) -> SamplingPlan:
    """The run of Wan 2.2's two experts over one schedule. Raises PlanError."""
    high = _require(high, "model")
    _require_expert(high, Expert.HIGH_NOISE, "model")
    low = _require(low, "model_low_noise")
    _require_expert(low, Expert.LOW_NOISE, "model_low_noise")
    for name in SHARED_BY_EXPERTS:
        if getattr(high, name) != getattr(low, name):
            raise PlanError(
                f"The two experts were distilled differently: {name} of {high.id} is"
                f" {_shown(getattr(high, name))}, of {low.id} {_shown(getattr(low, name))}. Load a"
                " pair of one release."
            )
    plan = _plan(high, _step_count((high, low), steps), denoise, sigma_of)
    return replace(_with_switch(plan, high), accelerators=(high, low))


def make_high_noise_plan(
    high: Accelerator, steps: int, denoise: float, sigma_of: SigmaOf
) -> SamplingPlan:
    """The schedule of a pair whose low-noise expert is somewhere else: only its first part is this
    expert's. Raises PlanError.
    """
    _require_expert(high, Expert.HIGH_NOISE, "model")
    return _with_switch(_plan(high, _step_count((high,), steps), denoise, sigma_of), high)


def with_guided(
    plan: SamplingPlan, settings: GuidedSettings, levels: Sequence[float]
) -> SamplingPlan:
    """The plan with its first steps made by the undistilled model. Raises PlanError.

    levels: as in levels_between, of the undistilled model.
    """
    replaced, id = settings.distilled_steps, plan.accelerators[0].id
    left = plan.steps if plan.switch_step is None else plan.switch_step
    if plan.switch_step == 0:
        raise PlanError(
            "The run begins below the boundary, in the low-noise expert, and Guided Start is for"
            " the high-noise one's part. Raise denoise, or connect the model in front of Guided"
            " Start."
        )
    if replaced > left:
        raise PlanError(
            f"distilled_steps is {replaced}, and the high-noise expert makes the first"
            f" {counted(left, 'step')} of this run: Guided Start stands in for those alone. Set"
            f" distilled_steps to at most {left}."
        )
    if replaced >= plan.steps:
        raise PlanError(_nothing_left(replaced, plan.steps, id))
    start, end = plan.sigmas[0], plan.sigmas[replaced]
    try:
        sigmas = levels_between(levels, start, end, settings.guided_steps)
    except ValueError as error:
        raise PlanError(f"Guided Start: {error}. Set guided_steps lower.") from None
    return replace(plan, guided=GuidedPart(settings, sigmas))


def _nothing_left(replaced: int, steps: int, id: str) -> str:
    if steps == 1:
        return (
            f"This run of {id} has a single step, and Guided Start must leave it one. Set steps to"
            " more where the accelerator has more, or connect the model in front of Guided Start."
        )
    return (
        f"distilled_steps is {replaced}, and this run of {id} has {counted(steps, 'step')}: none"
        f" would be left for the accelerator. Set distilled_steps to at most {steps - 1}."
    )


def _with_switch(plan: SamplingPlan, high: Accelerator) -> SamplingPlan:
    assert high.boundary is not None
    return replace(plan, switch_step=switch_step(list(plan.sigmas), high.boundary))


def _shown(value: object) -> str:
    """A setting of a record, for people."""
    if isinstance(value, tuple):
        return bases_in_words(value)
    return value.value if isinstance(value, Solver) else str(value)


def refuse_other_cfg(plan: SamplingPlan, cfg: object) -> None:
    """Raise PlanError for another cfg than the plan's; only an API caller can send one."""
    try:
        agrees = math.isclose(float(cfg), plan.cfg)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        agrees = False
    if not agrees:
        raise PlanError(
            f"cfg is locked: {plan.accelerators[0].id} was distilled to run at cfg {plan.cfg:g},"
            f" and the request says {cfg}. Remove cfg from this node's inputs; a wrong value burns"
            " or blurs the result."
        )


def _require(record: Accelerator | None, name: str) -> Accelerator:
    if record is None:
        raise PlanError(
            f"No accelerator is attached to {name}. Connect an Accelerator Loader in front of it,"
            " or use the core KSampler for a model that is not distilled."
        )
    return record


def _require_expert(record: Accelerator, expert: Expert, name: str) -> None:
    if record.expert is expert:
        return
    found = (
        f"the {record.expert.value} expert's {record.id}"
        if record.expert
        else f"{record.id}, which is for a single model"
    )
    if record.expert:
        advice = "Swap the two models, or load the other LoRA."
    elif recipes := recipes_for_experts(record):
        advice = (
            f"To run its file on the two experts, choose {ids_in_words(recipes, ' and ')} in the"
            " accelerator of the two loaders."
        )
    else:
        advice = "For a single model leave model_low_noise unconnected."
    raise PlanError(
        f"{name} takes Wan 2.2's {expert.value} expert with its own accelerator; it carries"
        f" {found}. {advice}"
    )


@dataclass(frozen=True)
class _StepCount:
    """How many steps to run."""

    steps: int
    distilled_for: str = ""  # as in SamplingPlan


def _step_count(records: tuple[Accelerator, ...], steps: int) -> _StepCount:
    """The step count to run: the one asked for, for 0 the first record's own.

    The counts a student was distilled for are where it is best, not all that it can do: where its
    noise levels are a formula, the same formula has any other count. A list has its own alone.
    """
    first = records[0]
    shared = [count for count in first.steps if all(count in record.steps for record in records)]
    ids = " and ".join(record.id for record in records)
    if steps == 0 and not shared:
        raise PlanError(
            f"{ids} share no step count: {', '.join(f'{record.steps}' for record in records)}. Load"
            " a pair of one release, or set steps."
        )
    if steps == 0:
        return _StepCount(first.default_steps if first.default_steps in shared else shared[0])
    if steps in shared:
        return _StepCount(steps)
    own = shared or list(first.steps)
    if not all(record.schedule.is_formula for record in records):
        raise PlanError(
            f"{ids} {'was' if len(records) == 1 else 'were'} distilled at a list of noise levels,"
            f" which has {_in_words(own)} step{'s' * (own != [1])} and not {steps}. Set steps to"
            f" {_in_words(own)}, or to 0 for the accelerator's own."
        )
    most = first.schedule.most_steps
    if most is not None and steps > most:
        raise PlanError(
            f"{ids} can run at most {most} steps, as many timesteps as it was distilled at, and"
            f" steps is {steps}. Set steps to {_in_words(own)}, which it was distilled for, or to"
            " another count up to that."
        )
    return _StepCount(steps, _in_words(own))


def _in_words(counts: list[int]) -> str:
    if len(counts) > 2 and counts == list(range(counts[0], counts[-1] + 1)):
        return f"{counts[0]} to {counts[-1]}"
    return " or ".join(", ".join(map(str, counts)).rsplit(", ", 1))


def _plan(
    record: Accelerator,
    count: _StepCount,
    denoise: float,
    sigma_of: SigmaOf,
    image_tokens: int | None = None,
) -> SamplingPlan:
    if not 0.0 < denoise <= 1.0:
        raise PlanError(
            f"denoise is {denoise:g}; expected above 0 and up to 1 (1 starts from pure noise)."
        )
    schedule, steps = record.schedule, count.steps
    if schedule.needs_size and image_tokens is None:
        raise PlanError(
            f"{record.id} has a schedule that depends on the size of the picture: connect"
            " latent_image."
        )
    try:
        sigmas = schedule.sigmas(steps, denoise, sigma_of, image_tokens)
    except ValueError as error:
        raise PlanError(f"{record.id} at {counted(steps, 'step')}: {error}") from None
    notes = []
    if count.distilled_for:
        notes.append(
            f"Distilled for {count.distilled_for}, run at {counted(steps, 'step')} on the same"
            " formula."
        )
    if (left := len(sigmas) - 1) < steps:
        cut = schedule.words_of_cut(left, steps)
        notes.append(f"denoise {denoise:g}: {cut}, from sigma {sigmas[0]:.4g}")
    return SamplingPlan(
        (record,),
        tuple(sigmas),
        record.solver,
        record.cfg,
        _sigmas_down(record, steps, denoise, sigma_of),
        notes=tuple(notes),
        noise_clip=record.noise_clip,
        starts_on_noise=schedule.starts_on_noise and math.isclose(denoise, 1.0),
        distilled_for=count.distilled_for,
    )


def _sigmas_down(
    record: Accelerator, steps: int, denoise: float, sigma_of: SigmaOf
) -> tuple[float, ...]:
    """SamplingPlan.sigmas_down. A count without a gamma has the nearest one's."""
    if record.solver is not Solver.TCD:
        return ()
    nearest = min(record.gamma, key=lambda count: (abs(count - steps), count))
    return tuple(tcd_sigmas_down(record.schedule, steps, denoise, record.gamma[nearest], sigma_of))


def switch_step(sigmas: list[float], boundary: float) -> int:
    """First step that the low-noise expert runs: the first whose sigma lies below the boundary."""
    return sum(sigma >= boundary for sigma in sigmas[:-1])


def tcd_sigmas_down(
    schedule: Schedule, steps: int, denoise: float, gamma: float, sigma_of: SigmaOf
) -> list[float]:
    """Where each TCD step jumps before it is re-noised: sigma of floor((1 - gamma) · t_next).

    The last is 0: the last step lands on x0. gamma 0 never re-noises, 1 always jumps to the first
    timestep. Zheng et al. 2024, arXiv 2402.19159, algorithm 4 (strategic stochastic sampling).
    """
    if not isinstance(schedule, ConsistencyGrid):
        raise TypeError(f"TCD needs a consistency grid, not {schedule}.")
    timesteps = schedule.timesteps(steps, denoise)
    return [*(sigma_of(math.floor((1.0 - gamma) * timestep)) for timestep in timesteps[1:]), 0.0]
