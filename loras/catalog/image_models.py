"""Distilled image models with a release or two each, of the bases that came after FLUX.1's."""

from __future__ import annotations

import math
from functools import partial

from ..accelerator import Accelerator, Kind, Licence, Make, PublishedFile, TemplateWay
from ..bases import Base
from ..schedules import FluxFlow, OwnFlow, ShiftedFlow
from .licences import APACHE, MIT, UNKNOWN, secondary

TEMPLATES = "comfyui-workflow-templates"

whole = partial(PublishedFile, folder="diffusion_models")
RECORDS = (
    Accelerator(
        id="fibo2-edit-turbo",
        family="FIBO 2 Turbo",
        kind=Kind.MODEL,
        bases=(Base.FIBO2,),
        steps=(4,),
        schedule=OwnFlow(),
        licence=Licence("CC BY-NC 4.0", False),
        files=tuple(
            whole("Comfy-Org/Fibo-2.0", f"diffusion_models/fibo2_edit_turbo_{kind}.safetensors")
            for kind in ("int8_convrot", "bf16")
        ),
        name_words=("fibo2|fibo", "turbo"),
        name_excludes=("lora",),
        sources=(f"{TEMPLATES} image_fibo2_edit_turbo_pe.json and its note",),
        unverified=("the shift, which is the model's own, and what ComfyUI calls its class",),
    ),
    Accelerator(
        id="ideogram4-turbotime-lora",
        family="Ideogram 4 TurboTime",
        kind=Kind.LORA,
        bases=(Base.IDEOGRAM4,),
        width=4608,
        steps=(2, 3, 4),
        default_steps=4,
        schedule=OwnFlow(),
        licence=Licence("Ideogram 4 Non-Commercial", False),
        files=(
            PublishedFile(
                "ostris/ideogram_4_turbotime_lora",
                "ideogram_4_turbotime_v1.safetensors",
                128,
                make=Make("diffusion_model.*.lora_A", 204, "BF16"),
            ),
        ),
        name_words=("turbotime",),
        sources=("huggingface ostris/ideogram_4_turbotime_lora", "github deepbeepmeep/Wan2GP"),
        notes=("Without Ideogram 4's second, unconditional model.",),
        unverified=("solver: Euler is taken", "shift: the model's own is taken"),
    ),
    Accelerator(
        id="longcat-image-edit-turbo",
        family="LongCat-Image-Edit-Turbo",
        kind=Kind.MODEL,
        bases=(Base.LONGCAT_IMAGE,),
        steps=(8,),
        # base_shift and max_shift are both 1.15 in its scheduler_config.json: no size matters.
        schedule=ShiftedFlow(math.exp(1.15)),
        licence=UNKNOWN,
        files=(
            whole(
                "Comfy-Org/LongCat-Image",
                "split_files/diffusion_models/longcat_image_edit_turbo_bf16.safetensors",
            ),
        ),
        name_words=("longcat", "turbo"),
        sources=("meituan-longcat/LongCat-Image-Edit-Turbo scheduler_config.json",),
        unverified=("licence",),
    ),
    Accelerator(
        id="chroma1-hd-flash",
        family="Chroma Flash",
        kind=Kind.MODEL,
        bases=(Base.CHROMA,),
        steps=(16,),
        schedule=OwnFlow(),
        licence=APACHE,
        files=(whole("lodestones/Chroma1-Flash", "Chroma1-HD-Flash.safetensors"),),
        name_words=("chroma|chroma1", "flash"),
        sources=("public guides to Chroma",),
        notes=("Without a negative prompt, as it was made for CFG 1.",),
        unverified=(
            "steps and solver: guides have 8 of heun, or 16; Euler is taken for the 16",
            "shift: the model's own is taken",
            "licence: that of Chroma is taken",
        ),
    ),
    Accelerator(
        id="ming-image-01-design",
        family="Ming-Image",
        kind=Kind.MODEL,
        bases=(Base.MING_IMAGE,),
        steps=(12,),
        schedule=FluxFlow(),
        licence=MIT,
        files=(
            whole(
                "Comfy-Org/Ming-Image",
                "diffusion_models/ming_image_0.1_design_int8_convrot.safetensors",
            ),
        ),
        name_words=("ming", "design"),
        sources=(f"{TEMPLATES} image_ming_image_01_design_t2i.json",),
        template_ways=(TemplateWay(sampler="lcm"),),
        unverified=("that it was distilled: it is published to run 12 steps without guidance",),
    ),
    Accelerator(
        id="flux3-image-klein",
        family="FLUX",
        kind=Kind.MODEL,
        bases=(Base.FLUX3,),
        steps=(16,),
        schedule=OwnFlow(),
        licence=Licence("FLUX Kommunity License", None),
        files=tuple(
            whole(
                "black-forest-labs/flux-3-image-klein-comfy",
                f"diffusion_models/flux3-image-klein-{kind}.safetensors",
            )
            for kind in ("int8-convrot", "bf16")
        ),
        name_words=("flux3|flux", "klein"),
        name_excludes=("base",),
        sources=(
            "github black-forest-labs/flux-3-image-klein README",
            f"{TEMPLATES} image_flux3_klein_distilled_*.json",
        ),
        unverified=("the shift, which is the model's own, and what ComfyUI calls its class",),
    ),
    Accelerator(
        id="kandinsky5-lite-t2v-16step",
        family="Kandinsky 5 distilled",
        kind=Kind.MODEL,
        bases=(Base.KANDINSKY5,),
        width=1792,
        steps=(16,),
        schedule=ShiftedFlow(5.0),
        licence=secondary(MIT),
        files=tuple(
            whole(
                f"kandinskylab/Kandinsky-5.0-T2V-Lite-distilled16steps-{seconds}s",
                f"model/kandinsky5lite_t2v_distilled16steps_{seconds}s.safetensors",
            )
            for seconds in (5, 10)
        ),
        name_words=("kandinsky5lite|kandinsky", "distilled16steps|distilled"),
        sources=(
            "github kandinskylab/kandinsky-5 README",
            "github deepbeepmeep/Wan2GP defaults/k5_lite_t2v_5s_distil.json",
        ),
        notes=("The 10 second model was trained with NABLA attention, which ComfyUI lacks.",),
        unverified=("shift: Wan2GP's scheduler scale of 5 is taken",),
    ),
)
