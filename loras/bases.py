"""The base models, one row each: everything this pack knows of a base stands in its row.

A new base is one row. Bases whose layers have the same names (the kinds of Wan, FLUX.1 and
HunyuanVideo, the UNets) are told apart in architecture.py, by what their rows say of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class StepRange:
    """Steps an undistilled model is run with."""

    least: int = 25  # still gives the model's picture
    most: int = 50  # more add nothing
    is_guided: bool = True  # each step evaluates both prompts


@dataclass(frozen=True)
class TextInput:
    """Where a network's text comes in, and what an ordinary prompt is there."""

    tokens: int  # as long as the host's text encoder makes it
    layer: str = ""  # the first one, as wide as the text; empty: a UNet, whose configuration says
    has_mask: bool = False  # the encoder says which tokens are text, and the network insists on it
    pooled: int | None = None  # width of the pooled text beside it, where no layer shows it


@dataclass(frozen=True)
class LayerNames:
    """How a base shows itself in the names of a LoRA's layers, written flat (architecture.flat)."""

    marker: str  # a pattern of layers that no other base has, but those that share these names
    width: str  # a pattern of layers whose input is the hidden width
    # Looked for in this order: a marker that also finds another base's layers comes after its own.
    turn: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class BaseRow:
    """What is known of a base. A width, a count or a pattern that is left out is not known."""

    label: str  # its name for people

    # ------------------------------------------------ the model in the host
    # The host's configuration classes of it. Of bases that share one, the input's channels decide.
    host_classes: tuple[str, ...]
    widths: tuple[int, ...] = ()  # hidden widths of the published sizes
    input_channels: int | None = None  # of the noise and what is stacked on it, where kinds differ
    has_timesteps: bool = False  # Stable Diffusion's 1000; all others are flows, sigma from 1 to 0
    # Wan 2.2 has two models of the same tensors, for high noise and for low, which names alone tell
    # apart; the low-noise one's LoRAs may have Wan 2.1's tensors.
    names_tell_experts: bool = False
    text: TextInput | None = None  # None: it takes more than a prompt

    # ------------------------------------------------ its LoRAs
    layers: tuple[LayerNames, ...] = ()  # none: it shares its names, see architecture.py
    text_width: int | None = None  # of the text that a UNet attends to

    # ------------------------------------------------ how it is run
    # None: published distilled only, so there is no slow run to compare with or to fall back on.
    # The least is what ComfyUI's own workflow templates run (version 0.11.27), the most the
    # authors' default where it is known.
    full_run: StepRange | None = StepRange()
    frame_rate: float = 24.0  # frames a second its clips play at; 24 where none is known
    # Video frames that one frame of the latent stands for; hosts before 0.24 do not say.
    frames_per_latent_frame: int = 4


UNET_TEXT = TextInput(77)
SDXL_TEXT = TextInput(77, pooled=1280)  # a constant of the host's own
WAN_TEXT = TextInput(512, "text_embedding.0")
FLUX_TEXT = TextInput(256, "txt_in")
HUNYUAN_TEXT = TextInput(256, "txt_in.input_embedder")
QWEN_TEXT = TextInput(128, "txt_in")

QWEN_LAYERS = LayerNames(
    r"^transformer_blocks_\d+_(img_mod_1|txt_mod_1|img_mlp_|txt_mlp_)",
    r"^transformer_blocks_\d+_attn_to_[qkv]$",
    turn=3,
)
# All that is left where a LoRA adapts the attention alone. diffusers' FLUX.1 has it as well.
ADDED_ATTENTION = LayerNames(
    r"^transformer_blocks_\d+_attn_add_[qkv]_proj$",
    r"^transformer_blocks_\d+_attn_to_[qkv]$",
    turn=4,
)


class Base(BaseRow, Enum):
    """A base architecture, as far apart as a loaded model can be told from another.

    Sizes of one architecture (Wan 1.3B and 14B) share a member; a record's `width` says which size
    it was made for. A member has its row's fields as its own: Base.SDXL.label.
    """

    SD15 = BaseRow(
        label="SD 1.5",
        host_classes=("SD15",),
        has_timesteps=True,
        text=UNET_TEXT,
        text_width=768,
    )
    SD21 = BaseRow(
        label="SD 2.1",
        host_classes=("SD20",),
        has_timesteps=True,
        text=UNET_TEXT,
        text_width=1024,
    )
    SDXL = BaseRow(
        label="SDXL",
        host_classes=("SDXL",),
        has_timesteps=True,
        text=SDXL_TEXT,
        text_width=2048,
    )
    SSD1B = BaseRow(
        label="SSD-1B",
        host_classes=("SSD1B",),
        has_timesteps=True,
        text=SDXL_TEXT,
        text_width=2048,
    )
    SD3 = BaseRow(
        label="SD 3",
        host_classes=("SD3",),
        widths=(1536, 2432),
        text=TextInput(154, "context_embedder"),  # CLIP's 77 and T5's 77
        layers=(
            LayerNames(
                r"^(joint_blocks_\d+_(x|context)_block_|transformer_blocks_\d+_ff_context_)",
                r"^(joint_blocks_\d+_x_block_attn_qkv|transformer_blocks_\d+_attn_to_[qkv])$",
                turn=2,  # diffusers' FLUX.1 has ff_context too
            ),
            ADDED_ATTENTION,
        ),
        full_run=StepRange(20, 40),
    )
    FLUX = BaseRow(
        label="FLUX.1 dev",
        host_classes=("Flux",),
        widths=(3072,),
        text=FLUX_TEXT,
        layers=(
            LayerNames(
                r"^single_transformer_blocks_\d+_(attn_to_[qkv]|proj_mlp|norm_linear)",
                r"^(single_)?transformer_blocks_\d+_attn_to_[qkv]$",
                turn=1,  # diffusers' FLUX.2 has attn_to_qkv_mlp_proj
            ),
        ),
        full_run=StepRange(20, 50),
    )
    FLUX_SCHNELL = BaseRow(
        label="FLUX.1 schnell",
        host_classes=("FluxSchnell",),
        widths=(3072,),
        text=FLUX_TEXT,
        full_run=None,
    )
    FLUX2 = BaseRow(
        label="FLUX.2",
        host_classes=("Flux2",),
        widths=(3072, 4096, 6144),  # klein 4B, klein 9B, dev
        text=TextInput(512, "txt_in"),
        layers=(
            LayerNames(
                r"^((double|single)_stream_modulation_"
                r"|single_transformer_blocks_\d+_attn_to_qkv_mlp_proj)",
                r"^(double_blocks_\d+_img_attn_qkv|single_blocks_\d+_linear1"
                r"|single_transformer_blocks_\d+_attn_to_qkv_mlp_proj)$",
            ),
        ),
        full_run=StepRange(20, 50),
    )
    Z_IMAGE = BaseRow(
        label="Z-Image",
        host_classes=("ZImage",),
        widths=(3840,),
        text=TextInput(128, "cap_embedder.1"),
        layers=(
            LayerNames(
                r"^layers_\d+_(attention_(qkv|out|to_[qkv]|to_out_0)|adaLN_modulation)",
                r"^layers_\d+_attention_(qkv|to_[qkv])$",
            ),
        ),
    )
    QWEN_IMAGE = BaseRow(
        label="Qwen-Image",
        host_classes=("QwenImage",),
        widths=(3072,),
        text=QWEN_TEXT,
        layers=(QWEN_LAYERS, ADDED_ATTENTION),
        full_run=StepRange(20, 50),
    )
    KREA2 = BaseRow(
        label="Krea-2",
        host_classes=("Krea2",),
        widths=(6144,),
        layers=(
            LayerNames(
                r"^(blocks_\d+_attn_w[qkvo]|transformer_blocks_\d+_attn_to_gate"
                r"|txtfusion_|text_fusion_)",
                r"^(blocks_\d+_attn_w[qkv]|transformer_blocks_\d+_attn_to_[qkv])$",
            ),
        ),
    )
    ERNIE_IMAGE = BaseRow(
        label="ERNIE-Image",
        host_classes=("ErnieImage",),
        layers=(
            LayerNames(
                r"^layers_\d+_self_attention_to_[qkv]$", r"^layers_\d+_self_attention_to_[qkv]$"
            ),
        ),
        full_run=StepRange(20, 50),
    )
    ANIMA = BaseRow(
        label="Anima",
        host_classes=("Anima",),
        widths=(2048,),
        text=TextInput(512, "blocks.0.cross_attn.k_proj"),
        layers=(
            LayerNames(
                r"^blocks_\d+_(self|cross)_attn_[qkv]_proj$", r"^blocks_\d+_self_attn_[qkv]_proj$"
            ),
        ),
        full_run=StepRange(30, 50),
    )
    BOOGU = BaseRow(
        label="Boogu-Image",
        host_classes=("Boogu",),
        widths=(2520,),
        layers=(
            LayerNames(
                r"^(double|single)_stream_layers_\d+_",
                r"^(double_stream_layers_\d+_.*img_to_[qkv]|single_stream_layers_\d+_attn_to_q)$",
            ),
        ),
    )
    LENS = BaseRow(
        label="Lens",
        host_classes=("Lens",),
        layers=(
            LayerNames(
                r"^transformer_blocks_\d+_attn_(img|txt)_qkv$",
                r"^transformer_blocks_\d+_attn_img_qkv$",
            ),
        ),
        full_run=StepRange(20, 50),
    )
    MAGE_FLOW = BaseRow(
        label="Mage-Flow",
        host_classes=("MageFlow",),
        text=QWEN_TEXT,
        layers=(QWEN_LAYERS, ADDED_ATTENTION),
        full_run=StepRange(30, 50),
    )
    HIDREAM = BaseRow(
        label="HiDream-I1",
        host_classes=("HiDream",),
        layers=(
            LayerNames(
                r"^(double|single)_stream_blocks_\d+_",
                r"^(double|single)_stream_blocks_\d+_block_attn1_to_[qkv]$",
            ),
        ),
        full_run=StepRange(28, 50),
    )
    HIDREAM_O1 = BaseRow(
        label="HiDream-O1",
        host_classes=("HiDreamO1",),
        widths=(4096,),
        layers=(
            LayerNames(
                r"^language_model_layers_\d+_self_attn_",
                r"^language_model_layers_\d+_self_attn_[qkv]_proj$",
            ),
        ),
        full_run=StepRange(40, 50),
    )
    PID = BaseRow(label="PixelDiT upscaler", host_classes=("PiD",), full_run=None)
    ACE_STEP15 = BaseRow(
        label="ACE-Step 1.5",
        host_classes=("ACEStep15",),
        layers=(
            LayerNames(
                r"^(decoder_)?layers_\d+_self_attn_[qkv]_proj$",
                r"^(decoder_)?layers_\d+_self_attn_[qkv]_proj$",
            ),
        ),
        full_run=StepRange(30, 50),
    )
    WAN_T2V = BaseRow(
        label="Wan 2.1/2.2 text-to-video",
        host_classes=("WAN21_T2V",),
        widths=(1536, 5120),
        input_channels=16,
        names_tell_experts=True,
        text=WAN_TEXT,
        full_run=StepRange(20, 50),
        frame_rate=16.0,
    )
    WAN21_I2V = BaseRow(
        label="Wan 2.1 image-to-video",
        host_classes=("WAN21_I2V",),
        widths=(5120,),
        input_channels=36,
        names_tell_experts=True,
        text=WAN_TEXT,
        full_run=StepRange(20, 40),
        frame_rate=16.0,
    )
    # Its experts have no image branch, so the host sees text-to-video with more input channels.
    WAN22_I2V = BaseRow(
        label="Wan 2.2 image-to-video",
        host_classes=("WAN21_T2V", "WAN22_Camera"),
        widths=(5120,),
        input_channels=36,
        names_tell_experts=True,
        text=WAN_TEXT,
        full_run=StepRange(20, 40),
        frame_rate=16.0,
    )
    WAN22_TI2V = BaseRow(
        label="Wan 2.2 5B text-and-image-to-video",
        host_classes=("WAN22_T2V",),
        widths=(3072,),
        input_channels=48,
        text=WAN_TEXT,
        full_run=StepRange(20, 50),
    )
    WAN_VACE = BaseRow(
        label="Wan 2.1 VACE",
        host_classes=("WAN21_Vace",),
        widths=(1536, 5120),
        names_tell_experts=True,
        text=WAN_TEXT,
        full_run=StepRange(20, 50),
        frame_rate=16.0,
    )
    WAN_HUMO = BaseRow(label="Wan HuMo", host_classes=("WAN21_HuMo",), widths=(5120,))
    WAN_SCAIL2 = BaseRow(label="Wan SCAIL-2", host_classes=("WAN21_SCAIL2",), widths=(5120,))
    WAN_CAUSAL = BaseRow(
        label="causal Wan 2.1 text-to-video",
        host_classes=("WAN21_CausalAR_T2V",),
        widths=(1536, 5120),
        text=WAN_TEXT,
        full_run=None,
        frame_rate=16.0,
    )
    HUNYUAN_VIDEO = BaseRow(
        label="HunyuanVideo",
        host_classes=("HunyuanVideo",),
        widths=(3072,),
        text=HUNYUAN_TEXT,
        full_run=StepRange(20, 50),
    )
    HUNYUAN15 = BaseRow(
        label="HunyuanVideo 1.5",
        host_classes=("HunyuanVideo15",),
        widths=(2048,),
        text=HUNYUAN_TEXT,
        full_run=StepRange(20, 50),
    )
    HUNYUAN15_SR = BaseRow(
        label="HunyuanVideo 1.5 super-resolution",
        host_classes=("HunyuanVideo15_SR_Distilled",),
        widths=(2048,),
        full_run=None,
    )
    LTXV = BaseRow(
        label="LTX-Video",
        host_classes=("LTXV",),
        widths=(2048, 4096),
        text=TextInput(128, "caption_projection.linear_1", has_mask=True),
        layers=(
            LayerNames(
                r"^transformer_blocks_\d+_attn1_to_[qkv]$",
                r"^transformer_blocks_\d+_attn1_to_[qkv]$",
                turn=1,  # LTX-2 has the same attention beside its own for sound
            ),
        ),
        full_run=StepRange(30, 40),
        frame_rate=25.0,
        frames_per_latent_frame=8,
    )
    LTXAV = BaseRow(
        label="LTX-2 audio-video",
        host_classes=("LTXAV",),
        widths=(4096,),
        layers=(
            LayerNames(
                r"^transformer_blocks_\d+_"
                r"(audio_(attn\d|ff)|audio_to_video_attn|video_to_audio_attn)",
                r"^transformer_blocks_\d+_attn1_to_[qkv]$",
            ),
        ),
        full_run=StepRange(20, 40),
        frames_per_latent_frame=8,
    )
    MINIMAX_H3 = BaseRow(
        label="MiniMax-H3 audio-video",
        host_classes=("MiniMaxH3",),
        widths=(6144,),
        layers=(
            LayerNames(
                r"^blocks_\d+_(attn_(qkv|out)_proj|mlp_fc[12])$",
                r"^blocks_\d+_(attn_qkv_proj|mlp_fc1)$",
            ),
        ),
        full_run=StepRange(20, 50, is_guided=False),
    )

    def __new__(cls, row: BaseRow) -> Base:
        base = object.__new__(cls)
        base._value_ = row.label
        return base

    def __init__(self, row: BaseRow) -> None:
        vars(self).update(vars(row))

    def __repr__(self) -> str:
        return f"Base.{self.name}"


def base_in_host(host_class: str, input_channels: int = 16) -> Base | None:
    """The base of a model by its configuration class in the host; None for any other model.

    More channels than any of those that share the class has are the widest's: Fun's Wan models
    stack control signals on their input.
    """
    sharing = [base for base in Base if host_class in base.host_classes]
    exact = [base for base in sharing if base.input_channels == input_channels]
    fitting = exact or sharing
    return fitting[-1] if fitting else None


def bases_in_words(bases: Iterable[Base]) -> str:
    """SDXL or SSD-1B."""
    return " or ".join(base.label for base in bases)
