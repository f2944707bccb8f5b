"""The Accelerator Loader on the real host: every published key layout ends as the right weights;
every wrong file is refused.
"""

from __future__ import annotations

import re
from dataclasses import replace

import comfy.model_management
import pytest
import torch
from comfyui_fewstep.loras.accelerator import Parameterization
from comfyui_fewstep.loras.bases import Base
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.decision import record_of
from comfyui_fewstep.loras.header import read_header
from comfyui_fewstep.loras.recognition import recognise
from comfyui_fewstep.loras.repair import repair
from comfyui_fewstep.loras.schedules import ShiftedFlow
from comfyui_fewstep.nodes import accelerator
from comfyui_fewstep.nodes.host.attach import Coverage, attach_lora, with_record
from comfyui_fewstep.nodes.host.declared import known_accelerators
from comfyui_fewstep.nodes.host.model import accelerator_of
from processor_time import processor_seconds_below
from safetensors.torch import save_file
from thinning import corners

import small_models
from more_models import small_patcher
from small_loras import write_lora

# architecture, file name, record
UNET_FILES = [
    ("sd15", "lcm-lora-sdv1-5.safetensors", "lcm-lora-sd15"),
    ("sd15", "Hyper-SD15-8steps-CFG-lora.safetensors", "hyper-sd15-8step-cfg-lora"),
    ("sd15", "Hyper-SD15-1step-lora.safetensors", "hyper-sd15-1step-lora"),
    ("sdxl", "lcm-lora-sdxl.safetensors", "lcm-lora-sdxl"),
    ("sdxl", "sdxl_lightning_4step_lora.safetensors", "sdxl-lightning-4step-lora"),
    ("sdxl", "Hyper-SDXL-1step-lora.safetensors", "hyper-sdxl-1step-lora"),
    ("ssd1b", "lcm-lora-ssd-1b/pytorch_lora_weights.safetensors", "lcm-lora-ssd-1b"),
]
UNET_LAYOUTS = ["kohya-diffusers", "kohya-native", "peft"]
# One of each kind of layer: linear and convolution, attention, feed-forward, time; and what tells
# SSD-1B from SDXL.
UNET_LAYERS = (
    r"middle_block\.(0|2|1\.proj)|middle_block.*blocks\.(0|9)"
    r"|input_blocks\.(4|7)\.1.*blocks\.0|time_embed|output_blocks\.8"
)
# variant, file name, record
WAN_FILES = [
    (
        "wan21_t2v",
        "wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors",
        "wan21-t2v-lightx2v-4step",
    ),
    ("wan21_i2v", "wan2.1_i2v_lora_rank64_lightx2v_4step.safetensors", "wan21-i2v-lightx2v-4step"),
    (
        "wan21_t2v",
        "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors",
        "wan22-t2v-lightning-high",
    ),
    (
        "wan21_t2v",
        "wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors",
        "wan22-t2v-lightning-low",
    ),
    (
        "wan22_i2v",
        "wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors",
        "wan22-i2v-lightning-high",
    ),
    (
        "wan22_i2v",
        "wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors",
        "wan22-i2v-lightning-low",
    ),
]
WAN_LAYOUTS = ["native", "native-peft", "bare", "bare-peft"]
T2V_FILE = WAN_FILES[0][1]
# Where the network alpha of a rank of 4 stands, if anywhere.
each_alpha = pytest.mark.parametrize(
    "alpha",
    [{}, {"alpha": 2.0}, {"alpha": 2.0, "alpha_in": "metadata"}],
    ids=["no alpha", "alpha beside the layers", "alpha in the metadata"],
)


@pytest.fixture(scope="module")
def wans(models):
    return {
        name: small_models.load_model(
            small_models.write_wan(models / "diffusion_models" / f"{name}.safetensors", name)
        )
        for name in ("wan21_t2v", "wan21_i2v", "wan22_i2v")
    }


def weights_of(patcher) -> dict[str, torch.Tensor]:
    """The weights of a model that is not loaded, copied."""
    return {
        key: value.float().cpu().clone()
        for key, value in patcher.model.diffusion_model.state_dict().items()
    }


def assert_weights_are_the_reference(model, attached, written, strength):
    """Compare what the host leaves on the device with the change worked out by hand, to 1e-6."""
    before = weights_of(model)
    comfy.model_management.load_models_gpu([attached])
    try:
        after = {
            key: value.float().cpu()
            for key, value in attached.model.diffusion_model.state_dict().items()
        }
        assert written.changed
        for name in after:
            if name in written.changed:
                expected = before[name] + written.change(name, strength)
                assert torch.allclose(after[name], expected, rtol=0, atol=1e-6), name
            else:
                assert torch.equal(after[name], before[name]), name
    finally:
        comfy.model_management.unload_all_models()


@corners()
@each_alpha
@pytest.mark.parametrize("layout", UNET_LAYOUTS)
@pytest.mark.parametrize(("architecture", "file", "id"), UNET_FILES)
def test_unet_loras_change_the_weights_as_their_formula_says(
    unets, models, architecture, file, id, layout, alpha
):
    model = unets[architecture]
    written = write_lora(models / "loras" / file, model, layout, rank=4, **alpha, only=UNET_LAYERS)
    attached, report = accelerator.attach_accelerator(model, file, accelerator.AUTO, strength=0.7)
    record = accelerator_of(attached)
    assert record.id == id
    assert report.data["layers_lost"] == 0
    assert_weights_are_the_reference(model, attached, written, 0.7 * record.strength)
    assert accelerator_of(model) is None


@pytest.mark.parametrize("architecture", ["sd15", "sdxl", "ssd1b"])
@pytest.mark.parametrize("layout", UNET_LAYOUTS)
def test_every_layer_of_every_published_layout_finds_its_place(unets, models, architecture, layout):
    written = write_lora(models / "loras" / "all.safetensors", unets[architecture], layout, rank=1)
    _, coverage = attach_lora(unets[architecture], repair(written.tensors, {}).tensors, 1.0)
    assert coverage.applied == len(written.changed) and not (
        coverage.lost or coverage.misfit or coverage.not_needed
    )


@corners()
@each_alpha
@pytest.mark.parametrize("layout", WAN_LAYOUTS)
@pytest.mark.parametrize(("variant", "file", "id"), WAN_FILES)
def test_wan_loras_change_the_weights_as_their_formula_says(
    wans, models, variant, file, id, layout, alpha
):
    written = write_lora(
        models / "loras" / file, wans[variant], layout, rank=4, **alpha, differences=True
    )
    attached, report = accelerator.attach_accelerator(
        wans[variant], file, accelerator.AUTO, strength=1.0
    )
    assert accelerator_of(attached).id == id
    assert report.data["layers_lost"] == 0
    assert any("modulation" in note for note in report.notes), (
        "the repaired .diff_m keys are reported"
    )
    assert_weights_are_the_reference(wans[variant], attached, written, 1.0)


def test_the_model_sampling_is_the_distillations(unets, wans, models):
    write_lora(
        models / "loras" / "lcm-lora-sdv1-5.safetensors",
        unets["sd15"],
        "kohya-diffusers",
        only="attn",
    )
    lcm, _ = accelerator.attach_accelerator(
        unets["sd15"], "lcm-lora-sdv1-5.safetensors", accelerator.AUTO, 1.0
    )
    assert len(lcm.get_model_object("model_sampling").sigmas) == 50, "the LCM grid"
    assert CATALOG["lcm-lora-sd15"].parameterization is Parameterization.LCM

    write_lora(models / "loras" / T2V_FILE, wans["wan21_t2v"], "native", only="self_attn")
    wan, _ = accelerator.attach_accelerator(wans["wan21_t2v"], T2V_FILE, accelerator.AUTO, 1.0)
    assert wan.get_model_object("model_sampling").shift == 5.0
    assert wans["wan21_t2v"].get_model_object("model_sampling").shift == 8.0, (
        "the model given is as it was"
    )
    assert isinstance(CATALOG["wan21-t2v-lightx2v-4step"].schedule, ShiftedFlow)


def test_the_record_survives_clones_and_other_patches(unets, models):
    write_lora(
        models / "loras" / "lcm-lora-sdv1-5.safetensors",
        unets["sd15"],
        "kohya-diffusers",
        only="attn",
    )
    attached, _ = accelerator.attach_accelerator(
        unets["sd15"], "lcm-lora-sdv1-5.safetensors", accelerator.AUTO, 1.0
    )
    other = attached.clone()
    other.set_model_attn1_patch(lambda q, k, v, extra: (q, k, v))
    assert accelerator_of(other.clone()).id == "lcm-lora-sd15"


def test_image_branch_layers_do_not_matter_to_a_model_without_one(wans, models):
    # The Wan 2.1 I2V LoRA on Wan 2.2 I2V: harmless, and users cannot tell (ComfyUI#10222). Its
    # record refuses that base, so the coverage is asked directly.
    written = write_lora(
        models / "loras" / "i2v.safetensors", wans["wan21_i2v"], "native", only="attn"
    )
    _, coverage = attach_lora(wans["wan22_i2v"], written.tensors, 1.0)
    assert coverage.applied > 0 and not coverage.lost
    assert (
        all("k_img" in layer or "v_img" in layer for layer in coverage.not_needed)
        and coverage.not_needed
    )


def test_a_file_for_another_number_of_input_channels_leaves_the_first_layer_as_it_is(wans, models):
    """Wan 2.1's text-to-video LoRA on Wan 2.2's image-to-video expert: 16 channels and 36."""
    write_lora(models / "loras" / T2V_FILE, wans["wan21_t2v"], "native", differences=True)
    recipe = "wan22-i2v-wan21-lora-high"
    _, report = accelerator.attach_accelerator(wans["wan22_i2v"], T2V_FILE, recipe, 1.0)
    assert report.data["layers_lost"] == 0 and "LOST" not in report.summary
    first = "diffusion_model.patch_embedding"
    told = f"1 layer is left as it is ({first}): the file is for another number of input channels."
    assert told in report.notes


@pytest.mark.parametrize(
    ("layer", "outputs", "inputs", "is_other_input"),
    [
        ("img_in", 256, 384, True),
        # Of another width, and another layer: lost.
        ("img_in", 512, 64, False),
        ("txt_in", 256, 128, False),
    ],
)
def test_only_the_first_layers_inputs_may_differ(layer, outputs, inputs, is_other_input):
    name = f"diffusion_model.{layer}"
    tensors = {
        f"{name}.lora_down.weight": torch.ones(4, inputs),
        f"{name}.lora_up.weight": torch.ones(outputs, 4),
    }
    _, coverage = attach_lora(small_patcher("Flux"), tensors, 1.0)
    told = (coverage.other_input, coverage.misfit)
    assert told == (((name,), ()) if is_other_input else ((), (name,)))


def test_layers_the_model_has_no_place_for_are_named_as_lost(wans, models):
    written = write_lora(
        models / "loras" / "t2v.safetensors", wans["wan21_t2v"], "native", only="self_attn"
    )
    tensors = dict(written.tensors)
    for end in ("lora_down.weight", "lora_up.weight"):
        tensors[f"diffusion_model.blocks.99.self_attn.q.{end}"] = tensors[
            f"diffusion_model.blocks.0.self_attn.q.{end}"
        ]
    _, coverage = attach_lora(wans["wan21_t2v"], tensors, 1.0)
    assert coverage.lost == ("diffusion_model.blocks.99.self_attn.q",)
    assert not coverage.not_needed


def test_a_layer_that_the_host_has_a_name_for_and_the_model_no_weight_is_lost(unets):
    """The first residual blocks of a UNet keep their width and have no shortcut."""
    shortcut = "lora_unet_down_blocks_0_resnets_0_conv_shortcut"
    tensors = {
        f"{shortcut}.lora_down.weight": torch.ones(1, 8, 1, 1),
        f"{shortcut}.lora_up.weight": torch.ones(8, 1, 1, 1),
    }
    _, coverage = attach_lora(unets["sd15"], tensors, 1.0)
    assert (coverage.applied, coverage.lost) == (0, (shortcut,))


# ---------------------------------------------------------------- what the report says


def test_a_partly_patched_file_is_reported_with_what_was_lost_and_what_does_not_matter(
    unets, models
):
    file = models / "loras" / "lcm-lora-sdv1-5.safetensors"
    written = write_lora(file, unets["sd15"], "kohya-diffusers", rank=4, only="attn")
    text, lost = (
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
        "lora_unet_down_blocks_0_resnets_0_conv_shortcut",
    )
    ends = {".lora_down.weight": (4, 8), ".lora_up.weight": (8, 4)}
    save_file(
        written.tensors
        | {layer + end: torch.ones(shape) for layer in (text, lost) for end, shape in ends.items()},
        file,
    )
    _, report = accelerator.attach_accelerator(unets["sd15"], file.name, accelerator.AUTO, 1.0)
    data, applied = report.data, len(written.pairs)
    assert (data["layers_applied"], data["layers_lost"], data["layers_not_needed"]) == (
        applied,
        1,
        1,
    )
    assert f"1 layer of real weight was lost: the model has no place for {lost}." in report.notes
    assert f"1 layer does not matter for this model ({text})." in report.notes
    assert f"{applied} layers at strength 1, 1 LOST" in report.summary


def test_the_fates_of_several_layers_are_told_in_the_plural():
    coverage = Coverage(
        applied=1, not_needed=("a", "b"), lost=("c", "d"), misfit=("e", "f"), other_input=("g", "h")
    )
    assert accelerator.coverage_notes(coverage) == [
        "2 layers of real weight were lost: the model has no place for c, d.",
        "2 layers were lost: their width is not the model's (e, f).",
        "2 layers do not matter for this model (a, b).",
        "2 layers are left as they are (g, h): the file is for another number of input channels.",
    ]
    one = replace(coverage, lost=(), misfit=("e",), not_needed=(), other_input=())
    assert accelerator.coverage_notes(one) == [
        "1 layer was lost: its width is not the model's (e)."
    ]


@pytest.mark.parametrize(
    ("name", "size", "choice", "words"),
    [
        (WAN_FILES[1][1], 0, accelerator.AUTO, "from the name, within what the header allows: "),
        (
            "renamed.safetensors",
            739_472_104,
            accelerator.AUTO,
            "certain: ",
        ),  # the size of one file, published for two bases: the model's decides
        ("renamed.safetensors", 0, WAN_FILES[1][2], "as chosen: chosen by hand; "),
    ],
)
def test_the_report_says_how_sure_the_recognition_is(wans, models, name, size, choice, words):
    written = write_lora(models / "loras" / name, wans["wan21_i2v"], "native", only="attn")
    known, header = known_accelerators(), replace(read_header(written.path), size=size)
    recognition = recognise(header, name, known.records.values(), Base.WAN21_I2V)
    chosen = None if choice == accelerator.AUTO else known.chosen(choice)
    record = record_of(recognition, name, chosen, known.records.values())
    assert record.id == WAN_FILES[1][2]
    report = accelerator.report_on_loading(record, recognition, None, (), name)
    assert dict(report.rows)["recognised"].startswith(words)


# ---------------------------------------------------------------- refusals: expected, found, what t


def refused(model, name, choice=accelerator.AUTO) -> str:
    with pytest.raises(ValueError) as error:
        accelerator.attach_accelerator(model, name, choice, 1.0)
    return str(error.value)


def test_a_truncated_file_is_refused(unets, models):
    written = write_lora(
        models / "loras" / "lcm_whole.safetensors", unets["sd15"], "kohya-diffusers", only="attn1"
    )
    cut = models / "loras" / "lcm-lora-sdv1-5 (2).safetensors"
    cut.write_bytes(written.path.read_bytes()[:-1000])
    assert (
        "not a complete .safetensors file" in (message := refused(unets["sd15"], cut.name))
        and "download it again" in message
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "picture.safetensors",
            b"\x89PNG\r\n\x1a\n" + bytes(100),
            "not a complete .safetensors file",
        ),
        ("empty.safetensors", b"", "is empty (0 bytes)"),
        ("page.safetensors", b"<!DOCTYPE html>" + bytes(100), "it is a web page"),
        ("pickle.ckpt", b"\x80\x02}q\x00.", "never opened here"),
    ],
)
def test_a_file_that_is_no_safetensors_is_refused(unets, models, name, content, words):
    (models / "loras" / name).write_bytes(content)
    assert words in refused(unets["sd15"], name)


def test_a_missing_file_is_refused_before_the_queue_and_after(unets, models):
    write_lora(
        models / "loras" / "lcm_sd15.safetensors", unets["sd15"], "kohya-diffusers", only="attn1"
    )
    message = accelerator.FewStepAccelerator.validate_inputs("lcm_sd51.safetensors")
    assert (
        "lcm_sd51.safetensors is not in models/loras" in message
        and "lcm_sd15.safetensors" in message
    )
    assert "is not in models/loras" in refused(unets["sd15"], "lcm_sd51.safetensors")


def test_a_lora_for_another_base_is_refused_with_both_names(unets, models):
    write_lora(
        models / "loras" / "sdxl_lightning_4step_lora.safetensors",
        unets["sdxl"],
        "kohya-diffusers",
        only="attn1|attn2|middle",
    )
    message = refused(unets["sd15"], "sdxl_lightning_4step_lora.safetensors")
    assert "for SDXL" in message and "connected model is SD 1.5" in message


def test_a_t2v_lora_on_an_i2v_model_is_refused(wans, models):
    write_lora(models / "loras" / T2V_FILE, wans["wan21_t2v"], "native", only="self_attn")
    message = refused(wans["wan21_i2v"], T2V_FILE)
    assert "text-to-video" in message and "image-to-video" in message


def test_a_record_chosen_by_hand_does_not_override_the_header(unets, models):
    write_lora(
        models / "loras" / "mystery.safetensors", unets["sd15"], "kohya-diffusers", only="attn2"
    )
    message = refused(unets["sdxl"], "mystery.safetensors", "sdxl-lightning-4step-lora")
    assert "is a LoRA for SD 1.5" in message and "one for SDXL" in message


def test_a_lora_with_no_key_of_the_model_is_refused(unets, models):
    tensors = {
        f"lora_unet_transformer_blocks_{i}_attn2_to_k.{end}": torch.randn(*shape)
        for i in range(3)
        for end, shape in (("lora_down.weight", (4, 768)), ("lora_up.weight", (32, 4)))
    }
    save_file(tensors, models / "loras" / "lcm_alien.safetensors")
    message = refused(unets["sd15"], "lcm_alien.safetensors", "lcm-lora-sd15")
    assert "none of its 3 layers is in this model" in message


def test_a_lora_of_another_width_is_refused(wans, models):
    # The 14B LoRA on the 1.3B model: same names, other widths.
    written = write_lora(models / "loras" / T2V_FILE, wans["wan21_t2v"], "native", only="self_attn")
    wide = {
        key: torch.randn(t.shape[0], 512) if "down" in key else torch.randn(512, t.shape[1])
        for key, t in written.tensors.items()
    }
    save_file(wide, models / "loras" / T2V_FILE)
    assert "another width" in refused(wans["wan21_t2v"], T2V_FILE)


def test_files_that_cannot_be_told_apart_are_refused_with_the_candidates(unets, models):
    write_lora(
        models / "loras" / "my_sdxl_lora.safetensors",
        unets["sdxl"],
        "kohya-diffusers",
        only="attn1|attn2|middle",
    )
    message = refused(unets["sdxl"], "my_sdxl_lora.safetensors")
    # One of each family, five at most, and how many more there are.
    for id in ("lcm-lora-sdxl", "sdxl-lightning-2step-lora", "hyper-sdxl-1step-lora"):
        assert id in message
    assert re.search(
        r"which file did you download\? Choose it in accelerator: .* and \d+ more", message
    )
    assert message.count("sdxl") <= 6


def test_a_style_named_after_an_accelerator_is_asked_about(unets, models):
    name = "Lightning_4step_style_xl.safetensors"
    write_lora(models / "loras" / name, unets["sdxl"], "kohya-diffusers", rank=16, only="attn")
    assert refused(unets["sdxl"], name) == (
        f"{name} may be sdxl-lightning-4step-lora by its name, but its rank is 16, and that of"
        " sdxl-lightning-4step-lora 64. If it is that accelerator all the same, choose it in"
        " accelerator. If it is an ordinary LoRA, load it with core's Load LoRA."
    )
    chosen, report = accelerator.attach_accelerator(
        unets["sdxl"], name, "sdxl-lightning-4step-lora", 1.0
    )
    assert accelerator_of(chosen).id == "sdxl-lightning-4step-lora"
    assert report.data["layers_lost"] == 0


def test_the_generic_name_of_every_trainer_decides_nothing(unets, models):
    write_lora(
        models / "loras" / "pytorch_lora_weights.safetensors",
        unets["sdxl"],
        "kohya-diffusers",
        only="attn1|attn2|middle",
    )
    assert "cannot be identified" in refused(unets["sdxl"], "pytorch_lora_weights.safetensors")


def test_lightning_without_its_step_count_in_the_name_is_refused(unets, models):
    write_lora(
        models / "loras" / "sdxl_lightning.safetensors",
        unets["sdxl"],
        "kohya-diffusers",
        only="attn1|attn2|middle",
    )
    message = refused(unets["sdxl"], "sdxl_lightning.safetensors")
    assert (
        "sdxl-lightning-2step-lora, sdxl-lightning-4step-lora, sdxl-lightning-8step-lora" in message
    )


def test_a_second_accelerator_is_refused(unets, models):
    write_lora(
        models / "loras" / "lcm-lora-sdv1-5.safetensors",
        unets["sd15"],
        "kohya-diffusers",
        only="attn",
    )
    attached, _ = accelerator.attach_accelerator(
        unets["sd15"], "lcm-lora-sdv1-5.safetensors", accelerator.AUTO, 1.0
    )
    with pytest.raises(ValueError, match="already carries lcm-lora-sd15"):
        accelerator.FewStepAccelerator.execute(
            attached, "lcm-lora-sdv1-5.safetensors", accelerator.AUTO, 1.0
        )


def test_an_lcm_lora_behind_animatelcm_is_told_its_place(unets, models):
    write_lora(
        models / "loras" / "lcm-lora-sdv1-5.safetensors",
        unets["sd15"],
        "kohya-diffusers",
        only="attn",
    )
    with pytest.raises(
        ValueError, match="already carries animatelcm-sd15.*in front of the Motion Module Loader"
    ):
        accelerator.FewStepAccelerator.execute(
            with_record(unets["sd15"], CATALOG["animatelcm-sd15"]),
            "lcm-lora-sdv1-5.safetensors",
            accelerator.AUTO,
            1.0,
        )


def test_a_strength_of_0_and_a_choice_against_the_name_are_told(unets, models):
    name = "Hyper-SD15-4steps-lora.safetensors"
    write_lora(models / "loras" / name, unets["sd15"], "kohya-diffusers", only="attn")
    _, report = accelerator.attach_accelerator(unets["sd15"], name, accelerator.AUTO, 0.0)
    assert [
        note
        for note in report.notes
        if note.startswith("strength is 0: nothing of the LoRA is applied")
    ]
    _, report = accelerator.attach_accelerator(unets["sd15"], name, "hyper-sd15-8step-lora", 1.0)
    assert [
        note
        for note in report.notes
        if "hyper-sd15-8step-lora, though " in note
        and "was recognised as hyper-sd15-4step-lora" in note
    ]


def test_reading_the_header_does_not_read_the_file(unets, models):
    # 6 GB that are never written: a header pointing into a sparse file.
    import json
    import struct

    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    weight = {
        "dtype": "F16",
        "shape": [1_000_000, 3000],
        "data_offsets": [0, 6_000_000_000],
    }
    header = json.dumps({f"{layer}.lora_down.weight": weight}).encode()
    big = models / "loras" / "big.safetensors"
    with big.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 6_000_000_000)
    # Reading 6 GB takes far longer than this even from memory.
    with processor_seconds_below(0.1):
        assert len(read_header(big).shapes) == 1
