"""What the name of a model says that was merged into it.

People merge accelerators into models of their own and say so in the name, in any spelling and glued
to any word: RealVisXL_V4.0_Lightning, dreamshaperXL_v21TurboDPMSDE, juggernautXL_lightning_4S. Such
a name does not say which release it was, so it chooses none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .accelerator import Accelerator, Kind, runs_on
from .bases import BaseRow
from .names import MODEL_ENDINGS, experts_named


@dataclass(frozen=True)
class Mark:
    """A word that says of a model that it is distilled."""

    word: str  # for people
    spellings: tuple[str, ...]  # in lower case; of a record, too, these are words of its name
    is_whole: bool = False  # a part of other words as well: its case and its neighbours tell
    excludes: str = "$^"  # a pattern, in lower case, of what looks like it and says something else


MARKS = (
    Mark("Lightning", ("lightning",)),
    Mark("Turbo", ("turbo",), excludes=r"de[-_ ]?turbo|turbo-?charge"),
    Mark("Hyper", ("hyper",), is_whole=True, excludes=r"hyper[-_ ]?real"),
    Mark("LCM", ("lcm",), is_whole=True),
    Mark("DMD2", ("dmd2", "dmd"), is_whole=True),
)
# What is glued to the end of a word and is none of its letters: Hyper-SDXL, LCMv2.
GLUED = r"v\d|sd|xl|flux"
# What denies the word behind it, glued to that or not: noLightning, non-turbo.
DENIAL = r"((?<![A-Za-z])(?i:no|non|without)|(?<=[a-z])(No|Non|Without))[-_ ]?$"
STEPS = r"(?i)(?<!\d)(\d{1,2})[-_ ]?(?:steps?|s)(?![a-z])"


@dataclass(frozen=True)
class Merged:
    """What a model's name says that it has in it."""

    word: str  # Lightning
    records: tuple[Accelerator, ...]  # the releases that it may be, one for each way to run


def merged_by_name(
    path: str, base: BaseRow | None, records: Iterable[Accelerator]
) -> Merged | None:
    """What the name of a model's file, or its title, says that was merged into it; None where it
    says nothing, or nothing that a record for this base has.
    """
    name = path.replace("\\", "/").rpartition("/")[2]
    if name.lower().endswith(MODEL_ENDINGS):
        name = name.rpartition(".")[0]
    # The marks first: most names have none, and there are hundreds of records.
    marks = [mark for mark in MARKS if _is_marked(name, mark)]
    here = [
        record
        for record in (records if marks else ())
        if record.kind in (Kind.LORA, Kind.MODEL)
        and not record.only_by_choice
        and not record.is_declared
        and runs_on(record, base)
    ]
    for mark in marks:
        if meant := _meant_by(mark, here):
            return Merged(mark.word, _one_for_each_run(_of_name(name, meant)))
    return None


def _is_marked(name: str, mark: Mark) -> bool:
    if re.search(mark.excludes, name.lower()):
        return False
    return any(
        not mark.is_whole or _is_whole(name, found.start(), found.end())
        for spelling in mark.spellings
        for found in re.finditer(spelling, name, re.IGNORECASE)
        if not re.search(DENIAL, name[: found.start()])
    )


def _is_whole(name: str, start: int, end: int) -> bool:
    """Whether a part of a name is a word of its own: by what is no letter around it, or by a change
    of case, as in photonLCM and epicHyperXL.
    """
    word, before, after = name[start:end], name[:start][-1:], name[end:]
    begins = (
        not before.isalpha()
        or (before.islower() and word[0].isupper())
        or (before.isupper() and word[0].islower())
    )
    ends = (
        not after[:1].isalpha()
        or re.match(GLUED, after, re.IGNORECASE) is not None
        or word[-1].isupper() != after[0].isupper()
    )
    return begins and ends


def _meant_by(mark: Mark, records: Iterable[Accelerator]) -> list[Accelerator]:
    """The releases that are called so: LoRAs first, for those are what is merged."""
    meant = [
        record
        for record in records
        if any(set(group.split("|")) & set(mark.spellings) for group in record.name_words)
    ]
    return sorted(meant, key=lambda record: record.kind is not Kind.LORA)


def _of_name(name: str, records: Sequence[Accelerator]) -> Sequence[Accelerator]:
    """Those of the step counts and of the expert in a name, as far as any has them. Steps are
    written 4step, 4-steps or 4S.
    """
    counts = {int(count) for count in re.findall(STEPS, name)}
    experts = experts_named(name)
    records = [record for record in records if counts & set(record.steps)] or records
    return [record for record in records if record.expert in experts] or records


def _one_for_each_run(records: Iterable[Accelerator]) -> tuple[Accelerator, ...]:
    """The first of those that run alike."""
    first: dict[str, Accelerator] = {}
    for record in records:
        settings = (record.steps, record.schedule, record.solver, record.cfg, record.gamma)
        first.setdefault(f"{settings} {record.parameterization}", record)
    return tuple(first.values())
