"""LightX2V step- and guidance-distilled LoRAs for Wan 2.1 14B: four Euler steps at shift 5."""

from __future__ import annotations

from ..accelerator import Accelerator, Base, Kind, Licence, PublishedFile, ShiftedFlow, Solver

APACHE = Licence("Apache-2.0", True)
LIGHTX2V = "github ModelTC/LightX2V configs/ and lora adapter code"
KIJAI = "Kijai/WanVideo_comfy"


def lightx2v_lora(id: str, base: Base, files: tuple[PublishedFile, ...], words: tuple[str, ...], notes: tuple[str, ...] = ()) -> Accelerator:
    return Accelerator(
        id=id,
        family="LightX2V (Wan 2.1)",
        kind=Kind.LORA,
        bases=(base,),
        steps=(4,),
        default_steps=4,
        schedule=ShiftedFlow(shift=5.0),
        solver=Solver.EULER,
        licence=APACHE,
        files=files,
        name_words=words,
        sources=(LIGHTX2V,),
        notes=notes,
        unverified=("header of the published files",),
    )


RECORDS = (
    lightx2v_lora(
        "wan21-t2v-lightx2v-4step", Base.WAN_T2V,
        (
            PublishedFile("lightx2v/Wan2.1-T2V-14B-StepDistill-CfgDistill-Lightx2v",
                          "loras/Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors", 64),
            PublishedFile("lightx2v/Wan2.1-Distill-Loras", "wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors", 64),
            PublishedFile(KIJAI, "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors", 32),
            *(PublishedFile(KIJAI, f"Lightx2v/lightx2v_T2V_14B_cfg_step_distill_v2_lora_rank{rank}_bf16.safetensors", rank)
              for rank in (16, 32, 64, 128, 256)),
        ),
        ("lightx2v", "t2v"),
        notes=("The same file is used on Wan 2.2 at 3.0 (high-noise) and 1.0 (low-noise) by a community recipe.",),
    ),
    lightx2v_lora(
        "wan21-i2v-lightx2v-4step", Base.WAN21_I2V,
        (
            PublishedFile("lightx2v/Wan2.1-I2V-14B-480P-StepDistill-CfgDistill-Lightx2v",
                          "loras/Wan21_I2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors", 64),
            PublishedFile("lightx2v/Wan2.1-Distill-Loras", "wan2.1_i2v_lora_rank64_lightx2v_4step.safetensors", 64),
            *(PublishedFile(KIJAI, f"Lightx2v/lightx2v_I2V_14B_480p_cfg_step_distill_rank{rank}_bf16.safetensors", rank)
              for rank in (4, 8, 16, 32, 64, 128, 256)),
        ),
        ("lightx2v", "i2v"),
    ),
)
