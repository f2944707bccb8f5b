"""Draw workflows/*.jpg for the template browser: a scene out of noise, one strip per step.

    python scripts/build/draw_thumbnails.py            draw those that are missing
    python scripts/build/draw_thumbnails.py --all      draw all of them again

The demo's cards show what the demo makes: scripts/build/take_pictures.py runs them.
Needs numpy and Pillow, which every ComfyUI brings.
"""

from __future__ import annotations

import argparse
import math
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.append(str(Path(__file__).resolve().parents[1]))

import node_schema
from console import print_everywhere
from workflow_graph import Graph
from workflows import all_graphs

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
SIZE = 360
DEMOS = ("demo", "demo_compare", "demo_stream")
GRAIN = 3
BAND = 76
# Sky top, sky bottom, sun, three rows of hills.
PALETTES = (
    ("#1b2a6b", "#f28a5b", "#ffe9b0", "#7a4a6b", "#4a2f57", "#241a3a"),
    ("#0f4c75", "#bbe1fa", "#fff4c9", "#4f8a8b", "#2c5f5d", "#12343b"),
    ("#2d1b4e", "#d65db1", "#ffd6a5", "#845ec2", "#4b3f72", "#1f1a38"),
    ("#123524", "#e4c590", "#fff1cf", "#6a994e", "#386641", "#16281d"),
    ("#3a0ca3", "#4cc9f0", "#f1faee", "#4361ee", "#3f37c9", "#1d1a5e"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="draw those again that are there")
    draw_all = parser.parse_args().all
    graphs = all_graphs(node_schema.load())
    for path in FOLDER.glob("*.jpg"):
        if path.stem not in {graph.title for graph in graphs.values()}:
            path.unlink()
    for graph in graphs.values():
        path = FOLDER / f"{graph.title}.jpg"
        is_drawn = graph.slug not in DEMOS
        if is_drawn and (draw_all or not path.exists()):
            draw(graph).save(path, quality=72, optimize=True)


def draw(graph: Graph) -> Image.Image:
    generator = np.random.default_rng(zlib.crc32(graph.slug.encode()))
    clean = scene(generator)
    picture = emerging(clean, min(graph.steps, 10), generator)
    return captioned(picture, graph)


def scene(generator: np.random.Generator) -> np.ndarray:
    """Hills under a low sun, (SIZE, SIZE, 3) in 0..255."""
    palette = [
        np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], float)
        for colour in PALETTES[generator.integers(len(PALETTES))]
    ]
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    image = palette[0] + (palette[1] - palette[0]) * np.clip(y / 0.7, 0, 1)[..., None]
    sun_x, sun_y = generator.uniform(0.62, 0.8), generator.uniform(0.22, 0.38)
    distance = np.hypot(x - sun_x, y - sun_y)[..., None]
    glow = np.exp(-((distance / 0.22) ** 2)) * 0.7
    image = image + (palette[2] - image) * np.clip(glow + (distance < 0.075), 0, 1)
    for row, colour in enumerate(palette[3:]):
        waves = generator.uniform(0, 2 * math.pi, 3)
        height = (
            0.46
            + 0.1 * row
            + sum(
                0.045
                / (k + 1)
                * np.sin(2 * math.pi * (k + 1) * x * generator.uniform(0.7, 1.3) + waves[k])
                for k in range(3)
            )
        )
        image = np.where((y > height)[..., None], colour * (0.85 + 0.3 * (1 - y[..., None])), image)
    return image


def emerging(clean: np.ndarray, steps: int, generator: np.random.Generator) -> np.ndarray:
    """The scene in steps + 1 upright strips, from nearly all noise to none."""
    noise = (
        generator.normal(118, 62, (SIZE // GRAIN, SIZE // GRAIN, 3))
        .repeat(GRAIN, 0)
        .repeat(GRAIN, 1)
    )
    edges = np.linspace(0, SIZE, steps + 2).round().astype(int)
    picture = clean.copy()
    for strip, (left, right) in enumerate(zip(edges, edges[1:])):
        share = 0.9 * (1 - strip / steps) ** 0.8
        picture[:, left:right] = (1 - share) * clean[:, left:right] + share * noise[:, left:right]
        if strip:
            picture[:, left - 1 : left + 1] = 235
    return picture


def captioned(picture: np.ndarray, graph: Graph) -> Image.Image:
    """With the step count alone: the template browser writes the name below the picture."""
    picture[-BAND:] *= 0.28
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    if graph.is_video:
        film(pen)
    caption = f"{graph.steps} step{'s' * (graph.steps != 1)}" + (
        "" if graph.steps > 10 else "  ·  CFG 1"
    )
    font = ImageFont.load_default(24)
    pen.text((16, SIZE - BAND + 10), caption, font=font, fill="#ffd27a")
    return image


def film(pen: ImageDraw.ImageDraw) -> None:
    """The perforated edge of a film along the bottom; the template browser has a badge on top."""
    pen.rectangle((0, SIZE - 26, SIZE, SIZE), fill="#101014")
    for left in range(8, SIZE, 30):
        pen.rounded_rectangle((left, SIZE - 19, left + 16, SIZE - 7), 4, fill="#e8e8e8")


if __name__ == "__main__":
    print_everywhere()
    main()
