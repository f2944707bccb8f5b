"""What the benchmarks write down: a page says which targets were missed, and a table says what it
is of.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
from tables import Table, at_least, at_most


def test_a_row_is_printed_when_it_is_measured_and_kept_for_the_page(capsys):
    table = Table("Speed", note="On a snail.")
    table.row("lap", "3 s", "1.5", at_most(1.5, 2))
    printed = capsys.readouterr().out
    assert "Speed" in printed and "| lap | 3 s | 1.5 | <= 2 |" in printed
    lines = [
        "### Speed",
        "",
        "| what | measured | result | target |",
        "| --- | --- | --- | --- |",
        "| lap | 3 s | 1.5 | <= 2 |",
    ]
    assert table.markdown.splitlines() == [*lines, "", "On a snail."]


def test_missed_targets_are_said_so():
    table = Table("Speed")
    table.row("first lap", "3 s", "2.5", at_most(2.5, 2))
    table.row("second lap", "2 s", "0.5", at_least(0.5, 0.5))
    table.row("length", "1 m", "", "")
    assert table.missed == ["Speed: first lap: 3 s: 2.5: <= 2: **missed**"]
    assert "| <= 2: **missed** |" in table.markdown and table.markdown.count("missed") == 1


def test_a_row_has_a_cell_for_every_column():
    with pytest.raises(ValueError, match="Speed: 2 cells for 4 columns"):
        Table("Speed").row("lap", "3 s")
