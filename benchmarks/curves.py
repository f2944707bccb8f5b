"""Curves of error against evaluations as an SVG picture, without a plotting library."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

COLOURS = ("#d1242f", "#57606a", "#8c959f", "#bf8700", "#0969da", "#54aeff", "#8250df", "#1a7f37")
WIDTH, HEIGHT, MARGIN = 360, 300, 52  # of one panel, in pixels
LEGEND_LINE = 18


@dataclass(frozen=True)
class Curve:
    """points: (evaluations, error), the error above 0."""

    name: str
    points: list[tuple[int, float]]


def draw(panels: list[tuple[str, list[Curve]]]) -> str:
    """One panel per (title, curves) beside each other, errors on a logarithmic axis they share, one
    legend below.
    """
    names = list(dict.fromkeys(curve.name for _, curves in panels for curve in curves))
    colours = dict(zip(names, COLOURS))
    errors = [error for _, curves in panels for curve in curves for _, error in curve.points]
    low, high = math.floor(math.log10(min(errors))), math.ceil(math.log10(max(errors)))
    height = HEIGHT + LEGEND_LINE * math.ceil(len(names) / 2) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * len(panels)}" height="{height}"'
        ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    parts += [
        _panel(title, curves, colours, index * WIDTH, (low, high))
        for index, (title, curves) in enumerate(panels)
    ]
    for index, name in enumerate(names):
        x, y = MARGIN + index % 2 * 240, HEIGHT + 6 + index // 2 * LEGEND_LINE
        parts.append(
            f'<rect x="{x}" y="{y}" width="18" height="4" fill="{colours[name]}"/>'
            f'<text x="{x + 24}" y="{y + 6}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _panel(
    title: str, curves: list[Curve], colours: dict[str, str], left: int, decades: tuple[int, int]
) -> str:
    counts = [count for curve in curves for count, _ in curve.points]
    first, last = min(counts), max(counts)
    low, high = decades

    def place(count: float, error: float) -> tuple[float, float]:
        x = left + MARGIN + (count - first) / max(last - first, 1) * (WIDTH - MARGIN - 14)
        return x, 28 + (high - math.log10(error)) / (high - low) * (HEIGHT - 28 - 44)

    parts = [
        f'<text x="{left + WIDTH / 2}" y="18" text-anchor="middle"'
        f' font-weight="bold">{escape(title)}</text>'
    ]
    for decade in range(low, high + 1):
        x, y = place(first, 10.0**decade)
        parts.append(
            f'<path d="M{x:.1f} {y:.1f}H{left + WIDTH - 14}" stroke="#d0d7de"/>'
            f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{10.0**decade:g}</text>'
        )
    for count in range(math.ceil(first / 5) * 5, last + 1, 5):
        x, y = place(count, 10.0**low)
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{count}</text>')
    x, y = place((first + last) / 2, 10.0**low)
    parts.append(f'<text x="{x:.1f}" y="{y + 32:.1f}" text-anchor="middle">evaluations made</text>')
    for curve in curves:
        places = [place(*point) for point in sorted(curve.points)]
        colour, thick = colours[curve.name], 3 if curve.name == "forecast" else 1.5
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="{thick}"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in places]
    return "\n".join(parts)
