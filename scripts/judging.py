"""What became of a batch's jobs: their figures, and how near the reference their pictures are."""

from __future__ import annotations

import base64
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pack  # noqa: F401  makes comfyui_fewstep importable

# isort: split

import numpy as np
import torch
from comfyui_fewstep.quality.metrics import Quality, compare
from comfyui_fewstep.quality.sheet import draw_sheet
from PIL import Image, ImageSequence
from torch import Tensor

from batch_jobs import Job
from batch_store import Result, Store

CLIPS = frozenset({".mp4", ".webm"})


@dataclass(frozen=True)
class Row:
    """A job and what became of it."""

    job: Job
    result: Result | None = None  # None: it has not run
    quality: Quality | None = None  # against the reference's of the same prompt and seed
    sheet: str = ""  # both side by side, as as_webp makes it
    trouble: str = ""  # why a job that is done could not be compared

    @property
    def is_done(self) -> bool:
        return self.result is not None and not self.result.error

    @property
    def problem(self) -> str:
        """What went wrong, in words; empty where nothing did."""
        return (self.result.error if self.result else "not run") or self.trouble


def judged(store: Store, jobs: Sequence[Job], first: str) -> list[Row]:
    """Every job; done ones compared with the first workflow's of the same prompt and seed."""
    results = {job.id: store.read(job) for job in jobs}
    references = {(job.text, job.seed): results[job.id] for job in jobs if job.workflow == first}
    return [
        judged_job(store, job, results[job.id], references.get((job.text, job.seed)), first)
        for job in jobs
    ]


def judged_job(
    store: Store, job: Job, result: Result | None, reference: Result | None, first: str
) -> Row:
    is_comparable = result is not None and not result.error and job.workflow != first
    if not is_comparable or reference is None or reference.error:
        return Row(job, result)
    try:
        before, after = frames_of(store, reference), frames_of(store, result)
        quality = compare(before, after)
        sheet = as_webp(draw_sheet(before, after, quality, (first, job.workflow)))
    # RuntimeError is torch's, as for memory that is not there.
    except (ValueError, RuntimeError, MemoryError) as error:
        return Row(job, result, trouble=f"not compared: {error or type(error).__name__}")
    return Row(job, result, quality, sheet)


def as_webp(figure: Any) -> str:
    """A matplotlib Figure as the base64 of a picture."""
    data = io.BytesIO()
    figure.savefig(data, format="webp", pil_kwargs={"quality": 85})
    return base64.b64encode(data.getvalue()).decode()


# --- pictures and clips


def frames_of(store: Store, result: Result) -> Tensor:
    """(N, H, W, 3) of a job's pictures or clips. Raises ValueError if none can be compared."""
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
    """(H, W, 3) in 0..1 of a picture, or each frame of a clip. Raises ValueError for a bad file."""
    name = f"{path.parent.name}/{path.name}"
    try:
        return clip_frames(path) if path.suffix in CLIPS else picture_frames(path)
    except FileNotFoundError:
        raise ValueError(f"{name} is gone; the same command makes it again") from None
    # Decoders raise whatever they met: SyntaxError, EOFError, struct.error and more.
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{name} cannot be read ({what}); delete it, and the same command makes it again"
        ) from error


def clip_frames(path: Path) -> list[Tensor]:
    import av

    with av.open(str(path)) as clip:
        return [as_tensor(frame.to_ndarray(format="rgb24")) for frame in clip.decode(video=0)]


def picture_frames(path: Path) -> list[Tensor]:
    with Image.open(path) as image:
        return [as_tensor(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def as_tensor(pixels: Any) -> Tensor:
    """(H, W, 3) in 0..1 of a Pillow picture or an array."""
    return torch.from_numpy(np.array(pixels)).float() / 255


# --- figures of several jobs


def warm_runs(rows: Sequence[Row], workflow: str) -> list[Result]:
    """A workflow's timed runs without those that load the model, where there are others."""
    timed = [
        row.result
        for row in rows
        if row.result
        and row.is_done
        and row.job.workflow == workflow
        and row.result.seconds is not None
    ]
    return [result for result in timed if not result.is_first] or timed


def warm_seconds(rows: Sequence[Row], workflow: str) -> list[float]:
    return [result.seconds for result in warm_runs(rows, workflow) if result.seconds is not None]


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile: a value that really occurred."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def mean_and_span(values: Sequence[float]) -> str:
    return (
        f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else ""
    )


def price_each(results: Sequence[Result], price_per_hour: float) -> float | None:
    """Of one picture or clip of these runs; None if no price, time or file is known."""
    timed = [result for result in results if result.seconds is not None]
    saved = sum(len(result.files) for result in timed)
    return (
        sum(result.seconds for result in timed) * price_per_hour / 3600 / saved
        if price_per_hour and saved
        else None
    )
