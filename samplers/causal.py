"""Causal video models, block by block: what is made when, how far a block looks back, the loop.

Frames are latent frames throughout. A block is denoised while the model looks at the keys and
values of the frames before it; once it is finished the model reads it again without noise, so that
the blocks after it find clean keys. Yin et al. 2024 (CausVid), arXiv 2412.07772; Huang et al. 2025
(Self Forcing), arXiv 2506.08009. Order of evaluations, context noise, rolling cache and the way a
given start is read: github guandeh17/Self-Forcing, pipeline/causal_inference.py and
wan/modules/causal_model.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

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

    def capacity(self, frames: int) -> int:
        """The most frames held at once in a clip of so many, the block being made among them."""
        return min(self.frames, frames) if self.frames else frames


@dataclass(frozen=True)
class StreamPlan:
    """A clip, decided."""

    record: Accelerator
    frames: int  # of the whole clip
    given: int  # at its start, which exist already
    blocks: tuple[Block, ...]  # in order, the given ones first as far as the window needs them
    window: Window

    @property
    def made(self) -> tuple[Block, ...]:
        return tuple(block for block in self.blocks if not block.is_given)

    @property
    def evaluations(self) -> int:
        """For each clip: every step, and one context pass for every block but the last."""
        return sum(block.steps + 1 for block in self.blocks) - 1


def make_stream_plan(
    record: Accelerator | None,
    frames: int,
    sigma_of: SigmaOf,
    given: int = 0,
    frames_per_block: int = 0,
    window: Window = Window(),
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
    return StreamPlan(record, frames, given, tuple(blocks), window)


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


def video_frames(latent_frames: int) -> int:
    """The length of a clip in pictures: 81 for 21 latent frames."""
    return TEMPORAL_FACTOR * (latent_frames - 1) + 1


# ---------------------------------------------------------------- the loop


class Memory(Protocol):
    """A causal model together with the keys and values of the frames it has seen."""

    def make_room(self, block: Block) -> None:
        """Forget what the window leaves behind when this block begins."""

    def evaluate(self, x: Tensor, sigma: float, block: Block) -> Tensor:
        """x0 of this block, from x (B, C, frames, H, W). Its memory replaces an earlier one's."""

    def keep(self, block: Block) -> None:
        """What the last evaluation left of this block belongs to the past now."""


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
    memory: Memory, blocks: Sequence[Block], draw: DrawNoise, given: Tensor | None = None
) -> Iterator[tuple[Block, Tensor]]:
    """Each made block, (B, C, frames, H, W), as soon as it is finished. given: existing frames.

    The context pass comes after the block is handed out, so that it can be shown first, and not at
    all after the last.
    """
    for block in blocks:
        memory.make_room(block)
        if block.is_given:
            assert given is not None
            x = given[:, :, block.start : block.end]
        else:
            x = denoise(memory, block, draw(block))
            yield block, x
        if block is not blocks[-1]:
            memory.evaluate(x, CONTEXT_SIGMA, block)
            memory.keep(block)


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
