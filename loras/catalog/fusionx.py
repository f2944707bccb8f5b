"""FusionX: a community merge of CausVid, AccVideo and others on Wan 2.1 14B.

Eight to ten steps at shift 2.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, Licence, PublishedFile, Solver
from ..bases import Base
from ..schedules import ShiftedFlow
from . import makes

REPO = "vrgamedevgirl84/Wan14BT2VFusioniX"

fusionx = partial(
    Accelerator,
    family="FusionX",
    width=5120,
    steps=(8, 9, 10),
    default_steps=10,
    schedule=ShiftedFlow(2.0),
    solver=Solver.UNI_PC,
    licence=Licence("unknown", False, "it contains CausVid, which is non-commercial"),
    name_words=("fusionx|fusionix|wan14bt2vfusionix",),
    sources=("github deepbeepmeep/Wan2GP profiles", "community document quoting Kijai"),
    notes=("Accelerators are merged into it: no other goes on top.",),
    unverified=("exact recipe, licence and sampler", "header of the published file"),
)

RECORDS = (
    fusionx(
        id="fusionx-wan21-t2v-lora",
        kind=Kind.LORA,
        bases=(Base.WAN_T2V,),
        files=(
            PublishedFile(
                REPO,
                "FusionX_LoRa/Wan2.1_T2V_14B_FusionX_LoRA.safetensors",
                32,
                make=makes.KIJAI_T2V_OLDER,
            ),
            PublishedFile(REPO, "FusionX_LoRa/Phantom_Wan_14B_FusionX_LoRA.safetensors"),
        ),
        unverified=("exact recipe, licence and sampler", "header of the Phantom file"),
    ),
    fusionx(
        id="fusionx-wan21-i2v-lora",
        kind=Kind.LORA,
        bases=(Base.WAN21_I2V,),
        files=(PublishedFile(REPO, "FusionX_LoRa/Wan2.1_I2V_14B_FusionX_LoRA.safetensors"),),
    ),
    fusionx(
        id="fusionx-wan21-t2v",
        kind=Kind.MODEL,
        bases=(Base.WAN_T2V,),
        default_steps=8,
        files=(
            PublishedFile(REPO, "Wan14BT2VFusioniX_fp16.safetensors", folder="diffusion_models"),
        ),
        unverified=("file path and licence", "sampler"),
    ),
)
