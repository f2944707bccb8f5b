"""What the benchmarks write down: a page says which targets were missed, a table says what it is
of, and a picture has every curve.
"""

from __future__ import annotations

import pytest
from curves import Curve, draw, save
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


def test_panels_share_their_errors_and_name_each_curve_once(tmp_path):
    ours = Curve("forecast", [(20, 0.001), (10, 0.1)])
    others = [Curve("EasyCache", [(10, 0.2), (20, 0.01)]), Curve("no error above 0", [])]
    figure = draw([("20 steps", [ours, *others]), ("30 steps", [ours])])
    left, right = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["20 steps", "30 steps"]
    assert left.get_yscale() == "log" and left.get_ylim() == right.get_ylim()
    assert list(left.lines[0].get_xdata()) == [10, 20], "in the order of their evaluations"
    assert left.lines[0].get_color() == right.lines[0].get_color() != left.lines[1].get_color()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "forecast",
        "EasyCache",
        "no error above 0",
    ]
    for name in ("curves.svg", "curves.png"):
        save(figure, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    assert "<dc:date>" not in (tmp_path / "curves.svg").read_text(encoding="utf-8")
