"""Wan2.2-Lightning and LightX2V for Wan 2.2 A14B, and Wan 2.1's LoRA on 2.2.

A LoRA or a whole expert, four Euler steps at shift 5.

Both experts' records share one schedule. The high-noise expert runs while sigma is at or above the
boundary: steps 1 and 2 of 4.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ..accelerator import Accelerator, Expert, Kind, PublishedFile, TemplateWay
from ..bases import Base
from ..schedules import ShiftedFlow
from . import makes, wan21_lightx2v
from .licences import APACHE

# Wan 2.2's own expert boundary as a fraction of 1000 timesteps: wan/configs of the Wan2.2
# repository.
BOUNDARY = {Base.WAN_T2V: 0.875, Base.WAN22_I2V: 0.900}
TASK = {Base.WAN_T2V: "t2v", Base.WAN22_I2V: "i2v"}
LIGHTNING = "lightx2v/Wan2.2-Lightning"
DISTILL_LORAS = "lightx2v/Wan2.2-Distill-Loras"
DISTILL_MODELS = "lightx2v/Wan2.2-Distill-Models"
REPACKAGED = "Comfy-Org/Wan_2.2_ComfyUI_Repackaged"
KIJAI = "Kijai/WanVideo_comfy"
KIJAI_OLD = "LoRAs/Wan22-Lightning/old"
KIJAI_NEW = "LoRAs/Wan22_Lightx2v"


UNVERIFIED_FILES = {
    Base.WAN_T2V: (
        "headers of the files of V1, V2.0, 250928 and 1217, and of Kijai's",
        "whether Kijai's v1.1 still lies in the folder old",
    ),
    Base.WAN22_I2V: ("headers of the files of Seko V1, the MoE repository, 1030 and 260412",),
}


SHIFT_8 = TemplateWay(noise="shift 8")
TEMPLATE_WAYS = {
    (Base.WAN22_I2V, Expert.HIGH_NOISE): (
        SHIFT_8,
        TemplateWay(steps=8, sampler="lcm", noise="beta, shift 8"),
    ),
    (Base.WAN22_I2V, Expert.LOW_NOISE): (SHIFT_8,),
}


def t2v_files(expert: Expert) -> tuple[PublishedFile, ...]:
    word = expert.word
    # Kijai's pair of 250928 has two ranks: 128 for the high-noise expert, 64 for the low-noise one.
    rank = 128 if expert is Expert.HIGH_NOISE else 64
    return (
        *(
            PublishedFile(
                LIGHTNING,
                f"Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-{version}/{word}_noise_model.safetensors",
                64,
                make=makes.NATIVE_NAMES,
            )
            for version in ("V1", "V1.1", "V2.0")
        ),
        PublishedFile(
            LIGHTNING,
            f"Wan2.2-T2V-A14B-4steps-lora-250928/{word}_noise_model.safetensors",
            make=makes.NATIVE_NAMES,
        ),
        PublishedFile(
            REPACKAGED,
            f"split_files/loras/wan2.2_t2v_lightx2v_4steps_lora_v1.1_{word}_noise.safetensors",
            64,
            make=makes.WAN_BLOCKS_F32,
        ),
        PublishedFile(
            KIJAI,
            f"{KIJAI_OLD}/Wan2.2-Lightning_T2V-v1.1-A14B-4steps-lora_{word.upper()}_fp16.safetensors",
            64,
            make=makes.NATIVE_NAMES,
        ),
        PublishedFile(
            KIJAI,
            f"LoRAs/Wan22-Lightning/Wan22_A14B_T2V_{word.upper()}_Lightning_4steps_lora_250928_rank{rank}_fp16.safetensors",
            rank,
            make=makes.NATIVE_NAMES,
        ),
        PublishedFile(
            DISTILL_LORAS,
            f"wan2.2_t2v_A14b_{word}_noise_lora_rank64_lightx2v_4step_1217.safetensors",
            64,
            make=makes.NATIVE_NAMES,
        ),
    )


MOE = "lightx2v/Wan2.2-I2V-A14B-Moe-Distill-Lightx2v"
OF_HIGH_NOISE = (
    PublishedFile(
        DISTILL_LORAS,
        "wan2.2_i2v_A14b_high_noise_lora_rank64_lightx2v_4step_1022.safetensors",
        64,
        make=makes.WAN_T2V,
    ),
    PublishedFile(MOE, "loras/high_noise_model_rank64.safetensors", 64, make=makes.NATIVE_NAMES),
    # Published for this expert alone; their partner is Seko V1 or a Wan 2.1 LoRA.
    PublishedFile(
        KIJAI,
        f"{KIJAI_NEW}/Wan_2_2_I2V_A14B_HIGH_lightx2v_MoE_distill_lora_rank_64_bf16.safetensors",
        64,
        make=makes.NATIVE_NAMES,
    ),
    PublishedFile(
        KIJAI,
        f"{KIJAI_NEW}/Wan_2_2_I2V_A14B_HIGH_lightx2v_4step_lora_v1030_rank_64_bf16.safetensors",
        64,
        make=makes.NATIVE_NAMES,
    ),
)


# The first is Wan 2.1's image-to-video LoRA to the byte; the second probably too, unread so far.
OF_LOW_NOISE = (
    PublishedFile(
        DISTILL_LORAS,
        "wan2.2_i2v_A14b_low_noise_lora_rank64_lightx2v_4step_1022.safetensors",
        64,
        size=wan21_lightx2v.I2V_BYTES,
        make=makes.WAN_I2V,
        layers_of=Base.WAN21_I2V,
    ),
    PublishedFile(
        MOE,
        "loras/low_noise_model_rank64.safetensors",
        64,
        layers_of=Base.WAN21_I2V,
        make=makes.NATIVE_NAMES,
    ),
)


def kijai_260412(word: str, rank: int) -> PublishedFile:
    name = f"Wan_2_2_I2V_A14B_{word.upper()}_lightx2v_4step_lora_260412_rank_{rank}_fp16"
    return PublishedFile(KIJAI, f"{KIJAI_NEW}/{name}.safetensors", rank, make=makes.NATIVE_NAMES)


def i2v_files(expert: Expert) -> tuple[PublishedFile, ...]:
    word = expert.word
    return (
        PublishedFile(
            LIGHTNING,
            f"Wan2.2-I2V-A14B-4steps-lora-rank64-Seko-V1/{word}_noise_model.safetensors",
            64,
            make=makes.NATIVE_NAMES,
        ),
        PublishedFile(
            REPACKAGED,
            f"split_files/loras/wan2.2_i2v_lightx2v_4steps_lora_v1_{word}_noise.safetensors",
            64,
            make=makes.WAN_BLOCKS_F32,
        ),
        PublishedFile(
            KIJAI,
            f"{KIJAI_OLD}/Wan2.2-Lightning_I2V-A14B-4steps-lora_{word.upper()}_fp16.safetensors",
            64,
            make=makes.WAN_BLOCKS_F16,
        ),
        PublishedFile(
            DISTILL_LORAS,
            f"wan2.2_i2v_A14b_{word}_noise_lora_rank64_lightx2v_4step.safetensors",
            64,
            make=makes.NATIVE_NAMES,
        ),
        *(OF_HIGH_NOISE if expert is Expert.HIGH_NOISE else OF_LOW_NOISE),
        *(kijai_260412(word, rank) for rank in (64, 256)),
    )


def expert_record(
    id: str, base: Base, expert: Expert, is_alone: bool = False, **settings: Any
) -> Accelerator:
    """A record of one expert; is_alone: nothing was published for the other one.

    Every one shares the schedule, so that any high may meet any low of its task.
    """
    return Accelerator(
        id=f"{id}-{expert.word}",
        partner=None if is_alone else f"{id}-{expert.other.word}",
        family="Wan2.2-Lightning",
        bases=(base,),
        width=5120,
        schedule=ShiftedFlow(shift=5.0),
        licence=APACHE,
        expert=expert,
        boundary=BOUNDARY[base],
        **settings,
    )


def lightning_lora(base: Base, expert: Expert, files: tuple[PublishedFile, ...]) -> Accelerator:
    return expert_record(
        f"wan22-{TASK[base]}-lightning",
        base,
        expert,
        kind=Kind.LORA,
        steps=(4,),
        files=files,
        name_words=(TASK[base], "lightning|lightx2v|seko|4step"),
        sources=(
            "github ModelTC/Wan2.2-Lightning README and config",
            "github ModelTC/LightX2V configs/",
        ),
        notes=(
            ("The authors confirm slower motion from the high-noise expert's LoRA.",)
            if expert is Expert.HIGH_NOISE
            else ()
        ),
        template_ways=TEMPLATE_WAYS.get((base, expert), ()),
        unverified=UNVERIFIED_FILES[base],
    )


def whole_expert(base: Base, expert: Expert, files: tuple[PublishedFile, ...]) -> Accelerator:
    return expert_record(
        f"wan22-{TASK[base]}-lightning-model",
        base,
        expert,
        kind=Kind.MODEL,
        is_alone=base is Base.WAN_T2V,
        steps=(4,),
        files=files,
        name_words=(TASK[base], "lightning|lightx2v|seko|4step|4steps"),
        sources=("github ModelTC/Wan2.2-Lightning README", "github ModelTC/LightX2V configs/"),
        unverified=("file name inside its folder",) if base is Base.WAN_T2V else (),
    )


def wan21_lora(base: Base, expert: Expert) -> Accelerator:
    """Wan 2.1's LightX2V LoRA on a Wan 2.2 expert.

    By a community recipe: strength 3.0 on the high-noise one, 1.0 on the low.
    """
    return expert_record(
        f"wan22-{TASK[base]}-wan21-lora",
        base,
        expert,
        kind=Kind.LORA,
        steps=(4, 6),
        default_steps=6,
        strength=3.0 if expert is Expert.HIGH_NOISE else 1.0,
        files=WAN21_FILES[base],
        name_words=("lightx2v",),
        only_by_choice=True,
        sources=("community document quoting Kijai", "github ModelTC/Wan2.2-Lightning issue 14"),
        notes=(
            (
                "A recipe, not a release: six steps, switched in the middle. Its author also runs"
                " the first step at CFG 2, not done here."
            ),
        ),
        unverified=("that these files were ever trained for Wan 2.2: they were not",),
    )


WAN21_FILES = {
    Base.WAN_T2V: wan21_lightx2v.T2V_FILES,
    Base.WAN22_I2V: (*wan21_lightx2v.T2V_FILES, *wan21_lightx2v.I2V_FILES),
}
whole = partial(PublishedFile, folder="diffusion_models")
I2V_MODELS = {
    Expert.HIGH_NOISE: ("4step", "4step_1030", "4step_720p_260412"),
    Expert.LOW_NOISE: ("4step", "4step_720p_260412"),
}

RECORDS = (
    *(lightning_lora(Base.WAN_T2V, expert, t2v_files(expert)) for expert in Expert),
    *(lightning_lora(Base.WAN22_I2V, expert, i2v_files(expert)) for expert in Expert),
    whole_expert(
        Base.WAN_T2V,
        Expert.HIGH_NOISE,
        (whole(LIGHTNING, "Wan2.2-T2V-A14B-4steps-250928-dyno/high_noise_model.safetensors"),),
    ),
    *(
        whole_expert(
            Base.WAN22_I2V,
            expert,
            tuple(
                whole(
                    DISTILL_MODELS,
                    f"wan2.2_i2v_A14b_{expert.word}_noise_lightx2v_{name}.safetensors",
                )
                for name in I2V_MODELS[expert]
            ),
        )
        for expert in Expert
    ),
    *(wan21_lora(base, expert) for base in BOUNDARY for expert in Expert),
)
