"""MiniMax-H3 turbo LoRAs: video and sound on two clocks, each with its own shift.

The `_comfyui` files carry alpha; the PEFT originals do not, and without 8 of rank 128 they act
sixteen times too strongly.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, PublishedFile
from ..bases import Base
from ..schedules import TwoClockFlow
from .licences import UNKNOWN

REPO = "lightx2v/Minimax-h3-Turbo"
COMFY = "Comfy-Org/MiniMax-H3"

turbo = partial(
    Accelerator,
    family="MiniMax-H3 Turbo",
    kind=Kind.LORA,
    bases=(Base.MINIMAX_H3,),
    licence=UNKNOWN,
    sources=(
        "github ModelTC/LightX2V configs/",
        "Comfy-Org documentation, MiniMax-H3",
        "third-party sampling profiles",
    ),
    unverified=("licence", "header of the published file"),
)
SHIFT_12 = TwoClockFlow(video_shift=12.0, audio_shift=3.0)
SHIFT_6 = TwoClockFlow(video_shift=6.0, audio_shift=3.0)

RECORDS = (
    turbo(
        id="minimax-h3-fl2v-8step-lora",
        steps=(8,),
        schedule=SHIFT_12,
        missing_alpha=8.0,
        files=(PublishedFile(REPO, "minimax_h3_fl2v_turbo_8step_v1.0_comfyui_bf16.safetensors"),),
        name_words=("fl2v", "turbo"),
        name_excludes=("768p",),
        notes=("Trained at 544p.",),
    ),
    turbo(
        id="minimax-h3-fl2v-8step-768p-lora",
        steps=(8,),
        schedule=SHIFT_6,
        files=(
            PublishedFile(REPO, "minimax_h3_fl2v_turbo_8step_v1.0_768p_comfyui_bf16.safetensors"),
        ),
        name_words=("fl2v", "768p", "turbo"),
    ),
    turbo(
        id="minimax-h3-fl2v-4step-768p-lora",
        steps=(4,),
        schedule=SHIFT_6,
        files=(
            *(
                PublishedFile(
                    REPO, f"minimax_h3_fl2v_turbo_4step_v1.{version}_768p_comfyui_bf16.safetensors"
                )
                for version in (0, 1, 2)
            ),
            PublishedFile(
                COMFY, "loras/minimax_h3_fl2v_turbo_4step_v1.0_768p_comfyui_bf16.safetensors"
            ),
        ),
        name_words=("fl2v", "768p", "turbo"),
        name_excludes=("sla",),
        notes=("LightX2V counts 5 points for these 4 evaluations.",),
    ),
    turbo(
        id="minimax-h3-fl2v-4step-768p-sla-lora",
        steps=(4,),
        schedule=SHIFT_6,
        files=(
            PublishedFile(
                "lightx2v/Minimax-h3-Turbo-SLA",
                "minimax_h3_fl2v_turbo_4step_v0.1_768p_sla_comfyui_bf16.safetensors",
            ),
        ),
        name_words=("fl2v", "sla"),
        notes=("Trained with sparse-linear attention, which the host does not have.",),
    ),
    turbo(
        id="minimax-h3-fl2v-4step-v0-1-lora",
        steps=(4,),
        schedule=SHIFT_12,
        missing_alpha=8.0,
        files=(
            PublishedFile(
                REPO,
                "minimax_h3_fl2v_turbo_4step_v0.1.safetensors",
                128,
                caution=(
                    "a PEFT file in diffusers names, which the host does not map to this model:"
                    " take a _comfyui one"
                ),
            ),
        ),
        name_words=("fl2v", "1", "turbo"),
        name_excludes=("768p", "comfyui"),
        sources=("github vllm-project/vllm-omni pull request 7062",),
        notes=("It carries no alpha: 8 of rank 128 is its scale.",),
        unverified=("trained shift: the model's own 12 and 3 are taken", "licence"),
    ),
    turbo(
        id="minimax-h3-ref2v-4step-lora",
        steps=(4,),
        schedule=SHIFT_12,
        files=(
            PublishedFile(
                COMFY,
                "loras/minimax_h3_ref2v_turbo_4step_v0.1_comfyui_bf16.safetensors",
            ),
        ),
        name_words=("ref2v", "turbo"),
        notes=("For the reference-to-video model.",),
    ),
    turbo(
        id="minimax-h3-ref2v-8step-768p-lora",
        steps=(8,),
        schedule=SHIFT_12,
        files=(
            PublishedFile(REPO, "minimax_h3_ref2v_turbo_8step_v1.0_768p_comfyui_bf16.safetensors"),
        ),
        name_words=("ref2v", "768p", "turbo"),
        notes=("For the reference-to-video model. Its shift is not that of the other 768p file.",),
    ),
    turbo(
        id="minimax-h3-turbo-v4-lora",
        steps=(4, 6, 8),
        default_steps=8,
        schedule=SHIFT_12,
        files=(
            PublishedFile(
                "larryvrh/MiniMax-H3-Turbo-Lora", "minimax_h3_turbo_v4_step600_ema.safetensors", 64
            ),
        ),
        name_words=("turbo", "v4", "h3|minimax"),
        sources=("third-party MiniMax-H3 file catalogue", "file name seen in public repositories"),
        unverified=("trained shift: 12 and 3 are taken", "licence", "header of the published file"),
    ),
)
