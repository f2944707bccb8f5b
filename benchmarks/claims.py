"""What few-step generation gains and costs, measured on the trained demo model through the real
host's loaders and samplers.

    python benchmarks/claims.py [--prompts 12] [--plot docs/images/ladder.svg]

right: share of prompts whose colour, shape and motion are all read back from the pixels
(demo/measure.py). PSNR, SSIM and feature distance are to the teacher's clip from the same noise,
means over the clips. The feature distance is the relative L2 distance of what the demo's VAE
encodes the two clips to. Evaluations are counted, not computed. Seconds are those of sampling
alone.

The part "guided" is Guided Start, 2 + 3 being two guided steps in place of the first of four. Its
variety is the mean distance (root mean square over the pixels, 0 to 1) between the clips of one
prompt from several seeds, and a share of the teacher's own.

The part "timeline" is a prompt that changes in a stream, of as many pairs of prompts: turning.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import in_host

# Within a test the host is there already, and may be another version than the benchmarks' own.
if "comfyui_fewstep" not in sys.modules:
    in_host.enter()

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
import turning
from comfy.patcher_extension import WrappersMP
from comfyui_fewstep.nodes import accelerator, demo
from comfyui_fewstep.nodes.guided_start import FewStepGuidedStart
from comfyui_fewstep.nodes.host.attach import attach_lora
from comfyui_fewstep.nodes.host.files import load_tensors, load_vae
from comfyui_fewstep.nodes.sampler import FewStepSampler
from comfyui_fewstep.nodes.skip import FewStepSkip
from comfyui_fewstep.nodes.stream import FewStepStream
from comfyui_fewstep.quality.figure import new_figure
from comfyui_fewstep.quality.metrics import compare
from comfyui_fewstep.samplers.guided import GuidedSettings
from curves import save
from torch import Tensor

with in_host.demo_scripts():
    import evaluate
    import measure

BATCH = 20  # clips sampled together
FRAMES = 17
LADDER = (1, 2, 4, 8)
# Clips that are made at once. One of this size is hardly more work than the host's own around an
# evaluation.
TIMED_CLIPS = (1, 8)


@dataclass(frozen=True)
class Way:
    """One way of sampling. lora: a file of demo/loras, or empty. skip: target speedup, 0 for none.

    window, sink: latent frames that the causal variant sees at once, 0 for all, and how many of
    them are the clip's first.
    """

    name: str
    steps: int
    cfg: float = 1.0
    lora: str = ""
    sampler: str = "euler"
    variant: str = "base"
    skip: float = 0.0
    frames: int = FRAMES
    window: int = 0
    sink: int = 0
    guided: GuidedSettings | None = None


TEACHER = Way("teacher", 50, 5.0)
STUDENT = Way("student, 4 steps", 4, lora="fewstep-demo/fewstep_demo_lightx2v_4step.safetensors")
LEFT_GUIDED = replace(STUDENT, name="student, CFG left at 5", cfg=5.0)
PLAIN = Way("plain, 4 steps", 4)
PLAIN_GUIDED = Way("plain, 4 steps, CFG 5", 4, 5.0)
RENOISE = Way(
    "re-noise student, 4 steps", 4, lora="fewstep-demo/fewstep_demo_lcm.safetensors", sampler="lcm"
)
CAUSAL = Way("causal", 4, sampler="Streaming Sampler", variant="causal")
SKIP = replace(TEACHER, name="teacher, Step Skip 2x", skip=2.0)
CLAIMED = (TEACHER, STUDENT, LEFT_GUIDED, PLAIN, PLAIN_GUIDED, SKIP)
RUNGS = (STUDENT, RENOISE, PLAIN, PLAIN_GUIDED)  # of the ladder, each at 1, 2, 4 and 8 steps
PARTS = ("claims", "ladder", "causal", "timeline", "guided", "time")
# Of Guided Start: distilled steps that it stands in for, guided steps, CFG.
STARTS = ((1, 1, 5.0), (1, 2, 5.0), (1, 2, 3.5), (1, 4, 5.0), (2, 4, 5.0), (1, 3, 5.0))
SEEDS = 2  # clips of each prompt that variety is measured on
# Frames, window, sinks. It was trained on 33 frames, nine latent ones, with windows of 3, 4, 6 or
# all of them and the first frame beside.
CAUSAL_CLIPS = ((17, 0, 0), (33, 0, 0), (65, 0, 0), (65, 7, 1), (129, 7, 1))


@dataclass(frozen=True)
class Result:
    """evaluations: of one clip. psnr, ssim and feature: None without a teacher's clip."""

    way: Way
    right: float
    evaluations: float
    seconds: float
    psnr: float | None = None
    ssim: float | None = None
    feature: float | None = None

    @property
    def row(self) -> str:
        figures = [
            f"{value:{form}}" if value is not None else ""
            for value, form in ((self.psnr, ".1f"), (self.ssim, ".3f"), (self.feature, ".3f"))
        ]
        return (
            f"| {self.way.name} | {self.evaluations:.0f} | {self.right:.1%} | {' | '.join(figures)}"
            f" | {self.seconds:.3f} |"
        )


HEADER = (
    "| way | evaluations | right | PSNR dB | SSIM | feature distance | seconds per clip"
    " |\n|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Variety:
    """Of a way, over several seeds of each prompt."""

    result: Result  # of the first seed, the one that the teacher's clips are compared at
    right: float  # over all seeds
    distance: float  # between clips of one prompt

    def row(self, teacher: Variety) -> str:
        psnr = "" if self.result.psnr is None else f"{self.result.psnr:.1f}"
        return (
            f"| {self.result.way.name} | {self.result.evaluations:.0f} | {self.right:.1%} | {psnr}"
            f" | {self.distance:.4f} | {self.distance / teacher.distance:.1%} |"
        )


VARIETY_HEADER = (
    "| way | evaluations | right, all seeds | PSNR dB | distance between seeds | of the teacher's"
    " |\n|---|---|---|---|---|---|"
)


class Bench:
    """The same prompts and noise for every way, and the teacher's clips to compare with."""

    def __init__(self, prompts: int):
        self.sentences = evaluate.prompts(prompts)
        tensors, metadata = load_tensors(str(demo.FOLDER / demo.BASE))
        text = json.loads(metadata["fewstep_demo"])
        self.embeddings = torch.cat(
            [demo.embed(sentence, tensors[demo.WORDS], text) for sentence in (*self.sentences, "")]
        )
        self.vae = load_vae(str(demo.FOLDER / demo.VAE))
        self.reference: Tensor | None = None
        self.reference_features: list[Tensor] = []

    @torch.no_grad()
    def measure(self, way: Way, features: bool = True) -> Result:
        """Sample, decode, read and compare. The teacher's clips become the reference for what is
        measured after it.
        """
        return self._compared(way, *self._made(way), features)

    @torch.no_grad()
    def variety(self, way: Way, seeds: int = SEEDS) -> Variety:
        """The same over several seeds, whose first is measure's."""
        # A batch's own seed is the number of its first prompt.
        made = [self._made(way, seed * len(self.sentences)) for seed in range(seeds)]
        clips = [each for each, *_ in made]
        distances = [
            (one - other).square().mean((1, 2, 3, 4)).sqrt().mean().item()
            for one, other in itertools.combinations(clips, 2)
        ]
        right = statistics.fmean(self._right(each) for each in clips)
        return Variety(
            self._compared(way, *made[0], features=False), right, statistics.fmean(distances)
        )

    def _made(self, way: Way, seed: int = 0) -> tuple[Tensor, float, float]:
        """(clips, evaluations and seconds of one)"""
        models, parts, evaluations, seconds = load(way), [], 0, 0.0
        for begin in range(0, len(self.sentences), BATCH):
            chosen = self.embeddings[:-1][begin : begin + BATCH]
            started = time.perf_counter()
            latent, calls = sample(models, way, chosen, self.embeddings[-1:], seed + begin)
            seconds += time.perf_counter() - started
            evaluations += calls
            parts.append(latent)
        count = len(self.sentences)
        return self._decode(torch.cat(parts)), evaluations / count, seconds / count

    def _right(self, clips: Tensor) -> float:
        return sum(
            measure.read_clip(clip.permute(3, 0, 1, 2)).agrees_with(sentence)
            for clip, sentence in zip(clips, self.sentences, strict=True)
        ) / len(self.sentences)

    def _compared(
        self, way: Way, clips: Tensor, evaluations: float, seconds: float, features: bool
    ) -> Result:
        result = Result(way, self._right(clips), evaluations, seconds)
        if way == TEACHER:
            self.reference, self.reference_features = clips, self._features(clips)
        if self.reference is None or self.reference is clips or self.reference.shape != clips.shape:
            return result
        pairs = [compare(a, b) for a, b in zip(self.reference, clips, strict=True)]
        psnr, ssim = (
            statistics.fmean(getattr(pair, name) for pair in pairs) for name in ("psnr", "ssim")
        )
        return replace(
            result,
            psnr=psnr,
            ssim=ssim,
            feature=self._feature_distance(clips) if features else None,
        )

    def call(self, way: Way, clips: int) -> Callable[[], object]:
        """A call that samples so many clips at once in this way, for timing."""
        models, positive = load(way), self.embeddings[:1].expand(clips, -1, -1)
        return lambda: sample(models, way, positive, self.embeddings[-1:], seed=0)

    def _decode(self, latents: Tensor) -> Tensor:
        """Clips (N, T, H, W, 3) in 0..1."""
        return torch.cat([self.vae.decode(part) for part in latents.split(BATCH)])

    def _feature_distance(self, clips: Tensor) -> float:
        pairs = zip(self._features(clips), self.reference_features, strict=True)
        return statistics.fmean(
            float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs
        )

    def _features(self, clips: Tensor) -> list[Tensor]:
        return [self.vae.encode(clip) for clip in clips]


def load(way: Way):
    """The host's MODEL of a way; with a guided start (accelerated, undistilled)."""
    model = demo.load_model(way.variant)
    if way.guided is not None:
        demo.offer_loras()
        return accelerator.attach_accelerator(model, way.lora, "auto", 1.0)[0], model
    if way.lora:
        tensors, _ = load_tensors(str(demo.LORAS / way.lora))
        model, coverage = attach_lora(model, tensors, 1.0)
        assert not coverage.lost and not coverage.misfit
    if way.skip:
        model = FewStepSkip.execute(model, "forecast", way.skip, 0.2, 0.15, 0.95, 3, "auto").args[0]
    return model


def sample(model, way: Way, positive: Tensor, negative: Tensor, seed: int) -> tuple[Tensor, int]:
    """(latents as the VAE takes them, evaluations over all clips). model: as load makes it."""
    shape = (len(positive), 16, (way.frames - 1) // 4 + 1, demo.LATENT_SIDE, demo.LATENT_SIDE)
    prompts, empty = ([[positive, {}]], [[negative, {}]]), torch.zeros(shape)
    if way.guided is not None:
        return sample_guided(model, way, prompts, empty, seed)
    evaluations = 0

    def count(executor, x: Tensor, *args, **kwargs):
        nonlocal evaluations
        evaluations += len(x)
        return executor(x, *args, **kwargs)

    counted = model.clone()
    # Added last, so it is the innermost: a cache around it that answers by itself is not counted.
    # The host's causal network has no such wrappers of its own.
    kind = WrappersMP.APPLY_MODEL if way.variant == CAUSAL.variant else WrappersMP.DIFFUSION_MODEL
    counted.add_wrapper_with_key(kind, "benchmark.count", count)
    if way.variant == CAUSAL.variant:
        window = (way.window, way.sink)
        streamed = FewStepStream.execute(counted, prompts[0], {"samples": empty}, seed, 0, *window)
        return streamed.args[0]["samples"], evaluations
    latent = comfy.sample.sample_custom(
        counted,
        torch.randn(shape, generator=torch.Generator().manual_seed(seed)),
        way.cfg,
        comfy.samplers.ksampler(way.sampler),
        comfy.samplers.calculate_sigmas(
            model.get_model_object("model_sampling"), "simple", way.steps
        ),
        *prompts,
        empty,
        disable_pbar=True,
        seed=seed,
    )
    return latent, evaluations


def sample_guided(models, way: Way, prompts, empty: Tensor, seed: int) -> tuple[Tensor, int]:
    """As sample, by the nodes themselves, which draw the same noise. models: (accelerated,
    undistilled).
    """
    asked = (way.guided.distilled_steps, way.guided.guided_steps, way.guided.cfg)
    model = FewStepGuidedStart.execute(*models, prompts[1], *asked).args[0]
    output = FewStepSampler.execute(model, prompts[0], {"samples": empty}, seed, way.steps, 1.0)
    counted = output.ui["fewstep_report"][0]["rows"]
    return output.args[0]["samples"], counted


def ladder(bench: Bench, show) -> dict[str, list[Result]]:
    """Every rung at 1, 2, 4 and 8 steps, by the name of the way without its steps."""
    curves: dict[str, list[Result]] = {}
    for way in RUNGS:
        name = way.name.replace(", 4 steps", "")
        for steps in LADDER:
            result = bench.measure(
                replace(way, steps=steps, name=f"{name}, {steps} step{'s' * (steps > 1)}"),
                features=False,
            )
            curves.setdefault(name, []).append(result)
            show(result)
    return curves


def plot(curves: dict[str, list[Result]], teacher: Result, path: Path) -> None:
    """Share read right and closeness to the teacher's clip against the number of steps."""
    figure = new_figure(960, 400)
    accuracy, closeness = figure.subplots(1, 2)
    for name, results in curves.items():
        steps = [result.way.steps for result in results]
        accuracy.plot(steps, [100 * result.right for result in results], marker="o", label=name)
        closeness.plot(steps, [result.psnr for result in results], marker="o", label=name)
    accuracy.axhline(
        100 * teacher.right,
        color="grey",
        linestyle="--",
        label=f"teacher, {teacher.evaluations:.0f} evaluations",
    )
    accuracy.set(ylabel="prompts read back right, %", ylim=(0, 101))
    closeness.set(ylabel="PSNR to the teacher's clip, dB")
    for axis in (accuracy, closeness):
        axis.set_xscale("log", base=2)
        axis.set_xticks(LADDER, [str(steps) for steps in LADDER])
        axis.set(xlabel="steps")
        axis.grid(alpha=0.3)
    accuracy.legend(fontsize=8, loc="lower right")
    save(figure, path)


def wall_time(bench: Bench, clips: int, rounds: int) -> tuple[float, float, float]:
    """Median seconds of teacher and student for that many clips, and of the paired ratios."""
    full, fast = in_host.in_turns(bench.call(TEACHER, clips), bench.call(STUDENT, clips), rounds)
    return statistics.median(full), statistics.median(fast), in_host.median_ratio(full, fast)


def uncertainty(share: float, count: int) -> float:
    """Half of the 95 % interval of a share, by the normal approximation."""
    return 1.96 * math.sqrt(share * (1 - share) / count)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5, help="of the wall-time comparison")
    parser.add_argument("--plot", type=Path, help="write the ladder here, as .svg or .png")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    return parser.parse_args()


def causal_way(frames: int, window: int, sink: int) -> Way:
    seen = (f", window {window}" if window else "") + (f" with {sink} sink" if sink else "")
    name = f"causal, {frames} frames{seen}"
    return replace(CAUSAL, frames=frames, window=window, sink=sink, name=name)


def guided_ways() -> list[Way]:
    """The student with each guided start, and the re-noising one with one."""
    ways = []
    for replaced, steps, cfg in STARTS:
        name = f"guided {steps} + {STUDENT.steps - replaced}, CFG {cfg:g}"
        settings = GuidedSettings(replaced, steps, cfg)
        ways.append(replace(STUDENT, name=name, cfg=cfg, guided=settings))
    one = GuidedSettings(1, 2, 5.0)
    ways.append(replace(RENOISE, name="re-noise student, guided 2 + 3, CFG 5", guided=one))
    return ways


def print_guided(bench: Bench) -> None:
    print(f"\n{VARIETY_HEADER}", flush=True)
    teacher = bench.variety(TEACHER)
    print(teacher.row(teacher), flush=True)
    for way in (STUDENT, *guided_ways(), RENOISE):
        print(bench.variety(way).row(teacher), flush=True)


def print_timeline(pairs: int) -> None:
    print(f"\n{turning.HEADER}", flush=True)
    bench = turning.PairBench(pairs)
    for way in turning.WAYS:
        print(bench.measure(way).row, flush=True)


def print_times(bench: Bench, rounds: int) -> None:
    print()
    for clips in TIMED_CLIPS:
        full, fast, factor = wall_time(bench, clips, rounds)
        print(
            f"clips at once: {clips}; teacher {full:.3f} s, student {fast:.3f} s, {factor:.1f}x"
            " (25x fewer evaluations)",
            flush=True,
        )


def print_uncertainty(prompts: int) -> None:
    shares = ", ".join(
        f"{share:.0%} by {uncertainty(share, prompts):.1%}" for share in (0.5, 0.9, 0.95, 0.99)
    )
    print(f"\nUncertain either way (95 %) at {prompts} prompts: a share of {shares}")


def main() -> None:
    options = parsed()
    logging.getLogger().setLevel(logging.ERROR)
    comfy.utils.set_progress_bar_enabled(False)
    print(in_host.machine(), f"{options.prompts} prompts", sep="; ")
    if set(options.parts) - {"timeline", "guided", "time"}:
        print(HEADER, flush=True)

    def show(result: Result) -> Result:
        print(result.row, flush=True)
        return result

    bench = Bench(options.prompts)
    if {"claims", "ladder"} & set(options.parts):
        teacher = show(bench.measure(TEACHER))
    if "claims" in options.parts:
        for way in CLAIMED[1:]:
            show(bench.measure(way))
    if "ladder" in options.parts:
        curves = ladder(bench, show)
        if options.plot:
            plot(curves, teacher, options.plot)
    if "causal" in options.parts:
        for clip in CAUSAL_CLIPS:
            show(bench.measure(causal_way(*clip)))
    if "timeline" in options.parts:
        print_timeline(options.prompts)
    if "guided" in options.parts:
        print_guided(bench)
    if "time" in options.parts:
        print_times(bench, options.rounds)
    print_uncertainty(options.prompts)


if __name__ == "__main__":
    main()
