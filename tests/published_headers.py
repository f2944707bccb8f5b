"""Headers as the published LoRAs of every base have them: layer names and shapes, no weights.

One block of each kind is enough: recognition reads names and widths, not how many there are.
"""

from __future__ import annotations

from collections.abc import Iterable

from comfyui_fewstep.loras.accelerator import Accelerator
from comfyui_fewstep.loras.bases import Base
from comfyui_fewstep.loras.header import Header

Layer = tuple[str, int, int]  # name, outputs, inputs

# The one size an architecture has, or the one meant where a record names none.
WIDTHS = {
    Base.SD3: 1536,
    Base.FLUX: 3072,
    Base.FLUX2: 6144,
    Base.Z_IMAGE: 3840,
    Base.QWEN_IMAGE: 3072,
    Base.KREA2: 4096,
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


def unet(text: int, deep: int, middle: bool) -> list[Layer]:
    blocks = [("down_blocks.1", 640, 0), ("down_blocks.2", 1280, deep), ("up_blocks.0", 1280, 0)]
    if middle:
        blocks.append(("mid_block", 1280, 0))
    return [
        (f"{block}.attentions.0.transformer_blocks.{number}.{layer}", width, inputs or width)
        for block, width, deepest in blocks
        for number in {0, deepest}
        for layer, inputs in (("attn1.to_q", 0), ("attn2.to_k", text))
    ]


def square(width: int, *names: str) -> list[Layer]:
    return [(name, width, width) for name in names]


def wan(width: int, channels: int | None = None, image: bool = False) -> list[Layer]:
    layers = square(width, "blocks.0.self_attn.q", "blocks.0.cross_attn.k", "blocks.0.self_attn.o")
    layers += [("blocks.0.ffn.0", 4 * width, width)]
    layers += square(width, "blocks.0.cross_attn.k_img") if image else []
    return layers + ([("patch_embedding", width, channels)] if channels else [])


def layers_of(base: Base, width: int) -> list[Layer]:
    """Layers of one block, by the host's own names or, for the UNets, diffusers'."""
    unets = {
        Base.SD15: (768, 0, True),
        Base.SD21: (1024, 0, True),
        Base.SDXL: (2048, 9, True),
        Base.SSD1B: (2048, 3, False),
    }
    if base in unets:
        return unet(*unets[base])
    double = [("double_blocks.0.img_attn.qkv", 3 * width, width)]
    return {
        Base.SD3: lambda: [("joint_blocks.0.x_block.attn.qkv", 3 * width, width)],
        Base.FLUX: lambda: [*double, ("single_blocks.0.linear1", 7 * width, width)],
        Base.FLUX2: lambda: [*double, ("single_blocks.0.linear1", 9 * width, width)],
        Base.HUNYUAN_VIDEO: lambda: [
            ("double_blocks.0.img_attn_qkv", 3 * width, width),
            ("single_blocks.39.linear1", 7 * width, width),
        ],
        Base.HUNYUAN15: lambda: double,
        Base.Z_IMAGE: lambda: [
            ("layers.0.attention.qkv", 3 * width, width),
            ("layers.0.feed_forward.w1", 2 * width, width),
        ],
        Base.QWEN_IMAGE: lambda: [
            *square(
                width, "transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.add_q_proj"
            ),
            ("transformer_blocks.0.img_mlp.net.0.proj", 4 * width, width),
        ],
        Base.KREA2: lambda: square(width, "blocks.0.attn.wq", "blocks.0.attn.wo"),
        Base.ANIMA: lambda: square(
            width, "blocks.0.self_attn.q_proj", "blocks.0.cross_attn.k_proj"
        ),
        Base.BOOGU: lambda: square(
            width,
            "double_stream_layers.0.attn.processor.img_to_q",
            "single_stream_layers.0.attn.to_q",
        ),
        Base.HIDREAM_O1: lambda: square(width, "language_model.layers.0.self_attn.q_proj"),
        Base.WAN_T2V: lambda: wan(width),
        Base.WAN22_I2V: lambda: wan(width),
        Base.WAN22_TI2V: lambda: wan(width),
        Base.WAN21_I2V: lambda: wan(width, image=True),
        Base.LTXAV: lambda: square(
            width,
            "transformer_blocks.0.attn1.to_q",
            "transformer_blocks.0.audio_to_video_attn.to_q",
        ),
        Base.MINIMAX_H3: lambda: [
            ("blocks.0.attn.qkv_proj", 3 * width, width),
            ("blocks.0.mlp.fc1", 4 * width, width),
        ],
    }[base]()


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
