"""FewStepCompare: results of one prompt and seed, in pictures and figures, with their costs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from comfy_api.v0_0_2 import io

from ..loras.words import counted
from ..quality.libraries import matplotlib_missing, torchmetrics_missing
from ..quality.metrics import Quality, black_pictures, compare, lpips_missing
from ..quality.sheet import contact_sheet
from ..quality.strip import Row, labelled_strip
from .host.report import SENT_AGAIN, Report
from .host.server import is_connected, missing_output

SHEET, STRIP = 0, 2  # which outputs they are
# What a report's rows are called that are worth a line in the comparison, in this order.
COSTS = ("accelerator", "steps", "evaluations", "seconds", "price", "CFG", "sampler")
ROW = r"(?m)^- (?P<name>[^:\n]+): (?P<value>.*)$"
NUMBER = r"\d+(\.\d+)?(e[+-]?\d+)?"
SMALL_TEMPORAL = (
    "Frame differences are compared because the batch has several pictures; for pictures that are"
    " no clip, ignore them."
)


class FewStepCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepCompare",
            display_name="Speed-Quality Compare",
            category="few-step",
            description=(
                "Puts a fast result beside a slow one of the same prompt and seed: PSNR, SSIM,"
                " LPIPS where its weights are on disk, for clips the difference in motion, a"
                " difference map, and what both of them cost."
            ),
            search_aliases=[
                "psnr",
                "ssim",
                "lpips",
                "difference",
                "benchmark",
                "contact sheet",
                "a/b",
            ],
            inputs=[
                io.Image.Input(
                    "reference",
                    tooltip=(
                        "The picture or frames to be measured against, such as those of the full"
                        " run."
                    ),
                ),
                io.Image.Input(
                    "candidate",
                    tooltip="The faster ones: same size and count, same prompt and seed.",
                ),
                io.String.Input(
                    "reference_report",
                    default="",
                    optional=True,
                    tooltip=(
                        "The report of the reference's sampler, for its evaluations and "
                        "seconds. May stay empty."
                    ),
                ),
                io.String.Input(
                    "candidate_report",
                    default="",
                    optional=True,
                    tooltip="The report of the candidate's sampler. May stay empty.",
                ),
                io.Image.Input(
                    "candidate_2",
                    optional=True,
                    tooltip="Another result to measure against the reference, for the strip.",
                ),
                io.Image.Input(
                    "candidate_3",
                    optional=True,
                    tooltip="One more result to measure against the reference, for the strip.",
                ),
                io.String.Input(
                    "names",
                    default="",
                    multiline=True,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "What the strip calls the results, one line each: the reference, then the"
                        " candidates. What follows a colon stands below the name."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="sheet",
                    tooltip="Both, the difference between them, and the figures.",
                ),
                io.String.Output(display_name="report", tooltip="The figures and both costs."),
                io.Image.Output(
                    display_name="strip",
                    tooltip="One row for each result: its name, its figures and its pictures.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            **SENT_AGAIN,
        )

    @classmethod
    def execute(
        cls,
        reference,
        candidate,
        reference_report: str = "",
        candidate_report: str = "",
        candidate_2=None,
        candidate_3=None,
        names: str = "",
    ) -> io.NodeOutput:
        if why := torchmetrics_missing():
            raise ValueError(f"Speed-Quality Compare cannot measure: {why}")
        no_sheet = why_no_sheet()
        if no_sheet and any(is_connected(cls.hidden, output) for output in (SHEET, STRIP)):
            raise ValueError(no_sheet)
        quality = compare(reference, candidate)
        more = {"candidate_2": candidate_2, "candidate_3": candidate_3}
        connected = {name: images for name, images in more.items() if images is not None}
        others = [(images, compare(reference, images, name)) for name, images in connected.items()]
        called = names_of(names, ("reference", "candidate", *connected))
        costs = rows_of(reference_report), rows_of(candidate_report)
        report = report_on_comparison(
            quality,
            len(reference),
            with_price(*costs),
            with_price(*reversed(costs)),
            notes_on_black({"reference": reference, "candidate": candidate, **connected}),
            [measured for _, measured in others],
            called,
        )
        if no_sheet:
            sheet = strip = missing_output(no_sheet)
        else:
            sheet = contact_sheet(reference, candidate, quality)
            results = [(reference, None), (candidate, quality), *others]
            strip = labelled_strip(rows_of_strip(results, called))
        return io.NodeOutput(sheet, report.markdown, strip, ui=report.publish(cls.hidden))


def why_no_sheet() -> str:
    """Why sheet and strip cannot be drawn here, and what to do; empty where they can."""
    why = matplotlib_missing()
    return why and (
        f"Speed-Quality Compare cannot draw its sheet and strip: {why} Or disconnect sheet and"
        " strip; the report does without."
    )


def names_of(names: str, inputs: Sequence[str]) -> list[tuple[str, str]]:
    """(name, what stands below it) of each result, a line of `names` each. What it leaves out, or
    blank, has its input's own name. inputs: those that are connected.
    """
    given = [*map(str.strip, names.splitlines()), *[""] * len(inputs)]
    parts = ((line or name).partition(":") for line, name in zip(given, inputs))
    return [(name.strip(), below.strip()) for name, _, below in parts]


def rows_of_strip(
    results: Sequence[tuple[Any, Quality | None]], names: Sequence[tuple[str, str]]
) -> list[Row]:
    """results: (pictures, how near they are to the reference; None for the reference). names: of
    each, as of names_of.
    """
    rows = []
    for (name, below), (images, quality) in zip(names, results):
        figures = () if quality is None else (", ".join(f"{n} {v}" for n, v in quality.rows[:2]),)
        rows.append(Row(name, (*((below,) if below else ()), *figures), images))
    return rows


def rows_of(report: str) -> dict[str, str]:
    """The rows of a report of this pack, by name; empty for any other text."""
    rows = "\n\n".join(report.split("\n\n")[:2])  # what follows are notes and sections
    return {match["name"]: match["value"] for match in re.finditer(ROW, rows)}


def with_price(rows: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    """The rows; a side without a price gets the other's, scaled by seconds.

    An hour of the machine costs both the same.
    """
    price, factor = number_of(other, "price"), speedup(other, rows)
    if "price" in rows or price is None or not factor:
        return rows
    unit = re.sub(NUMBER, "", other["price"], count=1)
    return {**rows, "price": f"{price / factor:.4g}{unit} (scaled by seconds)"}


def number_of(rows: dict[str, str], name: str) -> float | None:
    """The number that a row starts with, as in "4.26 (predicted)"."""
    found = re.match(NUMBER, rows.get(name, ""))
    return float(found[0]) if found else None


def notes_on_black(results: Mapping[str, Any]) -> tuple[str, ...]:
    """Notes on wholly black pictures, as a broken run looks once saved.

    results: (N, H, W, 3) of each connected input by its name, the reference first.
    """
    count = len(results["reference"])
    black = {name: number for name in results if (number := black_pictures(results[name]))}
    whole = [name for name, number in black.items() if number == count]
    notes = []
    if whole[1:] and whole[0] == "reference":
        who = "Both" if len(results) == 2 else f"{', '.join(whole[:-1])} and {whole[-1]}"
        notes = [
            f"{who} are wholly black, so it means nothing that they are equal: look at the runs"
            " that made them."
        ]
        black = {name: number for name, number in black.items() if number < count}
    return (
        *notes,
        *(
            f"The {name} is wholly black: look at the run that made it before the figures."
            if number == count
            else f"Of the {name}'s {count} pictures {number} {'is' if number == 1 else 'are'}"
            " wholly black."
            for name, number in black.items()
        ),
    )


def report_on_comparison(
    quality: Quality,
    frames: int,
    reference: dict[str, str],
    candidate: dict[str, str],
    notes: tuple[str, ...] = (),
    others: Sequence[Quality] = (),
    names: Sequence[tuple[str, str]] = (),
) -> Report:
    """reference, candidate: the rows of their reports. notes: on the pictures themselves.

    others: of further candidates. names: of all results, as of names_of.
    """
    factor = speedup(reference, candidate)
    figures = tuple(quality.rows)
    speed = () if factor is None else (("speed", f"{factor:.2f}x the reference's"),)
    sides = {"reference": reference, "candidate": candidate}
    costs = (
        (name, ", ".join(f"{side} {rows[name]}" for side, rows in sides.items() if name in rows))
        for name in COSTS
        if name in reference or name in candidate
    )
    called = [name for name, _ in names][2:]
    more = tuple(
        (name, ", ".join(f"{figure} {value}" for figure, value in tuple(other.rows)[:2]))
        for name, other in zip(called, others)
    )
    return Report(
        node="Speed-Quality Compare",
        summary=", ".join(f"{name} {value}" for name, value in (*figures[:2], *speed)),
        rows=(("compared", counted(frames, "picture")), *figures, *speed, *costs, *more),
        notes=(*notes, *((SMALL_TEMPORAL,) if quality.temporal is not None else ())),
        data={
            "psnr": finite(quality.psnr),
            "is_equal": quality.psnr == float("inf"),
            "ssim": quality.ssim,
            "lpips": quality.lpips,
            "lpips_missing": lpips_missing(),
            "temporal_difference": quality.temporal,
            "speedup": factor,
            "reference": reference,
            "candidate": candidate,
            "others": [
                {"name": name, "psnr": finite(other.psnr), "ssim": other.ssim}
                for name, other in zip(called, others)
            ],
        },
    )


def finite(number: float) -> float | None:
    return None if number == float("inf") else number


def speedup(reference: dict[str, str], candidate: dict[str, str]) -> float | None:
    """Seconds of the reference over the candidate's, where both reports say them."""
    slow, fast = number_of(reference, "seconds"), number_of(candidate, "seconds")
    return slow / fast if slow is not None and fast else None


NODES = [FewStepCompare]
