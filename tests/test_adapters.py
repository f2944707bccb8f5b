"""Adapters that are no LoRAs are called what they are."""

from __future__ import annotations

import pytest
from comfyui_fewstep.loras.accelerator import Kind
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.decision import record_of, refuse_other_kind, refuse_other_size
from comfyui_fewstep.loras.fingerprint import fingerprint_of
from comfyui_fewstep.loras.header import FileProblem, Header
from comfyui_fewstep.loras.recognition import recognise

LAYER = "diffusion_model.blocks.0.self_attn.q"
UNET = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
XLABS = "double_blocks.0.processor.qkv_lora1"
USO = {
    f"{block}.{part}.weight": (16, 3072)
    for block in ("single_blocks.37.processor.qkv_lora", "double_blocks.18.processor.qkv_lora2")
    for part in ("down", "up")
}
BY_CORE = "load it with core's Load LoRA"
NOT_BY_CORE = "Core's Load LoRA does not apply it either"


def endings(layer, *names, shape=(4, 4)):
    return {f"{layer}{name}": shape for name in names}


ADAPTERS = [
    ("LoKr", endings(f"{UNET}", ".lokr_w1", ".lokr_w2_a", ".lokr_w2_b", ".alpha"), BY_CORE),
    ("LoKr", endings(LAYER, ".lokr_w1", ".lokr_w2"), BY_CORE),
    ("LoHa", endings(UNET, ".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b"), BY_CORE),
    ("OFT or BOFT", endings(UNET, ".oft_blocks", ".alpha", shape=(2, 4, 4)), BY_CORE),
    ("OFT in a form", endings(UNET, ".oft_R.weight"), NOT_BY_CORE),
    ("GLoRA", endings(UNET, ".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight"), BY_CORE),
    ("IA3", endings(UNET, ".weight", ".on_input"), NOT_BY_CORE),
    ("IA3", endings(f"base_model.model.{LAYER}", ".ia3_l"), NOT_BY_CORE),
    ("Stand-In", endings(LAYER, "_loras.down.weight", "_loras.up.weight"), NOT_BY_CORE),
    ("XLabs' own format", endings(XLABS, ".down.weight", ".up.weight"), "comfy_converted"),
    ("XLabs' own format", USO, BY_CORE),
    (
        "LoRA converted for nunchaku",
        endings("transformer_blocks.0.qkv_proj", ".lora_down", ".lora_up"),
        NOT_BY_CORE,
    ),
    ("the scales of a DoRA", endings(LAYER, ".dora_scale"), NOT_BY_CORE),
]


@pytest.mark.parametrize(("name", "shapes", "advice"), ADAPTERS, ids=[each[0] for each in ADAPTERS])
def test_an_adapter_is_refused_by_its_own_name_and_sent_to_who_applies_it(name, shapes, advice):
    recognition = recognise(Header(shapes, {}), "mine.safetensors", CATALOG.values())
    assert recognition.record is None and not recognition.candidates
    with pytest.raises(FileProblem) as refusal:
        refuse_other_kind(recognition, Header(shapes, {}), "mine.safetensors")
    message = str(refusal.value)
    assert f" {name}" in message and advice in message
    assert "diffusion model" not in message


def test_pairs_beside_a_doras_scales_are_a_lora_that_no_name_makes_an_accelerator():
    pair = {f"{UNET}.lora_down.weight": (64, 2048), f"{UNET}.lora_up.weight": (640, 64)}
    dora = {**pair, f"{UNET}.alpha": (), f"{UNET}.dora_scale": (640, 1)}
    for shapes, is_dora in ((pair, False), (dora, True)):
        fingerprint = fingerprint_of(Header(shapes, {}))
        assert (fingerprint.kind, fingerprint.is_dora) == (Kind.LORA, is_dora)
    found = recognise(Header(dora, {}), "my_lightning_4step_xl.safetensors", CATALOG.values())
    assert found.record is None
    with pytest.raises(ValueError, match="but it is a DoRA, and no accelerator is one"):
        record_of(found, "my_lightning_4step_xl.safetensors", None, CATALOG.values())


@pytest.mark.parametrize(("others", "is_lora"), [(1, True), (3, False)])
def test_a_file_of_pairs_and_others_is_what_most_of_it_is(others, is_lora):
    shapes = {}
    for number in range(2):
        shapes |= endings(f"{UNET}_{number}", ".lora_down.weight", ".lora_up.weight")
    for number in range(others):
        shapes |= endings(f"{UNET}_other_{number}", ".lokr_w1", ".lokr_w2", ".alpha")
    fingerprint = fingerprint_of(Header(shapes, {}))
    assert (fingerprint.kind is Kind.LORA, fingerprint.adapter is None) == (is_lora, is_lora)


def test_a_nunchaku_model_is_no_lora():
    layer = "transformer_blocks.0.qkv_proj"
    shapes = endings(layer, ".qweight", ".lora_down", ".lora_up")
    assert fingerprint_of(Header(shapes, {})).adapter is None


def test_a_whole_model_is_still_one():
    model = {"blocks.0.self_attn.q.weight": (8, 8), "blocks.0.self_attn.q.bias": (8,)}
    assert fingerprint_of(Header(model, {})).kind is Kind.MODEL


def test_a_record_chosen_by_hand_is_not_refused_for_a_width_that_is_not_known():
    """Said before: "is for the one that is None"."""
    for record in CATALOG.values():
        refuse_other_size(record, None, "mine.safetensors")
    with pytest.raises(ValueError, match="is 5120 wide, and mine.safetensors is for the one"):
        refuse_other_size(CATALOG["wan21-t2v-lightx2v-4step"], 1536, "mine.safetensors")
