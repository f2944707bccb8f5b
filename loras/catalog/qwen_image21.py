"""Few-step Qwen-Image 2.1: the official Turbo model, Viggle's LoRAs, LightX2V's.

All but the Turbo model shift their noise by the size of the picture, mu 0.5 at 256 tokens to 0.9 at
8192 (scheduler_config.json of Qwen/Qwen-Image-2.1), and leave out its stretch to an end of 0.02.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ..accelerator import Accelerator, Kind, Licence, Make, PublishedFile
from ..bases import Base
from ..schedules import FluxFlow, LiteralSigmas, SizedTimes
from .licences import UNKNOWN

COMFY = "Comfy-Org/Qwen-Image-2.1"
VIGGLE = "Viggle/Qwen-Image-2.1-viggle-turbo"
TEMPLATES = "comfyui-workflow-templates"
QWEN_RESEARCH = Licence("Qwen Research", False)
# The line from 0.5 at 256 tokens to 0.9 at 8192, where FluxFlow's second point is at 4096.
MU_AT_4096 = 0.5 + (0.9 - 0.5) * (4096 - 256) / (8192 - 256)

qwen21 = partial(
    Accelerator,
    family="Qwen-Image 2.1 Turbo",
    bases=(Base.QWEN_IMAGE21,),
    licence=QWEN_RESEARCH,
)


def viggle(
    id: str, times: tuple[tuple[float, ...], ...], files: dict[str, int], **settings: Any
) -> Accelerator:
    """One of Viggle's LoRAs. files: the name of each behind the release's own -> its rank."""
    steps = tuple(sorted(map(len, times)))
    return qwen21(
        id=id,
        kind=Kind.LORA,
        steps=steps,
        schedule=SizedTimes(times, 0.5, MU_AT_4096),
        files=tuple(
            PublishedFile(
                VIGGLE,
                f"Qwen-Image-2.1-viggle-turbo-{name}.safetensors",
                rank,
                make=Make("transformer.*.lora_A", 227, "BF16"),
            )
            for name, rank in files.items()
        ),
        sources=(f"huggingface {VIGGLE} README", "github vllm-project/vllm-omni"),
        unverified=("what stands before the names of its layers",),
        **settings,
    )


RECORDS = (
    qwen21(
        id="qwen-image-21-turbo",
        kind=Kind.MODEL,
        steps=(8,),
        schedule=LiteralSigmas(
            ((1.0, 0.978453, 0.95418, 0.926626, 0.89508, 0.845148, 0.704534, 0.414568),)
        ),
        files=tuple(
            PublishedFile(
                COMFY,
                f"diffusion_models/qwen_image_2.1_turbo_{kind}.safetensors",
                folder="diffusion_models",
            )
            for kind in ("int8_convrot", "bf16")
        ),
        name_words=("turbo",),
        name_excludes=("viggle",),
        sources=(
            f"{TEMPLATES} image_qwen_image_2_1_turbo_t2i.json",
            f"huggingface {COMFY} discussion 22, of Qwen/Qwen-Image-2.1-Turbo's model_index.json",
        ),
        notes=("ComfyUI asks for 0.39 with it; its class is there since 0.37.",),
    ),
    # Its low-noise times are those it was trained to land on; steps are added at the noisy end.
    viggle(
        "qwen-image-21-viggle-turbo-lora",
        (
            (1.0, 0.75, 0.5, 0.25),
            (1.0, 0.875, 0.75, 0.5, 0.25),
            (1.0, 0.9375, 0.875, 0.75, 0.5, 0.25),
            (1.0, 0.9583, 0.9167, 0.875, 0.75, 0.5, 0.25),
        ),
        {
            "v0.2.1-6step-lora-r256": 256,
            "v0.2.1-6step-lora-r128": 128,
            "v0.2-5step-lora-r256": 256,
            "v0.2-5step-lora-r128": 128,
        },
        default_steps=6,
        name_words=("viggle", "turbo"),
        name_excludes=("4step",),
        notes=(
            "Six steps are its author's choice for every file of 0.2; with four it is softer.",
            "No shift_terminal: the model's own stretch of the last step to 0.02 is left out.",
        ),
    ),
    viggle(
        "qwen-image-21-viggle-turbo-4step-lora",
        ((1.0, 0.75, 0.5, 0.25),),
        {"4step-lora-r64": 64},
        name_words=("viggle", "turbo", "4step"),
        notes=("Version 0.1: seeds look alike, by its author's figures. 0.2.1 is better.",),
    ),
    qwen21(
        id="qwen-image-21-lightning-4step-lora",
        kind=Kind.LORA,
        steps=(4,),
        schedule=FluxFlow(0.5, MU_AT_4096),
        licence=UNKNOWN,
        files=(
            PublishedFile("lightx2v/Qwen-Image-2.1-Lightning", "pytorch_lora_weights.safetensors"),
        ),
        name_words=("lightning", "qwen"),
        sources=("huggingface lightx2v/Qwen-Image-2.1-Lightning", "github ModelTC/LightX2V"),
        notes=(
            "Published as pytorch_lora_weights.safetensors: rename it"
            " Qwen-Image-2.1-Lightning.safetensors.",
        ),
        unverified=("licence, rank and header", "that the host maps the names of its layers"),
    ),
)
