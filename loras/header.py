"""From the bytes of a .safetensors file to its header.

Nothing in it is believed before the format's own library has checked it. Only the header is read:
milliseconds on a file of any size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from .refusal import Refusal

# The endings of files that may be opened here.
ENDINGS = (".safetensors", ".sft")

# In bytes: some 100 000 tensors, which no real file comes near. The format's own 100 MB would take
# a gigabyte and many seconds.
LARGEST_HEADER = 16_000_000
LENGTH_BYTES = 8  # at the beginning of a file: the length of its header

# Not kohya's ss_network_alpha: its scripts write the alpha among the tensors as well, and a file
# that has it in the metadata alone has it multiplied in.
ALPHA_METADATA = ("lora_alpha", "network_alpha", "alpha")


class FileProblem(Refusal):
    """A file that is not what the user means it to be. Says what was found and what to do."""


class Stored(NamedTuple):
    """Where a tensor's numbers are."""

    dtype: str  # the format's name for it, such as BF16
    # Bytes from the start of the file.
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says of its tensors."""

    shapes: Mapping[str, tuple[int, ...]]  # tensor name -> shape
    metadata: Mapping[str, str]  # the header's own string map
    size: int = 0  # bytes of the whole file, 0 if unknown
    stored: Mapping[str, Stored] = field(default_factory=dict)  # empty if unknown


def read_header(path: str | Path) -> Header:
    """The header of a .safetensors file. Raises FileProblem for anything that is not one, whole."""
    with _telling_system_errors(Path(path)):
        entries, size = _entries_of(Path(path))
    metadata = entries.pop("__metadata__", None) or {}
    # The numbers follow the header, and nothing may follow the last of them.
    start = size - max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    shapes, stored = {}, {}
    for key, entry in entries.items():
        begin, end = entry["data_offsets"]
        shapes[key] = tuple(entry["shape"])
        stored[key] = Stored(entry["dtype"], start + begin, start + end)
    return Header(shapes, metadata, size, stored)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The header's own string map alone. Raises FileProblem as read_header does."""
    with _telling_system_errors(Path(path)):
        _readable_lengths(Path(path))
        return _checked_metadata(Path(path))


@contextmanager
def _telling_system_errors(path: Path) -> Iterator[None]:
    """What the system refuses says nothing of the file: no permission, no memory to map it."""
    try:
        yield
    except OSError as error:
        raise FileProblem(f"{path.name} could not be opened: {error.strerror or error}.") from None


def _entries_of(path: Path) -> tuple[dict[str, Any], int]:
    """(the header as stored, bytes of the whole file), once the format's own library accepts it.

    That library hands a header on tensor by tensor, a slice of the file for each, which takes
    longer than reading it again.
    """
    length, size = _readable_lengths(path)
    _checked_metadata(path)
    with path.open("rb") as file:
        file.seek(LENGTH_BYTES)
        try:
            return json.loads(file.read(length)), size
        except ValueError as error:
            raise not_whole(path, error) from None


def _readable_lengths(path: Path) -> tuple[int, int]:
    """Bytes of the header and of the whole file, which a library may open then. Raises FileProblem
    for what is no .safetensors file, and for a header that is longer than any real one.
    """
    size = _size_of(path)
    with path.open("rb") as file:
        start = file.read(LENGTH_BYTES)
    length = int.from_bytes(start, "little")
    if LARGEST_HEADER < length <= size - LENGTH_BYTES:
        raise FileProblem(
            f"{path.name}: its header is {length} bytes long, and no more than {LARGEST_HEADER}"
            " are read here: real LoRAs and models stay far below. Save it again without the"
            " metadata that makes it so long."
        )
    if length > size - LENGTH_BYTES:
        # The eight letters that a page begins with make a huge number.
        is_page = start.startswith(b"<") and length > LARGEST_HEADER
        why = "it is a web page" if is_page else f"its header should be {length} bytes long"
        raise not_whole(path, why)
    return length, size


def _checked_metadata(path: Path) -> dict[str, str]:
    """The string map of a header that the format's own library accepts; raises FileProblem for any
    other.
    """
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except (SafetensorError, ValueError) as error:
        raise not_whole(path, error) from None


def not_whole(path: Path, why: object) -> FileProblem:
    """What to say of a file that cannot be read as one of its kind."""
    return FileProblem(
        f"{path.name} ({path.stat().st_size} bytes) is not a complete .safetensors file: {why}. "
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
