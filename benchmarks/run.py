"""Every figure in one process: what the pack costs and gains beside what one would use instead,
written to benchmarks/results.md.

    python benchmarks/run.py [--parts start loader ...] [--quick] [--out FOLDER]
    python benchmarks/run.py --device cuda            on a GPU, with the full-size architectures too

Each part is a program of its own, python benchmarks/PART.py. Contenders take turns, and a ratio is
the median of those of the pairs. Do nothing else on the machine meanwhile: the load before and
after is written down with the results.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import in_host

in_host.enter()

import torch  # noqa: E402
from curves import save  # noqa: E402
from tables import Table  # noqa: E402

from pack import project_value  # noqa: E402

HERE = Path(__file__).resolve().parent
# Part -> rounds. The order is that of the page.
PARTS = {
    "sampling": 7,
    "fixed_cost": 15,
    "loader": 9,
    "skip_costs": 7,
    "stream": 5,
    "stream_record": 5,
    "motion": 7,
    "start": 5,
    "scaling": 5,
    "budget": 3,
    "whole": 7,
    "recognition": 1,
    "compiled": 1,
}
GPU_PARTS = {"full_size": 1}
# What stands below this on the page was written by hand and stays.
BY_HAND = "## In words, and by single commands"
NO_GPU = (
    "**Nothing here was measured on a GPU.** benchmarks/on_a_card.sh has what is wanted of one, in"
    " ten minutes, and was only tried on small models on a CPU."
)


def main() -> None:
    options = parsed()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("No CUDA device is here. Without --device, the parts for the CPU are run.")
    logging.getLogger().setLevel(logging.ERROR)
    before, started = in_host.load(), time.perf_counter()
    print(f"{in_host.machine()}; load {before}", flush=True)
    measured = {}
    with tempfile.TemporaryDirectory() as scratch:
        for part in options.parts or [*PARTS, *(GPU_PARTS if options.device == "cuda" else ())]:
            rounds = 1 if options.quick else {**PARTS, **GPU_PARTS}[part]
            begun = time.perf_counter()
            tables = importlib.import_module(part).tables(rounds, Path(scratch))
            command = f"python benchmarks/{part}.py --rounds {rounds}"
            measured[f"`{command}`, {time.perf_counter() - begun:.0f} s"] = tables
    options.out.mkdir(parents=True, exist_ok=True)
    facts = (
        f"{in_host.machine()}, ComfyUI-FewStep {project_value('version')}",
        (
            f"load {before} before, {in_host.load()} after; "
            f"{time.perf_counter() - started:.0f} s in all"
        ),
    )
    page = options.out / "results.md"
    before = page.read_text(encoding="utf-8") if page.exists() else ""
    _, heading, kept = before.partition(BY_HAND)
    text = results(measured, facts, options.out)
    page.write_text(f"{text}\n{heading}{kept}" if heading else text, encoding="utf-8")
    print(f"\n{page}")


def results(measured: Mapping[str, Sequence[Table]], facts: Sequence[str], folder: Path) -> str:
    """The page: what was measured where and when, what missed its target, every table under the
    command that makes it.
    """
    missed = [line for tables in measured.values() for table in tables for line in table.missed]
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    parts = ["# Results", f"Made by `python benchmarks/run.py` on {today}. {'. '.join(facts)}."]
    parts += [] if torch.cuda.is_available() else [NO_GPU]
    parts += ["## Targets missed", "\n".join(f"- {line}" for line in missed) or "None."]
    for command, tables in measured.items():
        parts.append(f"## {command}")
        for table in tables:
            parts.append(table.markdown)
            if table.picture is not None:
                parts.append(f"![{table.title}]({written(table, folder)})")
    return "\n\n".join(parts) + "\n"


def written(table: Table, folder: Path) -> str:
    """The name of the picture's file beside the page."""
    name = f"{table.title.lower().replace(' ', '-')}.svg"
    save(table.picture, folder / name)
    return name


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, *GPU_PARTS], help="only these")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round of each, to see that it works; the figures mean nothing",
    )
    parser.add_argument(
        "--device",
        choices=("cuda",),
        help="full-size architectures too; a GPU that is there is used in any case",
    )
    parser.add_argument(
        "--out", type=Path, default=HERE, help="folder for results.md and its pictures"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
