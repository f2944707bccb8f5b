"""What Distil Accelerator makes in how long, of the demo model and of a small UNet that predicts
noise, and how much memory it takes beside core's Train LoRA.

    python benchmarks/distil.py --parts demo --minutes 8       on two idle cores
    python benchmarks/distil.py --parts demo --minutes 20 --iterations 3000
    python benchmarks/distil.py --parts unet --minutes 8
    python benchmarks/distil.py --parts memory

Each learns from nothing, through the node itself, from prompts of which none is among those that it
is measured on. right: share of prompts whose colour, shape and motion are read back from the
pixels, of pictures without the motion. PSNR is to what the model makes in 50 steps with guidance,
from the same noise. Processor seconds are those of all threads; beside other work they say more
than the clock does.
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import in_host

# Within a test the host is there already, and may be another version than the benchmarks' own.
if "comfyui_fewstep" not in sys.modules:
    in_host.enter()

import claims
import folder_paths
import torch
from comfyui_fewstep.nodes import demo
from comfyui_fewstep.nodes.distil import FewStepDistill
from comfyui_fewstep.nodes.host.attach import attach_lora
from comfyui_fewstep.nodes.host.files import load_tensors
from torch import Tensor

with in_host.demo_scripts():
    import clips
    import evaluate
    import measure

PARTS = ("demo", "unet", "memory")
TRAINING_SENTENCES = 1024
# Batch and size of what is learned at.
DEMO_LATENT, UNET_LATENT = (64, 16, 5, 8, 8), (64, 4, 16, 16)
UNET_CFG = 3.0
MEMORY_ROWS = 8
CORE, OURS = "core's Train LoRA", "Distil Accelerator"


@dataclass(frozen=True)
class Options:
    """What the node is asked for."""

    iterations: int
    minutes: float
    rank: int
    learning_rate: float
    seed: int
    teacher_steps: int


@dataclass(frozen=True)
class Learned:
    """What a run of the node came to."""

    file: Path
    report: dict[str, Any]
    seconds: float
    processor_seconds: float

    @property
    def row(self) -> str:
        report = self.report
        checks = [f"{100 * distance:.1f}" for _, distance in report["checks"]]
        return (
            f"{report['iterations']} iterations, {report['paths']} teacher paths,"
            f" {report['evaluations']} evaluations of rows, {self.seconds:.0f} s,"
            f" {self.processor_seconds:.0f} s of processors\ndistance to the teacher's end, %:"
            f" {' '.join(checks)}"
        )


def learn(model, positive, negative, shape, cfg: float, options: Options, folder: Path) -> Learned:
    """Run the node."""
    folder_paths.add_model_folder_path("loras", str(folder), is_default=True)
    started, began = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        output = FewStepDistill.execute(
            model=[model],
            positive=[positive],
            negative=[negative],
            latent_image=[{"samples": torch.zeros(shape)}],
            steps=[4],
            cfg=[cfg],
            iterations=[options.iterations],
            minutes=[options.minutes],
            rank=[options.rank],
            learning_rate=[options.learning_rate],
            seed=[options.seed],
            file_name=["benchmark"],
            teacher_steps=[options.teacher_steps],
            gradient_checkpointing=[False],
        )
    seconds, processors = time.perf_counter() - started, time.process_time() - began
    return Learned(folder / output.args[0], output.ui["fewstep_report"][0], seconds, processors)


def sentences_to_learn(measured: set[str], count: int) -> list[str]:
    """Sentences of the demo's world, as often as they are drawn, but those that are measured."""
    rng = random.Random(2)
    drawn = (clips.draw_sentence(clips.draw_scene(rng), rng) for _ in range(100 * count))
    return [sentence for sentence in drawn if sentence not in measured][:count]


# ---------------------------------------------------------------- the demo model


def of_demo(prompts: int, options: Options, folder: Path) -> None:
    bench = claims.Bench(prompts)
    words = sentences_to_learn(set(bench.sentences), TRAINING_SENTENCES)
    model = demo.load_model("base")
    positive = [[embedded(sentence), {}] for sentence in words]
    learned = learn(model, positive, [[embedded(""), {}]], DEMO_LATENT, 5.0, options, folder)
    print(learned.row, flush=True)
    way = replace(claims.STUDENT, name="distilled here, 4 steps", lora=str(learned.file))
    print(claims.HEADER)
    for each in (claims.TEACHER, way, claims.PLAIN, claims.PLAIN_GUIDED):
        print(bench.measure(each, features=False).row, flush=True)


def embedded(sentence: str) -> Tensor:
    """The demo's conditioning (1, L, 4096) of a sentence."""
    tensors, _ = load_tensors(str(demo.FOLDER / demo.BASE))
    return tensors[demo.WORDS].float()[torch.tensor(clips.word_ids(sentence))].unsqueeze(0)


# ---------------------------------------------------------------- a UNet that predicts noise


def of_unet(prompts: int, options: Options, folder: Path) -> None:
    import trained_unet

    model, code, table = (
        trained_unet.trained_model(),
        trained_unet.Code.fit(),
        trained_unet.word_table(),
    )
    sentences = evaluate.prompts(prompts)

    def text(sentence: str) -> Tensor:
        return table[torch.tensor(clips.word_ids(sentence))].unsqueeze(0)

    words = sentences_to_learn(set(sentences), TRAINING_SENTENCES)
    positive = [[text(sentence), {}] for sentence in words]
    learned = learn(model, positive, [[text(""), {}]], UNET_LATENT, UNET_CFG, options, folder)
    print(learned.row, flush=True)
    student, _ = attach_lora(model, load_tensors(str(learned.file))[0], 1.0)
    ways = (
        ("50 steps, guided", model, 50, UNET_CFG),
        ("distilled here, 4 steps", student, 4, 1.0),
        ("plain, 4 steps", model, 4, 1.0),
        ("plain, 4 steps, guided", model, 4, UNET_CFG),
    )
    print("| way | right | PSNR dB |\n|---|---|---|")
    reference = None
    for name, patcher, steps, cfg in ways:
        latents = sampled(
            patcher, torch.cat([text(each) for each in sentences]), text(""), steps, cfg
        )
        pictures = code.decode(latents)
        reference = pictures if reference is None else reference
        right = statistics.fmean(map(is_right, pictures, sentences))
        print(f"| {name} | {right:.1%} | {closeness(pictures, reference)} |", flush=True)


@torch.no_grad()
def sampled(model, positive: Tensor, negative: Tensor, steps: int, cfg: float) -> Tensor:
    """Latents of the model's own scale, by core's Euler at trailing timesteps."""
    import comfy.sample
    import comfy.samplers

    parts = []
    for first in range(0, len(positive), claims.BATCH):
        chosen = positive[first : first + claims.BATCH]
        noise = torch.randn(
            len(chosen), *UNET_LATENT[1:], generator=torch.Generator().manual_seed(first)
        )
        parts.append(
            comfy.sample.sample_custom(
                model,
                noise,
                cfg,
                comfy.samplers.ksampler("euler"),
                comfy.samplers.calculate_sigmas(
                    model.get_model_object("model_sampling"), "simple", steps
                ),
                [[chosen, {}]],
                [[negative, {}]],
                torch.zeros_like(noise),
                disable_pbar=True,
                seed=first,
            )
        )
    return model.model.process_latent_in(torch.cat(parts))


def is_right(picture: Tensor, sentence: str) -> bool:
    """Whether colour and shape of a picture (3, H, W) are as told."""
    reading = measure.read_clip(picture.unsqueeze(1))
    return all(fact and fact in sentence for fact in (reading.colour, reading.shape))


def closeness(pictures: Tensor, reference: Tensor) -> str:
    if pictures is reference:
        return ""
    errors = (pictures - reference).square().mean((1, 2, 3))
    return f"{(-10 * errors.log10()).mean():.1f}"


# ---------------------------------------------------------------- memory


def of_memory() -> None:
    """Each in a process of its own, on the demo model, with gradient checkpointing and without."""
    print("| what | gradient checkpointing | peak resident MiB | of core's |\n|---|---|---|---|")
    for is_on in (True, False):
        peaks = {who: peak_of(who, is_on) for who in (CORE, OURS)}
        for who, peak in peaks.items():
            share = f"{peak / peaks[CORE]:.2f}"
            print(
                f"| {who} | {'on' if is_on else 'off'} | {peak / 1024:.0f} | {share} |", flush=True
            )


def peak_of(who: str, is_on: bool) -> int:
    """KiB that a process had at most."""
    command = [sys.executable, __file__, "--alone", who, *(["--checkpointing"] if is_on else [])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.strip().splitlines()[-1])


def alone(who: str, is_on: bool, folder: Path) -> None:
    """One training of a few steps at rank 16, and what this process had at most, in KiB."""
    model = demo.load_model("base")
    shape = (MEMORY_ROWS, *DEMO_LATENT[1:])
    text, empty = [[embedded("a red circle moving right"), {}]], [[embedded(""), {}]]
    with torch.inference_mode():
        {CORE: train_core, OURS: train_ours}[who](model, text, empty, shape, is_on, folder)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def train_core(model, text, empty, shape, is_on: bool, folder: Path) -> None:
    from comfy_extras.nodes_train import TrainLoraNode

    values: dict[str, Any] = {
        "model": model,
        "latents": {"samples": torch.zeros(shape)},
        "positive": text,
        "batch_size": MEMORY_ROWS,
        "grad_accumulation_steps": 1,
        "steps": 4,
        "learning_rate": 0.0005,
        "rank": 16,
        "optimizer": "AdamW",
        "loss_function": "MSE",
        "seed": 0,
        "training_dtype": "bf16",
        "lora_dtype": "fp32",
        "quantized_backward": False,
        "algorithm": "LoRA",
        "gradient_checkpointing": is_on,
        "checkpoint_depth": 1,
        "offloading": False,
        "existing_lora": "[None]",
        "bucket_mode": False,
        "bypass_mode": False,
    }
    known = {entry.id for entry in TrainLoraNode.define_schema().inputs}
    TrainLoraNode.execute(**{name: [value] for name, value in values.items() if name in known})


def train_ours(model, text, empty, shape, is_on: bool, folder: Path) -> None:
    folder_paths.add_model_folder_path("loras", str(folder), is_default=True)
    FewStepDistill.execute(
        model=[model],
        positive=[text],
        negative=[empty],
        latent_image=[{"samples": torch.zeros(shape)}],
        steps=[4],
        cfg=[5.0],
        iterations=[4],
        minutes=[0.0],
        rank=[16],
        learning_rate=[0.001],
        seed=[0],
        file_name=["memory"],
        gradient_checkpointing=[is_on],
    )


def main() -> None:
    options = parsed()
    logging.getLogger().setLevel(logging.ERROR)
    asked = Options(
        options.iterations,
        options.minutes,
        options.rank,
        options.learning_rate,
        options.seed,
        options.teacher_steps,
    )
    with tempfile.TemporaryDirectory() as scratch:
        if options.alone:
            alone(options.alone, options.checkpointing, Path(scratch))
            return
        print(f"{in_host.machine()}; load {in_host.load()}", flush=True)
        parts: dict[str, Callable[[], None]] = {
            "demo": lambda: of_demo(options.prompts, asked, Path(scratch)),
            "unet": lambda: of_unet(options.prompts, asked, Path(scratch)),
            "memory": of_memory,
        }
        for part in options.parts:
            print(f"\n{part}", flush=True)
            parts[part]()
        print(f"load {in_host.load()}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--prompts", type=int, default=200, help="that it is measured on")
    parser.add_argument("--iterations", type=int, default=1200)
    parser.add_argument("--minutes", type=float, default=8.0, help="0 for all iterations")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=0.002)
    parser.add_argument("--teacher-steps", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", choices=(CORE, OURS), help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
