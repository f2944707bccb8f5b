"""Tables of measurements: printed row by row while they are taken, kept for the page of results."""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import in_host

COLUMNS = ("what", "measured", "result", "target")


@dataclass(frozen=True)
class Target:
    """What was aimed at, and whether it was reached."""

    words: str
    is_met: bool

    def __str__(self) -> str:
        return self.words if self.is_met else f"{self.words}: **missed**"


def at_most(value: float, bound: float, form: str = "{:g}") -> Target:
    return Target(f"<= {form.format(bound)}", value <= bound)


def at_least(value: float, bound: float, form: str = "{:g}") -> Target:
    return Target(f">= {form.format(bound)}", value >= bound)


@dataclass
class Table:
    """note: what has to be known to read it. picture: a matplotlib Figure that belongs to it."""

    title: str
    columns: tuple[str, ...] = COLUMNS
    note: str = ""
    picture: Any = None
    rows: list[tuple[object, ...]] = field(default_factory=list)

    def row(self, *cells: object) -> None:
        """Add a row and print it. A target in it is a Target, so that a miss is found again."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{self.title}: {len(cells)} cells for {len(self.columns)} columns")
        if not self.rows:
            print(f"\n{self.title}\n\n{line(self.columns)}\n{line(['---'] * len(self.columns))}")
        self.rows.append(cells)
        print(line(cells), flush=True)

    @property
    def markdown(self) -> str:
        lines = [line(self.columns), line(["---"] * len(self.columns)), *map(line, self.rows)]
        return "\n\n".join(filter(None, [f"### {self.title}", "\n".join(lines), self.note]))

    @property
    def missed(self) -> list[str]:
        """One line for each row that misses a target."""
        return [
            ": ".join((self.title, *map(str, row)))
            for row in self.rows
            if any(isinstance(cell, Target) and not cell.is_met for cell in row)
        ]


def line(cells: Iterable[object]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def main_of(
    description: str | None,
    tables: Callable[..., list[Table]],
    rounds: int,
    **options: dict[str, Any],
) -> None:
    """A benchmark's command line: its tables as measured. options: name -> argparse settings."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds)
    for name, settings in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **settings)
    values = vars(parser.parse_args())
    logging.getLogger().setLevel(logging.ERROR)
    print(f"{in_host.machine()}\nload before: {in_host.load()}")
    with tempfile.TemporaryDirectory() as folder:
        tables(values.pop("rounds"), Path(folder), **values)
    print(f"\nload after: {in_host.load()}")
