"""Recording a stream: what it costs beside the sampling, and memory over a long clip.

    python benchmarks/stream_record.py [--parts speed memory] [--rounds 5] [--frames 2000]

The demo's causal model, with its own VAE. Seconds are of the clock and of the processor; where the
machine does something else meanwhile, only the latter mean anything. frames: latent frames of the
long clip; 2000 take some minutes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import in_host

in_host.enter()

import folder_paths  # noqa: E402
import memory  # noqa: E402
import torch  # noqa: E402
from comfyui_fewstep.nodes.demo import FewStepDemo  # noqa: E402
from comfyui_fewstep.nodes.stream import FewStepStream  # noqa: E402
from tables import Table, at_most, main_of  # noqa: E402

WINDOW, SINK = 7, 1
# Where the sampler's own memory and the host's are settled, as a share of the clip.
SETTLED = 0.1
PARTS = ("speed", "memory")


def streamed(frames: int, side: int, record: str) -> Callable[[], dict]:
    """One clip of so many latent frames, side x side of the latent; its report for programs."""
    made = FewStepDemo.execute("a red circle moving right", 5, "causal").args
    model, positive, _, vae = made[:4]

    def run() -> dict:
        latent = {"samples": torch.zeros(1, 16, frames, side, side)}
        with torch.inference_mode():
            made = FewStepStream.execute(
                model, positive, latent, 1, 0, WINDOW, SINK, vae=vae, record=record
            )
        return made.ui["fewstep_report"][0]

    return run


# ---------------------------------------------------------------- speed


def add_speed(table: Table, rounds: int, frames: int, side: int) -> None:
    """The same clip with its pictures kept, and recorded with none kept, in turns."""
    runs = [streamed(frames, side, record) for record in ("", "speed")]
    timed: list[list[tuple[float, float, float]]] = [[], []]
    for round in range(rounds + 1):
        for run, times in zip(runs, timed):
            clock, processor = time.perf_counter(), time.process_time()
            first = run()["first_frame_seconds"]
            if round:  # the first one warms up
                times.append((time.perf_counter() - clock, time.process_time() - processor, first))
    kept, recorded = (list(zip(*times)) for times in timed)
    for what, ours, theirs in zip(
        ("seconds", "seconds of the processor", "time to the first frame"), recorded, kept
    ):
        ratio = in_host.median_ratio(list(ours), list(theirs))
        table.row(
            f"{frames} latent frames of {8 * side} x {8 * side}, recorded against kept: {what}",
            f"{median(ours):.3f} / {median(theirs):.3f}",
            f"{ratio:.3f}x",
            at_most(ratio, 1.05, "{:g}x"),
        )


# ---------------------------------------------------------------- memory


def recorded(frames: str, folder: str) -> Callable[[], object]:
    """For memory.peak: a recorded clip that leaves what the process held after each block."""
    return with_course(int(frames), folder, "long")


def kept(frames: str, folder: str) -> Callable[[], object]:
    """The same with its pictures kept."""
    return with_course(int(frames), folder, "")


def with_course(frames: int, folder: str, record: str) -> Callable[[], object]:
    from comfyui_fewstep.nodes.host import stream

    folder_paths.set_output_directory(folder)
    run, held, after = streamed(frames, 8, record), [], stream.Screen.after_block

    def look(screen, *args):
        held.append(memory.held("VmRSS"))
        after(screen, *args)

    def call():
        stream.Screen.after_block = look
        report = run()
        course = {"held": held, "recorded": report["recorded"], "pictures": report["frames"]}
        Path(folder, "course.json").write_text(json.dumps(course))

    streamed(3, 8, record)()  # what the host holds from the first run on
    return call


def add_memory(table: Table, folder: Path, frames: int) -> None:
    """The course of the memory of a process: recorded, and for a quarter of the clip with its
    pictures kept.
    """
    for contender, words, count in (
        (recorded, "recorded", frames),
        (kept, "pictures kept", frames // 4),
    ):
        peak = memory.peak("stream_record", contender.__name__, count, folder)
        course = json.loads((folder / "course.json").read_text())
        held = course["held"]
        settled = held[int(SETTLED * len(held))]
        later = max(held) / settled
        assert len(held) == count
        table.row(
            f"{count} latent frames ({course['pictures']} pictures), {words}: resident memory from"
            f" {SETTLED:.0%} of the clip to its highest",
            f"{settled / 2**20:.0f} MiB / {max(held) / 2**20:.0f} MiB",
            f"{later:.3f}x, {peak.highest / 2**20:.0f} MiB with the end of the run",
            at_most(later, 1.05, "{:g}x") if contender is recorded else "",
        )
        if course["recorded"]:
            played = pictures_in(folder / course["recorded"]["file"])
            table.row("pictures that its file plays", f"{played}", "", "")
            assert played == course["pictures"]


def pictures_in(path: Path) -> int:
    import av

    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def tables(
    rounds: int, folder: Path, parts: Sequence[str] = PARTS, frames: int = 2000
) -> list[Table]:
    table = Table("Recording a stream", note="The demo's causal model, one clip, window 7.")
    folder_paths.set_output_directory(str(folder))
    if "speed" in parts:
        add_speed(table, rounds, 33, 8)
        add_speed(table, rounds, 9, 16)
    if "memory" in parts:
        add_memory(table, folder, frames)
    return [table]


if __name__ == "__main__":
    main_of(
        __doc__,
        tables,
        rounds=5,
        parts={"nargs": "+", "choices": PARTS, "default": PARTS},
        frames={"type": int, "default": 2000},
    )
