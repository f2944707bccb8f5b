"""Repairs of published LoRA files that the host's own LoRA code does not make. Tensors are never changed, only named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .fingerprint import DOWN_ENDINGS, alpha_in, layer_of


@dataclass(frozen=True)
class Repaired:
    """tensors: ready for the host's LoRA code. notes: what was repaired, in words; empty when nothing was."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def repair(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], missing_alpha: float | None = None) -> Repaired:
    """Rename what the host would drop, and write down an alpha it would not read.

    missing_alpha: the alpha of a release whose files carry none, where that is known and is not their rank.
    """
    renamed = {repaired_key(key): tensor for key, tensor in tensors.items()}
    notes = [note for note, count in _renamings(tensors) if count]
    stated = alpha_in(metadata)
    alpha = missing_alpha if stated is None else stated
    missing = _layers_without_alpha(renamed) if alpha is not None else ()
    if missing:
        renamed.update({f"{layer}.alpha": torch.tensor(alpha) for layer in missing})
        origin = "the release's own: its file carries none" if stated is None else "from the file's metadata"
        notes.append(f"alpha {alpha:g} taken for {len(missing)} layers, {origin}")
    return Repaired(renamed, tuple(notes))


def repaired_key(key: str) -> str:
    """The name under which the host loads this tensor.

    `.diff_m`, a difference on a Wan block's modulation, is the host's `.modulation.diff`. Wan files also come without the
    `diffusion_model.` before `blocks.N`, or with `transformer.` or `model.` in its place. Of diffusers' names for a UNet's
    attention the host knows the older ones, with a processor between.
    """
    if re.search(r"(down_blocks|up_blocks|mid_block)\..*transformer_blocks\.", key) and ".processor." not in key:
        key = re.sub(r"\.(attn[12])\.to_(q|k|v|out)(\.0)?\.(?=lora|alpha|dora)", r".\1.processor.to_\2.", key)
    if re.match(r"((model\.)?diffusion_model\.|model\.|transformer\.)?(blocks\.\d+\.|head\.|patch_embedding\.|text_embedding\."
                r"|time_embedding\.|time_projection\.|img_emb\.)", key):
        key = "diffusion_model." + re.sub(r"^(model\.diffusion_model|diffusion_model|model|transformer)\.", "", key)
    return re.sub(r"\.diff_m$", ".modulation.diff", key)


def _renamings(tensors: Mapping[str, Tensor]) -> list[tuple[str, int]]:
    modulation = sum(key.endswith(".diff_m") for key in tensors)
    prefix = sum(repaired_key(key).startswith("diffusion_model.") and not key.startswith("diffusion_model.") for key in tensors)
    return [
        (f"{modulation} modulation differences (.diff_m) renamed so that the host loads them", modulation),
        (f"{prefix} keys given the diffusion_model. prefix the host expects", prefix),
    ]


def _layers_without_alpha(tensors: Mapping[str, Tensor]) -> list[str]:
    return [layer for layer in sorted({layer_of(key) for key in tensors if key.endswith(DOWN_ENDINGS)}) if f"{layer}.alpha" not in tensors]
