"""A chart of costs: points on logarithmic axes, a line they lie on, a limit, one point ringed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .figure import new_figure

Point = tuple[float, float]  # x, y

WIDTH, HEIGHT = 1000, 620  # pixels
LINE, LIMIT = "#c9d1d6", "#c0392b"
BENDS = 40  # straight pieces that a bent line is drawn in


@dataclass(frozen=True)
class Series:
    """Points of one kind."""

    name: str  # in the legend
    colour: str
    points: tuple[Point, ...]
    labels: Mapping[Point, str]  # what stands beside some of them


@dataclass(frozen=True)
class Chart:
    """What is drawn."""

    title: str
    x_name: str
    y_name: str
    series: tuple[Series, ...]
    slope: float  # of the line y = floor + slope * x, and its name in the legend
    slope_name: str
    limit: float  # a level of y, infinite where there is none, and its name in the legend
    limit_name: str
    ringed: Point  # and its name in the legend, and what stands beside it
    ringed_name: str
    ringed_label: str
    floor: float = 0.0  # what all of y stands on, and its name in the legend
    floor_name: str = ""

    @property
    def span(self) -> list[float]:
        """From where to where x is shown: all points, with some room."""
        xs = [point[0] for series in self.series for point in series.points]
        return [0.7, 1.6 * max(*xs, self.ringed[0])]

    @property
    def xs(self) -> list[float]:
        """Where the line is drawn: with a floor it bends on logarithmic axes."""
        if not self.floor:
            return self.span
        first, last = self.span
        return [first * (last / first) ** (n / BENDS) for n in range(BENDS + 1)]


def draw_chart(chart: Chart) -> Any:
    """The chart as a matplotlib Figure."""
    figure = new_figure(WIDTH, HEIGHT)
    axes = figure.subplots()
    line = [chart.floor + chart.slope * x for x in chart.xs]
    axes.plot(chart.xs, line, color=LINE, zorder=1, label=chart.slope_name)
    if chart.floor:
        axes.axhline(chart.floor, color=LINE, linestyle=":", zorder=1, label=chart.floor_name)
    for series in chart.series:
        _draw_series(axes, series)
    if math.isfinite(chart.limit):
        axes.axhline(chart.limit, color=LIMIT, linestyle="--", zorder=2, label=chart.limit_name)
    else:
        axes.plot([], [], linestyle="none", label=chart.limit_name)
    _draw_ring(axes, chart)
    axes.set(
        xscale="log",
        yscale="log",
        xlim=chart.span,
        xlabel=chart.x_name,
        ylabel=chart.y_name,
        title=chart.title,
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda value, _: "")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(loc="best", fontsize=9)
    return figure


def _draw_series(axes: Any, series: Series) -> None:
    if series.points:
        axes.scatter(*zip(*series.points), s=70, color=series.colour, zorder=3, label=series.name)
    beside = {"textcoords": "offset points", "fontsize": 9, "color": series.colour}
    for point, label in series.labels.items():
        axes.annotate(label, point, (8, -11), **beside)


def _draw_ring(axes: Any, chart: Chart) -> None:
    axes.scatter(
        [chart.ringed[0]],
        [chart.ringed[1]],
        s=260,
        facecolors="none",
        edgecolors=LIMIT,
        linewidths=2,
        zorder=4,
        label=chart.ringed_name,
    )
    # On the other side than the labels of the points.
    axes.annotate(
        chart.ringed_label,
        chart.ringed,
        (-12, 8),
        textcoords="offset points",
        horizontalalignment="right",
        fontsize=9,
        color=LIMIT,
    )
