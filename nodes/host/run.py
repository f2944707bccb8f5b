"""One run of a plan on the host: its guider, solvers, previews, interrupts, evaluation count.

The log of a run lies in the options of that run alone, and is dropped with it.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.k_diffusion.sampling
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...loras.accelerator import Solver
from ...samplers.plan import SamplingPlan, refuse_other_cfg
from ...samplers.solvers import sample_tcd
from .latent import first_tensor, fitted_latent

RUN_KEY = "fewstep.run"


@dataclass
class RunLog:
    """What happened in one sampling run. Carried in its model options and dropped with it."""

    calls: int = 0  # batched forward passes
    rows: int = 0  # batch rows in them, the true measure of work
    # Reports of other nodes of this pack that took part, such as Step Skip.
    entries: list[dict[str, Any]] = field(default_factory=list)
    # Step Budget's: what is made is thrown away, and other nodes of this pack leave the run alone.
    is_measurement: bool = False

    def count(self, executor, x: Tensor, *args, **kwargs):
        """An APPLY_MODEL wrapper: count, and pass on."""
        self.calls += 1
        self.rows += x.shape[0]
        return executor(x, *args, **kwargs)


def run_log(model_options: Mapping[str, Any]) -> RunLog | None:
    """The log of the run of ours that these options belong to; None under any other sampler."""
    return model_options.get("transformer_options", {}).get(RUN_KEY)


@dataclass(frozen=True)
class Run:
    """A finished run."""

    samples: Tensor
    log: RunLog
    seconds: float  # wall time of sampling alone
    evaluations: float  # rows evaluated for each row of the latent batch


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
    models, plan: SamplingPlan, positive, negative, latent: Mapping[str, Any], seed: int
) -> Run:
    """Run a plan on (model,) or (high-noise, low-noise), with all that the host's samplers honour.

    latent: the host's LATENT; its noise mask and batch indices are obeyed. Progress, previews and
    interrupts are the host's.
    """
    latent_image = fitted_latent(models[0], latent)
    batch = first_tensor(latent_image).shape[0]
    noise = comfy.sample.prepare_noise(latent_image, seed, latent.get("batch_index"))
    preview = latent_preview.prepare_callback(models[0], plan.steps)
    log, sampler, sigmas = RunLog(), host_sampler(plan), sigmas_tensor(plan.sigmas)
    started = time.perf_counter()

    def stage(model, sampler, first: int, last: int) -> Tensor:
        guider = guider_for(model, plan.cfg, positive, negative, log)
        return guider.sample(
            noise,
            latent_image,
            sampler,
            sigmas[first : last + 1],
            denoise_mask=latent.get("noise_mask"),
            callback=lambda step, x0, x, _: preview(first + step, x0, x, plan.steps),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )

    if plan.switch_step is None:
        samples = stage(models[0], sampler, 0, plan.steps)
    else:
        samples = _two_experts(models, sampler, plan, stage)
    return Run(samples, log, time.perf_counter() - started, log.rows / batch)


def _two_experts(models, sampler, plan: SamplingPlan, stage) -> Tensor:
    """The high-noise expert up to the switch, then the low-noise one from the very tensor it left.

    Both stages know the run's own noise and source latent, so that inpainting masks mean the same
    on either side; handing over a half-denoised latent as a new source, as chained samplers do,
    loses them.
    """
    high, low = models
    if plan.switch_step in (0, plan.steps):
        return stage(low if plan.switch_step == 0 else high, sampler, 0, plan.steps)
    first, second = (
        comfy.samplers.KSAMPLER(half, sampler.extra_options, sampler.inpaint_options)
        for half in _in_halves(sampler.sampler_function)
    )
    stage(high, first, 0, plan.switch_step)
    return stage(low, second, plan.switch_step, plan.steps)


def _in_halves(solve: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """A sampler as two that make one run: the second goes on from the first's very tensor.

    A solver that re-noises goes on in its own random numbers: begun again, it would put the same
    noise in twice.
    """
    left, draws = [], []

    def renoising(x: Tensor, seed: int | None) -> dict[str, Callable[..., Tensor]]:
        if "noise_sampler" not in inspect.signature(solve).parameters:
            return {}
        if not draws:
            draws.append(comfy.k_diffusion.sampling.default_noise_sampler(x, seed=seed))
        # The experts may be on two devices.
        return {"noise_sampler": lambda *levels: draws[0](*levels).to(x.device)}

    # Named as the solver is, for those that look at the name, such as Step Skip.
    @functools.wraps(solve)
    def first_half(model, x, sigmas, extra_args, **options):
        left.append(
            solve(
                model,
                x,
                sigmas,
                extra_args=extra_args,
                **options,
                **renoising(x, extra_args.get("seed")),
            )
        )
        return left[0]

    @functools.wraps(solve)
    def second_half(model, x, sigmas, **options):
        return solve(model, left.pop().to(x.device), sigmas, **options, **renoising(x, None))

    return first_half, second_half


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
    comfy.patcher_extension.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.APPLY_MODEL,
        RUN_KEY,
        run.count,
        guider.model_options,
        is_model_options=True,
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
