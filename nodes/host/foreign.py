"""The LoRAs that other loaders left on a MODEL."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from comfy.weight_adapter import LoRAAdapter

from ...loras.fingerprint import DIFFERENCE_ENDINGS, ranks_of_pairs

# The patches that this pack put on a MODEL by their id, to tell them from those of other loaders:
# every run asks.
PATCHES_KEY = "fewstep.patches"
LAYERS_COMPARED = 4


@dataclass(frozen=True)
class ForeignLora:
    """A LoRA that some other loader put on a MODEL, as far as the MODEL tells."""

    layers: Mapping[str, tuple[int, int]]  # as in fingerprint.layers_of
    ranks: tuple[int, ...]  # as in fingerprint.Fingerprint
    alpha: str  # where it is kept: "tensors", or "absent"
    has_differences: bool  # whole differences beside the low-rank pairs
    strengths: tuple[float, ...]
    metadata: Mapping[str, str]  # of the file that was loaded last, perhaps another


def foreign_loras(model) -> tuple[ForeignLora, ...]:
    """The LoRAs that other loaders left among a MODEL's patches, in no order.

    The host gives all pairs of one file one set of the keys it read, and so tells the files apart.
    What is no pair, such as a merge of models or a file of whole differences, comes as a LoRA
    without layers where it is all there is.
    """
    own = model.get_attachment(PATCHES_KEY) or {}
    foreign = [
        (key, patch)
        for key, patches in model.patches.items()
        for patch in patches
        if id(patch[1]) not in own
    ]
    files: dict[int, list[tuple[str, Any]]] = {}
    for key, patch in foreign:
        if isinstance(patch[1], LoRAAdapter):
            files.setdefault(id(patch[1].loaded_keys), []).append((key, patch))
    metadata = model.get_attachment("lora_metadata") or {}
    if foreign and not files:
        return (
            ForeignLora(
                {}, (), "absent", True, tuple(sorted({patch[0] for _, patch in foreign})), metadata
            ),
        )
    return tuple(_foreign_lora(pairs, metadata) for pairs in files.values())


def strength_of_same(model, patches: Mapping[str, Any]) -> float | None:
    """The strength at which another loader put the very tensors of these patches on a MODEL; None
    where they are not on it.

    patches: of one file, as the host reads it, by the model's weights. A few layers tell.
    """
    own = model.get_attachment(PATCHES_KEY) or {}
    strengths = []
    for key, patch in islice(patches.items(), LAYERS_COMPARED):
        same = [
            other
            for other in model.patches.get(key, ())
            if id(other[1]) not in own and _are_equal(other[1], patch)
        ]
        if not same:
            return None
        strengths.append(sum(other[0] for other in same))
    return strengths[0] if strengths else None


def _are_equal(one: Any, other: Any) -> bool:
    if not (isinstance(one, LoRAAdapter) and isinstance(other, LoRAAdapter)):
        return False
    pairs = zip(one.weights[:2], other.weights[:2])
    return all(mine.shape == theirs.shape and torch.equal(mine, theirs) for mine, theirs in pairs)


def _foreign_lora(pairs: list[tuple[str, Any]], metadata: Mapping[str, str]) -> ForeignLora:
    """pairs: one file's (name of the weight, the host's patch).

    metadata: of the file loaded last, perhaps another.
    """
    layers: dict[str, tuple[int, int]] = {}
    sides, has_alpha = [], False
    for key, patch in pairs:
        up, down, alpha = patch[1].weights[:3]
        layer = key.removesuffix(".weight")
        # Pairs for the parts of one fused weight add up to it.
        layers[layer] = (layers.get(layer, (0, 0))[0] + up.shape[0], down.shape[1])
        sides.append((down.shape[0], min(up.shape[0], math.prod(down.shape[1:]))))
        has_alpha |= alpha is not None
    return ForeignLora(
        layers=layers,
        ranks=ranks_of_pairs(sides),
        alpha="tensors" if has_alpha else "absent",
        has_differences=any(key.endswith(DIFFERENCE_ENDINGS) for key in pairs[0][1][1].loaded_keys),
        strengths=tuple(sorted({patch[0] for _, patch in pairs})),
        metadata=metadata,
    )
