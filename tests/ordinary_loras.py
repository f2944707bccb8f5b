"""Ordinary LoRAs, as the usual trainers write them: names and shapes of what they adapt, the
metadata they leave, for every base whose accelerators are often confused with styles.

Layers are the published accelerators' own (real_headers.py) or written out here, so that only
names, ranks, coverage and metadata tell one from an accelerator, as on people's disks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from comfyui_fewstep.loras.accelerator import Accelerator
from comfyui_fewstep.loras.bases import Base
from comfyui_fewstep.loras.header import Header
from real_headers import DATA, Shape, expanded

Layers = dict[str, tuple[int, int]]  # name -> (outputs, inputs)

KOHYA_METADATA = {
    "ss_network_module": "networks.lora",
    "ss_network_dim": "16",
    "ss_network_alpha": "8",
    "ss_output_name": "",
    "ss_steps": "2000",
    "modelspec.title": "",
}
AI_TOOLKIT_METADATA = {
    "format": "pt",
    "name": "",
    "software": '{"name": "ai-toolkit"}',
    "training_info": '{"step": 2000, "epoch": 20}',
}
ONE_TRAINER_METADATA = {"ot_branch": "master", "ot_revision": "0", "modelspec.title": ""}
DIFFUSERS_METADATA = {"format": "pt"}
TITLES = ("ss_output_name", "modelspec.title", "name")


def linear(table: str) -> Layers:
    """The layers of a table of the real headers that are no convolutions."""
    return {
        name: (shape[0], shape[1])
        for template, shape in DATA["layers"][table].items()
        for name in expanded(template)
        if len(shape) == 2
    }


def every(*layers: tuple[str, int, int]) -> Layers:
    return {
        name: (outputs, inputs)
        for template, outputs, inputs in layers
        for name in expanded(template)
    }


def only(layers: Mapping[str, tuple[int, int]], pattern: str) -> Layers:
    return {name: size for name, size in layers.items() if re.search(pattern, name)}


ATTENTION = r"attn[12]\."
FLUX_NATIVE = every(
    ("double_blocks.{0-18}.{img,txt}_attn.qkv", 9216, 3072),
    ("double_blocks.{0-18}.{img,txt}_attn.proj", 3072, 3072),
    ("double_blocks.{0-18}.{img,txt}_mlp.0", 12288, 3072),
    ("double_blocks.{0-18}.{img,txt}_mlp.2", 3072, 12288),
    ("double_blocks.{0-18}.{img,txt}_mod.lin", 18432, 3072),
    ("single_blocks.{0-37}.linear1", 21504, 3072),
    ("single_blocks.{0-37}.linear2", 3072, 15360),
    ("single_blocks.{0-37}.modulation.lin", 9216, 3072),
)
FLUX_DIFFUSERS = only(linear("flux"), r"transformer_blocks\.\d+\.(attn|ff|proj)")
WAN = only(linear("wan-14b blocks"), "blocks")
WAN_DIFFUSERS = every(
    ("blocks.{0-39}.{attn1,attn2}.to_{q,k,v}", 5120, 5120),
    ("blocks.{0-39}.{attn1,attn2}.to_out.0", 5120, 5120),
    ("blocks.{0-39}.ffn.net.0.proj", 13824, 5120),
    ("blocks.{0-39}.ffn.net.2", 5120, 13824),
)
Z_IMAGE = every(
    ("layers.{0-29}.attention.to_{q,k,v}", 3840, 3840),
    ("layers.{0-29}.attention.to_out.0", 3840, 3840),
    ("layers.{0-29}.feed_forward.w{1,3}", 10240, 3840),
    ("layers.{0-29}.feed_forward.w2", 3840, 10240),
)
TEXT_ENCODER = every(
    ("text_model.encoder.layers.{0-11}.self_attn.{q,k,v,out}_proj", 768, 768),
    ("text_model.encoder.layers.{0-11}.mlp.fc1", 3072, 768),
    ("text_model.encoder.layers.{0-11}.mlp.fc2", 768, 3072),
)
UNETS = {Base.SD15: linear("unet-sd15"), Base.SDXL: linear("unet-sdxl")}
CONVOLUTIONS = {Base.SD15: "unet-sd15", Base.SDXL: "unet-sdxl"}


AS_PUBLISHED = (
    "kohya LoCon, metadata stripped",
    "every layer, as Hyper-SD",
    "native names with alpha",
    "bare names",
)


@dataclass(frozen=True)
class OrdinaryLora:
    """A trainer's file for one base. header(rank, title): as the trainer would write it."""

    base: Base
    format: str
    header: Callable[[int, str], Header]

    @property
    def is_as_published(self) -> bool:
        """Whether it is written as accelerators are. Of the rank of a release, and called by that
        release's words and no other, nothing in it or about it tells it from the release.
        """
        return self.format in AS_PUBLISHED


def pairs(
    layers: Mapping[str, tuple[int, int]],
    key: Callable[[str], str],
    endings: tuple[str, ...],
    rank: int,
) -> dict[str, Shape]:
    """endings: of the down and the up factor, and of an alpha where there is one."""
    shapes: dict[str, Shape] = {}
    for name, (outputs, inputs) in layers.items():
        shapes[key(name) + endings[0]] = (rank, inputs)
        shapes[key(name) + endings[1]] = (outputs, rank)
        shapes |= {key(name) + endings[2]: ()} if len(endings) > 2 else {}
    return shapes


DOWN_UP = (".lora_down.weight", ".lora_up.weight", ".alpha")
A_B = (".lora_A.weight", ".lora_B.weight")


def flat(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name.replace(".", "_")


def dotted(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name


def titled(metadata: Mapping[str, str], title: str) -> dict[str, str]:
    return {name: title if name in TITLES else value for name, value in metadata.items()}


def low_rank(
    base: Base,
    format: str,
    layers: Mapping[str, tuple[int, int]],
    key: Callable[[str], str],
    endings: tuple[str, ...],
    metadata: Mapping[str, str],
    text_encoders: Iterable[str] = (),
) -> OrdinaryLora:
    """text_encoders: prefixes of those that are trained too."""

    def header(rank: int, title: str) -> Header:
        shapes = pairs(layers, key, endings, rank)
        for prefix in text_encoders:
            shapes |= pairs(TEXT_ENCODER, flat(prefix), DOWN_UP, rank)
        return Header(shapes, titled(metadata, title))

    return OrdinaryLora(base, format, header)


def with_convolutions(base: Base, format: str, metadata: Mapping[str, str]) -> OrdinaryLora:
    """kohya's LoCon or LyCORIS' full preset, no text encoder: the layers of an accelerator."""

    def header(rank: int, title: str) -> Header:
        shapes: dict[str, Shape] = {}
        for template, (outputs, inputs, *kernel) in DATA["layers"][CONVOLUTIONS[base]].items():
            for name in expanded(template):
                layer = flat("lora_unet_")(name)
                shapes[f"{layer}.lora_down.weight"] = (rank, inputs, *kernel)
                shapes[f"{layer}.lora_up.weight"] = (outputs, rank, *(1 for _ in kernel))
                shapes[f"{layer}.alpha"] = ()
        return Header(shapes, titled(metadata, title))

    return OrdinaryLora(base, format, header)


def other_adapter(base: Base, format: str, layers: Layers, key, parts) -> OrdinaryLora:
    """parts(outputs, inputs, rank): ending -> shape."""

    def header(rank: int, title: str) -> Header:
        shapes = {
            key(name) + ending: shape
            for name, (outputs, inputs) in layers.items()
            for ending, shape in parts(outputs, inputs, rank).items()
        }
        return Header(shapes, titled(KOHYA_METADATA, title))

    return OrdinaryLora(base, format, header)


def lokr(outputs: int, inputs: int, rank: int) -> dict[str, Shape]:
    return {
        ".lokr_w1": (8, 8),
        ".lokr_w2_a": (outputs // 8, rank),
        ".lokr_w2_b": (rank, inputs // 8),
        ".alpha": (),
    }


def loha(outputs: int, inputs: int, rank: int) -> dict[str, Shape]:
    return {
        **{f".hada_w{n}_a": (outputs, rank) for n in (1, 2)},
        **{f".hada_w{n}_b": (rank, inputs) for n in (1, 2)},
        ".alpha": (),
    }


def xlabs() -> OrdinaryLora:
    def header(rank: int, title: str) -> Header:
        shapes: dict[str, Shape] = {}
        for block in range(19):
            for part, outputs in (("qkv", 9216), ("proj", 3072)):
                for number in (1, 2):
                    layer = f"double_blocks.{block}.processor.{part}_lora{number}"
                    shapes[f"{layer}.down.weight"] = (rank, 3072)
                    shapes[f"{layer}.up.weight"] = (outputs, rank)
        return Header(shapes, {})

    return OrdinaryLora(Base.FLUX, "xlabs", header)


def bfl_control() -> OrdinaryLora:
    """FLUX.1 Canny and Depth as LoRAs: biases beside the pairs, norms whole, a wider input."""

    def header(rank: int, title: str) -> Header:
        layers = {**FLUX_NATIVE, "img_in": (3072, 128), "txt_in": (3072, 4096)}
        shapes = pairs(layers, dotted(""), A_B, rank)
        shapes |= {f"{name}.lora_B.bias": (outputs,) for name, (outputs, _) in layers.items()}
        for norm in expanded("double_blocks.{0-18}.{img,txt}_attn.norm.{key,query}_norm.scale"):
            shapes[norm] = (128,)
        return Header(shapes, {})

    return OrdinaryLora(Base.FLUX, "BFL control", header)


def of_unet(base: Base) -> list[OrdinaryLora]:
    layers = UNETS[base]
    attention = only(layers, ATTENTION)
    encoders = ("lora_te_",) if base is Base.SD15 else ("lora_te1_", "lora_te2_")
    diffusers = dotted("unet.")
    kohya = (only(layers, "attentions"), flat("lora_unet_"), DOWN_UP, KOHYA_METADATA)
    return [
        low_rank(base, "kohya", *kohya),
        low_rank(base, "kohya with text encoders", *kohya, encoders),
        low_rank(base, "kohya, metadata stripped", *kohya[:3], {}),
        with_convolutions(base, "kohya LoCon", KOHYA_METADATA),
        with_convolutions(base, "kohya LoCon, metadata stripped", {}),
        low_rank(base, "diffusers", attention, diffusers, A_B, DIFFUSERS_METADATA),
        low_rank(base, "ai-toolkit", attention, flat("lora_unet_"), DOWN_UP, AI_TOOLKIT_METADATA),
        low_rank(
            base,
            "OneTrainer",
            attention,
            flat("lora_unet_"),
            DOWN_UP,
            ONE_TRAINER_METADATA,
            encoders,
        ),
        other_adapter(base, "LoKr", attention, flat("lycoris_"), lokr),
        other_adapter(base, "LoHa", attention, flat("lora_unet_"), loha),
    ]


def of_transformer(
    base: Base,
    native: Layers,
    diffusers: Layers,
    native_prefix: str,
    diffusers_prefix: str = "transformer.",
) -> list[OrdinaryLora]:
    """native: the host's own layer names; diffusers: diffusers'."""
    return [
        low_rank(base, "kohya", native, flat("lora_unet_"), DOWN_UP, KOHYA_METADATA),
        low_rank(base, "kohya, metadata stripped", native, flat("lora_unet_"), DOWN_UP, {}),
        low_rank(base, "diffusers", diffusers, dotted(diffusers_prefix), A_B, DIFFUSERS_METADATA),
        low_rank(base, "ai-toolkit", native, dotted(native_prefix), A_B, AI_TOOLKIT_METADATA),
        low_rank(base, "ai-toolkit, metadata stripped", native, dotted(native_prefix), A_B, {}),
        low_rank(
            base,
            "OneTrainer",
            diffusers,
            flat("lora_transformer_"),
            DOWN_UP,
            ONE_TRAINER_METADATA,
        ),
        low_rank(base, "native names with alpha", native, dotted(native_prefix), DOWN_UP, {}),
        other_adapter(base, "LoKr", native, flat("lycoris_"), lokr),
        other_adapter(base, "LoHa", native, flat("lora_unet_"), loha),
    ]


QWEN = linear("qwen-image")
ORDINARY_LORAS: tuple[OrdinaryLora, ...] = (
    *of_unet(Base.SD15),
    *of_unet(Base.SDXL),
    *of_transformer(Base.FLUX, FLUX_NATIVE, FLUX_DIFFUSERS, "diffusion_model."),
    low_rank(
        Base.FLUX, "ai-toolkit", FLUX_DIFFUSERS, dotted("transformer."), A_B, AI_TOOLKIT_METADATA
    ),
    low_rank(
        Base.FLUX,
        "kohya with text encoders",
        FLUX_NATIVE,
        flat("lora_unet_"),
        DOWN_UP,
        KOHYA_METADATA,
        ("lora_te1_",),
    ),
    low_rank(
        Base.FLUX, "every layer, as Hyper-SD", linear("flux"), dotted("transformer."), A_B, {}
    ),
    xlabs(),
    bfl_control(),
    *of_transformer(Base.QWEN_IMAGE, QWEN, QWEN, "diffusion_model."),
    low_rank(Base.QWEN_IMAGE, "bare names", QWEN, dotted(""), DOWN_UP, {}),
    *of_transformer(Base.WAN_T2V, WAN, WAN_DIFFUSERS, "diffusion_model."),
    *of_transformer(Base.Z_IMAGE, Z_IMAGE, Z_IMAGE, "diffusion_model."),
)
RANKS = (16, 32, 64, 128)

# Styles with the words of an accelerator in their names: those of the reports, and more of a kind.
STYLE_NAMES = (
    "lightning_style",
    "causvid_style",
    "accvid_style",
    "lcm_style",
    "tcd_girl",
    "Lightning_4step_style_xl",
    "hyper_8steps_look",
    "dmd_anime",
    "demo_lcm",
    "wan22_i2v_lightning_strike_high_noise",
    "sdxl_lightning_4step_portrait",
    "Hyper-SD15-8steps-fantasy",
    "Hyper-SDXL-8steps-CFG-interior",
    "my_lcm_style_sd15",
    "pcm_smallcfg_4step_art",
    "tcd_sdxl_cinematic",
    "dmd2_sdxl_4step_hair",
    "flux_hyper_8steps_realism",
    "flux_turbo_alpha_car_v2",
    "Flux Turbo Alpha look 8 steps",
    "qwen_lightning_4steps_eyes",
    "Qwen-Image-Edit-2511-Lightning-4steps-relight",
    "qwen-image-lightning-8steps-style",
    "lightx2v_t2v_anime_4step",
    "wan2.1_t2v_14b_lightx2v_4step_puppet",
    "wan22_t2v_lightning_storm_low_noise",
    "rcm_14b_style",
    "fusionx_look",
    "causvid_14b_dance",
    "z_image_distill_8_steps_look",
    "Z-Image-Fun-Lora-Distill-4-Steps-portrait",
    "zimage_distill_4step",
    "turbo_5b_ti2v_splash",
    "demo_4step",
)


def words_of(record: Accelerator) -> str:
    """A record's own words and step count: what a person may call its file."""
    words = [group.split("|")[0] for group in record.name_words]
    words += [f"{record.default_steps}steps"]
    words += [record.expert.value.split("-")[0]] if record.expert else []
    return "_".join(words)


def names_of(lora: OrdinaryLora, records: Iterable[Accelerator]) -> list[str]:
    """What a person may call a LoRA made for use with an accelerator: the accelerator's words,
    alone where that does not make it one, and before a style's.
    """
    names = []
    for record in records:
        names += [] if lora.is_as_published else [words_of(record)]
        names += [f"{words_of(record)}_portrait_style"]
    return names
