"""What was sampled with a MODEL last, for Run Report.

A sampler hands on nothing but its latent, and what is told under another node is gone when the job
ends. So a node that watches the runs of its MODEL, as Step Skip does, keeps the last few of them in
a slot beside its settings. It is the one piece of state on a MODEL, and replaced whole at the end
of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from .report import Report

SLOT_KEY = "fewstep.last_runs"
KEPT = 8  # several samplers may share a MODEL
# Values of a latent that it is known again by: so many that some lie within an inpainting mask of a
# hundredth of the picture, outside of which runs with one source are alike.
PROBES = 1024
TOLERANCE = 0.02  # of these values, where a latent went through a lower precision


@dataclass(frozen=True)
class LatentMark:
    """What a latent is known again by. Plain numbers: a run leaves no tensor behind."""

    shape: tuple[int, ...]
    values: tuple[float, ...]  # PROBES of them

    def is_of(self, other: LatentMark) -> bool:
        if self.shape != other.shape:
            return False
        ours, theirs = torch.tensor(self.values), torch.tensor(other.values)
        scale = ours.nan_to_num().square().mean().sqrt().item()
        return torch.allclose(ours, theirs, TOLERANCE, TOLERANCE * scale, equal_nan=True)


def mark_of(samples: Tensor) -> LatentMark:
    """Of a LATENT's samples, or of what the host makes of several at once while it samples."""
    if samples.is_nested:
        samples = comfy.utils.pack_latents(samples.unbind())[0]
    flat = samples.detach().reshape(-1)
    # Anywhere, and the same every time: places in rows may all miss a mask.
    places = torch.randint(flat.numel(), (PROBES,), generator=torch.Generator().manual_seed(0))
    return LatentMark(tuple(samples.shape), tuple(flat[places.to(flat.device)].tolist()))


@dataclass(frozen=True)
class FinishedRun:
    """One run of a sampler, as a node on its MODEL saw it."""

    sampler: str
    steps: int
    evaluations: float  # forward passes for each sample of the batch
    seconds: float  # wall time of sampling alone
    mark: LatentMark  # of the latent that came out
    report: Report  # of the node that watched
    is_reported: bool  # by its sampler too, as ours do


class LastRuns:
    """The slot. Runs are in order, the latest last."""

    def __init__(self) -> None:
        self.runs: tuple[FinishedRun, ...] = ()

    def add(self, run: FinishedRun) -> None:
        self.runs = (*self.runs, run)[-KEPT:]

    def run_of(self, latent: Mapping[str, Any]) -> tuple[FinishedRun | None, bool]:
        """(the run that made this latent or else the latest one, whether it did make it)"""
        mark = mark_of(latent["samples"])
        for run in reversed(self.runs):
            if run.mark.is_of(mark):
                return run, True
        return (self.runs[-1] if self.runs else None), False


def last_runs_of(model) -> LastRuns | None:
    """The slot on a MODEL; None where no node watches its runs."""
    return model.model_options.get(SLOT_KEY)
