"""How many renamed LoRAs of the catalogue are still recognised, by their contents.

Every record gets a header as its published file has it, and a name that says nothing. Printed, not
asserted: what the header cannot tell must be refused, and the share of what it can tell is a fact
about the published files.

    python benchmarks/recognition.py

Two readings of the published files: with low-rank pairs and exact sizes alone, and with the
extracts also writing whole differences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import in_host

in_host.enter()

from comfyui_fewstep.loras.accelerator import Accelerator, Kind, PublishedFile  # noqa: E402
from comfyui_fewstep.loras.catalog import CATALOG  # noqa: E402
from comfyui_fewstep.loras.recognition import recognise  # noqa: E402
from published_headers import header_of  # noqa: E402
from tables import Table, Target, main_of  # noqa: E402

RENAMED = "a1b2c3.safetensors"


def is_extract(file) -> bool:
    """Whether a file is the difference of two models: whole tensors beside low-rank pairs.

    Reported of several of these publishers' files, read in none here.
    """
    return ("Kijai" in file.repo or "lightx2v" in file.repo) and "average" not in file.name


def outcome(record, file, differences: bool) -> tuple[str, int]:
    """(what became of a renamed file, how many candidates are left)."""
    header = header_of(record, rank=file.rank or 32, differences=differences, size=file.size or 0)
    found = recognise(header, RENAMED, CATALOG.values())
    if found.record is record:
        return "recognised by its contents", 1
    if found.record is not None:
        return f"TAKEN FOR {found.record.id}", 1
    return "refused with the candidates", len(found.candidates)


def tables(rounds: int, folder: Path) -> list[Table]:
    records = [
        record
        for record in CATALOG.values()
        if record.kind is Kind.LORA and not record.only_by_choice
    ]
    files = [(record, file) for record in records for file in record.files]
    table = Table(
        f"Recognition: {len(files)} published files of {len(records)} LoRA records, each renamed to"
        f" {RENAMED}"
    )
    add_renamed(table, "low-rank pairs and exact sizes alone", files, differences=False)
    add_renamed(table, "extracts with whole differences", files, differences=True)
    by_name = sum(
        recognise(
            header_of(record, rank=file.rank or 32), file.name or RENAMED, CATALOG.values()
        ).record
        is record
        for record, file in files
    )
    table.row(
        "under their published names",
        f"{by_name} of {len(files)}",
        "the others share a name with other releases or have none",
        "",
    )
    return [table]


def add_renamed(
    table: Table, words: str, files: Sequence[tuple[Accelerator, PublishedFile]], differences: bool
) -> None:
    """What becomes of every file under a name that says nothing."""
    read = [
        (record, *outcome(record, file, differences and is_extract(file))) for record, file in files
    ]
    outcomes, left = Counter(what for _, what, _ in read), [count for *_, count in read]
    decided = {record.id for record, what, _ in read if what.startswith("recognised")}
    table.row(
        words,
        "; ".join(f"{count} {what}" for what, count in outcomes.most_common()),
        f"{len(decided)} records recognised; {sum(left) / len(left):.1f} candidates left on"
        f" average, {max(left)} at most",
        Target("none taken for another", not any(what.startswith("TAKEN") for what in outcomes)),
    )


if __name__ == "__main__":
    main_of(__doc__, tables, rounds=1)
