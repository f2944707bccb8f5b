"""The keys and values of a causal network for one run, and the memory they need beside the model.

`ar_state`, which the host's causal network reads, stands in the options of that run alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import comfy.hooks
import comfy.ldm.flux.math
import comfy.model_management
import comfy.patcher_extension
import torch
from torch import Tensor

from ...loras.words import counted
from ...samplers.causal import Block, StreamPlan
from ...samplers.plan import PlanError
from .stream_decode import FrameDecoder, is_out_of_memory

KEY = "fewstep.stream"


class CachedFrames:
    """The host's causal network with the keys and values of the frames it has seen, for one run.

    Keys keep the rotary positions they were made with, as in Self Forcing's rolling cache, sinks
    included; the oldest frames after the sinks are overwritten by shifting the later ones down.
    Only differences of positions matter, so counting starts anew where the network's precision
    could not tell two frames apart any more: it reckons positions in its own dtype, and bfloat16
    has no 257.
    """

    def __init__(
        self,
        denoise,
        extra_args: dict[str, Any],
        plan: StreamPlan,
        shape: torch.Size,
        device: torch.device,
        after_evaluation: Callable[[Tensor, Tensor], None],
    ):
        model = denoise.inner_model.inner_model
        self.denoise, self.extra_args, self.window = denoise, extra_args, plan.window
        self.network, self.after_evaluation = model.diffusion_model, after_evaluation
        # The dtype of the arithmetic, which is not that of the weights where those are stored in 8
        # bits.
        dtype = model.get_dtype_inference()
        self.tokens = tokens_per_frame(self.network, shape)
        seen = plan.window.capacity(plan.frames)
        try:
            self.caches = self.network.init_kv_caches(shape[0], seen * self.tokens, device, dtype)
        except (comfy.model_management.OOM_EXCEPTION, RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise PlanError(
                f"The keys and values of {counted(seen, 'latent frame')} do not fit into memory."
                " Set window_frames lower (with sinks among them: sink_frames), or make a smaller"
                " video."
            ) from error
        self.forget_text()
        self.most_positions = exact_integers(dtype)
        self.held, self.origin = 0, 0

    @property
    def nbytes(self) -> int:
        return sum(cache[name].nbytes for cache in self.caches for name in ("k", "v"))

    def make_room(self, block: Block) -> None:
        evicted = self.window.evicted(self.held, block.frames)
        if evicted:
            first, last = self.window.sink * self.tokens, self.held * self.tokens
            for cache in self.caches:
                for name in ("k", "v"):
                    later = cache[name][
                        :, first + evicted * self.tokens : last
                    ].clone()  # they may overlap where they go
                    cache[name][:, first : first + later.shape[1]] = later
            self.held -= evicted
        if block.end - self.origin > self.most_positions:
            self._count_from(block.start)

    def evaluate(self, x: Tensor, sigma: float, block: Block) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        for cache in self.caches:
            cache["end"] = self.held * self.tokens
        self.extra_args["model_options"]["transformer_options"]["ar_state"] = {
            "start_frame": block.start - self.origin,
            "kv_caches": self.caches,
            "crossattn_caches": self.text,
        }
        denoised = self.denoise(x, x.new_full((x.shape[0],), sigma), **self.extra_args)
        self.after_evaluation(denoised, x)
        return denoised

    def keep(self, block: Block) -> None:
        self.held += block.frames

    def forget(self, frame: int) -> None:
        self.held = 0
        self.origin = min(self.origin, frame)

    def forget_text(self) -> None:
        """Have the network read the prompt anew: it keeps what it made of it."""
        keys = self.caches[0]["k"]
        self.text = self.network.init_crossattn_caches(keys.shape[0], keys.device, keys.dtype)

    def _count_from(self, frame: int) -> None:
        """Count positions from this frame: turn every key back by as much as its position falls."""
        turn = self.network.rope_encode(
            1,
            1,
            1,
            t_start=self.origin - frame,
            device=self.caches[0]["k"].device,
            dtype=torch.float32,
        )
        for cache in self.caches:
            keys = cache["k"][:, : self.held * self.tokens]
            keys.copy_(
                comfy.ldm.flux.math.apply_rope1(
                    keys, turn.expand(-1, keys.shape[1], *turn.shape[2:]).contiguous()
                )
            )
        self.origin = frame


def tokens_per_frame(network, shape: torch.Size) -> int:
    """shape: (B, C, frames, H, W), of whole patches: other sizes are refused before."""
    return (shape[3] // network.patch_size[1]) * (shape[4] // network.patch_size[2])


def exact_integers(dtype: torch.dtype) -> int:
    """Up to which every integer has a number of its own: 256 in bfloat16, 2048 in float16."""
    return int(2 / torch.finfo(dtype).eps)


def add_to_loading(
    guider, plan: StreamPlan, shape: torch.Size, decoder: FrameDecoder | None
) -> None:
    """Have the host load the VAE beside the model, with room for the cache and decoding.

    Otherwise each would drive the other out of memory.
    """
    options = guider.model_options
    if decoder is not None:
        options["registered_hooks"] = comfy.hooks.HookGroup()
        options["registered_hooks"].add(
            comfy.hooks.AdditionalModelsHook([decoder.vae.patcher], KEY)
        )

    def prepare_sampling(executor, model, noise_shape, conds, *args, **kwargs):
        # The host reckons in frames of the latent: as many more as take the memory.
        network, dtype = model.model.diffusion_model, model.model.get_dtype_inference()
        cache = (
            2
            * network.num_layers
            * shape[0]
            * plan.window.capacity(plan.frames)
            * tokens_per_frame(network, shape)
            * network.dim
        )
        beside = cache * dtype.itemsize + (decoder.memory_needed() if decoder is not None else 0)
        frames = math.ceil(
            noise_shape[2] * (1 + beside / model.model.memory_required(list(noise_shape)))
        )
        return executor(model, [*noise_shape[:2], frames, *noise_shape[3:]], conds, *args, **kwargs)

    comfy.patcher_extension.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING,
        KEY,
        prepare_sampling,
        options,
        is_model_options=True,
    )
