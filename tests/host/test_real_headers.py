"""Headers of published files on the host's architectures at their real size: every layer finds its
weight, and what is left out is what the model has no place for.

Models and tensors are on torch's meta device: names and shapes, no numbers and no memory.
"""

from __future__ import annotations

from typing import Any

import comfy.model_patcher
import comfy.supported_models
import pytest
import torch
from comfyui_fewstep.loras.fingerprint import layer_of
from comfyui_fewstep.loras.repair import repair
from comfyui_fewstep.nodes.host.attach import attach_lora
from real_headers import REAL_HEADERS

from more_models import HUNYUAN as SMALL_HUNYUAN
from more_models import SMALL
from small_models import FULL_WIDTH, WANS, unet_config

# Every architecture as the authors have it: the host's class, and its network's settings.
WAN = {
    "image_model": "wan2.1",
    "out_dim": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "patch_size": (1, 2, 2),
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
}
WAN_14B = {**WAN, "dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40}
WAN_1_3B = {**WAN, "dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30}
WAN_5B = {**WAN, "dim": 3072, "ffn_dim": 14336, "num_heads": 24, "num_layers": 30, "out_dim": 48}
FLUX = {
    **SMALL["Flux"],
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "num_heads": 24,
    "depth": 19,
    "depth_single_blocks": 38,
}
QWEN = {"num_layers": 60, "num_attention_heads": 24, "joint_attention_dim": 3584}
LTX = {
    "image_model": "ltxav",
    "cross_attention_dim": 4096,
    "attention_head_dim": 128,
    "num_layers": 48,
}
LTX_23 = {
    "apply_gated_attention": True,
    "cross_attention_adaln": True,
    "caption_proj_before_connector": True,
}
SD3 = {
    "in_channels": 16,
    "patch_size": 2,
    "pos_embed_scaling_factor": None,
    "pos_embed_offset": None,
    "pos_embed_max_size": 192,
    "input_size": None,
    "adm_in_channels": 2048,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 4096, "out_features": 1536},
    },
    "num_patches": 36864,
    "depth": 24,
    "dtype": torch.bfloat16,
}
HUNYUAN = {
    **SMALL_HUNYUAN,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "num_heads": 24,
    "depth": 20,
    "depth_single_blocks": 40,
}
Z_IMAGE = {"dim": 3840, "cap_feat_dim": 2560, "n_layers": 30, "n_heads": 30, "n_kv_heads": 30}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "sd15": ("SD15", unet_config("sd15", FULL_WIDTH)),
    "sdxl": ("SDXL", unet_config("sdxl", FULL_WIDTH)),
    "ssd1b": ("SSD1B", unet_config("ssd1b", FULL_WIDTH)),
    "sd3": ("SD3", SD3),
    "flux": ("Flux", FLUX),
    "qwen-image": ("QwenImage", {**SMALL["QwenImage"], **QWEN}),
    "wan 2.1 t2v 14b": ("WAN21_T2V", {**WAN_14B, **WANS["wan21_t2v"]}),
    "wan 2.1 t2v 1.3b": ("WAN21_T2V", {**WAN_1_3B, **WANS["wan21_t2v"]}),
    "wan 2.1 i2v": ("WAN21_I2V", {**WAN_14B, **WANS["wan21_i2v"]}),
    "wan 2.2 i2v": ("WAN21_T2V", {**WAN_14B, **WANS["wan22_i2v"]}),
    "wan 2.2 5b": ("WAN22_T2V", {**WAN_5B, "model_type": "t2v", "in_dim": 48}),
    "hunyuan-video": ("HunyuanVideo", HUNYUAN),
    "z-image": ("ZImage", {**SMALL["ZImage"], **Z_IMAGE}),
    "ltx-2": ("LTXAV", LTX),
    "ltx-2.3": ("LTXAV", {**LTX, **LTX_23}),
}


def patcher(name: str) -> comfy.model_patcher.ModelPatcher:
    """A MODEL of names and shapes alone. Skips the test on a ComfyUI older than its class."""
    kind, settings = MODELS[name]
    if not hasattr(comfy.supported_models, kind):
        pytest.skip(f"this ComfyUI has no {kind}")
    config = getattr(comfy.supported_models, kind)(dict(settings))
    config.set_inference_dtype(torch.bfloat16, None)
    meta = torch.device("meta")
    with meta:
        model = config.get_model({}, "", device=meta)
    return comfy.model_patcher.ModelPatcher(model, load_device=meta, offload_device=meta)


@pytest.fixture(scope="module")
def full_size():
    """Name -> MODEL, each made once."""
    made = {}

    def model(name: str) -> comfy.model_patcher.ModelPatcher:
        if name not in made:
            made[name] = patcher(name)
        return made[name]

    return model


def tensors_of(name: str) -> dict[str, torch.Tensor]:
    """Names and shapes alone, but for the alphas, which the host reads."""
    return {
        key: torch.empty(shape, device="meta", dtype=torch.bfloat16) if shape else torch.tensor(8.0)
        for key, shape in REAL_HEADERS[name].shapes.items()
    }


# Of Wan 2.1's LoRA on a model that has no image branch: keys, values and a norm for each of 40
# blocks, and the embedding's two layers and two norms.
IMAGE_BRANCH = 3 * 40 + 4


@pytest.mark.parametrize(
    ("header", "model", "not_needed"),
    [
        ("lcm-sd15", "sd15", 0),
        ("pcm-sd15", "sd15", 0),
        ("hyper-sd15", "sd15", 0),
        ("lcm-sdxl", "sdxl", 0),
        ("sdxl-lightning", "sdxl", 0),
        ("hyper-sdxl", "sdxl", 0),
        ("lcm-ssd-1b", "ssd1b", 0),
        ("hyper-sd3", "sd3", 0),
        ("hyper-flux", "flux", 0),
        ("flux-turbo-alpha", "flux", 0),
        ("qwen-lightning", "qwen-image", 0),
        ("lightx2v-t2v", "wan 2.1 t2v 14b", 0),
        ("lightx2v-i2v", "wan 2.1 i2v", 0),
        ("lightx2v-i2v-first-upload", "wan 2.1 i2v", 0),
        ("lightx2v-i2v", "wan 2.2 i2v", IMAGE_BRANCH),
        ("lightx2v-wan22-i2v-high-1022", "wan 2.2 i2v", 0),
        ("kijai-t2v-v2-rank64", "wan 2.1 t2v 14b", 0),
        ("kijai-i2v-rank64", "wan 2.1 i2v", 0),
        ("kijai-t2v-rank32-and-fusionx", "wan 2.1 t2v 14b", 0),
        ("causvid-1.3b", "wan 2.1 t2v 1.3b", 0),
        ("fastwan-5b", "wan 2.2 5b", 0),
        ("wan22-lightning-comfy-org", "wan 2.1 t2v 14b", 0),
        ("wan22-lightning-kijai", "wan 2.2 i2v", 0),
        ("hunyuan-fast", "hunyuan-video", 0),
        ("ltx-2.3", "ltx-2.3", 0),
        ("ltx-2", "ltx-2", 1),  # the text encoder's projection,
    ],
)
def test_every_layer_of_a_published_file_finds_its_weight(full_size, header, model, not_needed):
    repaired = repair(tensors_of(header), REAL_HEADERS[header].metadata)
    _, coverage = attach_lora(full_size(model), repaired.tensors, 1.0)
    assert coverage.lost == () and coverage.misfit == ()
    assert len(coverage.not_needed) == not_needed
    assert coverage.applied == len({layer_of(key) for key in repaired.tensors}) - not_needed


@pytest.mark.parametrize("prefix", ["diffusion_model.", "transformer."])
def test_no_block_of_z_image_is_lost_its_refiners_neither(full_size, prefix):
    """In diffusers' names, as trainers have them; no published accelerator's header is known."""
    model = full_size("z-image")
    weights = {
        name.removesuffix(".weight"): tuple(weight.shape)
        for name, weight in model.model.diffusion_model.named_parameters()
        if name.endswith(".weight") and weight.dim() == 2 and ".attention." in name
    }
    assert {name.partition(".")[0] for name in weights} == {
        "layers",
        "context_refiner",
        "noise_refiner",
    }
    tensors = {}
    for name, (outputs, inputs) in weights.items():
        is_fused = name.endswith("qkv")
        parts = ("to_q", "to_k", "to_v") if is_fused else ("to_out.0",)
        for part in parts:
            layer = f"{prefix}{name.rpartition('.')[0]}.{part}"
            rows = outputs // len(parts)
            tensors[f"{layer}.lora_A.weight"] = torch.empty(16, inputs, device="meta")
            tensors[f"{layer}.lora_B.weight"] = torch.empty(rows, 16, device="meta")
    _, coverage = attach_lora(model, repair(tensors, {}).tensors, 1.0)
    assert coverage.lost == () and coverage.misfit == () and coverage.not_needed == ()
    assert coverage.applied == len(tensors) // 2
