"""Which base architecture a set of layers belongs to, and how wide it is: by layer names and shapes
alone.

Layer names are compared flat: without the prefixes that trainers put before them, and with "."
written as "_", the way kohya's format has them. Patterns are kept as text: compiling them all would
be a fifth of the time the pack takes to start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .accelerator import Base

# Layer name -> (outputs, inputs) of its weight. For a LoRA: rows of the up factor, columns of the
# down factor.
Layers = Mapping[str, tuple[int, int]]

DOTTED_PREFIXES = r"^((base_model|model|diffusion_model|transformer|unet)\.)+"
FLAT_PREFIXES = r"^(lora_unet|lora_transformer|lycoris)_+"


@dataclass(frozen=True)
class Measured:
    """bases: every architecture the layers fit, empty when none is known. width: hidden width,
    where a layer shows it.
    """

    bases: tuple[Base, ...]
    width: int | None
    words: str


@dataclass(frozen=True)
class Architecture:
    """marker: layers that only this architecture has. width: layers whose input is the hidden
    width.
    """

    bases: tuple[Base, ...]
    marker: str
    width: str


# In this order: the first whose marker is found. What shares its names with others comes after
# them.
ARCHITECTURES = (
    Architecture(
        (Base.LTXAV,),
        r"^transformer_blocks_\d+_(audio_(attn\d|ff)|audio_to_video_attn|video_to_audio_attn)",
        r"^transformer_blocks_\d+_attn1_to_[qkv]$",
    ),
    Architecture(
        (Base.LTXV,),
        r"^transformer_blocks_\d+_attn1_to_[qkv]$",
        r"^transformer_blocks_\d+_attn1_to_[qkv]$",
    ),
    Architecture(
        (Base.LENS,),
        r"^transformer_blocks_\d+_attn_(img|txt)_qkv$",
        r"^transformer_blocks_\d+_attn_img_qkv$",
    ),
    Architecture(
        (Base.KREA2,),
        r"^(blocks_\d+_attn_w[qkvo]|transformer_blocks_\d+_attn_to_gate|txtfusion_|text_fusion_)",
        r"^(blocks_\d+_attn_w[qkv]|transformer_blocks_\d+_attn_to_[qkv])$",
    ),
    Architecture(
        (Base.FLUX2,),
        r"^((double|single)_stream_modulation_|single_transformer_blocks_\d+_attn_to_qkv_mlp_proj)",
        r"^(double_blocks_\d+_img_attn_qkv|single_blocks_\d+_linear1|single_transformer_blocks_\d+_attn_to_qkv_mlp_proj)$",
    ),
    Architecture(
        (Base.FLUX,),
        r"^single_transformer_blocks_\d+_(attn_to_[qkv]|proj_mlp|norm_linear)",
        r"^(single_)?transformer_blocks_\d+_attn_to_[qkv]$",
    ),
    Architecture(
        (Base.SD3,),
        r"^(joint_blocks_\d+_(x|context)_block_|transformer_blocks_\d+_ff_context_)",
        r"^(joint_blocks_\d+_x_block_attn_qkv|transformer_blocks_\d+_attn_to_[qkv])$",
    ),
    Architecture(
        (Base.QWEN_IMAGE, Base.MAGE_FLOW),
        r"^transformer_blocks_\d+_(img_mod_1|txt_mod_1|img_mlp_|txt_mlp_)",
        r"^transformer_blocks_\d+_attn_to_[qkv]$",
    ),
    Architecture(
        (Base.QWEN_IMAGE, Base.MAGE_FLOW, Base.SD3),
        r"^transformer_blocks_\d+_attn_add_[qkv]_proj$",
        r"^transformer_blocks_\d+_attn_to_[qkv]$",
    ),
    Architecture(
        (Base.HIDREAM_O1,),
        r"^language_model_layers_\d+_self_attn_",
        r"^language_model_layers_\d+_self_attn_[qkv]_proj$",
    ),
    Architecture(
        (Base.HIDREAM,),
        r"^(double|single)_stream_blocks_\d+_",
        r"^(double|single)_stream_blocks_\d+_block_attn1_to_[qkv]$",
    ),
    Architecture(
        (Base.BOOGU,),
        r"^(double|single)_stream_layers_\d+_",
        r"^(double_stream_layers_\d+_.*img_to_[qkv]|single_stream_layers_\d+_attn_to_q)$",
    ),
    Architecture(
        (Base.Z_IMAGE,),
        r"^layers_\d+_(attention_(qkv|out|to_[qkv]|to_out_0)|adaLN_modulation)",
        r"^layers_\d+_attention_(qkv|to_[qkv])$",
    ),
    Architecture(
        (Base.ERNIE_IMAGE,),
        r"^layers_\d+_self_attention_to_[qkv]$",
        r"^layers_\d+_self_attention_to_[qkv]$",
    ),
    Architecture(
        (Base.ACE_STEP15,),
        r"^(decoder_)?layers_\d+_self_attn_[qkv]_proj$",
        r"^(decoder_)?layers_\d+_self_attn_[qkv]_proj$",
    ),
    Architecture(
        (Base.ANIMA,),
        r"^blocks_\d+_(self|cross)_attn_[qkv]_proj$",
        r"^blocks_\d+_self_attn_[qkv]_proj$",
    ),
    Architecture(
        (Base.MINIMAX_H3,),
        r"^blocks_\d+_(attn_(qkv|out)_proj|mlp_fc[12])$",
        r"^blocks_\d+_(attn_qkv_proj|mlp_fc1)$",
    ),
)

DOUBLE_STREAM = r"^(double|single)_blocks_\d+_"
DOUBLE_STREAM_WIDTH = r"^(double_blocks_\d+_(img|txt)_attn_qkv|single_blocks_\d+_linear1)$"
# Names that HunyuanVideo's authors gave the layers FLUX calls mod.lin and mlp.0.
HUNYUAN = r"^(double_blocks_\d+_(img|txt)_(mod_linear|mlp_fc[12])|single_blocks_\d+_modulation_linear|txt_in_individual)"
HUNYUAN_DOTTED = r"double_blocks\.\d+\.(img|txt)_attn_(qkv|proj)$"
WAN = r"^(vace_)?blocks_\d+_((self|cross)_attn_(q|k|v|o|k_img|v_img|norm_\w+)|ffn_[02]|modulation|diff_m)$"
WAN_WIDTH = r"^blocks_\d+_(self_attn_[qkv]|cross_attn_q|ffn_0)$"
UNET_TEXT = r"attn2_(processor_)?to_[kv]$"
LOWEST_BLOCK = r"^(down_blocks_2_attentions_\d|input_blocks_[78]_1)_transformer_blocks_\d_"
SDXL_ALONE = r"^(mid_block_attentions|middle_block_1)_|^(down_blocks_2_attentions_\d|input_blocks_[78]_1)_transformer_blocks_[4-9]_"

# Hidden widths that tell architectures with the same layer names apart: the hosts' and the authors'
# configurations.
WAN_5B_WIDTH = 3072
WAN_OTHER_WIDTHS = (1536, 5120)
HUNYUAN15_WIDTH = 2048
# klein 9B and dev; klein 4B shares FLUX.1's 3072 and shows itself by its projections.
FLUX2_WIDTHS = (4096, 6144)
# FLUX.1 has 19 double and 38 single blocks, HunyuanVideo 20 and 40.
FLUX_BLOCKS = {"double": 19, "single": 38}


def flat(layer: str) -> str:
    """A layer's name without prefixes and dots."""
    return re.sub(FLAT_PREFIXES, "", re.sub(DOTTED_PREFIXES, "", layer).replace(".", "_"))


def measure(layers: Layers) -> Measured:
    """What architecture these layers are of."""
    named = {flat(layer): shape for layer, shape in layers.items()}
    # Which block it is in matters to no marker: a layer of one stands for those of all.
    kinds = {re.sub(r"(blocks|layers)_\d+_", r"\1_0_", name) for name in named}
    for architecture in ARCHITECTURES:
        if _has(kinds, architecture.marker):
            return _measured(architecture.bases, _width(named, architecture.width))
    if _has(kinds, WAN):
        return _measure_wan(named)
    if _has(kinds, DOUBLE_STREAM):
        return _measure_double_stream(layers, named)
    if _has(kinds, UNET_TEXT):
        return _measure_unet(named)
    return Measured((), None, "an architecture that is not known here")


def _has(names: Iterable[str], pattern: str) -> bool:
    return any(re.search(pattern, name) for name in names)


def _width(named: Layers, pattern: str) -> int | None:
    """The input width that most of the named layers share; None where none of them is there."""
    widths = [inputs for name, (_, inputs) in named.items() if inputs and re.search(pattern, name)]
    return max(set(widths), key=widths.count) if widths else None


def _measured(bases: tuple[Base, ...], width: int | None, more: str = "") -> Measured:
    words = " or ".join(base.value for base in bases) + (f", width {width}" if width else "") + more
    return Measured(bases, width, words)


def _measure_wan(named: Layers) -> Measured:
    """Wan's kinds differ by an image branch, by the channels of the input, and by size."""
    width = _width(named, WAN_WIDTH)
    if any("k_img" in name or "img_emb" in name for name in named):
        return _measured((Base.WAN21_I2V,), width, " (it has the image branch)")
    channels = {inputs for name, (_, inputs) in named.items() if name == "patch_embedding"}
    by_channels = {16: Base.WAN_T2V, 36: Base.WAN22_I2V, 48: Base.WAN22_TI2V}
    if len(channels) == 1 and (channel := channels.pop()) in by_channels:
        return _measured((by_channels[channel],), width, f" ({channel} input channels)")
    if width == WAN_5B_WIDTH:
        return _measured((Base.WAN22_TI2V,), width)
    bases = (Base.WAN_T2V, Base.WAN22_I2V)
    return _measured(
        bases if width in WAN_OTHER_WIDTHS else (*bases, Base.WAN22_TI2V),
        width,
        " (no image branch)",
    )


def _measure_double_stream(layers: Layers, named: Layers) -> Measured:
    """FLUX.1, FLUX.2 and HunyuanVideo share most names; widths, later blocks and other names tell
    them apart.
    """
    width = _width(named, DOUBLE_STREAM_WIDTH)
    # One projection makes queries, keys, values and the first half of the MLP: 3 + 4 widths, in
    # FLUX.2 3 + 2 · 3.
    ratios = {
        outputs / inputs
        for name, (outputs, inputs) in named.items()
        if name.endswith("_linear1") and inputs
    }
    if 9.0 in ratios or width in FLUX2_WIDTHS:
        return _measured((Base.FLUX2,), width)
    if width == HUNYUAN15_WIDTH:
        return _measured((Base.HUNYUAN15, Base.HUNYUAN15_SR), width)
    has_hunyuan_names = _has(named, HUNYUAN) or _has(layers, HUNYUAN_DOTTED)
    blocks = [re.match(r"(double|single)_blocks_(\d+)_", name) for name in named]
    if has_hunyuan_names or any(
        block and int(block[2]) >= FLUX_BLOCKS[block[1]] for block in blocks
    ):
        return _measured(
            (Base.HUNYUAN_VIDEO, *((Base.HUNYUAN15, Base.HUNYUAN15_SR) if width is None else ())),
            width,
        )
    return _measured((Base.FLUX, Base.HUNYUAN_VIDEO), width)


def _measure_unet(named: Layers) -> Measured:
    """Stable Diffusion UNets differ by the width of the text they attend to: the input of attn2's
    keys.
    """
    widths = {
        inputs for name, (_, inputs) in named.items() if inputs and re.search(UNET_TEXT, name)
    }
    if widths == {768}:
        return Measured((Base.SD15,), None, "SD 1.5 (text width 768)")
    if widths == {1024}:
        return Measured((Base.SD21,), None, "SD 2.1 (text width 1024)")
    if widths == {2048}:
        return _measure_large_unet(named)
    return Measured((), None, f"a UNet with text width {sorted(widths)}, which is not known here")


def _measure_large_unet(named: Layers) -> Measured:
    """SSD-1B is SDXL without attention in the middle block and with four transformer blocks where
    SDXL has ten.
    """
    if _has(named, SDXL_ALONE):
        return Measured((Base.SDXL,), None, "SDXL (text width 2048)")
    if _has(named, LOWEST_BLOCK):
        return Measured((Base.SSD1B,), None, "SSD-1B (text width 2048, shallow, no middle block)")
    return Measured((Base.SDXL, Base.SSD1B), None, "SDXL or SSD-1B (text width 2048)")
