"""The stand-ins for real weights are what the host itself takes them for, and behave."""

from __future__ import annotations

from pathlib import Path

import comfy.lora
import comfy.sample
import comfy.supported_models
import comfy.utils
import pytest
import torch

from small_loras import LAYOUTS, Target, write_lora
from small_models import (
    WANS,
    conditioning,
    load_model,
    unet_patcher,
    write_flux,
    write_wan,
    write_wan_vae,
)

DETECTED = {
    "wan21_t2v": "WAN21_T2V",
    "wan21_i2v": "WAN21_I2V",
    "wan22_i2v": "WAN21_T2V",
    "wan21_causal": "WAN21_CausalAR_T2V",
}


def sample(model, shape: tuple[int, ...], steps: int = 2) -> torch.Tensor:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    text = conditioning(model)
    return comfy.sample.sample(
        model, noise, steps, 1.0, "euler", "simple", text, text, torch.zeros(shape), seed=0
    )


@pytest.mark.parametrize(
    ("architecture", "name"), [("sd15", "SD15"), ("sdxl", "SDXL"), ("ssd1b", "SSD1B")]
)
def test_small_unet_is_the_hosts_own_architecture_and_samples(
    architecture: str, name: str, unets: dict
) -> None:
    model = unets[architecture]
    assert type(model.model.model_config).__name__ == name
    latent = sample(model, (1, 4, 16, 16))
    assert torch.isfinite(latent).all()
    assert latent.std() > 0.1


@pytest.mark.parametrize("variant", WANS)
def test_host_detects_and_loads_a_small_wan(variant: str, tmp_path: Path) -> None:
    if not hasattr(comfy.supported_models, DETECTED[variant]):
        pytest.skip(f"this ComfyUI has no {DETECTED[variant]}")
    model = load_model(write_wan(tmp_path / "model.safetensors", variant))
    assert type(model.model.model_config).__name__ == DETECTED[variant]
    assert model.model.model_config.unet_config["in_dim"] == WANS[variant]["in_dim"]
    if variant != "wan21_causal":
        assert torch.isfinite(sample(model, (1, 16, 2, 8, 8))).all()


def test_host_detects_and_loads_a_small_flux(tmp_path: Path) -> None:
    model = load_model(write_flux(tmp_path / "flux.safetensors"))
    assert type(model.model.model_config).__name__ == "Flux"
    assert torch.isfinite(sample(model, (1, 16, 8, 8))).all()


def test_host_decodes_with_the_small_wan_vae(tmp_path: Path) -> None:
    import comfy.sd

    vae = comfy.sd.VAE(
        sd=comfy.utils.load_torch_file(str(write_wan_vae(tmp_path / "vae.safetensors")))
    )
    frames = vae.decode(torch.zeros(1, 16, 2, 8, 8))
    assert frames.shape == (1, 5, 64, 64, 3)


def test_same_seed_makes_the_same_model() -> None:
    one, two, other = (unet_patcher("sd15", seed).model.state_dict() for seed in (0, 0, 1))
    name = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    assert torch.equal(one[name], two[name])
    assert not torch.equal(one[name], other[name])


# What the host's loader takes of each layout without help. It has no name for diffusers' dotted
# attention layers (it looks for "attn1.processor.to_q") nor for Wan names without their prefix.
@pytest.mark.parametrize(
    ("architecture", "layout", "taken"),
    [
        ("sd15", "kohya-diffusers", 1.0),
        ("sd15", "kohya-native", 1.0),
        ("sd15", "peft", 154 / 282),
        ("sdxl", "kohya-diffusers", 1.0),
        ("ssd1b", "kohya-diffusers", 1.0),
    ],
)
def test_lora_reaches_the_weights_it_names(
    architecture: str, layout: str, taken: float, unets: dict, tmp_path: Path
) -> None:
    model = unets[architecture].clone()
    lora = write_lora(tmp_path / "lora.safetensors", model, layout, rank=4, alpha=2.0)
    patches = host_patches(model, lora.path)
    assert len(patches) == pytest.approx(taken * len(lora.pairs))
    before = {
        key: tensor.clone() for key, tensor in model.model.state_dict().items() if key in patches
    }
    model.add_patches(patches, 0.5)
    for key in list(patches)[:: max(1, len(patches) // 20)]:
        patched = model.patch_weight_to_device(key, return_weight=True)
        expected = before[key] + lora.change(key.removeprefix("diffusion_model."), strength=0.5)
        torch.testing.assert_close(patched.cpu(), expected.cpu(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("layout", "missed"), [("native", 5), ("native-peft", 5), ("bare", 123)])
def test_wan_lora_misses_only_what_the_host_cannot_name(
    layout: str, missed: int, tmp_path: Path
) -> None:
    """Without repair: four blocks' and the head's .diff_m, and everything where the prefix is
    absent.
    """
    model = load_model(write_wan(tmp_path / "wan.safetensors"))
    lora = write_lora(tmp_path / "lora.safetensors", model, layout, differences=True)
    assert len(lora.changed) == 123
    assert len(host_patches(model, lora.path)) == len(lora.changed) - missed


def test_every_layout_can_be_written(unets: dict, tmp_path: Path) -> None:
    for layout in LAYOUTS:
        lora = write_lora(
            tmp_path / "lora.safetensors", unets["sd15"], layout, only="input_blocks.1"
        )
        assert lora.pairs, layout


def test_alpha_can_be_in_the_tensors_in_the_metadata_or_absent(unets: dict, tmp_path: Path) -> None:
    target = Target.of(unets["sd15"])
    in_tensors = write_lora(tmp_path / "a.safetensors", target, "kohya-diffusers", alpha=2.0)
    in_metadata = write_lora(
        tmp_path / "b.safetensors", target, "kohya-diffusers", alpha=2.0, alpha_in="metadata"
    )
    absent = write_lora(tmp_path / "c.safetensors", target, "kohya-diffusers")
    assert any(key.endswith(".alpha") for key in in_tensors.tensors)
    assert not any(key.endswith(".alpha") for key in {**in_metadata.tensors, **absent.tensors})
    assert in_metadata.metadata == {"lora_alpha": "2.0"}
    name = next(iter(absent.pairs))
    # alpha 2 at rank 4 is half of alpha = rank
    torch.testing.assert_close(in_tensors.change(name), absent.change(name) / 2)
    torch.testing.assert_close(in_metadata.change(name), in_tensors.change(name))


def host_patches(model, path: Path) -> dict:
    """What the host's own LoRA code makes of a file for this model."""
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    return comfy.lora.load_lora(comfy.utils.load_torch_file(str(path)), keys, log_missing=False)
