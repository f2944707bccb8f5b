"""Stand-ins for the node packs that people use beside this one: each puts on a MODEL what such a
node puts there, by the same official or customary means, and changes the picture by it. They were
written for these tests; none of those packs' code is in them.

Every stand-in takes (MODEL, list) and gives a patched clone; the list grows by one each time it is
at work.
"""

from __future__ import annotations

from collections.abc import Callable

import comfy.hooks
import comfy.lora
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import torch
from comfy.patcher_extension import CallbacksMP, PatcherInjection, WrappersMP
from safetensors.torch import load_file
from torch import Tensor, nn

StandIn = Callable[..., comfy.model_patcher.ModelPatcher]


def function_wrapper(model, seen: list):
    """TeaCache nodes, ControlNet packs, WanVideoWrapper's helpers: the one model_function_wrapper,
    calling the one found there.
    """
    patched = model.clone()
    earlier = patched.model_options.get("model_function_wrapper")

    def wrapper(apply_model, args):
        seen.append(1)
        if earlier is not None:
            return 0.9 * earlier(apply_model, args)
        return 0.9 * apply_model(args["input"], args["timestep"], **args["c"])

    patched.set_model_unet_function_wrapper(wrapper)
    return patched


def replaced_attention(model, seen: list):
    """IPAdapter, SageAttention and the like: patches_replace of one block's attention."""
    patched = model.clone()

    def attention(q, k, v, options):
        seen.append(1)
        return torch.zeros_like(q)

    patched.set_model_attn2_replace(attention, "middle", 0)
    return patched


def negative_at_cfg_1(model, seen: list):
    """KJNodes' NAG: an attention patch that needs the negative prompt at CFG 1 too."""
    patched = model.clone()

    def patch(q, k, v, options):
        seen.append(1)
        return q, k, 1.1 * v

    patched.set_model_attn2_patch(patch)
    patched.disable_model_cfg1_optimization()
    return patched


def after_guidance(model, seen: list):
    """Rescale, SAG, PAG: a function that changes the guided prediction."""
    patched = model.clone()

    def change(args):
        seen.append(1)
        return 0.95 * args["denoised"]

    patched.set_model_sampler_post_cfg_function(change)
    return patched


def object_patch(model, seen: list):
    """KJNodes: another forward for one layer of the network, by its name."""
    patched, name = model.clone(), "diffusion_model.middle_block.2.forward"
    original = patched.get_model_object(name)

    def forward(*args, **kwargs):
        seen.append(1)
        return 0.9 * original(*args, **kwargs)

    patched.add_object_patch(name, forward)
    return patched


class Shift(nn.Module):
    """The smallest motion model: one number for each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, channels, 1, 1), 0.1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


def injected_layers(model, seen: list):
    """AnimateDiff-Evolved: a model of its own, injected into the UNet while it runs; wrappers,
    callbacks and an attachment.
    """
    patched, key = model.clone(), "other.animatediff"
    layer = patched.model.diffusion_model.middle_block[2]
    motion = comfy.model_patcher.ModelPatcher(Shift(128), model.load_device, model.offload_device)
    was: list = []

    def inject(patcher) -> None:
        was.append(layer.forward)
        layer.forward = lambda *args: motion.model(was[0](*args))

    def eject(patcher) -> None:
        layer.forward = was.pop()

    def outer_sample(executor, *args, **kwargs):
        seen.append(1)
        return executor(*args, **kwargs)

    patched.set_additional_models(key, [motion])
    patched.set_injections(key, [PatcherInjection(inject, eject)])
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, outer_sample)
    patched.add_callback_with_key(CallbacksMP.ON_PRE_RUN, key, lambda patcher: seen.append(1))
    patched.set_attachments(key, {"frames": 16})
    return patched


def every_wrapper(model, seen: list):
    """Newer packs: the host's own wrappers, here one of each kind around the model."""
    patched = model.clone()

    def wrapper(executor, *args, **kwargs):
        seen.append(1)
        return executor(*args, **kwargs)

    def changing(executor, *args, **kwargs):
        seen.append(1)
        return 0.9 * executor(*args, **kwargs)

    for kind in (WrappersMP.SAMPLER_SAMPLE, WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL):
        patched.add_wrapper_with_key(kind, "other.wrappers", wrapper)
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "other.wrappers", changing)
    return patched


def options_for_layers(model, seen: list):
    """WanVideoWrapper's and KJNodes' switches: entries of transformer_options that a patched layer
    reads.
    """
    patched = model.clone()
    options = patched.model_options["transformer_options"] = {
        **patched.model_options["transformer_options"],
        "other.weight": 1.1,
    }

    def read(h, options_here):
        if options_here.get("other.weight") == options["other.weight"]:
            seen.append(1)
        return h * options_here.get("other.weight", 1.0)

    patched.set_model_input_block_patch(read)
    return patched


def style_lora(tensors: dict[str, Tensor]) -> StandIn:
    """rgthree's Power Lora Loader: core's own LoRA code, in front of or behind anything else."""

    def load(model, seen: list):
        seen.append(1)
        return comfy.sd.load_lora_for_models(model, None, dict(tensors), 0.8, 0.0)[0]

    return load


STAND_INS: dict[str, StandIn] = {
    "model function wrapper": function_wrapper,
    "replaced attention": replaced_attention,
    "NAG": negative_at_cfg_1,
    "post-CFG function": after_guidance,
    "object patch": object_patch,
    "AnimateDiff-Evolved": injected_layers,
    "wrappers": every_wrapper,
    "transformer options": options_for_layers,
}


# --- weights that stay packed, as in ComfyUI-GGUF


class PackedWeight(nn.Parameter):
    """A weight in bytes. Its shape is the weight's, not that of what is stored."""

    @staticmethod
    def __new__(cls, weight: Tensor):
        scale = weight.abs().amax(1, keepdim=True) / 127
        stored = (weight / scale).round().to(torch.int8).flatten()
        packed = torch.Tensor._make_subclass(cls, stored, False)
        packed.scale, packed.real_shape, packed.waiting = scale, weight.shape, []
        return packed

    @property
    def shape(self):
        return self.real_shape

    def unpacked(self) -> Tensor:
        """The weight in float32 with the patches that wait beside it."""
        whole = self.data.as_subclass(Tensor).float().reshape(self.real_shape) * self.scale
        for patches, key in self.waiting:
            whole = comfy.lora.calculate_weight(patches, whole, key)
        return whole


class PackedOperations(comfy.ops.manual_cast):
    """Linear layers that take a packed weight as it is and unpack it each time they run."""

    class Linear(comfy.ops.manual_cast.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
            weight = state_dict.get(f"{prefix}weight")
            if not isinstance(weight, PackedWeight):
                return super()._load_from_state_dict(state_dict, prefix, *args)
            self.weight = weight
            if f"{prefix}bias" in state_dict:
                self.bias = nn.Parameter(state_dict[f"{prefix}bias"], requires_grad=False)
            return None

        def forward(self, x: Tensor) -> Tensor:
            if not isinstance(self.weight, PackedWeight):
                return super().forward(x)
            bias = None if self.bias is None else self.bias.to(x)
            return nn.functional.linear(x, self.weight.unpacked().to(x), bias)


class PackedPatcher(comfy.model_patcher.ModelPatcher):
    """Patches of packed weights are laid beside them instead of being worked into them."""

    def patch_weight_to_device(self, key, *args, **kwargs):
        weight = comfy.utils.get_attr(self.model, key)
        if not isinstance(weight, PackedWeight):
            return super().patch_weight_to_device(key, *args, **kwargs)
        weight.waiting = [(self.patches[key], key)] if key in self.patches else []
        return weight

    def unpatch_model(self, device_to=None, unpatch_weights=True) -> None:
        for weight in self.model.parameters():
            if unpatch_weights and isinstance(weight, PackedWeight):
                weight.waiting = []
        super().unpatch_model(device_to, unpatch_weights)


def load_packed(path) -> PackedPatcher:
    """A MODEL of a Wan file whose block linears are packed."""
    tensors = load_file(path)
    linears = [
        name
        for name in tensors
        if name.startswith("blocks.") and name.endswith(".weight") and tensors[name].ndim == 2
    ]
    tensors |= {name: PackedWeight(tensors[name].float()) for name in linears}
    loaded = comfy.sd.load_diffusion_model_state_dict(
        tensors, model_options={"custom_operations": PackedOperations}
    )
    return PackedPatcher(loaded.model, loaded.load_device, loaded.offload_device)
