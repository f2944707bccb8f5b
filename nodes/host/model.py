"""What a MODEL is: its base, its size, the file it came from, what it carries, and its noise levels."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.sample
import folder_paths
import torch
from torch import Tensor

from ...loras.accelerator import Accelerator, Parameterization
from ...loras.architecture import architecture_of
from ...loras.bases import Base, base_in_host
from ...loras.fingerprint import weights_as_layers
from ...loras.schedules import Schedule

RECORD_KEY = "fewstep.accelerator"


MOTION_KEY = "fewstep.motion"


FACTS_KEY = "fewstep.facts"


def accelerator_of(model) -> Accelerator | None:
    """The record an Accelerator Loader attached to this MODEL or to one it was cloned from."""
    return model.get_attachment(RECORD_KEY)


@dataclass(frozen=True)
class ModelFacts:
    """What the host cannot tell of the pack's own demo model. text_tokens: the length of every
    prompt. frame_rate: frames a second.
    """

    text_tokens: int
    frame_rate: float


def facts_of(model) -> ModelFacts | None:
    """The demo model's own facts, None for every other model."""
    return model.get_attachment(FACTS_KEY)


def base_of(model) -> Base | None:
    """The base architecture of a loaded model, None for one that no accelerator is known for."""
    config = model.model.model_config
    return base_in_host(type(config).__name__, config.unet_config.get("in_dim", 16))


def width_of(model) -> int | None:
    """The hidden width of a loaded model, where its architecture has one that tells its size."""
    return architecture_of(
        weights_as_layers(dict(_first_shapes(model.model.diffusion_model)))
    ).width


def _first_shapes(module: torch.nn.Module, path: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every weight, but of every list of blocks the first alone: the others are
    only more of the same.
    """
    yield from (
        (path + name, tuple(value.shape)) for name, value in module.named_parameters(recurse=False)
    )
    for name, child in module.named_children():
        if not name.isdigit() or name == "0":
            yield from _first_shapes(child, f"{path}{name}.")


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every weight, as the arithmetic sees it: quantised formats pack several values
    into one stored number.
    """
    return {key: tuple(value.shape) for key, value in module.named_parameters()}


def file_of(model) -> tuple[str, str | None]:
    """(name, path) of the file a MODEL was loaded from, the name with its folders inside models/;
    ("", None) if unknown.
    """
    origin = getattr(model, "cached_patcher_init", None)
    path = origin[1][0] if origin and origin[1] else None
    if not isinstance(path, str) or not os.path.isabs(
        path
    ):  # a node may load by a name of its own, such as the demo model's
        return "", None
    roots = [
        root
        for folder in ("diffusion_models", "checkpoints")
        for root in folder_paths.get_folder_paths(folder)
    ]
    inside = [
        os.path.relpath(path, root)
        for root in roots
        if os.path.realpath(path).startswith(os.path.realpath(root) + os.sep)
    ]
    return min(inside, key=len, default=os.path.basename(path)), path


def fitted_latent(model, latent: Mapping[str, Any]) -> Tensor:
    """The tensor of a LATENT as core's samplers take it: an empty one gets the channels and the
    scale of the model.
    """
    ratios = (latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal"))
    # 0.20.1 does not know the temporal ratio yet.
    known = len(inspect.signature(comfy.sample.fix_empty_latent_channels).parameters) - 2
    return comfy.sample.fix_empty_latent_channels(model, latent["samples"], *ratios[:known])


def between_nodes() -> dict[str, Any]:
    """Where and in which precision the host hands latents from node to node. 0.16 has no say about
    the precision yet.
    """
    dtype = getattr(comfy.model_management, "intermediate_dtype", lambda: torch.float32)
    return {"device": comfy.model_management.intermediate_device(), "dtype": dtype()}


def image_tokens(model, latent: Mapping[str, Any]) -> int:
    """Patches of 16 x 16 pixels in the picture a LATENT will become: what FLUX's schedules are a
    function of.
    """
    samples = fitted_latent(model, latent)
    first = samples.unbind()[0] if samples.is_nested else samples
    scale = model.get_model_object("latent_format").spacial_downscale_ratio
    return round(first.shape[-2] * scale * first.shape[-1] * scale / (16 * 16))


def frames_per_latent_frame(model) -> int:
    """Video frames that one frame of this model's latent stands for. Before 0.24 the host does not
    say.
    """
    told = getattr(model.get_model_object("latent_format"), "temporal_downscale_ratio", None)
    base = base_of(model)
    return told or (4 if base is None else base.frames_per_latent_frame)


def sigma_of(model) -> Callable[[float], float]:
    """The model's own noise level of a training timestep, as its table has it to the last bit."""
    sampling = model.get_model_object("model_sampling")

    def sigma(timestep: float) -> float:
        between = sampling.sigma(torch.tensor(float(timestep))).to(sampling.sigmas.device)
        nearest = sampling.sigmas[(sampling.sigmas - between).abs().argmin()]
        # Interpolating between logarithms rounds the entries themselves; the host's schedulers take
        # them as they are.
        return float(nearest if torch.isclose(nearest, between, rtol=1e-5) else between)

    return sigma


def with_model_sampling(model, record: Accelerator):
    """The model with the shift and the parameterization the accelerator was distilled with. Raises
    ValueError where it cannot have it.
    """
    schedule = record.schedule
    if schedule.shift is not None:
        patched = with_shift(model, schedule.shift)
        return patched if schedule.audio_shift is None else with_two_clocks(patched, schedule)
    if record.parameterization is Parameterization.NATIVE:
        return model
    if isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.V_PREDICTION):
        raise ValueError(
            f"The connected model predicts v (or is an EDM model), and {record.id}, distilled on"
            " one that predicts noise, would read its output as noise: nothing would be left of"
            " the picture. Connect a model that predicts noise, or take an accelerator that leaves"
            " the prediction as it is, such as Lightning, Hyper-SD or TCD."
        )
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    patched = ModelSamplingDiscrete().patch(model, record.parameterization.value, zsnr=False)[0]
    # The host builds the new schedule on the base's own betas; those of a motion module must
    # outlive it.
    return patched if model.get_attachment(MOTION_KEY) is None else with_linear_betas(patched)


def with_two_clocks(model, schedule: Schedule):
    """The model with the shifts that its two clocks share a grid by, where the host's looks for
    them.
    """
    patched = model.clone()
    patched.model_options["transformer_options"] = {
        **patched.model_options.get("transformer_options", {}),
        "minimax_h3_sigma_shift_video": schedule.shift,
        "minimax_h3_sigma_shift_audio": schedule.audio_shift,
    }
    return patched


def with_shift(model, shift: float):
    """The model with its own kind of flow at another shift."""
    current = model.get_model_object("model_sampling")
    sampling = type(current)(model.model.model_config)
    if isinstance(current, comfy.model_sampling.ModelSamplingFlux):
        # FLUX and its kin write the shift as mu.
        sampling.set_parameters(shift=math.log(shift))
    else:
        sampling.set_parameters(shift=shift, multiplier=current.multiplier)
    if hasattr(current, "noise_scale"):
        sampling.set_noise_scale(current.noise_scale)
    patched = model.clone()
    patched.add_object_patch("model_sampling", sampling)
    return patched


def with_linear_betas(model):
    """The model with AnimateDiff's noise schedule: betas linear from 0.00085 to 0.012, where SD
    1.5's square roots are.
    """
    # The host's names: "linear" is linear in the square roots, "sqrt_linear" in the betas
    # themselves.
    settings = {**model.model.model_config.sampling_settings, "beta_schedule": "sqrt_linear"}
    current = model.get_model_object("model_sampling")
    if not isinstance(current, comfy.model_sampling.ModelSamplingDiscrete):
        raise ValueError(
            "Another node gave this model a noise schedule that has no betas"
            f" ({type(current).__mro__[1].__name__}). Leave that node out: a motion module runs on"
            " AnimateDiff's own."
        )
    patched = model.clone()
    # All that a discrete schedule reads of a model's configuration.
    patched.add_object_patch(
        "model_sampling",
        type(current)(SimpleNamespace(sampling_settings=settings), zsnr=current.zsnr),
    )
    return patched


def embedded_guidance(conditioning) -> float | None:
    """The guidance a CONDITIONING carries as an input of the network (FluxGuidance); None where
    none is set.
    """
    return next((options["guidance"] for _, options in conditioning if "guidance" in options), None)


def start_picture(model) -> Tensor | None:
    """The picture that core's ARVideoI2V put on a causal model, (1, C, 1, H, W) as VAE Encode hands
    it on. None where there is none.
    """
    return (
        model.model_options.get("transformer_options", {})
        .get("ar_config", {})
        .get("initial_latent")
    )
