"""What a MODEL is: its base, size, file and what it carries; and the noise levels it runs at."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import comfy.model_sampling
import folder_paths
import torch
from comfy.quant_ops import QuantizedTensor
from torch import Tensor

from ...loras.accelerator import Accelerator, Parameterization
from ...loras.architecture import architecture_of, weights_as_layers
from ...loras.bases import BaseRow, base_in_host
from ...loras.header import ENDINGS, read_metadata
from ...loras.schedules import TRAINING_TIMESTEPS, Schedule
from .foreign import ForeignLora, foreign_loras
from .provenance import NamedFile, model_file, upstream_files

PLAIN_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)

# What this pack attaches to a MODEL.
RECORD_KEY = "fewstep.accelerator"
MOTION_KEY = "fewstep.motion"
FACTS_KEY = "fewstep.facts"
NEWS_KEY = "fewstep.news"
# In its options, of the negative prompt that was put on it.
NEGATIVE_KEY = "fewstep.negative.config"


@dataclass(frozen=True)
class LoaderNews:
    """What a loader of this pack has to tell of what it put on a MODEL."""

    node: str  # its name for people
    summary: str
    licence: str  # empty where it is not known
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ModelFacts:
    """What the host cannot tell of the pack's own demo model."""

    text_tokens: int  # the length of every prompt
    frame_rate: float  # frames a second at which its clips play


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """What a MODEL is: asked once for each run of a node, and handed to every question after that.

    What takes a while to find out is found out when it is first asked for.
    """

    patcher: Any  # the host's MODEL itself
    base: BaseRow  # an UnlistedBase where the table has no row for its architecture
    class_name: str  # of the host's configuration for this architecture
    # Of the file it was loaded from, with its folders in models/; where the MODEL does not say, as
    # its loader in the graph names it; "" if unknown.
    file_name: str
    path: str | None  # of that file
    record: Accelerator | None  # the accelerator it carries
    foreign_loras: tuple[ForeignLora, ...]  # what other loaders put on it
    upstream: tuple[NamedFile, ...] = ()  # the files that the graph's loaders name

    @property
    def words(self) -> str:
        """What to call its architecture."""
        return self.base.label

    @property
    def has_other_loras(self) -> bool:
        """Whether other loaders may have put LoRAs on it."""
        return bool(self.foreign_loras) or any(file.is_lora for file in self.upstream)

    @property
    def news(self) -> tuple[LoaderNews, ...]:
        """What the loaders of this pack that the MODEL came through have to tell."""
        return self.patcher.get_attachment(NEWS_KEY) or ()

    @property
    def facts(self) -> ModelFacts | None:
        """The demo model's own facts, None for every other model."""
        return self.patcher.get_attachment(FACTS_KEY)

    @property
    def is_causal(self) -> bool:
        """Whether its network makes frames one after another, over a cache of those before."""
        return hasattr(self.patcher.model.diffusion_model, "init_kv_caches")

    @property
    def frame_rate(self) -> float:
        """Frames a second at which its clips play."""
        return self.base.frame_rate if self.facts is None else self.facts.frame_rate

    @property
    def has_motion(self) -> bool:
        return self.patcher.get_attachment(MOTION_KEY) is not None

    @property
    def is_guidance_distilled(self) -> bool:
        """Whether guidance is a network input (FLUX dev, HunyuanVideo): it runs at CFG 1."""
        network = self.patcher.model.diffusion_model
        return bool(getattr(getattr(network, "params", None), "guidance_embed", False))

    @property
    def is_in_plain_fp8(self) -> bool:
        """Whether its weights are in fp8 without scales, which loses more than every other form."""
        return any(
            parameter.dtype in PLAIN_FP8 and not isinstance(parameter.data, QuantizedTensor)
            for parameter in self.patcher.model.diffusion_model.parameters()
        )

    @property
    def is_negative_forced(self) -> bool:
        """Whether a patch has the negative prompt evaluated at CFG 1 too (NAG, SAG, CFG++)."""
        return bool(self.patcher.model_options.get("disable_cfg1_optimization", False))

    @property
    def carries_negative(self) -> bool:
        """Whether Few-Step Negative Prompt is on it, which reads a text of its own."""
        return NEGATIVE_KEY in self.patcher.model_options

    @property
    def has_self_attention_guidance(self) -> bool:
        """Whether core's SAG is on it, which fails without a negative prompt."""
        # A server names the modules of core's extra nodes by their path.
        functions = self.patcher.model_options.get("sampler_post_cfg_function", [])
        return any(
            str(getattr(function, "__module__", "")).endswith("nodes_sag") for function in functions
        )

    @cached_property
    def width(self) -> int | None:
        """Its hidden width, where its architecture has one that tells its size."""
        network = self.patcher.model.diffusion_model
        return architecture_of(weights_as_layers(dict(_first_shapes(network)))).width

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """The string map in its file's header; empty for other files than .safetensors."""
        path = self.path
        if path is None or not path.lower().endswith(ENDINGS) or not os.path.isfile(path):
            return {}
        return read_metadata(path)


def look_at(model, hidden: Any = None, input_name: str = "model") -> LoadedModel:
    """What the host, the graph and this pack know of a MODEL.

    hidden: the hidden inputs of the node that asks, with unique_id and prompt; input_name: the
    input it got the MODEL by. Without them the graph has no say.
    """
    (name, path), record, base = file_of(model), accelerator_of(model), base_of(model)
    upstream = upstream_files(hidden, input_name)
    return LoadedModel(
        patcher=model,
        base=base,
        class_name=type(model.model.model_config).__name__,
        file_name=name or model_file(upstream),
        path=path,
        record=record,
        foreign_loras=foreign_loras(model),
        upstream=upstream,
    )


def accelerator_of(model) -> Accelerator | None:
    """The record an Accelerator Loader attached to this MODEL or to one it was cloned from."""
    return model.get_attachment(RECORD_KEY)


def base_of(model) -> BaseRow:
    """The base architecture of a loaded model."""
    config = model.model.model_config
    return base_in_host(type(config).__name__, config.unet_config.get("in_dim", 16))


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


def file_of(model) -> tuple[str, str | None]:
    """(name, path) of a MODEL's file, name inside models/ with folders; ("", None) if unknown."""
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
    # Resolved on both sides: a root may be a link to another one, on Windows on another drive.
    real, real_roots = os.path.realpath(path), map(os.path.realpath, roots)
    inside = [os.path.relpath(real, root) for root in real_roots if real.startswith(root + os.sep)]
    return min(inside, key=len, default=os.path.basename(path)), path


def frames_per_latent_frame(loaded: LoadedModel) -> int:
    """Video frames per frame of this model's latent. Before 0.24 the host does not say."""
    latent_format = loaded.patcher.get_model_object("latent_format")
    told = getattr(latent_format, "temporal_downscale_ratio", None)
    return told or loaded.base.frames_per_latent_frame


def sigma_of(model) -> Callable[[float], float]:
    """The model's own noise level of a training timestep, as its table has it to the last bit."""
    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete):
        return _sigma_of_flow(sampling)

    def sigma(timestep: float) -> float:
        between = sampling.sigma(torch.tensor(float(timestep))).to(sampling.sigmas.device)
        nearest = sampling.sigmas[(sampling.sigmas - between).abs().argmin()]
        # Interpolating between logarithms rounds the entries themselves; the host's schedulers take
        # them as they are.
        return float(nearest if torch.isclose(nearest, between, rtol=1e-5) else between)

    return sigma


def _sigma_of_flow(sampling) -> Callable[[float], float]:
    """The same of a flow, counted down from the last entry as the host's `simple` scheduler does;
    its table has as many entries as the host likes.
    """
    entries = len(sampling.sigmas)

    def sigma(timestep: float) -> float:
        down = (1.0 - timestep / TRAINING_TIMESTEPS) * entries
        # A whole number of entries may come out a little below itself.
        return float(sampling.sigmas[-(1 + int(down + 1e-6))])

    return sigma


def with_model_sampling(model, record: Accelerator):
    """The model with the accelerator's shift and parameterization.

    Raises ValueError where the model cannot have them.
    """
    schedule = record.schedule
    if schedule.shift is not None:
        patched = with_shift(model, schedule.shift, schedule.audio_shift)
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


def with_shift(model, shift: float, audio_shift: float | None = None):
    """The model with its own kind of flow at another shift.

    audio_shift: that of a second signal, where the host's sampling has one; None leaves it as it
    is. Raises ValueError where its noise levels are no flow's.
    """
    current = model.get_model_object("model_sampling")
    sampling = type(current)(model.model.model_config)
    if isinstance(current, comfy.model_sampling.ModelSamplingFlux):
        # FLUX and its kin write the shift as mu.
        sampling.set_parameters(shift=math.log(shift))
    elif not isinstance(current, comfy.model_sampling.ModelSamplingDiscreteFlow):
        kind = type(current).__mro__[1].__name__
        raise ValueError(
            f"The accelerator's schedule is a flow's, shifted by {shift:g}; the connected model has"
            f" noise levels of another kind ({kind}). Connect the model as it comes from its loader"
            " if another node changed its sampling. If the accelerator was declared for this model,"
            " give its declaration a schedule of sigmas."
        )
    elif hasattr(current, "audio_shift"):
        # Since 0.31 the sampling of MiniMax-H3 has both clocks, and forgets the one that is not
        # said again.
        sampling.set_parameters(
            shift=shift,
            audio_shift=current.audio_shift if audio_shift is None else audio_shift,
            multiplier=current.multiplier,
        )
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


def start_picture(model) -> Tensor | None:
    """The picture that core's ARVideoI2V put on a causal model, (1, C, 1, H, W), or None.

    It is as VAE Encode hands it on.
    """
    return (
        model.model_options.get("transformer_options", {})
        .get("ar_config", {})
        .get("initial_latent")
    )
