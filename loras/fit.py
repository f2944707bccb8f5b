"""Whether a LoRA file's tensors fit the weights they are for, before anything is computed.

A host's LoRA code only logs what does not fit and leaves it out of the sum, and some of its key
kinds let a file of a few bytes ask for a weight of any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping

from .fingerprint import DOWN_ENDINGS, UP_ENDINGS, layer_of

Shape = tuple[int, ...]

DOWNS, UPS = frozenset(DOWN_ENDINGS), frozenset(UP_ENDINGS)

WHOLE_ENDINGS = (".diff", ".set_weight", ".w_norm")
BIAS_ENDINGS = (".diff_b", ".set_bias", ".b_norm")
# What takes the place of a layer, and may be a bank of several where the host reads one.
BANK_ENDINGS = (".set_weight", ".set_bias")
LARGEST_BANK = 64  # heads; the published one has 32


def misfits(
    tensors: Mapping[str, Shape],
    weight_of: Callable[[str], Shape | None],
    banks: Container[str] = (),
) -> set[str]:
    """Layers that cannot be added to their weight.

    tensors: key -> shape, under the host's names. weight_of: layer -> its shape. banks: layers that
    the host reads from a bank of several heads, one under the other.

    Where the weight's shape is not known, the layer's own tensors have to agree with each other.
    """
    layers: dict[str, dict[str, Shape]] = {}
    for key, shape in tensors.items():
        layer = layer_of(key)
        layers.setdefault(layer, {})[key[len(layer) :]] = shape
    return {
        layer
        for layer, parts in layers.items()
        if not _fits(parts, weight_of(layer))
        and not (layer in banks and _is_bank(parts, weight_of(layer)))
    }


def _is_bank(parts: Mapping[str, Shape], weight: Shape | None) -> bool:
    """Whether a layer is replaced by several of its own kind, weight and bias alike."""
    if weight is None or not parts.keys() <= {*BANK_ENDINGS}:
        return False
    own = {".set_weight": weight, ".set_bias": weight[:1]}
    if any(not shape or shape[1:] != own[ending][1:] for ending, shape in parts.items()):
        return False
    heads = {shape[0] / weight[0] for shape in parts.values()}
    return len(heads) == 1 and heads <= set(range(1, LARGEST_BANK + 1))


def _fits(parts: Mapping[str, Shape], weight: Shape | None) -> bool:
    """parts: ending -> shape."""
    if ".reshape_weight" in parts:
        return False  # for a weight of another shape than the model has
    down = up = None
    for ending, shape in parts.items():
        # A layer written twice, of which a host takes either, fits nothing.
        if ending in DOWNS:
            if down is not None:
                return False
            down = shape
        elif ending in UPS:
            if up is not None:
                return False
            up = shape
        elif not _part_fits(ending, shape, weight):
            return False
    if down is None and up is None:
        return ".lora_mid.weight" not in parts
    return (
        down is not None
        and up is not None
        and _pair_fits(down, up, parts.get(".lora_mid.weight"), weight)
    )


def _part_fits(ending: str, shape: Shape, weight: Shape | None) -> bool:
    """Whether a tensor that is not a factor of a pair can be used with this weight."""
    if ending == ".alpha":
        return math.prod(shape) == 1
    if weight is None:
        return True
    if ending == ".dora_scale":
        return len(shape) == len(weight) and all(
            size in (1, full) for size, full in zip(shape, weight)
        )
    return (
        shape == weight
        if ending in WHOLE_ENDINGS
        else shape == weight[:1]
        if ending in BIAS_ENDINGS
        else True
    )


def _pair_fits(down: Shape, up: Shape, middle: Shape | None, weight: Shape | None) -> bool:
    """Whether up @ down is a change of this weight. middle: the kernel of three factors."""
    if len(down) < 2 or len(up) < 2 or 0 in (*down, *up) or math.prod(up[1:]) != down[0]:
        return False
    inputs, kernel = math.prod(down[1:]), 1
    if middle is not None:
        if len(middle) != 4 or middle[:2] != (down[0], down[0]):
            return False
        kernel = math.prod(middle[2:])
    return weight is None or (up[0] == weight[0] and inputs * kernel == math.prod(weight[1:]))
