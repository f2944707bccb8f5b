"""Which base architecture a set of layers belongs to, and how wide it is, by names and shapes.

Layer names are compared flat: without the prefixes that trainers put before them, and with "."
written as "_", the way kohya's format has them. Patterns are kept as text: compiling them all would
be a fifth of the time the pack takes to start.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .bases import Base, BaseRow, LayerNames, bases_in_words

# Layer name -> (outputs, inputs) of its weight. For a LoRA: rows of the up factor, columns of the
# down factor.
Layers = Mapping[str, tuple[int, int]]

DOTTED_PREFIXES = (
    r"^((base_model|model|diffusion_model|transformer|unet|pipe\.dit|dit|module|_orig_mod)\.)+"
)
FLAT_PREFIXES = r"^(lora_unet|lora_transformer|lycoris)_+"


@dataclass(frozen=True)
class Measured:
    """What a set of layers shows of the model it is for."""

    bases: tuple[Base, ...]  # every one the layers fit, empty when none is known
    width: int | None  # hidden width, where a layer shows it
    words: str  # the two for people, and what showed them


def _by_names() -> list[tuple[LayerNames, tuple[Base, ...]]]:
    """Every set of layer names and the bases that have it, in the order they are looked for."""
    sharing: dict[LayerNames, list[Base]] = {}
    for base in Base:
        for names in base.layers:
            sharing.setdefault(names, []).append(base)
    ordered = sorted(sharing, key=lambda names: names.turn)
    return [(names, tuple(sharing[names])) for names in ordered]


BY_NAMES = _by_names()

DOUBLE_STREAM = r"^(double|single)_blocks_(\d+)_"
# The same blocks in diffusers' names: those without "single" are the double ones.
IN_DIFFUSERS = r"^(single)?_?transformer_blocks_(\d+)_"
DOUBLE_STREAM_WIDTH = r"^(double_blocks_\d+_(img|txt)_attn_qkv|single_blocks_\d+_linear1)$"
# Names that HunyuanVideo's authors gave the layers FLUX calls mod.lin and mlp.0.
HUNYUAN = (
    r"^(double_blocks_\d+_(img|txt)_(mod_linear|mlp_fc[12])"
    r"|single_blocks_\d+_modulation_linear|txt_in_individual)"
)
HUNYUAN_DOTTED = r"double_blocks\.\d+\.(img|txt)_attn_(qkv|proj)$"
WAN = (
    r"^(vace_)?blocks_\d+_"
    r"((self|cross)_attn_(q|k|v|o|k_img|v_img|norm_\w+)|ffn_[02]|modulation)$"
)
# diffusers' names of Wan's layers, flat, and the model's own: nothing is fused or split, each is
# one layer under two names.
WAN_IN_DIFFUSERS = r"^blocks_\d+_attn[12]_(to_[qkv]|to_out_0|add_[kv]_proj)$"
WAN_BLOCK_NAMES = {
    "attn1_to_q": "self_attn.q",
    "attn1_to_k": "self_attn.k",
    "attn1_to_v": "self_attn.v",
    "attn1_to_out_0": "self_attn.o",
    "attn1_norm_q": "self_attn.norm_q",
    "attn1_norm_k": "self_attn.norm_k",
    "attn2_to_q": "cross_attn.q",
    "attn2_to_k": "cross_attn.k",
    "attn2_to_v": "cross_attn.v",
    "attn2_to_out_0": "cross_attn.o",
    "attn2_norm_q": "cross_attn.norm_q",
    "attn2_norm_k": "cross_attn.norm_k",
    "attn2_add_k_proj": "cross_attn.k_img",
    "attn2_add_v_proj": "cross_attn.v_img",
    "attn2_norm_added_k": "cross_attn.norm_k_img",
    "norm2": "norm3",
    "ffn_net_0_proj": "ffn.0",
    "ffn_net_2": "ffn.2",
}
WAN_OTHER_NAMES = {
    "condition_embedder_text_embedder_linear_1": "text_embedding.0",
    "condition_embedder_text_embedder_linear_2": "text_embedding.2",
    "condition_embedder_time_embedder_linear_1": "time_embedding.0",
    "condition_embedder_time_embedder_linear_2": "time_embedding.2",
    "condition_embedder_time_proj": "time_projection.1",
    "condition_embedder_image_embedder_norm1": "img_emb.proj.0",
    "condition_embedder_image_embedder_ff_net_0_proj": "img_emb.proj.1",
    "condition_embedder_image_embedder_ff_net_2": "img_emb.proj.3",
    "condition_embedder_image_embedder_norm2": "img_emb.proj.4",
    "proj_out": "head.head",
}
WAN_WIDTH = r"^blocks_\d+_(self_attn_[qkv]|cross_attn_q|ffn_0)$"
UNET_TEXT = r"attn2_(processor_)?to_[kv]$"
LOWEST_BLOCK = r"^(down_blocks_2_attentions_\d|input_blocks_[78]_1)_transformer_blocks_\d_"
SDXL_ALONE = (
    r"^(mid_block_attentions|middle_block_1)_"
    r"|^(down_blocks_2_attentions_\d|input_blocks_[78]_1)_transformer_blocks_[4-9]_"
)

# A UNet's convolutions outside its attention, by diffusers' names and by the host's.
UNET_CONVOLUTION = r"(resnets_\d+_conv\d|_(in|out)_layers_[23]|samplers_0_conv|_op)$"

# The kinds of Wan that a LoRA may be for when it has no image branch.
WAN_WITHOUT_IMAGE = (Base.WAN_T2V, Base.WAN22_I2V, Base.WAN22_TI2V)
# Their rows have no names of layers: what they share is taken apart below.
TAKEN_APART = (
    *WAN_WITHOUT_IMAGE,
    Base.WAN21_I2V,
    Base.HUNYUAN_VIDEO,
    Base.HUNYUAN15,
    Base.HUNYUAN15_SR,
)
# FLUX.1 has 19 double and 38 single blocks, HunyuanVideo 20 and 40.
FLUX_BLOCKS = {"double": 19, "single": 38}


def flat(layer: str) -> str:
    """A layer's name without prefixes and dots. Some converters leave a dot's "_" at the end."""
    name = re.sub(DOTTED_PREFIXES, "", layer).replace(".", "_")
    return re.sub(FLAT_PREFIXES, "", name).rstrip("_")


def _all_flat(layers: Iterable[str]) -> list[str]:
    """The flat names of layers, by one look at a text of them all."""
    layers = list(layers)
    text = re.sub(DOTTED_PREFIXES, "", _listed(layers), flags=re.MULTILINE).replace(".", "_")
    text = re.sub(FLAT_PREFIXES, "", text, flags=re.MULTILINE)
    names = [name.rstrip("_") for name in text.split("\n")]
    # A name of several lines is nobody's, and may be in any file.
    return names if len(names) == len(layers) else [flat(layer) for layer in layers]


def is_in_diffusers(layer: str) -> bool:
    """Whether a layer has a name that diffusers gives the blocks of most transformers."""
    return re.match(IN_DIFFUSERS, flat(layer)) is not None


def is_wan_in_diffusers(layers: Iterable[str]) -> bool:
    """Whether these layers are Wan's under diffusers' names."""
    # A look for the word first: of most files no layer has it.
    telling = [layer for layer in layers if "attn1" in layer or "attn2" in layer]
    return _has(map(flat, telling), WAN_IN_DIFFUSERS)


def wans_own_name(layer: str) -> str | None:
    """The model's own name of a layer of Wan that has diffusers' name; None for any other."""
    name = flat(layer)
    block = re.match(r"((?:vace_)?blocks)_(\d+)_(.+)", name)
    if block and block[3] in WAN_BLOCK_NAMES:
        return f"{block[1]}.{block[2]}.{WAN_BLOCK_NAMES[block[3]]}"
    return WAN_OTHER_NAMES.get(name)


def _flat_in_wan(name: str) -> str:
    """The model's own name of a layer of Wan, flat."""
    return flat(wans_own_name(name) or name)


def has_known_layers(base: BaseRow) -> bool:
    """Whether a LoRA for this base can be told by its layers, if only as one for a base like it."""
    return bool(base.layers or base.layers_as or base.text_width) or base in TAKEN_APART


def weights_as_layers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of every layer of a whole model, by its weights."""
    return {
        key.removesuffix(".weight"): (shape[0], shape[1])
        for key, shape in shapes.items()
        if key.endswith(".weight") and len(shape) > 1
    }


def architecture_of(layers: Layers) -> Measured:
    """What architecture these layers are of."""
    named = dict(zip(_all_flat(layers), layers.values()))
    # Which block it is in matters to no marker: a layer of one stands for those of all.
    one_block = re.sub(r"(blocks|layers)_\d+_", r"\1_0_", _listed(named))
    kinds = _listed(set(one_block.split("\n")))
    if _has(kinds, WAN_IN_DIFFUSERS):
        return _measure_wan({_flat_in_wan(name): shape for name, shape in named.items()})
    for names, bases in BY_NAMES:
        if _has(kinds, names.marker):
            width = _width(named, names.width)
            # HunyuanVideo has diffusers' names of FLUX.1, in more blocks.
            if Base.FLUX in bases and _has_more_blocks(named, IN_DIFFUSERS):
                return _measured((Base.HUNYUAN_VIDEO,), width, " (diffusers' names)")
            return _measured(_of_width(bases, width), width)
    if _has(kinds, WAN):
        return _measure_wan(named)
    if _has(kinds, DOUBLE_STREAM):
        return _measure_double_stream(layers, named)
    if _has(kinds, UNET_TEXT):
        return _measure_unet(named)
    return Measured((), None, "an unknown architecture")


def has_convolutions(layers: Iterable[str]) -> bool:
    """Whether a UNet's convolutions are among these layers."""
    return _has(map(flat, layers), UNET_CONVOLUTION)


def _listed(names: Iterable[str]) -> str:
    """Names as lines of one text, which is searched many times."""
    return "\n".join(names)


def _has(names: Iterable[str] | str, pattern: str) -> bool:
    """Whether one of these names has the pattern. names: a text of them is searched as it is."""
    text = names if isinstance(names, str) else _listed(names)
    return re.search(pattern, text, re.MULTILINE) is not None


def _width(named: Layers, pattern: str) -> int | None:
    """The input width that most of the named layers share; None where none of them is there."""
    widths = [inputs for name, (_, inputs) in named.items() if inputs and re.search(pattern, name)]
    return Counter(widths).most_common(1)[0][0] if widths else None


def _of_width(bases: tuple[Base, ...], width: int | None) -> tuple[Base, ...]:
    """Of bases that share their names, those that were published in this width or in no known one;
    all of them where nothing was published in it.
    """
    if not any(width in base.widths for base in bases):
        return bases
    return tuple(base for base in bases if width in base.widths or not base.widths)


def _measured(bases: tuple[Base, ...], width: int | None, more: str = "") -> Measured:
    words = bases_in_words(bases) + (f", width {width}" if width else "") + more
    return Measured(bases, width, words)


def _measure_wan(named: Layers) -> Measured:
    """Wan's kinds differ by an image branch, by the channels of the input, and by size."""
    width = _width(named, WAN_WIDTH)
    if any("k_img" in name or "img_emb" in name for name in named):
        return _measured((Base.WAN21_I2V,), width, " (it has the image branch)")
    channels = {inputs for name, (_, inputs) in named.items() if name == "patch_embedding"}
    by_channels = {base.input_channels: base for base in WAN_WITHOUT_IMAGE}
    if len(channels) == 1 and (channel := channels.pop()) in by_channels:
        return _measured((by_channels[channel],), width, f" ({channel} input channels)")
    if width in Base.WAN22_TI2V.widths:
        return _measured((Base.WAN22_TI2V,), width)
    bases: tuple[Base, ...] = WAN_WITHOUT_IMAGE
    if width in Base.WAN_T2V.widths:
        bases = tuple(base for base in bases if base is not Base.WAN22_TI2V)
    return _measured(bases, width, " (no image branch)")


def _measure_double_stream(layers: Layers, named: Layers) -> Measured:
    """FLUX.1, FLUX.2 and HunyuanVideo share most names; widths and other names tell them apart."""
    width = _width(named, DOUBLE_STREAM_WIDTH)
    # One projection makes queries, keys, values and the first half of the MLP: 3 + 4 widths, in
    # FLUX.2 3 + 2 · 3.
    ratios = {
        outputs / inputs
        for name, (outputs, inputs) in named.items()
        if name.endswith("_linear1") and inputs
    }
    # klein 4B is as wide as FLUX.1, and shows itself by its projections alone.
    if 9.0 in ratios or width in set(Base.FLUX2.widths) - set(Base.FLUX.widths):
        return _measured((Base.FLUX2,), width)
    if width in Base.HUNYUAN15.widths:
        return _measured((Base.HUNYUAN15, Base.HUNYUAN15_SR), width)
    has_hunyuan_names = _has(named, HUNYUAN) or _has(layers, HUNYUAN_DOTTED)
    if has_hunyuan_names or _has_more_blocks(named, DOUBLE_STREAM):
        return _measured(
            (Base.HUNYUAN_VIDEO, *((Base.HUNYUAN15, Base.HUNYUAN15_SR) if width is None else ())),
            width,
        )
    return _measured((Base.FLUX, Base.HUNYUAN_VIDEO), width)


def _has_more_blocks(named: Iterable[str], pattern: str) -> bool:
    """Whether there are more blocks than FLUX.1 has. pattern: of a layer's kind of block and its
    number.
    """
    blocks = [re.match(pattern, name) for name in named]
    return any(block and int(block[2]) >= FLUX_BLOCKS[block[1] or "double"] for block in blocks)


def _measure_unet(named: Layers) -> Measured:
    """Stable Diffusion UNets differ in the width of their text: the input of attn2's keys."""
    widths = {
        inputs for name, (_, inputs) in named.items() if inputs and re.search(UNET_TEXT, name)
    }
    bases = tuple(base for base in Base if {base.text_width} == widths)
    if Base.SDXL in bases:
        return _measure_large_unet(named)
    if bases:
        words = f"{bases_in_words(bases)} (text width {bases[0].text_width})"
        return Measured(bases, None, words)
    return Measured((), None, f"a UNet with the unknown text width {sorted(widths)}")


def _measure_large_unet(named: Layers) -> Measured:
    """SSD-1B is SDXL with no attention in the middle block and 4 transformer blocks for 10."""
    if _has(named, SDXL_ALONE):
        return Measured((Base.SDXL,), None, "SDXL (text width 2048)")
    if _has(named, LOWEST_BLOCK):
        return Measured((Base.SSD1B,), None, "SSD-1B (text width 2048, shallow, no middle block)")
    return Measured((Base.SDXL, Base.SSD1B), None, "SDXL or SSD-1B (text width 2048)")
