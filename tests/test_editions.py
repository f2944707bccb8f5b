"""Editions of one architecture, which names alone tell apart."""

from __future__ import annotations

import pytest
from comfyui_fewstep.loras.accelerator import Kind
from comfyui_fewstep.loras.bases import Base
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.decision import refuse_other_base
from comfyui_fewstep.loras.editions import EDITIONS, edition_in, edition_notes, edition_of
from comfyui_fewstep.loras.names import read_name

RECORDS = tuple(CATALOG.values())


@pytest.mark.parametrize(
    ("id", "model", "own", "there", "better"),
    [
        (
            "qwen-image-edit-2509-lightning-4step-lora",
            "qwen_image_edit_2511_bf16.safetensors",
            "Qwen-Image-Edit-2509",
            "Qwen-Image-Edit-2511",
            "qwen-image-edit-2511-lightning-4step-lora",
        ),
        (
            "qwen-image-lightning-8step-lora",
            "qwen_image_edit_fp8_e4m3fn.safetensors",
            "Qwen-Image",
            "Qwen-Image-Edit",
            "qwen-image-edit-lightning-4step-lora",
        ),
        (
            "qwen-image-lightning-4step-lora",
            "Qwen-Image-2512-Q4_K_M.gguf",
            "Qwen-Image",
            "Qwen-Image-2512",
            "qwen-image-2512-lightning-4step-lora",
        ),
        (
            "ltx23-22b-distilled-lora",
            "ltx-2-19b-dev.safetensors",
            "LTX-2.3",
            "LTX-2",
            "ltx2-19b-distilled-lora",
        ),
        (
            "hunyuan15-i2v-step-distilled-lora",
            "hunyuanvideo1.5_480p_t2v_fp16.safetensors",
            "HunyuanVideo 1.5 image-to-video",
            "HunyuanVideo 1.5 text-to-video",
            "",
        ),
    ],
)
def test_a_lora_of_another_edition_than_the_models_name_says_is_told(id, model, own, there, better):
    record = CATALOG[id]
    (note,) = edition_notes(record, "mine.safetensors", record.bases[0], f"a/{model}", RECORDS)
    assert note.startswith(f"mine.safetensors ({id}) is for {own}, and a/{model} is {there} by")
    assert better in note


@pytest.mark.parametrize(
    ("id", "model"),
    [
        (
            "qwen-image-edit-2509-lightning-4step-lora",
            "qwen_image_edit_2509_fp8_e4m3fn.safetensors",
        ),
        ("qwen-image-lightning-4step-lora", "qwen_image_fp8_e4m3fn.safetensors"),
        ("qwen-image-lightning-4step-lora", "my_model.safetensors"),
        ("qwen-image-lightning-4step-lora", "2511/qwen_image_bf16.safetensors"),
        ("firered-edit-8step-lora", "qwen_image_edit_2511_bf16.safetensors"),
        ("ltx23-22b-distilled-lora", "ltx-2.3-22b-dev-fp8.safetensors"),
        ("ltx2-19b-distilled-lora", ""),
        ("sdxl-lightning-4step-lora", "sd_xl_base_1.0.safetensors"),
    ],
)
def test_of_the_same_edition_or_of_none_nothing_is_told(id, model):
    record = CATALOG[id]
    assert edition_notes(record, "mine.safetensors", record.bases[0], model, RECORDS) == ()


def test_every_release_for_such_a_base_is_of_one_edition_as_its_id_has_it():
    """The numbers in an id are those of its edition: 2511, 19b and so on."""
    several = {edition.base for edition in EDITIONS}
    seen = set()
    for record in RECORDS:
        for base in several & set(record.bases):
            edition = edition_of(record, base)
            for number, label in (("2511", "2511"), ("2509", "2509"), ("2512", "2512")):
                assert (number in record.id) == (edition is not None and label in edition.label)
            seen.add(edition)
    assert {edition for edition in EDITIONS if edition.base is not Base.HUNYUAN15} <= seen


def test_no_other_base_has_editions():
    assert edition_in(Base.SDXL, read_name("qwen_image_edit_2511.safetensors")) is None
    assert edition_in(None, read_name("qwen_image_edit_2511.safetensors")) is None


# ---------------------------------------------------------------- recipes of the same family


@pytest.mark.parametrize(
    ("id", "base", "recipe"),
    [
        ("wan21-t2v-lightx2v-4step", Base.WAN_VACE, "wan-vace-lightx2v-4step"),
        ("wan21-i2v-lightx2v-4step", Base.WAN_VACE, "wan-vace-lightx2v-4step"),
        ("wan21-t2v-lightx2v-4step", Base.WAN_HUMO, "wan-humo-lightx2v-6step"),
    ],
)
def test_a_recipe_for_the_connected_model_is_named(id, base, recipe):
    with pytest.raises(ValueError, match=f"all the same, choose {recipe} in accelerator"):
        refuse_other_base(CATALOG[id], "mine.safetensors", base, base.name, RECORDS)


def test_no_refusal_of_another_base_names_more_than_five_ids():
    for record in RECORDS:
        for base in Base:
            try:
                refuse_other_base(record, "mine.safetensors", base, base.name, RECORDS)
            except ValueError as refusal:
                advice = str(refusal).partition("connected model is")[2]
                assert sum(f" {id} " in f"{advice} " for id in CATALOG) <= 5


def test_the_grids_of_plain_fp8_are_no_note_of_every_base():
    lightning = [
        record
        for record in RECORDS
        if record.family == "Qwen-Image-Lightning" and record.kind is Kind.LORA
    ]
    assert not any("leaves grid artefacts" in note for record in lightning for note in record.notes)
    with_grids = {record.id for record in lightning if record.notes_on_plain_fp8}
    assert "qwen-image-edit-2511-lightning-8step-lora" in with_grids
    assert "qwen-image-lightning-fp8base-4step-lora" not in with_grids
