"""Wan 2.1's LightX2V LoRA on models derived from Wan: recipes of the official templates."""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Expert, Kind, Solver
from ..bases import Base
from ..schedules import HostSpacedFlow, ShiftedFlow
from . import wan21_lightx2v, wan22_lightning
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


def bernini(expert: Expert) -> Accelerator:
    """Three steps for each of Bernini-R's experts, which ComfyUI loads as Wan 2.2 text-to-video."""
    return recipe(
        id=f"wan22-bernini-r-lightx2v-{expert.word}",
        partner=f"wan22-bernini-r-lightx2v-{expert.other.word}",
        bases=(Base.WAN_T2V,),
        schedule=ShiftedFlow(8.0),
        solver=Solver.RES_MULTISTEP,
        strength=3.0 if expert is Expert.HIGH_NOISE else 1.5,
        expert=expert,
        # Behind the third of its six sigmas: 1, .976, .941 and then .889, .8, .616.
        boundary=0.9,
        files=wan21_lightx2v.T2V_FILES,
        name_words=("lightx2v", "t2v"),
        sources=("comfyui-workflow-templates video_bernini_r_*.json",),
        notes=("A recipe of the official templates for Bernini-R.",),
    )


RECORDS = (
    *map(bernini, Expert),
    recipe(
        id="wan-animate2-lightx2v-6step",
        bases=(Base.WAN_ANIMATE2,),
        solver=Solver.LCM,
        sources=("comfyui-workflow-templates video_wan_animate2.json",),
    ),
    recipe(
        id="wan-dancer-lightx2v-global-6step",
        bases=(Base.WAN_DANCER,),
        strength=3.0,
        sources=("comfyui-workflow-templates video_wan_dancer.json",),
        notes=(OF_TEMPLATES, "For Wan-Dancer's global model; its local one has a recipe too."),
    ),
    recipe(
        id="wan-dancer-lightx2v-local-6step",
        bases=(Base.WAN_DANCER,),
        schedule=ShiftedFlow(8.0),
        strength=1.03,
        sources=("comfyui-workflow-templates video_wan_dancer.json",),
        notes=(OF_TEMPLATES, "For Wan-Dancer's local model; its global one has a recipe too."),
    ),
    recipe(
        id="wan-move-lightx2v-6step",
        bases=(Base.WAN21_I2V,),
        schedule=ShiftedFlow(8.0),
        solver=Solver.ER_SDE,
        sources=("comfyui-workflow-templates video_wanmove_480p.json",),
        notes=("A recipe of the official template for Wan-Move.",),
    ),
    recipe(
        id="wan-infinitetalk-lightx2v-6step",
        bases=(Base.WAN21_I2V,),
        schedule=HostSpacedFlow(8.0, "normal"),
        sources=("comfyui-workflow-templates video_wan2_1_infinitetalk.json",),
        notes=("A recipe of the official template for InfiniteTalk.",),
    ),
    recipe(
        id="wan22-s2v-lightning-4step",
        family="Wan2.2-Lightning",
        bases=(Base.WAN22_S2V,),
        steps=(4,),
        schedule=ShiftedFlow(8.0),
        solver=Solver.UNI_PC,
        files=wan22_lightning.t2v_files(Expert.HIGH_NOISE),
        name_words=("t2v", "lightning|lightx2v"),
        sources=("comfyui-workflow-templates video_wan2_2_14B_s2v.json",),
        notes=(
            "A recipe of the official template: the high-noise LoRA of text-to-video, alone on the"
            " one model of speech-to-video.",
        ),
    ),
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
