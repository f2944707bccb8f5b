"""What a file is, by its tensors alone: adapter or model, for which base and size, which rank."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from .accelerator import Kind
from .adapters import OtherAdapter, is_of_dora, other_adapter
from .architecture import Layers, architecture_of, has_convolutions
from .bases import BaseRow
from .header import Header, alpha_in

# Endings of the tensors that make up one adapted layer; what stands before is the layer's name.
DOWN_ENDINGS = (
    ".lora_down.weight",
    ".lora_A.weight",
    ".lora_A.default.weight",
    "_lora.down.weight",
    ".lora.down.weight",
    ".lora_linear_layer.down.weight",
    ".lora_A",
)
UP_ENDINGS = (
    ".lora_up.weight",
    ".lora_B.weight",
    ".lora_B.default.weight",
    "_lora.up.weight",
    ".lora.up.weight",
    ".lora_linear_layer.up.weight",
    ".lora_B",
)
LORA_ENDINGS = (*DOWN_ENDINGS, *UP_ENDINGS, ".lora_mid.weight")
DIFFERENCE_ENDINGS = (".diff", ".diff_b", ".diff_m")
OTHER_ENDINGS = (
    ".alpha",
    ".dora_scale",
    *DIFFERENCE_ENDINGS,
    ".set_weight",
    ".set_bias",
    ".reshape_weight",
    ".w_norm",
    ".b_norm",
)

ADAPTER_NAME = r"(\.lora_[AB])\.(?!default\.)\w+\.weight$"
WITHOUT_NAME = (".lora_A.weight", ".lora_B.weight")

# Those without ".weight" at the end.
BARE_ENDINGS = (".lora_A", ".lora_B", *OTHER_ENDINGS)
# Of those that begin at a dot, how many dots they have: nearly all keys have one of these.
ONE_DOT = frozenset(BARE_ENDINGS)
TWO_DOTS = frozenset(ending for ending in LORA_ENDINGS if ending.count(".") == 2)

# Differences of a whole weight, and weights that take its place.
WHOLE_ENDINGS = (".diff", ".set_weight")
TEXT_ENCODER_PREFIXES = ("lora_te", "lora_prior_te", "text_encoder")
# What LTX-2 puts behind its text encoder; the host has it as a part of that.
TEXT_PROJECTION = "text_embedding_projection."
OF_TEXT_ENCODER = (*TEXT_ENCODER_PREFIXES, TEXT_PROJECTION)

# What stands before the names of layers, by the publisher's or the trainer's habit.
NAMING_PREFIXES = (
    r"(base_model\.model\.|model\.)?"
    r"(diffusion_model\.|transformer\.|unet\.|lora_unet_+|lora_transformer_|lycoris_)?"
)

# What the usual trainers leave in the metadata of what they train; a file that was only resized or
# converted has none of it.
TRAINERS = {
    "ss_network_module": "kohya's scripts",
    "training_info": "AI Toolkit",
    "ot_branch": "OneTrainer",
}

# Nobody trains an ordinary LoRA of a rank above this: it is the difference of two whole models.
LARGEST_TRAINED_RANK = 256

MODEL_LAYER = (
    r"(^|\.)(blocks|layers|double_blocks|transformer_blocks|input_blocks|down_blocks|joint_blocks"
    r"|double_stream_blocks|double_stream_layers)\.\d+\."
)


@dataclass(frozen=True)
class Fingerprint:
    """What the tensors alone prove."""

    kind: Kind | None
    bases: tuple[BaseRow, ...]  # every architecture they fit; empty when none is known
    evidence: tuple[str, ...]  # all of this for people
    width: int | None = None  # hidden width, where a layer shows it
    # Ascending; of pairs that are not as large as their own layer, which caps the rank.
    ranks: tuple[int, ...] = ()
    pairs: int | None = None  # low-rank pairs; None where the file itself was not seen
    alpha: str = "absent"  # where it is: "tensors" or "metadata"
    # Whole tensors were written beside low-rank pairs, which an extract of a distilled model does
    # and ordinary training does not.
    has_differences: bool = False
    has_convolutions: bool = False  # a UNet's, outside its attention
    has_text_encoder: bool = False  # layers of a text encoder were trained with it
    # The pairs' names, such as "lora_unet_*.lora_down", and the format's name for their numbers;
    # empty where they have several.
    naming: str = ""
    dtype: str = ""
    trainer: str = ""  # who wrote it, where its metadata are those of an ordinary training run
    is_dora: bool = False  # its pairs come with the scales of a DoRA
    adapter: OtherAdapter | None = None  # where it is an adapter of another kind than a LoRA

    @property
    def is_extract(self) -> bool:
        """Whether this is the difference of two whole models, which no ordinary training leaves."""
        return self.has_differences or any(rank > LARGEST_TRAINED_RANK for rank in self.ranks)


def plain_keys(keys: Iterable[str]) -> dict[str, str]:
    """Keys without the name that PEFT's users give an adapter, of a file that holds only one;
    "default" the host knows itself.
    """
    plain = {key: key for key in keys}
    named = {
        key: re.sub(ADAPTER_NAME, r"\1.weight", key)
        for key in plain
        if (".lora_A." in key or ".lora_B." in key) and not key.endswith(WITHOUT_NAME)
    }
    is_one = bool(named) and len({*(plain | named).values()}) == len(plain)
    return plain | named if is_one else plain


# The same few thousand keys are asked for three times while a file is attached.
@lru_cache(maxsize=1 << 14)
def layer_of(key: str) -> str:
    """Name of the layer a LoRA tensor belongs to: the key without its ending."""
    is_weight = key.endswith(".weight")
    dot = key.rfind(".", 0, -len(".weight")) if is_weight else key.rfind(".")
    if key[dot:] in (TWO_DOTS if is_weight else ONE_DOT):
        return key[:dot]
    for ending in LORA_ENDINGS if is_weight else BARE_ENDINGS:
        if key.endswith(ending):
            return key[: -len(ending)]
    return key


def layers_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of every layer a LoRA adapts: rows of its up factor, columns of its down
    factor, both of a difference of the whole weight; 0 if unknown.
    """
    sizes: dict[str, tuple[int, int]] = {}
    for key, shape in shapes.items():
        layer = layer_of(key)
        outputs, inputs = sizes.get(layer, (0, 0))
        if len(shape) > 1:
            ending = key[len(layer) :]
            if ending in DOWN_ENDINGS:
                inputs = shape[1]
            elif ending in UP_ENDINGS:
                outputs = shape[0]
            elif ending in WHOLE_ENDINGS:
                outputs, inputs = shape[:2]
        sizes[layer] = (outputs, inputs)
    return sizes


def is_of_text_encoder(key: str) -> bool:
    """Whether a layer or a tensor changes the text encoder, and no part of the diffusion model."""
    return key.startswith(OF_TEXT_ENCODER)


def fingerprint_of(header: Header) -> Fingerprint:
    """What the file is by its tensors alone."""
    plain = plain_keys(header.shapes)
    keys = {plain[key]: shape for key, shape in header.shapes.items()}
    if (adapter := _adapter_of(keys)) is not None:
        return Fingerprint(None, (), (f"header: {adapter.name}",), adapter=adapter)
    kind = _kind_of(keys)
    if kind is not Kind.LORA:
        what = f"header: {kind.value if kind else 'neither an adapter nor a diffusion model'}"
        return Fingerprint(kind, (), (what,))
    layers = layers_of(keys)
    downs = {
        key: None for key in keys if key.endswith(DOWN_ENDINGS) and not is_of_text_encoder(key)
    }
    alpha = (
        "tensors"
        if any(key.endswith(".alpha") for key in keys)
        else "metadata"
        if alpha_in(header.metadata)
        else "absent"
    )
    differences = any(key.endswith(DIFFERENCE_ENDINGS) for key in keys)
    return replace(
        lora_fingerprint(layers, _ranks_of(downs, keys, layers), alpha, differences),
        pairs=len(downs),
        has_text_encoder=any(key.startswith(TEXT_ENCODER_PREFIXES) for key in keys),
        naming=_only(map(_naming_of, downs)),
        dtype=_only(place.dtype for key, place in header.stored.items() if plain.get(key) in downs),
        is_dora=any(map(is_of_dora, keys)),
        trainer=next((who for mark, who in TRAINERS.items() if mark in header.metadata), ""),
    )


def _naming_of(down: str) -> str:
    """What stands before and behind a layer's own name in the key of its down factor."""
    prefix = re.match(NAMING_PREFIXES, down)
    ending = next(ending for ending in DOWN_ENDINGS if down.endswith(ending))
    return f"{prefix[0] if prefix else ''}*{ending.removesuffix('.weight')}"


def _only(values: Iterable[str]) -> str:
    """The one value that all of these are; empty where they differ."""
    different = set(values)
    return different.pop() if len(different) == 1 else ""


def _ranks_of(
    downs: Iterable[str], shapes: Mapping[str, tuple[int, ...]], layers: Layers
) -> tuple[int, ...]:
    """The ranks of down factors."""
    known = ((shapes[key], layers[layer_of(key)][0]) for key in downs if shapes[key])
    return ranks_of_pairs(
        (shape[0], min(outputs or shape[0], math.prod(shape[1:]))) for shape, outputs in known
    )


def ranks_of_pairs(pairs: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """The ranks of pairs, each (its rank, the smaller side of its layer). A pair as large as its
    own layer says nothing of the others': 128 in a LoRA of rank 384, where a layer has 128 inputs.
    """
    ranks: set[int] = set()
    capped: set[int] = set()
    for rank, smaller in pairs:
        (capped if rank >= smaller else ranks).add(rank)
    return tuple(sorted(ranks or capped))


def _adapter_of(keys: Collection[str]) -> OtherAdapter | None:
    if any(map(_is_of_motion, keys)):
        return None
    return other_adapter(keys, [key for key in keys if key.endswith(DOWN_ENDINGS)])


def _is_of_motion(key: str) -> bool:
    return "motion_modules." in key or "temporal_transformer" in key


def _kind_of(keys: Collection[str]) -> Kind | None:
    if any(map(_is_of_motion, keys)):
        return Kind.MOTION_MODULE
    if any(key.endswith((*LORA_ENDINGS, *DIFFERENCE_ENDINGS)) for key in keys):
        return Kind.LORA
    if any(key.endswith(".weight") and re.search(MODEL_LAYER, key) for key in keys):
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
        Kind.LORA,
        measured.bases,
        (words,),
        measured.width,
        ranks,
        alpha=alpha,
        has_differences=has_differences,
        has_convolutions=any(base.has_timesteps for base in measured.bases)
        and has_convolutions(layers),
    )
