"""One run of a plan on the host: its guider, solvers, previews, interrupts, evaluation count.

The log of a run lies in the options of that run alone, and is dropped with it.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...loras.accelerator import Solver
from ...samplers.plan import Runner, SamplingPlan, Stage, refuse_other_cfg
from ...samplers.solvers import sample_tcd
from .latent import first_tensor, fitted_latent

if TYPE_CHECKING:
    from .guided_start import GuidedStart

RUN_KEY = "fewstep.run"


@dataclass
class RunLog:
    """What happened in one sampling run. Carried in its model options and dropped with it."""

    calls: int = 0  # batched forward passes
    rows: int = 0  # batch rows in them, the true measure of work
    loading: float = 0.0  # seconds in which the host loaded models for it
    # Reports of other nodes of this pack that took part, such as Step Skip.
    entries: list[dict[str, Any]] = field(default_factory=list)
    # Step Budget's: what is made is thrown away, and other nodes of this pack leave the run alone.
    is_measurement: bool = False

    def count(self, executor, x: Tensor, *args, **kwargs):
        """An APPLY_MODEL wrapper: count, and pass on."""
        self.calls += 1
        self.rows += x.shape[0]
        return executor(x, *args, **kwargs)

    def time_loading(self, executor, *args, **kwargs):
        """A PREPARE_SAMPLING wrapper: it is there that the host loads and patches models."""
        started = time.perf_counter()
        prepared = executor(*args, **kwargs)
        self.loading += time.perf_counter() - started
        return prepared


def run_log(model_options: Mapping[str, Any]) -> RunLog | None:
    """The log of the run of ours that these options belong to; None under any other sampler."""
    return model_options.get("transformer_options", {}).get(RUN_KEY)


@dataclass(frozen=True)
class StageRun:
    """A finished stage of a run."""

    stage: Stage
    evaluations: float  # rows evaluated for each row of the latent batch
    seconds: float  # wall time, loading included
    loading: float  # seconds of it in which the host loaded the stage's model


@dataclass(frozen=True)
class Run:
    """A finished run."""

    samples: Tensor
    log: RunLog
    seconds: float  # wall time, the loading of models included
    evaluations: float  # rows evaluated for each row of the latent batch
    stages: tuple[StageRun, ...] = ()


class _WholeNoise(comfy.samplers.KSAMPLER):
    """A sampler that starts on noise alone wherever its schedule does.

    The host takes a first sigma below the model's largest for a picture half-way through. A student
    that was distilled to jump from timestep 800 or 399 has never seen anything but noise there.
    """

    def max_denoise(self, model_wrap, sigmas: Tensor) -> bool:
        return True


def host_sampler(plan: SamplingPlan):
    """The SAMPLER of a plan: the host's own for all but TCD."""
    if plan.solver is Solver.TCD:
        sigmas_down = dict(
            zip(sigmas_tensor(plan.sigmas)[1:].tolist(), plan.sigmas_down, strict=True)
        )
        return comfy.samplers.KSAMPLER(sample_tcd, extra_options={"sigmas_down": sigmas_down})
    sampler = comfy.samplers.sampler_object(plan.solver.value)
    function = (
        also_for_one_step(sampler.sampler_function)
        if plan.solver is Solver.UNI_PC
        else sampler.sampler_function
    )
    options = {
        **sampler.extra_options,
        **({"noise_clip_std": plan.noise_clip} if plan.noise_clip else {}),
    }
    kind = _WholeNoise if plan.starts_on_noise else comfy.samplers.KSAMPLER
    return kind(function, options, sampler.inpaint_options)


def also_for_one_step(sample_unipc: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """UniPC that also takes a single step, as Euler; the host's evaluates it and stays."""

    @functools.wraps(sample_unipc)
    def solve(model, x: Tensor, sigmas: Tensor, **options) -> Tensor:
        solver = comfy.k_diffusion.sampling.sample_euler if len(sigmas) == 2 else sample_unipc
        return solver(model, x, sigmas, **options)

    return solve


def sigmas_tensor(sigmas: Sequence[float]) -> Tensor:
    """(steps + 1,), as the host's samplers take them."""
    return torch.tensor(sigmas, dtype=torch.float32)


def sample(
    models,
    plan: SamplingPlan,
    positive,
    negative,
    latent: Mapping[str, Any],
    seed: int,
    guided: GuidedStart | None = None,
) -> Run:
    """Run a plan on (model,) or (high-noise, low-noise), with all that the host's samplers honour.

    latent: the host's LATENT; its noise mask and batch indices are obeyed. Progress, previews and
    interrupts are the host's. guided: who makes the plan's guided part, where it has one.

    Every stage knows the run's own noise and source latent, so that inpainting masks mean the same
    in each; handing over a half-denoised latent as a new source, as chained samplers do, loses
    them.
    """
    latent_image = fitted_latent(models[0], latent)
    batch = first_tensor(latent_image).shape[0]
    noise = comfy.sample.prepare_noise(latent_image, seed, latent.get("batch_index"))
    stages, log, made, first = plan.stages, RunLog(), [], 0
    steps = sum(stage.steps for stage in stages)
    preview = latent_preview.prepare_callback(models[0], steps)
    started = time.perf_counter()
    for stage, sampler in zip(stages, stage_samplers(plan)):
        model, its_negative = _made_by(stage, models, negative, guided)
        guider = guider_for(model, stage.cfg, positive, its_negative, log)
        before, stage_started = (log.rows, log.loading), time.perf_counter()
        samples = guider.sample(
            noise,
            latent_image,
            sampler,
            sigmas_tensor(stage.sigmas),
            denoise_mask=latent.get("noise_mask"),
            callback=lambda step, x0, x, _, first=first: preview(first + step, x0, x, steps),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
        # A GPU may still be at work on it.
        comfy.model_management.synchronize()
        seconds = time.perf_counter() - stage_started
        evaluations = (log.rows - before[0]) / batch
        made.append(StageRun(stage, evaluations, seconds, log.loading - before[1]))
        first += stage.steps
    return Run(samples, log, time.perf_counter() - started, log.rows / batch, tuple(made))


def _made_by(stage: Stage, models, negative, guided: GuidedStart | None) -> tuple[Any, Any]:
    """(the MODEL that makes a stage, its negative CONDITIONING)"""
    if stage.runner is Runner.GUIDED:
        return guided.model, guided.negative
    return models[-1 if stage.runner is Runner.LOW_NOISE else 0], negative


def stage_samplers(plan: SamplingPlan) -> list[comfy.samplers.KSAMPLER]:
    """The SAMPLER of each stage of a plan. Together they make one run."""
    whole = host_sampler(plan)
    if len(plan.stages) == 1:
        return [whole]
    euler = comfy.samplers.sampler_object(Solver.EULER.value)
    samplers = [euler if stage.runner is Runner.GUIDED else whole for stage in plan.stages]
    parts = _in_parts([sampler.sampler_function for sampler in samplers])
    # The first one's kind says how the run begins.
    return [
        type(whole)(part, sampler.extra_options, whole.inpaint_options)
        for part, sampler in zip(parts, samplers)
    ]


def _in_parts(solvers: Sequence[Callable[..., Tensor]]) -> list[Callable[..., Tensor]]:
    """Solvers as parts of one run: each goes on from the very tensor that the one before left.

    Those that re-noise go on in the same random numbers: begun again, they would put the same noise
    in twice.
    """
    left, draws = [], []

    def renoising(solve, x: Tensor, seed: int | None) -> dict[str, Callable[..., Tensor]]:
        if "noise_sampler" not in inspect.signature(solve).parameters:
            return {}
        if not draws:
            draws.append(comfy.k_diffusion.sampling.default_noise_sampler(x, seed=seed))
        # The models may be on several devices.
        return {"noise_sampler": lambda *levels: draws[0](*levels).to(x.device)}

    def part(solve: Callable[..., Tensor], is_last: bool) -> Callable[..., Tensor]:
        # Named as the solver is, for those that look at the name, such as Step Skip.
        @functools.wraps(solve)
        def go_on(model, x, sigmas, extra_args, **options):
            x = left.pop().to(x.device) if left else x
            noise = renoising(solve, x, extra_args.get("seed"))
            made = solve(model, x, sigmas, extra_args=extra_args, **options, **noise)
            if not is_last:
                left.append(made)
            return made

        return go_on

    last = len(solvers) - 1
    return [part(solve, place == last) for place, solve in enumerate(solvers)]


def guider_for(model, cfg: float, positive, negative, run: RunLog):
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds(
        {"positive": positive} if negative is None else {"positive": positive, "negative": negative}
    )
    guider.set_cfg(cfg)
    # On the guider's options, not on the model: a wrapper more would make the host load the same
    # weights again.
    guider.model_options = comfy.model_patcher.create_model_options_clone(guider.model_options)
    guider.model_options.setdefault("transformer_options", {})[RUN_KEY] = run
    kinds = comfy.patcher_extension.WrappersMP
    for kind, wrapper in (
        (kinds.APPLY_MODEL, run.count),
        (kinds.PREPARE_SAMPLING, run.time_loading),
    ):
        comfy.patcher_extension.add_wrapper_with_key(
            kind, RUN_KEY, wrapper, guider.model_options, is_model_options=True
        )
    return guider


def refuse_cfg_sent(hidden, plan: SamplingPlan) -> None:
    """Look for a cfg in the prompt itself, since the host drops unknown inputs silently."""
    if hidden is None or not hidden.prompt:
        return
    sent = hidden.prompt.get(hidden.unique_id, {}).get("inputs", {})
    if "cfg" in sent:
        refuse_other_cfg(plan, sent["cfg"])


def embedded_guidance(conditioning) -> float | None:
    """The guidance in a CONDITIONING, an input of the network (FluxGuidance); None if unset."""
    return next((options["guidance"] for _, options in conditioning if "guidance" in options), None)
