"""Every row of loras/bases.py on the host's own classes: what it says of them, that an accelerator
can be declared for each and runs, and which of other bases' accelerators a model takes.
"""

from __future__ import annotations

import itertools
import json
import math

import comfy.model_sampling
import comfy.supported_models
import pytest
import torch
from comfyui_fewstep.loras.architecture import (
    architecture_of,
    has_known_layers,
    weights_as_layers,
)
from comfyui_fewstep.loras.bases import Base, Levels, UnlistedBase, base_in_host
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes import accelerator, sampler
from comfyui_fewstep.nodes.host import measure
from comfyui_fewstep.nodes.host.attach import INPUT_LAYERS, shapes_of
from comfyui_fewstep.nodes.host.model import accelerator_of, base_of, look_at
from thinning import corners, thorough

import small_models
from more_models import (
    KIN,
    SMALL,
    audio_video_latent,
    small_model,
    small_patcher,
    text_conditioning,
)
from small_loras import write_lora

UNLISTED = "SDXLRefiner"
# Told from HunyuanVideo by its width alone, which the small one does not have.
BY_WIDTH = "HunyuanVideo15"
BUILT = [name for name in (*SMALL, *KIN) if name not in (UNLISTED, BY_WIDTH)]
PIXELS = ("ChromaRadiance", "ZImagePixelSpace", "PixelDiTT2I")
# Their networks insist on knowing which tokens are text.
MASKED = ("GenmoMochi", "Omnigen2")
# They take more than a prompt: lyrics, and what SeedVR2's own node makes of the picture.
NOT_RUN = ("ACEStep", "SeedVR2")

SCHEDULES = {
    Levels.FLOW: {"type": "shifted", "shift": 3},
    Levels.TIMESTEPS: {"type": "trailing"},
    Levels.OWN: {"type": "sigmas", "sigmas": [8, 2]},
}


def host_class(name: str) -> type:
    if not hasattr(comfy.supported_models, name):
        pytest.skip(f"this ComfyUI has no {name}")
    return getattr(comfy.supported_models, name)


def base_of_class(name: str) -> Base:
    return base_in_host(name, {**SMALL, **KIN}[name].get("in_dim", 16))


# ---------------------------------------------------------------- what a row says


def test_every_base_of_the_tested_hosts_is_built_small_or_named_here():
    not_built = {base.name for base in Base} - {base_of_class(name).name for name in BUILT}
    later = {base.name for base in Base if base.since} - {"WAN_ANIMATE2"}
    elsewhere = {"SD15", "SDXL", "SSD1B", "WAN22_I2V", "WAN_CAUSAL"}  # small_models.py
    assert not_built == later | elsewhere | {
        *("SD21", "SD3", "ERNIE_IMAGE", "BOOGU", "LENS", "MAGE_FLOW", "HIDREAM"),
        *(
            "HIDREAM_O1",
            "PID",
            "ACE_STEP15",
            "WAN22_TI2V",
            "WAN_VACE",
            "HUNYUAN15",
        ),
        *("WAN_HUMO", "WAN_SCAIL2", "HUNYUAN15_SR", "LTXV"),
    }


@pytest.mark.parametrize("base", [base for base in Base if base.shift], ids=lambda base: base.name)
def test_the_shift_of_a_row_is_the_classes(base):
    for name in base.host_classes:
        settings = host_class(name).sampling_settings
        # FLUX's kin have mu there, 1.15 where they say nothing, and every other flow a shift.
        said = settings.get("shift")
        flow, mu = (1.0, 1.15) if said is None else (said, said)
        assert base.shift in (pytest.approx(flow), pytest.approx(math.exp(mu)))


@pytest.mark.parametrize("name", BUILT)
def test_a_row_says_what_the_host_builds(name):
    host_class(name)
    base, model = base_of_class(name), small_model(name, torch.device("meta"))
    sampling = model.model_sampling
    if isinstance(sampling, comfy.model_sampling.ModelSamplingFlux):
        assert base.levels is Levels.FLOW and base.shift == pytest.approx(math.exp(sampling.shift))
    elif isinstance(sampling, comfy.model_sampling.ModelSamplingDiscreteFlow):
        assert base.levels is Levels.FLOW and base.shift == pytest.approx(sampling.shift)
    else:
        prediction = (
            comfy.model_sampling.EPS,
            getattr(comfy.model_sampling, "V_PREDICTION_DDPM", comfy.model_sampling.EPS),
        )
        is_timesteps = isinstance(
            sampling, comfy.model_sampling.ModelSamplingDiscrete
        ) and isinstance(sampling, prediction)
        assert base.levels is (Levels.TIMESTEPS if is_timesteps else Levels.OWN)
        assert base.shift is None


@pytest.mark.parametrize("name", BUILT)
def test_a_network_shows_itself_as_its_row_says(name):
    host_class(name)
    base, model = base_of_class(name), small_model(name, torch.device("meta"))
    shown = architecture_of(weights_as_layers(shapes_of(model.diffusion_model)))
    like = {base, *(Base[other] for other in base.layers_as)}
    assert has_known_layers(base) and set(shown.bases) & like, shown.words
    # Nothing that is not of its kind: a LoRA for it would be sent there.
    kin = {Base[other] for other in base.layers_as}
    assert shown.bases[0] in like | kin | sharing(base), shown.words


def sharing(base: Base) -> set[Base]:
    """The bases that have the same names of layers."""
    return {other for other in Base if set(other.layers) & set(base.layers)}


# ---------------------------------------------------------------- declared for each


def declare(models, name, **entries) -> str:
    """The file name of a LoRA for which a declaration lies beside it."""
    file = f"{name}_turbo_of_mine.safetensors"
    entries = {"file": file, "steps": [2], "sampler": "euler", **entries}
    path = models / "loras" / f"{name}-of-mine.fewstep.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return file


def latent_for(name: str, model) -> torch.Tensor:
    """An empty one of a few tokens."""
    if name in ("LTXAV", "MiniMaxH3"):
        return audio_video_latent(name)
    latent_format = model.get_model_object("latent_format")
    if latent_format.latent_dimensions == 1:  # sound
        return torch.zeros(1, latent_format.latent_channels, 8)
    side = 32 if name in PIXELS else 4
    # Krea-2 makes pictures in the latents of a video model.
    frames = (1 if name == "Krea2" else 2,) if latent_format.latent_dimensions == 3 else ()
    return torch.zeros(1, latent_format.latent_channels, *frames, side, side)


def text_for(name: str, model):
    """A prompt of the width the small network takes."""
    if "model_channels" in {**SMALL, **KIN}[name] and "context_dim" in {**SMALL, **KIN}[name]:
        return small_models.conditioning(model)
    text = text_conditioning(name)
    if name in MASKED:
        text[0][1]["attention_mask"] = torch.ones(1, 8, dtype=torch.long)
    return text


@pytest.mark.parametrize("name", BUILT)
def test_an_accelerator_declared_for_a_base_is_known_by_its_file_and_runs(name, models):
    host_class(name)
    model, base = small_patcher(name), base_of_class(name)
    file = declare(models, name, base=base.name, schedule=SCHEDULES[base.levels])
    write_lora(models / "loras" / file, model, "native", size=0.01)

    attached, report = accelerator.attach_accelerator(model, file, "auto", 1.0)
    assert accelerator_of(attached).bases == (base,) and base_of(model) is base
    assert f"declared for {file.lower()}" in report.markdown
    assert report.data["layers_applied"] > 0 and report.data["layers_lost"] == 0
    if name in NOT_RUN:
        return
    latent, text = latent_for(name, model), text_for(name, model)
    output = sampler.FewStepSampler.execute(attached, text, {"samples": latent}, 1, 0, 1.0)
    samples = output.args[0]["samples"]
    parts = samples.unbind() if samples.is_nested else [samples]
    assert all(torch.isfinite(part).all() for part in parts)
    assert output.ui["fewstep_report"][0]["evaluations"] == 2


def test_a_class_that_is_not_listed_is_declared_by_its_name(models):
    model = small_patcher(UNLISTED)
    base = base_of(model)
    assert isinstance(base, UnlistedBase) and base.label == UNLISTED
    file = declare(models, UNLISTED, host_class=UNLISTED, schedule={"type": "trailing"})
    write_lora(models / "loras" / file, model, "native", size=0.01)
    attached, report = accelerator.attach_accelerator(model, file, "auto", 1.0)
    assert accelerator_of(attached).bases == (base,) and report.data["layers_lost"] == 0
    text = [[torch.zeros(1, 77, 1280), {"pooled_output": torch.zeros(1, 1280)}]]
    output = sampler.FewStepSampler.execute(
        attached, text, {"samples": torch.zeros(1, 4, 8, 8)}, 1, 0, 1.0
    )
    assert torch.isfinite(output.args[0]["samples"]).all()
    # Nothing is known of its noise levels before its model is seen.
    declare(models, UNLISTED, host_class=UNLISTED, schedule={"type": "shifted", "shift": 3})
    with pytest.raises(
        ValueError, match="noise levels of another kind .*ModelSamplingDiscrete.*sigmas"
    ):
        accelerator.attach_accelerator(model, file, "auto", 1.0)


def test_an_accelerator_of_an_unlisted_class_is_refused_on_another_and_the_other_way(unets, models):
    file = declare(models, UNLISTED, host_class=UNLISTED, schedule={"type": "trailing"})
    write_lora(models / "loras" / file, unets["sdxl"], "native", size=0.01)
    with pytest.raises(ValueError, match=f"is for {UNLISTED}; the connected model is SDXL"):
        accelerator.attach_accelerator(unets["sdxl"], file, "auto", 1.0)
    write_lora(models / "loras" / "x.safetensors", unets["sdxl"], "native", size=0.01)
    with pytest.raises(ValueError, match=f"is for SDXL; the connected model is a {UNLISTED} model"):
        accelerator.attach_accelerator(
            small_patcher(UNLISTED), "x.safetensors", "sdxl-lightning-4step-lora", 1.0
        )


@corners("name", of=lambda name: base_of_class(name).text)
@pytest.mark.parametrize("name", [name for name in KIN if base_of_class(name).text])
def test_a_base_that_takes_a_prompt_alone_is_measured_with_an_empty_one(name):
    host_class(name)
    model = small_patcher(name)
    latent = {"samples": latent_for(name, model)}
    cost = measure.measure_cost(look_at(model), latent, clock=itertools.count().__next__)
    assert cost.evaluation > 0 and cost.guided_step >= cost.evaluation


# ---------------------------------------------------------------- taken from what it was made from

I2V = "Wan21_I2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors"
T2V = "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors"
# The host's class -> (the class a published LoRA is for, its file name).
TAKEN = {
    "FluxInpaint": ("Flux", "Hyper-FLUX.1-dev-8steps-lora.safetensors"),
    "SD15_instructpix2pix": ("sd15", "Hyper-SD15-8steps-lora.safetensors"),
    "SDXL_instructpix2pix": ("sdxl", "Hyper-SDXL-8steps-lora.safetensors"),
    "HunyuanVideoI2V": ("HunyuanVideo", "hyvideo_FastVideo_LoRA-fp8.safetensors"),
    "HunyuanVideoSkyreelsI2V": ("HunyuanVideo", "hyvideo_FastVideo_LoRA-fp8.safetensors"),
    "WAN21_FunControl2V": ("WAN21_I2V", I2V),
    "WAN21_Camera": ("WAN21_I2V", I2V),
    "WAN22_Animate": ("WAN21_I2V", I2V),
    "WAN22_S2V": ("WAN21_T2V", T2V),
    "WAN22_WanDancer": ("WAN21_I2V", I2V),
    "WAN21_SCAIL": ("WAN21_I2V", I2V),
    "WAN_Animate2": ("WAN21_I2V", I2V),
}


def test_every_base_that_takes_others_accelerators_is_tried():
    assert {base_of_class(name) for name in TAKEN} == {base for base in Base if base.takes}


def chosen_for(file: str) -> str:
    """The id of the record that this file was published as."""
    return next(
        record.id
        for record in CATALOG.values()
        if any(own.name == file for own in record.files) and not record.only_by_choice
    )


@pytest.mark.parametrize("name", TAKEN)
def test_a_model_takes_the_accelerators_of_what_it_was_made_from_and_is_told_so(
    name, models, unets
):
    host_class(name)
    parent, file = TAKEN[name]
    model, base = small_patcher(name), base_of_class(name)
    made_for = unets[parent] if parent in unets else small_patcher(parent)
    write_lora(models / "loras" / file, made_for, "native", differences=True, size=0.01)
    record = CATALOG[chosen_for(file)]
    attached, report = accelerator.attach_accelerator(model, file, record.id, 1.0)
    assert accelerator_of(attached) is record
    told = [note for note in report.notes if note.startswith(f"{record.id} was distilled for ")]
    assert len(told) == 1 and f"the connected model is {base.label}" in told[0]
    # All that is not applied is the first layer, where the two take other channels, and the image
    # branch that one of them lacks.
    assert report.data["layers_lost"] == 0 and report.data["layers_applied"] > 0
    inputs = [note for note in report.notes if "for another number of input channels" in note]
    assert bool(inputs) == (first_layer(model) != first_layer(made_for))
    latent = {"samples": latent_for(name, model)}
    output = sampler.FewStepSampler.execute(attached, text_for(name, model), latent, 1, 0, 1.0)
    assert torch.isfinite(output.args[0]["samples"]).all()


def first_layer(model) -> int:
    """The channels that the network takes."""
    shapes = shapes_of(model.model.diffusion_model)
    return next(shape[1] for name, shape in shapes.items() if name in INPUT_LAYERS)


@pytest.mark.parametrize(
    ("name", "id", "message"),
    [
        (
            "Chroma",
            "hyper-flux-16step-lora",
            "is for FLUX.1 dev; the connected model is Chroma",
        ),
        ("LongCatImage", "hyper-flux-8step-lora", "is for FLUX.1 dev; the connected model is Long"),
        ("WAN22_S2V", "wan22-t2v-lightning-high", "the connected model is Wan 2.2 speech-to-video"),
        (
            "Segmind_Vega",
            "sdxl-lightning-4step-lora",
            "is for SDXL; the connected model is Segmind",
        ),
    ],
)
def test_what_a_model_does_not_take_is_refused(name, id, message, models, unets):
    host_class(name)
    record = CATALOG[id]
    file = next(file.name for file in record.files if file.name)
    parent = {"Chroma": "Flux", "LongCatImage": "Flux", "WAN22_S2V": "WAN21_T2V"}.get(name)
    made_for = unets["sdxl"] if parent is None else small_patcher(parent)
    write_lora(models / "loras" / file, made_for, "native", size=0.01)
    with pytest.raises(ValueError, match=message):
        accelerator.attach_accelerator(small_patcher(name), file, id, 1.0)


@thorough
@pytest.mark.parametrize("name", BUILT)
def test_a_lora_for_a_class_is_told_as_one_by_its_own_layers(name, models):
    host_class(name)
    model, base = small_patcher(name), base_of_class(name)
    write_lora(models / "loras" / "plain_style.safetensors", model, "native", size=0.01)
    with pytest.raises(ValueError) as refusal:
        accelerator.attach_accelerator(model, "plain_style.safetensors", "auto", 1.0)
    like = [base, *(Base[other] for other in base.layers_as), *sharing(base)]
    assert any(other.label in str(refusal.value) for other in like)
