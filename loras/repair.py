"""Repairs of published LoRA files that the host's LoRA code does not make.

Tensors are never changed, only named.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .architecture import flat, is_wan_in_diffusers, wans_own_name
from .fingerprint import DOWN_ENDINGS, layer_of, plain_keys
from .header import alpha_in
from .words import counted

# A layer of a Wan model, with whatever stands before it in place of the host's own diffusion_model.
WAN_KEY = (
    r"((model\.)?diffusion_model\.|model\.|transformer\.)?"
    r"(?P<layer>(blocks\.\d+|head|patch_embedding|text_embedding|time_embedding"
    r"|time_projection|img_emb)\.)"
)
DIFFUSERS_UNET = r"(down_blocks|up_blocks|mid_block)\..*transformer_blocks\."


@dataclass(frozen=True)
class Repaired:
    """A LoRA file's tensors, ready for the host's LoRA code."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]  # what was repaired, in words; empty when nothing was


def repair(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], missing_alpha: float | None = None
) -> Repaired:
    """Rename what the host would drop, and write down an alpha it would not read.

    missing_alpha: the alpha of a release whose files carry none, where that is known and is not
    their rank.
    """
    plain = plain_keys(tensors)
    own_names = wans_own_keys(plain.values())
    names = {key: repaired_key(own_names.get(name, name)) for key, name in plain.items()}
    renamed = {names[key]: tensor for key, tensor in tensors.items()}
    notes = [note for note, count in _renamings(names, plain, own_names) if count]
    missing = _layers_without_alpha(renamed)
    # What the metadata say of it counts only where a layer lacks it.
    stated = alpha_in(metadata) if missing else None
    alpha = missing_alpha if stated is None else stated
    if missing and alpha is not None:
        renamed.update({f"{layer}.alpha": torch.tensor(alpha) for layer in missing})
        origin = (
            "the release's own: its file carries none"
            if stated is None
            else "from the file's metadata"
        )
        notes.append(f"alpha {alpha:g} taken for {counted(len(missing), 'layer')}, {origin}")
    return Repaired(renamed, tuple(notes))


def repaired_key(key: str) -> str:
    """The name under which the host loads this tensor.

    `.diff_m`, a difference on a Wan block's modulation, is the host's `.modulation.diff`. Wan files
    also come without the `diffusion_model.` before `blocks.N`, or with `transformer.` or `model.`
    in its place. Of diffusers' names for a UNet's attention the host knows the older ones, with a
    processor between.
    """
    # A look for the word first: there are thousands of keys.
    if "transformer_blocks." in key and ".processor." not in key and re.search(DIFFUSERS_UNET, key):
        key = re.sub(
            r"\.(attn[12])\.to_(q|k|v|out)(\.0)?\.(?=lora|alpha|dora)", r".\1.processor.to_\2.", key
        )
    if not key.startswith("diffusion_model.") and (wan := re.match(WAN_KEY, key)):
        key = "diffusion_model." + key[wan.start("layer") :]
    return key.removesuffix("diff_m") + "modulation.diff" if key.endswith(".diff_m") else key


def wans_own_keys(keys: Iterable[str]) -> dict[str, str]:
    """The model's own names of the keys of a Wan LoRA that have diffusers' names; of every other
    file none.
    """
    layers = {layer_of(key) for key in keys}
    if not is_wan_in_diffusers(layers):
        return {}
    own = {layer: name for layer in layers if (name := wans_own_name(layer)) is not None}
    return {
        key: f"{own[layer]}{key[len(layer) :]}" for key in keys if (layer := layer_of(key)) in own
    }


def hosts_names(layers: Iterable[str], places: Mapping[str, Any]) -> dict[str, str]:
    """The names by which the host knows layers that it has no place for as they are called.

    places: the host's names -> what each is a place for. Trainers and converters put prefixes
    before a layer's name and underscores for its dots; without those, many a name is one of the
    host's. One that may be several places, or that two layers would have, is left as it is.
    """
    layers = list(layers)
    absent = [layer for layer in layers if layer not in places]
    if not absent:
        return {}
    # Where two layers are one but for their prefixes, neither is more right than the other.
    having = Counter(map(flat, layers))
    wanted = {name: layer for layer in absent if having[name := flat(layer)] == 1}
    found: dict[str, dict[str, str]] = {}
    for name, place in places.items():
        if (layer := wanted.get(flat(name))) is not None:
            found.setdefault(layer, {}).setdefault(str(place), name)
    return {layer: next(iter(names.values())) for layer, names in found.items() if len(names) == 1}


def _renamings(
    names: Mapping[str, str], plain: Mapping[str, str], own_names: Mapping[str, str]
) -> list[tuple[str, int]]:
    """What was renamed, and how often.

    names: key in the file -> the host's. plain: -> without an adapter's name. own_names: of plain
    keys that have diffusers' names.
    """
    renamed = {key: name for key, name in names.items() if name != key}
    modulation = sum(key.endswith(".diff_m") for key in renamed)
    prefix = sum(
        name.startswith("diffusion_model.") and not plain[key].startswith("diffusion_model.")
        for key, name in renamed.items()
        if plain[key] not in own_names
    )
    named = sum(plain[key] != key for key in renamed)
    return [
        (f"{counted(named, 'key')} freed of the name of an adapter", named),
        (
            f"{counted(len(own_names), 'key')} given the model's own name for diffusers'",
            len(own_names),
        ),
        (
            f"{counted(modulation, 'modulation difference')} (.diff_m) renamed for the host",
            modulation,
        ),
        (f"{counted(prefix, 'key')} given the diffusion_model. prefix the host expects", prefix),
    ]


def _layers_without_alpha(tensors: Mapping[str, Tensor]) -> list[str]:
    return [
        layer
        for layer in sorted({layer_of(key) for key in tensors if key.endswith(DOWN_ENDINGS)})
        if f"{layer}.alpha" not in tensors
    ]
