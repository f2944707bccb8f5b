"""Fast HunyuanVideo: FastHunyuan, 1.5 step-distilled and super-resolution, LightX2V's.

Files of 1.5 named cfg_distilled, or distilled without step, still take 50 steps: they are
look-alikes.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, PublishedFile, Solver
from ..bases import Base
from ..schedules import ShiftedFlow
from . import makes
from .licences import HUNYUAN, UNKNOWN

TENCENT = "github Tencent-Hunyuan/HunyuanVideo-1.5 README"

fast = partial(
    Accelerator,
    family="HunyuanVideo fast",
    bases=(Base.HUNYUAN_VIDEO,),
    steps=(6,),
    schedule=ShiftedFlow(17.0),
    embedded_guidance=6.0,
    licence=UNKNOWN,
    name_words=("fastvideo|fasthunyuan",),
    sources=(
        "github hao-ai-lab/FastVideo configs and docs",
        "github kijai/ComfyUI-HunyuanVideoWrapper",
    ),
)
hunyuan15 = partial(
    Accelerator,
    family="HunyuanVideo fast",
    bases=(Base.HUNYUAN15,),
    licence=HUNYUAN,
    sources=(TENCENT,),
)
super_resolution = partial(
    hunyuan15, kind=Kind.MODEL, bases=(Base.HUNYUAN15_SR,), schedule=ShiftedFlow(2.0)
)
extract = partial(
    hunyuan15,
    kind=Kind.LORA,
    steps=(8,),
    solver=Solver.DPMPP_2M,
    licence=UNKNOWN,
    sources=("github deepbeepmeep/Wan2GP profiles",),
    unverified=(
        "steps it was trained for, key format and licence",
        "solver: DPM++ 2M is taken for Wan2GP's dpm++",
    ),
)
REPACK = "DeepBeepMeep/HunyuanVideo1.5"
COMFY = "Comfy-Org/HunyuanVideo_1.5_repackaged"
NAMES = f"huggingface {COMFY} discussion 2"
whole = partial(PublishedFile, folder="diffusion_models")


def comfy_files(*names: str) -> tuple[PublishedFile, ...]:
    """Single files for the host, repackaged by Comfy-Org."""
    folder = "split_files/diffusion_models"
    return tuple(whole(COMFY, f"{folder}/hunyuanvideo1.5_{name}.safetensors") for name in names)


RECORDS = (
    fast(
        id="fasthunyuan-6step",
        kind=Kind.MODEL,
        files=(
            whole("Kijai/HunyuanVideo_comfy", "hunyuan_video_FastVideo_720_fp8_e4m3fn.safetensors"),
        ),
        unverified=("licence",),
    ),
    fast(
        id="fasthunyuan-6step-lora",
        kind=Kind.LORA,
        strength=0.8,
        files=(
            PublishedFile(
                "Kijai/HunyuanVideo_comfy",
                "hyvideo_FastVideo_LoRA-fp8.safetensors",
                make=makes.NATIVE_NAMES,
            ),
        ),
        notes=("Eight steps are also recommended; it was distilled for six.",),
        unverified=(
            "strength, steps, licence and rank",
            "the keys of linear1, linear2, time_in and vector_in",
        ),
    ),
    hunyuan15(
        id="hunyuan15-480p-i2v-step-distilled",
        kind=Kind.MODEL,
        steps=(8, 12),
        schedule=ShiftedFlow(7.0),
        files=(
            *comfy_files("480p_i2v_step_distilled_fp16", "480p_i2v_step_distilled_fp8_scaled"),
            whole("tencent/HunyuanVideo-1.5"),
        ),
        name_words=("step", "distilled"),
        sources=(TENCENT, NAMES),
    ),
    super_resolution(
        id="hunyuan15-1080p-sr-8step",
        steps=(8,),
        files=comfy_files("1080p_sr_distilled_fp16"),
        name_words=("1080p", "sr"),
        notes=(
            (
                "The official template makes its eight steps in two halves. SwarmUI finds it better"
                " at CFG 6."
            ),
        ),
        sources=(TENCENT, "comfyui-workflow-templates video_hunyuan_video_1.5_720p_*.json"),
    ),
    super_resolution(
        id="hunyuan15-720p-sr-6step",
        steps=(6,),
        files=(*comfy_files("720p_sr_distilled_fp16"), whole("tencent/HunyuanVideo-1.5")),
        name_words=("720p", "sr"),
        sources=(TENCENT, NAMES),
    ),
    hunyuan15(
        id="hunyuan15-480p-t2v-lightx2v-4step",
        kind=Kind.MODEL,
        steps=(4,),
        schedule=ShiftedFlow(5.0),
        licence=UNKNOWN,
        files=(
            whole("lightx2v/Hy1.5-Distill-Models", "hy1.5_t2v_480p_lightx2v_4step.safetensors"),
        ),
        name_words=("lightx2v",),
        sources=("github ModelTC/LightX2V configs/",),
        unverified=("licence",),
    ),
    hunyuan15(
        id="hunyuan15-480p-t2v-lightx2v-4step-lora",
        kind=Kind.LORA,
        steps=(4,),
        schedule=ShiftedFlow(5.0),
        licence=UNKNOWN,
        files=(
            PublishedFile(
                COMFY,
                "split_files/loras/"
                "hunyuanvideo1.5_t2v_480p_lightx2v_4step_lora_rank_32_bf16.safetensors",
                32,
            ),
        ),
        name_words=("lightx2v", "4step"),
        sources=(
            "github ModelTC/LightX2V configs/hunyuan_video_15/hunyuan_video_t2v_480p_distill.json",
            "path seen in public repositories",
        ),
        notes=("Comfy-Org's extract of LightX2V's model, run as the model is.",),
        unverified=("card of the extract, its licence and strength", "header"),
    ),
    extract(
        id="hunyuan15-lightx2v-lora",
        schedule=ShiftedFlow(3.0),
        files=(
            PublishedFile(
                REPACK, "loras_accelerators/Hunyuan_video_1_5_LigthX2V_dpm_rank32.safetensors", 32
            ),
        ),
        name_words=("lightx2v|ligthx2v",),
        name_excludes=("4step",),
    ),
    extract(
        id="hunyuan15-i2v-step-distilled-lora",
        schedule=ShiftedFlow(4.0),
        files=(
            PublishedFile(
                REPACK,
                "loras_accelerators/Hunyuan_video_1_5_i2v_step_distilled_dpm_rank32.safetensors",
                32,
            ),
        ),
        name_words=("i2v", "step", "distilled"),
    ),
)
