"""Distilled models of the official templates and documentation that have no family of their own.

Where a template leaves the model's default shift, that default is written out: ComfyUI 0.30.0,
comfy/supported_models.py.
"""

from __future__ import annotations

import math
from functools import partial

from ..accelerator import Accelerator, Kind, Licence, PublishedFile, Solver, TemplateWay
from ..bases import Base
from ..schedules import FluxFlow, HostSpacedFlow, LiteralSigmas, ShiftedFlow
from .licences import MIT, UNKNOWN, secondary

TEMPLATES = "comfyui-workflow-templates"
DOCS = "Comfy-Org documentation"
HEADER = "rank and header of the published file"
SPLIT = "split_files/diffusion_models"

model = partial(
    Accelerator, kind=Kind.MODEL, licence=UNKNOWN, unverified=("licence",), name_words=("turbo",)
)
lora = partial(
    Accelerator,
    kind=Kind.LORA,
    licence=UNKNOWN,
    unverified=("licence", HEADER),
    name_words=("turbo",),
)
whole = partial(PublishedFile, folder="diffusion_models")

hidream = partial(model, family="HiDream", solver=Solver.LCM)
hidream_o1 = partial(
    hidream, bases=(Base.HIDREAM_O1,), schedule=HostSpacedFlow(3.0, "normal"), noise_clip=2.5
)
# Krea-2's own shift is written as FLUX's mu, 1.15.
krea2 = partial(
    lora, family="Krea-2 Turbo", bases=(Base.KREA2,), schedule=ShiftedFlow(math.exp(1.15))
)
boogu = partial(
    lora,
    family="Boogu-Image Turbo",
    bases=(Base.BOOGU,),
    default_steps=4,
    solver=Solver.LCM,
    schedule=HostSpacedFlow(3.16, "sgm_uniform"),
)
mage_flow = partial(
    model,
    family="Mage-Flow Turbo",
    bases=(Base.MAGE_FLOW,),
    steps=(4,),
    schedule=ShiftedFlow(6.0),
    sources=(f"{TEMPLATES} image_mage_flow_*.json",),
)
ace_step = partial(
    model,
    family="ACE-Step 1.5 Turbo",
    bases=(Base.ACE_STEP15,),
    steps=(8,),
    schedule=ShiftedFlow(3.0),
)


def hidream_files(name: str) -> tuple[PublishedFile, ...]:
    return tuple(
        whole("Comfy-Org/HiDream-I1_ComfyUI", f"{SPLIT}/hidream_i1_{name}_{kind}.safetensors")
        for kind in ("fp8", "bf16")
    )


def mage_flow_files(name: str) -> tuple[PublishedFile, ...]:
    return tuple(
        whole("Comfy-Org/Mage-Flow", f"diffusion_models/mage_flow_{name}_{kind}.safetensors")
        for kind in ("bf16", "int8_convrot")
    )


PID_15 = {"flux1", "flux2", "qwenimage"}  # the latents that version 1.5 is for
PID_SIZES = {"sdxl": ("1024_to_4096",), "qwenimage": ("1024_to_4096",)}  # of version 1


def pid_files(latents: str) -> tuple[PublishedFile, ...]:
    sizes = PID_SIZES.get(latents, ("1024_to_4096", "512_to_2048"))
    names = [f"pid_{latents}_{size}_4step_bf16" for size in sizes]
    if latents in PID_15:
        kinds = ("bf16", "int8_convrot") if latents == "flux1" else ("bf16",)
        names += [f"pid_1.5_{latents}_1024_to_4096_4step_{kind}" for kind in kinds]
    return tuple(
        whole("Comfy-Org/PixelDiT", f"diffusion_models/{name}.safetensors") for name in names
    )


def pid(latents: str, excludes: tuple[str, ...] = ()) -> Accelerator:
    """PixelDiT for the latents of one family of models, in both versions."""
    return model(
        id=f"pid-{latents}-4step",
        family="PixelDiT upscaler",
        bases=(Base.PID,),
        steps=(4,),
        # The list of the distillation, which the host's shift of 1.5 comes near.
        schedule=LiteralSigmas(((0.999, 0.866, 0.634, 0.342),)),
        solver=Solver.LCM,
        files=pid_files(latents),
        name_words=("pid",) if excludes else ("pid", latents),
        name_excludes=excludes,
        sources=(
            "github vllm-project/vllm-omni: one list for every distilled checkpoint of nvidia/PiD",
            "ComfyUI 0.30.0 comfy/supported_models.py, class PiD",
            f"{TEMPLATES} utility_pid_latent_upscale_dit.json",
        ),
        template_ways=(TemplateWay(noise="the model's own shift"),) if latents == "flux1" else (),
        licence=Licence("NVIDIA non-commercial research", False, "from a secondary source"),
        unverified=("licence",),
    )


HIDREAM = (
    hidream(
        id="hidream-i1-fast",
        bases=(Base.HIDREAM,),
        steps=(16,),
        schedule=HostSpacedFlow(3.0, "normal"),
        licence=secondary(MIT),
        files=hidream_files("fast"),
        name_words=("hidream", "fast"),
        sources=(f"{TEMPLATES} hidream_i1_fast.json",),
        unverified=(),
    ),
    hidream(
        id="hidream-i1-dev",
        bases=(Base.HIDREAM,),
        steps=(28,),
        schedule=HostSpacedFlow(6.0, "normal"),
        files=hidream_files("dev"),
        name_words=("hidream", "dev"),
        sources=(f"{TEMPLATES} hidream_i1_dev.json",),
    ),
    hidream_o1(
        id="hidream-o1-dev",
        steps=(28,),
        files=(
            PublishedFile(
                "Comfy-Org/HiDream-O1-Image",
                "checkpoints/hidream_o1_image_dev_fp8_scaled.safetensors",
                folder="checkpoints",
            ),
        ),
        name_words=("hidream", "dev"),
        sources=(f"{TEMPLATES} image_hidream_o1_dev.json", f"{DOCS}, HiDream-O1"),
    ),
    hidream_o1(
        id="hidream-o1-dev-lora",
        kind=Kind.LORA,
        steps=(8, 16),
        default_steps=16,
        files=(
            *(
                PublishedFile(
                    "Kijai/hidream-O1-image_comfy",
                    f"loras/hidream_o1_dev_lora_rank_64_bf16{pruned}.safetensors",
                    64,
                )
                for pruned in ("", "_pruned_v1")
            ),
        ),
        name_words=("hidream", "dev", "lora"),
        sources=(f"{DOCS}, HiDream-O1", "github mcmonkeyprojects/SwarmUI docs/Model Support.md"),
        notes=("Eight steps are coherent, sixteen near the original, by SwarmUI's account.",),
        unverified=("licence and sampler", HEADER),
    ),
)

KREA2 = (
    krea2(
        id="krea2-turbo",
        kind=Kind.MODEL,
        steps=(8,),
        files=tuple(
            whole("Comfy-Org/Krea-2", f"diffusion_models/krea2_turbo_{kind}.safetensors")
            for kind in ("fp8_scaled", "int8_convrot")
        ),
        name_excludes=("lora",),
        sources=(f"{TEMPLATES} image_krea2_turbo_t2i.json",),
        unverified=("licence", "shift: the model's own is taken"),
    ),
    krea2(
        id="krea2-turbo-lora",
        steps=(8,),
        files=(
            PublishedFile(
                "Comfy-Org/Krea-2", "loras/krea2_turbo_lora_rank_64_bf16.safetensors", 64
            ),
        ),
        name_words=("turbo", "krea|krea2", "lora"),
        name_excludes=("4step", "3step"),
        sources=("github mcmonkeyprojects/SwarmUI docs/Model Support.md",),
        notes=("For Krea-2 Raw alone: on Turbo it would distil twice.",),
    ),
    krea2(
        id="krea2-turbo-4step-lora",
        steps=(4,),
        for_distilled=("krea2-turbo",),
        files=(
            *(
                PublishedFile(
                    "lvladikov/Krea2-Turbo-Distill-4step-LoRA",
                    f"krea2_turbo_4step_rank_64_lora{suffix}.safetensors",
                    64,
                )
                for suffix in ("", "_comfyui", "_latest_comfyui")
            ),
        ),
        name_words=("turbo", "krea|krea2", "4step"),
        sources=("public copies of its card",),
        notes=("Goes on the Turbo model, unlike the official LoRA.",),
        unverified=("licence and settings", HEADER),
    ),
    krea2(
        id="krea2-turbo-3step-lora",
        steps=(3,),
        for_distilled=("krea2-turbo",),
        files=(PublishedFile("lvladikov/Krea2-Turbo-Distill-3step-LoRA"),),
        name_words=("turbo", "krea|krea2", "3step"),
        sources=("card of the 4-step LoRA",),
        notes=("Goes on the Turbo model, as the 4-step LoRA does.",),
        unverified=("file name, noise levels (the model's own are taken) and licence", HEADER),
    ),
)

IMAGE = (
    model(
        id="ernie-image-turbo",
        family="ERNIE-Image Turbo",
        bases=(Base.ERNIE_IMAGE,),
        steps=(8,),
        schedule=ShiftedFlow(3.0),
        files=(whole("Comfy-Org/ERNIE-Image", "diffusion_models/ernie-image-turbo.safetensors"),),
        sources=(f"{TEMPLATES} image_ernie_image_turbo.json",),
    ),
    lora(
        id="anima-turbo-lora",
        family="Anima Turbo",
        bases=(Base.ANIMA,),
        steps=(8,),
        schedule=ShiftedFlow(3.0),
        files=(
            PublishedFile(
                "circlestone-labs/Anima-Official-LoRAs", "anima-turbo-lora-v0.2.safetensors"
            ),
        ),
        name_words=("turbo", "anima", "lora"),
        sources=(f"{TEMPLATES} image_anima_base_v1.json",),
        unverified=("licence and sampler", HEADER),
    ),
    model(
        id="anima-turbo",
        family="Anima Turbo",
        bases=(Base.ANIMA,),
        steps=tuple(range(8, 13)),
        schedule=ShiftedFlow(3.0),
        files=tuple(
            whole("circlestone-labs/Anima", f"{SPLIT}/anima-turbo-v1.{version}.safetensors")
            for version in (1, 0)
        ),
        name_words=("turbo", "anima"),
        name_excludes=("lora",),
        sources=("huggingface circlestone-labs/Anima discussions 210 and 233", "public graphs"),
        unverified=(
            "steps: public guides and graphs have 8 to 12",
            "sampler and shift: those of its LoRA's template are taken",
            "licence",
        ),
    ),
    boogu(
        id="boogu-turbo",
        kind=Kind.MODEL,
        steps=(4,),
        files=(
            whole(
                "Comfy-Org/Boogu-Image", "diffusion_models/boogu_image_turbo_fp8_scaled.safetensors"
            ),
        ),
        name_excludes=("lora",),
        sources=(f"{TEMPLATES} image_boogu_image_0_1_turbo_t2i.json",),
        unverified=("licence",),
    ),
    boogu(
        id="boogu-turbo-lora",
        steps=(3, 4),
        files=(
            PublishedFile(
                "Comfy-Org/Boogu-Image",
                "loras/boogu_image_turbo_lora_rank_128_bf16.safetensors",
                128,
            ),
        ),
        name_words=("turbo", "boogu", "lora"),
        sources=(f"{DOCS}, Boogu-Image 0.1",),
        unverified=("licence and strength", HEADER),
    ),
    model(
        id="lens-turbo",
        family="Lens Turbo",
        bases=(Base.LENS,),
        steps=(4,),
        schedule=FluxFlow(base_shift=0.5, max_shift=1.15),
        files=(whole("Comfy-Org/Lens", "diffusion_models/lens_turbo_bf16.safetensors"),),
        sources=(f"{TEMPLATES} image_lens_turbo_t2i.json",),
        notes=(
            "The official template also puts a CFGNorm node on the model, without effect at CFG 1.",
        ),
    ),
    mage_flow(id="mage-flow-turbo", files=mage_flow_files("turbo"), name_excludes=("edit",)),
    mage_flow(
        id="mage-flow-edit-turbo", files=mage_flow_files("edit_turbo"), name_words=("turbo", "edit")
    ),
    # Z-Image, which has FLUX.1's latents, is a word of nobody's file.
    pid("flux1", excludes=("flux2", "sd3", "sdxl", "qwenimage", "qwen")),
    pid("flux2"),
    pid("sd3"),
    pid("sdxl"),
    pid("qwenimage"),
)

VIDEO_AND_AUDIO = (
    lora(
        id="chronoedit-distill-lora",
        family="ChronoEdit",
        bases=(Base.WAN21_I2V,),
        width=5120,
        steps=(8,),
        schedule=ShiftedFlow(2.0),
        files=(
            PublishedFile(
                "Comfy-Org/Wan_2.2_ComfyUI_Repackaged",
                "split_files/loras/chronoedit_distill_lora.safetensors",
            ),
        ),
        name_words=("chronoedit", "distill"),
        sources=(
            "github nv-tlabs/ChronoEdit README and huggingface nvidia/ChronoEdit-14B-Diffusers",
            f"{TEMPLATES} image_chrono_edit_14B.json",
        ),
        solver=Solver.UNI_PC,
        notes=("NVIDIA's own: eight steps of UniPC at shift 2, CFG 1 and strength 1.",),
        template_ways=(TemplateWay(steps=4, noise="shift 5"),),
        unverified=("licence", HEADER),
    ),
    ace_step(
        id="ace-step-15-turbo",
        files=(
            whole(
                "Comfy-Org/ace_step_1.5_ComfyUI_files", f"{SPLIT}/acestep_v1.5_turbo.safetensors"
            ),
            whole(
                "Comfy-Org/ace_step_1.5_ComfyUI_files",
                f"{SPLIT}/acestep_v1.5_xl_turbo_bf16.safetensors",
            ),
            PublishedFile(
                "Comfy-Org/ace_step_1.5_ComfyUI_files",
                "checkpoints/ace_step_1.5_turbo_aio.safetensors",
                folder="checkpoints",
            ),
        ),
        sources=(f"{TEMPLATES} audio_ace_step*.json",),
        notes=("Sound, not pictures.",),
    ),
)

RECORDS = (*HIDREAM, *KREA2, *IMAGE, *VIDEO_AND_AUDIO)
