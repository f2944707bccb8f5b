"""Drawings as tensors in ComfyUI's picture layout; matplotlib is imported when one is made.

It draws into memory alone (Agg): no window, no global state.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .libraries import matplotlib_missing

DOTS_PER_INCH = 100


def new_figure(width: int, height: int) -> Any:
    """An empty matplotlib Figure of this size in pixels. Raises ValueError without matplotlib."""
    if why := matplotlib_missing():
        raise ValueError(f"Nothing can be drawn: {why}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(width / DOTS_PER_INCH, height / DOTS_PER_INCH),
        dpi=DOTS_PER_INCH,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    return figure


def as_image(figure: Any) -> Tensor:
    """(1, H, W, 3) in 0..1."""
    figure.canvas.draw()
    pixels = torch.frombuffer(bytearray(figure.canvas.buffer_rgba()), dtype=torch.uint8)
    width, height = figure.canvas.get_width_height()
    return (pixels.view(height, width, 4)[..., :3].float() / 255).unsqueeze(0)
