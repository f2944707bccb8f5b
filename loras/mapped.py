"""The tensors of a .safetensors file where the system maps it: nothing is read before it is used,
and what is read is shared with everybody who maps the file.

The format's library does the same, and takes three times as long for a file of thousands of
tensors.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .header import Header, not_whole

Buffer = mmap.mmap

# The format's names for numbers -> torch's.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def can_be_mapped(header: Header) -> bool:
    """Whether all numbers of a file are of a kind that is known here."""
    return all(stored.dtype in DTYPES for stored in header.stored.values())


@dataclass(frozen=True)
class MappedFile:
    """A file in memory. It stays there as long as one of its tensors does."""

    data: Buffer  # all of the file
    tensors: Mapping[str, Tensor]


def map_file(path: str | Path, header: Header) -> MappedFile:
    """A file whose header was read. What is written into its tensors stays out of the file.

    Raises FileProblem for a file that has become another since.
    """
    path = Path(path)
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if len(data) != header.size:
        raise not_whole(path, f"it had {header.size} bytes when it was opened")
    tensors = {}
    for key, (name, begin, end) in header.stored.items():
        shape, dtype = header.shapes[key], DTYPES[name]
        # torch takes no numbers from a buffer where there are none.
        tensors[key] = (
            torch.frombuffer(
                data, dtype=dtype, count=(end - begin) // dtype.itemsize, offset=begin
            ).view(shape)
            if end > begin
            else torch.empty(shape, dtype=dtype)
        )
    return MappedFile(data, tensors)
