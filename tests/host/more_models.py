"""More of the host's architectures, small and built in this process: those whose accelerators need
a schedule of their own.

Import this only where ComfyUI is importable (enter_host.py).
"""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.nested_tensor
import comfy.supported_models
import pytest
import torch

from small_models import FLUX_SMALL, RandomWeights, shapes_of

# The host's class -> its network's settings, as the host's detection writes them down, at small
# size.
SMALL: dict[str, dict[str, Any]] = {
    "Flux": {
        **FLUX_SMALL,
        "image_model": "flux",
        "context_in_dim": 64,
        "depth": 1,
        "depth_single_blocks": 1,
    },
    "Flux2": {
        "image_model": "flux2",
        "in_channels": 128,
        "out_channels": 128,
        "vec_in_dim": None,
        "context_in_dim": 64,
        "hidden_size": 256,
        "mlp_ratio": 3.0,
        "num_heads": 2,
        "depth": 1,
        "depth_single_blocks": 1,
        "axes_dim": [32, 32, 32, 32],
        "theta": 2000,
        "patch_size": 1,
        "qkv_bias": False,
        "guidance_embed": False,
        "txt_ids_dims": [3],
        "global_modulation": True,
        "mlp_silu_act": True,
        "ops_bias": False,
        "default_ref_method": "index",
        "ref_index_scale": 10.0,
    },
    "QwenImage": {
        "image_model": "qwen_image",
        "in_channels": 64,
        "num_layers": 1,
        "attention_head_dim": 128,
        "num_attention_heads": 2,
        "joint_attention_dim": 64,
    },
    "LTXAV": {
        "image_model": "ltxav",
        "in_channels": 128,
        "audio_in_channels": 128,
        "cross_attention_dim": 128,
        "attention_head_dim": 64,
        "num_attention_heads": 2,
        "audio_cross_attention_dim": 64,
        "audio_attention_head_dim": 32,
        "audio_num_attention_heads": 2,
        "caption_channels": 64,
        # Of the text's width, as the releases have it; the host's default is 3840 and 2.8 GB.
        "connector_attention_head_dim": 32,
        "connector_num_attention_heads": 2,
        "num_layers": 1,
    },
    "MiniMaxH3": {
        "image_model": "minimax_h3",
        "hidden_size": 128,
        "num_layers": 1,
        "token_refiner_num_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 64,
        "ffn_hidden_size": 128,
        "latents_dim": 24,
        "audio_latents_dim": 32,
        "text_dim": 64,
        "time_embed_hidden_size": 64,
        "time_embed_dim": 32,
        "rope_inv_freq_len": 8,
    },
    "ZImage": {
        "image_model": "lumina2",
        "patch_size": 2,
        "in_channels": 16,
        "dim": 256,
        "cap_feat_dim": 64,
        "n_layers": 1,
        "qk_norm": True,
        "n_heads": 2,
        "n_kv_heads": 2,
        "axes_dims": [32, 48, 48],
        "axes_lens": [1536, 512, 512],
        "rope_theta": 256.0,
        "ffn_dim_multiplier": 8 / 3,
        "z_image_modulation": True,
        "time_scale": 1000.0,
        "pad_tokens_multiple": 32,
    },
    "HunyuanVideo15": {
        "image_model": "hunyuan_video",
        "in_channels": 65,
        "out_channels": 32,
        "patch_size": [1, 1, 1],
        "vec_in_dim": None,
        "context_in_dim": 64,
        "hidden_size": 256,
        "mlp_ratio": 4.0,
        "num_heads": 2,
        "depth": 1,
        "depth_single_blocks": 0,
        "axes_dim": [16, 56, 56],
        "theta": 256,
        "qkv_bias": True,
        "guidance_embed": False,
        "byt5": True,
        "meanflow": False,
        "use_cond_type_embedding": True,
        "vision_in_dim": 1152,
        "meanflow_sum": True,
    },
    "Ideogram4": {
        "image_model": "ideogram4",
        "in_channels": 128,
        "num_layers": 1,
        "num_attention_heads": 1,
        "attention_head_dim": 256,  # its rotary sections are for this
        "intermediate_size": 256,
        "adaln_dim": 64,
        "llm_features_dim": 64,
    },
    "Kandinsky5": {
        "image_model": "kandinsky5",
        "model_dim": 128,
        "ff_dim": 128,
        "visual_embed_dim": 132,
        "in_text_dim": 64,
        "time_dim": 64,
        "num_text_blocks": 1,
        "num_visual_blocks": 1,
        "axes_dims": (16, 24, 24),
    },
    "Anima": {
        "image_model": "anima",
        "max_img_h": 240,
        "max_img_w": 240,
        "max_frames": 128,
        "in_channels": 16,
        "out_channels": 16,
        "patch_spatial": 2,
        "patch_temporal": 1,
        "model_channels": 256,
        "concat_padding_mask": True,
        "crossattn_emb_channels": 64,
        "pos_emb_cls": "rope3d",
        "pos_emb_learnable": True,
        "pos_emb_interpolation": "crop",
        "min_fps": 1,
        "max_fps": 30,
        "use_adaln_lora": True,
        "adaln_lora_dim": 16,
        "num_blocks": 1,
        "num_heads": 2,
        "extra_per_block_abs_pos_emb": False,
        "extra_h_extrapolation_ratio": 1.0,
        "extra_w_extrapolation_ratio": 1.0,
        "extra_t_extrapolation_ratio": 1.0,
        "rope_enable_fps_modulation": False,
        "rope_h_extrapolation_ratio": 4.0,
        "rope_w_extrapolation_ratio": 4.0,
        "rope_t_extrapolation_ratio": 1.0,
    },
    "Krea2": {
        "image_model": "krea2",
        "features": 256,
        "channels": 16,
        "patch": 2,
        "layers": 1,
        "heads": 2,
        "kvheads": 1,
        "txtlayers": 2,
        "txtdim": 64,
        "txtheads": 2,
        "txtkvheads": 2,
    },
}
SMALL["LongCatImage"] = {
    **SMALL["Flux"],
    "vec_in_dim": None,
    "context_in_dim": 3584,  # what the host knows it by
    "guidance_embed": False,
    "txt_ids_dims": [1, 2],
}
SMALL["Chroma"] = {
    **{name: value for name, value in SMALL["Flux"].items() if name != "guidance_embed"},
    "image_model": "chroma",
    "in_channels": 64,
    "out_channels": 64,
    "in_dim": 64,
    "out_dim": 256,
    "hidden_dim": 128,
    "n_layers": 1,
}
SMALL["FluxSchnell"] = {**SMALL["Flux"], "guidance_embed": False}


def small_patcher(name: str, seed: int = 0) -> comfy.model_patcher.ModelPatcher:
    """A MODEL of one of the host's classes above, with random weights. Skips the test on a ComfyUI
    that is older than the class.
    """
    if not hasattr(comfy.supported_models, name):
        pytest.skip(f"this ComfyUI has no {name}")
    config = getattr(comfy.supported_models, name)(dict(SMALL[name]))
    config.unet_config |= SMALL[name]  # the sizes that a class writes down itself
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    network = model.diffusion_model
    network.load_state_dict(RandomWeights(seed).fill(shapes_of(network)))
    return comfy.model_patcher.ModelPatcher(
        model, comfy.model_management.get_torch_device(), torch.device("cpu")
    )


def audio_video_latent(name: str, batch: int = 1) -> comfy.nested_tensor.NestedTensor:
    """An empty joint latent of the two audio-video models: (video, sound)."""
    shapes = {"LTXAV": ((128, 2, 4, 4), (8, 5, 16)), "MiniMaxH3": ((24, 2, 4, 4), (32, 2, 5))}[name]
    return comfy.nested_tensor.NestedTensor([torch.zeros(batch, *shape) for shape in shapes])


def text_conditioning(name: str, seed: int = 0) -> list[list[Any]]:
    """Random text of the small width these models take."""
    generator = torch.Generator().manual_seed(seed)
    # LTX-2 takes a text for each of its two signals, side by side, where its connector has prepared
    # them.
    width = 128 if name == "LTXAV" else 64
    options = {"pooled_output": torch.randn(1, 768, generator=generator), "attention_mask": None}
    return [[torch.randn(1, 8, width, generator=generator), options]]
