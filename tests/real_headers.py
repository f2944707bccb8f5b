"""Headers of published accelerator files, rebuilt from tests/data/real_headers.json: names, shapes,
dtypes and metadata, to the byte where the file's size is published.

A file's layers are written as templates, `blocks.{0-39}.ffn.{0,2}`, each with the shape of the
weight it adapts; its rank, its key endings and its dtypes make tensors of them. `status`: exact,
where the rebuilt file has the published number of bytes; near, where a few are missing; inferred,
where names or ranks stand in for what is not known. What is in no such file is made up in
published_headers.py.
"""

from __future__ import annotations

import fnmatch
import functools
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from comfyui_fewstep.loras.accelerator import Accelerator, PublishedFile
from comfyui_fewstep.loras.header import Header, Stored

Shape = tuple[int, ...]

DATA = json.loads((Path(__file__).parent / "data" / "real_headers.json").read_text())
BYTES = {"F32": 4, "I64": 8, "F16": 2, "BF16": 2, "F8_E4M3": 1}
# The prefix under which layers are written flat, with "_" for ".".
KOHYA = "lora_unet_"


def expanded(template: str) -> list[str]:
    """Every name a template stands for: {0-39} and {q,k,v} are each of their numbers or words."""
    pieces = re.split(r"\{([^}]*)\}", template)
    choices = [_choices(piece) if at % 2 else [piece] for at, piece in enumerate(pieces)]
    return ["".join(name) for name in itertools.product(*choices)]


def _choices(text: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)-(\d+)", text)
    if numbers is None:
        return text.split(",")
    return [str(number) for number in range(int(numbers[1]), int(numbers[2]) + 1)]


def shapes_in(kind: str, names: Iterable[str]) -> dict[str, Shape]:
    """Layer or tensor name -> shape, of several tables. kind: layers or differences."""
    return {
        name: tuple(shape)
        for table in names
        for template, shape in DATA[kind][table].items()
        for name in expanded(template)
    }


@dataclass(frozen=True)
class RealHeader:
    """One published key set. Several releases may share it."""

    name: str
    family: str
    published_as: tuple[str, ...]  # repository and path, with * for what differs between its files
    source: str
    status: str  # exact, near or inferred
    note: str
    bytes: int | None  # of the published file, None where not published to the byte
    tensors: int
    dtype: str
    rank: int | None  # of every pair, but no more than the weight's own rows or columns
    alpha: str | None  # dtype of the alpha scalars, None where there are none
    metadata: Mapping[str, str]
    prefix: str
    endings: tuple[str, ...]  # of the down and the up factor
    biases: bool  # whether every pair comes with a difference of its bias
    layers: tuple[str, ...]  # tables of adapted layers
    differences: tuple[str, ...]  # tables of whole tensors

    @functools.cached_property
    def shapes(self) -> dict[str, Shape]:
        """Tensor name -> shape."""
        shapes = {}
        for layer, weight in shapes_in("layers", self.layers).items():
            shapes |= self._tensors_of(self.key_of(layer), weight)
        for name, shape in shapes_in("differences", self.differences).items():
            # The text encoder's layer, the one of a pair that is written out, has no prefix.
            shapes[name if name.startswith("text_embedding_projection") else self.prefix + name] = (
                shape
            )
        return shapes

    def key_of(self, layer: str) -> str:
        return self.prefix + (layer.replace(".", "_") if self.prefix == KOHYA else layer)

    def _tensors_of(self, layer: str, weight: Shape) -> dict[str, Shape]:
        outputs, inputs, *kernel = weight
        down, up = self.endings
        rank = min(self.rank, outputs, inputs * math.prod(kernel))
        tensors = {
            f"{layer}.{down}": (rank, inputs, *kernel),
            f"{layer}.{up}": (outputs, rank, *(1 for _ in kernel)),
        }
        if self.alpha:
            tensors[f"{layer}.alpha"] = ()
        if self.biases:
            tensors[f"{layer}.diff_b"] = (outputs,)
        return tensors

    def dtype_of(self, key: str) -> str:
        return self.alpha if self.alpha and key.endswith(".alpha") else self.dtype

    @functools.cached_property
    def stored(self) -> dict[str, tuple[str, int, int]]:
        """Tensor name -> (dtype, first byte, byte after the last), from where the data begin."""
        return laid_out(self.shapes, self.dtype_of)

    @functools.cached_property
    def written(self) -> bytes:
        """The file's first bytes, everything before the tensors' data."""
        return written(self.shapes, self.stored, self.metadata)

    @property
    def size(self) -> int:
        """Bytes of the whole rebuilt file."""
        return len(self.written) + max(end for _, _, end in self.stored.values())

    def header(self, size: int | None = None) -> Header:
        """As the reader gives it. size: of the file, the published one if not given."""
        start = len(self.written)
        stored = {
            key: Stored(dtype, start + begin, start + end)
            for key, (dtype, begin, end) in self.stored.items()
        }
        whole = (self.bytes or self.size) if size is None else size
        return Header(self.shapes, dict(self.metadata), whole, stored)

    def save(self, path: Path) -> Path:
        """A file of the whole size, whose data are a hole that no disk holds."""
        with path.open("wb") as file:
            file.write(self.written)
            file.truncate(self.size)
        return path

    def is_of(self, file: PublishedFile) -> bool:
        """Whether a file of the catalogue has this header."""
        return any(
            fnmatch.fnmatchcase(f"{file.repo}/{file.path}", name) for name in self.published_as
        )

    def owners(self, records: Iterable[Accelerator]) -> list[tuple[Accelerator, PublishedFile]]:
        """Records of the catalogue with the files of theirs that have this header."""
        return [(record, file) for record in records for file in record.files if self.is_of(file)]


def laid_out(shapes: Mapping[str, Shape], dtype_of) -> dict[str, tuple[str, int, int]]:
    """Where the format's own library puts each tensor: larger numbers first, then by name."""
    stored, at = {}, 0
    for key in sorted(shapes, key=lambda key: (-BYTES[dtype_of(key)], key)):
        end = at + math.prod(shapes[key]) * BYTES[dtype_of(key)]
        stored[key] = (dtype_of(key), at, end)
        at = end
    return stored


def written(
    shapes: Mapping[str, Shape],
    stored: Mapping[str, tuple[str, int, int]],
    metadata: Mapping[str, str],
) -> bytes:
    """Length, JSON and the spaces that fill it to a multiple of eight, as the library has them."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    for key, (dtype, begin, end) in stored.items():
        entries[key] = {"dtype": dtype, "shape": list(shapes[key]), "data_offsets": [begin, end]}
    content = json.dumps(entries, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content


def _real_header(entry: Mapping[str, object]) -> RealHeader:
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()
    }
    return RealHeader(**values)


REAL_HEADERS = {entry["name"]: _real_header(entry) for entry in DATA["files"]}
