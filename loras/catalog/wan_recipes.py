"""Wan 2.1's LightX2V LoRA on models derived from Wan: recipes of the official templates."""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Kind, Solver
from ..bases import Base
from ..schedules import ShiftedFlow
from . import wan21_lightx2v
from .licences import APACHE

OF_TEMPLATES = (
    "A recipe of the official templates: the image-to-video LoRA was not trained for this model."
)

recipe = partial(
    Accelerator,
    family="LightX2V (Wan 2.1)",
    kind=Kind.LORA,
    width=5120,
    steps=(6,),
    schedule=ShiftedFlow(5.0),
    licence=APACHE,
    files=wan21_lightx2v.I2V_FILES,
    name_words=("lightx2v", "i2v"),
    only_by_choice=True,
    notes=(OF_TEMPLATES,),
)

RECORDS = (
    recipe(
        id="wan-humo-lightx2v-6step",
        bases=(Base.WAN_HUMO,),
        schedule=ShiftedFlow(8.0),
        solver=Solver.UNI_PC,
        sources=("comfyui-workflow-templates video_humo.json",),
    ),
    recipe(
        id="wan-scail2-lightx2v-6step",
        bases=(Base.WAN_SCAIL2,),
        strength=0.8,
        sources=("comfyui-workflow-templates video_wan21_scail2_character_replacement.json",),
    ),
    recipe(
        id="wan-vace-lightx2v-4step",
        bases=(Base.WAN_VACE,),
        schedule=ShiftedFlow(8.0),
        solver=Solver.UNI_PC,
        strength=0.8,
        sources=("comfyui-workflow-templates video_wan_vace_flf2v.json",),
        notes=(
            OF_TEMPLATES,
            "The template makes six steps; the four of its id are those of the LoRA's release.",
        ),
    ),
)
