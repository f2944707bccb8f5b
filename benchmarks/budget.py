"""Step Budget's prediction against the real wall time of the sampler at the steps it chose.

    python benchmarks/budget.py [--rounds 5] [--cpu-time]

Each round measures a fresh cost and then runs the sampler, so that a drift of the machine's speed meets both. The error is that of
the median round; on a machine that does something else at the same time, it is that of the machine. There, and without a GPU,
--cpu-time counts the seconds that this process really had.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import in_host

in_host.enter()

import torch  # noqa: E402
from comfyui_fewstep.loras.catalog import CATALOG  # noqa: E402
from comfyui_fewstep.nodes import budget, host  # noqa: E402
from comfyui_fewstep.nodes.measure import measure  # noqa: E402
from comfyui_fewstep.nodes.sampler import FewStepSampler  # noqa: E402
from comfyui_fewstep.nodes.skip_patch import SkipConfig, with_skip  # noqa: E402
from comfyui_fewstep.samplers.budget import allowance_of, candidates, choose  # noqa: E402
from comfyui_fewstep.samplers.skip.run import Settings  # noqa: E402
from tables import Table, Target, main_of  # noqa: E402

import nodes as core  # noqa: E402
from small_models import conditioning, load_model, unet_patcher, write_wan  # noqa: E402

Latent = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A model at a size, and how long it may take in evaluations: 0 takes batch's, full steps."""

    name: str
    model: Any
    latent: Latent
    evaluations: float
    length: int  # of the text, in tokens


def cases(folder: Path) -> list[Case]:
    """Sizes at which one evaluation takes tens of milliseconds and more on a CPU."""
    wan = load_model(write_wan(folder / "wan.safetensors", "wan21_t2v"))
    clip, image = {"samples": torch.zeros(1, 16, 5, 24, 24)}, {"samples": torch.zeros(1, 4, 64, 64)}
    record = CATALOG["wan21-t2v-lightx2v-4step"]
    fast_wan = host.with_record(host.with_model_sampling(wan, record), record)
    unet, lightning = unet_patcher("sdxl"), CATALOG["sdxl-lightning-8step-lora"]
    fast_unet = host.with_record(host.with_model_sampling(unet, lightning), lightning)
    return [
        Case("small Wan, LightX2V 4 steps", fast_wan, clip, 5, 512),
        Case("small SDXL, Lightning 8 steps", fast_unet, image, 9, 77),
        Case("small Wan, full steps and guidance", wan, clip, 0, 512),
        Case("small Wan, full steps with Step Skip", wan, clip, 60, 512),
    ]


def round_of(case: Case, clock: Callable[[], float]) -> tuple[float, float]:
    """(predicted, real) seconds."""
    subject = budget.look_at(case.model, case.latent)
    cost = measure(case.model, case.latent, clock)
    allowance = allowance_of("batch", case.evaluations * cost.evaluation, subject.work)
    way = choose(candidates(subject.record, subject.full_run, cost, subject.work), allowance).way
    return way.seconds, timed(run_of(case, way), clock)


def run_of(case: Case, way) -> Callable[[], object]:
    """The sampler at the chosen steps: ours for an accelerator, else core's with Step Skip where it was counted on."""
    positive, negative = (conditioning(case.model, seed, length=case.length) for seed in (0, 1))
    if way.records:
        return lambda: FewStepSampler.execute(case.model, positive, case.latent, 1, way.steps, 1.0)
    model = case.model
    if way.target_speedup > 1:
        model = with_skip(model, SkipConfig("forecast", Settings(way.target_speedup, threshold=3.0), 0.0, 1.0, "auto"))
    return lambda: core.KSampler().sample(model, 1, way.steps, 5.0, "euler", "simple", positive, negative, case.latent)


def timed(call: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    with contextlib.redirect_stderr(io.StringIO()):  # the host's progress bars
        call()
    return clock() - started


def tables(rounds: int, folder: Path, cpu_time: bool = False) -> list[Table]:
    clock = time.process_time if cpu_time else time.perf_counter
    table = Table("Step Budget: its prediction against the real run", ("run", "predicted", "real", "error", "target"))
    for case in cases(folder):
        pairs = [round_of(case, clock) for _ in range(rounds + 1)][1:]  # the first warms up
        errors = [predicted / real - 1 for predicted, real in pairs]
        predicted, real = (statistics.median(column) for column in zip(*pairs))
        error = statistics.median(errors)
        table.row(case.name, f"{predicted:.3f} s", f"{real:.3f} s", f"{error:+.1%} ({min(errors):+.1%} to {max(errors):+.1%})",
                  Target("within 10 %", abs(error) <= 0.1))
    return [table]


if __name__ == "__main__":
    main_of(__doc__, tables, rounds=5, cpu_time={"action": "store_true"})
