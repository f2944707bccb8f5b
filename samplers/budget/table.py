"""Every way to run a model side by side: as a table for people, as data for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...loras.accelerator import Accelerator
from ...loras.bases import StepRange
from ...loras.words import in_figures
from .cost import Work
from .ways import MOST_SPEEDUP, Choice, Route, Way


def table_of(
    ways: Sequence[Way],
    choice: Choice,
    work: Work,
    price_per_hour: float,
    full_run: StepRange | None,
    carried: Accelerator | None,
    files: Mapping[str, str],
) -> str:
    """The table in Markdown, a line for each way.

    full_run: the undistilled run, if there is one. carried: the accelerator on the model. files:
    accelerator id -> the file of it that is there.
    """
    price = [f"price per {work.noun}"] if price_per_hour else []
    identity = ["way", "file", "there", "licence"]
    is_whole = choice.way.overhead is not None
    seconds = ["sampling", "whole"] if is_whole else ["seconds"]
    head = [*identity, "steps", "evaluations", *seconds, *price, "factor", "fits"]
    full = next((way.whole for way in ways if way.route is Route.FULL), None)
    rows = []
    for way in ways:
        cost = [f"{way.price(price_per_hour, work):.4g}"] if price_per_hour else []
        factor = "" if full is None else f"{full / way.whole:.1f}x"
        fits = "yes" if way.whole <= choice.allowance else "no"
        who = _accelerated(way, carried, files) if way.records else _undistilled(way, full_run)
        counts = [str(way.steps), str(way.evaluations), in_figures(way.seconds)]
        whole = [in_figures(way.whole)] if is_whole else []
        rows.append([*who, *counts, *whole, *cost, factor, fits])
    return "\n".join(map(_line, (head, ["---"] * len(head), *rows)))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"


def _undistilled(way: Way, full_run: StepRange | None) -> list[str]:
    """Name, and nothing for file, whether it is there, and licence."""
    guided = " and guidance" if full_run is not None and full_run.is_guided else ""
    skipping = f" + Step Skip {MOST_SPEEDUP:g}x" if way.route is Route.SKIP else ""
    return [f"full steps{guided}{skipping}", "", "", ""]


def _accelerated(way: Way, carried: Accelerator | None, files: Mapping[str, str]) -> list[str]:
    """Name, file, whether it is there, licence."""
    first = way.records[0]
    folder = first.files[0].folder if first.files else "loras"
    is_there = all(record.id in files for record in way.records)
    there = f"{'yes' if is_there else 'no'} ({folder})"
    made_for = f" (on {' or '.join(first.for_distilled)})" if first.for_distilled else ""
    what = "streaming" if way.route is Route.STREAM else first.kind.value
    if way.guided is not None:
        what += ", Guided Start"
    return [
        f"{' + '.join(record.id for record in way.records)}{made_for}, {what}",
        " + ".join(files.get(record.id) or _published(record) for record in way.records),
        "yes (on the model)" if way.records == (carried,) else there,
        str(first.licence),
    ]


def _published(record: Accelerator) -> str:
    """The name of a file of the release, its repository where none is known."""
    repository = record.files[0].repo if record.files else ""
    return next((file.name for file in record.files if file.name), repository)


def data_of(choice: Choice, ways: Sequence[Way]) -> dict[str, Any]:
    """The choice and every way for programs. No allowance at all is None: JSON has no infinity."""
    way = choice.way
    return {
        "steps": way.steps,
        "target_speedup": way.target_speedup,
        "evaluations": way.evaluations,
        "predicted_seconds": way.seconds,
        **_whole(way),
        **_overhead(way),
        "allowance": choice.allowance if math.isfinite(choice.allowance) else None,
        "misses": choice.misses,
        "ways": [
            {
                "method": one.route.value,
                "accelerators": [record.id for record in one.records],
                "steps": one.steps,
                "evaluations": one.evaluations,
                "seconds": one.seconds,
                **_whole(one),
                "guided_start": one.guided is not None,
            }
            for one in ways
        ],
    }


def _whole(way: Way) -> dict[str, float]:
    """Seconds with decoding, where it is known."""
    return {} if way.overhead is None else {"whole_seconds": way.whole}


def _overhead(way: Way) -> dict[str, float]:
    if way.overhead is None:
        return {}
    return {"decoding_seconds": way.overhead.decoding, "once_seconds": way.overhead.once}
