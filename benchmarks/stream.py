"""Streaming Sampler: first frame, overhead against ar_video, memory of a tenfold clip.

python benchmarks/stream.py [--rounds 5]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median

import in_host

in_host.enter()

import comfy.patcher_extension  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.utils  # noqa: E402
import memory  # noqa: E402
import torch  # noqa: E402
from comfyui_fewstep.loras.catalog import CATALOG  # noqa: E402
from comfyui_fewstep.nodes.host.attach import with_record  # noqa: E402
from comfyui_fewstep.nodes.host.files import load_vae  # noqa: E402
from comfyui_fewstep.nodes.host.model import with_model_sampling  # noqa: E402
from comfyui_fewstep.nodes.host.stream import FrameDecoder, StreamRun, run_stream  # noqa: E402
from comfyui_fewstep.nodes.stream import FewStepStream  # noqa: E402
from comfyui_fewstep.samplers.causal import Window, make_stream_plan  # noqa: E402
from tables import Table, at_most, main_of  # noqa: E402

from small_models import conditioning, load_model, write_wan, write_wan_vae  # noqa: E402

RECORD = CATALOG["self-forcing-dmd"]
FRAMES, SIDE = 9, 32


class Stopwatch:
    """Seconds of the model's own evaluations and of decoding, each waited for: what the host's
    guider, the cache and the previews take is none of them. Stands around decoding in this process.
    """

    evaluations: list[float]
    decodings: list[float]

    def on(self, model):
        """The model with its evaluations timed."""
        timed = model.clone()
        timed.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.APPLY_MODEL,
            "stopwatch",
            lambda executor, *args, **more: self.time(self.evaluations, executor, *args, **more),
        )
        return timed

    def __enter__(self):
        self.evaluations, self.decodings = [], []
        self.decode = decode = FrameDecoder._pictures
        FrameDecoder._pictures = lambda decoder, latent: self.time(
            self.decodings, decode, decoder, latent
        )
        return self

    def __exit__(self, *_):
        FrameDecoder._pictures = self.decode

    def time(self, times: list[float], call, *args, **more):
        started = time.perf_counter()
        result = call(*args, **more)
        result.flatten()[0].item()  # waits for the device
        times.append(time.perf_counter() - started)
        return result


def plan_for(frames: int, window: Window = Window()):
    return make_stream_plan(RECORD, frames, lambda timestep: timestep / 1000, window=window)


@dataclass(frozen=True)
class Timed:
    """Seconds of one run, and of its parts that no sampler can do without."""

    first: float  # to the first block
    whole: float
    evaluation: float  # one, on average
    first_ratio: float  # of the first block to its own evaluations and decodings
    ratio: float  # of the whole run to all of them


def timed_run(watch: Stopwatch, model, text, latent, vae) -> Timed:
    with watch, torch.inference_mode():
        ui = FewStepStream.execute(model, text, latent, 1, 0, 0, 0, vae=vae).ui
    data = ui["fewstep_report"][0]
    steps, size = len(data["sigmas"]) - 1, data["frames_per_block"]
    first = sum(watch.evaluations[:steps]) + sum(watch.decodings[:size])
    return Timed(
        data["first_frame_seconds"],
        data["seconds"],
        sum(watch.evaluations) / len(watch.evaluations),
        data["first_frame_seconds"] / first,
        data["seconds"] / (sum(watch.evaluations) + sum(watch.decodings)),
    )


def overhead(table: Table, model, text, rounds: int, frames: int, side: int, vae=None) -> None:
    """What a run, and its first block, takes beyond the model's evaluations and decodings."""
    latent = {"samples": torch.zeros(1, 16, frames, side, side)}
    watch = Stopwatch()
    # Once: another wrapper each time would make the host load the weights again.
    model = watch.on(model)
    _, *runs = [timed_run(watch, model, text, latent, vae) for _ in range(rounds + 1)]
    first, whole, evaluation, first_ratio, ratio = (
        median(column) for column in zip(*map(astuple, runs))
    )
    decoded = ", decoded" if vae is not None else ""
    table.row(
        f"first block{decoded}, against its evaluations{' and decoding' if decoded else ''}",
        f"{first:.3f} s",
        f"{first_ratio:.3f}x",
        at_most(first_ratio, 1.2, "{:g}x"),
    )
    table.row(
        f"{frames} latent frames{decoded}, against all"
        f" evaluations{' and decodings' if decoded else ''}",
        f"{whole:.2f} s, {evaluation * 1000:.0f} ms an evaluation",
        f"{ratio:.3f}x",
        at_most(ratio, 1.05, "{:g}x"),
    )


def against_core(table: Table, model, text, rounds: int) -> None:
    """The same latent frames by core's ar_video, which makes one context pass more."""
    mine, theirs = in_host.in_turns(
        streamed(model, text, FRAMES, SIDE), by_ar_video(model, text, FRAMES, SIDE), rounds
    )
    ratio, evaluations = in_host.median_ratio(mine, theirs), plan_for(FRAMES).evaluations
    table.row(
        f"{FRAMES} latent frames without decoding, against core's ar_video",
        f"{median(mine):.2f} s / {median(theirs):.2f} s",
        f"{ratio:.3f}x for {evaluations} evaluations against {evaluations + 1}",
        at_most(ratio, 1.02),
    )


def streamed(
    model, text, frames: int, side: int, window: Window = Window(), width: int | None = None
) -> Callable[[], StreamRun]:
    """side: of the latent, its height where it has another width."""
    plan, shape = plan_for(frames, window), torch.Size((1, 16, frames, side, width or side))

    def run() -> StreamRun:
        with torch.inference_mode():
            return run_stream(model, plan, text, shape, 1)

    return run


def by_ar_video(
    model, text, frames: int, side: int, width: int | None = None
) -> Callable[[], object]:
    noise, sigmas = (
        torch.randn(1, 16, frames, side, width or side),
        torch.tensor(plan_for(frames).made[-1].sigmas),
    )
    sampler = comfy.samplers.ksampler("ar_video", {"num_frame_per_block": 3})

    def run():
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(text, text)
        guider.set_cfg(1.0)
        with torch.inference_mode():
            guider.sample(
                noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=1
            )

    return run


def add_memory(table: Table, folder: Path) -> None:
    """Peak memory of a clip that fills its window and of one ten times as long, apart."""
    short, long = (memory.peak("stream", "streaming", frames, folder) for frames in (9, 90))
    ratio = long.highest / short.highest
    table.row(
        "90 latent frames against 9, window 6 with 3 sinks: peak memory of the process",
        f"{long.highest / 2**20:.0f} MiB / {short.highest / 2**20:.0f} MiB",
        f"{ratio:.3f}x",
        at_most(ratio, 1.05, "{:g}x"),
    )
    table.row(
        "the same, above what it held before; the clip itself grows",
        f"{long.taken / 2**20:.0f} MiB / {short.taken / 2**20:.0f} MiB",
        f"{long.taken / short.taken:.3f}x",
        "",
    )


def streaming(frames: str, folder: str) -> Callable[[], object]:
    """For memory.peak."""
    return streamed(
        causal_model(Path(folder)), conditioning(length=6), int(frames), 24, Window(6, 3)
    )


def causal_model(folder: Path, layers: int = 4):
    path = folder / f"causal{layers}.safetensors"
    loaded = load_model(path if path.exists() else write_wan(path, "wan21_causal", layers=layers))
    return with_record(with_model_sampling(loaded, RECORD), RECORD)


def tables(rounds: int, folder: Path) -> list[Table]:
    table = Table(
        "Streaming",
        note="A small causal Wan of the real architecture, blocks of three latent frames.",
    )
    model, text = causal_model(folder), conditioning(length=6)
    against_core(table, model, text, rounds)
    overhead(table, model, text, rounds, FRAMES, SIDE)
    # Decoding on a CPU takes many times as long as the small model: a small picture will do.
    overhead(
        table,
        model,
        text,
        rounds,
        6,
        12,
        load_vae(str(write_wan_vae(folder / "vae.safetensors"))),
    )
    add_memory(table, folder)
    return [table]


if __name__ == "__main__":
    main_of(__doc__, tables, rounds=5)
