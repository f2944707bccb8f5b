"""Names by which the host loads what a published LoRA file holds, and alphas it would miss."""

from __future__ import annotations

import pytest
import torch
from comfyui_fewstep.loras.header import FileProblem
from comfyui_fewstep.loras.repair import repair, repaired_key

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
