"""Which accelerators' files are there, in the folders of the host."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable

from ...loras.accelerator import Accelerator
from ...loras.header import FileProblem, read_header
from ...loras.recognition import recognise
from .declared import Known
from .files import is_folder, listed_files, model_path


def files_at_hand(records: Iterable[Accelerator], known: Known) -> dict[str, str]:
    """Accelerator id -> the name under which one of its files lies in its model folder.

    A name that several releases share says nothing; such a LoRA is recognised by its header.
    """
    uses = Counter(
        name
        for record in known.records.values()
        if not record.only_by_choice
        for name in {file.name for file in record.files}
    )
    at_hand = {}
    for record in records:
        places = {
            (file.folder, file.name)
            for file in record.files
            if file.name and is_folder(file.folder)
        }
        for folder, published in sorted(places):
            for name in listed_files(folder):
                if os.path.basename(name) == published and (
                    uses[published] <= 1 or _is_of(record, folder, name, known)
                ):
                    at_hand[record.id] = name
    return at_hand


def _is_of(record: Accelerator, folder: str, name: str, known: Known) -> bool:
    """Whether the file at hand is this release's, by its contents and its path."""
    path = model_path(folder, name)
    if path is None or not name.endswith(".safetensors"):
        return False
    try:
        recognition = recognise(read_header(path), name, known.records.values())
    except FileProblem:
        return False
    return recognition.record is not None and recognition.record.id == record.id
