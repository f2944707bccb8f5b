"""A motion module on a MODEL: run after each spatial block, its weights managed by the host.

Nothing of the UNet is changed. What the MODEL gains lies in its own options: two
forward_timestep_embed patches, one additional model whose weights the host loads and offloads, an
OUTER_SAMPLE wrapper that refuses latents the clip does not fit and cuts what is given frame by
frame to it, and for clips longer than modules were trained on the host's own context windows.
"""

from __future__ import annotations

import logging
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

from ...loras.words import counted
from ...motion.keys import renamed
from ...motion.module import Architecture, MotionModule, TemporalTransformer
from .clip_inputs import Clips, fit_conditionings, name_frames
from .model import MOTION_KEY, with_linear_betas
from .run import run_log

log = logging.getLogger(__name__)
NAME = "Motion Module Loader"

# The length of the clips AnimateDiff was trained on (sample_n_frames in its training
# configuration): longer ones are seen in windows of it, for beyond it pictures blur. Half of it is
# few: motion and pictures suffer, and of one frame alone nothing is left.
TRAINED_FRAMES, FEW_FRAMES = 16, 8
# What ComfyUI's own context windows propose for AnimateDiff.
WINDOW_OVERLAP = 4

# ("input", 4): a block of the UNet, as the host names it in transformer_options["block"].
Place = tuple[str, int]


@dataclass(frozen=True)
class Motion:
    """The motion module on a MODEL."""

    name: str  # of its file
    frames: int  # of one clip
    positions: int  # the most frames it can see at once


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
    length = min(TRAINED_FRAMES, motion.positions)
    if frames > length and "context_handler" not in patched.model_options:
        use_windows(patched, length)
    kinds = comfy.patcher_extension.WrappersMP
    patched.add_wrapper_with_key(kinds.OUTER_SAMPLE, MOTION_KEY, sample_clip)
    patched.add_wrapper_with_key(kinds.CALC_COND_BATCH, MOTION_KEY, name_frames)
    patched.set_attachments(MOTION_KEY, motion)
    return patched


class _Probe(TimestepBlock):
    """A layer that a patch of its kind replaces, on hosts that let it."""

    def forward(self, x, emb):
        return x


def host_patches_layers() -> bool:
    """Whether forward_timestep_embed patches reach the host's own layers: from 0.20 on."""
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
    """Runs a UNet layer as the host does, then the motion module behind it, if any."""

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
            f"The model was given {counted(rows, 'latent')} for {counted(groups, 'conditioning')},"
            " which are not whole"
            f" clips of {counted(frames, 'frame')}."
        )
    return length


def use_windows(patched, length: int) -> None:
    """Let the host sample in overlapping windows of `length` frames, blended where they meet."""
    windows = comfy.context_windows
    handler = windows.IndexListContextHandler(
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


@dataclass(frozen=True)
class Windows:
    """How a clip is cut."""

    count: int
    length: int  # frames
    overlap: int  # frames that neighbours share


def windows_of(model) -> Windows | None:
    """The context windows a model makes its clip in, ours or not; None if it is seen whole."""
    handler, frames = model.model_options.get("context_handler"), motion_of(model).frames
    if (
        not isinstance(handler, comfy.context_windows.IndexListContextHandler)
        or frames <= handler.context_length
    ):
        return None
    count = len(handler.context_schedule.func(frames, handler, model.model_options))
    return Windows(count, handler.context_length, handler.context_overlap)


def sample_clip(executor, noise: Tensor, *args, **kwargs):
    """An OUTER_SAMPLE wrapper: refuse, before anything is evaluated, what would come out as
    something else than the clip, and cut to it what is given frame by frame.
    """
    guider = executor.class_obj
    motion = motion_of(guider.model_patcher)
    refuse_latent(motion, noise.shape[0])
    refuse_schedule(guider.model_patcher)
    handler, rows = guider.model_options.get("context_handler"), noise.shape[0]
    if handler is not None:
        refuse_windows(motion, rows, handler)
    refuse_hidden(
        guider.model_options["transformer_options"]["patches"]["forward_timestep_embed_patch"]
    )
    has_windows = handler is not None and rows > handler.context_length
    seen = handler.context_length if has_windows else motion.frames
    if seen > TRAINED_FRAMES:
        # Context windows may be added after the loader, which could not know of them.
        tell(beyond_training(seen), guider.model_options, frames_at_once=seen)
    if rows > motion.frames:
        tell(several_clips(motion, rows), guider.model_options, clips=rows // motion.frames)
    guider.conds = fit_conditionings(guider.conds, Clips(motion.frames, rows, has_windows))
    return executor(noise, *args, **kwargs)


def tell(summary: str, model_options: Mapping[str, Any], **data: int) -> None:
    """In the log, and in the report of a run of this pack."""
    log.info("%s: %s", NAME, summary)
    run = run_log(model_options)
    if run is not None:
        run.entries.append({"node": NAME, "summary": summary, **data})


def beyond_training(seen: int) -> str:
    return (
        f"{seen} frames are seen at once, and motion modules were trained on {TRAINED_FRAMES}:"
        f" pictures blur beyond that. Context windows of {TRAINED_FRAMES} keep to it"
    )


def several_clips(motion: Motion, rows: int) -> str:
    return (
        f"{rows // motion.frames} clips of {counted(motion.frames, 'frame')}; for one clip of"
        f" {rows} set frames to {rows}"
    )


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
        # Never advise a clip of few frames: most often batch_size was left at 1.
        shorter = f", or frames of the Motion Module Loader to {rows}" if rows >= FEW_FRAMES else ""
        raise ValueError(
            f"The clip should have {counted(motion.frames, 'frame')} and the latent holds {rows}."
            f" Set batch_size of the empty latent to {motion.frames}{shorter}."
        )
    if rows % motion.frames:
        raise ValueError(
            f"The latent holds {rows} frames, which is not a whole number of clips of"
            f" {motion.frames}."
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
            f"The latent holds {rows // motion.frames} clips of {counted(motion.frames, 'frame')},"
            f" and the context windows of {handler.context_length} would run across them. Make"
            " clips of this length one at a time."
        )
    # The fix for causal models evaluates one frame more in every window but the first.
    window = handler.context_length + bool(getattr(handler, "causal_window_fix", False))
    seen = window if rows > handler.context_length else motion.frames
    if seen > motion.positions:
        raise ValueError(
            f"{motion.name} can see {motion.positions} frames at once, and the context windows on"
            f" this model show it {seen}. Set context_length to {TRAINED_FRAMES} in the Context"
            " Windows node."
        )
