"""CausVid: causal distribution matching on Wan. Yin et al. 2024, arXiv 2412.07772.

The 1.3B lists are used as they stand, unshifted. The 14B LoRAs are extracts that run on the
ordinary bidirectional Wan, at a strength that falls as steps rise.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Causal, Kind, Licence, PublishedFile, Solver
from ..bases import Base
from ..schedules import LiteralSigmas, ShiftedFlow
from . import makes
from .licences import CC_BY_NC_SA

DERIVED = Licence(CC_BY_NC_SA.name, False, "inferred from CausVid, which it is derived from")
KIJAI = "Kijai/WanVideo_comfy"
CONVERT = "a pickle: convert it to .safetensors"
# configs/*.yaml of tianweiy/CausVid: 1000, 757, 522 with warp_denoising_step false.
THREE = LiteralSigmas(((1.0, 0.757, 0.522),))
# LightX2V's list for the 14B model, in thousandths.
NINE = LiteralSigmas(((0.999, 0.934, 0.862, 0.756, 0.603, 0.41, 0.25, 0.14, 0.074),))

causvid = partial(
    Accelerator,
    family="CausVid",
    kind=Kind.MODEL,
    solver=Solver.LCM,
    licence=CC_BY_NC_SA,
    name_words=("causvid",),
)
small = partial(
    causvid,
    width=1536,
    steps=(3,),
    schedule=THREE,
    sources=("github tianweiy/CausVid configs and LICENSE.md",),
)
large = partial(
    causvid,
    width=5120,
    steps=(9,),
    schedule=NINE,
    licence=DERIVED,
    sources=("github ModelTC/LightX2V configs/", "github kijai/ComfyUI-WanVideoWrapper schedulers"),
)
extract = partial(
    causvid,
    kind=Kind.LORA,
    solver=Solver.UNI_PC,
    licence=DERIVED,
    sources=(
        "github deepbeepmeep/Wan2GP profiles",
        "comfyui-workflow-templates video_wan_vace_14B_*.json",
        "github kijai/ComfyUI-WanVideoWrapper issues",
    ),
    unverified=(
        "header and licence of the extract",
        "sampler: uni_pc, as the official templates have it",
    ),
)
large_extract = partial(
    extract,
    bases=(Base.WAN_T2V, Base.WAN21_I2V, Base.WAN_VACE),
    width=5120,
    schedule=ShiftedFlow(8.0),
    files=tuple(
        PublishedFile(
            KIJAI,
            f"Wan21_CausVid_14B_T2V_lora_rank32{suffix}.safetensors",
            32,
            make=makes.NATIVE_NAMES,
        )
        for suffix in ("", "_v1_5_no_first_block", "_v2")
    ),
    name_excludes=("bidirect2", "1"),
)
BY_STEPS = (
    "Its strength belongs to its step count: 1 to 0.8 at 4 steps, 0.7 to 0.5 at 8, 0.3 at 12, each"
    " a record of its own."
)


def on_vace(
    task: str, steps: int, strength: float, template: str, shift: float = 8.0
) -> Accelerator:
    """The 14B extract as an official template runs it on VACE. Which of them is best is not known:
    the extract has no recipe of its author's.
    """
    return large_extract(
        id=f"wan-vace-causvid-{task}-{steps}step",
        bases=(Base.WAN_VACE,),
        steps=(steps,),
        schedule=ShiftedFlow(shift),
        strength=strength,
        only_by_choice=True,
        sources=(f"comfyui-workflow-templates {template}.json",),
        notes=(
            f"A recipe of the official templates: {template}.",
            "Their note says 2 to 4 steps at 0.3 to 0.7.",
        ),
    )


RECORDS = (
    small(
        id="causvid-1-3b-causal",
        bases=(Base.WAN_CAUSAL,),
        causal=Causal(frames_per_block=3),
        files=(
            PublishedFile(
                "tianweiy/CausVid",
                "autoregressive_checkpoint/model.pt",
                folder="diffusion_models",
                caution=CONVERT,
            ),
        ),
        name_words=("causvid|autoregressive",),
        unverified=("exact file name",),
    ),
    small(
        id="causvid-1-3b-bidirectional",
        bases=(Base.WAN_T2V,),
        files=tuple(
            PublishedFile(
                "tianweiy/CausVid",
                f"bidirectional_checkpoint{number}/model.pt",
                folder="diffusion_models",
                caution=CONVERT,
            )
            for number in (1, 2)
        ),
        name_words=("causvid", "bidirectional|bidirect|1"),
        unverified=("exact file name",),
    ),
    large(
        id="causvid-14b-causal",
        bases=(Base.WAN_CAUSAL,),
        causal=Causal(frames_per_block=3),
        files=(PublishedFile("lightx2v/Wan2.1-T2V-14B-CausVid", folder="diffusion_models"),),
        unverified=("file name and licence",),
    ),
    large(
        id="causvid-14b",
        bases=(Base.WAN_T2V,),
        files=(
            PublishedFile(
                KIJAI, "Wan2_1-T2V-14B_CausVid_fp8_e4m3fn.safetensors", folder="diffusion_models"
            ),
        ),
        name_words=("causvid", "14b"),
    ),
    large_extract(id="causvid-14b-8step-lora", steps=(8,), strength=0.7, notes=(BY_STEPS,)),
    # Wan2GP gives 0.8 to 1.0 for four steps.
    large_extract(
        id="causvid-14b-4step-lora",
        steps=(4,),
        strength=0.9,
        only_by_choice=True,
        notes=(BY_STEPS,),
    ),
    large_extract(
        id="causvid-14b-12step-lora",
        steps=(12,),
        strength=0.3,
        only_by_choice=True,
        notes=(BY_STEPS,),
    ),
    on_vace("reference", 4, 0.3, "video_wan_vace_14B_ref2v and video_wan_vace_14B_v2v"),
    on_vace("text", 4, 0.7, "video_wan_vace_14B_t2v"),
    on_vace("outpainting", 3, 0.4, "video_wan_vace_outpainting"),
    on_vace("inpainting", 6, 0.3, "video_wan_vace_inpainting", shift=5.0),
    extract(
        id="causvid-1-3b-8step-lora",
        bases=(Base.WAN_T2V, Base.WAN_VACE),
        width=1536,
        steps=(8,),
        schedule=ShiftedFlow(2.0),
        # The middle of the 0.3 to 0.7 in use.
        strength=0.5,
        files=(
            PublishedFile(
                KIJAI,
                "Wan21_CausVid_bidirect2_T2V_1_3B_lora_rank32.safetensors",
                32,
                make=makes.KIJAI_1_3B,
            ),
        ),
        name_words=("causvid", "bidirect2|3b"),
        notes=("For the 1.3B model alone.",),
        unverified=("licence of the extract", "sampler", "default strength"),
    ),
)
