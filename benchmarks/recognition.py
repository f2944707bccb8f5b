"""How many of the catalogue's LoRA records are recognised when a file was renamed: by its contents, or not at all.

Every record gets a header as its published file has it, and a name that says nothing. Printed, not asserted: what the header
cannot tell must be refused, and the share of what it can tell is a fact about the published files.

    python benchmarks/recognition.py
"""

from __future__ import annotations

import sys
import time
from collections import Counter

import in_host

in_host.enter()
sys.path.append(str(in_host.ROOT / "tests"))

from comfyui_fewstep.loras.accelerator import Kind  # noqa: E402
from comfyui_fewstep.loras.catalog import CATALOG  # noqa: E402
from comfyui_fewstep.loras.fingerprint import recognise  # noqa: E402
from published_headers import header_of  # noqa: E402

RENAMED = "a1b2c3.safetensors"


def is_extract(file) -> bool:
    """Whether a file is the difference of two whole models, which writes whole tensors beside low-rank pairs.

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


def report(files, differences: bool) -> None:
    outcomes: Counter[str] = Counter()
    left, decided = [], set()
    for record, file in files:
        what, count = outcome(record, file, differences and is_extract(file))
        outcomes[what] += 1
        left.append(count)
        if what.startswith("recognised"):
            decided.add(record.id)
    print("extracts with whole differences:" if differences else "low-rank pairs and exact sizes alone:")
    for what, count in outcomes.most_common():
        print(f"  {count:4} {what}")
    records = {record.id for record, _ in files}
    print(f"  {len(decided)} of {len(records)} records have a renamed file that is recognised: {', '.join(sorted(decided)) or 'none'}")
    print(f"  candidates left: {sum(left) / len(left):.1f} on average, {max(left)} at most")


def main() -> None:
    records = [record for record in CATALOG.values() if record.kind is Kind.LORA and not record.only_by_choice]
    files = [(record, file) for record in records for file in record.files]
    print(f"{len(files)} published files of {len(records)} LoRA records, each renamed to {RENAMED}")
    for differences in (False, True):
        report(files, differences)
    started = time.perf_counter()
    by_name = sum(
        recognise(header_of(record, rank=file.rank or 32), file.name or RENAMED, CATALOG.values()).record is record
        for record, file in files
    )
    print(f"under their published names: {by_name} of {len(files)} files; the others share a name with other releases or have none")
    print(f"{1000 * (time.perf_counter() - started) / len(files):.2f} ms for each header")


if __name__ == "__main__":
    main()
