"""The results of a batch as results.csv and as one HTML file that needs nothing beside it.

Everything that came from outside (prompts, names, messages of a server) is escaped, and the page
may load nothing from anywhere.
"""

from __future__ import annotations

import base64
import collections
import csv
import html
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pack  # noqa: F401  makes comfyui_fewstep importable

# isort: split

import torch
from comfyui_fewstep.quality.figure import new_figure
from comfyui_fewstep.quality.metrics import Quality, compare, lpips_missing
from comfyui_fewstep.quality.sheet import draw_sheet, plain
from PIL import Image, ImageSequence
from torch import Tensor

from batch import Job, Outcome, Result, Store

CLIPS = frozenset({".mp4", ".webm"})
COLUMNS = (
    "workflow",
    "prompt",
    "seed",
    "server",
    "seconds",
    "is_first",
    "restarts",
    "evaluations",
    "sampling_seconds",
    "price_each",
    "psnr",
    "ssim",
    "lpips",
    "temporal_difference",
    "files",
    "error",
)
COLOURS = ("#5b6770", "#2e9e5b", "#2a7fba", "#c0692b", "#8a55b5", "#b03060")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;
color:#1d2429;background:#fff}
h1{font-size:1.6em}h2{font-size:1.2em;margin-top:2em}table{border-collapse:collapse;margin:1em 0}
th,td{padding:.3em .7em;border-bottom:1px solid #dde3e7;text-align:right}
th:first-child,td:first-child{text-align:left}
img{max-width:100%;height:auto}figure{margin:1.2em 0}figcaption{color:#55636d;font-size:.9em}
.bad{color:#b3261e}.note{color:#55636d}
table.words td,table.words th{text-align:left}table.words td:last-child{overflow-wrap:anywhere}
"""


@dataclass(frozen=True)
class Row:
    """A job and what became of it. quality: against the reference's of the same prompt and seed.
    trouble: why there is none.
    """

    job: Job
    result: Result | None
    quality: Quality | None = None
    trouble: str = ""


@dataclass(frozen=True)
class Written:
    """page: its path. not_compared: jobs that are done and whose pictures could not be compared."""

    page: Path
    not_compared: int


def write(
    store: Store,
    jobs: Sequence[Job],
    workflows: Sequence[str],
    price_per_hour: float,
    outcome: Outcome,
) -> Written:
    """Write both files from all that is done so far."""
    results = {job.id: store.read(job) for job in jobs}
    references = {
        (job.text, job.seed): results[job.id] for job in jobs if job.workflow == workflows[0]
    }
    rows, sheets = [], []
    for job in jobs:
        row, sheet = judged(
            store, job, results[job.id], references.get((job.text, job.seed)), workflows[0]
        )
        rows.append(row)
        sheets += [sheet] if sheet else []
    store.folder.mkdir(parents=True, exist_ok=True)
    write_csv(store.folder / "results.csv", rows, price_per_hour)
    page = store.folder / "report.html"
    page.write_text(rendered(rows, workflows, price_per_hour, outcome, sheets), encoding="utf-8")
    return Written(page, sum(bool(row.trouble) for row in rows))


# ---------------------------------------------------------------- quality


def judged(
    store: Store, job: Job, result: Result | None, reference: Result | None, first: str
) -> tuple[Row, str]:
    """(the job's row, its contact sheet as HTML). Only a job that is done and has a reference is
    compared.
    """
    if (
        result is None
        or result.error
        or job.workflow == first
        or reference is None
        or reference.error
    ):
        return Row(job, result), ""
    try:
        before, after = frames_of(store, reference), frames_of(store, result)
        quality = compare(before, after)
        sheet = draw_sheet(before, after, quality, (first, job.workflow))
    except (
        ValueError,
        RuntimeError,
        MemoryError,
    ) as error:  # RuntimeError: torch's, as for memory that is not there
        return Row(job, result, trouble=f"not compared: {error or type(error).__name__}"), ""
    words = f"{job.workflow} against {first}, seed {job.seed}: {job.text}"
    return (
        Row(job, result, quality),
        f"<figure>{picture(sheet, words)}<figcaption>{html.escape(words)}</figcaption></figure>",
    )


def frames_of(store: Store, result: Result) -> Tensor:
    """(N, H, W, 3) of all the pictures or clips a job made. Raises ValueError where there are none,
    or none that can be compared.
    """
    frames = [
        frame for name in result.files for frame in read_frames(store.results / Path(name).name)
    ]
    if not frames:
        raise ValueError(f"{result.workflow} saved neither a picture nor a clip")
    sizes = sorted({(frame.shape[1], frame.shape[0]) for frame in frames})
    if len(sizes) > 1:
        found = " and ".join(f"{width} x {height}" for width, height in sizes)
        raise ValueError(
            f"{result.workflow} saved several sizes, {found}: leave it one save node, for the size"
            " that is to be compared"
        )
    return torch.stack(frames)


def read_frames(path: Path) -> list[Tensor]:
    """(H, W, 3) in 0..1 of a picture, or of every frame of a clip. Raises ValueError for a file
    that is gone or damaged.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        return _clip_frames(path) if path.suffix in CLIPS else _picture_frames(path)
    except FileNotFoundError:
        raise ValueError(f"{name} is gone; the same command makes it again") from None
    # decoders raise whatever they met: SyntaxError, EOFError, struct.error, DecompressionBombError,
    # ...
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{name} cannot be read ({what}); delete it, and the same command makes it again"
        ) from error


def _clip_frames(path: Path) -> list[Tensor]:
    import av

    with av.open(str(path)) as clip:
        return [as_tensor(frame.to_ndarray(format="rgb24")) for frame in clip.decode(video=0)]


def _picture_frames(path: Path) -> list[Tensor]:
    with Image.open(path) as image:
        return [as_tensor(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def as_tensor(pixels: Any) -> Tensor:
    """(H, W, 3) in 0..1 of a Pillow picture or an array."""
    width, height = (
        pixels.size if isinstance(pixels, Image.Image) else (pixels.shape[1], pixels.shape[0])
    )
    return (
        torch.frombuffer(bytearray(pixels.tobytes()), dtype=torch.uint8)
        .view(height, width, 3)
        .float()
        / 255
    )


# ---------------------------------------------------------------- results.csv


def write_csv(path: Path, rows: Sequence[Row], price_per_hour: float) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(
            [as_cell(value) for value in csv_values(row, price_per_hour)] for row in rows
        )


def csv_values(row: Row, price_per_hour: float) -> list[Any]:
    job, result, quality = row.job, row.result, row.quality
    if result is None:
        return [job.workflow, job.text, job.seed, *[""] * (len(COLUMNS) - 4), "not run"]
    price = price_each([result], price_per_hour)
    figures = (
        ["", "", "", ""]
        if quality is None
        else [quality.psnr, quality.ssim, quality.lpips, quality.temporal]
    )
    return [
        job.workflow,
        job.text,
        job.seed,
        result.server,
        result.seconds,
        result.is_first,
        result.restarts,
        result.evaluations,
        result.sampling_seconds,
        price,
        *figures,
        " ".join(result.files),
        result.error or row.trouble,
    ]


def price_each(results: Sequence[Result], price_per_hour: float) -> float | None:
    """Of one picture or clip that these runs saved; None without a price, or where nothing was
    timed or saved.
    """
    timed = [result for result in results if result.seconds is not None]
    saved = sum(len(result.files) for result in timed)
    return (
        sum(result.seconds for result in timed) * price_per_hour / 3600 / saved
        if price_per_hour and saved
        else None
    )


def as_cell(value: Any) -> Any:
    """A value as a spreadsheet may have it: text that a spreadsheet would run as a formula is kept
    text by an apostrophe.
    """
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t"):
        return "'" + value
    return "" if value is None else value


# ---------------------------------------------------------------- report.html


def rendered(
    rows: Sequence[Row],
    workflows: Sequence[str],
    price_per_hour: float,
    outcome: Outcome,
    sheets: Sequence[str],
) -> str:
    title = "Speed and quality: " + " against ".join(workflows)
    lpips = lpips_missing()
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        (
            f"<p>{sum(is_done(row) for row in rows)} of {len(rows)} jobs"
            f" done.{troubles_in_words(rows, outcome)}</p>"
        ),
        "<h2>Time and cost</h2>",
        time_table(rows, workflows, price_per_hour),
        (
            "<p class=note>Seconds are the server's own for the whole workflow. The first run of"
            " each workflow on each server loads the model "
            "and is left out where there are others; runs that the server answered from its cache"
            " have no seconds."
            f"{' The price is of each picture or clip that a run saved.' if price_per_hour else ''}</p>"
        ),
        picture(latency_plot(rows, workflows), "seconds of every run"),
        "<h2>Quality</h2>",
        quality_table(rows, workflows),
        (
            f"<p class=note>Against {html.escape(workflows[0])}, same prompt and seed. A distilled"
            " model may paint a prompt well and otherwise: read these beside the"
            f" sheets.{f' LPIPS was not measured: {html.escape(lpips)}.' if lpips else ''}</p>"
        ),
        *(
            [picture(quality_plot(rows, workflows), "quality against seconds")]
            if any(row.quality for row in rows)
            else []
        ),
        failures(rows),
        "<h2>Contact sheets</h2>" if sheets else "",
        *sheets,
    ]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta"
        f' http-equiv=Content-Security-Policy content="{POLICY}">'
        "<meta name=viewport"
        f' content="width=device-width"><title>{html.escape(title)}</title><style>{STYLE}</style></head><body>'
        + "\n".join(parts)
        + "</body></html>"
    )


def is_done(row: Row) -> bool:
    return row.result is not None and not row.result.error


def troubles_in_words(rows: Sequence[Row], outcome: Outcome) -> str:
    missing = sum(row.result is None for row in rows)
    failed = sum(row.result is not None and bool(row.result.error) for row in rows)
    not_compared = sum(bool(row.trouble) for row in rows)
    counted = [
        f"<b class=bad>{count} {what}</b>"
        for count, what in (
            (failed, "failed"),
            (missing, "not run"),
            (not_compared, "not compared"),
        )
        if count
    ]
    gone = (
        [f"servers that stopped answering: {html.escape(', '.join(outcome.gone))}"]
        if outcome.gone
        else []
    )
    said = "; ".join([*counted, *gone, *restarts_in_words(rows)])
    again = " The same command again runs what is missing." if failed or missing else ""
    return f" {said}.{again}" if said else ""


def restarts_in_words(rows: Sequence[Row]) -> list[str]:
    """Servers that were away during a job and came back, of all runs so far."""
    times: collections.Counter[str] = collections.Counter()
    for row in rows:
        if row.result is not None:
            times[row.result.server] += row.result.restarts
    back = [
        f"{html.escape(server)} {count} time{'s' * (count > 1)}"
        for server, count in sorted(times.items())
        if count
    ]
    return (
        [f"servers that stopped answering during a job and came back: {', '.join(back)}"]
        if back
        else []
    )


def warm_runs(rows: Sequence[Row], workflow: str) -> list[Result]:
    """A workflow's timed runs without those that load the model, where there are others."""
    timed = [
        row.result
        for row in rows
        if row.result
        and is_done(row)
        and row.job.workflow == workflow
        and row.result.seconds is not None
    ]
    return [result for result in timed if not result.is_first] or timed


def warm_seconds(rows: Sequence[Row], workflow: str) -> list[float]:
    return [result.seconds for result in warm_runs(rows, workflow) if result.seconds is not None]


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: a value that really occurred."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def time_table(rows: Sequence[Row], workflows: Sequence[str], price_per_hour: float) -> str:
    head = [
        "workflow",
        "runs",
        "evaluations",
        "median",
        "90 %",
        "99 %",
        "slowest",
        "factor",
        *(["price each"] if price_per_hour else []),
    ]
    lines, slow = [], None
    for workflow in workflows:
        seconds = warm_seconds(rows, workflow)
        evaluations = sorted(
            {
                row.result.evaluations
                for row in rows
                if is_done(row) and row.job.workflow == workflow
            }
            - {None}
        )
        if not seconds:
            lines.append([workflow, "0", *[""] * (len(head) - 2)])
            continue
        median = statistics.median(seconds)
        slow = slow or median
        each = price_each(warm_runs(rows, workflow), price_per_hour)
        price = ["" if each is None else f"{each:.4g}"] if price_per_hour else []
        times = [median, percentile(seconds, 0.9), percentile(seconds, 0.99), max(seconds)]
        lines.append(
            [
                workflow,
                str(len(seconds)),
                " or ".join(f"{count:g}" for count in evaluations),
                *(f"{time:.2f} s" for time in times),
                f"{slow / median:.2f}x" if median else "",
                *price,
            ]
        )
    return table(head, lines)


def quality_table(rows: Sequence[Row], workflows: Sequence[str]) -> str:
    lines = []
    for workflow in workflows[1:]:
        found = [row.quality for row in rows if row.job.workflow == workflow and row.quality]
        columns = (
            [one.psnr for one in found if math.isfinite(one.psnr)],
            [one.ssim for one in found],
            [one.lpips for one in found if one.lpips is not None],
            [one.temporal for one in found if one.temporal is not None],
        )
        lines.append([workflow, str(len(found)), *map(mean_and_span, columns)])
    return table(["workflow", "pairs", "PSNR, dB", "SSIM", "LPIPS", "temporal difference"], lines)


def mean_and_span(values: Sequence[float]) -> str:
    return (
        f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else ""
    )


def failures(rows: Sequence[Row]) -> str:
    bad = [
        [
            row.job.workflow,
            str(row.job.seed),
            row.job.text,
            (row.result.error if row.result else "not run") or row.trouble,
        ]
        for row in rows
        if not is_done(row) or row.trouble
    ]
    return (
        "<h2 class=bad>What went"
        f" wrong</h2>{table(['workflow', 'seed', 'prompt', 'what'], bad, 'words')}"
        if bad
        else ""
    )


def table(head: Sequence[str], lines: Sequence[Sequence[str]], kind: str = "figures") -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return (
        f"<table class={kind}>"
        + line(head, "th")
        + "".join(line(cells, "td") for cells in lines)
        + "</table>"
    )


# ---------------------------------------------------------------- plots


def latency_plot(rows: Sequence[Row], workflows: Sequence[str]) -> Any:
    figure = new_figure(1000, 90 + 60 * len(workflows))
    axes = figure.subplots()
    for place, workflow in enumerate(workflows):
        seconds = warm_seconds(rows, workflow)
        axes.scatter(
            seconds, [place] * len(seconds), color=COLOURS[place % len(COLOURS)], alpha=0.6, s=60
        )
        if seconds:
            axes.plot(
                [statistics.median(seconds)] * 2,
                [place - 0.3, place + 0.3],
                color=COLOURS[place % len(COLOURS)],
                linewidth=3,
            )
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
            axes.scatter(
                *zip(*points),
                color=COLOURS[place % len(COLOURS)],
                alpha=0.6,
                s=60,
                label=plain(workflow),
            )
            axes.legend()
    axes.set(
        xlabel="seconds",
        ylabel=f"SSIM against {plain(workflows[0])}",
        ylim=(min(0.0, axes.get_ylim()[0]), 1.02),
    )
    axes.set_xlim(left=0)
    axes.grid(True, alpha=0.3)
    return figure


def picture(figure: Any, words: str) -> str:
    """A matplotlib Figure as an <img> with the picture in it."""
    data = io.BytesIO()
    figure.savefig(data, format="webp", pil_kwargs={"quality": 85})
    return (
        f'<img alt="{html.escape(words)}"'
        f' src="data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}">'
    )
