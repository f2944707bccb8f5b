"""A labelled strip: one row for each of several results, with its name, figures and moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .figure import as_image, new_figure
from .sheet import plain, small

MOMENTS = 5  # of a clip, in a row
SIDE = 132  # pixels of the longer side of a picture on the strip
LABEL = 300  # pixels for the names and figures at the left
LETTERS = 20  # of a name on one line
GAP = 8


@dataclass(frozen=True)
class Row:
    """One result on a strip."""

    name: str
    figures: tuple[str, ...]  # lines below the name
    images: Tensor  # (N, H, W, 3) in 0..1


def labelled_strip(rows: Sequence[Row]) -> Tensor:
    """(1, H, W, 3): a row for each result, moments of its clip from left to right."""
    count = min(MOMENTS, max(len(row.images) for row in rows))
    height, width = shown_size(rows[0].images)
    figure = new_figure(LABEL + count * (width + GAP), len(rows) * (height + GAP))
    figure.set_layout_engine("none")
    total_width, total_height = figure.bbox.width, figure.bbox.height
    for index, row in enumerate(rows):
        top = index * (height + GAP) + GAP / 2
        middle = 1 - (top + height / 2) / total_height
        label = {"x": 10 / total_width, "y": middle}
        name = "\n".join(lines_of(row.name))
        figure.text(**label, s=plain(name), fontsize=17, fontweight="bold", va="bottom")
        figure.text(**label, s=plain("\n".join(row.figures)), fontsize=13, va="top")
        for column, moment in enumerate(moments_of(len(row.images), count)):
            left = LABEL + column * (width + GAP)
            axes = figure.add_axes(
                (
                    left / total_width,
                    1 - (top + height) / total_height,
                    width / total_width,
                    height / total_height,
                )
            )
            pixels = small(row.images[moment], (height, width)).numpy()
            axes.imshow(pixels, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
    return as_image(figure)


def lines_of(name: str) -> list[str]:
    """The name on lines that fit beside the pictures, broken between words."""
    lines = [""]
    for word in name.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if len(longer) <= LETTERS else [*lines, word]
    return lines


def moments_of(frames: int, count: int) -> list[int]:
    """So many frames of a clip, the first and the last among them."""
    return [round(index) for index in torch.linspace(0, frames - 1, min(count, frames)).tolist()]


def shown_size(images: Tensor) -> tuple[int, int]:
    """(height, width) of a picture on the strip."""
    height, width = images.shape[1:3]
    scale = SIDE / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
