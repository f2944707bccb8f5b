"""What a distillation leaves on disk, all in a folder of models/loras: the LoRA, its declaration,
and what an interrupted run goes on from.

Everything is written beside its place first and moved there whole. The checkpoint is a safetensors
file too, under an ending that no loader lists.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...loras.declaration import SUFFIX
from ...loras.header import FileProblem, read_metadata

# In the metadata of a LoRA that was made here, and of a checkpoint.
MADE_HERE = "fewstep_distilled"
CHECKPOINT = ".fewstep-checkpoint"
LONGEST_NAME = 200  # bytes; with an ending and what is added while it is written, 255 at most
NOT_IN_A_NAME = r'[/\\:*?"<>|\x00-\x1f]'


@dataclass(frozen=True)
class DistilFiles:
    """Where a run's files lie."""

    folder: Path
    name: str  # without an ending

    @property
    def lora_name(self) -> str:
        """As loaders list it."""
        return f"{self.name}.safetensors"

    @property
    def lora(self) -> Path:
        return self.folder / self.lora_name

    @property
    def declaration(self) -> Path:
        return self.folder / f"{self.name}{SUFFIX}"

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}{CHECKPOINT}"

    @property
    def made(self) -> dict[str, Any] | None:
        """What the LoRA says of how it was made here; None where there is none, or another's."""
        return _made_here(self.lora)

    @property
    def begun(self) -> dict[str, Any] | None:
        """What the checkpoint says of its run; None where there is none."""
        path = self.checkpoint
        if not path.exists():
            return None
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get(MADE_HERE, "{}"))


def files_for(file_name: str) -> DistilFiles:
    """Where the files of this name lie. Raises ValueError for what is no plain name."""
    name = file_name.strip().removesuffix(".safetensors")
    if re.search(NOT_IN_A_NAME, name) or name in ("", ".", "..") or name.startswith("."):
        raise ValueError(
            f"file_name is a name alone, without folders, such as my_accelerator, and not"
            f" {file_name!r}. The file is written into models/loras."
        )
    if len(name.encode()) > LONGEST_NAME or not name.isprintable():
        raise ValueError(
            f"file_name must be letters that can be printed, at most {LONGEST_NAME} bytes of them;"
            f" this one has {len(name.encode())}. Choose a shorter name."
        )
    return DistilFiles(Path(folder_paths.get_folder_paths("loras")[0]), name)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file whole or not at all. metadata: what made it."""
    # One entry alone: of several the format's library shuffles the order, and a file would have
    # other bits each time.
    entry = {MADE_HERE: json.dumps(metadata, sort_keys=True)}
    with _put_whole(path) as partial:
        save_file(dict(tensors), partial, metadata=entry)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with _put_whole(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def _put_whole(path: Path) -> Iterator[Path]:
    """Where to write; moved to its place at the end, and gone where that fails.

    Raises PermissionError in words where a file is there that is in use.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".new")
    try:
        yield partial
        os.replace(partial, path)
    except PermissionError as error:
        raise PermissionError(
            f"{path.name} in {path.parent} cannot be written: {error.strerror}. If it is in use, as"
            " by a loader that has it (Windows), free the models and the node cache, then run again"
            " with resume on: what was saved last is there."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file of ours, whatever its ending, in memory of their own: a
    file that is mapped cannot be replaced on Windows.
    """
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}


def _made_here(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return json.loads(read_metadata(path).get(MADE_HERE, "null"))
    except (FileProblem, ValueError):
        return None
