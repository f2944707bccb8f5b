"""More of the host's architectures, small and built in this process: those whose accelerators need
a schedule of their own.

Import this only where ComfyUI is importable (enter_host.py).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.nested_tensor
import comfy.supported_models
import pytest
import torch
from comfy.ldm.chroma_radiance.model import ChromaRadianceParams

from small_models import FLUX_SMALL, RandomWeights, shapes_of, unet_config

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


# ---------------------------------------------------------------- the other classes of the table
#
# Accelerators can be declared for these; few or none are published. Of what they have in common:
WAN = {
    "image_model": "wan2.1",
    "dim": 256,
    "ffn_dim": 256,
    "num_heads": 2,
    "num_layers": 1,
    "text_dim": 64,
    "freq_dim": 64,
    "out_dim": 16,
    "in_dim": 16,
}
HUNYUAN = {
    "image_model": "hunyuan_video",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "vec_in_dim": 768,
    "context_in_dim": 64,
    "hidden_size": 256,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 256,
    "qkv_bias": True,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
COSMOS = {
    "image_model": "cosmos",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 256,
    "block_config": "FA-CA-MLP",
    "concat_padding_mask": True,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": False,
    "pos_emb_interpolation": "crop",
    "block_x_format": "THWBD",
    "affline_emb_norm": True,
    "use_adaln_lora": True,
    "adaln_lora_dim": 32,
    "num_blocks": 1,
    "num_heads": 2,
    "extra_per_block_abs_pos_emb": True,
    "rope_h_extrapolation_ratio": 1.0,
    "rope_w_extrapolation_ratio": 1.0,
    "rope_t_extrapolation_ratio": 2.0,
    "extra_per_block_abs_pos_emb_type": "learnable",
    "crossattn_emb_channels": 64,
}
PREDICT2 = {
    "image_model": "cosmos_predict2",
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
    "adaln_lora_dim": 32,
    "num_blocks": 1,
    "num_heads": 2,
    "extra_per_block_abs_pos_emb": False,
    "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0,
    "rope_enable_fps_modulation": False,
}
COGVIDEOX = {
    "image_model": "cogvideox",
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "time_embed_dim": 64,
    "num_layers": 1,
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "text_embed_dim": 64,
    "use_rotary_positional_embeddings": True,
    "use_learned_positional_embeddings": False,
}
# The host's class -> its network's settings, as in SMALL.
KIN: dict[str, dict[str, Any]] = {
    "SD15_instructpix2pix": {**unet_config("sd15"), "in_channels": 8},
    "SDXL_instructpix2pix": {**unet_config("sdxl"), "in_channels": 8},
    "Segmind_Vega": {
        **unet_config("ssd1b"),
        "transformer_depth": [0, 0, 1, 1, 2, 2],
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    },
    "KOALA_700M": {
        **unet_config("ssd1b"),
        "num_res_blocks": [1, 1, 1],
        "transformer_depth": [0, 2, 5],
        "transformer_depth_middle": -2,
        "transformer_depth_output": [0, 0, 2, 2, 5, 5],
    },
    "KOALA_1B": {
        **unet_config("ssd1b"),
        "num_res_blocks": [1, 1, 1],
        "transformer_depth": [0, 2, 6],
        "transformer_depth_middle": 6,
        "transformer_depth_output": [0, 0, 2, 2, 6, 6],
    },
    # Not in the table: Stable Diffusion's network with a text of another width.
    "SDXLRefiner": {
        **unet_config("sdxl"),
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "context_dim": 1280,
        "adm_in_channels": 2560,
        "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
        "transformer_depth_middle": 4,
        "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
    },
    "FluxInpaint": {**SMALL["Flux"], "in_channels": 96},
    "ChromaRadiance": {
        **SMALL["Chroma"],
        "in_channels": 3,
        "out_channels": 3,
        "patch_size": 16,
        "image_model": "chroma_radiance",
        "nerf_hidden_size": 16,
        "nerf_mlp_ratio": 2,
        "nerf_depth": 1,
        "nerf_max_freqs": 2,
        "nerf_tile_size": 32,
        "nerf_final_head_type": "conv",
        "nerf_embedder_dtype": None,
        "use_x0": False,
        "use_sequential_txt_ids": False,
    },
    "HunyuanVideoI2V": {**HUNYUAN, "in_channels": 33},
    "HunyuanVideoSkyreelsI2V": {**HUNYUAN, "in_channels": 32},
    "HunyuanImage21": {
        **HUNYUAN,
        "in_channels": 64,
        "out_channels": 64,
        "patch_size": [1, 1],
        "vec_in_dim": None,
        "axes_dim": [64, 64],
        "guidance_embed": False,
        "byt5": True,
    },
    "HunyuanImage21Refiner": {
        **HUNYUAN,
        "in_channels": 128,
        "out_channels": 64,
        "patch_size": [1, 1, 1],
        "vec_in_dim": None,
        "guidance_embed": False,
    },
    "CosmosT2V": {
        **COSMOS,
    },
    "CosmosI2V": {**COSMOS, "in_channels": 17},
    "CosmosT2IPredict2": {
        **PREDICT2,
    },
    "CosmosI2VPredict2": {**PREDICT2, "in_channels": 17},
    "Lumina2": {
        "image_model": "lumina2",
        "patch_size": 2,
        "in_channels": 16,
        "dim": 192,
        "cap_feat_dim": 64,
        "n_layers": 1,
        "qk_norm": True,
        "n_heads": 2,
        "n_kv_heads": 1,
        "axes_dims": [32, 32, 32],
        "axes_lens": [300, 512, 512],
        "rope_theta": 10000.0,
        "ffn_dim_multiplier": 4.0,
    },
    "ZImagePixelSpace": {
        **SMALL["ZImage"],
        "image_model": "zimage_pixel",
        "patch_size": 16,
        "in_channels": 3,
        "decoder_hidden_size": 32,
        "decoder_num_res_blocks": 1,
        "decoder_max_freqs": 2,
        "decoder_in_channels": 768,
    },
    "PixelDiTT2I": {
        "image_model": "pixeldit_t2i",
        "num_groups": 2,
        "hidden_size": 128,
        "pixel_hidden_size": 16,
        "pixel_attn_hidden_size": 128,
        "pixel_num_groups": 2,
        "patch_depth": 1,
        "pixel_depth": 1,
        "txt_embed_dim": 64,
    },
    "GenmoMochi": {
        "image_model": "mochi_preview",
        "patch_size": 2,
        "in_channels": 12,
        "hidden_size_x": 192,
        "hidden_size_y": 128,
        "depth": 2,
        "num_heads": 2,
        "mlp_ratio_x": 64.0,
        "mlp_ratio_y": 2.0,
        "learn_sigma": False,
        "timestep_scale": 1000.0,
        "t5_feat_dim": 64,
        "t5_token_length": 256,
        "rope_theta": 10000.0,
        "qk_norm": True,
        "qkv_bias": False,
        "out_bias": True,
        "attn_drop": 0.0,
        "use_t5": True,
        "patch_embed_bias": True,
        "timestep_mlp_bias": True,
        "attend_to_padding": False,
        "use_extended_posenc": False,
        "posenc_preserve_area": True,
    },
    "HunyuanVideo": HUNYUAN,
    "WAN21_T2V": {**WAN, "model_type": "t2v"},
    "WAN21_I2V": {**WAN, "model_type": "i2v", "in_dim": 36},
    "WAN21_FunControl2V": {**WAN, "in_dim": 48, "model_type": "i2v"},
    "WAN21_Camera": {**WAN, "in_dim": 32, "model_type": "camera"},
    "WAN22_S2V": {**WAN, "model_type": "s2v"},
    "WAN22_Animate": {**WAN, "in_dim": 36, "model_type": "animate"},
    "WAN21_SCAIL": {**WAN, "in_dim": 20, "model_type": "scail"},
    "WAN21_FlowRVS": {**WAN, "model_type": "flow_rvs"},
    "WAN22_WanDancer": {**WAN, "in_dim": 36, "model_type": "wandancer"},
    "Omnigen2": {
        "image_model": "omnigen2",
        "axes_dim_rope": [40, 40, 40],
        "axes_lens": [1024, 1664, 1664],
        "hidden_size": 120,
        "in_channels": 16,
        "num_attention_heads": 1,
        "num_kv_heads": 1,
        "num_layers": 1,
        "num_refiner_layers": 1,
        "patch_size": 2,
        "text_feat_dim": 64,
        "timestep_scale": 1000.0,
        "multiple_of": 64,
    },
    "JoyImage": {
        "image_model": "joyimage",
        "in_channels": 16,
        "hidden_size": 256,
        "num_attention_heads": 2,
        "text_dim": 64,
        "num_layers": 1,
    },
    "Kandinsky5Image": {
        **SMALL["Kandinsky5"],
        "visual_embed_dim": 64,
        "rope_scale_factor": (1.0, 1.0, 1.0),
    },
    "ACEStep": {
        "audio_model": "ace",
        "attention_head_dim": 64,
        "in_channels": 8,
        "inner_dim": 128,
        "max_height": 16,
        "max_position": 32768,
        "max_width": 32768,
        "mlp_ratio": 2.5,
        "num_attention_heads": 2,
        "num_layers": 1,
        "out_channels": 8,
        "patch_size": [16, 1],
        "rope_theta": 1000000.0,
        "speaker_embedding_dim": 512,
        "text_embedding_dim": 64,
        "ssl_encoder_depths": [8, 8],
        "ssl_names": ["mert", "m-hubert"],
        "ssl_latent_dims": [1024, 768],
        "lyric_encoder_vocab_size": 100,
        "lyric_hidden_size": 128,
    },
    "SeedVR2": {
        "image_model": "seedvr2",
        "vid_dim": 256,
        "heads": 2,
        "num_layers": 2,
        "norm_eps": 1e-05,
        "mlp_type": "swiglu",
        "vid_out_norm": True,
        "txt_in_dim": 64,
        "mm_layers": 1,
        "head_dim": 128,
    },
    "StableAudio3": {
        "audio_model": "dit1.0",
        "global_cond_shared_embed": True,
        "io_channels": 256,
        "embed_dim": 768,
        "cond_token_dim": 768,  # of the host's own conditioner
        "project_cond_tokens": False,
        "global_cond_dim": 768,
        "project_global_cond": True,
        "depth": 1,
        "num_heads": 12,
        "global_cond_type": "adaLN",
        "timestep_features_type": "learned",
    },
    "AuraFlow": {
        "cond_seq_dim": 64,
        "max_seq": 256,
        "n_double_layers": 1,
        "n_layers": 2,
        "n_heads": 2,
        "dim": 128,
    },
    "CogVideoX_T2V": {
        **COGVIDEOX,
    },
    "CogVideoX_I2V": {**COGVIDEOX, "in_channels": 32},
    "CogVideoX_Inpaint": {**COGVIDEOX, "in_channels": 48},
    "WAN_Animate2": {**WAN, "in_dim": 36, "model_type": "animate2"},
}


def small_model(name: str, device: torch.device | None = None) -> comfy.model_base.BaseModel:
    """The host's model of one of its classes above, as it comes without a file. device: meta makes
    no weights.
    """
    settings = {**SMALL, **KIN}[name]
    if name == "ChromaRadiance":
        known = {field.name for field in dataclasses.fields(ChromaRadianceParams)}
        unknown = {"use_x0", "use_sequential_txt_ids"} - known  # to an older ComfyUI
        settings = {key: value for key, value in settings.items() if key not in unknown}
    config = getattr(comfy.supported_models, name)(dict(settings))
    config.unet_config.update(settings)  # some classes put the published sizes in
    config.set_inference_dtype(torch.float32, None)
    return config.get_model(file_parts(name), "", device=device)


def file_parts(name: str) -> dict[str, torch.Tensor]:
    """What the host takes from a model's file before it makes the network."""
    if name != "StableAudio3":
        return {}
    from comfy.ldm.audio.embedders import NumberConditioner

    conditioner = NumberConditioner(768, min_val=0, max_val=384, fourier_features_type="learned")
    prefix = "conditioner.conditioners.seconds_total."
    return {
        prefix + key: torch.zeros_like(value) for key, value in conditioner.state_dict().items()
    }


def small_patcher(name: str, seed: int = 0) -> comfy.model_patcher.ModelPatcher:
    """A MODEL of one of the host's classes above, with random weights. Skips the test on a ComfyUI
    that is older than the class.
    """
    if not hasattr(comfy.supported_models, name):
        pytest.skip(f"this ComfyUI has no {name}")
    model = small_model(name)
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
    # them; Krea-2 two layers of its text encoder.
    width = {"LTXAV": 128, "Krea2": 128, "LongCatImage": 3584, "StableAudio3": 768}.get(name, 64)
    options = {"pooled_output": torch.randn(1, 768, generator=generator), "attention_mask": None}
    return [[torch.randn(1, 8, width, generator=generator), options]]
