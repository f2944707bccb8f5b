"""Whether core's own LoRA loader applies what the Accelerator Loader sends to it."""

from __future__ import annotations

import comfy.lora
import comfy.lora_convert
import pytest
import torch
from comfyui_fewstep.loras.fingerprint import fingerprint_of
from comfyui_fewstep.loras.header import Header
from comfyui_fewstep.nodes import accelerator

from small_loras import Target, save

LAYER = "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


def zeros(layer, **shapes):
    return {
        f"{layer}.{ending.replace('__', '.')}": torch.full(shape, 0.01)
        for ending, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def weight(unets):
    target = Target.of(unets["sd15"])
    native = {diffusers: name for name, diffusers in target.diffusers_names().items()}
    name = next(name for name in native if name.replace(".", "_").startswith(LAYER))
    return target.shapes[native[name]]


# Each kind on one layer of rank 2. {of: (outputs, inputs)} -> tensors.
KINDS = {
    "LoKr": lambda out, into: {"lokr_w1": (2, 2), "lokr_w2": (out // 2, into // 2)},
    "LoHa": lambda out, into: {
        "hada_w1_a": (out, 2),
        "hada_w1_b": (2, into),
        "hada_w2_a": (out, 2),
        "hada_w2_b": (2, into),
    },
    "OFT": lambda out, into: {"oft_blocks": (2, out // 2, out // 2)},
    "BOFT": lambda out, into: {"oft_blocks": (1, 2, out // 2, out // 2)},
    "GLoRA": lambda out, into: {
        "a1__weight": (2, into),
        "a2__weight": (into, 2),
        "b1__weight": (2, into),
        "b2__weight": (out, 2),
    },
    "OFT of its trainer's own": lambda out, into: {"oft_R__weight": (2, 8)},
    "IA3": lambda out, into: {"weight": (into,), "on_input": ()},
    "Stand-In": lambda out, into: {"q_loras__down__weight": (2, into)},
    "the scales of a DoRA": lambda out, into: {"dora_scale": (out, 1)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_core_applies_what_is_sent_to_it_and_nothing_else(models, unets, weight, kind):
    tensors = zeros(f"lora_unet_{LAYER}", **KINDS[kind](*weight[:2]))
    keys = comfy.lora.model_lora_keys_unet(unets["sd15"].model, {})
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(tensors)), keys)

    header = Header({key: tuple(tensor.shape) for key, tensor in tensors.items()}, {})
    adapter = fingerprint_of(header).adapter
    assert bool(patches) == (adapter.elsewhere == "")

    save(models / "loras" / "mine.safetensors", tensors)
    with pytest.raises(ValueError, match=f"mine.safetensors is .*{kind.split(' of ')[0]}"):
        accelerator.attach_accelerator(unets["sd15"], "mine.safetensors", "auto", 1.0)


@pytest.mark.parametrize(
    ("names", "is_read"),
    [
        (["double_blocks.0.processor.qkv_lora1", "double_blocks.0.processor.proj_lora1"], False),
        (["single_blocks.37.processor.qkv_lora", "double_blocks.18.processor.qkv_lora2"], True),
    ],
    ids=("XLabs", "USO"),
)
def test_core_converts_uso_and_no_other_file_of_xlabs_form(names, is_read):
    tensors = {
        key: tensor
        for name in names
        for key, tensor in zeros(name, down__weight=(2, 8), up__weight=(24, 2)).items()
    }
    converted = comfy.lora_convert.convert_lora(dict(tensors))
    assert (converted.keys() != tensors.keys()) == is_read
    adapter = fingerprint_of(Header({key: (2, 8) for key in tensors}, {})).adapter
    assert (adapter.elsewhere == "") == is_read
