"""A LoRA and its record onto a MODEL, by the host's own code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import comfy.lora
import comfy.lora_convert
import torch
from torch import Tensor

from ...loras.accelerator import Accelerator
from ...loras.fingerprint import is_of_text_encoder, layer_of, layers_of
from ...loras.fit import misfits
from ...loras.repair import hosts_names
from .foreign import PATCHES_KEY, strength_of_same
from .lock import with_lock
from .model import NEWS_KEY, RECORD_KEY, LoaderNews, with_model_sampling
from .report import Report


@dataclass(frozen=True)
class Coverage:
    """What became of a LoRA's layers on one model. The tuples hold their names."""

    applied: int  # layers that change a weight or a bias
    not_needed: tuple[str, ...]  # leaving them out changes nothing
    lost: tuple[str, ...]  # of real weight, and the model has no place for them
    misfit: tuple[str, ...]  # of another width than the model's
    # The network's first layer, where the file is for another number of input channels: a picture
    # or a mask that the one model takes beside the noise and the other does not.
    other_input: tuple[str, ...] = ()
    own_layer: str = ""  # what the model itself calls one of its layers
    # Layers of the file -> the names by which the host knows them.
    renamed: Mapping[str, str] = field(default_factory=dict)
    # At which another loader has put the very same tensors on the model; None where it has not.
    strength_before: float | None = None

    @property
    def all_lost(self) -> int:
        """Layers of real weight that were not applied, for either reason."""
        return len(self.lost) + len(self.misfit)


def with_accelerator(model, record: Accelerator, is_locked: bool = True):
    """The model with the record and its settings. is_locked: as in with_lock."""
    prepared = with_model_sampling(with_record(model, record), record)
    return with_lock(prepared, record, is_locked)


def with_news(model, report: Report):
    """The model carrying what its loader has to tell, for the report of the sampler: the loader's
    own line is gone from the editor when the job ends.
    """
    licence = next((value for name, value in report.rows if name == "licence"), "")
    news = LoaderNews(report.node, report.summary, licence, report.notes)
    patched = model.clone()
    patched.set_attachments(NEWS_KEY, (*(model.get_attachment(NEWS_KEY) or ()), news))
    return patched


def with_record(model, record: Accelerator):
    """The model carrying the record, for samplers downstream and through every clone."""
    patched = model.clone()
    patched.set_attachments(RECORD_KEY, record)
    return patched


def attach_lora(model, tensors: Mapping[str, Tensor], strength: float):
    """(model with the LoRA on it, Coverage). The model given is not changed.

    The host's own code reads and applies the file.
    """
    key_map = comfy.lora.model_lora_keys_unet(model.model, {})
    lora, renamed = _by_hosts_names(comfy.lora_convert.convert_lora(dict(tensors)), key_map)
    shapes, layers = shapes_of(model.model), set(map(layer_of, lora))
    # The host tries every name a weight may have in a file, in a dozen formats: only those that are
    # in this one are asked for.
    key_map_here = {layer: key_map[layer] for layer in key_map if layer in layers}
    # It names part of a fused weight by a tuple: of that the shape is not known.
    weights = {
        layer: shapes.get(target)
        for layer, target in key_map_here.items()
        if isinstance(target, str)
    }
    network = model.model.diffusion_model
    parts = {key: tuple(tensor.shape) for key, tensor in lora.items()}
    misfit = misfits(parts, weights.get, _banks(network, key_map))
    other_input = {
        layer
        for layer in misfit
        if _is_input(key_map_here.get(layer)) and _differs_in_inputs(layer, lora, weights[layer])
    }
    fitting = {key: layer for key in lora if (layer := layer_of(key)) not in misfit}
    present = _places_of(set(fitting.values()), key_map_here, shapes)
    patches = comfy.lora.load_lora(
        {key: lora[key] for key, layer in fitting.items() if layer in present}, present
    )
    absent = sorted(set(fitting.values()) - present.keys())
    not_needed = tuple(layer for layer in absent if _is_not_needed(layer, network))
    patched = _with_patches(model, patches, shapes, strength)
    return patched, Coverage(
        applied=sum(_is_patched(target, patches) for target in present.values()),
        not_needed=not_needed,
        lost=tuple(layer for layer in absent if layer not in not_needed),
        misfit=tuple(sorted(misfit - other_input)),
        other_input=tuple(sorted(other_input)),
        own_layer=next((name for name in key_map if re.match(OWN_LAYER, name)), ""),
        renamed=renamed,
        strength_before=strength_of_same(model, patches),
    )


# The host's own names of the layers in a first block.
OWN_LAYER = r"diffusion_model\.\w*(blocks|layers)\.0\."


def _by_hosts_names(
    lora: Mapping[str, Tensor], key_map: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(a LoRA's tensors under names that the host knows, the layers that were renamed for it)."""
    layer_by_key = {key: layer_of(key) for key in lora}
    layers = {layer for layer in layer_by_key.values() if not is_of_text_encoder(layer)}
    renamed = hosts_names(layers, key_map)
    if not renamed:
        return dict(lora), {}
    named = {
        f"{renamed.get(layer, layer)}{key[len(layer) :]}": lora[key]
        for key, layer in layer_by_key.items()
    }
    return named, renamed


def _places_of(
    layers: Set[str], key_map: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Where these layers go on the model, as far as it has places for them.

    The host also has names for places that not every model has, such as the shortcut of a block
    that keeps its width.
    """
    return {
        layer: target
        for layer, target in key_map.items()
        if layer in layers and _weight_of(target) in shapes
    }


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of each weight as computed with: quantised formats pack several values in one."""
    return {key: tuple(value.shape) for key, value in module.named_parameters()}


def _with_patches(
    model, patches: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], strength: float
):
    """The model with the host's patches on it, noted as ours. shapes: of its weights, by name."""
    patched = model.clone()
    bare = _bare_parameters(shapes) & set(patches)
    patched.add_patches({key: patch for key, patch in patches.items() if key not in bare}, strength)
    for key in bare:
        patched.add_object_patch(key, _patched_parameter(patched, key, patches[key], strength))
    before = model.get_attachment(PATCHES_KEY) or {}
    own = {id(patch): patch for patch in patches.values()}
    patched.set_attachments(PATCHES_KEY, before | own)
    return patched


def _is_patched(target: Any, patches: Mapping[Any, Any]) -> bool:
    """Whether the host patched a layer, its weight or its bias. An alpha alone gives no patch."""
    return target in patches or f"{_weight_of(target).removesuffix('.weight')}.bias" in patches


def _weight_of(target: Any) -> str:
    """The weight a layer goes on. The host names part of a fused one by a tuple (whole, where)."""
    return target if isinstance(target, str) else target[0]


def _bare_parameters(names: Iterable[str]) -> set[str]:
    """Parameters held directly by a module with others below it, as a Wan block's modulation.

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
    """The parameter as the host's patches leave it, to replace the model's while it is loaded."""
    weight = model.get_model_object(key)
    changed = comfy.lora.calculate_weight(
        [(strength, patch, 1.0, None, None)], weight.detach().float().clone(), key
    )
    return torch.nn.Parameter(changed.to(weight.dtype), requires_grad=False)


# The layers that a latent enters a network by, in the host's names.
INPUT_LAYERS = (
    "patch_embedding.weight",  # Wan
    "img_in.weight",  # FLUX, Qwen-Image
    "img_in.proj.weight",  # HunyuanVideo
    "input_blocks.0.0.weight",  # Stable Diffusion
    "x_embedder.weight",  # SD3's kin
    "x_embedder.proj.1.weight",  # Cosmos, Anima
    "patch_embed.proj.weight",  # CogVideoX
)


def _banks(network: torch.nn.Module, key_map: Mapping[str, Any]) -> set[str]:
    """The layers that this host reads from a bank of heads: since 0.35 the last ones of MiniMax-H3,
    by parallel decoding distillation.
    """
    last = getattr(network, "final_layer", None)
    if last is None or "sample_sigmas" not in inspect.signature(type(last).forward).parameters:
        return set()
    ends = ("final_layer.video_out.weight", "final_layer.audio_out.weight")
    return {
        layer
        for layer, target in key_map.items()
        if isinstance(target, str) and target.endswith(ends)
    }


def _is_input(target: Any) -> bool:
    """Whether the host's name for a weight is that of the network's first layer."""
    return isinstance(target, str) and target.endswith(INPUT_LAYERS)


def _differs_in_inputs(
    layer: str, tensors: Mapping[str, Tensor], weight: tuple[int, ...] | None
) -> bool:
    """Whether a layer of a file has the outputs of its weight, and other inputs."""
    own = {key: tuple(tensor.shape) for key, tensor in tensors.items() if layer_of(key) == layer}
    outputs, inputs = layers_of(own)[layer]
    return weight is not None and outputs == weight[0] and inputs not in (0, weight[1])


def _is_not_needed(layer: str, network: torch.nn.Module) -> bool:
    """Whether leaving this layer out changes nothing: text encoder, or an absent image branch."""
    if is_of_text_encoder(layer):
        return True
    is_image_branch = any(part in layer for part in ("k_img", "v_img", "img_emb"))
    return is_image_branch and getattr(network, "img_emb", None) is None
