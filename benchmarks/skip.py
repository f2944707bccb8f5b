"""Step Skip against other caches, fewer steps and better solvers: error against evaluations.

    python benchmarks/skip.py [--models mixture-flow mixture-noise demo unet]
        [--samplers euler dpmpp_2m] [--steps 20 30 50] [--clips 12]

The error is the relative L2 distance of the final latent from that of the run with every evaluation
made: same sampler, steps, noise and prompt; the median over the clips. EasyCache is run on a copy
of its input: on float32 flow models it otherwise adds into the sampler's own latent. Of methods
with several settings (published.py) the best at a number of evaluations counts. Where a method
cannot hit a number of evaluations, its error there is interpolated between its neighbours,
log-linearly.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import in_host

in_host.enter()

import comfy.sample  # noqa: E402
import torch  # noqa: E402
from comfy.patcher_extension import WrappersMP  # noqa: E402
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode  # noqa: E402
from comfyui_fewstep.nodes.skip import FewStepSkip  # noqa: E402
from comfyui_fewstep.samplers.skip import METHODS  # noqa: E402
from comfyui_fewstep.samplers.skip.method import SkipMethod  # noqa: E402
from curves import Curve, draw, save  # noqa: E402
from mixture import CHANNELS, NO_CLASS, SIDE, class_conditioning, mixture  # noqa: E402
from published import (  # noqa: E402
    Calibration,
    Method,
    hi_caches,
    mag_caches,
    taylor_seers,
    with_method,
)
from torch import Tensor  # noqa: E402

DEMO = in_host.ROOT / "demo"
TARGETS = (1.6, 2.0, 2.3)  # the range the claims are made for
MORE_TARGETS = (1.3, *TARGETS, 2.8)
THRESHOLDS = (0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0, 1.5)
BETTER_SOLVERS = ("dpmpp_2m", "res_multistep")
CLAIMED = (1.55, 2.4)  # speed-ups that round to those
# What forecast's error may be of EasyCache's and of fewer steps'.
EASY_SHARE, FEWER_SHARE = 1 / 3, 0.8
STOCHASTIC = ("ancestral", "sde")


@dataclass
class Subject:
    """A model and what to sample with it. calls: forward passes of its network so far."""

    name: str
    model: Any
    positive: list
    negative: list
    shape: tuple[int, ...]
    cfg: float
    scheduler: str = "simple"
    decode: Callable[[Tensor], Tensor] | None = None
    calls: list[int] = field(default_factory=list)

    def sample(self, model, sampler: str, steps: int, noise_seed: int = 0) -> tuple[Tensor, int]:
        """(latents as the model sees them, evaluations made). model: patched or not."""
        calls = 0

        def count(executor, *args, **kwargs):
            nonlocal calls
            calls += 1
            return executor(*args, **kwargs)

        counted = model.clone()
        # Added last, so it is the innermost: a cache around it that answers by itself is not
        # counted.
        counted.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "benchmark.count", count)
        noise = torch.randn(self.shape, generator=torch.Generator().manual_seed(noise_seed))
        latent = comfy.sample.sample(
            counted,
            noise,
            steps,
            self.cfg,
            sampler,
            self.scheduler,
            self.positive,
            self.negative,
            torch.zeros(self.shape),
            disable_pbar=True,
            seed=0,
        )
        return self.model.model.process_latent_in(latent), calls


def mixture_subject(name: str, is_flow: bool, clips: int) -> Subject:
    return Subject(
        name,
        mixture(1, is_flow),
        class_conditioning(0),
        class_conditioning(NO_CLASS),
        (clips, CHANNELS, SIDE, SIDE),
        2.5,
        "simple" if is_flow else "karras",
    )


def demo_subject(name: str, clips: int) -> Subject:
    """The trained demo model on prompts of scenes that training never drew."""
    with in_host.demo_scripts():
        import clips as scenes
        import host as demo_host
        from evaluate import load_base
        from train_base import word_table

    rng = random.Random(777)
    sentences = [scenes.draw_sentence(scenes.draw_scene(rng), rng) for _ in range(clips)]
    table = word_table()
    vae = demo_host.load_vae(DEMO / "fewstep_demo_vae.safetensors")
    return Subject(
        name,
        load_base(DEMO / "fewstep_demo_wan.safetensors"),
        [[table[torch.tensor([scenes.word_ids(sentence) for sentence in sentences])], {}]],
        [[table[torch.tensor([scenes.word_ids("")])], {}]],
        (clips, 16, 5, 8, 8),
        5.0,
        decode=lambda latent: demo_host.decode(vae, latent),
    )


def unet_subject(name: str, clips: int) -> Subject:
    """A trained UNet that predicts noise, on prompts of pictures that training never drew."""
    from trained_unet import Code, scenes_of, trained_model, word_table

    _, words = scenes_of(random.Random(778), clips)
    table = word_table()
    return Subject(
        name,
        trained_model(),
        [[table[words], {}]],
        [[table[torch.zeros_like(words[:1])], {}]],
        (clips, 4, 16, 16),
        4.0,
        decode=Code.fit().decode,
    )


SUBJECTS: dict[str, Callable[[int], Subject]] = {
    "mixture-flow": lambda clips: mixture_subject("mixture-flow", True, clips),
    "mixture-noise": lambda clips: mixture_subject("mixture-noise", False, clips),
    "demo": lambda clips: demo_subject("demo", clips),
    "unet": lambda clips: unet_subject("unet", clips),
}


# --- the ways of saving evaluations ---


def by_each_setting(model, name: str, method: type[SkipMethod]) -> Iterator:
    """The model with a method of Step Skip, at each value of the setting that the method reads."""
    if method.about_threshold:
        yield from (step_skip(model, name, threshold=threshold) for threshold in THRESHOLDS)
    else:
        yield from (step_skip(model, name, speedup=speedup) for speedup in MORE_TARGETS)


def step_skip(model, method: str = "forecast", speedup: float = 1.5, threshold: float = 0.2):
    return FewStepSkip.execute(model, method, speedup, threshold, 0.15, 0.95, 3, "auto").args[0]


def easy_cache(model, threshold: float):
    def on_a_copy(executor, x, *args, **kwargs):
        return executor(x.clone(), *args, **kwargs)

    copied = model.clone()
    copied.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "benchmark.copy", on_a_copy)
    return EasyCacheNode.execute(copied, threshold, 0.15, 0.95, False).args[0]


def lazy_cache(model, threshold: float):
    return LazyCacheNode.execute(model, threshold, 0.15, 0.95, False).args[0]


@dataclass(frozen=True)
class Point:
    """Evaluations made, relative L2 error of each clip, and PSNR in dB if clips can be decoded."""

    evaluations: int
    errors: tuple[float, ...]
    psnr: float | None = None

    @property
    def error(self) -> float:
        return statistics.median(self.errors)


def relative_errors(latents: Tensor, reference: Tensor) -> tuple[float, ...]:
    return tuple(
        ((latents - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)).tolist()
    )


def psnr(frames: Tensor, reference: Tensor) -> float:
    """Median over clips, in dB, of pictures in [0, 1]."""
    return (
        (-10 * (frames - reference).square().flatten(1).mean(1).clamp_min(1e-12).log10())
        .median()
        .item()
    )


@dataclass
class Measurement:
    """All curves of one model, sampler and number of steps."""

    subject: Subject
    sampler: str
    steps: int
    has_published: bool = True  # whether the published methods run too, which takes longest
    curves: dict[str, list[Point]] = field(default_factory=dict)

    def run(self) -> Measurement:
        subject = self.subject
        self.reference, full = subject.sample(subject.model, self.sampler, self.steps)
        self.frames = subject.decode(self.reference) if subject.decode else None
        self._add(
            "forecast", (step_skip(subject.model, speedup=speedup) for speedup in MORE_TARGETS)
        )
        counts = sorted({point.evaluations for point in self.curves["forecast"]}, reverse=True)
        per_step = full / self.steps
        self._add(
            "fewer steps",
            (subject.model for _ in counts),
            [round(count / per_step) for count in counts],
        )
        if not is_stochastic(self.sampler):
            for solver in BETTER_SOLVERS:
                if solver != self.sampler:
                    self._add(
                        f"{solver}, fewer steps", (subject.model for _ in counts), counts, solver
                    )
        floor = min(counts)
        self._add(
            "EasyCache",
            (easy_cache(subject.model, threshold) for threshold in THRESHOLDS),
            floor=floor,
        )
        self._add(
            "LazyCache",
            (lazy_cache(subject.model, threshold) for threshold in THRESHOLDS),
            floor=floor,
        )
        for name, method in METHODS.items():
            if name != "forecast":
                self._add(name, by_each_setting(subject.model, name, method), floor=floor)
        for name, makes in self._published().items() if self.has_published else ():
            # What they evaluate is known before they run. Left out is what nothing is compared
            # with: of those below the floor all but the nearest.
            counts = [len(made) for made, *_ in makes]
            least = max((count for count in counts if count < floor), default=floor)
            worth = [make for (made, *_), make in makes.items() if least <= len(made) < full]
            self._add(name, (with_method(subject.model, make) for make in worth))
        return self

    def _published(self) -> dict[str, dict[tuple, Callable[[], Method]]]:
        """The published methods at their settings, MagCache calibrated on other noise."""
        calibration = Calibration()
        calibrated = with_method(self.subject.model, lambda: calibration)
        self.subject.sample(calibrated, self.sampler, self.steps, noise_seed=1)
        return {
            "TaylorSeer": taylor_seers(self.steps),
            "HiCache": hi_caches(self.steps),
            "MagCache": mag_caches(calibration.ratios),
        }

    def _add(
        self,
        name: str,
        models: Iterable,
        steps: list[int] | None = None,
        sampler: str | None = None,
        floor: int = 0,
    ) -> None:
        """The best point at each number of evaluations; stops once a point makes fewer than
        `floor`.
        """
        points: dict[int, Point] = {}
        for index, model in enumerate(models):
            latents, calls = self.subject.sample(
                model, sampler or self.sampler, steps[index] if steps else self.steps
            )
            quality = (
                psnr(self.subject.decode(latents), self.frames) if self.frames is not None else None
            )
            point = Point(calls, relative_errors(latents, self.reference), quality)
            if calls not in points or point.error < points[calls].error:
                points[calls] = point
            if calls < floor:
                break
        self.curves[name] = sorted(points.values(), key=lambda point: point.evaluations)

    def error_at(self, name: str, evaluations: int) -> float | None:
        """The curve's median error at this many evaluations, interpolated; None outside of it."""
        points = self.curves.get(name, [])
        below = [point for point in points if point.evaluations <= evaluations]
        above = [point for point in points if point.evaluations >= evaluations]
        if not below or not above:
            return None
        low, high = below[-1], above[0]
        if low is high or low.error == 0 or high.error == 0:
            return low.error
        share = (evaluations - low.evaluations) / (high.evaluations - low.evaluations)
        return math.exp((1 - share) * math.log(low.error) + share * math.log(high.error))

    def meets_target(self, point: Point) -> bool | None:
        """Whether a forecast's error is within its target; None outside the claimed speed-ups, and
        where nothing came to as many evaluations.
        """
        if not CLAIMED[0] <= self.steps / point.evaluations <= CLAIMED[1]:
            return None
        shares = (
            {"EasyCache": 1.0}
            if is_stochastic(self.sampler)
            else {"EasyCache": EASY_SHARE, "fewer steps": FEWER_SHARE}
        )
        errors = {name: self.error_at(name, point.evaluations) for name in shares}
        known = {name: error for name, error in errors.items() if error is not None}
        if not known:
            return None
        return all(point.error <= shares[name] * error for name, error in known.items())


def is_stochastic(sampler: str) -> bool:
    return any(part in sampler for part in STOCHASTIC)


def verdicts(measurement: Measurement) -> list[str]:
    """One table row per forecast point, at every speed that was asked for."""
    rows = []
    full = measurement.steps
    for point in reversed(measurement.curves["forecast"]):
        if point.evaluations == full:
            continue
        met = measurement.meets_target(point)
        others = {
            name: measurement.error_at(name, point.evaluations)
            for name in measurement.curves
            if name != "forecast"
        }
        better = [others.pop(f"{solver}, fewer steps", None) for solver in BETTER_SOLVERS]
        known = {name: error for name, error in others.items() if error is not None}
        better = min((error for error in better if error is not None), default=None)
        best = min(known, key=known.__getitem__) if known else ""
        cells = [
            measurement.subject.name,
            measurement.sampler,
            full,
            f"{point.evaluations} ({full / point.evaluations:.2f}x)",
            _error(point.error),
            *(_error(others.get(name)) for name in COMPARED),
            _error(better),
            "forecast" if not best or point.error <= known[best] else f"**{best}**",
            _ratio(point.error, others["EasyCache"]),
            _ratio(point.error, others["fewer steps"]),
            f"{point.psnr:.1f}" if point.psnr is not None else "",
            "" if met is None else "yes" if met else "no",
        ]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return rows


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _ratio(value: float, other: float | None) -> str:
    return "-" if other is None else f"{value / other:.2f}"


COMPARED = (
    "EasyCache",
    "LazyCache",
    "teacache",
    "TaylorSeer",
    "HiCache",
    "MagCache",
    "fewer steps",
)
COLUMNS = (
    "model",
    "sampler",
    "steps",
    "evaluations",
    "forecast",
    *COMPARED,
    "better solver, fewer steps",
    "least",
    "forecast / EasyCache",
    "forecast / fewer",
    "PSNR dB",
    "target met",
)
HEADER = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    available = [
        name
        for name in SUBJECTS
        if name != "demo" or (DEMO / "fewstep_demo_wan.safetensors").exists()
    ]
    parser.add_argument("--models", nargs="+", choices=list(SUBJECTS), default=available)
    parser.add_argument(
        "--samplers", nargs="+", default=["euler", "dpmpp_2m", "er_sde", "euler_ancestral"]
    )
    parser.add_argument("--steps", nargs="+", type=int, default=[20, 30, 50])
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--json", type=Path, help="write every point here")
    parser.add_argument(
        "--plot",
        type=Path,
        help="write the first model's and first sampler's curves here, as .svg or .png",
    )
    return parser.parse_args()


def as_data(measurement: Measurement) -> dict[str, Any]:
    """A measurement for a JSON file, every point of every curve."""
    return {
        "model": measurement.subject.name,
        "sampler": measurement.sampler,
        "steps": measurement.steps,
        "curves": {
            curve: [
                {"evaluations": point.evaluations, "errors": point.errors, "psnr": point.psnr}
                for point in points
            ]
            for curve, points in measurement.curves.items()
        },
    }


def panel(measurement: Measurement) -> tuple[str, list[Curve]]:
    """A measurement as curves draws it."""
    title = f"{measurement.steps} steps, {measurement.sampler}"
    return title, [
        Curve(name, [(point.evaluations, point.error) for point in points if point.error > 0])
        for name, points in measurement.curves.items()
    ]


def main() -> None:
    options = parsed()
    logging.getLogger().setLevel(logging.ERROR)
    print(in_host.machine())
    print(HEADER)
    measurements = []
    started = time.perf_counter()
    for name in options.models:
        subject = SUBJECTS[name](options.clips)
        for sampler in options.samplers:
            for steps in options.steps:
                measurements.append(Measurement(subject, sampler, steps).run())
                print("\n".join(verdicts(measurements[-1])), flush=True)
    print(f"{options.clips} clips each, {time.perf_counter() - started:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(list(map(as_data, measurements)), indent=1))
    if options.plot:
        first = (options.models[0], options.samplers[0])
        panels = [panel(m) for m in measurements if (m.subject.name, m.sampler) == first]
        save(draw(panels), options.plot)


if __name__ == "__main__":
    main()
