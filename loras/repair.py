"""Repairs of published LoRA files that the host's LoRA code does not make.

Tensors are never changed, only named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .fingerprint import DOWN_ENDINGS, layer_of
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
    names = {key: repaired_key(key) for key in tensors}
    renamed = {names[key]: tensor for key, tensor in tensors.items()}
    notes = [note for note, count in _renamings(names) if count]
    stated = alpha_in(metadata)
    alpha = missing_alpha if stated is None else stated
    missing = _layers_without_alpha(renamed) if alpha is not None else ()
    if missing:
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


def _renamings(names: Mapping[str, str]) -> list[tuple[str, int]]:
    """names: key in the file -> the host's."""
    modulation = sum(key.endswith(".diff_m") for key in names)
    prefix = sum(
        name.startswith("diffusion_model.") and not key.startswith("diffusion_model.")
        for key, name in names.items()
    )
    return [
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
