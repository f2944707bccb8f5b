"""What is asked of a run and what it costs: the allowance, the work, and seconds on one machine.

Cost is cost per evaluation times evaluations. Arithmetic alone; nothing here runs a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...loras.refusal import Refusal


class BudgetError(Refusal):
    """A question without an honest answer. Says what was expected, what was found, what to do."""


@dataclass(frozen=True)
class Experience:
    """What is being built."""

    seconds: float  # its own allowance for one run; infinite where nobody waits
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
    """What one run makes."""

    samples: int  # pictures or clips
    latent_frames: int = 1  # of one sample; 1 for pictures
    clip_seconds: float | None = None  # playing time of a clip, None for pictures

    @property
    def noun(self) -> str:
        return "picture" if self.clip_seconds is None else "clip"


def allowance_of(experience: str, seconds: float, work: Work) -> float:
    """Seconds one run may take. seconds: 0 takes the experience's; live video may play as long."""
    if seconds > 0:
        return seconds
    if experience == "live" and work.clip_seconds is not None:
        return work.clip_seconds
    return EXPERIENCES[experience].seconds


@dataclass(frozen=True)
class BlockCost:
    """Seconds of one evaluation of a stream's block. A context pass counts as one."""

    first: float  # of the first block, which sees itself alone
    last: float  # of the last block, which sees the whole clip

    def at(self, block: int, blocks: int) -> float:
        """Of block 0, 1, ...: each block adds its keys to those read, so seconds rise in a line."""
        if blocks == 1:
            return self.first
        return self.first + (self.last - self.first) * block / (blocks - 1)


@dataclass(frozen=True)
class Overhead:
    """Seconds of a run that do not grow with its evaluations."""

    decoding: float  # of all its pictures
    once: float = 0.0  # of the sampler itself, whatever its steps

    @property
    def seconds(self) -> float:
        return self.decoding + self.once


@dataclass(frozen=True)
class Cost:
    """Seconds on one machine, with one model, at one size."""

    # Of one forward pass of the whole latent batch; in a stream, of the block half-way through.
    evaluation: float
    # Of a step with both prompts, which the host runs in one pass where memory allows; at most
    # twice an evaluation.
    guided_step: float
    # Of a causal model, by the latent frames of a block.
    blocks: Mapping[int, BlockCost] = field(default_factory=dict)
    overhead: Overhead | None = None  # None where no VAE says what decoding costs

    def step(self, is_guided: bool) -> float:
        return self.guided_step if is_guided else self.evaluation


def streaming_cost(blocks: Mapping[int, BlockCost], size: int) -> Cost:
    """The cost of a causal model whose accelerator makes `size` latent frames at a time."""
    half_way = (blocks[size].first + blocks[size].last) / 2
    return Cost(half_way, half_way, blocks)


def given_blocks(seconds: float, size: int, sizes: Iterable[int]) -> dict[int, BlockCost]:
    """Costs of several block sizes from the average of one: in proportion, all blocks alike."""
    return {
        other: BlockCost(seconds * other / size, seconds * other / size) for other in {size, *sizes}
    }


def seconds_in_words(seconds: float) -> str:
    """0.0431 s, 4.26 s, 43 s, 7 min 10 s; any time for infinity."""
    if math.isinf(seconds):
        return "any time"
    if seconds < 10:
        return f"{seconds:.3g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
