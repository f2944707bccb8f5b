"""rCM and TurboDiffusion: score-regularised continuous-time consistency on Wan, in angles.

Zheng et al. 2025, arXiv 2510.08431.

Text-to-video models re-noise; the Wan 2.2 image-to-video models follow the ODE. The LoRA pair for
them is the text-to-video LoRA written out for their layers, and keeps its schedule and solver.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Expert, Kind, PublishedFile, Solver
from ..bases import Base
from ..schedules import TrigFlow
from .licences import APACHE, UNKNOWN

KIJAI = "Kijai/WanVideo_comfy"
TURBO = "TurboDiffusion/"
CONVERT = "a pickle: convert it to .safetensors"
SPARSE = (
    "made for sparse-linear attention: needs its own loader; with the host's dense attention it is"
    " off its distillation"
)
T2V, I2V = TrigFlow(sigma_max=80.0), TrigFlow(sigma_max=200.0)
BOUNDARY = 0.900

rcm = partial(
    Accelerator,
    family="rCM / TurboDiffusion",
    steps=(1, 2, 3, 4),
    default_steps=4,
    schedule=T2V,
    solver=Solver.LCM,
    licence=UNKNOWN,
    name_words=("rcm",),
    sources=("github NVlabs/rcm inference code and README",),
    unverified=("licence of the weights (the code is Apache-2.0)", "repository"),
)
expert = partial(
    rcm,
    bases=(Base.WAN22_I2V,),
    width=5120,
    schedule=I2V,
    solver=Solver.EULER,
    boundary=BOUNDARY,
    kind=Kind.MODEL,
)
lora = partial(
    rcm,
    kind=Kind.LORA,
    bases=(Base.WAN_T2V,),
    sources=("github kijai/ComfyUI-WanVideoWrapper", "file names seen in public repositories"),
    unverified=("licence and header of the published files",),
)
turbo = partial(
    rcm,
    licence=APACHE,
    name_words=("turbowan|turbowan2",),
    sources=("github thu-ml/TurboDiffusion",),
    notes=(
        (
            "Tuned with sparse-linear attention, which the host does not have: with dense attention"
            " it is off its distillation."
        ),
    ),
    unverified=(),
)
whole = partial(PublishedFile, folder="diffusion_models")


def rcm_lora_file(name: str, rank: int) -> PublishedFile:
    return PublishedFile(
        KIJAI, f"LoRAs/rCM/Wan_2_1_T2V_{name}_rCM_lora_average_rank_{rank}_bf16.safetensors", rank
    )


def expert_models(side: Expert) -> list[Accelerator]:
    word, other = side.word, side.other.word
    return [
        expert(
            id=f"rcm-wan22-i2v-{word}",
            partner=f"rcm-wan22-i2v-{other}",
            expert=side,
            files=(whole("", f"Wan2.2-I2V-A14B-{word}-rCM-merged.pth", caution=CONVERT),),
            name_words=("rcm", word),
        ),
        expert(
            id=f"turbowan22-i2v-{word}",
            partner=f"turbowan22-i2v-{other}",
            expert=side,
            licence=APACHE,
            files=tuple(
                whole(
                    f"{TURBO}TurboWan2.2-I2V-A14B-720P",
                    f"TurboWan2.2-I2V-A14B-{word}-720P{end}.pth",
                    caution=SPARSE,
                )
                for end in ("", "-quant")
            ),
            name_words=("turbowan2", word),
            sources=("github thu-ml/TurboDiffusion",),
            notes=(SPARSE.capitalize() + ".",),
            unverified=(),
        ),
    ]


def expert_lora(side: Expert) -> Accelerator:
    word, other = side.word, side.other.word
    upper, strength = ("HIGH", "6_0") if side is Expert.HIGH_NOISE else ("LOW", "1_0")
    return lora(
        id=f"rcm-wan22-i2v-{word}-lora",
        partner=f"rcm-wan22-i2v-{other}-lora",
        bases=(Base.WAN22_I2V,),
        width=5120,
        steps=(4,),
        expert=side,
        boundary=BOUNDARY,
        files=(
            PublishedFile(
                KIJAI, f"Wan22-I2V-A14B-{upper}-rCM{strength}_lora_rank_64.safetensors", 64
            ),
        ),
        name_words=("rcm|rcm6|rcm1", word),
        notes=(
            (
                "Wan 2.1's rCM LoRA written out for Wan 2.2, not trained on it; poor motion is"
                " reported."
            ),
        ),
        unverified=(
            "exact path, licence and header",
            "solver and first sigma: those of the LoRA it was made from",
        ),
    )


RECORDS = (
    rcm(
        id="rcm-wan21-t2v-1-3b",
        kind=Kind.MODEL,
        bases=(Base.WAN_T2V,),
        width=1536,
        files=(whole("", "rCM_Wan2.1_T2V_1.3B_480p.pt", caution=CONVERT),),
    ),
    rcm(
        id="rcm-wan21-t2v-14b",
        kind=Kind.MODEL,
        bases=(Base.WAN_T2V,),
        width=5120,
        files=(whole("", "rCM_Wan2.1_T2V_14B_480p.pt", caution=CONVERT),),
    ),
    lora(
        id="rcm-wan21-t2v-14b-lora",
        width=5120,
        files=(
            rcm_lora_file("14B_480p", 83),
            rcm_lora_file("14B_480p", 148),
            rcm_lora_file("14B_720p", 94),
        ),
        name_words=("rcm", "14b"),
        notes=("Its rank varies from layer to layer; the names give the average.",),
    ),
    lora(
        id="rcm-wan21-t2v-1-3b-lora",
        width=1536,
        files=(rcm_lora_file("1_3B_480p", 64),),
        name_words=("rcm", "3b"),
        unverified=("licence and header of the published files", "exact file name"),
    ),
    turbo(
        id="turbowan21-t2v-1-3b",
        kind=Kind.MODEL,
        bases=(Base.WAN_T2V,),
        width=1536,
        files=tuple(
            whole(
                f"{TURBO}TurboWan2.1-T2V-1.3B-480P",
                f"TurboWan2.1-T2V-1.3B-480P{end}.pth",
                caution=SPARSE,
            )
            for end in ("", "-quant")
        ),
    ),
    turbo(
        id="turbowan21-t2v-14b",
        kind=Kind.MODEL,
        bases=(Base.WAN_T2V,),
        width=5120,
        files=tuple(
            whole(f"{TURBO}TurboWan2.1-T2V-14B-{size}", caution=SPARSE) for size in ("480P", "720P")
        ),
        unverified=("file names",),
    ),
    *(record for side in Expert for record in (*expert_models(side), expert_lora(side))),
)
