"""From a .safetensors file to its header.

Nothing in it is believed before the format's own library has checked it. Only the header is read:
milliseconds on a file of any size. Of a file whose tensors are there already, they are the header.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .refusal import Refusal

# The endings of files that may be opened here.
ENDINGS = (".safetensors", ".sft")

# In bytes: some 100 000 tensors, which no real file comes near. The format's own 100 MB would take
# a gigabyte and many seconds.
LARGEST_HEADER = 16_000_000

ALPHA_METADATA = ("lora_alpha", "network_alpha", "ss_network_alpha", "alpha")


class FileProblem(Refusal):
    """A file that is not what the user means it to be. Says what was found and what to do."""


# The format's names for numbers, of those that LoRAs are made of.
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Header:
    """What a file says of its tensors."""

    shapes: Mapping[str, tuple[int, ...]]  # tensor name -> shape
    metadata: Mapping[str, str]  # the header's own string map
    size: int = 0  # bytes of the whole file, 0 if unknown
    # Tensor name -> the format's name for its numbers, such as BF16; empty if unknown.
    dtypes: Mapping[str, str] = field(default_factory=dict)


def read_header(path: str | Path) -> Header:
    """The header of a .safetensors file. Raises FileProblem for anything that is not one, whole."""
    entries, size = _entries_of(Path(path))
    metadata = entries.pop("__metadata__", None) or {}
    return Header(
        {key: tuple(entry["shape"]) for key, entry in entries.items()},
        metadata,
        size,
        {key: entry["dtype"] for key, entry in entries.items()},
    )


def header_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], size: int) -> Header:
    """The header of a file of `size` bytes whose tensors are there already."""
    return Header(
        {key: tuple(tensor.shape) for key, tensor in tensors.items()},
        metadata,
        size,
        {key: DTYPES.get(tensor.dtype, str(tensor.dtype)) for key, tensor in tensors.items()},
    )


def read_metadata(path: str | Path) -> dict[str, str]:
    """The header's own string map alone. Raises FileProblem as read_header does."""
    return _entries_of(Path(path))[0].get("__metadata__") or {}


def _entries_of(path: Path) -> tuple[dict[str, Any], int]:
    """(the header as stored, bytes of the whole file), once the format's own library accepts it.

    That library hands a header on tensor by tensor, a slice of the file for each, which takes
    longer than reading it again.
    """
    size = refuse_unreadable(path)
    refuse_broken(path, size)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            return json.loads(file.read(length)), size
        except ValueError as error:
            raise not_whole(path, size, error) from None


def refuse_unreadable(path: str | Path) -> int:
    """Bytes of the whole file, by whose first eight a library may open it. Raises FileProblem for
    one that is no .safetensors file, and for a header that is longer than any real one.
    """
    path = Path(path)
    size = _size_of(path)
    with path.open("rb") as file:
        start = file.read(8)
    length = int.from_bytes(start, "little")
    if LARGEST_HEADER < length <= size - 8:
        raise FileProblem(
            f"{path.name}: its header is {length} bytes long, and no more than {LARGEST_HEADER}"
            " are read here: real LoRAs and models stay far below. Save it again without the"
            " metadata that makes it so long."
        )
    if length > size - 8:
        # The eight letters that a page begins with make a huge number.
        is_page = start.startswith(b"<") and length > LARGEST_HEADER
        why = "it is a web page" if is_page else f"its header should be {length} bytes long"
        raise not_whole(path, size, why)
    return size


def refuse_broken(path: str | Path, size: int) -> None:
    """Raise FileProblem for a header that the format's own library does not accept."""
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise not_whole(path, size, error) from None


def not_whole(path: str | Path, size: int, why: object) -> FileProblem:
    """What to say of a file that its library, or the host's loader, does not read."""
    return FileProblem(
        f"{Path(path).name} ({size} bytes) is not a complete .safetensors file: {why}. "
        "Either the download broke off or it is another kind of file: download it again."
    )


def _size_of(path: Path) -> int:
    """Bytes of a file that may be a .safetensors file. Raises FileProblem for one that cannot."""
    if not path.is_file():
        raise FileProblem(
            f"{path.name} is not there. Expected a .safetensors file in the models folder."
        )
    if path.suffix.lower() not in ENDINGS:
        raise FileProblem(
            f"{path.name} is a {path.suffix or 'file without an ending'}, which can carry code and"
            " is never opened here. Use the .safetensors version of this accelerator."
        )
    size = path.stat().st_size
    if size == 0:
        raise FileProblem(
            f"{path.name} is empty (0 bytes). Expected a .safetensors file: download it again."
        )
    return size


def alpha_in(metadata: Mapping[str, str]) -> float | None:
    """The network alpha in file metadata, or None. Raises FileProblem unless it is positive."""
    for name in ALPHA_METADATA:
        if name in metadata and metadata[name] not in ("", "None"):
            try:
                value = float(metadata[name])
            except ValueError:
                raise FileProblem(
                    f"metadata {name} = {metadata[name]!r}: expected a number."
                ) from None
            if not (math.isfinite(value) and value > 0):
                raise FileProblem(
                    f"metadata {name} = {metadata[name]!r}: expected a positive number."
                )
            return value
    return None
