"""MiniMax-H3 turbo LoRAs: video and sound on two clocks, each with its own shift.

The `_comfyui` files carry alpha; the PEFT originals do not, and without 8 of rank 128 they act
sixteen times too strongly.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, PublishedFile, Solver, TemplateWay
from ..bases import Base
from ..schedules import TwoClockFlow
from .licences import APACHE, UNKNOWN, secondary

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
fasth3 = partial(
    Accelerator,
    family="FastH3",
    kind=Kind.MODEL,
    bases=(Base.MINIMAX_H3,),
    steps=(8,),
    licence=UNKNOWN,
)
VSA = (
    "Trained with video sparse attention. This pack leaves attention as it is: put ComfyUI's Block"
    " Sparse Attention (0.36 or newer) on the model, method vsa, 10 % kept, from {}."
)
LARRYVRH = "larryvrh/MiniMax-H3-Turbo-Lora"
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
        template_ways=(
            TemplateWay(sampler="res_multistep"),
            TemplateWay(steps=30, sampler="res_multistep"),
        ),
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
        template_ways=(TemplateWay(sampler="res_multistep"),),
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
        files=tuple(
            PublishedFile(LARRYVRH, f"minimax_h3_turbo_v4_step600{ema}.safetensors", 64)
            for ema in ("_ema", "")
        ),
        name_words=("turbo", "v4", "h3|minimax"),
        sources=("third-party MiniMax-H3 file catalogue", "file name seen in public repositories"),
        unverified=("trained shift: 12 and 3 are taken", "licence", "header of the published file"),
    ),
    turbo(
        id="minimax-h3-turbo-v1-lora",
        steps=(4,),
        schedule=SHIFT_12,
        licence=secondary(APACHE),
        files=(
            *(
                PublishedFile(LARRYVRH, f"minimax_h3_turbo_4step{ema}{checkpoint}.safetensors", 64)
                for ema in ("_ema", "")
                for checkpoint in ("_ckpt850", "_ckpt500", "")
            ),
            *(
                PublishedFile(
                    "drbaph/MiniMax-H3-Turbo-Lora-ComfyUI",
                    f"minimax_h3_turbo_4step_{checkpoint}_pruned_comfyui.safetensors",
                )
                for checkpoint in ("ema_ckpt850", "ckpt850", "ckpt500")
            ),
        ),
        name_words=("turbo", "4step", "h3|minimax"),
        name_excludes=("v4", "fl2v", "ref2v", "768p"),
        sources=(
            "github Larryvrh/ComfyUI-MiniMax-H3-Turbo README",
            "note of comfyui-workflow-templates image_minimax_h3_t2i.json",
        ),
        notes=(
            "Its author advises a sampler of his own, which is not in ComfyUI; Euler is taken.",
        ),
        unverified=(
            "trained shift: 12 and 3 are taken",
            "strength: 1, where Wan2GP runs 0.5",
            "rank: that of version 4, a file of the same size, is taken; that of drbaph's is not"
            " known",
        ),
    ),
    fasth3(
        id="fasth3-8step-v2",
        schedule=TwoClockFlow(video_shift=10.0, audio_shift=3.0),
        solver=Solver.RES_MULTISTEP,
        files=(
            PublishedFile(
                "FastVideo/FastVideo-FastH3-Comfy",
                "diffusion_models/fastvideo_fasth3_8step_v2_pruned_int8_convrot.safetensors",
                folder="diffusion_models",
            ),
        ),
        name_words=("fasth3",),
        name_excludes=("omniref",),
        sources=("comfyui-workflow-templates video_fastvideo_fasth3_t2v.json and its note",),
        notes=("Text to video and sound alone, by its authors.", VSA.format("0.2")),
        unverified=("licence",),
    ),
    fasth3(
        id="fasth3-omniref-8step",
        schedule=SHIFT_12,
        files=(
            PublishedFile(
                "FastVideo/FastH3-OmniRef-Comfy",
                "diffusion_models/fasth3_omniref_8step_pruned_int8_convrot.safetensors",
                folder="diffusion_models",
            ),
        ),
        name_words=("fasth3", "omniref"),
        sources=("comfyui-workflow-templates video_fasth3_ominiref_r2v.json and its note",),
        notes=(
            "For reference-to-video. The shift of 10 of FastH3 V2 is not for it, by its note.",
            VSA.format("the start"),
        ),
        unverified=("licence",),
    ),
)
