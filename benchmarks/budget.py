"""Step Budget's prediction against the real wall time of the sampler at the steps it chose, and
with a VAE of the sampler and core's VAE Decode. benchmarks/whole.py does the latter over HTTP.

    python benchmarks/budget.py [--rounds 5] [--cpu-time] [--only decoded]

Each round measures a fresh cost and then runs the sampler, so that a drift of the machine's speed
meets both. Prediction, real time and error are those of the median round; on a machine that does
something else at the same time, the error is that of the machine. There, and without a GPU,
--cpu-time counts the seconds that this process really had. --only takes the runs with these words
in their name.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import in_host

in_host.enter()

import torch  # noqa: E402
from comfyui_fewstep.loras.catalog import CATALOG  # noqa: E402
from comfyui_fewstep.nodes import accelerator, budget, demo  # noqa: E402
from comfyui_fewstep.nodes.host.attach import with_record  # noqa: E402
from comfyui_fewstep.nodes.host.files import load_vae  # noqa: E402
from comfyui_fewstep.nodes.host.model import with_model_sampling  # noqa: E402
from comfyui_fewstep.nodes.host.skip import SkipConfig, with_skip  # noqa: E402
from comfyui_fewstep.nodes.sampler import FewStepSampler  # noqa: E402
from comfyui_fewstep.nodes.stream import FewStepStream  # noqa: E402
from comfyui_fewstep.samplers.budget.cost import allowance_of  # noqa: E402
from comfyui_fewstep.samplers.budget.ways import Route, candidates, choose  # noqa: E402
from comfyui_fewstep.samplers.skip.method import Settings  # noqa: E402
from tables import Table, Target, main_of  # noqa: E402

import nodes as core  # noqa: E402
from small_models import (  # noqa: E402
    conditioning,
    load_model,
    unet_patcher,
    write_wan,
    write_wan_vae,
)

Latent = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A model at a size, and how many evaluations' time it has; 0: batch's, full steps.

    prompts: with and against.
    """

    name: str
    model: Any
    latent: Latent
    evaluations: float
    prompts: tuple[Any, Any]
    vae: Any = None  # where decoding is a part of it


def cases(folder: Path) -> list[Case]:
    """Sizes at which one evaluation takes tens of milliseconds and more on a CPU."""
    wan = load_model(write_wan(folder / "wan.safetensors", "wan21_t2v"))
    clip, image = {"samples": torch.zeros(1, 16, 5, 24, 24)}, {"samples": torch.zeros(1, 4, 64, 64)}
    record = CATALOG["wan21-t2v-lightx2v-4step"]
    fast_wan = with_record(with_model_sampling(wan, record), record)
    unet, lightning = unet_patcher("sdxl"), CATALOG["sdxl-lightning-8step-lora"]
    fast_unet = with_record(with_model_sampling(unet, lightning), lightning)
    streaming = CATALOG["self-forcing-dmd"]
    causal = load_model(write_wan(folder / "causal.safetensors", "wan21_causal"))
    causal = with_record(with_model_sampling(causal, streaming), streaming)
    texts = prompts(wan, 512)
    return [
        Case("small Wan, LightX2V 4 steps", fast_wan, clip, 5, texts),
        Case("small SDXL, Lightning 8 steps", fast_unet, image, 9, prompts(unet, 77)),
        Case("small Wan, full steps and guidance", wan, clip, 0, texts),
        Case("small Wan, full steps with Step Skip", wan, clip, 60, texts),
        *(
            Case(
                f"small causal Wan, {frames} latent frames of {side} x {side}",
                causal,
                {"samples": torch.zeros(1, 16, frames, side, side)},
                0,
                texts,
            )
            for frames, side in ((9, 24), (21, 24), (9, 40))
        ),
        *demo_cases(),
        Case("small Wan, LightX2V 4 steps, decoded", fast_wan, clip, 5, texts, wan_vae(folder)),
    ]


def wan_vae(folder: Path) -> Any:
    return load_vae(str(write_wan_vae(folder / "wan_vae.safetensors")))


def prompts(model, length: int) -> tuple[Any, Any]:
    """length: of the text, in tokens."""
    return conditioning(model, seed=0, length=length), conditioning(model, seed=1, length=length)


def demo_cases() -> list[Case]:
    """The demo model at its training length, and its stream also longer; an evaluation takes ms."""
    demo.offer_loras()
    cases = []
    for name, variant, lora, frames in (
        ("full steps and guidance", "base", "", 17),
        ("4 steps", "base", "fewstep-demo-4step", 17),
        ("streamed, 17 frames", "causal", "", 17),
        ("streamed, 65 frames", "causal", "", 65),
    ):
        model, positive, negative, vae, latent, _ = demo.FewStepDemo.execute(
            "a red circle moving right", frames, variant
        ).args
        if lora:
            file = f"fewstep-demo/{CATALOG[lora].files[0].name}"
            model, _ = accelerator.attach_accelerator(model, file, "auto", 1.0)
        for with_vae in (None, vae):
            words = f"demo model, {name}" + (", decoded" if with_vae else "")
            cases.append(Case(words, model, latent, 0, (positive, negative), with_vae))
    return cases


def round_of(case: Case, clock: Callable[[], float]) -> tuple[float, float]:
    """(predicted, real) seconds."""
    subject = budget.subject_of(case.model, case.latent)
    cost, _ = budget.whole_cost(subject, case.latent, 0, case.vae, clock)
    allowance = allowance_of("batch", case.evaluations * cost.evaluation, subject.work)
    way = choose(candidates(subject.record, subject.full_run, cost, subject.work), allowance).way
    return way.whole, timed(run_of(case, way), clock)


def run_of(case: Case, way) -> Callable[[], object]:
    """The sampler at the chosen steps, and VAE Decode."""
    sample = sampler_of(case, way)
    if case.vae is None or way.route is Route.STREAM:
        return sample
    return torch.inference_mode()(lambda: core.VAEDecode().decode(case.vae, sample()))


def sampler_of(case: Case, way) -> Callable[[], Any]:
    """What gives the LATENT: ours with an accelerator, else core's and Step Skip."""
    positive, negative = case.prompts
    if way.route is Route.STREAM:
        settings = (positive, case.latent, 1, 0, 0, 0)
        return lambda: FewStepStream.execute(case.model, *settings, vae=case.vae)
    if way.records:
        settings = (positive, case.latent, 1, way.steps, 1.0)
        return lambda: FewStepSampler.execute(case.model, *settings).args[0]
    model = case.model
    if way.target_speedup > 1:
        model = with_skip(
            model,
            SkipConfig("forecast", Settings(way.target_speedup, threshold=3.0), 0.0, 1.0, "auto"),
        )
    settings = (1, way.steps, 5.0, "euler", "simple", positive, negative, case.latent)
    return lambda: core.KSampler().sample(model, *settings)[0]


def timed(call: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    with contextlib.redirect_stderr(io.StringIO()):  # the host's progress bars
        call()
    return clock() - started


def error_of(pair: tuple[float, float]) -> float:
    predicted, real = pair
    return predicted / real - 1


def tables(rounds: int, folder: Path, cpu_time: bool = False, only: str = "") -> list[Table]:
    clock = time.process_time if cpu_time else time.perf_counter
    table = Table(
        "Step Budget: its prediction against the real run",
        ("run", "predicted", "real", "error", "target"),
    )
    for case in (case for case in cases(folder) if only in case.name):
        pairs = [round_of(case, clock) for _ in range(rounds + 1)][1:]  # the first warms up
        pairs.sort(key=error_of)
        predicted, real = pairs[len(pairs) // 2]
        least, error, most = (error_of(pair) for pair in (pairs[0], (predicted, real), pairs[-1]))
        table.row(
            case.name,
            f"{predicted:.3f} s",
            f"{real:.3f} s",
            f"{error:+.1%} ({least:+.1%} to {most:+.1%})",
            Target("within 10 %", abs(error) <= 0.1),
        )
    return [table]


if __name__ == "__main__":
    main_of(__doc__, tables, rounds=5, cpu_time={"action": "store_true"}, only={"default": ""})
