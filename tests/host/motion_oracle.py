"""diffusers' UNetMotionModel with the weights of a small ComfyUI model: the oracle of the motion
tests.
"""

from __future__ import annotations

import comfy.utils
from diffusers import UNetMotionModel
from diffusers.models import MotionAdapter

PREFIX = "diffusion_model."


def diffusers_unet(patcher, adapter: MotionAdapter) -> UNetMotionModel:
    """The same SD 1.5 UNet, weight for weight, with the adapter's motion modules in it."""
    config = patcher.model.model_config.unet_config
    widths = tuple(config["model_channels"] * multiple for multiple in config["channel_mult"])
    unet = UNetMotionModel(
        sample_size=8,
        block_out_channels=widths,
        layers_per_block=2,
        cross_attention_dim=config["context_dim"],
        norm_num_groups=32,
        num_attention_heads=config["num_heads"],
        motion_num_attention_heads=8,
        motion_max_seq_length=adapter.config["motion_max_seq_length"],
        use_motion_mid_block=adapter.config["use_motion_mid_block"],
    )
    native = {
        key.removeprefix(PREFIX): tensor
        for key, tensor in patcher.model.state_dict().items()
        if key.startswith(PREFIX)
    }
    spatial = {
        theirs: native[ours]
        for theirs, ours in comfy.utils.unet_to_diffusers(config).items()
        if ours in native
    }
    unet.load_state_dict({**spatial, **adapter.state_dict()})
    return unet.eval().requires_grad_(False)
