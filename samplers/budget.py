"""From "how long may it take" to steps, cost and method. Arithmetic and words; nothing here runs a
model.

Cost is cost per evaluation times evaluations, so a budget is a choice among step counts, and the
counts that may be chosen are those of the accelerator on the model, or the step range of a model
that has none.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ..loras.accelerator import Accelerator, Base, Expert
from ..loras.refusal import Refusal
from ..loras.words import counted
from .skip.forecast import STOCHASTIC_SPEEDUP
from .skip.run import LEAST_EVALUATIONS

# Step Skip up to here was measured to be nearer to the full run than as many plain steps are
# (benchmarks/skip.py).
MOST_SPEEDUP = 2.0
SPEEDUP_STEP = 0.05  # of Step Skip's target_speedup widget
# At this many steps and fewer, students lose fine detail and, in video, motion.
VERY_FEW_STEPS = 2


class BudgetError(Refusal):
    """A question that has no honest answer. The message says what was expected, what was found and
    what to do.
    """


# ---------------------------------------------------------------- what is asked


@dataclass(frozen=True)
class Experience:
    """What is being built. seconds: its own allowance for one run of the sampler; infinite where
    nobody waits.
    """

    seconds: float
    words: str


EXPERIENCES = {
    "batch": Experience(math.inf, "nobody waits"),
    "interactive": Experience(5.0, "someone taps and watches a spinner"),
    # Nielsen 1993, Usability Engineering, chapter 5: up to a second, a reply does not interrupt the
    # flow of thought.
    "live": Experience(1.0, "it reacts while someone moves something"),
}


@dataclass(frozen=True)
class Work:
    """What one run makes. samples: pictures or clips. latent_frames: 1 for pictures. clip_seconds:
    playing time of a clip.
    """

    samples: int
    latent_frames: int = 1
    clip_seconds: float | None = None

    @property
    def noun(self) -> str:
        return "picture" if self.clip_seconds is None else "clip"


def allowance_of(experience: str, seconds: float, work: Work) -> float:
    """Seconds one run may take. seconds: 0 takes the experience's own; live video may take as long
    as it plays.
    """
    if seconds > 0:
        return seconds
    if experience == "live" and work.clip_seconds is not None:
        return work.clip_seconds
    return EXPERIENCES[experience].seconds


@dataclass(frozen=True)
class BlockCost:
    """Seconds of one evaluation of a stream's block: of the first, which sees itself alone, and of
    the last, which sees the whole clip.

    A context pass is an evaluation like any other.
    """

    first: float
    last: float

    def at(self, block: int, blocks: int) -> float:
        """Of block 0, 1, ...: every block adds its keys to those that are looked at, so the seconds
        lie on a straight line.
        """
        return (
            self.first
            if blocks == 1
            else self.first + (self.last - self.first) * block / (blocks - 1)
        )


@dataclass(frozen=True)
class Cost:
    """Seconds on one machine, model and size. evaluation: one forward pass of the whole latent
    batch, of a stream's block half-way through the clip. guided_step: of a step with both prompts,
    which the host runs in one pass where memory allows; at most twice an evaluation. blocks: of a
    causal model, by the latent frames of a block.
    """

    evaluation: float
    guided_step: float
    blocks: Mapping[int, BlockCost] = field(default_factory=dict)

    def step(self, is_guided: bool) -> float:
        return self.guided_step if is_guided else self.evaluation


def streaming_cost(blocks: Mapping[int, BlockCost], size: int) -> Cost:
    """The cost of a causal model whose accelerator makes `size` latent frames at a time."""
    half_way = (blocks[size].first + blocks[size].last) / 2
    return Cost(half_way, half_way, blocks)


def given_blocks(seconds: float, size: int, sizes: Iterable[int]) -> dict[int, BlockCost]:
    """What blocks of several sizes cost where only the average evaluation of one size is known: in
    proportion, and all blocks alike.
    """
    return {
        other: BlockCost(seconds * other / size, seconds * other / size) for other in {size, *sizes}
    }


# ---------------------------------------------------------------- the undistilled run


@dataclass(frozen=True)
class StepRange:
    """Steps an undistilled model is run with: `least` still gives its picture, `most` is where more
    adds nothing.
    """

    least: int = 25
    most: int = 50
    is_guided: bool = True


# The least is what ComfyUI's own workflow templates run (version 0.11.27), the most the authors'
# default where it is known.
STEP_RANGES = {
    Base.SD3: StepRange(20, 40),
    Base.FLUX: StepRange(20, 50),
    Base.FLUX2: StepRange(20, 50),
    Base.QWEN_IMAGE: StepRange(20, 50),
    Base.ERNIE_IMAGE: StepRange(20, 50),
    Base.ANIMA: StepRange(30, 50),
    Base.LENS: StepRange(20, 50),
    Base.MAGE_FLOW: StepRange(30, 50),
    Base.HIDREAM: StepRange(28, 50),
    Base.HIDREAM_O1: StepRange(40, 50),
    Base.ACE_STEP15: StepRange(30, 50),
    Base.WAN_T2V: StepRange(20, 50),
    Base.WAN21_I2V: StepRange(20, 40),
    Base.WAN22_I2V: StepRange(20, 40),
    Base.WAN22_TI2V: StepRange(20, 50),
    Base.WAN_VACE: StepRange(20, 50),
    Base.HUNYUAN_VIDEO: StepRange(20, 50),
    Base.HUNYUAN15: StepRange(20, 50),
    Base.LTXV: StepRange(30, 40),
    Base.LTXAV: StepRange(20, 40),
    Base.MINIMAX_H3: StepRange(20, 50, is_guided=False),
}
# Published distilled only: there is no slow run to compare with or to fall back on.
WITHOUT_FULL_RUN = frozenset({Base.FLUX_SCHNELL, Base.PID, Base.WAN_CAUSAL, Base.HUNYUAN15_SR})


def full_run_of(base: Base | None, is_guidance_distilled: bool) -> StepRange | None:
    """The undistilled run of an architecture, None where there is none. is_guidance_distilled:
    guidance is an input of the network.
    """
    if base in WITHOUT_FULL_RUN:
        return None
    steps = STEP_RANGES.get(base, StepRange()) if base is not None else StepRange()
    return StepRange(steps.least, steps.most, steps.is_guided and not is_guidance_distilled)


# ---------------------------------------------------------------- ways to run


class Method(Enum):
    FULL = "full steps"
    SKIP = "full steps with Step Skip"
    ACCELERATOR = "accelerator"
    STREAM = "streaming"


@dataclass(frozen=True)
class Way:
    """One way to run a model and what it is predicted to cost. evaluations: for each sample;
    seconds: of the whole run.

    records: the accelerator, or those of the two experts. first_block: seconds until a stream's
    first block is there.
    """

    method: Method
    steps: int
    evaluations: int
    seconds: float
    target_speedup: float = 1.0
    records: tuple[Accelerator, ...] = ()
    first_block: float | None = None

    def price(self, price_per_hour: float, work: Work) -> float:
        """Of one picture or clip."""
        return self.seconds * price_per_hour / 3600 / work.samples


def full_way(run: StepRange, steps: int, target_speedup: float, cost: Cost) -> Way:
    """The undistilled run at a step count, with the share of its steps that Step Skip leaves out."""
    made = steps if steps < LEAST_EVALUATIONS else round(steps / target_speedup)
    method = Method.FULL if made == steps else Method.SKIP
    return Way(
        method,
        steps,
        made * (2 if run.is_guided else 1),
        made * cost.step(run.is_guided),
        target_speedup,
    )


def accelerated_way(
    records: tuple[Accelerator, ...],
    steps: int,
    cost: Cost,
    work: Work,
    is_negative_forced: bool = False,
) -> Way:
    """An accelerator at one of its step counts. is_negative_forced: a patch has the negative prompt
    evaluated at CFG 1 too.
    """
    record = records[0]
    if steps not in record.steps:
        raise BudgetError(f"{record.id} was distilled for {list(record.steps)} steps, not {steps}.")
    if record.causal is not None:
        return _streaming_way(record, steps, cost, work)
    is_guided = record.is_guided or is_negative_forced
    evaluations = steps * (2 if is_guided else 1)
    return Way(
        Method.ACCELERATOR, steps, evaluations, steps * cost.step(is_guided), records=records
    )


def _streaming_way(record: Accelerator, steps: int, cost: Cost, work: Work) -> Way:
    """A causal model, block by block: each but the last is evaluated once more for the memory of
    the blocks after it.
    """
    causal = record.causal
    assert causal is not None
    block = cost.blocks[causal.frames_per_block]
    blocks = math.ceil(work.latent_frames / causal.frames_per_block)
    first = causal.first_block_steps or steps
    counts = [first, *[steps] * (blocks - 1)]
    seconds = sum(
        (count + (n < blocks - 1)) * block.at(n, blocks) for n, count in enumerate(counts)
    )
    return Way(
        Method.STREAM,
        steps,
        sum(counts) + blocks - 1,
        seconds,
        records=(record,),
        first_block=first * block.first,
    )


def block_sizes(records: Iterable[Accelerator]) -> set[int]:
    """Latent frames that the causal ones among these make at a time."""
    return {record.causal.frames_per_block for record in records if record.causal is not None}


def candidates(
    record: Accelerator | None,
    run: StepRange | None,
    cost: Cost,
    work: Work,
    is_negative_forced: bool = False,
) -> list[Way]:
    """What the connected model can do, from the most faithful to the cheapest. record: the
    accelerator it carries, if any.
    """
    if record is not None:
        return [
            accelerated_way((record,), steps, cost, work, is_negative_forced)
            for steps in reversed(record.steps)
        ]
    if run is None:
        raise BudgetError(
            "This architecture is published distilled only, and the model carries no accelerator,"
            " so its step counts are not known. Put an Accelerator Loader in front of this node:"
            " lora_name none, and its record in accelerator if it is not recognised."
        )
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
    """The way to take. misses: seconds by which even the cheapest honest way is too slow; 0 where
    it fits.
    """

    way: Way
    allowance: float

    @property
    def misses(self) -> float:
        return max(0.0, self.way.seconds - self.allowance)

    def __str__(self) -> str:
        """Whether it fits, in words."""
        if self.misses:
            return (
                f"misses the allowance of {seconds_in_words(self.allowance)} by"
                f" {seconds_in_words(self.misses)}"
            )
        return (
            "any time is allowed"
            if math.isinf(self.allowance)
            else f"fits {seconds_in_words(self.allowance)}"
        )


def choose(ways: Sequence[Way], allowance: float) -> Choice:
    """The first that fits, of ways from the most faithful to the cheapest; else the cheapest, and
    by how much it misses.

    Of several that cost the same and do not fit, the one of fewest steps: 20 steps and 21 at 2x
    both make ten evaluations.
    """
    fitting = (way for way in ways if way.seconds <= allowance)
    return Choice(next(fitting, min(ways, key=lambda way: (way.seconds, way.steps))), allowance)


def known_ways(
    base: Base | None,
    width: int | None,
    run: StepRange | None,
    catalogue: Iterable[Accelerator],
    cost: Cost,
    work: Work,
    is_negative_forced: bool = False,
    carried: Accelerator | None = None,
) -> list[Way]:
    """Every way to run a model of this base and size, the slowest first. Accelerators at their own
    step count.

    carried: the accelerator on the model, listed whatever its size is said to be. A stream is left
    out where its blocks have no cost.
    """
    records = {
        record.id: record
        for record in catalogue
        if base in record.bases
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
    return full + sorted(accelerated, key=lambda way: (-way.seconds, way.records[0].id))


def _is_size(record: Accelerator, width: int | None) -> bool:
    return record.width is None or width is None or record.width == width


def _partner_id(record: Accelerator) -> str:
    """The id of the other expert's record: Wan 2.2's come in pairs that differ in one word."""
    words = {"high": "low", "low": "high"}
    return "-".join(words.get(word, word) for word in record.id.split("-"))


def _with_partner(record: Accelerator, records: dict[str, Accelerator]) -> tuple[Accelerator, ...]:
    partner = records.get(_partner_id(record)) if record.expert is not None else None
    return (record,) if partner is None else (record, partner)


def _is_second(record: Accelerator, records: dict[str, Accelerator]) -> bool:
    return record.expert is Expert.LOW_NOISE and _partner_id(record) in records


# ---------------------------------------------------------------- what to do and what to mind


@dataclass(frozen=True)
class Machine:
    """What decides whether quantising pays. weight_bits: of the model as loaded. faster:
    low-precision arithmetic that the device has, such as "FP8"; empty for none.
    """

    weight_bits: int
    faster: str = ""


def levers(
    choice: Choice, ways: Sequence[Way], machine: Machine, work: Work, there: Collection[str] = ()
) -> list[str]:
    """What to pull, in this order, and what each brings here. there: ids of the accelerators that
    are at hand.
    """
    return [
        _quantise(machine),
        _skip(choice.way),
        _distil(choice, ways, work, there),
        (
            "Quantising goes with either of the others. Skipping and distilling exclude each other:"
            " an accelerator's few steps leave nothing to skip."
        ),
    ]


def _quantise(machine: Machine) -> str:
    if machine.weight_bits < 16:
        return f"Quantise: done, the weights are {machine.weight_bits}-bit."
    if machine.faster:
        return (
            f"Quantise: the weights are {machine.weight_bits}-bit and this device computes faster"
            f" in {machine.faster}. Load the {machine.faster} version of the model and measure"
            " again."
        )
    return "Quantise: saves memory only; this device has no faster low-precision arithmetic."


def _skip(way: Way) -> str:
    # Break-even lies at 10 to 12 steps: Step Skip does at 10 what it is asked to, but nobody is
    # advised to ask.
    if way.steps <= LEAST_EVALUATIONS:
        return (
            f"Skip: nothing to gain at {counted(way.steps, 'step')}; it pays above"
            f" {LEAST_EVALUATIONS}."
        )
    if way.records:
        return (
            f"Skip: not with an accelerator; it was distilled to make every one of its {way.steps}"
            " steps."
        )
    if way.target_speedup > 1.0:
        return (
            f"Skip: put Step Skip on the model with target_speedup {way.target_speedup:g}; the step"
            " count above counts on it."
        )
    return (
        f"Skip: not needed for this allowance; Step Skip would bring up to {MOST_SPEEDUP:g}x at"
        f" {way.steps} steps."
    )


def _distil(choice: Choice, ways: Sequence[Way], work: Work, there: Collection[str]) -> str:
    if choice.way.records:
        return f"Distil: done, the model carries {choice.way.records[0].id}."
    distilled = [way for way in ways if way.records]
    if not distilled:
        return "Distil: no accelerator is known here for this model."
    fitting = [way for way in distilled if way.seconds <= choice.allowance]
    if choice.misses and fitting:
        best = min(fitting, key=lambda way: _trouble(way, there))
        found = (
            f"{len(fitting)} of the accelerators in the table fit, for example"
            if len(fitting) > 1
            else "what fits is"
        )
        words = (
            f"Distil: {found} {best.records[0].id} at {counted(best.steps, 'step')}, about"
            f" {seconds_in_words(best.seconds)}."
        )
        return " ".join([words, *_pitfalls_of(best, work)])
    if choice.misses:
        return (
            "Distil: no accelerator fits either; the fastest takes about"
            f" {seconds_in_words(distilled[-1].seconds)}. A smaller picture or a shorter clip is"
            " what is left."
        )
    return "Distil: not needed for this allowance."


def _trouble(way: Way, there: Collection[str]) -> tuple[bool, bool]:
    """What stands before an accelerator, the greater first: a download, then a licence that does
    not allow everything.
    """
    return (
        not all(record.id in there for record in way.records),
        not all(record.licence.commercial is True for record in way.records),
    )


def pitfalls(
    choice: Choice, experience: str, work: Work, is_negative_forced: bool = False
) -> list[str]:
    """What goes wrong with this choice, where something does."""
    way, found = (
        choice.way,
        ["Text encoding and the VAE are not in these figures, nor is loading the model."],
    )
    found += _pitfalls_of(way, work)
    if is_negative_forced:
        found.append(
            "Another patch on the model has the negative prompt evaluated at CFG 1 too: every step"
            " costs two evaluations."
        )
    if way.target_speedup > STOCHASTIC_SPEEDUP:
        slower = way.seconds * way.target_speedup / STOCHASTIC_SPEEDUP
        found.append(
            f"target_speedup {way.target_speedup:g} is for samplers that follow the ODE, such as"
            f" euler. Those that inject noise (ancestral, SDE, LCM) get {STOCHASTIC_SPEEDUP:g}x"
            f" from Step Skip at most and take about {seconds_in_words(slower)}."
        )
    if way.method is Method.STREAM:
        found.append(
            "The stream is reckoned with window_frames 0, which sees the whole clip: a window makes"
            " its later blocks cheaper."
        )
    if experience == "live" and work.clip_seconds is not None and way.method is not Method.STREAM:
        found.append(
            "Live video needs a causal model (Self Forcing and its kin): any other shows nothing"
            " before the whole clip is done."
        )
    return found


def _pitfalls_of(way: Way, work: Work) -> list[str]:
    """Those that come with the accelerator of a way."""
    found = []
    for record in way.records:
        if not record.is_guided:
            found.append(
                f"{record.id} runs at CFG 1 and only there: any other value burns the picture and"
                " doubles the time."
            )
        if record.licence.commercial is not True:
            found.append(f"Licence of {record.id}: {record.licence}.")
    if any(record.expert is not None for record in way.records):
        found.append(
            "Wan 2.2 changes experts once in a run; where both do not fit into memory, the swap"
            " comes on top."
        )
    if way.records and way.steps <= VERY_FEW_STEPS:
        motion = ", and less motion" if work.clip_seconds else ""
        found.append(f"{counted(way.steps, 'step')}: expect soft fine detail{motion}.")
    return found


def seconds_in_words(seconds: float) -> str:
    """0.0431 s, 4.26 s, 43 s, 7 min 10 s; any time for infinity."""
    if math.isinf(seconds):
        return "any time"
    if seconds < 10:
        return f"{seconds:.3g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
