"""Many varied runs in one ComfyUI server: is its memory flat, are a job's bits always the same?

    python benchmarks/soak.py [--runs 500] [--jobs 40] [--keep-log soak.csv]

A pool of jobs differs in model, accelerator, size, batch, steps, skipping, motion and streaming.
They come in random order, some are cancelled half-way or fail in the network, now and then the
server is told to forget everything. Once every job has been made, the warm-up is over; from then on
memory may not grow. Random weights at small size, as in the tests: nothing has to be downloaded.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import in_host

if __name__ == "__main__":
    in_host.enter()

from comfy_client import Client, JobFailed, Prompt, outputs
from comfy_server import Server, running_server
from prompts import accelerator, core_sampler, few_steps, node, sd15, wan_inputs, wan_model

LORAS = {
    "sd15": "lcm-lora-sdv1-5.safetensors",
    "high": "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors",
    "low": "wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors",
}
MOTION = "soak.lightning.4step.safetensors"
WAN, CAUSAL = "soak_wan.safetensors", "soak_self_forcing_dmd.safetensors"
# Of every ten runs after the warm-up, which is cancelled half-way and which fails in the network.
# One in fifty begins with everything forgotten.
CANCELLED, FAILING, FORGETTING = 3, 7, 0.02


# ---------------------------------------------------------------- jobs


def picture(choose: random.Random) -> Prompt:
    """SD 1.5 with LCM: sizes, batches, step counts."""
    width, height = (choose.choice((64, 96, 128, 192)) for _ in range(2))
    text, batch = choose.randrange(3), choose.choice((1, 1, 2, 3))
    return {
        **sd15(width, height, batch, text),
        "loaded": accelerator("model", LORAS["sd15"]),
        "sample": few_steps(
            "loaded",
            steps=choose.choice((0, 2, 8)),
            denoise=choose.choice((1.0, 1.0, 0.5)),
            seed=seed(choose),
        ),
    }


def seed(choose: random.Random) -> int:
    return choose.randrange(10**6)


def motion(choose: random.Random) -> Prompt:
    frames = choose.choice((4, 8))
    return {
        **sd15(batch=frames),
        "loaded": node("FewStepMotion", model=["model", 0], motion_name=MOTION, frames=frames),
        "sample": few_steps("loaded", seed=seed(choose)),
    }


def wan(name: str, choose: random.Random, lengths: Sequence[int] = (5, 9, 17)) -> Prompt:
    text, width = choose.randrange(3), choose.choice((32, 64))
    return {
        "model": wan_model(name),
        **wan_inputs(choose.choice(lengths), width, height=32, text_seed=text),
    }


def experts(choose: random.Random) -> Prompt:
    """Wan 2.2's two, each with its LoRA."""
    return wan(WAN, choose) | {
        "loaded": accelerator("model", LORAS["high"]),
        "low": accelerator("model", LORAS["low"]),
        "sample": few_steps("loaded", seed=seed(choose), model_low_noise=["low", 0]),
    }


def skip(choose: random.Random) -> Prompt:
    """A guided run of core's sampler with evaluations left out."""
    return wan(WAN, choose) | {
        "loaded": node(
            "FewStepSkip",
            model=["model", 0],
            method=choose.choice(("forecast", "teacache")),
            target_speedup=1.6,
            threshold=2.0,
            start_percent=0.15,
            end_percent=0.95,
            max_consecutive=3,
            cache_device=choose.choice(("auto", "cpu")),
        ),
        "sample": core_sampler(
            "loaded",
            choose.choice((12, 20)),
            seed=seed(choose),
            cfg=choose.choice((1.0, 4.0)),
            sampler_name=choose.choice(("euler", "dpmpp_2m", "heun")),
        ),
    }


def stream(choose: random.Random) -> Prompt:
    """A causal Wan block by block, with the whole clip in view or a window."""
    return wan(CAUSAL, choose, lengths=(9, 21)) | {
        "loaded": accelerator("model", id="self-forcing-dmd"),
        "sample": node(
            "FewStepStream",
            model=["loaded", 0],
            positive=["text", 0],
            latent_image=["size", 0],
            seed=seed(choose),
            frames_per_block=0,
            window_frames=choose.choice((0, 6)),
            sink_frames=0,
        ),
    }


def demo(choose: random.Random) -> Prompt:
    name, steps = choose.choice(
        (
            ("fewstep-demo/fewstep_demo_lightx2v_4step", (4,)),
            ("fewstep-demo/fewstep_demo_lcm", (1, 2, 4)),
        )
    )
    return {
        "demo": node(
            "FewStepDemo",
            prompt=choose.choice(("a red circle", "a big blue square moving left")),
            frames=choose.choice((1, 5, 17)),
            variant="base",
        ),
        "loaded": accelerator("demo", f"{name}.safetensors"),
        "sample": few_steps(
            "loaded",
            positive=["demo", 1],
            latent_image=["demo", 4],
            steps=choose.choice(steps),
            seed=seed(choose),
        ),
    }


KINDS: dict[str, Callable[[random.Random], Prompt]] = {
    "picture": picture,
    "experts": experts,
    "skip": skip,
    "demo": demo,
    "motion": motion,
    "stream": stream,
}
# What a kind needs of the host beside core's oldest.
NEEDS = {"stream": "FewStepStream"}


def make_jobs(count: int, kinds: Sequence[str], choose: random.Random) -> list[tuple[str, Prompt]]:
    """(kind, prompt) of as many jobs, no two alike, each with its latent in the history."""
    jobs: dict[str, tuple[str, Prompt]] = {}
    for kind in itertools.cycle(kinds):
        prompt = KINDS[kind](choose) | {"out": node("TestLatentReport", samples=["sample", 0])}
        jobs.setdefault(repr(prompt), (kind, prompt))
        if len(jobs) == count:
            return list(jobs.values())
    raise ValueError("at least one kind of job is needed")


def write_files(models: Path) -> None:
    """The small models and LoRAs that the jobs name."""
    from motion_files import animatediff_keys, motion_adapter, save

    from small_loras import Target, write_lora
    from small_models import WAN_SMALL, unet_patcher, wan_shapes, write_wan

    write_wan(models / "diffusion_models" / WAN, "wan21_t2v")
    with contextlib.suppress(
        ImportError, AttributeError
    ):  # hosts without causal Wan stream nothing
        write_wan(models / "diffusion_models" / CAUSAL, "wan21_causal")
    write_lora(
        models / "loras" / LORAS["sd15"],
        unet_patcher("sd15"),
        "kohya-diffusers",
        rank=4,
        alpha=4.0,
        only="attn",
    )
    for seed, name in enumerate((LORAS["high"], LORAS["low"])):
        write_lora(
            models / "loras" / name,
            Target(wan_shapes("wan21_t2v"), WAN_SMALL),
            "native",
            rank=4,
            seed=seed,
            differences=True,
        )
    save(
        models / "animatediff_models" / MOTION,
        animatediff_keys(motion_adapter(size=0.3).state_dict()),
    )


# ---------------------------------------------------------------- running


@dataclass
class Soak:
    """What was seen.

    resident: bytes after each run past the warm-up. held: (tensors' bytes, models) after forgetting
    everything.
    """

    first: dict[int, str] = field(default_factory=dict)
    drifted: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    resident: list[int] = field(default_factory=list)
    held: list[tuple[int, int]] = field(default_factory=list)

    @property
    def growth(self) -> int:
        """Bytes by which the last quarter's median is above the first's."""
        quarter = max(1, len(self.resident) // 4)
        return int(
            statistics.median(self.resident[-quarter:]) - statistics.median(self.resident[:quarter])
        )

    @property
    def slope(self) -> float:
        """Bytes a run, by least squares."""
        if len(self.resident) < 2:
            return 0.0
        return statistics.linear_regression(range(len(self.resident)), self.resident).slope


def soak(
    server: Server,
    runs: int,
    jobs: Sequence[tuple[str, Prompt]],
    choose: random.Random,
    say: Callable[[str], None] = print,
) -> Soak:
    """Make every job once, then as many runs of them as are left."""
    seen, client = Soak(), server.client
    order = [*range(len(jobs)), *(choose.randrange(len(jobs)) for _ in range(runs - len(jobs)))]
    for number, job in enumerate(order):
        kind, prompt = jobs[job]
        is_warm = number >= len(jobs)
        turn = (number - len(jobs)) % 10
        if number == len(jobs) or (is_warm and choose.random() < FORGETTING):
            client.forget()
        if number == len(jobs):
            seen.held.append(held_by(client))
        if is_warm and turn == CANCELLED:
            seen.ends[cancelled(client, prompt)] += 1
        elif is_warm and turn == FAILING:
            seen.ends[failing(client, prompt, number)] += 1
        else:
            latent = outputs(client.run(prompt), "test_latent")[0]["sha256"]
            seen.ends["finished"] += 1
            if seen.first.setdefault(job, latent) != latent:
                seen.drifted.append(f"run {number}, {kind}")
        if is_warm:
            seen.resident.append(resident_bytes(server.process.pid))
        if number % 50 == 49:
            say(
                f"{number + 1} runs: {dict(seen.ends)}, {resident_bytes(server.process.pid) >> 20}"
                f" MiB, {len(seen.drifted)} drifted"
            )
    client.forget()
    seen.held.append(held_by(client))
    return seen


def cancelled(client: Client, prompt: Prompt) -> str:
    """Stop the run at its first sign of progress; a quick one may be finished before."""
    asked: list[bool] = []

    def stop(event: dict[str, Any]) -> None:
        if event["type"].startswith("progress") and not asked:
            asked.append(True)
            client.interrupt()

    try:
        client.run(prompt, stop)
    except JobFailed as error:
        if not error.is_interruption:
            raise
        return "cancelled"
    return "finished before it was cancelled"


def failing(client: Client, prompt: Prompt, number: int) -> str:
    """Let the network fail at its second evaluation; a stream's patches are refused in words."""
    broken = dict(prompt) | {
        "fault": node(
            "TestFault",
            model=["loaded", 0],
            kind=("exception", "out of memory")[number % 2],
            evaluation=2,
            run=number,
        )
    }
    broken["sample"] = node(
        prompt["sample"]["class_type"], **{**prompt["sample"]["inputs"], "model": ["fault", 0]}
    )
    try:
        client.run(broken)
    except JobFailed as error:
        if error.is_interruption:
            raise
        return "failed as asked"
    return "finished before it failed"


def held_by(client: Client) -> tuple[int, int]:
    """(bytes of tensors, MODELs) alive in the server."""
    (found,) = outputs(
        client.run({"memory": node("TestMemory", run=time.monotonic_ns() % 10**9)}), "test_memory"
    )
    return found["bytes"], found["models"]


def resident_bytes(pid: int) -> int:
    import psutil

    return psutil.Process(pid).memory_info().rss


# ---------------------------------------------------------------- the program


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument(
        "--jobs",
        type=int,
        default=40,
        help="how many different ones; each is made once before memory is watched",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep-log", type=Path, help="write resident memory after each run to this file"
    )
    options = parser.parse_args()
    from host import ensure_host

    host, started = ensure_host(), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        write_files(base / "models")
        packs = {"fewstep-test-support": in_host.ROOT / "tests" / "host" / "support_nodes"}
        with running_server(host, base, packs=packs) as server:
            choose = random.Random(options.seed)
            jobs = make_jobs(options.jobs, kinds_on(server.client), choose)
            seen = soak(
                server, options.runs, jobs, choose, say=lambda line: print(line, flush=True)
            )
    if options.keep_log:
        options.keep_log.write_text("\n".join(map(str, seen.resident)))
    print(
        f"{in_host.machine()}, ComfyUI"
        f" {host.version}\n{in_words(seen)}\n{time.monotonic() - started:.0f} s"
    )
    return 1 if seen.drifted or seen.held[0] != seen.held[-1] else 0


def kinds_on(client: Client) -> list[str]:
    """The kinds of job that this host can do."""
    known = client.get("/object_info")
    return [
        kind
        for kind in KINDS
        if NEEDS.get(kind, "FewStepSampler") in known and kind not in missing_on(known)
    ]


def missing_on(known: dict[str, Any]) -> set[str]:
    """What a host is too old for."""
    from comfyui_fewstep.nodes.host.motion import host_patches_layers

    return ({"motion"} if not host_patches_layers() else set()) | (
        {"stream"} if "SamplerARVideo" not in known else set()
    )


def in_words(seen: Soak) -> str:
    ends = ", ".join(f"{count} {end}" for end, count in seen.ends.most_common())
    first, last = seen.resident[0] >> 20, seen.resident[-1] >> 20
    return (
        f"{seen.ends.total()} runs of {len(seen.first)} jobs: {ends}; {len(seen.drifted)} with"
        f" other bits than the first time\nresident memory after the warm-up {first} MiB, at the"
        f" end {last} MiB; last quarter against first {seen.growth / 2**20:+.1f} MiB,"
        f" {seen.slope / 1024:+.1f} KiB a run\nalive once everything is forgotten:"
        f" {seen.held[0][0]:,} bytes of tensors and {seen.held[0][1]} models after the warm-up,"
        f" {seen.held[-1][0]:,} and {seen.held[-1][1]} at the end"
    )


if __name__ == "__main__":
    sys.exit(main())
