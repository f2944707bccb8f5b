"""Models that have an accelerator in them by their name, and names that only look so."""

from __future__ import annotations

import pytest
from comfyui_fewstep.loras.bases import Base
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.decision import merged_notes, refuse_distilled_model, refuse_merged
from comfyui_fewstep.loras.merges import merged_by_name
from comfyui_fewstep.loras.recognition import recognise_model

RECORDS = tuple(CATALOG.values())
LORAS = tuple(f"sdxl-lightning-{steps}step-lora" for steps in (2, 4, 8))


def found(base, name, titles=()):
    return recognise_model(base, None, dict(titles), name, RECORDS)


@pytest.mark.parametrize(
    ("base", "name", "word", "first"),
    [
        (Base.SDXL, "RealVisXL_V4.0_Lightning.safetensors", "Lightning", LORAS[0]),
        (Base.SDXL, "DreamShaperXL_Turbo.safetensors", "Turbo", "sdxl-turbo"),
        (Base.SDXL, "DreamShaperXL_Lightning.safetensors", "Lightning", LORAS[0]),
        (Base.SDXL, "juggernautXL_v9Rdphoto2Lightning.safetensors", "Lightning", LORAS[0]),
        (Base.SDXL, "wildcardxXLLIGHTNING_wildcardxXL.safetensors", "Lightning", LORAS[0]),
        (Base.SDXL, "merges/juggernaut_lightning_4S.safetensors", "Lightning", LORAS[1]),
        (Base.SDXL, "realvis_Lightning-8steps_fp16.safetensors", "Lightning", LORAS[2]),
        (Base.SDXL, "dreamshaperXL_v21TurboDPMSDE.safetensors", "Turbo", "sdxl-turbo"),
        (Base.SDXL, "epicrealismXL_hyper8step.safetensors", "Hyper", "hyper-sdxl-1step-lora"),
        (Base.SDXL, "epicHyperSDXL.safetensors", "Hyper", "hyper-sdxl-1step-lora"),
        (Base.SDXL, "ponyDMD2_v3.safetensors", "DMD2", "dmd2-sdxl-4step-lora"),
        (Base.SDXL, "photonLCMv2.safetensors", "LCM", "lcm-lora-sdxl"),
        (Base.SD15, "dreamshaper_8LCM.safetensors", "LCM", "lcm-lora-sd15"),
        (Base.FLUX, "flux1-dev-hyper-8steps-merge.gguf", "Hyper", "hyper-flux-8step-lora"),
        (Base.SDXL, "TechnoTurboXL.safetensors", "Turbo", "sdxl-turbo"),
        (Base.SDXL, "casinoLightning.safetensors", "Lightning", LORAS[0]),
        (Base.FLUX, "fluxTurboMix_fp8.safetensors", "Turbo", "flux-turbo-alpha-lora"),
    ],
)
def test_a_merge_is_told_by_the_word_in_its_name_and_leaves_the_choice(base, name, word, first):
    recognition = found(base, name)
    assert recognition.record is None
    assert recognition.suspected[0].id == first
    assert recognition.doubt == f"its name says {word}"
    with pytest.raises(ValueError, match=f"is probably distilled: its name says {word}"):
        refuse_merged(recognition, name, "lora_name is none", "To run it,")


@pytest.mark.parametrize(
    "name",
    [
        "sd_xl_base_1.0.safetensors",
        "juggernautXL_v9.safetensors",
        "hyperrealism_v3.safetensors",
        "HyperRealisticXL.safetensors",
        "hyperdrive.safetensors",
        "calcmodel.safetensors",
        "deturboXL.safetensors",
        "my-de-turbo.safetensors",
        "turbochargedXL.safetensors",
        "landmdXL.safetensors",
        "myxl_noLightning.safetensors",
        "myxlNoLightning.safetensors",
        "juggernautXL_nonLightning_v9.safetensors",
        "photo_without-LCM.safetensors",
    ],
)
def test_a_name_that_only_looks_so_says_nothing(name):
    recognition = found(Base.SDXL, name)
    assert recognition.record is None and not recognition.suspected


@pytest.mark.parametrize(
    ("base", "name", "id"),
    [
        (Base.SDXL, "sdxl_lightning_4step.safetensors", "sdxl-lightning-4step"),
        (Base.SDXL, "old/sdxl_lightning_4step_backup.safetensors", "sdxl-lightning-4step"),
        (Base.SDXL, "sdxl_lightning_4step_fp8_e4m3fn.safetensors", "sdxl-lightning-4step"),
        (Base.SD15, "LCM_Dreamshaper_v7_4k.safetensors", "lcm-dreamshaper-v7"),
        (Base.SDXL, "sdxl-turbo-fp16-pruned.safetensors", "sdxl-turbo"),
        # Of a flow the release itself is passed on, in other formats and by other names.
        (Base.Z_IMAGE, "z_image_turbo-Q4_K_M.gguf", "z-image-turbo"),
        (Base.Z_IMAGE, "somebodys_z_image_turbo.safetensors", "z-image-turbo"),
    ],
)
def test_the_release_itself_stays_recognised_by_its_words(base, name, id):
    assert found(base, name).record is CATALOG[id]


def test_a_title_in_the_file_speaks_where_its_name_does_not():
    titles = {"modelspec.title": "RealVisXL V4.0 (Lightning) 8 steps"}
    assert found(Base.SDXL, "a1b2.safetensors", titles).suspected == (CATALOG[LORAS[2]],)


def test_each_way_to_run_is_offered_once_and_no_recipe():
    merged = merged_by_name("x_lightning.safetensors", Base.SDXL, RECORDS)
    assert tuple(record.id for record in merged.records) == (*LORAS, "sdxl-lightning-1step-x0")
    for base in Base:
        for word in ("Lightning", "Turbo", "Hyper", "LCM", "DMD2"):
            merged = merged_by_name(f"mine_{word}.safetensors", base, RECORDS)
            assert merged is None or not any(record.only_by_choice for record in merged.records)


def test_an_expert_in_the_name_leaves_the_records_of_that_expert():
    merged = merged_by_name("wan22_LightningMix_HighNoise.gguf", Base.WAN_T2V, RECORDS)
    assert {record.expert.word for record in merged.records} == {"high"}


def test_a_lora_on_top_of_a_merge_is_told_and_not_refused():
    name, lora = "RealVisXL_V4.0_Lightning.safetensors", "sdxl_lightning_4step_lora.safetensors"
    distilled = found(Base.SDXL, name)
    refuse_distilled_model(CATALOG[LORAS[1]], lora, distilled, name)
    (note,) = merged_notes(distilled, lora, name)
    assert note.startswith(f"{name} is probably distilled already: its name says Lightning. {lora}")
    assert note.endswith(f"{', '.join(LORAS)}, sdxl-lightning-1step-x0.")
    # The release itself is refused still, and nothing is said of any other model.
    with pytest.raises(ValueError, match="is distilled already: sdxl-lightning-4step"):
        release = "sdxl_lightning_4step.safetensors"
        refuse_distilled_model(CATALOG[LORAS[1]], lora, found(Base.SDXL, release), release)
    assert merged_notes(found(Base.SDXL, "juggernautXL_v9.safetensors"), lora, "j") == ()
