"""Full-size architectures with random weights on one card, in ten minutes: seconds and peak memory
beside core's samplers, our own share, waits for the device, graph breaks.

    bash benchmarks/on_a_card.sh                   all of it on one H100 or H200
    python benchmarks/full_size.py --size small    the same code on small models, also on a CPU
    python benchmarks/full_size.py --read FILE     the tables of what was measured before

Every part is a line of JSON in --out, written as soon as it is measured, and has its own limit of
time: one that is stopped keeps what it has. Parts that a file holds already are not made again.
"""

from __future__ import annotations

import contextlib
import gc
import json
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import in_host

in_host.enter()

import comfy.model_management  # noqa: E402
import compiled  # noqa: E402
import memory  # noqa: E402
import torch  # noqa: E402
from architectures import (  # noqa: E402
    PRECISIONS,
    SUBJECTS,
    Subject,
    bytes_of,
    conditioning_of,
    made_small,
    network,
    small_latent,
)
from comfy.patcher_extension import WrappersMP  # noqa: E402
from comfyui_fewstep.nodes.host.model import accelerator_of  # noqa: E402
from sampling import (  # noqa: E402
    Call,
    chained,
    few_step,
    ksampler,
    with_settings,
)
from skip import step_skip  # noqa: E402
from stream import by_ar_video, streamed  # noqa: E402
from tables import Table, Target, main_of  # noqa: E402

Figures = dict[str, Any]
# "ours" and "core" -> the run; core's is left out where it cannot make it.
Runs = dict[str, Call]

GUIDED_STEPS = 50
TIMED_STEPS = 2  # of the guided run, which is too long to be made whole
SKIP_STEPS = 20
PAIRS_SECONDS = 15.0  # in which another round is begun
SILENT_ROUNDS = 9  # of runs whose network answers at once
WHOLE_SECONDS = 570.0
# What is left of the time when no part is begun any more.
LEAST_SECONDS = 10.0
# The exit status that asks for a new process: after an error of its own the device answers no more.
AGAIN = 75


class OutOfTime(Exception):
    """A part's limit has passed."""


@dataclass(frozen=True)
class Part:
    """One line of the results."""

    name: str
    measure: Callable[[Figures], None]  # fills in what is measured, as it is measured
    seconds: float  # its limit
    bytes: Callable[[], int] = int  # of weights


# ---------------------------------------------------------------- what is measured


def few_steps(figures: Figures, subject: Subject, dtype: torch.dtype) -> None:
    """An accelerated run beside core's sampler, and beside 50 guided steps."""
    text, negative = conditioning_of(subject, 0), conditioning_of(subject, 1)
    plain = [network(subject, dtype) for _ in subject.records]
    models = [with_settings(model, name) for model, name in zip(plain, subject.records)]
    record = accelerator_of(models[0])
    steps, solver = record.default_steps, record.solver.value

    def runs(models, shape: tuple[int, ...]) -> Runs:
        latent = {"samples": torch.zeros(shape)}
        if len(models) == 2:
            ours = few_step(models[0], text, latent, model_low_noise=models[1])
            return {"ours": ours, "core": chained(*models, text, latent)}
        theirs = ksampler(models[0], text, text, latent, steps, 1.0, solver)
        return {"ours": few_step(models[0], text, latent), "core": theirs}

    latent = {"samples": torch.zeros(subject.latent)}
    for model in models:
        in_host.seconds_of(ksampler(model, text, text, latent, 1, 1.0, solver))
    beside_core(figures, runs, models, subject, steps)
    add_guided(figures, plain[0], text, negative, subject, steps)


def add_guided(
    figures: Figures, model, text: list, negative: list, subject: Subject, steps: int
) -> None:
    """What 50 undistilled steps would take, from a few of them."""
    latent = {"samples": torch.zeros(subject.latent)}
    one, more = (
        ksampler(model, text, negative, latent, count, subject.cfg)
        for count in (1, 1 + TIMED_STEPS)
    )
    in_host.seconds_of(one)
    fixed = in_host.seconds_of(one)
    step = (in_host.seconds_of(more) - fixed) / TIMED_STEPS
    full = fixed + (GUIDED_STEPS - 1) * step
    figures["guided_seconds"] = full
    figures["factor"] = full / figures["seconds"]["ours"]
    figures["ideal_factor"] = GUIDED_STEPS * (2 if subject.cfg > 1 else 1) / steps


def skipping(figures: Figures, subject: Subject, dtype: torch.dtype) -> None:
    """Step Skip in core's sampler beside all evaluations made: what is skipped, and what it costs.

    The forecasts are never vetoed here: how good they are random weights cannot tell.
    """
    text, calls = conditioning_of(subject, 0), []

    def count(executor, *args, **kwargs):
        calls.append(1)
        return executor(*args, **kwargs)

    model = network(subject, dtype)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "benchmark.count", count)

    def runs(models, shape: tuple[int, ...]) -> Runs:
        latent = {"samples": torch.zeros(shape)}
        each = {"ours": step_skip(models[0], "forecast", 1.5, threshold=100.0), "core": models[0]}
        return {
            who: ksampler(model, text, text, latent, SKIP_STEPS, 1.0) for who, model in each.items()
        }

    latent = {"samples": torch.zeros(subject.latent)}
    in_host.seconds_of(ksampler(model, text, text, latent, 1, 1.0))
    beside_core(figures, runs, [model], subject, SKIP_STEPS)
    calls.clear()
    in_host.seconds_of(runs([model], small_latent(subject))["ours"])
    figures["evaluations"] = len(calls)
    figures["factor"] = 1 / figures["ratio"]
    figures["ideal_factor"] = SKIP_STEPS / len(calls)


def streaming(figures: Figures, subject: Subject, dtype: torch.dtype) -> None:
    """A clip block by block beside core's ar_video, which makes one evaluation more. In fp8 that
    one keeps keys and values in the precision of the weights, and fails.
    """
    text = conditioning_of(subject, 0)
    models = [with_settings(network(subject, dtype), subject.records[0])]

    def runs(models, shape: tuple[int, ...]) -> Runs:
        frames, height, width = shape[2:]
        ours = streamed(models[0], text, frames, height, width=width)
        if dtype.itemsize == 1:
            return {"ours": ours}
        return {"ours": ours, "core": by_ar_video(models[0], text, frames, height, width)}

    blocks = subject.latent[2] // accelerator_of(models[0]).causal.frames_per_block
    evaluations = blocks * (accelerator_of(models[0]).default_steps + 1) - 1
    warm_up = runs(models, (*subject.latent[:2], 3, *subject.latent[3:]))["ours"]
    in_host.seconds_of(warm_up)
    figures["first_block_seconds"] = warm_up().first_seconds
    beside_core(figures, runs, models, subject, evaluations)


def graphs(figures: Figures, folder: Path) -> None:
    """What torch.compile makes of small models of the same classes, on this device."""
    for what, ours, cores in compiled.cases(folder):
        mine, theirs = compiled.traced(ours), compiled.traced(cores)
        figures[what] = {
            name: {"graphs": traced.graphs, "breaks": traced.breaks, "again": traced.again}
            for name, traced in (("ours", mine), ("core", theirs))
        }


def beside_core(
    figures: Figures,
    runs: Callable[[Sequence[Any], tuple[int, ...]], Runs],
    models: Sequence[Any],
    subject: Subject,
    evaluations: int,
) -> None:
    """Seconds and peak memory in turns; our own work; how often each waits for the device.

    runs: those of some models on a latent of some shape. evaluations: of such a run.
    """
    seconds, peaks = in_turns(runs(models, subject.latent), subject.rounds)
    figures["steps"] = evaluations
    figures["seconds"] = {who: median(each) for who, each in seconds.items()}
    figures["peak_gib"] = {who: max(each) / 2**30 for who, each in peaks.items()}
    if "core" in seconds:
        figures["ratio"] = in_host.median_ratio(seconds["ours"], seconds["core"])
    silent = runs([answering_at_once(model) for model in models], subject.latent)
    taken = in_host.all_in_turns(silent, SILENT_ROUNDS)
    walls = {who: [each.wall for each in taken[who]] for who in taken}
    figures["without_network_ms"] = {who: 1000 * median(each) for who, each in walls.items()}
    # Where core cannot make the run, all of it is ours.
    cores = walls.get("core", [0.0] * SILENT_ROUNDS)
    own = median(one - other for one, other in zip(walls["ours"], cores))
    figures["own_ms"] = 1000 * own
    figures["own_share"] = own / (figures["seconds"].get("core") or figures["seconds"]["ours"])
    small = runs(models, small_latent(subject))
    if torch.cuda.is_available():
        waits = {who: synchronisations(call) for who, call in small.items()}
        figures["synchronisations"] = waits
        figures["synchronisations_per_step"] = {
            who: count / evaluations for who, count in waits.items()
        }


def answering_at_once(model):
    """The model without its network, the causal one's too: what remains is the samplers' own."""
    silent = model.clone()
    silent.add_wrapper_with_key(
        WrappersMP.APPLY_MODEL, "benchmark.silent", lambda _, x, *args, **more: torch.zeros_like(x)
    )
    return silent


def in_turns(runs: Runs, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[int]]]:
    """(seconds, peak bytes) of each, in so many rounds, fewer where they are long."""
    seconds: dict[str, list[float]] = {who: [] for who in runs}
    peaks: dict[str, list[int]] = {who: [] for who in runs}
    began = time.perf_counter()
    for _ in range(rounds):
        for who, call in runs.items():
            taken, peak = seconds_and_peak(call)
            seconds[who].append(taken)
            peaks[who].append(peak)
        if time.perf_counter() - began > PAIRS_SECONDS:
            break
    return seconds, peaks


def seconds_and_peak(call: Call) -> tuple[float, int]:
    """(seconds, the most bytes that were in use)"""
    seconds: list[float] = []
    peak = memory.peak_of(lambda: seconds.append(in_host.seconds_of(call)))
    return seconds[0], peak.highest


def synchronisations(run: Call) -> int:
    """How often a run makes the host wait for the device, as counted by torch.cuda's debug mode."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


# ---------------------------------------------------------------- parts, limits, lines

# What matters most first: (subject, precision, how, seconds). Those behind it are made where time
# is left.
ORDER = (
    ("sdxl", "bf16", few_steps, 40),
    ("flux-schnell", "bf16", few_steps, 45),
    ("flux-dev", "bf16", skipping, 60),
    ("wan-1.3b", "bf16", few_steps, 45),
    ("wan-14b", "bf16", few_steps, 100),
    ("stream-1.3b", "bf16", streaming, 40),
    ("stream-14b", "bf16", streaming, 90),
    ("graphs", "", None, 90),
    ("sdxl", "fp8", few_steps, 40),
    ("flux-schnell", "fp8", few_steps, 45),
    ("wan-1.3b", "fp8", few_steps, 45),
    ("wan-14b", "fp8", few_steps, 100),
    ("flux-dev", "fp8", skipping, 60),
    ("stream-1.3b", "fp8", streaming, 40),
    ("stream-14b", "fp8", streaming, 90),
    ("qwen-image", "bf16", few_steps, 60),
    ("wan22-a14b", "bf16", few_steps, 100),
)


def parts(size: str, folder: Path) -> Iterator[Part]:
    """In the order in which they are measured. Small ones are tried beside other work."""
    patience = 5 if size == "small" else 1
    for name, precision, how, limit in ORDER:
        seconds = patience * limit
        if how is None:
            yield Part(name, lambda figures: graphs(figures, folder), seconds)
            continue
        subject = made_small(SUBJECTS[name]) if size == "small" else SUBJECTS[name]
        dtype = PRECISIONS[precision]
        yield Part(
            f"{name} {precision}",
            lambda figures, how=how, subject=subject, dtype=dtype: how(figures, subject, dtype),
            seconds,
            lambda subject=subject, dtype=dtype: bytes_of(subject, dtype),
        )


def measure(out: Path, size: str, folder: Path, seconds: float, only: Sequence[str]) -> None:
    """Write a line for each part that the file has not begun yet, within so many seconds.

    Raises SystemExit(AGAIN) where the parts that are left need a new process.
    """
    ends = time.monotonic() + seconds
    begun = {line["part"] for line in lines_of(out) if "part" in line}
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    write(out, {"machine": in_host.machine(), "load": in_host.load(), "size": size, "date": date})
    for part in parts(size, folder):
        if part.name in begun or (only and part.name not in only):
            continue
        left = ends - time.monotonic()
        why = f"{left:.0f} s were left" if left < LEAST_SECONDS else too_large(part)
        if why:
            write(out, {"part": part.name, "state": "left out", "why": why})
            continue
        write(out, {"part": part.name, "state": "begun"})
        line = line_of(part, min(part.seconds, left))
        write(out, line)
        if "CUDA" in line.get("why", "") and line["state"] == "failed":
            raise SystemExit(AGAIN)
        gc.collect()
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()


def too_large(part: Part) -> str:
    """Why a part has no room on the device; empty where it has."""
    if not torch.cuda.is_available():
        return ""
    needed, free = part.bytes(), torch.cuda.mem_get_info()[0]
    return f"{needed / 2**30:.0f} GiB of weights" if needed > 0.8 * free else ""


def line_of(part: Part, limit: float) -> dict[str, Any]:
    """Measure a part. It holds what was measured, also where it was stopped or failed."""
    figures: Figures = {}
    began, line = time.monotonic(), {"part": part.name, "state": "done"}
    try:
        with within(limit):
            part.measure(figures)
    except Exception as error:
        # What was stopped may say so in words of its own, as torch.compile does.
        if time.monotonic() - began >= limit:
            line |= {"state": "stopped", "why": f"its {limit:.0f} s have passed"}
        else:
            traceback.print_exc()
            line |= {"state": "failed", "why": f"{type(error).__name__}: {error}"[:400]}
    return {**line, "took_seconds": time.monotonic() - began, **figures}


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in it when they have passed, where the system has such alarms."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def write(out: Path, line: dict[str, Any]) -> None:
    """Append a line, so that it is there whatever becomes of this process."""
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(rounded(line)) + "\n")
    print(json.dumps(rounded(line)), flush=True)


def rounded(value: Any) -> Any:
    """The same with floats to four figures."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def lines_of(out: Path) -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        if out.exists()
        else []
    )


# ---------------------------------------------------------------- tables

COLUMNS = (
    "part",
    "a run, ours / core's",
    "ratio",
    "our own work",
    "waits for the device a step",
    "peak memory",
    "in place of more steps",
    "target",
)


def tables(
    rounds: int,
    folder: Path,
    size: str = "full",
    out: str = "",
    seconds: float = WHOLE_SECONDS,
    parts: Sequence[str] = (),
    read: str = "",
) -> list[Table]:
    """rounds: not used; a run on a card is bound by time."""
    if read:
        return tables_of(lines_of(Path(read)))
    if size == "full" and not torch.cuda.is_available():
        raise SystemExit("No CUDA device is here. --size small tries the code on any machine.")
    file = Path(out) if out else folder / "card.jsonl"
    measure(file, size, folder, seconds, parts)
    return tables_of(lines_of(file))


def tables_of(lines: Sequence[dict[str, Any]]) -> list[Table]:
    """What the lines of a file say."""
    made = next((line for line in lines if "machine" in line), {})
    is_small = made.get("size") == "small"
    where = "small, to try the code: the figures mean nothing" if is_small else "full size"
    table = Table(
        f"Architectures with random weights, {where}",
        COLUMNS,
        f"{made.get('machine', 'no machine')}, {made.get('date', '')}.",
    )
    traced = Table("torch.compile on this device", ("what", "ours", "core's", "target"))
    for line in lines:
        if line.get("state", "begun") == "begun":
            continue
        if line["part"] == "graphs":
            add_graphs(traced, line)
        else:
            table.row(*row_of(line))
    return [table, *([traced] if traced.rows else [])]


def row_of(line: dict[str, Any]) -> Iterator[object]:
    """The cells of a part's row; - for what was not measured."""
    state = "" if line["state"] == "done" else f" ({line['state']}: {line['why']})"
    yield f"{SUBJECTS[line['part'].split()[0]].words}, {line['part'].split()[1]}{state}"
    if "own_ms" not in line:
        yield from ("-",) * 6
        yield ""
        return
    ratio, waits = line.get("ratio"), line.get("synchronisations_per_step")
    yield f"{both(line['seconds'], '{:.3f} s')} in {line['steps']} steps"
    yield f"{ratio:.3f}" if ratio else "core fails"
    yield f"{line['own_ms']:.1f} ms, {line['own_share']:.2%}"
    yield both(waits, "{:.2g}") if waits else "no GPU"
    yield both(line["peak_gib"], "{:.1f} GiB")
    yield gain_of(line)
    is_skipping = "evaluations" in line
    is_near = is_skipping or ratio is None or ratio <= 1.02
    waits_no_more = not waits or waits["ours"] <= waits.get("core", waits["ours"])
    yield Target(
        "<= 1.02 of core's seconds, own work <= 1 %, no more waits",
        is_near and line["own_share"] <= 0.01 and waits_no_more,
    )


def both(values: dict[str, float], form: str) -> str:
    return " / ".join(map(form.format, values.values()))


def gain_of(line: dict[str, Any]) -> str:
    """What a run stands in for, or when a stream's first block was there."""
    if "first_block_seconds" in line:
        return f"first block after {line['first_block_seconds']:.2f} s"
    if "factor" not in line:
        return "-"
    whole = f"{line['guided_seconds']:.1f} s, " if "guided_seconds" in line else ""
    return f"{whole}{line['factor']:.2f}x of {line['ideal_factor']:.3g}x"


def add_graphs(table: Table, line: dict[str, Any]) -> None:
    for what, traced in line.items():
        if isinstance(traced, dict):
            ours, core = traced["ours"], traced["core"]
            is_met = ours["breaks"] <= core["breaks"] and ours["again"] <= core["again"]
            target = Target("no more breaks, none later", is_met)
            table.row(what, *map(in_words, (ours, core)), target)


def in_words(traced: dict[str, int]) -> str:
    return f"graphs: {traced['graphs']}, breaks: {traced['breaks']}, later: {traced['again']}"


if __name__ == "__main__":
    main_of(
        __doc__,
        tables,
        rounds=1,
        size={"choices": ("full", "small"), "default": "full"},
        out={"default": "", "help": "the file of lines; without it one that is thrown away"},
        seconds={"type": float, "default": WHOLE_SECONDS, "help": "for all of it"},
        parts={"nargs": "+", "default": (), "help": "only these, such as 'sdxl bf16'"},
        read={"default": "", "help": "measure nothing: the tables of this file"},
    )
