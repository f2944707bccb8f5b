"""Step Skip in short, on the demo model: its error beside others', what it costs and keeps.

benchmarks/skip.py has all the curves.

    python benchmarks/skip_costs.py [--rounds 7]
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import in_host

in_host.enter()

import skip  # noqa: E402
import torch  # noqa: E402
from comfyui_fewstep.samplers.skip.forecast import Forecast  # noqa: E402
from comfyui_fewstep.samplers.skip.method import Settings  # noqa: E402
from comfyui_fewstep.samplers.skip.run import SkipRun  # noqa: E402
from comfyui_fewstep.samplers.skip.schedule import RunSchedule  # noqa: E402
from comfyui_fewstep.samplers.skip.traits import traits_of  # noqa: E402
from sampling import clip, ksampler, small_wan  # noqa: E402
from tables import Table, Target, at_most, main_of  # noqa: E402

from small_models import conditioning  # noqa: E402

CLIPS, STEPS, SAMPLER = 6, 30, "euler"
OTHERS = ("EasyCache", "LazyCache", "fewer steps", "teacache")
COLUMNS = ("evaluations", "forecast", *OTHERS, "target")


def tables(rounds: int, folder: Path) -> list[Table]:
    return [errors(), costs(rounds, folder)]


def errors() -> Table:
    table = Table(
        f"Step Skip: error against evaluations, demo model, {STEPS} steps of {SAMPLER}",
        COLUMNS,
        "Relative L2 distance of the final latent from that of the run with every evaluation made,"
        f" median of {CLIPS} clips; - where a method does not get there.",
    )
    subject = skip.SUBJECTS["demo"](CLIPS)
    measurement = skip.Measurement(subject, SAMPLER, STEPS, has_published=False).run()
    for point in reversed(measurement.curves["forecast"]):
        if point.evaluations == STEPS:
            continue
        others = {name: measurement.error_at(name, point.evaluations) for name in OTHERS}
        met = measurement.meets_target(point)
        table.row(
            f"{STEPS} → {point.evaluations}",
            f"{point.error:.4f}",
            *("-" if error is None else f"{error:.4f}" for error in others.values()),
            "" if met is None else Target("<= 1/3 of EasyCache's, 0.8 of fewer steps'", met),
        )
    return table


def costs(rounds: int, folder: Path) -> Table:
    """The node with every evaluation made: at threshold 0 it vetoes every planned skip."""
    table = Table("Step Skip: what it costs where nothing is skipped")
    model, text, latent, steps = small_wan(folder), conditioning(length=6), clip(), 12
    idle = skip.step_skip(model, "forecast", 1.5, threshold=0.0)
    with_node, without = in_host.in_turns(
        *(ksampler(each, text, text, latent, steps, 1.0) for each in (idle, model)), rounds
    )
    ratio, evaluation = in_host.median_ratio(with_node, without), median(without) / steps
    table.row(
        f"a run of {steps} evaluations, {1000 * evaluation:.0f} ms each",
        f"{median(with_node):.3f} s / {median(without):.3f} s",
        f"{ratio:.3f}",
        at_most(ratio, 1.01),
    )
    own, kept = bookkeeping(tuple(latent["samples"].shape))
    table.row(
        "its own work for one evaluation",
        f"{1000 * own:.2f} ms",
        f"{own / evaluation:.2%}",
        at_most(100 * own / evaluation, 1, "{:g} %"),
    )
    size = latent["samples"].nbytes
    table.row(
        "history", f"{kept:,} bytes for a latent of {size:,}", f"{kept / size:.1f} latents", ""
    )
    return table


def bookkeeping(shape: tuple[int, ...], runs: int = 20) -> tuple[float, int]:
    """(own seconds per evaluation, bytes of history) in Euler runs with a ready answer."""
    schedule, euler = (
        RunSchedule(tuple(1 - step / STEPS for step in range(STEPS + 1)), is_flow=True),
        traits_of("sample_euler", {}),
    )
    x, answer, sigmas = (
        torch.randn(shape),
        torch.randn(shape),
        [torch.tensor(sigma) for sigma in schedule.sigmas[:-1]],
    )
    started = time.perf_counter()
    for _ in range(runs):
        run = SkipRun(schedule, euler, Forecast(schedule, Settings(threshold=0.0), euler))
        for sigma in sigmas:
            run.evaluate(x, sigma, lambda: answer)
    return (time.perf_counter() - started) / (runs * STEPS), run.finish().history_bytes


if __name__ == "__main__":
    main_of(__doc__, tables, rounds=7)
