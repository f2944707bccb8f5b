"""What a file is, by its tensors alone: adapter or model, for which base and size, which rank."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from .accelerator import Kind
from .architecture import Layers, architecture_of
from .bases import Base
from .header import Header, alpha_in

# Endings of the tensors that make up one adapted layer; what stands before is the layer's name.
DOWN_ENDINGS = (
    ".lora_down.weight",
    ".lora_A.weight",
    ".lora_A.default.weight",
    "_lora.down.weight",
    ".lora.down.weight",
    ".lora_linear_layer.down.weight",
)
UP_ENDINGS = (
    ".lora_up.weight",
    ".lora_B.weight",
    ".lora_B.default.weight",
    "_lora.up.weight",
    ".lora.up.weight",
    ".lora_linear_layer.up.weight",
)
LORA_ENDINGS = (*DOWN_ENDINGS, *UP_ENDINGS, ".lora_mid.weight")
DIFFERENCE_ENDINGS = (".diff", ".diff_b", ".diff_m")
OTHER_ENDINGS = (
    ".alpha",
    ".dora_scale",
    *DIFFERENCE_ENDINGS,
    ".set_weight",
    ".reshape_weight",
    ".w_norm",
    ".b_norm",
)

MODEL_LAYER = (
    r"(^|\.)(blocks|layers|double_blocks|transformer_blocks|input_blocks|down_blocks|joint_blocks"
    r"|double_stream_blocks|double_stream_layers)\.\d+\."
)


@dataclass(frozen=True)
class Fingerprint:
    """What the tensors alone prove."""

    kind: Kind | None
    bases: tuple[Base, ...]  # every architecture they fit; empty when none is known
    evidence: tuple[str, ...]  # all of this for people
    width: int | None = None  # hidden width, where a layer shows it
    ranks: tuple[int, ...] = ()  # ascending
    alpha: str = "absent"  # where it is: "tensors" or "metadata"
    # Whole tensors were written beside low-rank pairs, which an extract of a distilled model does
    # and ordinary training does not.
    has_differences: bool = False


# The same few thousand keys are asked for three times while a file is attached.
@lru_cache(maxsize=1 << 14)
def layer_of(key: str) -> str:
    """Name of the layer a LoRA tensor belongs to: the key without its ending."""
    for ending in LORA_ENDINGS if key.endswith(".weight") else OTHER_ENDINGS:
        if key.endswith(ending):
            return key[: -len(ending)]
    return key


def layers_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each layer a LoRA adapts: rows of up, columns of down; 0 if unknown."""
    sizes: dict[str, tuple[int, int]] = {}
    for key, shape in shapes.items():
        outputs, inputs = sizes.get(layer := layer_of(key), (0, 0))
        if len(shape) > 1 and key.endswith(DOWN_ENDINGS):
            inputs = shape[1]
        if len(shape) > 1 and key.endswith(UP_ENDINGS):
            outputs = shape[0]
        sizes[layer] = (outputs, inputs)
    return sizes


def fingerprint_of(header: Header) -> Fingerprint:
    """What the file is by its tensors alone."""
    keys = header.shapes
    kind = _kind_of(keys)
    if kind is not Kind.LORA:
        what = f"header: {kind.value if kind else 'neither an adapter nor a diffusion model'}"
        return Fingerprint(kind, (), (what,))
    ranks = tuple(
        sorted({shape[0] for key, shape in keys.items() if key.endswith(DOWN_ENDINGS) and shape})
    )
    alpha = (
        "tensors"
        if any(key.endswith(".alpha") for key in keys)
        else "metadata"
        if alpha_in(header.metadata)
        else "absent"
    )
    return lora_fingerprint(
        layers_of(keys), ranks, alpha, any(key.endswith(DIFFERENCE_ENDINGS) for key in keys)
    )


def _kind_of(keys: Iterable[str]) -> Kind | None:
    keys = list(keys)
    if any("motion_modules." in key or "temporal_transformer" in key for key in keys):
        return Kind.MOTION_MODULE
    if any(key.endswith((*LORA_ENDINGS, *DIFFERENCE_ENDINGS)) for key in keys):
        return Kind.LORA
    if any(re.search(MODEL_LAYER, key) for key in keys):
        return Kind.MODEL
    return None


def lora_fingerprint(
    layers: Layers, ranks: tuple[int, ...], alpha: str, has_differences: bool
) -> Fingerprint:
    """The fingerprint of a LoRA whose layers and ranks are known, in a file or on a model."""
    measured = architecture_of(layers)
    rank_words = (
        f"rank {ranks[0]}"
        if len(ranks) == 1
        else f"ranks {ranks[0]} to {ranks[-1]}"
        if ranks
        else "no low-rank pair"
    )
    differences = ", whole differences" if has_differences else ""
    words = f"header: LoRA for {measured.words}, {rank_words}, alpha {alpha}{differences}"
    return Fingerprint(
        Kind.LORA, measured.bases, (words,), measured.width, ranks, alpha, has_differences
    )
