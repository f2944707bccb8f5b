"""The results of a batch as results.csv and as one HTML file that needs nothing beside it.

Everything that came from outside (prompts, names, messages of a server) is escaped, and the page
may load nothing from anywhere: report.html.jinja.
"""

from __future__ import annotations

import collections
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pack  # noqa: F401  makes comfyui_fewstep importable

# isort: split

import jinja2
from comfyui_fewstep.quality.figure import new_figure
from comfyui_fewstep.quality.metrics import lpips_missing
from comfyui_fewstep.quality.sheet import plain

import fleet_table
import results_table
from batch import Outcome
from batch_jobs import Job
from batch_store import Store
from judging import (
    Row,
    as_webp,
    judged,
    mean_and_span,
    percentile,
    price_each,
    warm_runs,
    warm_seconds,
)

COLOURS = ("#5b6770", "#2e9e5b", "#2a7fba", "#c0692b", "#8a55b5", "#b03060")


@dataclass(frozen=True)
class Written:
    """What came of a batch's report."""

    page: Path
    not_compared: int  # jobs that are done and whose pictures could not be compared


@dataclass(frozen=True)
class Table:
    head: Sequence[str]
    lines: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Trouble:
    """One thing that went wrong, or almost."""

    words: str
    is_bad: bool  # something is missing because of it


@dataclass(frozen=True)
class Sheet:
    picture: str  # as as_webp makes it
    words: str


def write(
    store: Store,
    jobs: Sequence[Job],
    workflows: Sequence[str],
    price_per_hour: float,
    outcome: Outcome,
) -> Written:
    """Write both files from all that is done so far."""
    rows = judged(store, jobs, workflows[0])
    store.folder.mkdir(parents=True, exist_ok=True)
    results_table.write(store.folder / "results.csv", rows, price_per_hour)
    page = store.folder / "report.html"
    page.write_text(rendered(rows, workflows, price_per_hour, outcome), encoding="utf-8")
    return Written(page, sum(bool(row.trouble) for row in rows))


def rendered(
    rows: Sequence[Row], workflows: Sequence[str], price_per_hour: float, outcome: Outcome
) -> str:
    """The page."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return templates.get_template("report.html.jinja").render(
        title="Speed and quality: " + " against ".join(workflows),
        reference=workflows[0],
        done=sum(row.is_done for row in rows),
        jobs=len(rows),
        troubles=troubles(rows, outcome),
        is_incomplete=not all(row.is_done for row in rows),
        times=time_table(rows, workflows, price_per_hour),
        workers=worker_table(rows, price_per_hour),
        has_price=bool(price_per_hour),
        latency=as_webp(latency_plot(rows, workflows)),
        qualities=quality_table(rows, workflows),
        quality=as_webp(quality_plot(rows, workflows)) if any(row.quality for row in rows) else "",
        lpips=lpips_missing(),
        failures=failures(rows),
        sheets=sheets(rows, workflows[0]),
    )


# --- what the page says


def troubles(rows: Sequence[Row], outcome: Outcome) -> list[Trouble]:
    counts = {
        "failed": sum(row.result is not None and bool(row.result.error) for row in rows),
        "not run": sum(row.result is None for row in rows),
        "not compared": sum(bool(row.trouble) for row in rows),
    }
    servers = {
        "servers that stopped answering": list(outcome.gone),
        "servers that stopped answering during a job and came back": servers_that_came_back(rows),
    }
    return [
        *(Trouble(f"{count} {what}", True) for what, count in counts.items() if count),
        *(
            Trouble(f"{what}: {', '.join(names)}", False)
            for what, names in servers.items()
            if names
        ),
    ]


def servers_that_came_back(rows: Sequence[Row]) -> list[str]:
    """Servers that were away during a job, and how often in all runs so far."""
    times: collections.Counter[str] = collections.Counter()
    for row in rows:
        if row.result is not None:
            times[row.result.server] += row.result.restarts
    return [
        f"{server} {count} time{'s' * (count > 1)}"
        for server, count in sorted(times.items())
        if count
    ]


def time_table(rows: Sequence[Row], workflows: Sequence[str], price_per_hour: float) -> Table:
    head = ["workflow", "runs", "evaluations", "median", "90 %", "99 %", "slowest", "factor"]
    head += ["price each"] if price_per_hour else []
    lines, slow = [], None
    for workflow in workflows:
        seconds = warm_seconds(rows, workflow)
        if not seconds:
            lines.append([workflow, "0", *[""] * (len(head) - 2)])
            continue
        median = statistics.median(seconds)
        slow = slow or median
        times = [median, percentile(seconds, 0.9), percentile(seconds, 0.99), max(seconds)]
        each = price_each(warm_runs(rows, workflow), price_per_hour)
        price = ["" if each is None else f"{each:.4g}"] if price_per_hour else []
        lines.append(
            [
                workflow,
                str(len(seconds)),
                evaluations_of(rows, workflow),
                *(f"{time:.2f} s" for time in times),
                f"{slow / median:.2f}x" if median else "",
                *price,
            ]
        )
    return Table(head, lines)


def worker_table(rows: Sequence[Row], price_per_hour: float) -> Table | None:
    """What each server did, where there are several."""
    results = [row.result for row in rows if row.result]
    if len({result.server for result in results}) < 2:
        return None
    head, *lines = fleet_table.table(results, price_per_hour)
    return Table(head, lines)


def evaluations_of(rows: Sequence[Row], workflow: str) -> str:
    counts = {
        row.result.evaluations for row in rows if row.is_done and row.job.workflow == workflow
    }
    return " or ".join(f"{count:g}" for count in sorted(counts - {None}))


def quality_table(rows: Sequence[Row], workflows: Sequence[str]) -> Table:
    lines = []
    for workflow in workflows[1:]:
        judged = [row.quality for row in rows if row.job.workflow == workflow and row.quality]
        columns = (
            [quality.psnr for quality in judged if math.isfinite(quality.psnr)],
            [quality.ssim for quality in judged],
            [quality.lpips for quality in judged if quality.lpips is not None],
            [quality.temporal for quality in judged if quality.temporal is not None],
        )
        lines.append([workflow, str(len(judged)), *map(mean_and_span, columns)])
    return Table(["workflow", "pairs", "PSNR, dB", "SSIM", "LPIPS", "temporal difference"], lines)


def failures(rows: Sequence[Row]) -> Table:
    return Table(
        ["workflow", "seed", "prompt", "what"],
        [
            [row.job.workflow, str(row.job.seed), row.job.text, row.problem]
            for row in rows
            if row.problem
        ],
    )


def sheets(rows: Sequence[Row], first: str) -> list[Sheet]:
    return [
        Sheet(
            row.sheet,
            f"{row.job.workflow} against {first}, seed {row.job.seed}: {row.job.text}",
        )
        for row in rows
        if row.sheet
    ]


# --- plots


def latency_plot(rows: Sequence[Row], workflows: Sequence[str]) -> Any:
    """Every run's seconds, a line for each workflow."""
    figure = new_figure(1000, 90 + 60 * len(workflows))
    axes = figure.subplots()
    for place, workflow in enumerate(workflows):
        seconds, colour = warm_seconds(rows, workflow), COLOURS[place % len(COLOURS)]
        axes.scatter(seconds, [place] * len(seconds), color=colour, alpha=0.6, s=60)
        if seconds:
            median = statistics.median(seconds)
            axes.plot([median] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=3)
    axes.set(
        yticks=range(len(workflows)),
        yticklabels=[plain(name) for name in workflows],
        ylim=(len(workflows) - 0.5, -0.5),
        xlabel="seconds; the bar is the median",
    )
    axes.set_xlim(left=0)
    axes.grid(True, axis="x", alpha=0.3)
    return figure


def quality_plot(rows: Sequence[Row], workflows: Sequence[str]) -> Any:
    """SSIM against seconds, a point for every prompt and seed."""
    figure = new_figure(1000, 420)
    axes = figure.subplots()
    for place, workflow in enumerate(workflows[1:], 1):
        points = [
            (row.result.seconds, row.quality.ssim)
            for row in rows
            if row.job.workflow == workflow and row.quality and row.result.seconds is not None
        ]
        if points:
            colour = COLOURS[place % len(COLOURS)]
            axes.scatter(*zip(*points), color=colour, alpha=0.6, s=60, label=plain(workflow))
            axes.legend()
    axes.set(
        xlabel="seconds",
        ylabel=f"SSIM against {plain(workflows[0])}",
        ylim=(min(0.0, axes.get_ylim()[0]), 1.02),
    )
    axes.set_xlim(left=0)
    axes.grid(True, alpha=0.3)
    return figure
