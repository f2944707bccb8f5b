"""The ways to run a model, what each is predicted to cost, and which to take.

A budget is a choice among step counts, and the counts that may be chosen are those of the
accelerator on the model, or the step range of a model that has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from ...loras.accelerator import Accelerator, Expert, are_partners, is_taken
from ...loras.bases import BaseRow, StepRange
from ..causal import video_frames
from ..guided import GuidedSettings
from ..skip.placement import planned_shares, steps_left_out
from ..skip.run import LEAST_EVALUATIONS
from ..skip.schedule import RunSchedule
from .cost import BudgetError, Cost, Overhead, Work, seconds_in_words

# Step Skip up to here was measured to be nearer to the full run than as many plain steps are
# (benchmarks/skip.py).
MOST_SPEEDUP = 2.0
SPEEDUP_STEP = 0.05  # of Step Skip's target_speedup widget

# ---------------------------------------------------------------- the undistilled run


def full_run_of(
    base: BaseRow, is_guidance_distilled: bool, is_negative_forced: bool = False
) -> StepRange | None:
    """The undistilled run of an architecture; None if there is none.

    is_guidance_distilled: guidance is an input of the network. is_negative_forced: a patch has the
    negative prompt evaluated all the same.
    """
    steps = base.full_run
    if steps is None:
        return None
    is_guided = (steps.is_guided and not is_guidance_distilled) or is_negative_forced
    return StepRange(steps.least, steps.most, is_guided)


# ---------------------------------------------------------------- ways to run


class Route(Enum):
    """What makes a run cheaper, if anything does."""

    FULL = "full steps"
    SKIP = "full steps with Step Skip"
    ACCELERATOR = "accelerator"
    STREAM = "streaming"


@dataclass(frozen=True)
class Way:
    """One way to run a model and what it is predicted to cost."""

    route: Route
    steps: int
    evaluations: int  # for each sample
    seconds: float  # of sampling
    target_speedup: float = 1.0  # of Step Skip; 1 leaves nothing out
    records: tuple[Accelerator, ...] = ()  # the accelerator, or those of the two experts
    first_block: float | None = None  # seconds until a stream's first block is there
    guided: GuidedSettings | None = None  # what stands in for an accelerator's first steps
    overhead: Overhead | None = None  # None where no VAE says what decoding costs

    @property
    def whole(self) -> float:
        """Seconds of the run: sampling, and decoding where it is known."""
        return self.seconds + (self.overhead.seconds if self.overhead else 0.0)

    @property
    def decoding_share(self) -> float:
        """Of the whole, 0..1; 0 where decoding is not known."""
        return self.overhead.decoding / self.whole if self.overhead and self.whole else 0.0

    def price(self, price_per_hour: float, work: Work) -> float:
        """Of one picture or clip, in the currency of the price."""
        return self.whole * price_per_hour / 3600 / work.samples


def full_way(
    run: StepRange,
    steps: int,
    target_speedup: float,
    cost: Cost,
    carried: CarriedSkip | None = None,
) -> Way:
    """The undistilled run at a step count, without the steps that Step Skip leaves out, as it is
    set where it is on the model.
    """
    made = round(steps / target_speedup) if carried is None else carried.made(steps)
    made = steps if steps < LEAST_EVALUATIONS else made
    return Way(
        Route.FULL if made == steps else Route.SKIP,
        steps,
        made * (2 if run.is_guided else 1),
        made * cost.step(run.is_guided),
        target_speedup,
        overhead=cost.overhead,
    )


def accelerated_way(
    records: tuple[Accelerator, ...],
    steps: int,
    cost: Cost,
    work: Work,
    is_negative_forced: bool = False,
    guided: GuidedSettings | None = None,
) -> Way:
    """An accelerator at one of its step counts.

    is_negative_forced: a patch has the negative prompt evaluated at CFG 1 too. guided: a Guided
    Start on the model.
    """
    record = records[0]
    if steps not in record.steps:
        raise BudgetError(f"{record.id} was distilled for {list(record.steps)} steps, not {steps}.")
    if record.causal is not None:
        return _streaming_way(record, steps, cost, work)
    is_guided = record.is_guided or is_negative_forced
    left = steps if guided is None else steps - guided.distilled_steps
    evaluations, seconds = left * (2 if is_guided else 1), left * cost.step(is_guided)
    if guided is not None:
        evaluations += guided.evaluations
        seconds += guided.guided_steps * cost.step(guided.per_step > 1)
    return Way(
        Route.ACCELERATOR,
        steps,
        evaluations,
        seconds,
        records=records,
        guided=guided,
        overhead=cost.overhead,
    )


def _streaming_way(record: Accelerator, steps: int, cost: Cost, work: Work) -> Way:
    """A causal model, block by block; all but the last are evaluated once more for their memory."""
    causal = record.causal
    assert causal is not None
    block = cost.blocks[causal.frames_per_block]
    blocks = math.ceil(work.latent_frames / causal.frames_per_block)
    first = causal.first_block_steps or steps
    counts = [first, *[steps] * (blocks - 1)]
    seconds = sum(
        (count + (n < blocks - 1)) * block.at(n, blocks) for n, count in enumerate(counts)
    )
    first_block = first * block.first
    if cost.overhead is not None:
        # The Streaming Sampler decodes a block before it begins the next, and pictures cost alike.
        shown = video_frames(min(causal.frames_per_block, work.latent_frames))
        first_block += cost.overhead.decoding * shown / video_frames(work.latent_frames)
    return Way(
        Route.STREAM,
        steps,
        sum(counts) + blocks - 1,
        seconds,
        records=(record,),
        first_block=first_block,
        overhead=cost.overhead,
    )


@dataclass(frozen=True)
class CarriedSkip:
    """Step Skip that is on the model already."""

    settings: str  # in words, such as "forecast at target_speedup 1.5"
    speedup: float | None  # None for a method that keeps to no target: it cannot be foreseen
    # Where it may leave steps out, and how many in a row.
    start: float = 0.15
    end: float = 0.95
    longest_run: int = 3
    is_flow: bool = False

    def made(self, steps: int) -> int:
        """Evaluations by a sampler that makes one in each step and injects no noise."""
        if self.speedup is None:
            return steps
        # Where skips lie follows from the number of steps alone.
        levels = tuple(float(level) for level in range(steps, -1, -1))
        schedule = RunSchedule(levels, self.is_flow, self.start, self.end)
        shares = planned_shares(schedule, steps - round(steps / self.speedup), self.longest_run)
        return steps - len(steps_left_out(shares, self.longest_run))


def block_sizes(records: Iterable[Accelerator]) -> set[int]:
    """Latent frames that the causal ones among these make at a time."""
    return {record.causal.frames_per_block for record in records if record.causal is not None}


def candidates(
    record: Accelerator | None,
    run: StepRange | None,
    cost: Cost,
    work: Work,
    is_negative_forced: bool = False,
    carried_skip: CarriedSkip | None = None,
    guided: GuidedSettings | None = None,
) -> list[Way]:
    """What the connected model can do, most faithful first.

    record, carried_skip, guided: what it carries, if anything, each as it is set.
    """
    if record is not None:
        ways = [
            accelerated_way((record,), steps, cost, work, is_negative_forced, guided)
            for steps in reversed(record.steps)
            if guided is None or steps > guided.distilled_steps
        ]
        if guided is not None and not ways:
            raise BudgetError(
                f"Guided Start stands in for {guided.distilled_steps} of the accelerator's steps,"
                f" and {record.id} has no more than {record.steps[-1]}: none would be left. Set"
                " distilled_steps lower, or connect the model in front of Guided Start."
            )
        return ways
    if run is None:
        raise BudgetError(
            "This architecture is published distilled only, and the model carries no accelerator,"
            " so its step counts are not known. Put an Accelerator Loader in front of this node:"
            " lora_name none, and its record in accelerator if it is not recognised."
        )
    if carried_skip is not None:
        speedup = carried_skip.speedup or 1.0
        return [
            full_way(run, steps, speedup, cost, carried_skip)
            for steps in range(run.most, run.least - 1, -1)
        ]
    # Skipping comes before fewer steps: at equal evaluations it stays nearer to the full run.
    speedups = [
        1.0 + SPEEDUP_STEP * n for n in range(1 + round((MOST_SPEEDUP - 1.0) / SPEEDUP_STEP))
    ]
    skipping = [full_way(run, run.most, round(speedup, 2), cost) for speedup in speedups]
    return skipping + [
        full_way(run, steps, MOST_SPEEDUP, cost) for steps in range(run.most - 1, run.least - 1, -1)
    ]


@dataclass(frozen=True)
class Choice:
    """The way to take."""

    way: Way
    allowance: float  # seconds; infinite where nobody waits

    @property
    def misses(self) -> float:
        """Seconds by which even the cheapest honest way is too slow; 0 where it fits."""
        return max(0.0, self.way.whole - self.allowance)

    def __str__(self) -> str:
        """Whether it fits, in words."""
        if self.misses:
            return (
                f"misses the allowance of {seconds_in_words(self.allowance)} by"
                f" {seconds_in_words(self.misses)}"
            )
        if math.isinf(self.allowance):
            return "any time is allowed"
        return f"fits {seconds_in_words(self.allowance)}"


def choose(ways: Sequence[Way], allowance: float) -> Choice:
    """The first of the ways, most faithful first, that fits; else the cheapest and its excess.

    Of several that cost the same and do not fit, the one of fewest steps: 20 steps and 21 at 2x
    both make ten evaluations.
    """
    fitting = (way for way in ways if way.whole <= allowance)
    return Choice(next(fitting, min(ways, key=lambda way: (way.whole, way.steps))), allowance)


def known_ways(
    base: BaseRow,
    width: int | None,
    run: StepRange | None,
    catalogue: Iterable[Accelerator],
    cost: Cost,
    work: Work,
    is_negative_forced: bool = False,
    carried: Accelerator | None = None,
    guided: GuidedSettings | None = None,
) -> list[Way]:
    """Every way to run a model of this base and size, slowest first, at accelerators' own steps.

    carried: the accelerator on the model, listed whatever its size is said to be, and once more
    with `guided`, the Guided Start on it. A stream is left out where its blocks have no cost.
    """
    records = {
        record.id: record
        for record in catalogue
        # Not what a class that no row names may be as well: it would be offered for any.
        if (base in record.bases or is_taken(record, base))
        and _is_size(record, width)
        and block_sizes((record,)) <= cost.blocks.keys()
    }
    if carried is not None:
        records[carried.id] = carried
    full = (
        []
        if run is None
        else [full_way(run, run.most, 1.0, cost), full_way(run, run.most, MOST_SPEEDUP, cost)]
    )
    pairs = [
        _with_partner(record, records)
        for record in records.values()
        if not _is_second(record, records)
    ]
    accelerated = [
        accelerated_way(pair, pair[0].default_steps, cost, work, is_negative_forced)
        for pair in pairs
    ]
    if carried is not None and guided is not None:
        steps = max(carried.default_steps, guided.distilled_steps + 1)
        if steps in carried.steps:
            pair = next(pair for pair in pairs if carried in pair)
            accelerated.append(accelerated_way(pair, steps, cost, work, is_negative_forced, guided))
    return full + sorted(accelerated, key=lambda way: (-way.seconds, way.records[0].id))


def _is_size(record: Accelerator, width: int | None) -> bool:
    return record.width is None or width is None or record.width == width


def _with_partner(record: Accelerator, records: dict[str, Accelerator]) -> tuple[Accelerator, ...]:
    partner = records.get(record.partner or "")
    if partner is None or not are_partners(record, partner):
        return (record,)
    return record, partner


def _is_second(record: Accelerator, records: dict[str, Accelerator]) -> bool:
    return record.expert is Expert.LOW_NOISE and len(_with_partner(record, records)) == 2
