"""results.csv: every job of a batch in a row."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from judging import Row, price_each

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


def write(path: Path, rows: Sequence[Row], price_per_hour: float) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            values = values_of(row, price_per_hour)
            writer.writerow({name: as_cell(value) for name, value in values.items()})


def values_of(row: Row, price_per_hour: float) -> dict[str, Any]:
    """Column -> value; a column that is not there stays empty."""
    job, result, quality = row.job, row.result, row.quality
    values: dict[str, Any] = {
        "workflow": job.workflow,
        "prompt": job.text,
        "seed": job.seed,
        "error": row.problem,
    }
    if result is not None:
        values |= {
            "server": result.server,
            "seconds": result.seconds,
            "is_first": result.is_first,
            "restarts": result.restarts,
            "evaluations": result.evaluations,
            "sampling_seconds": result.sampling_seconds,
            "price_each": price_each([result], price_per_hour),
            "files": " ".join(result.files),
        }
    if quality is not None:
        values |= {
            "psnr": quality.psnr,
            "ssim": quality.ssim,
            "lpips": quality.lpips,
            "temporal_difference": quality.temporal,
        }
    return values


def as_cell(value: Any) -> Any:
    """A value for a spreadsheet: an apostrophe keeps text that would run as a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t"):
        return "'" + value
    return "" if value is None else value
