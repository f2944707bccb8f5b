"""LoRAs whose layers have other names than the host's: what can be renamed gives the very weights
of the host's own names, and the rest is told by its names.
"""

from __future__ import annotations

import re

import comfy.lora
import pytest
import torch
from comfyui_fewstep.loras.repair import repair
from comfyui_fewstep.nodes import accelerator
from comfyui_fewstep.nodes.host.attach import attach_lora
from safetensors.torch import save_file

from more_models import small_patcher
from small_models import load_model, write_wan

RANK = 4


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return load_model(write_wan(tmp_path_factory.mktemp("wan") / "wan.safetensors", "wan21_i2v"))


@pytest.fixture(scope="module")
def networks(wan, unets):
    made = {"wan": wan, "sdxl": unets["sdxl"]}
    return lambda name: made.get(name) or small_patcher(name)


def pairs_for(model, known: str) -> dict[str, torch.Tensor]:
    """A pair and an alpha for every layer of a model that the host knows by a name of this kind.

    known: a pattern of the host's own names for layers in files.
    """
    generator = torch.Generator().manual_seed(3)
    shapes = {name: tensor.shape for name, tensor in model.model.state_dict().items()}
    tensors = {}
    for name, target in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        # Of a fused weight the host names a part: (weight, (dimension, start, rows or None), ...).
        weight, where = (target, None) if isinstance(target, str) else target[:2]
        if not re.search(known, name) or len(shapes.get(weight, ())) != 2:
            continue
        outputs = shapes[weight][0] if where is None else where[2]
        down = torch.randn(RANK, shapes[weight][1], generator=generator)
        up = torch.randn(outputs, RANK, generator=generator)
        tensors |= {
            f"{name}.lora_down.weight": down,
            f"{name}.lora_up.weight": up,
            f"{name}.alpha": torch.tensor(2.0),
        }
    assert tensors
    return tensors


def changes(model, tensors):
    """(what the host adds to each weight, Coverage) for a LoRA file's tensors."""
    patched, coverage = attach_lora(model, repair(tensors, {}).tensors, 1.0)
    found = {
        target: [(patch[1].weights[:3], patch[3]) for patch in patches]
        for target, patches in patched.patches.items()
    }
    return found, coverage


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for target, patches in expected.items():
        for ((up, down, alpha), where), ((other_up, other_down, other_alpha), other_where) in zip(
            patches, found[target], strict=True
        ):
            assert torch.equal(up, other_up) and torch.equal(down, other_down)
            assert (alpha, where) == (other_alpha, other_where)


def kohya(name: str) -> str:
    return name.removeprefix("diffusion_model.").replace(".", "_")


WAN_IN_DIFFUSERS = (
    ("self_attn.o", "attn1.to_out.0"),
    ("self_attn.", "attn1.to_"),
    ("cross_attn.o", "attn2.to_out.0"),
    ("cross_attn.k_img", "attn2.add_k_proj"),
    ("cross_attn.v_img", "attn2.add_v_proj"),
    ("cross_attn.", "attn2.to_"),
    ("ffn.0", "ffn.net.0.proj"),
    ("ffn.2", "ffn.net.2"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    ("img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"),
    ("head.head", "proj_out"),
)


def in_diffusers(name: str) -> str:
    """diffusers' name of a layer of Wan."""
    name = name.removeprefix("diffusion_model.")
    own, other = next(pair for pair in WAN_IN_DIFFUSERS if pair[0] in name)
    return name.replace(own, other)


OWN = r"^diffusion_model\."
FLUX_IN_DIFFUSERS = r"^transformer\."
# network, the host's own names, and the names that people's files have instead
NAMES = {
    "kohya's prefix before dots": (
        "wan",
        r"^diffusion_model\.blocks\.",
        lambda name: name.replace("diffusion_model.blocks.", "lora_unet_blocks_"),
    ),
    "diffusers' names of Wan": ("wan", OWN, lambda name: f"transformer.{in_diffusers(name)}"),
    "PEFT and diffusers' names of Wan": (
        "wan",
        OWN,
        lambda name: f"base_model.model.{in_diffusers(name)}",
    ),
    "kohya and diffusers' names of Wan": (
        "wan",
        OWN,
        lambda name: f"lora_transformer_{kohya(in_diffusers(name))}",
    ),
    "DiffSynth's prefix": (
        "wan",
        OWN,
        lambda name: name.replace("diffusion_model", "pipe.dit"),
    ),
    "kohya's prefix twice": ("ZImage", OWN, lambda name: f"lora_unet__{kohya(name)}"),
    "PEFT's prefix": (
        "Flux",
        FLUX_IN_DIFFUSERS,
        lambda name: name.replace("transformer.", "base_model.model.", 1),
    ),
    "kohya's with a dot too many": (
        "Flux",
        FLUX_IN_DIFFUSERS,
        lambda name: f"lora_unet_{name.removeprefix('transformer.').replace('.', '_')}_",
    ),
    "a checkpoint's prefix": ("QwenImage", OWN, lambda name: f"model.{name}"),
    "PEFT's on a UNet": (
        "sdxl",
        r"^lora_unet_(down|mid|up).*attn[12]",
        lambda name: name.replace("lora_unet_", "base_model.model."),
    ),
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_file_of_other_names_changes_the_weights_as_one_of_the_hosts_names(networks, kind):
    network, known, name_of = NAMES[kind]
    model = networks(network)
    tensors = pairs_for(model, known)
    ours = {}
    for key, tensor in tensors.items():
        layer, ending = re.split(r"\.(?=lora_|alpha)", key)
        ours[f"{name_of(layer)}.{ending}"] = tensor
    assert ours.keys().isdisjoint(tensors)
    expected, whole = changes(model, tensors)
    found, coverage = changes(model, ours)
    assert_same(found, expected)
    assert not coverage.lost and coverage.applied == whole.applied > 0


@pytest.mark.parametrize(
    "endings",
    [
        ("lora_A", "lora_B"),
        ("lora_A.my_adapter.weight", "lora_B.my_adapter.weight"),
        ("lora_A.default.weight", "lora_B.default.weight"),
    ],
    ids=lambda endings: endings[0],
)
def test_other_endings_of_a_pair_change_the_weights_as_the_usual_ones(models, wan, endings):
    tensors = pairs_for(wan, r"^diffusion_model\.blocks\.")
    for usual, ending in zip(("lora_down.weight", "lora_up.weight"), endings):
        tensors = {key.replace(usual, ending): tensor for key, tensor in tensors.items()}
    assert sum(key.endswith(endings) for key in tensors) > 20
    found, coverage = changes(wan, tensors)
    assert_same(found, changes(wan, pairs_for(wan, r"^diffusion_model\.blocks\."))[0])
    assert not coverage.lost
    save_file(tensors, models / "loras" / "endings.safetensors")
    id = "wan21-i2v-lightx2v-4step"
    _, report = accelerator.attach_accelerator(wan, "endings.safetensors", id, 1.0)
    assert report.data["layers_lost"] == 0 and f"rank {RANK}" in report.markdown


def test_what_was_renamed_is_told(models):
    model = small_patcher("Flux")
    tensors = {
        re.sub(r"^transformer\.", "base_model.model.", key): tensor
        for key, tensor in pairs_for(model, r"^transformer\..*attn\.to_[qkv]$").items()
    }
    save_file(tensors, models / "loras" / "hyper.safetensors")
    _, report = accelerator.attach_accelerator(
        model, "hyper.safetensors", "hyper-flux-8step-lora", 1.0
    )
    assert report.data["layers_lost"] == 0
    (told,) = [note for note in report.notes if "renamed for ComfyUI" in note]
    assert re.fullmatch(
        r"\d+ layers renamed for ComfyUI, such as base_model\.model\.\S+ to \S+\.", told
    )


def test_two_layers_that_are_one_but_for_their_prefix_are_left_as_they_are():
    model = small_patcher("QwenImage")
    tensors = pairs_for(model, r"^diffusion_model\..*to_q$")
    doubled = {
        f"{prefix}{key}": tensor
        for key, tensor in tensors.items()
        for prefix in ("module.", "dit.")
    }
    found, coverage = changes(model, doubled)
    assert not found and not coverage.renamed
    assert coverage.lost == tuple(
        sorted(f"{p}diffusion_model.transformer_blocks.0.attn.to_q" for p in ("module.", "dit."))
    )
    # Beside the model's own name, it is one written twice too.
    twice = {**tensors, **{f"module.{key}": tensor for key, tensor in tensors.items()}}
    found, coverage = changes(model, twice)
    assert len(found) == 1 and not coverage.renamed and len(coverage.lost) == 1


@pytest.mark.parametrize(
    ("network", "id", "layer", "words"),
    [
        (
            "HunyuanVideo15",
            "hunyuan15-lightx2v-lora",
            "transformer.transformer_blocks.0.attn.to_q",
            "These are diffusers' names, which ComfyUI does not apply to this model. The model's"
            " own are called diffusion_model.double_blocks.0.",
        ),
        (
            "ZImage",
            "z-image-fun-distill-8step-lora",
            "diffusion_model.layers.0.strange.to_q",
            "Choose the file made for this model, or its version for ComfyUI.",
        ),
    ],
)
def test_names_that_cannot_be_renamed_are_told_and_no_cause_is_guessed(
    models, network, id, layer, words
):
    tensors = {
        f"{layer}.lora_down.weight": torch.ones(4, 256),
        f"{layer}.lora_up.weight": torch.ones(256, 4),
    }
    save_file(tensors, models / "loras" / "names.safetensors")
    with pytest.raises(ValueError) as refusal:
        accelerator.attach_accelerator(small_patcher(network), "names.safetensors", id, 1.0)
    message = str(refusal.value)
    assert f"its 1 layer is not in this model under a name that ComfyUI knows, such as {layer}" in (
        message
    )
    assert words in message
    assert "size or variant" not in message
