"""Small headers for every base, in every layout: what recognition is tried on over the whole
catalogue.

The layers of bases whose published headers are known are taken from those (real_headers.py), the
first and the last block of each kind: recognition reads names and widths, not how many there are.
What is made up here is the rest: FLUX.2, Z-Image, Krea-2, Anima, Boogu-Image, HiDream-O1,
HunyuanVideo 1.5, MiniMax-H3, Qwen-Image 2.1, Ideogram 4 and SD 2.1, whose published headers nobody
has rebuilt, FLUX.1 in the host's own names, and every layout that a base's own files do not have.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from comfyui_fewstep.loras.accelerator import Accelerator
from comfyui_fewstep.loras.bases import Base
from comfyui_fewstep.loras.header import Header
from real_headers import shapes_in

Layer = tuple[str, int, int]  # name, outputs, inputs

# The one size an architecture has, or the one meant where a record names none.
WIDTHS = {
    Base.SD3: 1536,
    Base.FLUX: 3072,
    Base.FLUX2: 6144,
    Base.Z_IMAGE: 3840,
    Base.QWEN_IMAGE: 3072,
    Base.QWEN_IMAGE21: 4096,
    Base.IDEOGRAM4: 4608,
    Base.KREA2: 6144,
    Base.ANIMA: 2048,
    Base.BOOGU: 2520,
    Base.HIDREAM_O1: 4096,
    Base.WAN_T2V: 5120,
    Base.WAN21_I2V: 5120,
    Base.WAN22_I2V: 5120,
    Base.WAN22_TI2V: 3072,
    Base.HUNYUAN_VIDEO: 3072,
    Base.HUNYUAN15: 2048,
    Base.LTXAV: 4096,
    Base.MINIMAX_H3: 6144,
}
# The tables of real_headers.py that hold a base's layers. Other sizes are the same, scaled.
REAL_TABLES = {
    Base.SD15: ("unet-sd15",),
    Base.SDXL: ("unet-sdxl",),
    Base.SSD1B: ("unet-ssd1b",),
    Base.SD3: ("sd3",),
    Base.QWEN_IMAGE: ("qwen-image",),
    Base.WAN_T2V: ("wan-14b blocks",),
    Base.WAN22_I2V: ("wan-14b blocks",),
    Base.WAN21_I2V: ("wan-14b blocks", "wan-14b image branch"),
    Base.WAN22_TI2V: ("wan-5b",),
    Base.HUNYUAN_VIDEO: ("hunyuan-video",),
    Base.LTXAV: ("ltx-2.3",),
}


@functools.cache
def ends_of(tables: tuple[str, ...]) -> tuple[Layer, ...]:
    """Of each kind of layer the first and the last: blocks.0.ffn.0 and blocks.39.ffn.2."""
    shapes = shapes_in("layers", tables)
    kinds: dict[str, list[tuple[int, ...]]] = {}
    for name in shapes:
        numbers = tuple(map(int, re.findall(r"\d+", name)))
        kinds.setdefault(re.sub(r"\d+", "#", name), []).append(numbers)
    ends = {kind: {min(numbers), max(numbers)} for kind, numbers in kinds.items()}
    return tuple(
        (name, shape[0], shape[1])
        for name, shape in shapes.items()
        if tuple(map(int, re.findall(r"\d+", name))) in ends[re.sub(r"\d+", "#", name)]
    )


def square(width: int, *names: str) -> list[Layer]:
    return [(name, width, width) for name in names]


def layers_of(base: Base, width: int) -> list[Layer]:
    """Layers of a base, by the names that its accelerators have or, made up, the host's own."""
    if base in REAL_TABLES:
        real = ends_of(REAL_TABLES[base])
        own = WIDTHS.get(base, 0)
        if width in (0, own):
            return list(real)
        return [(name, rows * width // own, columns * width // own) for name, rows, columns in real]
    return made_up(base, width)


def made_up(base: Base, width: int) -> list[Layer]:
    if base is Base.SD21:
        blocks = ("down_blocks.1", 640), ("down_blocks.2", 1280), ("mid_block", 1280)
        return [
            (f"{block}.attentions.0.transformer_blocks.0.{layer}", size, inputs or size)
            for block, size in blocks
            for layer, inputs in (("attn1.to_q", 0), ("attn2.to_k", 1024))
        ]
    double = [("double_blocks.0.img_attn.qkv", 3 * width, width)]
    return {
        Base.FLUX: [*double, ("single_blocks.0.linear1", 7 * width, width)],
        Base.FLUX2: [*double, ("single_blocks.0.linear1", 9 * width, width)],
        Base.HUNYUAN15: double,
        Base.Z_IMAGE: [
            ("layers.0.attention.qkv", 3 * width, width),
            ("layers.0.feed_forward.w1", 2 * width, width),
        ],
        # Its keys and values are narrower than its queries.
        Base.KREA2: [
            *square(width, "blocks.0.attn.wq", "blocks.0.attn.wo"),
            ("blocks.0.attn.wk", width // 4, width),
        ],
        Base.ANIMA: square(width, "blocks.0.self_attn.q_proj", "blocks.0.cross_attn.k_proj"),
        Base.BOOGU: square(
            width,
            "double_stream_layers.0.attn.processor.img_to_q",
            "single_stream_layers.0.attn.to_q",
        ),
        Base.QWEN_IMAGE21: square(
            width, "transformer_blocks.0.attn.to_q", "transformer_blocks.0.img_mlp.out"
        ),
        Base.IDEOGRAM4: [
            ("layers.0.attention.qkv", 3 * width, width),
            *square(width, "layers.0.attention.o", "layers.0.adaln_modulation"),
        ],
        Base.HIDREAM_O1: square(width, "language_model.layers.0.self_attn.q_proj"),
        Base.MINIMAX_H3: [
            ("blocks.0.attn.qkv_proj", 3 * width, width),
            ("blocks.0.mlp.fc1", 4 * width, width),
        ],
    }[base]


# How trainers and publishers write one layer: name -> (down key, up key, alpha key).
LAYOUTS = {
    "kohya": lambda name: tuple(
        f"lora_unet_{name.replace('.', '_')}.{end}"
        for end in ("lora_down.weight", "lora_up.weight", "alpha")
    ),
    "native": lambda name: tuple(
        f"diffusion_model.{name}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")
    ),
    "peft": lambda name: tuple(
        f"transformer.{name}.{end}" for end in ("lora_A.weight", "lora_B.weight", "alpha")
    ),
    "native-peft": lambda name: tuple(
        f"diffusion_model.{name}.{end}" for end in ("lora_A.weight", "lora_B.weight", "alpha")
    ),
    "bare-kohya": lambda name: tuple(
        f"{name}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")
    ),
    "bare": lambda name: tuple(
        f"{name}.{end}" for end in ("lora_A.default.weight", "lora_B.default.weight", "alpha")
    ),
}


def header(
    layers: Iterable[Layer],
    layout: str = "native",
    rank: int = 32,
    alpha: bool = True,
    differences: bool = False,
    metadata: dict[str, str] | None = None,
    size: int = 0,
) -> Header:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, outputs, inputs in layers:
        down, up, scale = LAYOUTS[layout](name)
        shapes |= {down: (rank, inputs), up: (outputs, rank)} | ({scale: ()} if alpha else {})
        if differences:
            shapes[down.rsplit(".lora", 1)[0] + ".diff_b"] = (outputs,)
    return Header(shapes, metadata or {}, size)


def width_for(record: Accelerator) -> int:
    return record.width or WIDTHS.get(record.bases[0], 0)


def header_of(record: Accelerator, layout: str = "native", **options) -> Header:
    """A header this record's published file may have."""
    file = next((file for file in record.files if file.rank), record.files[0])
    options.setdefault("rank", file.rank or 32)
    return header(layers_of(record.bases[0], width_for(record)), layout, **options)
