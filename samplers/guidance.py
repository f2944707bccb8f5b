"""A negative prompt inside attention: two texts side by side in one context, attended to apart.

Normalized attention guidance, Chen et al. 2025, arXiv 2505.21179, with ComfyUI's NAGuidance for the
meaning of scale. No second evaluation of the network: what is added is the other text's keys and
values, and one more attention over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

# Below it a norm says nothing: ComfyUI's NAGuidance has the same.
LEAST_NORM = 1e-6

# Queries, keys, values and the mask of them, None without one, to the output of an attention.
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Guidance:
    """How the outputs of the two attentions become one."""

    scale: float  # how far the output is pushed away from the negative text's; 1 does nothing
    alpha: float  # share of the pushed output in the result, 0 to 1
    tau: float  # how many times its own L1 norm the push may make of a token's output, at least 1

    @property
    def is_idle(self) -> bool:
        """Whether the result is the positive text's output itself."""
        return self.scale == 1 or self.alpha == 0

    def combine(
        self, positive: Tensor, negative: Tensor, channels: tuple[int, ...] = (-1,)
    ) -> Tensor:
        """The output to go on with, in the shape of the two given.

        channels: the dimensions of one token, those of its heads among them.
        """
        pushed = positive * self.scale - negative * (self.scale - 1)
        limit = self.tau * l1_norm(positive, channels) / l1_norm(pushed, channels)
        weight = limit.clamp(max=1).mul(self.alpha).to(positive.dtype)
        return torch.addcmul(positive * (1 - self.alpha), pushed, weight)


def l1_norm(tokens: Tensor, channels: tuple[int, ...]) -> Tensor:
    """In float32: the sum over thousands of channels has no room in float16."""
    norm: Tensor = torch.linalg.vector_norm(tokens, 1, channels, keepdim=True, dtype=torch.float32)
    return norm.clamp_min(LEAST_NORM)


@dataclass(frozen=True)
class SideBySide:
    """Where the two texts lie in a context, in tokens."""

    positive: int
    negative: int
    padding: int = 0  # after both, read by nobody

    @property
    def length(self) -> int:
        return self.positive + self.negative + self.padding

    def lay(self, positive: Tensor, negative: Tensor) -> Tensor:
        """(B, L, ...) of each text to one context, (B, length, ...)."""
        rows = positive.shape[0]
        empty = positive.new_zeros(rows, self.padding, *positive.shape[2:])
        return torch.cat([positive, negative, empty], dim=1)

    def texts_of(self, context: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
        """What belongs to each text, of keys, values or a mask."""
        positive = context.narrow(dimension, 0, self.positive)
        return positive, context.narrow(dimension, self.positive, self.negative)


def laid_out(positive: int, negative: int, taken: Collection[int]) -> SideBySide:
    """The two lengths, padded to one that attention to the text is known by.

    A prime: other attentions have as many keys as a picture has patches, height times width. taken:
    lengths that this evaluation is known to have elsewhere.
    """
    length = positive + negative
    while length in taken or not is_prime(length):
        length += 1
    return SideBySide(positive, negative, length - positive - negative)


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def combined(
    guidance: Guidance,
    positive: Tensor,
    negative: Tensor,
    rows: Tensor | None,
    channels: tuple[int, ...],
) -> Tensor:
    """The guided output of these rows of a batch, None for all; of the others the positive's."""
    if rows is None:
        return guidance.combine(positive, negative, channels)
    some = guidance.combine(positive[rows], negative[rows], channels)
    return positive.index_copy(0, rows, some)


@dataclass(frozen=True)
class CrossAttention:
    """Attention of a picture's tokens to both texts, for models that attend to text apart."""

    texts: SideBySide
    guidance: Guidance
    # The rows of the batch that are guided, on the device; None for all.
    rows: Tensor | None = None

    def is_for(self, q: Tensor, k: Tensor) -> bool:
        """Whether these are a picture's queries and the texts' keys."""
        return k.shape[-2] == self.texts.length != q.shape[-2]

    def attend(
        self,
        attend: Attend,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        channels: tuple[int, ...] = (-1,),
    ) -> Tensor:
        """The guided output. q, k, v: (B, L, C) or (B, heads, L, C), with the texts' L in k and v.

        mask: None, or one whose last dimension is the texts' L. channels: as Guidance.combine reads
        the output.
        """
        k, negative_k = self.texts.texts_of(k, -2)
        v, negative_v = self.texts.texts_of(v, -2)
        negative_mask = None
        if mask is not None:
            mask, negative_mask = self.texts.texts_of(mask, -1)
        # All rows, also those that are not guided: other nodes' stand-ins count on a whole batch.
        positive = attend(q, k, v, mask)
        negative = attend(q, negative_k, negative_v, negative_mask)
        return combined(self.guidance, positive, negative, self.rows, channels)


@dataclass(frozen=True)
class JointAttention:
    """One attention over text and picture, text first, for models that have no other.

    Each text goes through the network beside the picture and sees the picture alone, never the
    other text; the picture sees each of them in turn, and its two outputs become one.
    """

    texts: SideBySide  # without padding
    guidance: Guidance
    rows: Tensor | None = None  # as in CrossAttention

    def is_for(self, q: Tensor, k: Tensor) -> bool:
        return k.shape[-2] == q.shape[-2] > self.texts.length

    def attend(
        self,
        attend: Attend,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        channels: tuple[int, ...] = (-1,),
    ) -> Tensor:
        """The output of all tokens, (B, L, C). q, k, v: (B, heads, L, C). mask: None."""
        assert mask is None
        first, second = self.texts.positive, self.texts.negative
        positive_q, positive_k, positive_v = (
            self._without(part, first, second) for part in (q, k, v)
        )
        negative_q, negative_k, negative_v = (
            part.narrow(-2, first, part.shape[-2] - first) for part in (q, k, v)
        )
        positive = attend(positive_q, positive_k, positive_v, None)
        negative = attend(negative_q, negative_k, negative_v, None)
        picture, other = positive[:, first:], negative[:, second:]
        guided = combined(self.guidance, picture, other, self.rows, channels)
        return torch.cat([positive[:, :first], negative[:, :second], guided], dim=1)

    @staticmethod
    def _without(tokens: Tensor, start: int, length: int) -> Tensor:
        """All tokens but `length` from `start` on."""
        end = start + length
        return torch.cat(
            [tokens.narrow(-2, 0, start), tokens.narrow(-2, end, tokens.shape[-2] - end)], dim=-2
        )
