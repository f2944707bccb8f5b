"""AccVideo: distillation on synthetic denoising trajectories, for Wan 2.1 14B and HunyuanVideo.

Zhang et al. 2025, arXiv 2503.19462.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, Licence, PublishedFile, Solver
from ..bases import Base
from ..schedules import ShiftedFlow
from . import makes
from .licences import HUNYUAN

LICENCE = Licence(
    HUNYUAN.name,
    True,
    f"{HUNYUAN.note}; the code's licence, of the extracted weights not confirmed",
)

accvideo = partial(
    Accelerator,
    family="AccVideo",
    licence=LICENCE,
    name_words=("accvid|accvideo",),
    sources=(
        "github aejion/AccVideo README and LICENSE.txt",
        "github deepbeepmeep/Wan2GP profiles",
    ),
)
wan = partial(accvideo, width=5120, steps=(10,), schedule=ShiftedFlow(5.0), solver=Solver.UNI_PC)
wan_lora = partial(
    wan,
    kind=Kind.LORA,
    unverified=("licence of the weights", "alpha and header of the published file"),
)
hunyuan = partial(
    accvideo,
    bases=(Base.HUNYUAN_VIDEO,),
    steps=(5,),
    schedule=ShiftedFlow(7.0),
    embedded_guidance=6.0,
    sources=(
        "github aejion/AccVideo README and LICENSE.txt",
        "github kijai/ComfyUI-HunyuanVideoWrapper",
    ),
)
KIJAI = "Kijai/WanVideo_comfy"

RECORDS = (
    wan_lora(
        id="accvideo-wan21-t2v-lora",
        bases=(Base.WAN_T2V,),
        files=(
            PublishedFile(
                KIJAI,
                "Wan21_AccVid_T2V_14B_lora_rank32_fp16.safetensors",
                32,
                make=makes.NATIVE_NAMES,
            ),
        ),
    ),
    wan_lora(
        id="accvideo-wan21-i2v-lora",
        bases=(Base.WAN21_I2V,),
        files=(
            PublishedFile(
                KIJAI,
                "Wan21_AccVid_I2V_480P_14B_lora_rank32_fp16.safetensors",
                32,
                make=makes.NATIVE_NAMES,
            ),
        ),
    ),
    wan(
        id="accvideo-wan21-t2v",
        kind=Kind.MODEL,
        bases=(Base.WAN_T2V,),
        files=(
            PublishedFile(
                KIJAI, "Wan2_1-AccVideo-T2V-14B_fp8_e4m3fn.safetensors", folder="diffusion_models"
            ),
        ),
    ),
    hunyuan(
        id="accvideo-hunyuan-5step",
        kind=Kind.MODEL,
        files=(
            PublishedFile(
                "aejion/AccVideo",
                "accvideo-t2v-5-steps/diffusion_pytorch_model.pt",
                folder="diffusion_models",
                caution="a pickle: convert it, or take the .safetensors repack",
            ),
            PublishedFile(
                "Kijai/HunyuanVideo_comfy",
                "accvideo-t2v-5-steps_fp8_e4m3fn.safetensors",
                folder="diffusion_models",
            ),
        ),
        unverified=("key names of the .pt file",),
    ),
    hunyuan(
        id="accvideo-hunyuan-5step-lora",
        kind=Kind.LORA,
        files=(
            PublishedFile(
                "Kijai/HunyuanVideo_comfy",
                "hunyuan_video_accvid_5_steps_lora_rank16_fp8_e4m3fn.safetensors",
                16,
            ),
        ),
        unverified=("strength", "header of the published file"),
    ),
)
