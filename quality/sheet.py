"""A contact sheet: reference, candidate and the difference between them, with the figures below."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .figure import as_image, new_figure
from .metrics import Quality

MOST_ROWS = 4
LARGEST_SIDE = 512  # of one picture on the sheet, in pixels
LEAST_SIDE = 240
CAPTION = 74  # pixels for the figures
LEAST_WIDTH = 960
# Differences are drawn up to this share of white; a sheet that is dark has none to speak of.
FULL_SCALE = 0.5


def contact_sheet(
    reference: Tensor,
    candidate: Tensor,
    quality: Quality,
    names: tuple[str, str] = ("reference", "candidate"),
) -> Tensor:
    """(1, H, W, 3) of pictures (N, H, W, 3): up to four moments where N is above 1.

    names: headings of the two columns.
    """
    figure = draw_sheet(reference, candidate, quality, names)
    return as_image(figure)


def draw_sheet(
    reference: Tensor, candidate: Tensor, quality: Quality, names: tuple[str, str]
) -> Any:
    """The sheet as a matplotlib Figure."""
    moments = sorted(
        {
            round(index)
            for index in torch.linspace(
                0, len(reference) - 1, min(MOST_ROWS, len(reference))
            ).tolist()
        }
    )
    height, width = shown_size(reference)
    figure = new_figure(max(LEAST_WIDTH, 3 * width + 110), len(moments) * (height + 30) + CAPTION)
    axes = figure.subplots(len(moments), 3, squeeze=False)
    for row, moment in enumerate(moments):
        before, after = (small(each[moment], (height, width)) for each in (reference, candidate))
        axes[row][0].imshow(before.numpy())
        axes[row][1].imshow(after.numpy())
        shown = axes[row][2].imshow(
            (before - after).abs().mean(-1).numpy(), cmap="magma", vmin=0, vmax=FULL_SCALE
        )
        label = f"frame {moment + 1}" if len(reference) > 1 else ""
        axes[row][0].set_ylabel(label, fontsize=10)
        for axis in axes[row]:
            axis.set(xticks=[], yticks=[])
    for axis, title in zip(axes[0], (*names, "difference")):
        axis.set_title(plain(title), fontsize=12)
    figure.colorbar(
        shown, ax=axes[:, 2].tolist(), fraction=0.046, label="mean difference of red, green, blue"
    )
    figure.supxlabel(figures_in_words(quality), fontsize=11)
    return figure


def figures_in_words(quality: Quality) -> str:
    """One line. Where LPIPS was not measured, the sheet says so and the report says why."""
    values = dict(quality.rows) | ({"LPIPS": "not measured"} if quality.lpips is None else {})
    return "     ".join(f"{name} {value}" for name, value in values.items())


def shown_size(images: Tensor) -> tuple[int, int]:
    """(height, width) of one picture on the sheet: small ones are enlarged to be visible."""
    height, width = images.shape[1:3]
    longest = max(height, width)
    scale = min(max(longest, LEAST_SIDE), LARGEST_SIDE) / longest
    return round(height * scale), round(width * scale)


def small(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W, 3) in 0..1, no larger than the (height, width) at which it is shown."""
    pixels = image[..., :3].float().clamp(0, 1).permute(2, 0, 1)[None]  # (1, 3, H, W)
    if max(size) < max(image.shape[:2]):
        pixels = torch.nn.functional.interpolate(pixels, size, mode="area")
    return pixels[0].permute(1, 2, 0).cpu()


def plain(text: str) -> str:
    """Text that matplotlib draws as it is: a dollar would start a formula."""
    return text.replace("$", r"\$")
