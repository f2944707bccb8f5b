"""The prompts of one stream: which one its model follows, and turning to the next.

Those of a timeline are given to the host as conditionings of the run, which encodes each as it does
any prompt. A live text is encoded between two blocks. Turning is to let the run's `positive` be
another one: all that looks at it, the host's guider and other nodes' wrappers, finds the new prompt
there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
from torch import Tensor

from ...samplers.causal import Block, StreamPlan, Turn, price_of
from ...samplers.plan import PlanError
from .live import LiveStream, LiveText
from .stream_cache import CachedFrames
from .stream_decode import is_out_of_memory
from .timeline import Prompt, in_order, untimed

KEY = "fewstep.prompt"


@dataclass(frozen=True)
class Change:
    """Another prompt took over."""

    frame: int  # the first latent frame that was made under it
    evaluations: int  # that reading again took, beyond those of a clip with one prompt
    text: str = ""  # a live one; empty: the timeline's
    seconds: float = 0.0  # in which it was encoded, and the model loaded again where it had to go


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


def refuse_clip(clip) -> None:
    """Raise for a CLIP whose texts change with the step, as hooks of other nodes make them."""
    if clip is not None and (clip.apply_hooks_to_conds or clip.patcher.forced_hooks is not None):
        raise PlanError(
            "clip carries hooks (as Set CLIP Hooks adds them), which change a prompt from step to"
            " step; a causal model remembers what it saw under one. Connect the CLIP without them."
        )


@dataclass(frozen=True)
class Coming:
    """A prompt that takes over at the block that begins now."""

    conds: list[dict[str, Any]]  # as the run's guider has them
    text: str = ""
    seconds: float = 0.0


@dataclass
class StreamPrompts:
    """The prompts of one run, as samplers/causal.py asks for them."""

    guider: Any
    plan: StreamPlan
    memory: CachedFrames
    x: Tensor  # a block of the run, as the host encodes prompts for it
    live: LiveStream | None  # where texts come in
    changes: list[Change]  # where it is noted what took over,
    notes: list[str]  # and what could not
    expect: Callable[[int], None]  # takes the evaluations that a text adds to those of the plan
    memory_beside: int = 0  # bytes that the run needs beside its models
    coming: Coming | None = None

    def is_turn(self, block: Block) -> bool:
        text = self.live.take(block) if self.live is not None else None
        self.coming = self._encoded(text) if text is not None else None
        planned = self._planned(block)
        if self.coming is None and planned is not None:
            self.coming = Coming(self.guider.conds[name_of(planned)])
        return self.coming is not None

    def turn(self, block: Block, read: Sequence[Block]) -> None:
        coming, self.coming = self.coming, None
        self.guider.conds["positive"] = coming.conds
        self.memory.forget_text()
        self.changes.append(Change(block.start, price_of(read), coming.text, coming.seconds))
        if self._planned(block) is None:
            self.expect(price_of(read))

    def _planned(self, block: Block) -> Turn | None:
        """The timeline's turn at this block."""
        return next((turn for turn in self.plan.turns if turn.frame == block.start), None)

    def _encoded(self, text: LiveText) -> Coming | None:
        """A live text as the host encodes a prompt; None where it cannot, and the notes say why."""
        started = time.perf_counter()
        try:
            encoded = self.live.clip.encode_from_tokens_scheduled(text.tokens)
        except (comfy.model_management.OOM_EXCEPTION, RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._leave_out(text, "there was no memory for its text encoder beside the stream")
            return None
        finally:
            self._load_again()
        width, expected = encoded[0][0].shape[-1], self._width()
        if width != expected:
            why = f"clip makes {width} numbers a token, and this model takes {expected}"
            self._leave_out(text, why)
            self.live.refuse_more(
                f"This stream takes no text: {why}. Connect the model's own CLIP."
            )
            return None
        conds = self._for_run(encoded)
        return Coming(conds, text.text, time.perf_counter() - started)

    def _width(self) -> int:
        """Numbers a token, of the prompt that is followed now."""
        return self.guider.conds["positive"][0]["cross_attn"].shape[-1]

    def _for_run(self, conditioning: list[Any]) -> list[dict[str, Any]]:
        """What the host makes of a conditioning when a run begins."""
        conds = {"positive": comfy.sampler_helpers.convert_cond(conditioning)}
        model = self.guider.inner_model
        return comfy.samplers.process_conds(model, self.x, conds, self.x.device, self.x)["positive"]

    def _load_again(self) -> None:
        """Bring back what the text encoder may have driven from the device: the host frees memory
        for what it loads, whatever runs there.
        """
        guider = self.guider
        needed = guider.inner_model.memory_required(list(self.x.shape)) + self.memory_beside
        comfy.model_management.load_models_gpu(
            [guider.model_patcher, *guider.loaded_models], memory_required=needed
        )

    def _leave_out(self, text: LiveText, why: str) -> None:
        self.notes.append(f'The text "{text.text}" was left out: {why}.')
