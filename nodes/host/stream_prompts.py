"""The prompts of one stream: which one its model follows, and turning to the next.

All of them are given to the host as conditionings of the run, which encodes each as it does any
prompt. Turning is to let the run's `positive` be another one: all that looks at it, the host's
guider and other nodes' wrappers, finds the new prompt there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...samplers.causal import Block, StreamPlan, Turn, price_of
from .stream_cache import CachedFrames
from .timeline import Prompt, in_order, untimed

KEY = "fewstep.prompt"


@dataclass(frozen=True)
class Change:
    """Another prompt took over."""

    frame: int  # the first latent frame that was made under it
    evaluations: int  # that reading again took, beyond those of a clip with one prompt


def opening(plan: StreamPlan, positive: Sequence[Prompt]) -> list[Any]:
    """The CONDITIONING that a stream begins with."""
    return [untimed(in_order(positive)[plan.opening])]


def add_later(guider, plan: StreamPlan, positive: Sequence[Prompt]) -> None:
    """Give the host the prompts that take over later. It encodes them as the run begins."""
    prompts = in_order(positive)
    if plan.turns:
        guider.inner_set_conds(
            {name_of(turn): [untimed(prompts[turn.prompt])] for turn in plan.turns}
        )


def name_of(turn: Turn) -> str:
    return f"{KEY}.{turn.prompt}"


class StreamPrompts:
    """The prompts of one run. changes: where those that took over are noted."""

    def __init__(self, guider, plan: StreamPlan, memory: CachedFrames, changes: list[Change]):
        self.guider, self.memory, self.changes = guider, memory, changes
        self.turns = {turn.frame: turn for turn in plan.turns}

    def is_turn(self, block: Block) -> bool:
        return block.start in self.turns

    def turn(self, block: Block, read: Sequence[Block]) -> None:
        turn = self.turns[block.start]
        self.guider.conds["positive"] = self.guider.conds[name_of(turn)]
        self.memory.forget_text()
        self.changes.append(Change(block.start, price_of(read)))
