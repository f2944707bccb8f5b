"""A motion module on a MODEL: the host runs it after each spatial block, manages its weights, and
cuts long clips in windows.

Nothing of the UNet is changed. What the MODEL gains lies in its own options: two
forward_timestep_embed patches, one additional model whose weights the host loads and offloads, an
OUTER_SAMPLE wrapper that refuses latents the clip does not fit, and for clips longer than the
module can see the host's own context windows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.context_windows
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import (
    ResBlock,
    TimestepBlock,
    forward_timestep_embed,
)
from torch import Tensor

from ...motion.keys import renamed
from ...motion.module import Architecture, MotionModule, TemporalTransformer
from .model import MOTION_KEY, with_linear_betas

# The length of the clips AnimateDiff was trained on (sample_n_frames in its training
# configuration), and the overlap that ComfyUI's own context windows propose for it.
WINDOW_FRAMES, WINDOW_OVERLAP = 16, 4

# ("input", 4): a block of the UNet, as the host names it in transformer_options["block"].
Place = tuple[str, int]


@dataclass(frozen=True)
class Motion:
    """The motion module a MODEL carries. frames: of one clip. positions: the most frames it can see
    at once.
    """

    name: str
    frames: int
    positions: int


def motion_of(model) -> Motion | None:
    """What a Motion Module Loader attached to this MODEL or to one it was cloned from."""
    return model.get_attachment(MOTION_KEY)


def widths_of(model) -> tuple[int, ...]:
    """Channels of a UNet at each resolution, finest first."""
    config = model.model.model_config.unet_config
    return tuple(config["model_channels"] * multiple for multiple in config["channel_mult"])


def load_network(model, architecture: Architecture, tensors: Mapping[str, Tensor]) -> MotionModule:
    """The motion module's network with these weights, in the precision the model computes in."""
    network = MotionModule(
        architecture,
        attention=comfy.ldm.modules.attention.optimized_attention,
        operations=comfy.ops.manual_cast,
        dtype=model.model.get_dtype_inference(),
        device=comfy.model_management.unet_offload_device(),
    )
    network.load_state_dict(renamed(tensors, architecture))
    return network.train(False).requires_grad_(False)


def with_motion(model, network: MotionModule, name: str, frames: int):
    """The model with the motion module on it. The model given is not changed."""
    if not host_patches_layers():
        raise ValueError(
            "This ComfyUI is too old for motion modules: it does not let a UNet's own layers be"
            " patched, which ComfyUI 0.20 and later do. Update ComfyUI."
        )
    patched = model.clone()
    places = dict(places_of(model.model.diffusion_model, network))
    after_attention = AfterLayer(
        {place: motion for (place, layer), motion in places.items() if layer is SpatialTransformer},
        frames,
    )
    after_resblock = AfterLayer(
        {place: motion for (place, layer), motion in places.items() if layer is ResBlock}, frames
    )
    patched.set_model_forward_timestep_embed_patch(
        (SpatialTransformer, after_attention.run_attention)
    )
    patched.set_model_forward_timestep_embed_patch((ResBlock, after_resblock.run_resblock))

    # An additional model is loaded, offloaded and counted with the main one. Activations need no
    # memory beyond its estimate: the temporal layers are as wide as the spatial ones, which are not
    # in memory at the same time.
    weights = comfy.model_patcher.CoreModelPatcher(
        network,
        load_device=model.load_device,
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patched.set_additional_models(MOTION_KEY, [weights])

    motion = Motion(name, frames, network.architecture.positions)
    if frames > motion.positions and "context_handler" not in patched.model_options:
        use_windows(patched, min(WINDOW_FRAMES, motion.positions))
    patched.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, MOTION_KEY, check_latent
    )
    patched.set_attachments(MOTION_KEY, motion)
    return patched


class _Probe(TimestepBlock):
    """A layer that a patch of its kind replaces, on hosts that let it."""

    def forward(self, x, emb):
        return x


def host_patches_layers() -> bool:
    """Whether forward_timestep_embed patches reach layers that the host knows itself: not so before
    ComfyUI 0.20.
    """
    patches = {"patches": {"forward_timestep_embed_patch": [(_Probe, lambda *_: "patched")]}}
    return (
        forward_timestep_embed([_Probe()], "as it was", None, transformer_options=patches)
        == "patched"
    )


def places_of(
    unet, network: MotionModule
) -> Iterator[tuple[tuple[Place, type], TemporalTransformer]]:
    """((block, the kind of layer after which the module runs), module) for every motion module.

    It follows the block's attention where there is one, else its residual layer, and precedes any
    up- or downsampling.
    """
    # Blocks without a residual layer first are the input convolution and the downsamplings.
    spatial = [
        (index, block)
        for index, block in enumerate(unet.input_blocks)
        if isinstance(block[0], ResBlock)
    ]
    downward = (motion for level in network.down for motion in level)
    upward = (motion for level in network.up for motion in level)
    for (index, block), motion in zip(spatial, downward, strict=True):
        yield (("input", index), _last_layer(block)), motion
    if network.middle is not None:
        yield (("middle", 0), SpatialTransformer), network.middle
    for (index, block), motion in zip(enumerate(unet.output_blocks), upward, strict=True):
        yield (("output", index), _last_layer(block)), motion


def _last_layer(block) -> type:
    return (
        SpatialTransformer
        if any(isinstance(layer, SpatialTransformer) for layer in block)
        else ResBlock
    )


@dataclass(frozen=True)
class AfterLayer:
    """Runs a layer of the UNet as the host does, then the motion module that belongs behind it in
    this block, if any.
    """

    places: Mapping[Place, TemporalTransformer]
    frames: int

    def run_attention(
        self, layer, x: Tensor, emb: Tensor, context: Tensor, options: dict[str, Any], *_
    ) -> Tensor:
        """A forward_timestep_embed patch. x: (rows, C, H, W)."""
        x = layer(x, context, options)
        # The host counts attention layers for the patches that address them by number.
        options["transformer_index"] += 1
        return self._move(x, options)

    def run_resblock(
        self, layer, x: Tensor, emb: Tensor, context: Tensor, options: dict[str, Any], *_
    ) -> Tensor:
        """A forward_timestep_embed patch. x: (rows, C, H, W)."""
        return self._move(layer(x, emb), options)

    def _move(self, x: Tensor, options: Mapping[str, Any]) -> Tensor:
        motion = self.places.get(options["block"])
        if motion is None:
            return x
        # One entry for each conditioning stacked in the batch; missing where the UNet is called
        # without a sampler.
        groups = len(options.get("cond_or_uncond", (0,)))
        return motion(x, clip_length(x.shape[0], groups, self.frames))


def clip_length(rows: int, groups: int, frames: int) -> int:
    """Frames of each clip in a batch of `groups` conditionings, the same latents for each.

    A group holds whole clips of `frames` or, under context windows, the frames of one window.
    """
    length = min(frames, rows // groups)
    if rows % groups or rows // groups % length:
        raise ValueError(
            f"The model was given {rows} latents for {groups} conditionings, which are no whole"
            f" clips of {frames} frames."
        )
    return length


def use_windows(patched, length: int) -> None:
    """Let the host sample the clip in overlapping windows of `length` frames, blended where they
    meet.
    """
    windows = comfy.context_windows
    handler = ClipWindows(
        context_schedule=windows.get_matching_context_schedule(
            windows.ContextSchedules.STATIC_STANDARD
        ),
        fuse_method=windows.get_matching_fuse_method(windows.ContextFuseMethods.PYRAMID),
        context_length=length,
        context_overlap=WINDOW_OVERLAP,
        dim=0,
    )
    # For models that treat a clip's first frame apart; here it would be one frame more in every
    # window. Not an argument of older hosts, which do without.
    handler.causal_window_fix = False
    patched.model_options["context_handler"] = handler
    windows.create_prepare_sampling_wrapper(patched)


class ClipWindows(comfy.context_windows.IndexListContextHandler):
    """The host's windows; ControlNets that have a picture for every frame show each window its own,
    not always the first ones.
    """

    def get_resized_cond(self, cond_in, x_in: Tensor, window, device=None) -> list | None:
        """The conditioning for one window. x_in: the whole clip, (T, C, H, W)."""
        resized = super().get_resized_cond(cond_in, x_in, window, device)
        if resized is None:
            return None
        return [
            (
                {**cond, "control": control_in(window, cond["control"], x_in.shape[0])}
                if "control" in cond
                else cond
            )
            for cond in resized
        ]


def control_in(window, control, frames: int):
    """A ControlNet, with those chained before it, as it applies to one window of a clip of
    `frames`.
    """
    previous = control.previous_controlnet and control_in(
        window, control.previous_controlnet, frames
    )
    is_per_frame = has_picture_per_frame(control, frames)
    if previous is control.previous_controlnet and not is_per_frame:
        return control
    part = copy.copy(control)
    part.previous_controlnet = previous
    if is_per_frame:
        # What the ControlNet and the T2I adapter keep of pictures they have seen.
        part.cond_hint = part.control_input = None
        part.cond_hint_original = window.get_tensor(control.cond_hint_original)
    return part


def has_picture_per_frame(control, frames: int) -> bool:
    hint = control.cond_hint_original
    return hint is not None and frames > 1 and hint.shape[0] == frames


@dataclass(frozen=True)
class Windows:
    """How a clip is cut: `count` windows of `length` frames, neighbours sharing `overlap`."""

    count: int
    length: int
    overlap: int


def windows_of(model) -> Windows | None:
    """The context windows in which a model with motion makes its clip, ours or another node's; None
    when it is seen whole.
    """
    handler, frames = model.model_options.get("context_handler"), motion_of(model).frames
    if (
        not isinstance(handler, comfy.context_windows.IndexListContextHandler)
        or frames <= handler.context_length
    ):
        return None
    count = len(handler.context_schedule.func(frames, handler, model.model_options))
    return Windows(count, handler.context_length, handler.context_overlap)


def check_latent(executor, noise: Tensor, *args, **kwargs):
    """An OUTER_SAMPLE wrapper: refuse, before anything is evaluated, what would come out as
    something else than the clip.
    """
    guider = executor.class_obj
    motion = motion_of(guider.model_patcher)
    refuse_latent(motion, noise.shape[0])
    refuse_schedule(guider.model_patcher)
    handler = guider.model_options.get("context_handler")
    if handler is not None:
        refuse_windows(motion, noise.shape[0], handler)
        refuse_controls(noise.shape[0], handler, guider.conds)
    refuse_hidden(
        guider.model_options["transformer_options"]["patches"]["forward_timestep_embed_patch"]
    )
    return executor(noise, *args, **kwargs)


def refuse_hidden(patches: Iterable[tuple[type, Callable[..., Tensor]]]) -> None:
    """patches: the host runs the first that matches a layer, and no other."""
    for layer in (SpatialTransformer, ResBlock):
        first = next(run for kind, run in patches if issubclass(layer, kind))
        if not isinstance(getattr(first, "__self__", None), AfterLayer):
            raise ValueError(
                f"Another patch on this model replaces its {layer.__name__} layers, so that the"
                " motion module would not run. Put the Motion Module Loader before the node that"
                " adds it, or leave one of the two out."
            )


def refuse_latent(motion: Motion, rows: int) -> None:
    if rows < motion.frames:
        raise ValueError(
            f"The clip should have {motion.frames} frames and the latent holds {rows}. Set"
            f" batch_size of the empty latent to {motion.frames}, or frames of the Motion Module"
            f" Loader to {rows}."
        )
    if rows % motion.frames:
        raise ValueError(
            f"The latent holds {rows} frames, which is no whole number of clips of {motion.frames}."
            f" Set frames of the Motion Module Loader to {rows} for one clip, or batch_size to a"
            f" multiple of {motion.frames}."
        )


def refuse_schedule(model) -> None:
    """Refuse a noise schedule that another node set behind the loader, on SD 1.5's own betas."""
    sigmas = model.get_model_object("model_sampling").sigmas
    expected = with_linear_betas(model).get_model_object("model_sampling").sigmas
    if not torch.allclose(sigmas.to(expected), expected, rtol=1e-3):
        raise ValueError(
            "A node behind the Motion Module Loader put another noise schedule on this model: it"
            f" begins at sigma {float(sigmas[-1]):.2f}, where AnimateDiff was trained from"
            f" {float(expected[-1]):.2f}. Put that node (ModelSamplingDiscrete) before the Motion"
            " Module Loader."
        )


def refuse_windows(motion: Motion, rows: int, handler) -> None:
    """handler: the host's context window handler, ours or another node's."""
    if handler.dim != 0:
        raise ValueError(
            f"The context windows on this model cut along dimension {handler.dim}; the frames of an"
            " AnimateDiff clip are dimension 0. Set dim to 0 in the Context Windows node."
        )
    if rows > handler.context_length and rows != motion.frames:
        raise ValueError(
            f"The latent holds {rows // motion.frames} clips of {motion.frames} frames, and the"
            f" context windows of {handler.context_length} would run across them. Make clips of"
            " this length one at a time."
        )
    # The fix for causal models evaluates one frame more in every window but the first.
    window = handler.context_length + bool(getattr(handler, "causal_window_fix", False))
    seen = window if rows > handler.context_length else motion.frames
    if seen > motion.positions:
        raise ValueError(
            f"{motion.name} can see {motion.positions} frames at once, and the context windows on"
            f" this model show it {seen}. Set context_length to {WINDOW_FRAMES} in the Context"
            " Windows node."
        )


def refuse_controls(rows: int, handler, conds: Mapping[str, list[dict[str, Any]]]) -> None:
    """Refuse ControlNets with a picture for each frame where the host's own windows would show
    every window the first ones.

    conds: a guider's conditionings by name.
    """
    if rows <= handler.context_length or isinstance(handler, ClipWindows):
        return
    controls = (
        control
        for each in conds.values()
        for cond in each or ()
        for control in chain_of(cond.get("control"))
    )
    if any(has_picture_per_frame(control, rows) for control in controls):
        raise ValueError(
            f"A ControlNet has a picture for each of the {rows} frames, and the context windows of"
            " the Context Windows node show every window the first ones. Leave that node out: the"
            " Motion Module Loader cuts a clip that is too long for its module in windows itself,"
            " each with its own pictures."
        )


def chain_of(control) -> Iterator[Any]:
    """A ControlNet and those chained before it; nothing for None."""
    while control is not None:
        yield control
        control = control.previous_controlnet
