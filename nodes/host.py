"""Every touch on ComfyUI's model objects: what a model is, attaching an accelerator, one sampling run and what it cost.

Only official extension points are used: ModelPatcher patches, object patches and attachments, guider model options, wrappers.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import folder_paths
import latent_preview
import torch
from torch import Tensor

from ..loras.accelerator import Accelerator, Base, Parameterization, ShiftedFlow, Solver
from ..loras.fingerprint import DOWN_ENDINGS, layer_of
from ..samplers.plan import SamplingPlan
from ..samplers.solvers import sample_tcd

log = logging.getLogger(__name__)

RECORD_KEY = "fewstep.accelerator"
RUN_KEY = "fewstep.run"

# The host's detected architecture, by the name of its configuration class.
BASES = {"SD15": Base.SD15, "SDXL": Base.SDXL, "SSD1B": Base.SSD1B, "WAN21_I2V": Base.WAN21_I2V}


# ---------------------------------------------------------------- what a model is


def accelerator_of(model) -> Accelerator | None:
    """The record an Accelerator Loader attached to this MODEL or to one it was cloned from."""
    return model.get_attachment(RECORD_KEY)


def base_of(model) -> Base | None:
    """The base architecture of a loaded model, None for one that no accelerator is known for."""
    config = model.model.model_config
    name = type(config).__name__
    if name == "WAN21_T2V":
        # Wan 2.2's image-to-video experts have no image branch, so the host sees text-to-video with 36 input channels.
        return Base.WAN22_I2V if config.unet_config.get("in_dim") == 36 else Base.WAN_T2V
    return BASES.get(name)


def sigma_of(model) -> Callable[[float], float]:
    """The model's own noise level of a training timestep."""
    sampling = model.get_model_object("model_sampling")
    return lambda timestep: float(sampling.sigma(torch.tensor(float(timestep))))


# ---------------------------------------------------------------- attaching


@dataclass(frozen=True)
class Coverage:
    """What became of a LoRA's layers on one model. The tuples hold layer names of the file."""

    applied: int
    not_needed: tuple[str, ...]
    lost: tuple[str, ...]
    misfit: tuple[str, ...]


def attach_lora(model, tensors: Mapping[str, Tensor], strength: float):
    """(model with the LoRA on it, Coverage). The host's own code reads and applies it; the model given is not changed."""
    key_map = comfy.lora.model_lora_keys_unet(model.model, {})
    lora = comfy.lora_convert.convert_lora(dict(tensors))
    shapes = {key: tuple(value.shape) for key, value in model.model.state_dict().items()}
    misfit = {layer_of(key) for key, tensor in lora.items() if not _fits(key, tensor, key_map, shapes)}
    fitting = {key: tensor for key, tensor in lora.items() if layer_of(key) not in misfit}
    known = {key: tensor for key, tensor in fitting.items() if layer_of(key) in key_map}
    unknown = sorted({layer_of(key) for key in fitting} - set(key_map))
    not_needed = tuple(layer for layer in unknown if _is_not_needed(layer, shapes))

    patched = model.clone()
    patched.add_patches(comfy.lora.load_lora(known, key_map), strength)
    lost = tuple(layer for layer in unknown if layer not in not_needed)
    return patched, Coverage(len({layer_of(key) for key in known}), not_needed, lost, tuple(sorted(misfit)))


def _fits(key: str, tensor: Tensor, key_map: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a low-rank factor has the width of the weight it goes on. True where that cannot be told."""
    shape = shapes.get(target) if isinstance(target := key_map.get(layer_of(key)), str) else None
    if shape is None or len(shape) < 2 or tensor.ndim < 2:
        return True
    if key.endswith(DOWN_ENDINGS):
        return tensor.shape[1] == shape[1]
    if key.endswith(("lora_up.weight", "lora_B.weight", "lora.up.weight", "lora_B.default.weight")):
        return tensor.shape[0] == shape[0]
    return True


def _is_not_needed(layer: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether leaving this layer out changes nothing: text encoder layers, and an image branch the model does not have."""
    if layer.startswith(("lora_te", "text_encoder", "lora_prior_te")):
        return True
    is_image_branch = any(part in layer for part in ("k_img", "v_img", "img_emb"))
    return is_image_branch and not any("img_emb" in key for key in shapes)


def with_model_sampling(model, record: Accelerator):
    """The model with the shift and the parameterization the accelerator was distilled with."""
    if isinstance(record.schedule, ShiftedFlow):
        current = model.get_model_object("model_sampling")
        sampling = type(current)(model.model.model_config)
        sampling.set_parameters(shift=record.schedule.shift, multiplier=current.multiplier)
        if hasattr(current, "noise_scale"):
            sampling.set_noise_scale(current.noise_scale)
        patched = model.clone()
        patched.add_object_patch("model_sampling", sampling)
        return patched
    if record.parameterization is Parameterization.NATIVE:
        return model
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return ModelSamplingDiscrete().patch(model, record.parameterization.value, zsnr=False)[0]


def with_record(model, record: Accelerator):
    """The model carrying the record, for samplers downstream and through every clone."""
    patched = model.clone()
    patched.set_attachments(RECORD_KEY, record)
    return patched


# ---------------------------------------------------------------- one sampling run


@dataclass
class RunLog:
    """What happened in one sampling run. Made by the sampler, carried in its model options, dropped with it.

    calls: batched forward passes. rows: batch rows in them, the true measure of work. entries: reports of other nodes of
    this pack that took part, such as Step Skip.
    """

    calls: int = 0
    rows: int = 0
    entries: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, executor, x: Tensor, *args, **kwargs):
        """An APPLY_MODEL wrapper: count, and pass on."""
        self.calls += 1
        self.rows += x.shape[0]
        return executor(x, *args, **kwargs)


def run_log(model_options: Mapping[str, Any]) -> RunLog | None:
    """The log of the Few-Step Sampler's run these options belong to; None under any other sampler."""
    return model_options.get("transformer_options", {}).get(RUN_KEY)


@dataclass(frozen=True)
class Run:
    """A finished run. seconds: wall time of sampling alone."""

    samples: Tensor
    log: RunLog
    seconds: float


def host_sampler(plan: SamplingPlan):
    """The SAMPLER of a plan: the host's own for Euler and LCM."""
    if plan.solver is Solver.TCD:
        return comfy.samplers.KSAMPLER(sample_tcd, extra_options={"sigmas_down": plan.sigmas_down})
    return comfy.samplers.sampler_object(plan.solver.value)


def sample(models, plan: SamplingPlan, positive, negative, latent: Mapping[str, Any], seed: int) -> Run:
    """Run a plan on (model,) or (high-noise model, low-noise model), with all that the host's samplers honour.

    latent: the host's LATENT; its noise mask and batch indices are obeyed. Progress, previews and interrupts are the host's.
    """
    latent_image = comfy.sample.fix_empty_latent_channels(
        models[0], latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal"))
    noise = comfy.sample.prepare_noise(latent_image, seed, latent.get("batch_index"))
    preview = latent_preview.prepare_callback(models[0], plan.steps)
    run = RunLog()
    sampler, sigmas = host_sampler(plan), torch.tensor(plan.sigmas, dtype=torch.float32)
    started = time.perf_counter()

    def stage(model, sampler, first: int, last: int) -> Tensor:
        guider = _guider(model, plan.cfg, positive, negative, run)
        return guider.sample(
            noise, latent_image, sampler, sigmas[first : last + 1], denoise_mask=latent.get("noise_mask"),
            callback=lambda step, x0, x, _: preview(first + step, x0, x, plan.steps),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed)

    if plan.switch_step is None:
        samples = stage(models[0], sampler, 0, plan.steps)
    else:
        samples = _two_experts(models, sampler, plan, stage)
    seconds = time.perf_counter() - started
    samples = samples.to(device=comfy.model_management.intermediate_device(), dtype=comfy.model_management.intermediate_dtype())
    return Run(samples, run, seconds)


def _two_experts(models, sampler, plan: SamplingPlan, stage) -> Tensor:
    """The high-noise expert up to the switch, then the low-noise one from the very tensor it left.

    Both stages know the run's own noise and source latent, so that inpainting masks mean the same on either side; handing
    over a half-denoised latent as a new source, as chained samplers do, loses them.
    """
    high, low = models
    if plan.switch_step in (0, plan.steps):
        return stage(low if plan.switch_step == 0 else high, sampler, 0, plan.steps)
    left: list[Tensor] = []

    def first_half(model, x, sigmas, **options):
        left.append(sampler.sampler_function(model, x, sigmas, **options))
        return left[0]

    def second_half(model, x, sigmas, **options):
        return sampler.sampler_function(model, left.pop().to(x.device), sigmas, **options)

    def like(function):
        return comfy.samplers.KSAMPLER(function, sampler.extra_options, sampler.inpaint_options)

    stage(high, like(first_half), 0, plan.switch_step)
    return stage(low, like(second_half), plan.switch_step, plan.steps)


def _guider(model, cfg: float, positive, negative, run: RunLog):
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": positive} if negative is None else {"positive": positive, "negative": negative})
    guider.set_cfg(cfg)
    # On the guider's options, not on the model: a wrapper more would make the host load the same weights again.
    guider.model_options = comfy.model_patcher.create_model_options_clone(guider.model_options)
    guider.model_options.setdefault("transformer_options", {})[RUN_KEY] = run
    comfy.patcher_extension.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.APPLY_MODEL, RUN_KEY, run, guider.model_options, is_model_options=True)
    return guider


def negative_branch_forced(model) -> bool:
    """Whether another patch makes the host evaluate the negative prompt at CFG 1 too (NAG, SAG, CFG++)."""
    return bool(model.model_options.get("disable_cfg1_optimization", False))


def evaluations_per_sample(run: Run) -> float:
    """Rows evaluated for each row of the latent batch."""
    rows = run.samples.unbind()[0].shape[0] if getattr(run.samples, "is_nested", False) else run.samples.shape[0]
    return run.log.rows / rows


# ---------------------------------------------------------------- files and messages


def lora_path(name: str) -> str | None:
    return folder_paths.get_full_path("loras", name)


def load_tensors(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file through the host's loader."""
    tensors, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    return tensors, metadata or {}


def show_on_node(text: str, node_id: str | None) -> None:
    """Text under the node in the editor. Does nothing where no server runs, as in tests and other front ends."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)
