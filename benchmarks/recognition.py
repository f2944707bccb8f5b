"""What becomes of published files, renamed ones and ordinary LoRAs, and how long recognition takes.

The headers are those of published files, rebuilt to the byte where their sizes are known
(tests/real_headers.py); what is asked about and what decides is said in tests/recognition_table.py,
which also prints every wrong row. The time is that of reading and recognising the largest of them.

    python benchmarks/recognition.py
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

import in_host

in_host.enter()

from comfyui_fewstep.loras.accelerator import Kind  # noqa: E402
from comfyui_fewstep.loras.catalog import CATALOG  # noqa: E402
from comfyui_fewstep.loras.fingerprint import layer_of  # noqa: E402
from comfyui_fewstep.loras.header import read_header  # noqa: E402
from comfyui_fewstep.loras.names import kept_name, read_published  # noqa: E402
from comfyui_fewstep.loras.recognition import recognise  # noqa: E402
from published_headers import header_of  # noqa: E402
from real_headers import REAL_HEADERS  # noqa: E402
from recognition_table import ASKED, RIGHT, WRONG, counted, outcomes  # noqa: E402
from tables import Table, Target, at_most, main_of  # noqa: E402

LARGEST = max(REAL_HEADERS.values(), key=lambda real: real.tensors)
# As long as nobody notices.
MOST_MILLISECONDS = 50


def tables(rounds: int, folder: Path) -> list[Table]:
    return [verdicts(), published_names(), milliseconds(7 * rounds, folder)]


def verdicts() -> Table:
    table = Table(
        f"Recognition on {len(REAL_HEADERS)} published headers",
        ("files", "right", "asked", "wrong", "target"),
        "Right: the file's own record, or said not to be an accelerator. Asked: nothing is attached"
        " and the candidates are named. Wrong: taken for another, or a style for an accelerator.",
    )
    for group, counts in counted(outcomes()).items():
        target = Target("none wrong", counts[WRONG] == 0)
        table.row(group, counts[RIGHT], counts[ASKED], counts[WRONG], target)
    return table


def published_names() -> Table:
    """Of every LoRA record of the catalogue, with made-up headers where none is known."""
    files = [
        (record, file)
        for record in CATALOG.values()
        for file in record.files
        if record.kind is Kind.LORA and not record.only_by_choice
    ]
    recognised = sum(
        recognise(header_of(record, rank=file.rank or 32), file.name, CATALOG.values()).record
        is record
        for record, file in files
    )
    table = Table("Recognition: every LoRA of the catalogue")
    table.row(
        "under their published names",
        f"{recognised} of {len(files)}",
        "the others share a name with other releases or have none",
        "",
    )
    return table


def milliseconds(rounds: int, folder: Path) -> Table:
    table = Table("Recognition: reading and recognising the largest published header")
    path = LARGEST.save(folder / "renamed.safetensors")

    def first() -> None:
        for remembered in (layer_of, kept_name, read_published):
            remembered.cache_clear()
        again()

    def again() -> None:
        recognise(read_header(path), path.name, CATALOG.values())

    size = f"{LARGEST.name}, {LARGEST.tensors} tensors, {path.stat().st_size / 1e9:.1f} GB"
    for words, run in (("for the first time", first), ("again", again)):
        seconds = [in_host.seconds_of(run) for _ in range(rounds)]
        table.row(
            f"{size}, {words}",
            f"{median(seconds) * 1000:.1f} ms",
            f"slowest {max(seconds) * 1000:.1f} ms",
            at_most(median(seconds) * 1000, MOST_MILLISECONDS, "{:g} ms"),
        )
    path.unlink()
    return table


if __name__ == "__main__":
    main_of(__doc__, tables, rounds=1)
