"""Step Skip on a ComfyUI model: two official wrappers, one frozen setting, one object per run.

OUTER_SAMPLE makes the run and drops it; PREDICT_NOISE stands around everything that costs:
ControlNets, context windows, regional prompts, SLG and PAG, several GPUs, offloaded weights, the
compiled network.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.ldm.wan.model
import comfy.model_management
import comfy.model_sampling
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ...loras.words import counted
from ...samplers.budget.ways import MOST_SPEEDUP, CarriedSkip
from ...samplers.skip import METHODS
from ...samplers.skip.method import ModelSignals, RunFacts, Settings, SkipMethod, WanShape
from ...samplers.skip.run import SkipRun
from ...samplers.skip.schedule import RunSchedule
from ...samplers.skip.tally import Tally
from ...samplers.skip.traits import SamplerTraits, traits_of
from .last_runs import SLOT_KEY, FinishedRun, LastRuns, mark_of
from .other_skip import another_skip_node
from .report import Report
from .run import RunLog, run_log

KEY = "fewstep.skip"
CONFIG_KEY = "fewstep.skip.config"  # for those that ask what is on a MODEL; frozen
NAME = "Step Skip"
# On "auto" the history may take this share of the model device's free memory before it goes to the
# CPU.
FREE_MEMORY_SHARE = 0.25


@dataclass(frozen=True)
class SkipConfig:
    """The node's settings."""

    method: str  # a key of METHODS
    settings: Settings
    start_percent: float  # shares of the steps between which evaluations may be skipped
    end_percent: float
    cache_device: str  # auto, model or cpu


def with_skip(model, config: SkipConfig, hidden=None):
    """The model with Step Skip on it. hidden: the node's hidden inputs, for the text under it.

    The wrappers go into the model options: on the patcher itself they would make the host load the
    same weights again.
    """
    refuse_another(model, model.model_options)
    patched, last_runs = model.clone(), LastRuns()
    patched.model_options |= {CONFIG_KEY: config, SLOT_KEY: last_runs}

    def outer_sample(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        log = run_log(guider.model_options)
        if log is not None and log.is_measurement:
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        refuse_another(guider.model_patcher, guider.model_options, ours_expected=1)
        run = GuidedRun(config, guider, sampler, sigmas)
        guider.model_options[KEY] = run
        try:
            samples = run.sample(executor, noise, latent_image, sampler, sigmas, *args, **kwargs)
            report = run.report()
        finally:
            guider.model_options.pop(KEY, None)
        last_runs.add(run.finished(samples, report, is_reported=log is not None))
        report.publish(hidden)
        if log is not None:
            log.entries.append({"node": NAME, "summary": report.summary, **report.data})
        return samples

    def predict_noise(executor, x, timestep, model_options, seed=None):
        run = executor.class_obj.model_options.get(KEY)
        if run is None:
            return executor(x, timestep, model_options, seed)
        return run.predict(executor, x, timestep, model_options, seed)

    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, outer_sample),
        (WrappersMP.PREDICT_NOISE, predict_noise),
    ):
        add_wrapper_with_key(kind, KEY, wrapper, patched.model_options, is_model_options=True)
    return patched


def carried_skip(model) -> CarriedSkip | None:
    """Step Skip on a MODEL, as far as a budget depends on it."""
    config: SkipConfig | None = model.model_options.get(CONFIG_KEY)
    if config is None:
        return None
    target, threshold = config.settings.target_speedup, config.settings.threshold
    if METHODS[config.method].about_target_speedup:
        # Beyond this, few runs reach their target.
        words = f"{config.method} at target_speedup {target:g}"
        return CarriedSkip(
            words,
            min(target, MOST_SPEEDUP),
            config.start_percent,
            config.end_percent,
            config.settings.max_consecutive,
            isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST),
        )
    return CarriedSkip(f"{config.method} at threshold {threshold:g}", None)


def refuse_another(model, options: Mapping[str, Any], ours_expected: int = 0) -> None:
    """Raise where another node skips too: each would forecast from the other's forecasts."""
    wrappers = options.get("transformer_options", {}).get("wrappers", {})
    ours = len(wrappers.get(WrappersMP.OUTER_SAMPLE, {}).get(KEY, ()))
    other = f"another {NAME}" if ours > ours_expected else another_skip_node(model, options)
    if other is not None:
        raise ValueError(
            f"This model already skips evaluations with {other}, and {NAME} was added to it. Each"
            f" would forecast from the other's forecasts: remove {other} or {NAME}."
        )


class GuidedRun:
    """One sampling run of one guider. The pure run is made at the first evaluation: weights and
    conditioning are ready then.
    """

    def __init__(self, config: SkipConfig, guider, sampler, sigmas: Tensor):
        self.config, self.guider = config, guider
        # Reading the schedule waits for the device once, before anything runs on it.
        self.sigmas = tuple(sigmas.tolist())
        function, options = (
            getattr(sampler, "sampler_function", sampler),
            getattr(sampler, "extra_options", {}),
        )
        while isinstance(
            function, functools.partial
        ):  # how other packs hand over options; it has no name of its own
            function, options = function.func, {**function.keywords, **options}
        name = getattr(function, "__name__", type(function).__name__)
        self.traits = traits_of(name, options)
        self.run: SkipRun | None = None
        self.work = RunLog()  # forward passes, counted as our own sampler counts them
        self.seconds = 0.0

    def sample(self, executor, *args, **kwargs) -> Tensor:
        """Run the sampler. The options are this run's own, so the counter goes with them."""
        for kind, wrapper in (
            (WrappersMP.APPLY_MODEL, self.work.count),
            (WrappersMP.PREPARE_SAMPLING, self.work.time_loading),
        ):
            add_wrapper_with_key(
                kind, KEY, wrapper, self.guider.model_options, is_model_options=True
            )
        started = time.perf_counter()
        samples = executor(*args, **kwargs)
        comfy.model_management.synchronize()  # a GPU may still be at work on it
        self.seconds = time.perf_counter() - started - self.work.loading
        return samples

    def finished(self, samples: Tensor, report: Report, is_reported: bool) -> FinishedRun:
        return FinishedRun(
            sampler=self.traits.name,
            steps=len(self.sigmas) - 1,
            evaluations=self.work.rows / samples.shape[0],
            seconds=self.seconds,
            mark=mark_of(samples),
            report=report,
            is_reported=is_reported,
        )

    def predict(
        self, executor, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None
    ) -> Tensor:
        before = self.guider.model_options.get("sampler_post_cfg_function", [])
        added = model_options.get("sampler_post_cfg_function", [])[len(before) :]
        if self.run is None:
            self.run = self._start(x, outputs=3 if added else 1)
        if not added:
            return self.run.evaluate(
                x, timestep[0], lambda: executor(x, timestep, model_options, seed)
            )
        return self._predict_all(executor, x, timestep, model_options, seed, added)

    def _predict_all(
        self, executor, x, timestep, model_options, seed, added: list[Callable]
    ) -> Tensor:
        """For CFG++ and the like: the sampler reads the unconditional prediction by a function.

        All three predictions are forecast together, and on a skip the sampler's functions are
        called with them as the host would.
        """
        seen: dict[str, Any] = {}

        def capture(args):
            seen.update(args)
            return args["denoised"]

        functions = model_options["sampler_post_cfg_function"][: -len(added)]
        options = {**model_options, "sampler_post_cfg_function": [*functions, capture, *added]}

        def compute() -> Tensor:
            denoised = executor(x, timestep, options, seed)
            if seen.get("uncond_denoised") is None:
                self.run.pass_through(
                    "the sampler reads predictions that this guider does not show"
                )
                return denoised
            return torch.stack([denoised, seen["uncond_denoised"], seen["cond_denoised"]])

        outputs = self.run.evaluate(x, timestep[0], compute)
        if outputs.shape == x.shape:
            return outputs
        if not seen:
            args = self._post_cfg_args(outputs, x, timestep, model_options)
            for function in added:
                function(args)
        return outputs[0]

    def _post_cfg_args(self, outputs: Tensor, x, timestep, model_options) -> dict[str, Any]:
        """What the host calls a sampler_post_cfg_function with. outputs: (3, *x.shape)."""
        denoised, uncond_denoised, cond_denoised = outputs
        return {
            "denoised": denoised,
            "uncond_denoised": uncond_denoised,
            "cond_denoised": cond_denoised,
            "input": x,
            "cond": self.guider.conds.get("positive"),
            "uncond": self.guider.conds.get("negative"),
            "cond_scale": self.guider.cfg,
            "model": self.guider.inner_model,
            "sigma": timestep,
            "model_options": model_options,
        }

    def _start(self, x: Tensor, outputs: int) -> SkipRun:
        """outputs: how many predictions of x's size are kept of each evaluation."""
        sampling = self.guider.inner_model.model_sampling
        is_flow = isinstance(sampling, comfy.model_sampling.CONST)
        schedule = RunSchedule(
            self.sigmas, is_flow, self.config.start_percent, self.config.end_percent
        )
        facts = RunFacts(
            schedule, self.config.settings, self.traits, signals_of(self.guider.inner_model, x)
        )
        method = METHODS[self.config.method].for_run(facts)
        return SkipRun(
            schedule,
            self.traits,
            method,
            device=self._history_device(x, outputs, method),
            regime_of=self._regime_of(),
        )

    def _history_device(self, x: Tensor, outputs: int, method: SkipMethod) -> torch.device | None:
        if self.config.cache_device == "cpu":
            return torch.device("cpu")
        needed = outputs * method.latents_kept * 4 * x.numel()  # float32
        is_tight = needed > FREE_MEMORY_SHARE * comfy.model_management.get_free_memory(x.device)
        return torch.device("cpu") if self.config.cache_device == "auto" and is_tight else None

    def _regime_of(self) -> Callable[[float], Hashable]:
        """Which prompts, ControlNets and hook keyframes are at work at a noise level, as something
        that compares equal or not.
        """
        starts, ends = boundaries(cond for conds in self.guider.conds.values() for cond in conds)
        return lambda sigma: (
            *(sigma <= start for start in starts),
            *(sigma >= end for end in ends),
        )

    def report(self) -> Report:
        if self.run is None:
            tally = Tally(refusal="nothing was sampled")
            return report_on_skipping(self.config, self.traits, tally, ())
        tally = self.run.finish()
        notes = self.run.method.notes(tally)
        return report_on_skipping(self.config, self.traits, tally, notes)


def boundaries(conds) -> tuple[list[float], list[float]]:
    """(levels from which something applies, levels below which it ceases), as host float32."""
    starts, ends = set(), set()

    def span(start, end) -> None:
        starts.add(start)
        ends.add(end)

    for cond in conds:
        span(cond.get("timestep_start"), cond.get("timestep_end"))
        control = cond.get("control")
        while control is not None:
            span(*(control.timestep_range or (None, None)))
            control = control.previous_controlnet
        for hook in getattr(cond.get("hooks"), "hooks", []):
            starts.update(keyframe.start_t for keyframe in hook.hook_keyframe.keyframes)
    return _as_float32(starts), _as_float32(ends)


def _as_float32(levels) -> list[float]:
    return sorted(
        torch.tensor(float(level), dtype=torch.float32).item()
        for level in levels
        if level is not None
    )


def signals_of(model, x: Tensor) -> ModelSignals:
    """What a method may read off this model. The time embedding is known how to be had of Wan."""
    network, sampling = model.diffusion_model, model.model_sampling

    def model_input(sigma: Tensor, latent: Tensor) -> Tensor:
        return sampling.calculate_input(sigma.reshape(1), latent)

    if not (hasattr(network, "time_embedding") and hasattr(network, "freq_dim")):
        return ModelSignals(model_input)
    dtype = model.get_dtype_inference()

    def time_embedding(sigma: Tensor) -> Tensor:
        frequencies = comfy.ldm.wan.model.sinusoidal_embedding_1d(
            network.freq_dim, sampling.timestep(sigma.reshape(1)).float()
        )
        return network.time_embedding(frequencies.to(dtype))

    shape = WanShape(
        network.dim,
        model.model_config.unet_config.get("in_dim", 0),
        getattr(network, "img_emb", None) is not None,
    )
    return ModelSignals(model_input, time_embedding, shape, math.prod(x.shape[-2:]))


def report_on_skipping(
    config: SkipConfig, traits: SamplerTraits, tally: Tally, notes: tuple[str, ...]
) -> Report:
    """notes: the method's own."""
    steps = [step + 1 for step in tally.steps_skipped]
    error, refusal = max(tally.errors, default=None), tally.refusal
    return Report(
        node=NAME,
        summary="; ".join([headline(config.method, tally), *notes]),
        rows=(
            ("method", config.method),
            ("evaluations asked for", str(tally.asked)),
            ("evaluations made", str(tally.made)),
            ("steps skipped", in_runs(steps) or "none"),
            ("speed-up", speed_in_words(tally)),
            ("largest forecast error", "none measured" if error is None else f"{error:.1%}"),
            ("vetoes", str(tally.vetoes)),
            ("history", f"{tally.history_bytes:,} bytes"),
        ),
        notes=notes if refusal is None else (*notes, f"passed through: {refusal}"),
        data={
            "method": config.method,
            "evaluations_asked": tally.asked,
            "evaluations_made": tally.made,
            "steps_skipped": steps,
            "estimated_speedup": tally.estimated_speedup,
            "measured_speedup": tally.measured_speedup,
            "largest_forecast_error": error,
            "vetoes": tally.vetoes,
            "history_bytes": tally.history_bytes,
            "sampler": traits.name,
            "passed_through": refusal,
        },
    )


def headline(method: str, tally: Tally) -> str:
    """What was left out, or why nothing was, in one line."""
    if not tally.steps_skipped:
        because = f", {tally.refusal}" if tally.refusal else ""
        return f"{method}: all {counted(tally.asked, 'evaluation')} made{because}"
    steps = in_runs([step + 1 for step in tally.steps_skipped])
    return (
        f"{method}: {tally.made} of {tally.asked} evaluations made, {speed_in_words(tally)}; left"
        f" out at step {steps}"
    )


def speed_in_words(tally: Tally) -> str:
    measured = tally.measured_speedup
    by_clock = f", {measured:.2f}x by the clock" if measured else ""
    return f"{tally.estimated_speedup:.2f}x by count{by_clock}"


def in_runs(steps: Sequence[int]) -> str:
    """Steps in ascending order, those in a row together: 4, 6, 8 to 10."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and step <= runs[-1][-1] + 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    return ", ".join(f"{run[0]} to {run[-1]}" if run[0] < run[-1] else str(run[0]) for run in runs)
