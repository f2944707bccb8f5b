"""Causal video models, block by block: what is made when, how far a block looks back, the loop.

Frames are latent frames throughout. A block is denoised while the model looks at the keys and
values of the frames before it; once it is finished the model reads it again without noise, so that
the blocks after it find clean keys. Yin et al. 2024 (CausVid), arXiv 2412.07772; Huang et al. 2025
(Self Forcing), arXiv 2506.08009. Order of evaluations, context noise, rolling cache and the way a
given start is read: github guandeh17/Self-Forcing, pipeline/causal_inference.py and
wan/modules/causal_model.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NoReturn, Protocol

import torch
from torch import Tensor

from ..loras.accelerator import Accelerator
from ..loras.bases import Base
from ..loras.schedules import SigmaOf
from ..loras.words import counted
from .plan import PlanError, make_plan

# Frames of video for each latent frame but the first.
TEMPORAL_FACTOR = Base.WAN_CAUSAL.frames_per_latent_frame
# The noise level at which finished blocks are read again: context_noise is 0 in every published
# configuration.
CONTEXT_SIGMA = 0.0


# ---------------------------------------------------------------- what is made when


@dataclass(frozen=True)
class Block:
    """Frames that are made together."""

    start: int
    frames: int
    # steps + 1, descending, last 0; empty for frames that are given and only read.
    sigmas: tuple[float, ...] = ()

    @property
    def end(self) -> int:
        return self.start + self.frames

    @property
    def is_given(self) -> bool:
        return not self.sigmas

    @property
    def steps(self) -> int:
        return max(len(self.sigmas) - 1, 0)


@dataclass(frozen=True)
class Window:
    """How much of a clip a block sees. Self Forcing's local_attn_size and sink_size."""

    frames: int = 0  # all at once, the block itself and the sinks among them; 0: the whole clip
    sink: int = 0  # first frames that stay when the window moves on

    def evicted(self, held: int, coming: int) -> int:
        """How many of `held` frames, oldest after the sinks, go before `coming` more are made."""
        return max(0, held + coming - self.frames) if self.frames else 0

    def left(self, view: Sequence[int], coming: int) -> tuple[int, ...]:
        """Of the frames in view, sinks first, those that stay while `coming` more are made."""
        gone = self.evicted(len(view), coming)
        return (*view[: self.sink], *view[self.sink + gone :]) if gone else tuple(view)

    def capacity(self, frames: int) -> int:
        """The most frames held at once in a clip of so many, the block being made among them."""
        return min(self.frames, frames) if self.frames else frames


@dataclass(frozen=True)
class Handover:
    """What a new prompt finds of the frames that were in view under the one before it.

    Frames that are read again get their keys and values under the new prompt, so that the old words
    stop steering and the motion goes on: the KV recache of Yang et al. 2025 (LongLive), arXiv
    2509.22622. Its released code reads the latest frames of a whole window, the first of which are
    the sinks from then on (keeps_sinks=False); with its global_sink the old sinks keep their keys.
    We read what the next block will see, and no more. The sinks go here, too: of 100 clips of the
    demo model 90 had turned at their end without them, and 83 with them (claims.py, timeline).
    """

    reads_again: bool = True  # False: all keep the keys that they got under the old prompt
    keeps_sinks: bool = False  # False: the first frames in view behind them are the sinks now
    frames: int = 0  # of those in view that are no sinks, the latest that stay; 0: all of them

    def __post_init__(self) -> None:
        if not self.reads_again and not (self.keeps_sinks and self.frames == 0):
            raise ValueError("Frames that are not read again all stay as they are.")

    def kept(self, view: Sequence[int], sink: int) -> tuple[int, ...]:
        """Of the frames in view, sinks first, those that the new prompt sees."""
        sinks, others = tuple(view[:sink]), tuple(view[sink:])
        if not self.keeps_sinks:
            sinks, others = (), others or sinks  # all that there is may be sinks
        return sinks + others[-self.frames :]


@dataclass(frozen=True)
class Timeline:
    """When the prompts of a clip begin."""

    # Ascending, from the clip's beginning, given frames included.
    seconds: tuple[float, ...] = (0.0,)
    frame_rate: float = Base.WAN_CAUSAL.frame_rate  # of the video

    def begins(self, frame: int) -> float:
        """The second at which a latent frame is shown."""
        return pictures_before(frame) / self.frame_rate

    def is_reached(self, prompt: int, frame: int) -> bool:
        """Whether a latent frame is shown at the time of this prompt or after it."""
        # Times are written with a few digits: 2.8125 is shown as 2.81.
        return self.begins(frame) >= self.seconds[prompt] - 0.5 / self.frame_rate


@dataclass(frozen=True)
class Turn:
    """Another prompt takes over."""

    prompt: int  # which, in the order of their times
    frame: int  # the first latent frame that is made under it
    read: tuple[Block, ...]  # frames in view, as they are read again

    @property
    def evaluations(self) -> int:
        return price_of(self.read)


def price_of(read: Sequence[Block]) -> int:
    """Evaluations beyond those of a clip of one prompt: there the block before is read as well."""
    return max(len(read) - 1, 0)


@dataclass(frozen=True)
class StreamPlan:
    """A clip, decided."""

    record: Accelerator
    frames: int  # of the whole clip
    given: int  # at its start, which exist already
    blocks: tuple[Block, ...]  # in order, the given ones first as far as the window needs them
    window: Window
    opening: int = 0  # the prompt that it begins with, in the order of their times
    turns: tuple[Turn, ...] = ()  # in order
    handover: Handover = Handover()
    timeline: Timeline = Timeline()

    @property
    def made(self) -> tuple[Block, ...]:
        return tuple(block for block in self.blocks if not block.is_given)

    @property
    def evaluations(self) -> int:
        """For each clip: every step, one context pass for every block but the last, and what the
        turns read beside those.
        """
        turns = sum(turn.evaluations for turn in self.turns)
        return sum(block.steps + 1 for block in self.blocks) - 1 + turns


def make_stream_plan(
    record: Accelerator | None,
    frames: int,
    sigma_of: SigmaOf,
    given: int = 0,
    frames_per_block: int = 0,
    window: Window = Window(),
    timeline: Timeline = Timeline(),
    handover: Handover = Handover(),
) -> StreamPlan:
    """The blocks of a clip of `frames`, of which `given` exist already. Raises PlanError.

    frames_per_block: 0 is the accelerator's own.
    """
    ordinary = make_plan(record, 0, 1.0, sigma_of)
    assert record is not None  # make_plan refuses it
    if record.causal is None:
        raise PlanError(
            f"{record.id} is not causal: it makes all frames of a clip at once. Use the Few-Step"
            " Sampler for it."
        )
    size = record.causal.frames_per_block
    if frames_per_block not in (0, size):
        raise PlanError(
            f"{record.id} was distilled to make {in_frames(size)} at a time, not"
            f" {frames_per_block}. Set frames_per_block to {size} (or 0 for the accelerator's own),"
            f" or load an accelerator made for {frames_per_block}."
        )
    _refuse_lengths(frames, given, size)
    _refuse_window(window, size)
    blocks = [
        *_given_blocks(given, size, window),
        *(Block(start, size, ordinary.sigmas) for start in range(given, frames, size)),
    ]
    if record.causal.first_block is not None:
        first = next(index for index, block in enumerate(blocks) if not block.is_given)
        steps = record.causal.first_block_steps or ordinary.steps
        sigmas = record.causal.first_block.sigmas(steps, 1.0, sigma_of)
        blocks[first] = Block(given, size, tuple(sigmas))
    plan = StreamPlan(record, frames, given, tuple(blocks), window)
    return _with_turns(replace(plan, timeline=timeline, handover=handover))


def _with_turns(plan: StreamPlan) -> StreamPlan:
    """The plan with every prompt at the first block that begins at its time or after it.

    The earliest prompt serves from the start, whenever it begins. Raises PlanError for a prompt
    that no block is made under.
    """
    opening, timeline = 0, plan.timeline
    prompts: dict[int, int] = {}  # by the frame at which they take over
    for prompt in range(1, len(timeline.seconds)):
        block = next((each for each in plan.made if timeline.is_reached(prompt, each.start)), None)
        if block is None:
            _refuse_late(plan, prompt)
        if block.start == plan.given and plan.given:
            opening = prompt  # the given frames cover those before it
        elif block.start in (0, *prompts):
            _refuse_crowded(timeline, prompt, plan.made[0].frames)
        else:
            prompts[block.start] = prompt
    turns: list[Turn] = []
    view: tuple[int, ...] = ()
    for block in plan.blocks:
        view = plan.window.left(view, block.frames)
        if block.start in prompts:
            view = plan.handover.kept(view, plan.window.sink)
            read = as_read(view, plan.blocks) if plan.handover.reads_again else ()
            turns.append(Turn(prompts[block.start], block.start, read))
        view += tuple(range(block.start, block.end))
    return replace(plan, opening=opening, turns=tuple(turns))


def as_read(view: Sequence[int], blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Frames in view, in order, as they are read again: what is left of a block at once."""
    block_of = {frame: block.start for block in blocks for frame in range(block.start, block.end)}
    parts: list[Block] = []
    for frame in view:
        if parts and parts[-1].end == frame and block_of[frame] == block_of[parts[-1].start]:
            parts[-1] = Block(parts[-1].start, parts[-1].frames + 1)
        else:
            parts.append(Block(frame, 1))
    return tuple(parts)


def _given_blocks(given: int, size: int, window: Window) -> list[Block]:
    """The blocks in which given frames are read, without those the first new block will not see.

    A first frame that is over stands alone: a picture, or a clip that began with one
    (independent_first_frame of Self Forcing).
    """
    alone = [Block(0, 1)] if given % size else []
    blocks = alone + [Block(start, size) for start in range(len(alone), given, size)]
    seen_from = given - (window.frames - window.sink - size) if window.frames else 0
    return [block for block in blocks if block.start < window.sink or block.end > seen_from]


def _refuse_lengths(frames: int, given: int, size: int) -> None:
    over = given % size
    if over > 1:
        fitting = " or ".join(str(count) for count in (given - over, given - over + 1) if count)
        raise PlanError(
            f"start_latent holds {in_frames(given)}; this accelerator reads {size} at a time, with"
            f" at most the first one alone. Cut it to {fitting}."
        )
    if given >= frames:
        raise PlanError(
            f"latent_image says that the clip has {in_frames(frames)} in all, and its start holds"
            f" {given} of them, so nothing is left to make. Make latent_image longer: length"
            f" {video_frames(given + size)} or more."
        )
    over = (frames - given) % size
    if over:
        shorter, longer = frames - over, frames - over + size
        near = " or ".join(str(video_frames(count)) for count in (shorter, longer) if count > given)
        start = f" after the {given} it starts with" if given else ""
        raise PlanError(
            f"The clip has {in_frames(frames - given)} to make{start}, which is not a whole"
            f" number of blocks of {size}. Set the video's length to {near}."
        )


def _refuse_late(plan: StreamPlan, prompt: int) -> NoReturn:
    """Raise for a prompt that begins after the last block."""
    timeline = plan.timeline
    seconds, end = timeline.seconds[prompt], timeline.begins(plan.frames)
    last = timeline.begins(plan.made[-1].start)
    where = (
        f"the clip ends at {in_seconds(end)}"
        if seconds >= end
        else f"the last block of the clip begins at {in_seconds(last)}"
    )
    raise PlanError(
        f"A prompt of the timeline begins at {in_seconds(seconds)}, and {where}, so nothing would"
        f" be made under it. Set start_seconds to {in_seconds(last)} or less, or make latent_image"
        " longer."
    )


def _refuse_crowded(timeline: Timeline, prompt: int, size: int) -> NoReturn:
    """Raise for two prompts that would take over at the same block."""
    first, second = (in_seconds(timeline.seconds[each]) for each in (prompt - 1, prompt))
    block = TEMPORAL_FACTOR * size / timeline.frame_rate
    raise PlanError(
        f"The prompts that begin at {first} and {second} would take over at the same block, so"
        f" nothing would be made under the first. A block lasts {in_seconds(block)}: set them that"
        " far apart."
    )


def _refuse_window(window: Window, size: int) -> None:
    if window.sink and not window.frames:
        raise PlanError(
            f"sink_frames is {window.sink} and window_frames is 0: without a window nothing is ever"
            f" forgotten. Set window_frames to {window.sink + size} or more, or sink_frames to 0."
        )
    if window.frames and window.frames < window.sink + size:
        sinks = f" and the {window.sink} of sink_frames" if window.sink else ""
        raise PlanError(
            f"window_frames is {window.frames}; it must hold the block being made ({size}){sinks},"
            f" {window.sink + size} latent frames at least, and what it holds beyond that is the"
            " memory of earlier frames. 0 remembers them all."
        )


def refuse_partial_patches(height: int, width: int, patch: Sequence[int], pixels: int) -> None:
    """Raise PlanError unless a latent of height x width is a whole number of the network's patches.

    patch: (frames, height, width). pixels: of video to one of the latent, in either direction. The
    host's causal network pads any other latent and answers at the padded size.
    """
    near = []
    for name, size, side in (("width", width, patch[2]), ("height", height, patch[1])):
        if size % side:
            fitting = (size // side * side, size // side * side + side)
            near.append(
                f"the {name} to {' or '.join(str(count * pixels) for count in fitting if count)}"
            )
    if near:
        raise PlanError(
            f"latent_image is {width * pixels} x {height * pixels} pixels, which is not a whole"
            f" number of this model's patches of {patch[2] * pixels} x {patch[1] * pixels}. Set"
            f" {' and '.join(near)}."
        )


def in_frames(count: int) -> str:
    """1 latent frame, 21 latent frames."""
    return counted(count, "latent frame")


def in_seconds(seconds: float) -> str:
    """2.81 s: seconds to the hundredth."""
    return f"{round(seconds, 2):g} s"


def video_frames(latent_frames: int) -> int:
    """The length of a clip in pictures: 81 for 21 latent frames."""
    return TEMPORAL_FACTOR * (latent_frames - 1) + 1


def pictures_before(latent_frame: int) -> int:
    """How many pictures are shown before those of a latent frame, counted from 0."""
    return video_frames(latent_frame) if latent_frame else 0


# ---------------------------------------------------------------- the loop


class Memory(Protocol):
    """A causal model together with the keys and values of the frames it has seen."""

    def make_room(self, block: Block) -> None:
        """Forget what the window leaves behind when this block begins."""

    def evaluate(self, x: Tensor, sigma: float, block: Block) -> Tensor:
        """x0 of this block, from x (B, C, frames, H, W). Its memory replaces an earlier one's."""

    def keep(self, block: Block) -> None:
        """What the last evaluation left of this block belongs to the past now."""

    def forget(self, frame: int) -> None:
        """Forget all frames. The next one that is read is this one."""


class Prompts(Protocol):
    """The prompts of a clip, one of which the model follows."""

    def is_turn(self, block: Block) -> bool:
        """Whether another prompt takes over where this block begins. Asked once for a block."""

    def turn(self, block: Block, read: Sequence[Block]) -> None:
        """Follow that prompt from now on. read: what the model reads again under it, of the frames
        before this block.
        """


class OnePrompt:
    """A clip whose prompt never changes."""

    def is_turn(self, block: Block) -> bool:
        return False

    def turn(self, block: Block, read: Sequence[Block]) -> None:
        """It never does."""


# Standard normal noise for every step of a block: (steps, B, C, frames, H, W).
DrawNoise = Callable[[Block], Tensor]


def seeded_draw(seed: int, shape: Sequence[int], device: torch.device) -> DrawNoise:
    """Noise from the seed and the blocks drawn before: a longer clip begins like a shorter one.

    shape: (B, C, H, W). Drawn on the CPU, so that a seed gives one clip on every device, and at
    once for all steps of a block: moving it waits for the device once.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    batch, channels, height, width = shape
    return lambda block: torch.randn(
        (block.steps, batch, channels, block.frames, height, width), generator=generator
    ).to(device)


def unroll(
    memory: Memory,
    blocks: Sequence[Block],
    draw: DrawNoise,
    given: Tensor | None = None,
    prompts: Prompts = OnePrompt(),
    window: Window = Window(),
    handover: Handover = Handover(),
) -> Iterator[tuple[Block, Tensor]]:
    """Each made block, (B, C, frames, H, W), as soon as it is finished. given: existing frames.
    window: that of the memory. handover: what a prompt that takes over finds.

    The context pass comes after the block is handed out, so that it can be shown first, and not at
    all after the last. Where another prompt takes over it is made under that one, as of all else in
    view.
    """
    view: dict[int, Tensor] = {}  # frames before the next block, sinks first: (B, C, H, W)
    if not blocks[0].is_given and prompts.is_turn(blocks[0]):
        prompts.turn(blocks[0], ())
    for block, following in zip(blocks, (*blocks[1:], None)):
        memory.make_room(block)
        if block.is_given:
            assert given is not None
            x = given[:, :, block.start : block.end]
        else:
            x = denoise(memory, block, draw(block))
            yield block, x
        if following is None:
            return
        turns = not following.is_given and prompts.is_turn(following)
        if not (turns and handover.reads_again):
            memory.evaluate(x, CONTEXT_SIGMA, block)
            memory.keep(block)
        view |= zip(range(block.start, block.end), x.unbind(2))
        view = {frame: view[frame] for frame in window.left(list(view), following.frames)}
        if turns:
            view = {frame: view[frame] for frame in handover.kept(list(view), window.sink)}
            read = as_read(list(view), blocks) if handover.reads_again else ()
            prompts.turn(following, read)
            read_again(memory, read, view)


def read_again(memory: Memory, parts: Sequence[Block], view: Mapping[int, Tensor]) -> None:
    """Replace what the memory holds. view: frames, (B, C, H, W) each."""
    if parts:
        memory.forget(parts[0].start)
    for part in parts:
        x = torch.stack([view[frame] for frame in range(part.start, part.end)], dim=2)
        memory.make_room(part)
        memory.evaluate(x, CONTEXT_SIGMA, part)
        memory.keep(part)


def denoise(memory: Memory, block: Block, noise: Tensor) -> Tensor:
    """One block from noise: jump to x0, then re-noise to the next level, (1 - sigma)·x0 + sigma·n.

    noise: (steps, B, C, frames, H, W).
    """
    x = block.sigmas[0] * noise[0]
    for step, (sigma, sigma_next) in enumerate(pairwise(block.sigmas)):
        denoised = memory.evaluate(x, sigma, block)
        if sigma_next == 0:
            return denoised
        x = (1.0 - sigma_next) * denoised + sigma_next * noise[step + 1]
    return x
