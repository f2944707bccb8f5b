"""Streaming Sampler: time to the first frame, overhead, against core's ar_video, and memory on a clip ten times as long.

    python benchmarks/stream.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import in_host

in_host.enter()

import comfy.samplers  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from comfyui_fewstep.loras.catalog import CATALOG  # noqa: E402
from comfyui_fewstep.nodes import host  # noqa: E402
from comfyui_fewstep.nodes.stream import FewStepStream  # noqa: E402
from comfyui_fewstep.nodes.stream_run import CachedFrames, FrameDecoder, run_stream  # noqa: E402
from comfyui_fewstep.samplers.causal import Window, make_stream_plan  # noqa: E402

from small_models import conditioning, load_model, write_wan, write_wan_vae  # noqa: E402

RECORD = CATALOG["self-forcing-dmd"]
FRAMES, SIDE = 9, 32


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


class Stopwatch:
    """Seconds spent in the network's evaluations and in decoding, each waited for. Stands around the two calls in this process."""

    def __init__(self):
        self.evaluations: list[float] = []
        self.decodings: list[float] = []

    def __enter__(self):
        self.originals = CachedFrames.evaluate, FrameDecoder._pictures
        CachedFrames.evaluate, FrameDecoder._pictures = (
            self.around(call, times) for call, times in zip(self.originals, (self.evaluations, self.decodings)))
        return self

    def __exit__(self, *_):
        CachedFrames.evaluate, FrameDecoder._pictures = self.originals

    def around(self, call, times):
        def timed(*args):
            started = time.perf_counter()
            result = call(*args)
            result.flatten()[0].item()  # waits for the device
            times.append(time.perf_counter() - started)
            return result

        return timed


def plan_for(frames: int, window: Window = Window()):
    return make_stream_plan(RECORD, frames, lambda timestep: timestep / 1000, window=window)


def overhead(model, text, rounds: int, frames: int, side: int, vae=None) -> None:
    """What a run takes beyond its evaluations and decodings, and its first block beyond its own."""
    latent, ratios, firsts, seconds = {"samples": torch.zeros(1, 16, frames, side, side)}, [], [], []
    for _ in range(rounds + 1):
        with Stopwatch() as watch, torch.inference_mode():
            data = FewStepStream.execute(model, text, latent, 1, 0, 0, 0, vae=vae).ui["fewstep_report"][0]
        steps, size = len(data["sigmas"]) - 1, data["frames_per_block"]
        ratios.append(data["seconds"] / (sum(watch.evaluations) + sum(watch.decodings)))
        firsts.append(data["first_frame_seconds"] / (sum(watch.evaluations[:steps]) + sum(watch.decodings[:size])))
        seconds.append((data["first_frame_seconds"], data["seconds"], sum(watch.evaluations) / len(watch.evaluations)))
    first, whole, evaluation = (median(column) for column in zip(*seconds[1:]))
    decoded = ", decoded" if vae is not None else ""
    row(f"first block{decoded}, against its evaluations{' and decoding' if decoded else ''}", f"{first:.3f} s",
        f"{median(firsts[1:]):.3f}x", "<= 1.2x")
    row(f"{frames} latent frames{decoded}, against all evaluations{' and decodings' if decoded else ''}",
        f"{whole:.2f} s, {evaluation * 1000:.0f} ms an evaluation", f"{median(ratios[1:]):.3f}x", "<= 1.05x")


def against_core(model, text, rounds: int) -> None:
    """The same latent frames by core's ar_video, which makes one context pass more."""
    shape = torch.Size((1, 16, FRAMES, SIDE, SIDE))
    plan, empty = plan_for(FRAMES), torch.zeros(shape)
    sigmas = torch.tensor(plan.made[-1].sigmas)

    def ours():
        with torch.inference_mode():
            run_stream(model, plan, text, shape, 1)

    def cores():
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(text, text)
        guider.set_cfg(1.0)
        with torch.inference_mode():
            guider.sample(torch.randn(shape), empty, comfy.samplers.ksampler("ar_video", {"num_frame_per_block": 3}), sigmas,
                          disable_pbar=True, seed=1)

    mine, theirs = in_host.in_turns(ours, cores, rounds)
    row(f"{FRAMES} latent frames without decoding, against core's ar_video", f"{median(mine):.2f} s / {median(theirs):.2f} s",
        f"{in_host.median_ratio(mine, theirs):.3f}x", f"{plan.evaluations} / {plan.evaluations + 1} evaluations")


def forget_peak() -> None:
    """Let peaks count from here: on the GPU where there is one, otherwise in main memory, as Linux counts it."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The most this process has held since then."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def memory(model, text, side: int = 24) -> None:
    """Peak memory of a clip that just fills its window, and of one ten times as long."""
    window, peaks, caches = Window(6, 3), [], []
    with torch.inference_mode():
        run_stream(model, plan_for(9, window), text, torch.Size((1, 16, 9, side, side)), 1)  # what is loaded once
    for frames in (9, 90):
        forget_peak()
        with torch.inference_mode():
            run = run_stream(model, plan_for(frames, window), text, torch.Size((1, 16, frames, side, side)), 1)
        peaks.append(peak_bytes())
        caches.append(run.cache_bytes)
    row("90 latent frames against 9, window 6 with 3 sinks: peak memory", " / ".join(f"{peak / 2**20:.0f} MiB" for peak in reversed(peaks)),
        f"{peaks[1] / peaks[0]:.3f}x", "<= 1.05x")
    row("the same: keys and values", " / ".join(f"{size / 2**20:.2f} MiB" for size in reversed(caches)), f"{caches[1] / caches[0]:.3f}x",
        "1x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(in_host.machine(), "\n")
    row("what", "medians", "result", "target")
    row("---", "---", "---", "---")
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_model(write_wan(Path(folder) / "causal.safetensors", "wan21_causal"))
        model = host.with_record(host.with_model_sampling(loaded, RECORD), RECORD)
        vae = host.load_vae(str(write_wan_vae(Path(folder) / "vae.safetensors")))
        text = conditioning(length=6)
        memory(model, text)
        against_core(model, text, rounds)
        overhead(model, text, rounds, FRAMES, SIDE)
        # Decoding on a CPU takes many times as long as the small model: a small picture will do.
        overhead(model, text, rounds, 6, 12, vae)


if __name__ == "__main__":
    main()
