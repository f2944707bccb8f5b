"""Accelerators that the user declared in JSON files, beside those of the catalogue."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...loras.accelerator import Accelerator, are_partners
from ...loras.catalog import CATALOG
from ...loras.declaration import LARGEST_FILE, SUFFIX, DeclarationError, id_of, parse_declaration
from .files import declaration_names, model_path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """What is wrong with a declaration."""

    id: str  # that the name of its file spells
    words: str


@dataclass(frozen=True)
class Known:
    """Every accelerator there is."""

    records: Mapping[str, Accelerator]  # the catalogue's and the user's, by id
    own: tuple[Accelerator, ...]  # the user's alone
    wrong: tuple[Problem, ...]  # what is wrong with other declarations

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(problem.words for problem in self.wrong)

    def chosen(self, id: str) -> Accelerator:
        """The record of an id. Raises ValueError, with what is wrong in its declaration, if any."""
        if id in self.records:
            return self.records[id]
        wrong = next((problem.words for problem in self.wrong if problem.id == id), None)
        raise ValueError(
            wrong
            or f"{id} is not a known accelerator. Set accelerator to auto, or choose one from the"
            " list."
        )


def declarations() -> dict[str, str]:
    """Declarations by name: in models/fewstep, and beside the LoRAs."""
    paths = {name: model_path("fewstep", name) for name in declaration_names(SUFFIX)}
    return {name: path for name, path in paths.items() if path is not None}


def declared_ids() -> list[str]:
    """The ids that the declarations' names spell, without reading them."""
    return sorted({id_of(name) for name in declaration_names(SUFFIX)} - {"", *CATALOG})


def declaration_paths() -> list[str]:
    return list(declarations().values())


def known_accelerators() -> Known:
    """Every accelerator there is now.

    A wrong declaration is logged, and named where somebody asks for it.
    """
    records, own, wrong = dict(CATALOG), {}, []
    for name, path in declarations().items():
        try:
            record = read_declaration(name, Path(path))
            if record.id in records:
                raise DeclarationError(
                    f"{name}: its name spells {record.id}, which is taken. Rename the file."
                )
        except DeclarationError as error:
            log.warning("Declaration %s", error)
            wrong.append(Problem(id_of(name), str(error)))
            continue
        records[record.id] = record
        own[name] = record
    wrong += [
        Problem(
            record.id,
            f"{name}: its partner is {record.partner}, and no declaration of that name has"
            f" {record.id} as its own. Each of the two experts' declarations names the other.",
        )
        for name, record in own.items()
        if record.partner is not None and not are_partners(record, records.get(record.partner))
    ]
    return Known(records, tuple(own.values()), tuple(wrong))


def read_declaration(name: str, path: Path) -> Accelerator:
    """The accelerator of one file. Raises DeclarationError."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        return parse_declaration(content.decode("utf-8-sig"), name)
    except (OSError, UnicodeDecodeError) as error:
        raise DeclarationError(f"{name}: it cannot be read as UTF-8 text ({error}).") from None
