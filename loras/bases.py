"""The base models, one row each: everything this pack knows of a base stands in its row.

A new base is one row. Bases whose layers have the same names (the kinds of Wan, FLUX.1 and
HunyuanVideo, the UNets) are told apart in architecture.py, by what their rows say of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Levels(Enum):
    """What a model's noise levels are, and so which schedules it has."""

    FLOW = "a flow's, from 1 down"
    TIMESTEPS = "1000 timesteps"
    OWN = "its own"  # such as EDM's from 80 down: only a list that is written out has them
    UNKNOWN = "not known"


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
    # None where the class is newer than what could be read: a class that no row names may be it.
    host_classes: tuple[str, ...]
    since: str = ""  # the first ComfyUI that has the class, where 0.30.0 does not
    widths: tuple[int, ...] = ()  # hidden widths of the published sizes
    input_channels: int | None = None  # of the noise and what is stacked on it, where kinds differ
    levels: Levels = Levels.FLOW
    shift: float | None = None  # of its flow, as the host has it where no node sets another
    # Wan 2.2 has two models of the same tensors, for high noise and for low, which names alone tell
    # apart; the low-noise one's LoRAs may have Wan 2.1's tensors.
    names_tell_experts: bool = False
    text: TextInput | None = None  # None: it takes more than a prompt

    # ------------------------------------------------ its LoRAs
    layers: tuple[LayerNames, ...] = ()  # none: it shares its names, see architecture.py
    text_width: int | None = None  # of the text that a UNet attends to
    # Members of Base whose layers have the names and widths of its own, so that a LoRA for it is
    # taken for one of theirs.
    layers_as: tuple[str, ...] = ()
    # Members of Base that it was made from, whose accelerators people run on it as they are. It is
    # told, for they were not distilled for it.
    takes: tuple[str, ...] = ()

    # ------------------------------------------------ how it is run
    # None: published distilled only, so there is no slow run to compare with or to fall back on.
    # The least is what ComfyUI's own workflow templates run (version 0.11.27), the most the
    # authors' default where it is known.
    full_run: StepRange | None = StepRange()
    frame_rate: float = 24.0  # frames a second its clips play at; 24 where none is known
    # Video frames that one frame of the latent stands for; hosts before 0.24 do not say.
    frames_per_latent_frame: int = 4

    @property
    def has_timesteps(self) -> bool:
        """Whether its noise levels are those of Stable Diffusion's training timesteps."""
        return self.levels is Levels.TIMESTEPS


FLUX_SHIFT = math.exp(1.15)  # ComfyUI writes it as mu

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


COSMOS_LAYERS = LayerNames(
    r"^blocks_block\d+_blocks_\d+_", r"^blocks_block\d+_blocks_\d+_block_attn_to_q_0$"
)
COGVIDEOX_LAYERS = LayerNames(r"^blocks_\d+_(attn_out|ff_(proj|out))$", r"^blocks_\d+_[qkv]$")
KANDINSKY_LAYERS = LayerNames(
    r"^(visual|text)_transformer_blocks_\d+_",
    r"^visual_transformer_blocks_\d+_self_attention_to_(query|key|value)$",
)


class Base(BaseRow, Enum):
    """A base architecture, as far apart as a loaded model can be told from another.

    Sizes of one architecture (Wan 1.3B and 14B) share a member; a record's `width` says which size
    it was made for. A member has its row's fields as its own: Base.SDXL.label.
    """

    SD15 = BaseRow(
        label="SD 1.5",
        host_classes=("SD15",),
        levels=Levels.TIMESTEPS,
        text=UNET_TEXT,
        text_width=768,
    )
    SD21 = BaseRow(
        label="SD 2.1",
        host_classes=("SD20",),
        levels=Levels.TIMESTEPS,
        text=UNET_TEXT,
        text_width=1024,
    )
    SDXL = BaseRow(
        label="SDXL",
        host_classes=("SDXL",),
        levels=Levels.TIMESTEPS,
        text=SDXL_TEXT,
        text_width=2048,
    )
    SSD1B = BaseRow(
        label="SSD-1B",
        host_classes=("SSD1B",),
        levels=Levels.TIMESTEPS,
        text=SDXL_TEXT,
        text_width=2048,
    )
    SD15_IP2P = BaseRow(
        label="SD 1.5 instruct-pix2pix",
        host_classes=("SD15_instructpix2pix",),
        levels=Levels.TIMESTEPS,
        text=UNET_TEXT,
        layers_as=("SD15",),
        takes=("SD15",),
    )
    SDXL_IP2P = BaseRow(
        label="SDXL instruct-pix2pix",
        host_classes=("SDXL_instructpix2pix",),
        levels=Levels.TIMESTEPS,
        text=SDXL_TEXT,
        layers_as=("SDXL",),
        takes=("SDXL",),
    )
    # SDXL with fewer layers, as SSD-1B is, and all of what is left has its names.
    SEGMIND_VEGA = BaseRow(
        label="Segmind Vega",
        host_classes=("Segmind_Vega",),
        levels=Levels.TIMESTEPS,
        text=SDXL_TEXT,
        layers_as=("SDXL", "SSD1B"),
    )
    KOALA_700M = BaseRow(
        label="KOALA 700M",
        host_classes=("KOALA_700M",),
        levels=Levels.TIMESTEPS,
        text=SDXL_TEXT,
        layers_as=("SDXL", "SSD1B"),
    )
    KOALA_1B = BaseRow(
        label="KOALA 1B",
        host_classes=("KOALA_1B",),
        levels=Levels.TIMESTEPS,
        text=SDXL_TEXT,
        layers_as=("SDXL", "SSD1B"),
    )
    SD3 = BaseRow(
        label="SD 3",
        host_classes=("SD3",),
        shift=3.0,
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
        shift=FLUX_SHIFT,
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
        shift=1.0,
        widths=(3072,),
        text=FLUX_TEXT,
        layers_as=("FLUX",),
        full_run=None,
    )
    FLUX_FILL = BaseRow(
        label="FLUX.1 Fill",
        host_classes=("FluxInpaint",),
        shift=FLUX_SHIFT,
        widths=(3072,),
        text=FLUX_TEXT,
        layers_as=("FLUX",),
        takes=("FLUX",),
        full_run=StepRange(20, 50),
    )
    CHROMA = BaseRow(
        label="Chroma",
        host_classes=("Chroma",),
        shift=FLUX_SHIFT,
        widths=(3072,),
        layers_as=("FLUX",),
        full_run=StepRange(26, 50),
    )
    CHROMA_RADIANCE = BaseRow(
        label="Chroma Radiance",
        host_classes=("ChromaRadiance",),
        shift=FLUX_SHIFT,
        widths=(3072,),
        layers_as=("FLUX",),
    )
    LONGCAT_IMAGE = BaseRow(
        label="LongCat-Image",
        host_classes=("LongCatImage",),
        shift=FLUX_SHIFT,
        widths=(3072,),
        layers_as=("FLUX",),
        full_run=StepRange(20, 50),
    )
    FLUX2 = BaseRow(
        label="FLUX.2",
        host_classes=("Flux2",),
        shift=math.exp(2.02),
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
    FLUX3 = BaseRow(label="FLUX.3 Image", host_classes=(), since="0.41")
    FIBO2 = BaseRow(label="FIBO 2", host_classes=(), since="0.43")
    Z_IMAGE = BaseRow(
        label="Z-Image",
        host_classes=("ZImage",),
        shift=3.0,
        widths=(3840,),
        text=TextInput(128, "cap_embedder.1"),
        layers=(
            LayerNames(
                r"^layers_\d+_(attention_(qkv|out|to_[qkv]|to_out_0)|adaLN_modulation)",
                r"^layers_\d+_attention_(qkv|to_[qkv])$",
                turn=1,  # Ideogram 4 has the same attention with another projection behind it
            ),
        ),
    )
    Z_IMAGE_PIXEL = BaseRow(
        label="Z-Image in pixels",
        host_classes=("ZImagePixelSpace",),
        shift=3.0,
        widths=(3840,),
        layers_as=("Z_IMAGE",),
    )
    MING_IMAGE = BaseRow(
        label="Ming-Image",
        host_classes=("MingImage",),
        since="0.37",
        shift=3.16,
        widths=(3840,),
        layers_as=("Z_IMAGE",),
    )
    LUMINA2 = BaseRow(
        label="Lumina Image 2.0",
        host_classes=("Lumina2",),
        shift=6.0,
        widths=(2304,),
        layers_as=("Z_IMAGE",),
        full_run=StepRange(30, 50),
    )
    QWEN_IMAGE = BaseRow(
        label="Qwen-Image",
        host_classes=("QwenImage",),
        shift=FLUX_SHIFT,
        widths=(3072,),
        text=QWEN_TEXT,
        layers=(QWEN_LAYERS, ADDED_ATTENTION),
        full_run=StepRange(20, 50),
    )
    QWEN_IMAGE21 = BaseRow(
        label="Qwen-Image 2.1",
        host_classes=("QwenImage21",),
        since="0.37",
        shift=math.exp(0.69),
        widths=(4096,),
        layers=(
            LayerNames(
                r"^transformer_blocks_\d+_img_mlp_(gate|proj$|out$)",
                r"^transformer_blocks_\d+_attn_to_[qkv]$",
            ),
        ),
    )
    KREA2 = BaseRow(
        label="Krea-2",
        host_classes=("Krea2",),
        shift=FLUX_SHIFT,
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
        shift=3.0,
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
        shift=3.0,
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
        shift=3.16,
        widths=(2520,),
        layers=(
            LayerNames(
                r"^(double|single)_stream_layers_\d+_",
                r"^(double_stream_layers_\d+_.*img_to_[qkv]|single_stream_layers_\d+_attn_to_q)$",
            ),
        ),
    )
    OMNIGEN2 = BaseRow(
        label="OmniGen2",
        host_classes=("Omnigen2",),
        shift=2.6,
        layers=(
            LayerNames(
                r"^layers_\d+_(attn_to_([qkv]|out_0)|feed_forward_linear_[123])$",
                r"^layers_\d+_attn_to_q$",
            ),
        ),
        full_run=StepRange(20, 50),
    )
    IDEOGRAM4 = BaseRow(
        label="Ideogram 4",
        host_classes=("Ideogram4",),
        shift=1.0,
        widths=(4608,),
        layers=(
            LayerNames(
                r"^layers_\d+_(attention_o|adaln_modulation)$", r"^layers_\d+_attention_qkv$"
            ),
        ),
    )
    JOY_IMAGE = BaseRow(
        label="JoyImage",
        host_classes=("JoyImage",),
        shift=1.5,
        layers=(
            LayerNames(
                r"^double_blocks_\d+_attn_(img|txt)_attn_",
                r"^double_blocks_\d+_attn_(img|txt)_attn_qkv$",
            ),
        ),
    )
    AURAFLOW = BaseRow(
        label="AuraFlow",
        host_classes=("AuraFlow",),
        shift=1.73,
        layers=(
            LayerNames(
                r"^(double|single)_layers_\d+_attn_w[12][qkvo]$",
                r"^(double|single)_layers_\d+_attn_w1[qkv]$",
            ),
        ),
    )
    SENSENOVA_U15 = BaseRow(
        label="SenseNova U1.5",
        host_classes=("SenseNovaU15",),
        since="0.36",
        levels=Levels.OWN,  # from its multiplier down
        shift=3.0,
    )
    LENS = BaseRow(
        label="Lens",
        host_classes=("Lens",),
        shift=math.exp(1.829),
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
        shift=6.0,
        text=QWEN_TEXT,
        layers=(QWEN_LAYERS, ADDED_ATTENTION),
        full_run=StepRange(30, 50),
    )
    HIDREAM = BaseRow(
        label="HiDream-I1",
        host_classes=("HiDream",),
        shift=1.0,
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
        shift=3.0,
        widths=(4096,),
        layers=(
            LayerNames(
                r"^language_model_layers_\d+_self_attn_",
                r"^language_model_layers_\d+_self_attn_[qkv]_proj$",
            ),
        ),
        full_run=StepRange(40, 50),
    )
    KANDINSKY5 = BaseRow(
        label="Kandinsky 5 video",
        host_classes=("Kandinsky5",),
        shift=10.0,
        widths=(1792, 4096),  # Lite, Pro
        layers=(KANDINSKY_LAYERS,),
        full_run=StepRange(50, 50),
    )
    KANDINSKY5_IMAGE = BaseRow(
        label="Kandinsky 5 image",
        host_classes=("Kandinsky5Image",),
        shift=3.0,
        widths=(2560,),
        layers=(KANDINSKY_LAYERS,),
        full_run=StepRange(50, 50),
    )
    PIXELDIT = BaseRow(
        label="PixelDiT",
        host_classes=("PixelDiTT2I",),
        shift=4.0,
        layers=(
            LayerNames(
                r"^(core_)?(patch|pixel)_blocks_\d+_", r"^(core_)?patch_blocks_\d+_attn_qkv_[xy]$"
            ),
        ),
        full_run=StepRange(30, 50),
    )
    PID = BaseRow(
        label="PixelDiT upscaler",
        host_classes=("PiD",),
        shift=1.5,
        layers_as=("PIXELDIT",),
        full_run=None,
    )
    SEEDVR2 = BaseRow(
        label="SeedVR2",
        host_classes=("SeedVR2",),
        shift=1.0,
        widths=(2560, 3072),
        layers=(
            LayerNames(
                r"^blocks_\d+_attn_proj_(qkv|out)_(vid|txt|all)$",
                r"^blocks_\d+_attn_proj_qkv_(vid|txt|all)$",
            ),
        ),
        full_run=None,
    )
    TRELLIS2 = BaseRow(label="TRELLIS.2", host_classes=("Trellis2",), since="0.33", shift=3.0)
    ACE_STEP = BaseRow(
        label="ACE-Step 1",
        host_classes=("ACEStep",),
        shift=3.0,
        layers=(
            LayerNames(
                r"^transformer_blocks_\d+_(ff_(inverted|depth|point)_conv|cross_attn_(to|add)_[qkv])",
                r"^transformer_blocks_\d+_attn_to_[qkv]$",
            ),
        ),
        full_run=StepRange(50, 50),
    )
    ACE_STEP15 = BaseRow(
        label="ACE-Step 1.5",
        host_classes=("ACEStep15",),
        shift=3.0,
        layers=(
            LayerNames(
                r"^(decoder_)?layers_\d+_self_attn_[qkv]_proj$",
                r"^(decoder_)?layers_\d+_self_attn_[qkv]_proj$",
            ),
        ),
        full_run=StepRange(30, 50),
    )
    STABLE_AUDIO3 = BaseRow(
        label="Stable Audio 3",
        host_classes=("StableAudio3",),
        shift=2.0,
        layers=(
            LayerNames(
                r"^layers_\d+_(self|cross)_attn_to_(qkv|q|kv|out)$",
                r"^layers_\d+_self_attn_to_qkv$",
            ),
        ),
        full_run=StepRange(50, 50),
    )
    MINIMAX_MUSIC3 = BaseRow(
        label="MiniMax-Music 3", host_classes=("MiniMaxMusic3",), since="0.33", shift=1.0
    )
    # Merged in September 2026: 0.38 has it, and perhaps one before.
    YUE2 = BaseRow(label="YuE 2", host_classes=("YuE2",), since="0.38", shift=1.0)
    WAN_T2V = BaseRow(
        label="Wan 2.1/2.2 text-to-video",
        host_classes=("WAN21_T2V",),
        shift=8.0,
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
        shift=8.0,
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
        shift=8.0,
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
        shift=8.0,
        widths=(3072,),
        input_channels=48,
        text=WAN_TEXT,
        full_run=StepRange(20, 50),
    )
    WAN_VACE = BaseRow(
        label="Wan 2.1 VACE",
        host_classes=("WAN21_Vace",),
        shift=8.0,
        widths=(1536, 5120),
        names_tell_experts=True,
        text=WAN_TEXT,
        layers_as=("WAN_T2V",),
        full_run=StepRange(20, 50),
        frame_rate=16.0,
    )
    WAN_HUMO = BaseRow(
        label="Wan HuMo",
        host_classes=("WAN21_HuMo",),
        shift=8.0,
        widths=(5120,),
        layers_as=("WAN_T2V", "WAN21_I2V"),
    )
    WAN_SCAIL2 = BaseRow(
        label="Wan SCAIL-2",
        host_classes=("WAN21_SCAIL2",),
        shift=8.0,
        widths=(5120,),
        layers_as=("WAN_T2V", "WAN21_I2V"),
    )
    # Those whose file brings the image branch take the LoRAs of either kind; in the others what
    # is for that branch has no place, and need not have one.
    WAN_SCAIL = BaseRow(
        label="Wan SCAIL",
        host_classes=("WAN21_SCAIL",),
        shift=8.0,
        widths=(5120,),
        layers_as=("WAN_T2V", "WAN21_I2V"),
        takes=("WAN_T2V", "WAN21_I2V"),
        frame_rate=16.0,
    )
    WAN21_FUN_CONTROL = BaseRow(
        label="Wan 2.1 Fun Control",
        host_classes=("WAN21_FunControl2V",),
        shift=8.0,
        widths=(1536, 5120),
        text=WAN_TEXT,
        layers_as=("WAN_T2V", "WAN21_I2V"),
        takes=("WAN_T2V", "WAN21_I2V"),
        full_run=StepRange(20, 50),
        frame_rate=16.0,
    )
    WAN21_CAMERA = BaseRow(
        label="Wan 2.1 Fun Camera",
        host_classes=("WAN21_Camera",),
        shift=8.0,
        widths=(1536, 5120),
        text=WAN_TEXT,
        layers_as=("WAN_T2V", "WAN21_I2V"),
        takes=("WAN_T2V", "WAN21_I2V"),
        full_run=StepRange(20, 50),
        frame_rate=16.0,
    )
    WAN22_S2V = BaseRow(
        label="Wan 2.2 speech-to-video",
        host_classes=("WAN22_S2V",),
        shift=8.0,
        widths=(5120,),
        layers_as=("WAN_T2V", "WAN21_I2V"),
        takes=("WAN_T2V", "WAN21_I2V"),
        frame_rate=16.0,
    )
    WAN22_ANIMATE = BaseRow(
        label="Wan 2.2 Animate",
        host_classes=("WAN22_Animate",),
        shift=8.0,
        widths=(5120,),
        layers_as=("WAN_T2V", "WAN21_I2V"),
        takes=("WAN_T2V", "WAN21_I2V"),
        frame_rate=16.0,
    )
    WAN_ANIMATE2 = BaseRow(
        label="Wan-Animate 2",
        host_classes=("WAN_Animate2",),
        since="0.31",
        shift=5.0,
        widths=(5120,),
        layers_as=("WAN_T2V", "WAN21_I2V"),
        takes=("WAN_T2V", "WAN21_I2V"),
    )
    WAN_DANCER = BaseRow(
        label="Wan-Dancer",
        host_classes=("WAN22_WanDancer",),
        shift=8.0,
        widths=(5120,),
        layers_as=("WAN_T2V", "WAN21_I2V"),
        takes=("WAN_T2V", "WAN21_I2V"),
    )
    # It turns a clip into a mask: it starts from the clip, and ComfyUI runs it on timesteps that
    # are no noise levels.
    WAN_FLOW_RVS = BaseRow(
        label="Wan FlowRVS",
        host_classes=("WAN21_FlowRVS",),
        levels=Levels.OWN,
        layers_as=("WAN_T2V", "WAN21_I2V"),
    )
    WAN_CAUSAL = BaseRow(
        label="causal Wan 2.1 text-to-video",
        host_classes=("WAN21_CausalAR_T2V",),
        shift=5.0,
        widths=(1536, 5120),
        text=WAN_TEXT,
        layers_as=("WAN_T2V",),
        full_run=None,
        frame_rate=16.0,
    )
    HUNYUAN_VIDEO = BaseRow(
        label="HunyuanVideo",
        host_classes=("HunyuanVideo",),
        shift=7.0,
        widths=(3072,),
        text=HUNYUAN_TEXT,
        full_run=StepRange(20, 50),
    )
    HUNYUAN_I2V = BaseRow(
        label="HunyuanVideo image-to-video",
        host_classes=("HunyuanVideoI2V",),
        shift=7.0,
        widths=(3072,),
        text=HUNYUAN_TEXT,
        layers_as=("HUNYUAN_VIDEO",),
        takes=("HUNYUAN_VIDEO",),
        full_run=StepRange(20, 50),
    )
    SKYREELS_I2V = BaseRow(
        label="SkyReels image-to-video",
        host_classes=("HunyuanVideoSkyreelsI2V",),
        shift=7.0,
        widths=(3072,),
        text=HUNYUAN_TEXT,
        layers_as=("HUNYUAN_VIDEO",),
        takes=("HUNYUAN_VIDEO",),
    )
    HUNYUAN_IMAGE21 = BaseRow(
        label="HunyuanImage 2.1",
        host_classes=("HunyuanImage21",),
        shift=5.0,
        layers_as=("HUNYUAN_VIDEO", "FLUX"),
    )
    HUNYUAN_IMAGE21_REFINER = BaseRow(
        label="HunyuanImage 2.1 refiner",
        host_classes=("HunyuanImage21Refiner",),
        shift=4.0,
        layers_as=("HUNYUAN_VIDEO", "FLUX"),
    )
    HUNYUAN15 = BaseRow(
        label="HunyuanVideo 1.5",
        host_classes=("HunyuanVideo15",),
        shift=7.0,
        widths=(2048,),
        text=HUNYUAN_TEXT,
        full_run=StepRange(20, 50),
    )
    HUNYUAN15_SR = BaseRow(
        label="HunyuanVideo 1.5 super-resolution",
        host_classes=("HunyuanVideo15_SR_Distilled",),
        shift=2.0,
        widths=(2048,),
        full_run=None,
    )
    LTXV = BaseRow(
        label="LTX-Video",
        host_classes=("LTXV",),
        shift=math.exp(2.37),
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
        shift=math.exp(2.37),
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
    MOCHI = BaseRow(
        label="Mochi 1",
        host_classes=("GenmoMochi",),
        shift=6.0,
        widths=(3072,),
        layers=(LayerNames(r"^blocks_\d+_attn_(qkv|proj)_[xy]$", r"^blocks_\d+_attn_qkv_x$"),),
    )
    COSMOS_T2V = BaseRow(
        label="Cosmos 1 text-to-video",
        host_classes=("CosmosT2V",),
        levels=Levels.OWN,
        layers=(COSMOS_LAYERS,),
    )
    COSMOS_I2V = BaseRow(
        label="Cosmos 1 image-to-video",
        host_classes=("CosmosI2V",),
        levels=Levels.OWN,
        layers=(COSMOS_LAYERS,),
    )
    COSMOS_PREDICT2_T2I = BaseRow(
        label="Cosmos Predict2 text-to-image",
        host_classes=("CosmosT2IPredict2",),
        levels=Levels.OWN,
        layers_as=("ANIMA",),
    )
    COSMOS_PREDICT2_I2V = BaseRow(
        label="Cosmos Predict2 image-to-video",
        host_classes=("CosmosI2VPredict2",),
        levels=Levels.OWN,
        layers_as=("ANIMA",),
    )
    COGVIDEOX_T2V = BaseRow(
        label="CogVideoX text-to-video",
        host_classes=("CogVideoX_T2V",),
        levels=Levels.TIMESTEPS,
        layers=(COGVIDEOX_LAYERS,),
        frame_rate=8.0,
    )
    COGVIDEOX_I2V = BaseRow(
        label="CogVideoX image-to-video",
        host_classes=("CogVideoX_I2V",),
        levels=Levels.TIMESTEPS,
        layers=(COGVIDEOX_LAYERS,),
        frame_rate=8.0,
    )
    COGVIDEOX_INPAINT = BaseRow(
        label="CogVideoX inpainting",
        host_classes=("CogVideoX_Inpaint",),
        levels=Levels.TIMESTEPS,
        layers=(COGVIDEOX_LAYERS,),
        frame_rate=8.0,
    )
    MINIMAX_H3 = BaseRow(
        label="MiniMax-H3 audio-video",
        host_classes=("MiniMaxH3",),
        shift=12.0,
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


@dataclass(frozen=True, kw_only=True)
class UnlistedBase(BaseRow):
    """A base that the table does not have, known by the host's class for it alone: two of one class
    are equal.
    """

    levels: Levels = Levels.UNKNOWN


def _by_host_class() -> dict[str, list[Base]]:
    """The bases that share each of the host's classes, in the table's order."""
    sharing: dict[str, list[Base]] = {}
    for base in Base:
        for host_class in base.host_classes:
            sharing.setdefault(host_class, []).append(base)
    return sharing


BY_HOST_CLASS = _by_host_class()


def base_in_host(host_class: str, input_channels: int = 16) -> Base | UnlistedBase:
    """The base of a model by its configuration class in the host.

    More channels than any of those that share the class has are the widest's: Fun's Wan models
    stack control signals on their input.
    """
    sharing = BY_HOST_CLASS.get(host_class, [])
    exact = [base for base in sharing if base.input_channels == input_channels]
    fitting = exact or sharing
    return fitting[-1] if fitting else unlisted(host_class)


def unlisted(host_class: str) -> UnlistedBase:
    """The base of a class that the table does not have."""
    return UnlistedBase(label=host_class, host_classes=(host_class,))


def is_of(base: BaseRow | None, own: BaseRow) -> bool:
    """Whether a model of one base may be of another: the same one, or one of a class that no row
    names, where the class of the other is not known.
    """
    return base == own or (isinstance(base, UnlistedBase) and not own.host_classes)


def needed_host(bases: Iterable[BaseRow]) -> str:
    """Which ComfyUI has models of these bases, in a sentence; empty where 0.30.0 has one."""
    rows = tuple(bases)
    if not all(base.since for base in rows):
        return ""
    return "; ".join(f"{base.label} needs ComfyUI {base.since} or newer" for base in rows)


def bases_in_words(bases: Iterable[BaseRow]) -> str:
    """SDXL or SSD-1B."""
    return " or ".join(base.label for base in bases)
