"""Every touch on ComfyUI's model objects and files: what a model is, attaching an accelerator, what
other loaders left on it.

Only official extension points are used: ModelPatcher patches, object patches and attachments.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.supported_models
import comfy.utils
import comfy.weight_adapter
import folder_paths
import torch
from torch import Tensor

from ..loras.accelerator import (
    Accelerator,
    Base,
    HostSpacedFlow,
    Parameterization,
    ShiftedFlow,
    TwoClockFlow,
)
from ..loras.architecture import measure
from ..loras.fingerprint import DIFFERENCE_ENDINGS, layer_of, weights_as_layers
from ..loras.fit import misfits
from ..samplers.plan import PlanError

RECORD_KEY = "fewstep.accelerator"
MOTION_KEY = "fewstep.motion"
FACTS_KEY = "fewstep.facts"
# The patches that this pack put on a MODEL, to tell them from those of other loaders.
PATCHES_KEY = "fewstep.patches"

# The host's detected architecture, by the name of its configuration class.
BASES = {
    "SD15": Base.SD15,
    "SD20": Base.SD21,
    "SDXL": Base.SDXL,
    "SSD1B": Base.SSD1B,
    "SD3": Base.SD3,
    "Flux": Base.FLUX,
    "FluxSchnell": Base.FLUX_SCHNELL,
    "Flux2": Base.FLUX2,
    "ZImage": Base.Z_IMAGE,
    "QwenImage": Base.QWEN_IMAGE,
    "Krea2": Base.KREA2,
    "ErnieImage": Base.ERNIE_IMAGE,
    "Anima": Base.ANIMA,
    "Boogu": Base.BOOGU,
    "Lens": Base.LENS,
    "MageFlow": Base.MAGE_FLOW,
    "HiDream": Base.HIDREAM,
    "HiDreamO1": Base.HIDREAM_O1,
    "PiD": Base.PID,
    "ACEStep15": Base.ACE_STEP15,
    "WAN21_I2V": Base.WAN21_I2V,
    "WAN22_T2V": Base.WAN22_TI2V,
    "WAN21_Vace": Base.WAN_VACE,
    "WAN21_HuMo": Base.WAN_HUMO,
    "WAN21_SCAIL2": Base.WAN_SCAIL2,
    "WAN22_Camera": Base.WAN22_I2V,
    "WAN21_CausalAR_T2V": Base.WAN_CAUSAL,
    "HunyuanVideo": Base.HUNYUAN_VIDEO,
    "HunyuanVideo15": Base.HUNYUAN15,
    "HunyuanVideo15_SR_Distilled": Base.HUNYUAN15_SR,
    "LTXV": Base.LTXV,
    "LTXAV": Base.LTXAV,
    "MiniMaxH3": Base.MINIMAX_H3,
}


# ---------------------------------------------------------------- what a model is


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
    name = type(config).__name__
    if name == "WAN21_T2V":
        # Wan 2.2's image-to-video experts have no image branch, so the host sees text-to-video with
        # more input channels than the noise has: 36, and still more for Fun's control signals.
        return Base.WAN_T2V if config.unet_config.get("in_dim", 16) == 16 else Base.WAN22_I2V
    return BASES.get(name)


def width_of(model) -> int | None:
    """The hidden width of a loaded model, where its architecture has one that tells its size."""
    return measure(weights_as_layers(dict(_first_shapes(model.model.diffusion_model)))).width


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
    return told or (8 if base_of(model) in (Base.LTXV, Base.LTXAV) else 4)


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


# ---------------------------------------------------------------- attaching


@dataclass(frozen=True)
class Coverage:
    """What became of a LoRA's layers on one model. applied: layers that change a weight or a bias.
    The tuples hold layer names.
    """

    applied: int
    not_needed: tuple[str, ...]
    lost: tuple[str, ...]
    misfit: tuple[str, ...]


def attach_lora(model, tensors: Mapping[str, Tensor], strength: float):
    """(model with the LoRA on it, Coverage). The host's own code reads and applies it; the model
    given is not changed.
    """
    key_map = comfy.lora.model_lora_keys_unet(model.model, {})
    lora = comfy.lora_convert.convert_lora(dict(tensors))
    shapes = shapes_of(model.model)
    misfit = misfits(
        {key: tuple(tensor.shape) for key, tensor in lora.items()},
        lambda layer: _weight_shape(key_map.get(layer), shapes),
    )
    fitting = {key: layer for key in lora if (layer := layer_of(key)) not in misfit}
    layers = set(fitting.values())
    # The host tries every name a weight may have in a file, in a dozen formats: only those that are
    # in this one are asked for. It also has names for places that not every model has, such as the
    # shortcut of a block that keeps its width.
    present = {
        layer: target
        for layer, target in key_map.items()
        if layer in layers and _weight_of(target) in shapes
    }
    unknown = sorted(layers - present.keys())
    not_needed = tuple(
        layer for layer in unknown if _is_not_needed(layer, model.model.diffusion_model)
    )

    patched = model.clone()
    patches = comfy.lora.load_lora(
        {key: lora[key] for key, layer in fitting.items() if layer in present}, present
    )
    bare = _bare_parameters(shapes) & set(patches)
    patched.add_patches({key: patch for key, patch in patches.items() if key not in bare}, strength)
    for key in bare:
        patched.add_object_patch(key, _patched_parameter(patched, key, patches[key], strength))
    patched.set_attachments(
        PATCHES_KEY, (*(model.get_attachment(PATCHES_KEY) or ()), *patches.values())
    )
    lost = tuple(layer for layer in unknown if layer not in not_needed)
    return patched, Coverage(
        sum(_is_patched(target, patches) for target in present.values()),
        not_needed,
        lost,
        tuple(sorted(misfit)),
    )


def _is_patched(target: Any, patches: Mapping[Any, Any]) -> bool:
    """Whether the host made a patch of a layer: of its weight, or of the bias beside it. A layer of
    nothing but an alpha has none.
    """
    return target in patches or f"{_weight_of(target).removesuffix('.weight')}.bias" in patches


def _weight_of(target: Any) -> str:
    """The name of the weight a layer goes on. The host names part of a fused one by a tuple: the
    whole and where in it.
    """
    return target if isinstance(target, str) else target[0]


def _bare_parameters(names: Iterable[str]) -> set[str]:
    """Of all parameters, those held directly by a module that has others below it, such as the
    modulation of a Wan block.

    The host takes weight patches for them and never applies them: its loading visits leaf modules
    only.
    """
    holders = {name: name.rpartition(".")[0] for name in names}
    above = {""}
    for path in set(holders.values()):
        while (path := path.rpartition(".")[0]) not in above:
            above.add(path)
    return {name for name, holder in holders.items() if holder in above}


def _patched_parameter(model, key: str, patch: Any, strength: float) -> torch.nn.Parameter:
    """The parameter as the host's own patch arithmetic leaves it, to stand in for the model's while
    it is loaded.
    """
    weight = model.get_model_object(key)
    changed = comfy.lora.calculate_weight(
        [(strength, patch, 1.0, None, None)], weight.detach().float().clone(), key
    )
    return torch.nn.Parameter(changed.to(weight.dtype), requires_grad=False)


def _weight_shape(target: Any, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Shape of the weight a layer goes on. None for part of a fused one, which the host names by a
    tuple, and where it has none.
    """
    return shapes.get(target) if isinstance(target, str) else None


def _is_not_needed(layer: str, network: torch.nn.Module) -> bool:
    """Whether leaving this layer out changes nothing: text encoder layers, and an image branch the
    model does not have.
    """
    if layer.startswith(("lora_te", "text_encoder", "lora_prior_te")):
        return True
    is_image_branch = any(part in layer for part in ("k_img", "v_img", "img_emb"))
    return is_image_branch and getattr(network, "img_emb", None) is None


def with_model_sampling(model, record: Accelerator):
    """The model with the shift and the parameterization the accelerator was distilled with. Raises
    ValueError where it cannot have it.
    """
    schedule = record.schedule
    if isinstance(schedule, TwoClockFlow):
        patched = with_shift(model, schedule.video_shift)
        # Where the host's model looks for the shifts that its two clocks share a grid by.
        clocks = {
            "minimax_h3_sigma_shift_video": schedule.video_shift,
            "minimax_h3_sigma_shift_audio": schedule.audio_shift,
        }
        patched.model_options["transformer_options"] = {
            **patched.model_options.get("transformer_options", {}),
            **clocks,
        }
        return patched
    if isinstance(schedule, ShiftedFlow | HostSpacedFlow):
        return with_shift(model, schedule.shift)
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


def with_record(model, record: Accelerator):
    """The model carrying the record, for samplers downstream and through every clone."""
    patched = model.clone()
    patched.set_attachments(RECORD_KEY, record)
    return patched


@dataclass(frozen=True)
class ForeignLora:
    """A LoRA that some other loader put on a MODEL, as far as the MODEL tells. layers: as in
    fingerprint.layers_of.
    """

    layers: Mapping[str, tuple[int, int]]
    ranks: tuple[int, ...]
    alpha: str
    has_differences: bool
    strengths: tuple[float, ...]
    metadata: Mapping[str, str]


def foreign_loras(model) -> tuple[ForeignLora, ...]:
    """The LoRAs that other loaders left among a MODEL's patches, in no order.

    The host gives all pairs of one file one set of the keys it read, and so tells the files apart.
    What is no pair, such as a merge of models or a file of whole differences, comes as a LoRA
    without layers where it is all there is.
    """
    own = {id(patch) for patch in model.get_attachment(PATCHES_KEY) or ()}
    foreign = [
        (key, patch)
        for key, patches in model.patches.items()
        for patch in patches
        if id(patch[1]) not in own
    ]
    files: dict[int, list[tuple[str, Any]]] = {}
    for key, patch in foreign:
        if isinstance(patch[1], comfy.weight_adapter.LoRAAdapter):
            files.setdefault(id(patch[1].loaded_keys), []).append((key, patch))
    metadata = model.get_attachment("lora_metadata") or {}
    if foreign and not files:
        return (
            ForeignLora(
                {}, (), "absent", True, tuple(sorted({patch[0] for _, patch in foreign})), metadata
            ),
        )
    return tuple(_foreign_lora(pairs, metadata) for pairs in files.values())


def _foreign_lora(pairs: list[tuple[str, Any]], metadata: Mapping[str, str]) -> ForeignLora:
    """pairs: (name of the model's weight, the host's patch) of one file. metadata: of the file
    loaded last, perhaps another.
    """
    layers: dict[str, tuple[int, int]] = {}
    ranks, has_alpha = set(), False
    for key, patch in pairs:
        up, down, alpha = patch[1].weights[:3]
        layer = key.removesuffix(".weight")
        # Pairs for the parts of one fused weight add up to it.
        layers[layer] = (layers.get(layer, (0, 0))[0] + up.shape[0], down.shape[1])
        ranks.add(down.shape[0])
        has_alpha |= alpha is not None
    return ForeignLora(
        layers=layers,
        ranks=tuple(sorted(ranks)),
        alpha="tensors" if has_alpha else "absent",
        has_differences=any(key.endswith(DIFFERENCE_ENDINGS) for key in pairs[0][1][1].loaded_keys),
        strengths=tuple(sorted({patch[0] for _, patch in pairs})),
        metadata=metadata,
    )


# ---------------------------------------------------------------- what other nodes set


def negative_branch_forced(model) -> bool:
    """Whether another patch makes the host evaluate the negative prompt at CFG 1 too (NAG, SAG,
    CFG++).
    """
    return bool(model.model_options.get("disable_cfg1_optimization", False))


def has_self_attention_guidance(model) -> bool:
    """Whether core's SAG is on the model, which ends in an error without a negative prompt; NAG
    only does nothing then.

    A server names the modules of core's extra nodes by their path.
    """
    functions = model.model_options.get("sampler_post_cfg_function", [])
    return any(
        str(getattr(function, "__module__", "")).endswith("nodes_sag") for function in functions
    )


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


# ---------------------------------------------------------------- files and messages


def add_model_folder(name: str) -> None:
    """Make models/<name> known to the host, beside the places its own configuration may already
    name for it.
    """
    folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))


def declaration_names(suffix: str) -> list[str]:
    """JSON files with this ending in models/fewstep and beside the LoRAs; listed, and the list
    remembered, by the host.
    """
    for root in (
        os.path.join(folder_paths.models_dir, "fewstep"),
        *folder_paths.get_folder_paths("loras"),
    ):
        folder_paths.add_model_folder_path("fewstep", root)
    folder_paths.folder_names_and_paths["fewstep"][1].add(".json")
    return [name for name in folder_paths.get_filename_list("fewstep") if name.endswith(suffix)]


def model_files(folder: str) -> list[str]:
    return [
        name
        for name in folder_paths.get_filename_list(folder)
        if name.lower().endswith(tuple(folder_paths.supported_pt_extensions))
    ]


def model_path(folder: str, name: str) -> str | None:
    return folder_paths.get_full_path(folder, name)


def missing_file(folder: str, name: str) -> str:
    """What to say of a name that no file in models/<folder> has."""
    near = difflib.get_close_matches(name, model_files(folder), n=3, cutoff=0.4)
    return (
        f"{name} is not in models/{folder}. "
        + (f"The nearest files there: {', '.join(near)}. " if near else "")
        + "Put the file there, or choose another."
    )


def load_tensors(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file through the host's loader."""
    tensors, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    return tensors, metadata or {}


def load_diffusion_model(
    tensors: dict[str, Tensor], metadata: Mapping[str, str], disable_dynamic: bool = False
):
    """The MODEL of a diffusion model's tensors, detected by the host."""
    return comfy.sd.load_diffusion_model_state_dict(
        tensors, metadata=dict(metadata), disable_dynamic=disable_dynamic
    )


def load_vae(path: str):
    """The VAE of a file."""
    tensors, metadata = load_tensors(path)
    return comfy.sd.VAE(sd=tensors, metadata=metadata)


def version() -> str:
    """ComfyUI's own version."""
    import comfyui_version

    return comfyui_version.__version__


def require_causal_wan() -> None:
    """Raise PlanError where this ComfyUI has no causal Wan models yet."""
    if not hasattr(comfy.supported_models, "WAN21_CausalAR_T2V"):
        raise PlanError(
            f"This ComfyUI ({version()}) has no causal Wan models, which the Streaming Sampler"
            " runs. Update ComfyUI."
        )


def running_server():
    """The host's server in this process, or None where there is none: in tests and in programs of
    other people.
    """
    # Where a server runs its module is loaded; importing it here would fail in programs that use
    # 0.16 without one.
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def drop_cached_results() -> None:
    """Have the server forget the results of nodes once this run has ended, as POST /free does;
    models stay loaded.
    """
    queue = getattr(running_server(), "prompt_queue", None)
    if queue is not None:
        queue.set_flag("unload_models", False)
        queue.set_flag("free_memory", True)


def show_on_node(text: str, node_id: str | None) -> None:
    """Text under the node in the editor that queued this run. Does nothing where there is none, as
    in tests and for API callers.
    """
    server = running_server()
    client = getattr(server, "client_id", None)
    # Without a client the host would show it to every editor that is open, under a node of theirs.
    if client is not None and node_id is not None:
        server.send_progress_text(text, node_id, client)
