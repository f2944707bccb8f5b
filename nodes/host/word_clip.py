"""A CLIP whose text encoder is a table of words, for the demo model: the host's own class around
it, so that it goes into every node that takes a CLIP.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.sd
import torch
from torch import Tensor

# The rows of the table for a text. Raises ValueError for words that it does not have.
RowsOf = Callable[[str], Sequence[int]]
NAME = "words"


def load_word_clip(table: Tensor, rows_of: RowsOf):
    """The CLIP of a table (words, channels)."""
    target = SimpleNamespace(
        clip=functools.partial(WordTable, table),
        tokenizer=functools.partial(WordTokenizer, rows_of),
        params={},
    )
    return comfy.sd.CLIP(target, parameters=table.numel(), disable_dynamic=True)


class WordTable(torch.nn.Module):
    """What the host asks of a text encoder."""

    def __init__(self, table: Tensor, device=None, dtype=None, model_options=None):
        super().__init__()
        # In its own dtype, whichever the host has for text encoders: it is small, and exact.
        self.table = torch.nn.Parameter(table.to(device), requires_grad=False)
        self.dtypes = {table.dtype}

    def encode_token_weights(self, tokens: dict[str, Any]) -> tuple[Tensor, None]:
        """((1, L, channels) of the first text, no pooled one)"""
        rows = [word[0] for word in tokens[NAME][0]]
        encoded = self.table[rows].float().unsqueeze(0)
        return encoded.to(comfy.model_management.intermediate_device()), None

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """It has no layers to choose from."""

    def reset_clip_options(self) -> None:
        """It has no layers to choose from."""


class WordTokenizer:
    """What the host asks of a tokenizer."""

    def __init__(self, rows_of: RowsOf, embedding_directory=None, tokenizer_data=None):
        self.rows_of = rows_of

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options):
        rows = self.rows_of(text)
        if return_word_ids:
            return {NAME: [[(row, 1.0, place + 1) for place, row in enumerate(rows)]]}
        return {NAME: [[(row, 1.0) for row in rows]]}

    def state_dict(self) -> dict[str, Tensor]:
        return {}
