"""Facts of single releases that were wrong here once, each as its source has it."""

from __future__ import annotations

import pytest
from comfyui_fewstep.loras.accelerator import Kind, Solver
from comfyui_fewstep.loras.bases import Base, base_in_host, needed_host, unlisted
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.recognition import recognise_model
from comfyui_fewstep.loras.schedules import ShiftedFlow, scaled_linear_sigma


def paths(id):
    return [f"{file.repo}/{file.path}" for file in CATALOG[id].files]


@pytest.mark.parametrize("id", ["ltx25-22b-distilled", "ltx25-22b-distilled-lora"])
def test_ltx_25_is_renoised_at_every_step(id):
    # github Lightricks/LTX-2 distilled.py: ANCESTRAL_SAMPLER_SINCE_VERSION (2, 5), ANCESTRAL_ETA 1.
    assert CATALOG[id].solver is Solver.EULER_ANCESTRAL
    # The generations before it are not.
    for older in (id.replace("ltx25-22b", "ltx23-22b"), id.replace("ltx25-22b", "ltx2-19b")):
        assert CATALOG[older].solver is Solver.EULER


def test_the_vace_recipe_is_that_of_the_template_it_cites():
    # comfyui-workflow-templates video_wan_vace_flf2v.json: 6, uni_pc, shift 8, strength 0.8.
    record = CATALOG["wan-vace-lightx2v-4step"]
    assert (record.steps, record.solver, record.strength) == ((6,), Solver.UNI_PC, 0.8)
    assert record.schedule == ShiftedFlow(8.0)


def test_chronoedit_runs_as_nvidia_runs_it():
    # nv-tlabs/ChronoEdit README: 8 steps, UniPC with flow_shift 2, CFG 1, scale 1.
    record = CATALOG["chronoedit-distill-lora"]
    assert (record.steps, record.solver, record.cfg) == ((8,), Solver.UNI_PC, 1.0)
    assert (record.schedule, record.strength) == (ShiftedFlow(2.0), 1.0)
    assert not any("20 guided steps" in note for note in record.notes)


def test_the_embedded_guidance_of_flux2_turbo_is_fals_own():
    # fal/FLUX.2-dev-Turbo README: guidance_scale 2.5; 4 is the official template's.
    record = CATALOG["flux2-dev-turbo-lora"]
    assert record.embedded_guidance == 2.5
    assert str(record.licence) == "FLUX.2-dev Non-Commercial (NON-COMMERCIAL)"


def test_the_licence_of_udcais_file_is_that_of_its_card():
    assert str(CATALOG["z-image-fun-distill-8step-udcai-lora"].licence).startswith("Apache-2.0")


@pytest.mark.parametrize(
    ("id", "path"),
    [
        (
            "hunyuan15-i2v-step-distilled-lora",
            "DeepBeepMeep/HunyuanVideo1.5/loras_accelerators/"
            "Hunyuan_video_1_5_i2v_step_distilled_dpm_rank32.safetensors",
        ),
        *(
            (
                "hunyuan15-480p-i2v-step-distilled",
                "Comfy-Org/HunyuanVideo_1.5_repackaged/split_files/diffusion_models/"
                f"hunyuanvideo1.5_480p_i2v_step_distilled_{kind}.safetensors",
            )
            for kind in ("fp16", "fp8_scaled")
        ),
        (
            "hunyuan15-720p-sr-6step",
            "Comfy-Org/HunyuanVideo_1.5_repackaged/split_files/diffusion_models/"
            "hunyuanvideo1.5_720p_sr_distilled_fp16.safetensors",
        ),
        (
            "hidream-o1-dev-lora",
            "Kijai/hidream-O1-image_comfy/loras/"
            "hidream_o1_dev_lora_rank_64_bf16_pruned_v1.safetensors",
        ),
        (
            "minimax-h3-fl2v-4step-768p-lora",
            "Comfy-Org/MiniMax-H3/loras/"
            "minimax_h3_fl2v_turbo_4step_v1.0_768p_comfyui_bf16.safetensors",
        ),
    ],
)
def test_files_lie_where_they_were_published(id, path):
    assert path in paths(id)
    assert not any("diffusers form" in file.caution for file in CATALOG[id].files)


def test_kijais_files_of_260412_are_confirmed():
    records = [CATALOG[f"wan22-i2v-lightning-{word}"] for word in ("high", "low")]
    for record in records:
        assert any("lora_260412_rank_64_fp16" in path for path in paths(record.id))
        assert not any("spelling" in doubt for doubt in record.unverified)


@pytest.mark.parametrize("latents", ["sdxl", "qwenimage", "1.5_qwenimage"])
def test_a_pixeldit_for_other_latents_is_not_flux1s(latents):
    path = f"pid_{latents}_1024_to_4096_4step_bf16.safetensors"
    found = recognise_model(Base.PID, None, {}, path, CATALOG.values())
    assert found.record is None or found.record.id != "pid-flux1-4step"


@pytest.mark.parametrize("latents", ["flux1", "flux2", "sd3"])
def test_a_pixeldit_is_known_by_its_latents_under_a_name_of_ones_own(latents):
    path = f"my_pid_{latents}_decoder.safetensors"
    found = recognise_model(Base.PID, None, {}, path, CATALOG.values())
    assert found.record is not None and found.record.id == f"pid-{latents}-4step"


# Template, steps, strength and shift, all uni_pc at CFG 1.
CAUSVID_ON_VACE = [
    ("video_wan_vace_14B_ref2v", 4, 0.3, 8.0),
    ("video_wan_vace_14B_v2v", 4, 0.3, 8.0),
    ("video_wan_vace_14B_t2v", 4, 0.7, 8.0),
    ("video_wan_vace_outpainting", 3, 0.4, 8.0),
    ("video_wan_vace_inpainting", 6, 0.3, 5.0),
]


@pytest.mark.parametrize(("template", "steps", "strength", "shift"), CAUSVID_ON_VACE)
def test_causvid_on_vace_has_the_settings_of_each_official_template(
    template, steps, strength, shift
):
    (record,) = [
        record
        for record in CATALOG.values()
        if record.bases == (Base.WAN_VACE,) and any(template in note for note in record.notes)
    ]
    assert record.only_by_choice and record.kind is Kind.LORA and record.solver is Solver.UNI_PC
    assert (record.default_steps, record.strength) == (steps, strength)
    levels = record.schedule.sigmas(steps, 1.0, scaled_linear_sigma)
    assert levels == ShiftedFlow(shift).sigmas(steps, 1.0, scaled_linear_sigma)


# ---------------------------------------------------------------- classes that came after 0.30.0

# Record -> the host's class, "" where its name is not known, and the first ComfyUI with it.
LATER = {
    "wan-animate2-distill": ("WAN_Animate2", "0.31"),
    "ming-image-01-design": ("MingImage", "0.37"),
    "qwen-image-21-turbo": ("QwenImage21", "0.37"),
    "flux3-image-klein": ("", "0.41"),
    "fibo2-edit-turbo": ("", "0.43"),
}


@pytest.mark.parametrize("id", LATER)
def test_a_release_of_a_later_class_is_recognised_by_the_class_and_its_name(id):
    (name, since), record = LATER[id], CATALOG[id]
    base = base_in_host(name) if name else unlisted("AnyNewClass")
    for file in record.files:
        assert recognise_model(base, record.width, {}, file.path, CATALOG.values()).record is record
    assert needed_host(record.bases) == f"{record.bases[0].label} needs ComfyUI {since} or newer"


def test_no_release_of_a_class_that_is_there_needs_a_newer_comfyui():
    later = {record.id for record in CATALOG.values() if needed_host(record.bases)}
    loras = {"wan-animate2-lightx2v-6step"}
    loras |= {id for id in CATALOG if id.startswith("qwen-image-21-") and id.endswith("-lora")}
    assert later == set(LATER) | loras


def test_a_model_of_an_unlisted_class_is_nothing_by_words_of_its_name_alone():
    found = recognise_model(
        unlisted("AnyNewClass"), None, {}, "my_turbo.safetensors", CATALOG.values()
    )
    assert found.record is None and found.look_alike is None


@pytest.mark.parametrize(
    ("base", "path", "id"),
    [
        (Base.QWEN_IMAGE21, "qwen_image_2.1_bf16.safetensors", "qwen-image-21-base"),
        (Base.QWEN_IMAGE21, "qwen_image_2.1_int8_convrot.safetensors", "qwen-image-21-base"),
        (
            unlisted("AnyNewClass"),
            "flux3-image-klein-base-int8-convrot.safetensors",
            "flux3-klein-base",
        ),
        (Base.FLUX2, "flux-2-klein-base-4b.safetensors", "flux2-klein-base"),
    ],
)
def test_an_undistilled_model_is_a_look_alike_with_its_reason(base, path, id):
    found = recognise_model(base, None, {}, path, CATALOG.values())
    assert found.record is None and found.look_alike is not None and found.look_alike.id == id
    assert "not distilled" in found.look_alike.reason


def test_the_letters_of_a_new_file_do_not_make_it_an_older_release():
    # The 4-step LoRA of Hunyuan 1.5 was taken for the one of eight steps, PiD 1.5 for FLUX.1's.
    def model(base, path):
        found = recognise_model(base, None, {}, path, CATALOG.values()).record
        return found and found.id

    assert model(Base.PID, "pid_1.5_qwenimage_1024_to_4096_4step_bf16.safetensors") == (
        "pid-qwenimage-4step"
    )
    assert model(Base.PID, "pid_sdxl_1024_to_4096_4step_bf16.safetensors") == "pid-sdxl-4step"
    assert model(Base.MINIMAX_H3, "my_fasth3_omniref.safetensors") == "fasth3-omniref-8step"
    assert model(Base.ANIMA, "anima-turbo-v1.1.safetensors") == "anima-turbo"
