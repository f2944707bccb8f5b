"""Wan2.2-Lightning and LightX2V for Wan 2.2 A14B: one LoRA for each expert, four Euler steps at shift 5.

Both experts' records share one schedule. The high-noise expert runs while sigma is at or above the boundary: steps 1 and 2 of 4.
"""

from __future__ import annotations

from ..accelerator import Accelerator, Base, Expert, Kind, Licence, PublishedFile, ShiftedFlow, Solver

APACHE = Licence("Apache-2.0", True)
# Wan 2.2's own expert boundary as a fraction of 1000 timesteps: wan/configs of the Wan2.2 repository.
BOUNDARY = {Base.WAN_T2V: 0.875, Base.WAN22_I2V: 0.900}
LIGHTNING = "lightx2v/Wan2.2-Lightning"
DISTILL_LORAS = "lightx2v/Wan2.2-Distill-Loras"
REPACKAGED = "Comfy-Org/Wan_2.2_ComfyUI_Repackaged"
KIJAI = "Kijai/WanVideo_comfy"
KIJAI_OLD = "LoRAs/Wan22-Lightning/old"
KIJAI_NEW = "LoRAs/Wan22_Lightx2v"

T2V_FILES = {
    expert: (
        PublishedFile(LIGHTNING, f"Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V1/{word}_noise_model.safetensors", 64),
        PublishedFile(LIGHTNING, f"Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V1.1/{word}_noise_model.safetensors", 64),
        PublishedFile(LIGHTNING, f"Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V2.0/{word}_noise_model.safetensors", 64),
        PublishedFile(LIGHTNING, f"Wan2.2-T2V-A14B-4steps-lora-250928/{word}_noise_model.safetensors"),
        PublishedFile(REPACKAGED, f"split_files/loras/wan2.2_t2v_lightx2v_4steps_lora_v1.1_{word}_noise.safetensors", 64),
        PublishedFile(KIJAI, f"{KIJAI_OLD}/Wan2.2-Lightning_T2V-v1.1-A14B-4steps-lora_{word.upper()}_fp16.safetensors", 64),
        # The pair's ranks differ: 128 for the high-noise expert, 64 for the low-noise one.
        PublishedFile(KIJAI, f"LoRAs/Wan22-Lightning/Wan22_A14B_T2V_{word.upper()}_Lightning_4steps_lora_250928"
                             f"_rank{128 if word == 'high' else 64}_fp16.safetensors", 128 if word == "high" else 64),
        PublishedFile(DISTILL_LORAS, f"wan2.2_t2v_A14b_{word}_noise_lora_rank64_lightx2v_4step_1217.safetensors", 64),
    )
    for expert, word in ((Expert.HIGH_NOISE, "high"), (Expert.LOW_NOISE, "low"))
}

# Published for the high-noise expert alone; their low-noise partner is Seko V1 or a Wan 2.1 LoRA.
I2V_HIGH_ONLY = (
    PublishedFile(KIJAI, f"{KIJAI_NEW}/Wan_2_2_I2V_A14B_HIGH_lightx2v_MoE_distill_lora_rank_64_bf16.safetensors", 64),
    PublishedFile(KIJAI, f"{KIJAI_NEW}/Wan_2_2_I2V_A14B_HIGH_lightx2v_4step_lora_v1030_rank_64_bf16.safetensors", 64),
)
I2V_FILES = {
    expert: (
        PublishedFile(LIGHTNING, f"Wan2.2-I2V-A14B-4steps-lora-rank64-Seko-V1/{word}_noise_model.safetensors", 64),
        PublishedFile(REPACKAGED, f"split_files/loras/wan2.2_i2v_lightx2v_4steps_lora_v1_{word}_noise.safetensors", 64),
        PublishedFile(KIJAI, f"{KIJAI_OLD}/Wan2.2-Lightning_I2V-A14B-4steps-lora_{word.upper()}_fp16.safetensors", 64),
        PublishedFile(DISTILL_LORAS, f"wan2.2_i2v_A14b_{word}_noise_lora_rank64_lightx2v_4step.safetensors", 64),
        PublishedFile(DISTILL_LORAS, f"wan2.2_i2v_A14b_{word}_noise_lora_rank64_lightx2v_4step_1022.safetensors", 64),
        PublishedFile("lightx2v/Wan2.2-I2V-A14B-Moe-Distill-Lightx2v", f"loras/{word}_noise_model_rank64.safetensors", 64),
        *(PublishedFile(KIJAI, f"{KIJAI_NEW}/Wan_2_2_I2V_A14B_{word.upper()}_lightx2v_4step_lora_260412_rank_{rank}_fp16.safetensors",
                        rank) for rank in (64, 256)),
        *(I2V_HIGH_ONLY if expert is Expert.HIGH_NOISE else ()),
    )
    for expert, word in ((Expert.HIGH_NOISE, "high"), (Expert.LOW_NOISE, "low"))
}


def lightning_lora(id: str, base: Base, expert: Expert, files: tuple[PublishedFile, ...], task: str) -> Accelerator:
    return Accelerator(
        id=id,
        family="Wan2.2-Lightning",
        kind=Kind.LORA,
        bases=(base,),
        steps=(4,),
        default_steps=4,
        schedule=ShiftedFlow(shift=5.0),
        solver=Solver.EULER,
        licence=APACHE,
        files=files,
        name_words=(task, "lightning|lightx2v|seko|4step"),
        expert=expert,
        boundary=BOUNDARY[base],
        sources=("github ModelTC/Wan2.2-Lightning README and config", "github ModelTC/LightX2V configs/"),
        notes=("The authors confirm slower motion from the high-noise expert's LoRA.",) if expert is Expert.HIGH_NOISE else (),
        unverified=("headers of the published files",),
    )


RECORDS = (
    lightning_lora("wan22-t2v-lightning-high", Base.WAN_T2V, Expert.HIGH_NOISE, T2V_FILES[Expert.HIGH_NOISE], "t2v"),
    lightning_lora("wan22-t2v-lightning-low", Base.WAN_T2V, Expert.LOW_NOISE, T2V_FILES[Expert.LOW_NOISE], "t2v"),
    lightning_lora("wan22-i2v-lightning-high", Base.WAN22_I2V, Expert.HIGH_NOISE, I2V_FILES[Expert.HIGH_NOISE], "i2v"),
    lightning_lora("wan22-i2v-lightning-low", Base.WAN22_I2V, Expert.LOW_NOISE, I2V_FILES[Expert.LOW_NOISE], "i2v"),
)
