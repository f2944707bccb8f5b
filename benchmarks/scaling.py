"""Seconds of a run against steps, frames, resolution and batch: ours, core's, our own part.

    python benchmarks/scaling.py [--rounds 5]

Core's is SamplerCustomAdvanced on the very sigmas and sampler of the Few-Step Schedule. Our part is
the difference of the two with the network left out: it answers zeros at once, so that what remains
are the samplers themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import in_host

in_host.enter()

import torch  # noqa: E402
from comfyui_fewstep.quality.figure import new_figure  # noqa: E402
from sampling import (  # noqa: E402
    LIGHTX2V,
    Call,
    answering_at_once,
    clip,
    custom_sampler,
    few_step,
    small_wan,
    with_settings,
)
from tables import Table, at_most, main_of  # noqa: E402

from small_models import conditioning, unet_patcher  # noqa: E402

SILENT_ROUNDS = 25  # they take milliseconds
# Our part may differ by this much between the smallest and the largest run.
FLAT_MILLISECONDS = 2.0
COLUMNS = ("what", "value", "Few-Step Sampler", "core", "ratio", "our part")


@dataclass(frozen=True)
class Axis:
    """runs: (model, value) -> our call and core's."""

    name: str
    values: tuple[int, ...]
    model: object
    runs: Callable[[object, int], tuple[Call, Call]]


@dataclass(frozen=True)
class Point:
    """Seconds of a run, and those of the samplers alone."""

    value: int
    ours: float
    core: float
    own: float


def axes(folder: Path) -> list[Axis]:
    wan, text = with_settings(small_wan(folder), LIGHTX2V), conditioning(length=6)
    unet = with_settings(unet_patcher("sd15"), "lcm-lora-sd15")
    prompt, picture = conditioning(unet, length=77), {"samples": torch.zeros(1, 4, 32, 32)}

    def on_wan(model, latent) -> tuple[Call, Call]:
        return few_step(model, text, latent), custom_sampler(model, text, latent)

    def in_steps(model, steps: int) -> tuple[Call, Call]:
        return few_step(model, prompt, picture, steps), custom_sampler(
            model, prompt, picture, steps
        )

    return [
        Axis("steps, SD 1.5 with LCM", (2, 4, 6, 8), unet, in_steps),
        Axis(
            "latent frames, Wan",
            (3, 6, 12, 24),
            wan,
            lambda model, frames: on_wan(model, clip(frames, 16)),
        ),
        Axis(
            "pixels a side, Wan",
            (64, 128, 192, 256),
            wan,
            lambda model, side: on_wan(model, clip(5, side // 8)),
        ),
        Axis(
            "clips in a batch, Wan",
            (1, 2, 4, 8),
            wan,
            lambda model, batch: on_wan(model, clip(3, 16, batch)),
        ),
    ]


def tables(rounds: int, folder: Path) -> list[Table]:
    table, growth = (
        Table("Scaling", COLUMNS),
        Table("Scaling: what the Few-Step Sampler adds to core's sampler"),
    )
    curves: dict[str, list[Point]] = {}
    for axis in axes(folder):
        for value in axis.values:
            point = measured(axis, value, rounds)
            curves.setdefault(axis.name, []).append(point)
            table.row(
                axis.name,
                value,
                f"{point.ours:.3f} s",
                f"{point.core:.3f} s",
                f"{point.ours / point.core:.3f}",
                f"{1000 * point.own:.1f} ms",
            )
    table.picture = drawing(curves)
    for name, points in curves.items():
        own = [1000 * point.own for point in points]
        growth.row(
            f"{name}: {points[0].value} to {points[-1].value}",
            f"{min(own):.1f} to {max(own):.1f} ms a run",
            f"{own[-1] - own[0]:+.1f} ms",
            at_most(own[-1] - own[0], FLAT_MILLISECONDS, "{:g} ms"),
        )
    return [table, growth]


def measured(axis: Axis, value: int, rounds: int) -> Point:
    ours, cores = in_host.in_turns(*axis.runs(axis.model, value), rounds)
    silent = in_host.in_turns(*axis.runs(answering_at_once(axis.model), value), SILENT_ROUNDS)
    return Point(
        value, median(ours), median(cores), median(mine - theirs for mine, theirs in zip(*silent))
    )


def drawing(curves: dict[str, list[Point]]):
    """Seconds, and below them the part that is ours, against each axis."""
    figure = new_figure(1200, 460)
    panels = figure.subplots(2, len(curves), height_ratios=(3, 1), squeeze=False)
    for column, (name, points) in enumerate(curves.items()):
        seconds, own = panels[0][column], panels[1][column]
        values = [point.value for point in points]
        seconds.plot(values, [point.core for point in points], "s--", color="#8c959f", label="core")
        seconds.plot(
            values,
            [point.ours for point in points],
            "o-",
            color="#0969da",
            label="Few-Step Sampler",
        )
        own.plot(values, [1000 * point.own for point in points], "o-", color="#d1242f")
        seconds.set(
            title=name, ylim=(0, None), xticks=values, ylabel="" if column else "seconds a run"
        )
        own.set(
            xticks=values,
            ylim=(min(0, *(1000 * point.own for point in points)), 10),
            ylabel="" if column else "our part, ms",
        )
        for panel in (seconds, own):
            panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=9)
    return figure


if __name__ == "__main__":
    main_of(__doc__, tables, rounds=5)
