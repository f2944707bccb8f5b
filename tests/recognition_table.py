"""What becomes of published files, of renamed and resized ones, and of ordinary LoRAs that have the
words of an accelerator in their names: right, asked or wrong.

    python tests/recognition_table.py

Right: a published file is recognised as its own record; an ordinary LoRA is said not to be an
accelerator. Asked: nothing is attached and the candidates are named, a published file's own among
them. Wrong: anything else, above all a style attached as an accelerator.
"""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import conftest  # noqa: F401  loads the pack

# isort: split
from comfyui_fewstep.loras.accelerator import Accelerator, Kind, PublishedFile
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.fingerprint import Fingerprint, fingerprint_of
from comfyui_fewstep.loras.header import Header
from comfyui_fewstep.loras.recognition import Recognition, recognise_lora
from ordinary_loras import ORDINARY_LORAS, RANKS, STYLE_NAMES, names_of, titled, words_of
from real_headers import REAL_HEADERS, RealHeader

RECORDS = tuple(CATALOG.values())
RECOGNISABLE = tuple(
    record for record in RECORDS if record.kind is Kind.LORA and not record.only_by_choice
)
RENAMED = "a1b2c3.safetensors"
RESIZED = (8, 32, 128)
RIGHT, ASKED, WRONG = "right", "asked", "wrong"


@dataclass(frozen=True)
class Outcome:
    """What became of one file under one name."""

    group: str
    file: str
    name: str
    verdict: str
    taken_for: str  # the record it was recognised as, empty where none


def stem_of(file: PublishedFile) -> str:
    return file.name.rsplit(".", 1)[0]


def other_names(record: Accelerator, file: PublishedFile) -> list[str]:
    """Names under which people keep a downloaded file."""
    return [
        RENAMED,
        f"{words_of(record)}.safetensors",
        f"{stem_of(file)} (1).safetensors",
        f"old/{stem_of(file)}_backup.safetensors",
        f"{record.family.split()[0].lower()}.safetensors",
    ]


def resized(real: RealHeader, rank: int) -> Header:
    """As the usual script writes it: another rank, alpha and metadata of its own."""
    smaller = dataclasses.replace(
        real,
        rank=rank,
        metadata={**real.metadata, "ss_network_dim": str(rank), "ss_training_comment": "resized"},
        bytes=None,
    )
    return smaller.header()


def published() -> Iterator[tuple[RealHeader, Accelerator, PublishedFile]]:
    for real in REAL_HEADERS.values():
        for record, file in real.owners(RECOGNISABLE):
            yield real, record, file


def of_published() -> Iterator[Outcome]:
    for real, record, file in published():
        path = f"{file.repo}/{file.path}"
        renamed = dict.fromkeys(other_names(record, file), "published files, renamed")
        names = {
            path: "published files, with their folders",
            file.name: "published files, names alone",
            **renamed,
        }
        yield from judged(real.name, real.header(), names, record)
        names = {path: "resized files, published names"} | dict.fromkeys(
            renamed, "resized files, renamed"
        )
        for rank in RESIZED:
            yield from judged(f"{real.name} at rank {rank}", resized(real, rank), names, record)


def judged(
    what: str, header: Header, groups: Mapping[str, str], own: Accelerator
) -> Iterator[Outcome]:
    """groups: by the names under which the file is tried."""
    fingerprint = fingerprint_of(header)
    for name, group in groups.items():
        recognition = recognise_lora(
            fingerprint, header.metadata, name, header.size, RECORDS, own.bases[0]
        )
        yield Outcome(group, what, name, verdict_on(recognition, own), id_of(recognition))


def verdict_on(recognition: Recognition, own: Accelerator) -> str:
    if recognition.record is not None:
        return RIGHT if recognition.record is own else WRONG
    return ASKED if own in recognition.candidates else WRONG


def id_of(recognition: Recognition) -> str:
    return recognition.record.id if recognition.record else ""


def of_ordinary(ranks: Sequence[int] = RANKS) -> Iterator[Outcome]:
    for lora in ORDINARY_LORAS:
        own_names = names_of(lora, [record for record in RECOGNISABLE if lora.base in record.bases])
        for rank in ranks:
            header = lora.header(rank, "")
            fingerprint = fingerprint_of(header)
            what = f"{lora.format}, rank {rank}"
            for name in (*STYLE_NAMES, *own_names):
                path = f"{name}.safetensors"
                yield of_style(lora.base.label, what, fingerprint, header.metadata, path)
            for name in STYLE_NAMES:
                titles = titled(header.metadata, name)
                yield of_style(lora.base.label, f"{what}, titled {name}", fingerprint, titles)


def of_style(
    base: str,
    what: str,
    fingerprint: Fingerprint,
    metadata: Mapping[str, str],
    path: str = RENAMED,
) -> Outcome:
    recognition = recognise_lora(fingerprint, metadata, path, 0, RECORDS)
    verdict = WRONG if recognition.record else ASKED if recognition.candidates else RIGHT
    return Outcome(f"ordinary LoRAs, {base}", what, path, verdict, id_of(recognition))


def outcomes() -> list[Outcome]:
    return [*of_published(), *of_ordinary()]


def counted(found: Iterable[Outcome]) -> dict[str, Counter[str]]:
    """Group -> verdict -> how many."""
    groups: dict[str, Counter[str]] = {}
    for outcome in found:
        groups.setdefault(outcome.group, Counter())[outcome.verdict] += 1
    return groups


def main() -> None:
    found = outcomes()
    lines = ["| files | right | asked | wrong |", "|---|---|---|---|"]
    for group, counts in counted(found).items():
        lines.append(f"| {group} | {counts[RIGHT]} | {counts[ASKED]} | {counts[WRONG]} |")
    lines += [
        f"WRONG {outcome.file} as {outcome.name}: {outcome.taken_for or 'turned away'}"
        for outcome in found
        if outcome.verdict == WRONG
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
