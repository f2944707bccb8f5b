"""Qwen-Image-Lightning and its kin: distribution matching at shift 3, four and eight Euler steps.

Text-to-image and edit models share an architecture, so the header cannot tell their LoRAs apart and
the name decides. The official templates shift by 3.1 where the authors trained with 3.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, PublishedFile, TemplateWay
from ..bases import Base
from ..schedules import ShiftedFlow
from . import makes
from .licences import APACHE, UNKNOWN, secondary

REPO = "lightx2v/Qwen-Image-Lightning"
EDIT_2511 = "lightx2v/Qwen-Image-Edit-2511-Lightning"
IMAGE_2512 = "lightx2v/Qwen-Image-2512-Lightning"
GRIDS = "On a base in plain fp8 it leaves grid artefacts: take a 16-bit or a scaled fp8 base."

qwen = partial(Accelerator, family="Qwen-Image-Lightning", bases=(Base.QWEN_IMAGE,), licence=APACHE)
lightning = partial(
    qwen,
    kind=Kind.LORA,
    schedule=ShiftedFlow(3.0),
    sources=("github ModelTC/Qwen-Image-Lightning README and workflows",),
    notes_on_plain_fp8=(GRIDS,),
)
# What is known to the byte: the bf16 files of four steps for Edit and for 2512. The others are of
# the same size, or of twice that where they are in fp32.
TAKEN = "rank, alpha and header: those of the Edit file of four steps, of equal size, are taken"


SHIFT_31 = (TemplateWay(noise="shift 3.1"),)
TEMPLATE_WAYS = {
    ("qwen-image-lightning", 4): SHIFT_31,
    ("qwen-image-lightning", 8): SHIFT_31,
    ("qwen-image-edit-2509-lightning", 4): SHIFT_31,
    ("qwen-image-edit-2509-lightning", 8): (TemplateWay(noise="beta, shift 3"),),
    ("qwen-image-edit-2511-lightning", 4): SHIFT_31,
    ("qwen-image-2512-lightning", 4): SHIFT_31,
}


def files_of(repo: str, *paths: str) -> tuple[PublishedFile, ...]:
    return tuple(PublishedFile(repo, f"{path}.safetensors") for path in paths)


def lightning_files(repo: str, *paths: str) -> tuple[PublishedFile, ...]:
    return tuple(
        PublishedFile(
            repo,
            f"{path}.safetensors",
            64,
            make=makes.QWEN_IMAGE if path.endswith("bf16") else makes.QWEN_IMAGE_F32,
        )
        for path in paths
    )


def line(
    id: str,
    steps: int,
    files: tuple[PublishedFile, ...],
    words: tuple[str, ...],
    excludes: tuple[str, ...] = (),
) -> Accelerator:
    return lightning(
        id=f"{id}-{steps}step-lora",
        steps=(steps,),
        files=files,
        name_words=("lightning", *words),
        name_excludes=excludes,
        template_ways=TEMPLATE_WAYS.get((id, steps), ()),
        unverified=(TAKEN,) if steps == 8 or id == "qwen-image-lightning" else (),
    )


T2I = {
    4: [
        f"Qwen-Image-Lightning-4steps-{version}"
        for version in ("V1.0", "V1.0-bf16", "V2.0", "V2.0-bf16")
    ],
    8: [
        f"Qwen-Image-Lightning-8steps-{version}"
        for version in ("V1.0", "V1.1", "V1.1-bf16", "V2.0", "V2.0-bf16")
    ],
}


def lines_of(steps: int) -> list[Accelerator]:
    edit = f"Qwen-Image-Edit-Lightning-{steps}steps-V1.0"
    edit_2509 = f"Qwen-Image-Edit-2509/Qwen-Image-Edit-2509-Lightning-{steps}steps-V1.0"
    edit_2511 = f"Qwen-Image-Edit-2511-Lightning-{steps}steps-V1.0"
    image_2512 = f"Qwen-Image-2512-Lightning-{steps}steps-V1.0"
    return [
        line(
            "qwen-image-lightning",
            steps,
            lightning_files(REPO, *T2I[steps]),
            ("qwen",),
            ("edit", "2512", "fp8", "firered"),
        ),
        line(
            "qwen-image-edit-lightning",
            steps,
            lightning_files(REPO, edit, f"{edit}-bf16"),
            ("edit",),
            ("2509", "2511", "firered"),
        ),
        line(
            "qwen-image-edit-2509-lightning",
            steps,
            lightning_files(REPO, f"{edit_2509}-fp32", f"{edit_2509}-bf16"),
            ("2509",),
        ),
        line(
            "qwen-image-edit-2511-lightning",
            steps,
            lightning_files(EDIT_2511, f"{edit_2511}-fp32", f"{edit_2511}-bf16"),
            ("2511",),
        ),
        line(
            "qwen-image-2512-lightning",
            steps,
            lightning_files(IMAGE_2512, f"{image_2512}-fp32", f"{image_2512}-bf16"),
            ("2512",),
        ),
    ]


fused = partial(
    qwen,
    kind=Kind.MODEL,
    schedule=ShiftedFlow(3.0),
    sources=("github ModelTC/LightX2V configs/ and docs/",),
    notes=("The Lightning LoRA is fused in already.",),
)


def fused_files(repo: str, *names: str) -> tuple[PublishedFile, ...]:
    return tuple(
        PublishedFile(repo, f"{name}.safetensors", folder="diffusion_models") for name in names
    )


FUSED = (
    fused(
        id="qwen-image-edit-2511-lightning-4step",
        steps=(4,),
        files=fused_files(
            EDIT_2511,
            "qwen_image_edit_2511_fp8_e4m3fn_scaled_lightning",
            "qwen_image_edit_2511_fp8_e4m3fn_scaled_lightning_4steps_v1.0",
        ),
        name_words=("2511", "lightning"),
        unverified=("step count of the file that names none",),
    ),
    fused(
        id="qwen-image-edit-2511-lightning-8step",
        steps=(8,),
        files=fused_files(
            EDIT_2511, "qwen_image_edit_2511_fp8_e4m3fn_scaled_lightning_8steps_v1.0"
        ),
        name_words=("2511", "lightning", "8step"),
    ),
    *(
        fused(
            id=f"qwen-image-2512-lightning-{steps}step",
            steps=(steps,),
            files=fused_files(IMAGE_2512, f"qwen_image_2512_fp8_e4m3fn_scaled_{steps}steps_v1.0"),
            name_words=("2512", f"{steps}step"),
        )
        for steps in (4, 8)
    ),
    qwen(
        id="qwen-image-distill-full-15step",
        kind=Kind.MODEL,
        steps=(15,),
        schedule=ShiftedFlow(3.1),
        files=tuple(
            PublishedFile(
                "Comfy-Org/Qwen-Image_ComfyUI",
                f"non_official/diffusion_models/qwen_image_distill_full_{kind}.safetensors",
                folder="diffusion_models",
            )
            for kind in ("fp8_e4m3fn", "bf16")
        ),
        name_words=("distill",),
        sources=("comfyui-workflow-templates image_qwen_image.json",),
        notes=("The Lightning LoRAs do not go on it.",),
        unverified=("trained shift: the template's 3.1 is taken",),
    ),
)

OTHERS = (
    lightning(
        id="qwen-image-lightning-fp8base-4step-lora",
        steps=(4,),
        files=files_of(REPO, "Qwen-Image-fp8-e4m3fn-Lightning-4steps-V1.0-fp32"),
        name_words=("lightning", "fp8"),
        notes_on_plain_fp8=(),
        notes=(
            (
                "Distilled for the base in plain fp8_e4m3fn alone, the one on which the other LoRAs"
                " leave grids."
            ),
        ),
        unverified=("rank, alpha and header of the published file",),
    ),
    qwen(
        id="qwen-image-2512-wuli-2step-lora",
        kind=Kind.LORA,
        steps=(2,),
        schedule=ShiftedFlow(3.0),
        licence=UNKNOWN,
        files=files_of(
            "Wuli-art/Qwen-Image-2512-Turbo-LoRA-2-Steps",
            "Wuli-Qwen-Image-2512-Turbo-LoRA-2steps-V1.0-bf16",
        ),
        name_words=("wuli",),
        sources=("comfyui-workflow-templates image_qwen_image_2512_with_2steps_lora.json",),
        unverified=("licence", "rank and header of the published file"),
    ),
    qwen(
        id="qwen-image-2512-wuli-4step-lora",
        kind=Kind.LORA,
        steps=(4,),
        schedule=ShiftedFlow(2.5),
        licence=secondary(APACHE),
        files=files_of(
            "Wuli-art/Qwen-Image-2512-Turbo-LoRA",
            *(f"Wuli-Qwen-Image-2512-Turbo-LoRA-4steps-V{version}.0-bf16" for version in (1, 2, 3)),
        ),
        name_words=("wuli",),
        sources=("public copies of its card",),
        unverified=("whether V2 and V3 shift by 2.5 too", "rank and header of the published files"),
    ),
    qwen(
        id="firered-edit-8step-lora",
        kind=Kind.LORA,
        steps=(8,),
        schedule=ShiftedFlow(3.1),
        licence=UNKNOWN,
        files=files_of(
            "FireRedTeam/FireRed-Image-Edit-1.0-ComfyUI",
            "FireRed-Image-Edit-1.0-Lightning-8steps-v1.0",
        ),
        name_words=("firered",),
        sources=("comfyui-workflow-templates image_firered_image_edit1_1.json",),
        unverified=("licence", "rank and header of the published file"),
    ),
)

RECORDS = (*lines_of(4), *lines_of(8), *OTHERS, *FUSED)
