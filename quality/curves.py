"""How a training went: its loss, and how near it came to what it should make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .figure import new_figure

WIDTH, HEIGHT = 1000, 420  # pixels
FAINT, PLAIN, MARK = "#c9d1d6", "#2b6cb0", "#c0392b"
MEANS = 40  # points of the smoothed loss


@dataclass(frozen=True)
class Learning:
    """What is drawn."""

    losses: Sequence[float]  # of each iteration
    distances: Sequence[tuple[int, float]]  # (iteration, how far off in percent)
    changes_at: int  # iteration from which the loss is one of another kind


def draw_learning(learning: Learning) -> Any:
    """A matplotlib Figure: the loss on the left, the distance on the right."""
    figure = new_figure(WIDTH, HEIGHT)
    loss, distance = figure.subplots(1, 2)
    iterations = range(1, len(learning.losses) + 1)
    loss.plot(iterations, learning.losses, color=FAINT, linewidth=0.8)
    loss.plot(*zip(*smoothed(learning.losses)), color=PLAIN, label="loss")
    if learning.changes_at < len(learning.losses):
        words = "from here on its own states"
        loss.axvline(learning.changes_at, color=MARK, linestyle="--", label=words)
    loss.set(xlabel="iterations", title="Loss", yscale="log")
    loss.legend(loc="best", fontsize=9)
    if learning.distances:
        distance.plot(*zip(*learning.distances), color=PLAIN, marker="o", markersize=4)
    distance.set(
        xlabel="iterations", ylabel="%", title="Distance to the teacher's end, of its size"
    )
    distance.set_ylim(bottom=0)
    for axes in (loss, distance):
        axes.grid(True, which="major", alpha=0.3)
    return figure


def smoothed(values: Sequence[float]) -> list[tuple[float, float]]:
    """(the middle, the mean) of stretches of equal length, at most MEANS of them."""
    length = -(-len(values) // MEANS)
    parts = [values[first : first + length] for first in range(0, len(values), length)]
    return [
        (number * length + (len(part) + 1) / 2, sum(part) / len(part))
        for number, part in enumerate(parts)
    ]
