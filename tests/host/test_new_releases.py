"""Releases on the real classes of this ComfyUI: recognised by their published names, set up and
run; and what a ComfyUI that is older than their class says.
"""

from __future__ import annotations

import dataclasses

import comfy.samplers
import comfy.supported_models
import pytest
import torch
from comfyui_fewstep.loras.accelerator import Solver
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.schedules import OwnFlow
from comfyui_fewstep.nodes import accelerator, sampler
from comfyui_fewstep.nodes.host.attach import with_record
from comfyui_fewstep.nodes.host.model import accelerator_of, base_of, with_model_sampling
from safetensors.torch import save_file

import small_models
from more_models import SMALL, audio_video_latent, small_patcher, text_conditioning
from small_loras import write_lora

# Record -> the host's class, and an empty latent of it.
WHOLE = {
    "fasth3-8step-v2": ("MiniMaxH3", None),
    "fasth3-omniref-8step": ("MiniMaxH3", None),
    "anima-turbo": ("Anima", (1, 16, 1, 8, 8)),
    "longcat-image-edit-turbo": ("LongCatImage", (1, 16, 8, 8)),
    "chroma1-hd-flash": ("Chroma", (1, 16, 8, 8)),
    "kandinsky5-lite-t2v-16step": ("Kandinsky5", (1, 16, 1, 8, 8)),
}
LORAS = {
    "ideogram4-turbotime-lora": ("Ideogram4", (1, 128, 4, 4)),
    "minimax-h3-turbo-v1-lora": ("MiniMaxH3", None),
    "z-image-fun-distill-2step-lora": ("ZImage", (1, 16, 8, 8)),
}


class SmallModels(dict):
    """Each made when it is first asked for: an older ComfyUI does not know all of them."""

    def __missing__(self, name: str):
        self[name] = small_patcher(name)
        return self[name]


@pytest.fixture(scope="module")
def small():
    return SmallModels()


def under_the_name(model, file):
    """The model as the host's loader leaves one of this file."""
    named = model.clone()
    named.cached_patcher_init = (None, (f"/models/diffusion_models/{file}", {}))
    return named


def text_for(name):
    """Random text of the width that the small model takes."""
    ((text, options),) = text_conditioning(name)
    if name == "LongCatImage":  # the host knows it by this width
        text = torch.randn(1, 8, 3584, generator=torch.Generator().manual_seed(0))
    return [[text, options]]


def run(model, name, shape, steps=0):
    latent = audio_video_latent(name) if shape is None else torch.zeros(shape)
    output = sampler.FewStepSampler.execute(
        model, text_for(name), {"samples": latent}, 3, steps, 1.0
    )
    return output.args[0]["samples"], output.ui["fewstep_report"][0]


def parts(samples):
    return samples.unbind() if getattr(samples, "is_nested", False) else (samples,)


@pytest.mark.parametrize("id", WHOLE)
def test_a_whole_model_is_recognised_by_its_name_and_runs_as_published(small, id):
    (name, shape), record = WHOLE[id], CATALOG[id]
    model = under_the_name(small[name], record.files[0].name)
    attached, report = accelerator.attach_distilled(model, "auto")
    assert accelerator_of(attached) is record and not attached.patches
    samples, data = run(attached, name, shape)
    assert data["evaluations"] == data["steps"] == record.default_steps
    assert data["sampler"] == record.solver.value and data["accelerators"] == [id]
    assert all(torch.isfinite(part).all() for part in parts(samples))
    assert all(note in report.markdown for note in record.notes)


@pytest.mark.parametrize("id", LORAS)
def test_a_lora_is_recognised_by_its_name_and_runs_as_published(small, models, id):
    (name, shape), record = LORAS[id], CATALOG[id]
    file = record.files[0]
    rank = file.rank or 16
    write_lora(
        models / "loras" / file.name, small[name], "native", rank=rank, only="attn|attention"
    )
    attached, report = accelerator.attach_accelerator(small[name], file.name, "auto", 1.0)
    assert accelerator_of(attached) is record
    assert report.data["layers_applied"] > 0 and report.data["layers_lost"] == 0
    assert report.data["strength"] == record.strength
    samples, data = run(attached, name, shape)
    assert data["evaluations"] == record.default_steps
    assert all(torch.isfinite(part).all() for part in parts(samples))


def test_the_extract_for_hunyuan_15_runs_at_its_models_shift(small):
    # At this width a header is HunyuanVideo's: its own is tried in tests/test_recognition.py.
    record = CATALOG["hunyuan15-480p-t2v-lightx2v-4step-lora"]
    model = with_record(with_model_sampling(small["HunyuanVideo15"], record), record)
    assert model.get_model_object("model_sampling").shift == 5.0
    samples, data = run(model, "HunyuanVideo15", (1, 32, 1, 4, 4))
    assert data["evaluations"] == 4 and torch.isfinite(samples).all()


# ---------------------------------------------------------------- the model's own shift


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("chroma1-hd-flash", "Chroma"),  # FLUX's kind of flow, by mu
        ("ideogram4-turbotime-lora", "Ideogram4"),  # timesteps from 0 to 1
        ("flux3-image-klein", "Kandinsky5"),  # timesteps from 0 to 1000
    ],
)
@pytest.mark.parametrize("steps", [1, 3, 4, 7, 16])
def test_a_models_own_flow_is_the_hosts_simple_schedule(small, id, name, steps):
    record = dataclasses.replace(CATALOG[id], bases=(base_of(small[name]),), width=None)
    assert isinstance(record.schedule, OwnFlow)
    model = with_record(small[name], record)
    ours = sampler.FewStepSchedule.execute(model, steps, 1.0).args[0]
    sampling = small[name].get_model_object("model_sampling")
    theirs = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
    assert torch.equal(ours, theirs)
    assert model.get_model_object("model_sampling") is sampling, "its shift is left as it is"


# ---------------------------------------------------------------- recipes


def test_what_lightx2v_runs_as_on_infinitetalk_and_wan_move(models):
    donor = small_models.load_model(
        small_models.write_wan(models / "diffusion_models" / "wan_i2v.safetensors", "wan21_i2v")
    )
    file = "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors"
    write_lora(models / "loras" / file, donor, "native", only="attn")
    assert accelerator_of(accelerator.attach_accelerator(donor, file, "auto", 1.0)[0]).id == (
        "wan21-i2v-lightx2v-4step"
    )
    # comfyui-workflow-templates video_wan2_1_infinitetalk.json and video_wanmove_480p.json.
    for id, scheduler, name in (
        ("wan-infinitetalk-lightx2v-6step", "normal", "euler"),
        ("wan-move-lightx2v-6step", "simple", "er_sde"),
    ):
        model, _ = accelerator.attach_accelerator(donor, file, id, 1.0)
        sigmas, _, cfg, steps = sampler.FewStepSchedule.execute(model, 0, 1.0).args[:4]
        sampling = donor.get_model_object("model_sampling")
        theirs = comfy.samplers.calculate_sigmas(sampling, scheduler, 6)
        assert torch.allclose(sigmas, theirs, atol=2e-3) and (cfg, steps) == (1.0, 6)
        assert CATALOG[id].solver is Solver(name)


def test_bernini_r_has_a_recipe_for_its_two_experts(models):
    model = small_models.load_model(
        small_models.write_wan(models / "diffusion_models" / "bernini.safetensors")
    )
    file = "lightx2v_T2V_14B_cfg_step_distill_v2_lora_rank64_bf16.safetensors"
    write_lora(models / "loras" / file, model, "native", only="self_attn")
    high, low = (
        accelerator.attach_accelerator(model, file, f"wan22-bernini-r-lightx2v-{word}", 1.0)[0]
        for word in ("high", "low")
    )
    for attached, strength in ((high, 3.0), (low, 1.5)):
        patches = [patch for patches in attached.patches.values() for patch in patches]
        assert {patch[0] for patch in patches} == {strength}
    output = sampler.FewStepSampler.execute(
        high,
        small_models.conditioning(model),
        {"samples": torch.zeros(1, 16, 1, 8, 8)},
        1,
        0,
        1.0,
        model_low_noise=low,
    )
    data = output.ui["fewstep_report"][0]
    assert (data["steps"], data["switch_step"], data["sampler"]) == (6, 3, "res_multistep")


# The kinds of Wan that LightX2V's LoRAs have a recipe for -> what the host tells them by.
KINDS_OF_WAN = {
    "WAN22_S2V": {"model_type": "s2v", "in_dim": 16},
    "WAN22_WanDancer": {"model_type": "wandancer", "in_dim": 36},
    "WAN_Animate2": {"model_type": "animate2", "in_dim": 36},  # since 0.31
}
I2V_LORA = "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors"


def kind_of_wan(monkeypatch, name):
    settings = {**small_models.WAN_SMALL, "image_model": "wan2.1", **KINDS_OF_WAN[name]}
    monkeypatch.setitem(SMALL, name, settings)
    return small_patcher(name)


@pytest.mark.parametrize(
    ("name", "id", "shift", "strength"),
    # The official templates video_wan_animate2, video_wan_dancer (global and local) and
    # video_wan2_2_14B_s2v.
    [
        ("WAN_Animate2", "wan-animate2-lightx2v-6step", 5.0, 1.0),
        ("WAN22_WanDancer", "wan-dancer-lightx2v-global-6step", 5.0, 3.0),
        ("WAN22_WanDancer", "wan-dancer-lightx2v-local-6step", 8.0, 1.03),
        ("WAN22_S2V", "wan22-s2v-lightning-4step", 8.0, 1.0),
    ],
)
def test_a_recipe_goes_on_its_own_kind_of_wan_by_choice(
    monkeypatch, models, name, id, shift, strength
):
    model, record = kind_of_wan(monkeypatch, name), CATALOG[id]
    assert base_of(model) in record.bases
    file = record.files[0].name if name == "WAN22_S2V" else I2V_LORA
    write_lora(models / "loras" / file, model, "native", only="self_attn")
    attached, _ = accelerator.attach_accelerator(model, file, id, 1.0)
    assert accelerator_of(attached) is record
    patches = [patch for patches in attached.patches.values() for patch in patches]
    assert patches and {patch[0] for patch in patches} == {strength}
    sigmas, _, cfg, steps = sampler.FewStepSchedule.execute(attached, 0, 1.0).args[:4]
    sampling = attached.get_model_object("model_sampling")
    theirs = comfy.samplers.calculate_sigmas(sampling, "simple", record.default_steps)
    assert sampling.shift == shift and torch.allclose(sigmas, theirs, atol=2e-3)
    assert (cfg, steps) == (1.0, record.default_steps)


def test_the_distilled_wan_animate_2_is_recognised_by_its_name(monkeypatch):
    file = CATALOG["wan-animate2-distill"].files[0].name
    model = under_the_name(kind_of_wan(monkeypatch, "WAN_Animate2"), file)
    attached, report = accelerator.attach_distilled(model, "auto")
    assert accelerator_of(attached).id == "wan-animate2-distill"
    assert report.data["accelerator"] == "wan-animate2-distill"
    sigmas, _, cfg, steps = sampler.FewStepSchedule.execute(attached, 0, 1.0).args[:4]
    assert attached.get_model_object("model_sampling").shift == 5.0
    # video_wan_animate2_distilled.json: 10 steps, simple, shift 5: .5·5 / (1 + 4·.5) in the middle.
    assert (steps, cfg, float(sigmas[5])) == (10, 1.0, pytest.approx(2.5 / 3))


# ---------------------------------------------------------------- classes that came later


def test_a_lora_for_a_newer_class_says_which_comfyui_it_needs(small, models):
    file = CATALOG["qwen-image-21-viggle-turbo-lora"].files[1].name
    pairs = {
        f"transformer.transformer_blocks.0.{layer}.{end}.weight": torch.zeros(shape)
        for layer in ("attn.to_q", "img_mlp.out")
        for end, shape in (("lora_A", (128, 4096)), ("lora_B", (4096, 128)))
    }
    save_file(pairs, models / "loras" / file)
    with pytest.raises(
        ValueError,
        match=(
            f"{file} .qwen-image-21-viggle-turbo-lora. is for Qwen-Image 2.1; the connected model"
            r" is Qwen-Image\. Qwen-Image 2.1 needs ComfyUI 0.37 or newer\. "
        ),
    ):
        accelerator.attach_accelerator(small["QwenImage"], file, "auto", 1.0)


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("ming-image-01-design", "Ming-Image; Ming-Image needs ComfyUI 0.37 or newer"),
        ("qwen-image-21-turbo", "Qwen-Image 2.1; Qwen-Image 2.1 needs ComfyUI 0.37 or newer"),
        ("flux3-image-klein", "FLUX.3 Image; FLUX.3 Image needs ComfyUI 0.41 or newer"),
        ("fibo2-edit-turbo", "FIBO 2; FIBO 2 needs ComfyUI 0.43 or newer"),
        ("wan-animate2-distill", "Wan-Animate 2, width 5120; Wan-Animate 2 needs ComfyUI 0.31"),
    ],
)
def test_a_model_that_an_older_comfyui_takes_for_another_is_refused_with_what_it_needs(
    small, id, words
):
    # A Z-Image is what ComfyUI before 0.37 takes Ming-Image for.
    model = under_the_name(small["ZImage"], CATALOG[id].files[0].name)
    with pytest.raises(ValueError, match=f"its name is that of {id}, which is for {words}"):
        accelerator.attach_distilled(model, "auto")


def test_a_class_that_came_later_runs_by_the_published_name_alone(monkeypatch):
    # A class of the host's that no row names stands in for FLUX.3's, whose name could not be read.
    kind = type("AnyNewClass", (comfy.supported_models.ZImage,), {})
    monkeypatch.setattr(comfy.supported_models, "AnyNewClass", kind, raising=False)
    monkeypatch.setitem(SMALL, "AnyNewClass", SMALL["ZImage"])
    model = small_patcher("AnyNewClass")
    attached, _ = accelerator.attach_distilled(
        under_the_name(model, "flux3-image-klein-bf16.safetensors"), "auto"
    )
    assert accelerator_of(attached).id == "flux3-image-klein"
    _, data = run(attached, "ZImage", (1, 16, 8, 8))
    assert data["evaluations"] == 16
    with pytest.raises(ValueError, match="only looks like a few-step model: the klein base"):
        base = under_the_name(model, "flux3-image-klein-base-bf16.safetensors")
        accelerator.attach_distilled(base, "auto")
    with pytest.raises(ValueError, match="its name is that of z-image-turbo, which is for Z-Image"):
        other = under_the_name(model, "z_image_turbo_bf16.safetensors")
        accelerator.attach_distilled(other, "auto")


# ---------------------------------------------------------------- what templates do otherwise


def test_the_report_says_in_one_line_how_official_templates_run_it(small):
    model = under_the_name(small["ZImage"], "z_image_turbo_bf16.safetensors")
    _, report = accelerator.attach_distilled(model, "auto")
    (line,) = [note for note in report.notes if note.startswith("Official templates run it with")]
    assert line.startswith(
        "Official templates run it with res_multistep; or 9 steps, res_multistep"
    )
    assert line.endswith("Here: 8 steps, euler, shift 3, by github Tongyi-MAI/Z-Image README.")
