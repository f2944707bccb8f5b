"""Names by which the host loads what a published LoRA file holds, and alphas it would miss."""

from __future__ import annotations

import pytest
import torch
from comfyui_fewstep.loras.architecture import architecture_of
from comfyui_fewstep.loras.bases import Base
from comfyui_fewstep.loras.header import FileProblem
from comfyui_fewstep.loras.repair import hosts_names, repair, repaired_key

BLOCK = "diffusion_model.blocks.3"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("blocks.3.self_attn.q.lora_A.weight", f"{BLOCK}.self_attn.q.lora_A.weight"),
        ("transformer.blocks.3.ffn.0.lora_down.weight", f"{BLOCK}.ffn.0.lora_down.weight"),
        ("model.blocks.3.ffn.0.alpha", f"{BLOCK}.ffn.0.alpha"),
        ("model.diffusion_model.blocks.3.ffn.0.alpha", f"{BLOCK}.ffn.0.alpha"),
        ("head.head.diff_b", "diffusion_model.head.head.diff_b"),
        (f"{BLOCK}.diff_m", f"{BLOCK}.modulation.diff"),
        ("blocks.3.diff_m", f"{BLOCK}.modulation.diff"),
        (f"{BLOCK}.self_attn.q.lora_up.weight", f"{BLOCK}.self_attn.q.lora_up.weight"),
        (
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight",
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k.lora_A.weight",
        ),
        (
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_B.weight",
            "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out.lora_B.weight",
        ),
        (
            "lora_unet_mid_block_attentions_0.lora_up.weight",
            "lora_unet_mid_block_attentions_0.lora_up.weight",
        ),
        ("", ""),
    ],
)
def test_the_hosts_name_for_a_key(key, name):
    assert repaired_key(key) == name
    assert repaired_key(name) == name, "a second time changes nothing"


def two_layers(*alphas: str) -> dict[str, torch.Tensor]:
    tensors = {
        f"blocks.{block}.q.{end}": torch.ones(2, 2)
        for block in (0, 1)
        for end in ("lora_A.weight", "lora_B.weight")
    }
    return tensors | {f"blocks.{block}.q.alpha": torch.tensor(2.0) for block in alphas}


def test_what_was_repaired_is_told_and_the_tensors_are_the_files_own():
    given = {**two_layers("0", "1"), "blocks.0.diff_m": torch.ones(1, 6, 4)}
    repaired = repair(given, {})
    assert repaired.notes == (
        "1 modulation difference (.diff_m) renamed for the host",
        "7 keys given the diffusion_model. prefix the host expects",
    )
    assert all(repaired.tensors[repaired_key(key)] is tensor for key, tensor in given.items())
    assert repair(repaired.tensors, {}).notes == ()


@pytest.mark.parametrize(
    ("metadata", "missing_alpha", "alpha", "origin"),
    [
        ({"lora_alpha": "8"}, None, 8.0, "from the file's metadata"),
        ({"lora_alpha": "8"}, 4.0, 8.0, "from the file's metadata"),
        ({}, 4.0, 4.0, "the release's own: its file carries none"),
    ],
)
def test_an_alpha_the_host_does_not_see_is_written_down_where_it_is_missing(
    metadata, missing_alpha, alpha, origin
):
    repaired = repair(two_layers("1"), metadata, missing_alpha)
    assert repaired.tensors["diffusion_model.blocks.0.q.alpha"] == alpha
    assert repaired.tensors["diffusion_model.blocks.1.q.alpha"] == 2.0, "the file's own stays"
    assert repaired.notes[-1] == f"alpha {alpha:g} taken for 1 layer, {origin}"


def test_several_alphas_are_told_in_the_plural():
    assert (
        repair(two_layers(), {}, 4.0).notes[-1]
        == "alpha 4 taken for 2 layers, the release's own: its file carries none"
    )


def test_without_any_alpha_nothing_is_written_down():
    assert not any(key.endswith(".alpha") for key in repair(two_layers(), {}).tensors)


@pytest.mark.parametrize("value", ["many", "nan", "inf", "0", "-4"])
def test_an_alpha_that_is_no_positive_number_is_refused(value):
    with pytest.raises(FileProblem, match="metadata lora_alpha"):
        repair(two_layers(), {"lora_alpha": value})


def test_an_alpha_in_the_metadata_is_read_only_where_a_layer_lacks_it():
    notes = repair(two_layers("0", "1"), {"lora_alpha": "many"}).notes
    assert not any("alpha" in note for note in notes)


@pytest.mark.parametrize("value", ["8", "Dynamic"])
def test_kohyas_own_note_of_its_alpha_is_no_alpha_of_the_file(value):
    """Its scripts write the tensors as well: without those the alpha has been multiplied in."""
    repaired = repair(two_layers(), {"ss_network_alpha": value})
    assert not any(key.endswith(".alpha") for key in repaired.tensors)


# ---------------------------------------------------------------- names of other tools


def test_wan_in_diffusers_names_is_wan_and_gets_the_models_own():
    """Said before: a UNet with the unknown text width [5120]."""
    layers = {
        "transformer.blocks.0.attn1.to_q": (5120, 5120),
        "transformer.blocks.0.attn2.to_k": (5120, 5120),
        "transformer.proj_out": (64, 5120),
    }
    measured = architecture_of(layers)
    assert (Base.WAN_T2V in measured.bases, measured.width) == (True, 5120)
    with_image = architecture_of({**layers, "transformer.blocks.0.attn2.add_k_proj": (5120, 5120)})
    assert with_image.bases == (Base.WAN21_I2V,)
    given = {f"{layer}.lora_A.weight": torch.ones(4, 8) for layer in layers}
    repaired = repair(given, {})
    assert set(repaired.tensors) == {
        f"diffusion_model.{layer}.lora_A.weight"
        for layer in ("blocks.0.self_attn.q", "blocks.0.cross_attn.k", "head.head")
    }
    assert repaired.notes == ("3 keys given the model's own name for diffusers'",)


def test_a_projection_of_another_model_is_not_renamed_as_wans():
    given = {"transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.ones(4, 8)}
    given["transformer.proj_out.lora_A.weight"] = torch.ones(4, 8)
    assert set(repair(given, {}).tensors) == set(given)


@pytest.mark.parametrize(
    ("double", "single", "base"),
    [(18, 37, Base.FLUX), (19, 37, Base.HUNYUAN_VIDEO), (18, 38, Base.HUNYUAN_VIDEO)],
)
def test_hunyuan_video_in_diffusers_names_has_more_blocks_than_flux(double, single, base):
    layers = {
        f"transformer.transformer_blocks.{double}.attn.to_q": (3072, 3072),
        f"transformer.single_transformer_blocks.{single}.attn.to_q": (3072, 3072),
    }
    measured = architecture_of(layers)
    assert base in measured.bases
    assert (Base.HUNYUAN_VIDEO in measured.bases) == (base is Base.HUNYUAN_VIDEO)


PLACES = {"lora_unet_a_b": "a.b", "diffusion_model.a.b": "a.b", "transformer.c": ("a.b", 0)}


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (["lora_unet__a_b"], {"lora_unet__a_b": "lora_unet_a_b"}),
        (["base_model.model.c"], {"base_model.model.c": "transformer.c"}),
        (["lora_unet_a_b_"], {"lora_unet_a_b_": "lora_unet_a_b"}),
        (["diffusion_model.a.b"], {}),
        (["pipe.dit.a.b", "diffusion_model.a.b"], {}),
        (["pipe.dit.a.b", "module.a.b"], {}),
        (["nothing"], {}),
    ],
)
def test_a_layer_gets_the_one_name_of_the_hosts_that_is_its_own_but_for_prefixes(layers, names):
    assert hosts_names(layers, PLACES) == names


def test_a_name_that_may_be_two_places_is_left():
    assert hosts_names(["module.a.b"], {"lora_unet_a_b": "a.b", "diffusion_model.a.b": "a_b"}) == {}


def test_the_name_of_an_adapter_goes_where_there_is_only_one():
    one = {f"blocks.0.q.lora_{end}.mine.weight": torch.ones(2, 2) for end in "AB"}
    repaired = repair(one, {})
    assert set(repaired.tensors) == {
        f"diffusion_model.blocks.0.q.lora_{end}.weight" for end in "AB"
    }
    assert repaired.notes[0] == "2 keys freed of the name of an adapter"
    two = {**one, **{key.replace("mine", "yours"): tensor for key, tensor in one.items()}}
    assert {key.removeprefix("diffusion_model.") for key in repair(two, {}).tensors} == set(two)
