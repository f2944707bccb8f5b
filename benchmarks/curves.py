"""Curves of error against evaluations, and how a picture of a benchmark is saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfyui_fewstep.quality.figure import new_figure

COLOURS = (
    "#d1242f",
    "#57606a",
    "#8c959f",
    "#bf8700",
    "#0969da",
    "#54aeff",
    "#8250df",
    "#1a7f37",
    "#bc4c00",
    "#e85aad",
)
WIDTH, HEIGHT, LEGEND_LINE = 360, 300, 18  # of one panel, and of the legend below, in pixels
OURS = "forecast"  # drawn thicker than what it is compared with


@dataclass(frozen=True)
class Curve:
    name: str
    points: list[tuple[int, float]]  # (evaluations, error above 0)


def draw(panels: list[tuple[str, list[Curve]]]) -> Any:
    """A matplotlib Figure of one panel for each (title, curves) beside each other, which share a
    logarithmic axis of errors and one legend below.
    """
    names = list(dict.fromkeys(curve.name for _, curves in panels for curve in curves))
    colours = dict(zip(names, COLOURS))
    height = HEIGHT + LEGEND_LINE * -(-len(names) // 2)
    figure = new_figure(WIDTH * len(panels), height)
    lines = {}
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, curves) in zip(axes, panels):
        axis.set(title=title, xlabel="evaluations made", yscale="log")
        axis.grid(axis="y", alpha=0.3)
        for curve in curves:
            points = sorted(curve.points)
            (lines[curve.name],) = axis.plot(
                [count for count, _ in points],
                [error for _, error in points],
                color=colours[curve.name],
                linewidth=3 if curve.name == OURS else 1.5,
                marker="o",
                markersize=4,
            )
    figure.legend([lines[name] for name in names], names, loc="outside lower center", ncols=2)
    return figure


def save(figure: Any, path: Path) -> None:
    """Write a figure as .svg or .png. The same drawing gives the same file on every day."""
    import matplotlib

    # Text as text, and the same ids every time.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "curves"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {})
