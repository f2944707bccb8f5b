"""FLUX: schnell, Turbo-Alpha, FLUX.2 klein and Turbo.

The distilled guidance they embed is not CFG and is left alone.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, Licence, PublishedFile, TemplateWay
from ..bases import Base
from ..schedules import Flux2Flow, FluxFlow, LiteralSigmas, ShiftedFlow
from . import makes
from .licences import APACHE, FLUX1_DEV, secondary

TEMPLATES = "comfyui-workflow-templates"

schnell_file = partial(PublishedFile, "Comfy-Org/flux1-schnell")
klein = partial(
    Accelerator,
    family="FLUX",
    kind=Kind.MODEL,
    bases=(Base.FLUX2,),
    steps=(4,),
    schedule=Flux2Flow(),
    name_excludes=("base",),
    sources=(f"{TEMPLATES} image_flux2_klein_*.json", "ComfyUI 0.30.0 Flux2Scheduler"),
    notes=("The klein files with base in their name are not distilled.",),
)
NON_COMMERCIAL = Licence("FLUX Non-Commercial", False, "from a secondary source")

RECORDS = (
    Accelerator(
        id="flux-turbo-alpha-lora",
        family="FLUX",
        kind=Kind.LORA,
        bases=(Base.FLUX,),
        steps=(8,),
        schedule=FluxFlow(),
        embedded_guidance=3.5,
        licence=secondary(FLUX1_DEV),
        files=(
            PublishedFile(
                "alimama-creative/FLUX.1-Turbo-Alpha",
                "diffusion_pytorch_model.safetensors",
                64,
                make=makes.FLUX_BF16,
            ),
        ),
        name_words=("turbo", "alpha"),
        sources=("github Acly/krita-ai-diffusion presets", "third-party model survey"),
        notes=(
            (
                "Published as diffusion_pytorch_model.safetensors: rename it"
                " FLUX.1-Turbo-Alpha.safetensors."
            ),
        ),
        unverified=("shift: FLUX's own, as diffusers has it",),
    ),
    Accelerator(
        id="flux1-schnell",
        family="FLUX",
        kind=Kind.MODEL,
        bases=(Base.FLUX_SCHNELL,),
        steps=(1, 2, 3, 4),
        default_steps=4,
        schedule=ShiftedFlow(1.0),
        licence=APACHE,
        files=(
            schnell_file("flux1-schnell.safetensors", folder="diffusion_models"),
            schnell_file("flux1-schnell-fp8.safetensors", folder="checkpoints"),
        ),
        name_words=("schnell",),
        sources=("github black-forest-labs/flux README", f"{TEMPLATES} flux_schnell.json"),
    ),
    klein(
        id="flux2-klein-4b",
        width=3072,
        licence=secondary(APACHE),
        files=(
            PublishedFile(
                "Comfy-Org/flux2-klein",
                "split_files/diffusion_models/flux-2-klein-4b.safetensors",
                folder="diffusion_models",
            ),
            PublishedFile(
                "black-forest-labs/FLUX.2-klein-4b-fp8",
                "flux-2-klein-4b-fp8.safetensors",
                folder="diffusion_models",
            ),
        ),
        name_words=("klein", "4b"),
    ),
    klein(
        id="flux2-klein-9b",
        width=4096,
        licence=NON_COMMERCIAL,
        files=(
            PublishedFile(
                "black-forest-labs/FLUX.2-klein-9b-fp8",
                "flux-2-klein-9b-fp8.safetensors",
                folder="diffusion_models",
            ),
            PublishedFile(
                "black-forest-labs/FLUX.2-klein-9b-kv-fp8",
                "flux-2-klein-9b-kv-fp8.safetensors",
                folder="diffusion_models",
            ),
        ),
        name_words=("klein", "9b"),
    ),
    Accelerator(
        id="flux2-dev-turbo-lora",
        family="FLUX",
        kind=Kind.LORA,
        bases=(Base.FLUX2,),
        width=6144,
        steps=(8,),
        # fal's list; its last entry but the closing 0 is all but 0.
        schedule=LiteralSigmas(((1.0, 0.6509, 0.4374, 0.2932, 0.1893, 0.1108, 0.0495, 0.00031),)),
        embedded_guidance=2.5,
        licence=Licence("FLUX.2-dev Non-Commercial", False),
        files=(
            PublishedFile("fal/FLUX.2-dev-Turbo", "comfy/Flux_2-Turbo-LoRA_comfyui.safetensors"),
            PublishedFile("ByteZSzn/Flux.2-Turbo-ComfyUI", "Flux_2-Turbo-LoRA_comfyui.safetensors"),
            PublishedFile("Comfy-Org/flux2-dev", "split_files/loras/Flux2TurboComfyv2.safetensors"),
        ),
        name_words=("turbo|flux2turbocomfyv2", "flux|flux2|flux2turbocomfyv2"),
        name_excludes=("alpha",),
        sources=(
            "huggingface fal/FLUX.2-dev-Turbo README",
            "github mcmonkeyprojects/SwarmUI docs/Model Support.md",
            f"{TEMPLATES} image_flux2.json",
        ),
        notes=("fal's own example embeds a guidance of 2.5; the official template sets 4.",),
        template_ways=(TemplateWay(noise="Flux2Scheduler"),),
        unverified=("key format and rank",),
    ),
)
