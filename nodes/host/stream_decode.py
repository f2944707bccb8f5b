"""A Wan VAE that decodes a clip frame by frame to the same pictures as the whole at once.

The decoder is causal: what it needs of earlier frames it takes from a list of features that its
caller holds, one for each layer. Holding that list from block to block is all there is to it;
nothing is kept on the VAE.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import comfy.ldm.wan.vae
import comfy.model_management
import torch
from torch import Tensor

from ...loras.words import in_gib
from .latent import between_nodes

# Of the free memory, what a clip's pictures may take: the rest is for what makes and saves them.
FREE_SHARE = 0.9


def can_decode_frames(vae) -> bool:
    """Whether this VAE hands its features on from frame to frame. Tiny and image VAEs do not."""
    return isinstance(vae.first_stage_model, comfy.ldm.wan.vae.WanVAE)


@dataclass(frozen=True)
class Room:
    """What all pictures of a clip take in memory, and what is free for them, in bytes."""

    needed: int
    free: int

    @property
    def is_enough(self) -> bool:
        return self.needed <= FREE_SHARE * self.free

    @property
    def words(self) -> str:
        return f"{in_gib(self.needed)} of memory, all at once, and {in_gib(self.free)} are free"


def size_of_pictures(vae, shape: torch.Size) -> tuple[int, int, int]:
    """(frames, height, width) of a clip. shape: (B, C, frames, H, W) of its latent."""
    ratios = vae.upscale_ratio
    frames, height, width = ratios if isinstance(ratios, tuple) else (int, ratios, ratios)
    return frames(shape[2]), shape[3] * height, shape[4] * width


def room_for_pictures(vae, shape: torch.Size) -> Room:
    """shape: (B, C, frames, H, W) of the latent of the clip."""
    pictures, height, width = size_of_pictures(vae, shape)
    pictures, pixels = shape[0] * pictures, height * width
    needed = math.ceil(pictures * pixels * 3 * between_nodes()["dtype"].itemsize)
    return Room(needed, comfy.model_management.get_free_memory(vae.output_device))


def is_out_of_memory(error: Exception) -> bool:
    """The device's memory or the computer's. Of the latter torch tells by a plain RuntimeError."""
    if isinstance(error, (comfy.model_management.OOM_EXCEPTION, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("allocate memory", "not enough memory", "out of memory")
    )


class FrameDecoder:
    """One clip, decoded in order. shape: (B, C, frames, H, W) of the latent of all of it.

    is_kept: whether its pictures stay, all of them in memory, or are only handed out. It turns
    False where there proves to be no room.
    """

    def __init__(self, vae, shape: torch.Size, is_kept: bool = True):
        self.vae, self.shape, self.is_kept = vae, shape, is_kept
        # A slot for each layer; the decoder uses as many as it has convolutions over time.
        self.features: list = [None] * sum(1 for _ in vae.first_stage_model.decoder.modules())
        self.images: Tensor | None = None
        self.filled = 0
        self.has_failed = False

    def memory_needed(self) -> int:
        """Bytes that decoding one latent frame takes, by the host's reckoning."""
        batch, channels, _, height, width = self.shape
        return int(
            self.vae.memory_used_decode((batch, channels, 1, height, width), self.vae.vae_dtype)
        )

    def decode(self, latent: Tensor) -> Iterator[Tensor]:
        """Decode the next frames; after each, its pictures of the first clip, (1 or 4, H, W, 3).

        latent: (B, C, frames, H, W) as other nodes hand latents on. Raises what the host raises on
        an interruption between two of them.
        """
        for index in range(latent.shape[2]):
            if index:
                comfy.model_management.throw_exception_if_processing_interrupted()
            pictures = self._pictures(latent[:, :, index : index + 1])
            if self.is_kept:
                self._append(pictures)
            yield pictures[0]

    def pictures(self, latent_frames: int) -> Tensor:
        """What is decoded of the first so many latent frames: (B, frames, H, W, 3)."""
        assert self.images is not None
        return self.images[:, : self.vae.upscale_ratio[0](latent_frames)]

    def give_up(self) -> None:
        self.features, self.images, self.has_failed = [], None, True

    def _pictures(self, latent: Tensor) -> Tensor:
        """(B, 1 or 4, H, W, 3) on the VAE's output device, in 0..1, as VAE.decode gives it."""
        vae, module = self.vae, self.vae.first_stage_model
        x = module.conv2(latent.to(device=vae.device, dtype=vae.vae_dtype))
        before = [slot if is_of_size(slot, x) else None for slot in self.features]
        decoded = module.decoder(x, feat_cache=self.features, feat_idx=[0])
        self._complete(before)
        decoded = torch.cat(decoded, dim=2) if isinstance(decoded, list) else decoded
        pictures = decoded.to(device=vae.output_device, dtype=between_nodes()["dtype"], copy=True)
        vae.process_output(pictures)
        return pictures.movedim(1, -1)

    def _complete(self, before: list) -> None:
        """Layers that saw one frame keep it alone; the next needs two: put the older in front.

        The host decodes the rest of a clip in pairs, where this cannot happen. before: the features
        of layers at the latent's own size, the only ones at its own frame rate.
        """
        for index, (old, new) in enumerate(zip(before, self.features)):
            if old is not None and isinstance(new, Tensor) and new.shape[2] == 1:
                self.features[index] = torch.cat([old[:, :, -1:], new], dim=2)

    def _append(self, pictures: Tensor) -> None:
        if self.images is None:
            batch, _, height, width, channels = pictures.shape
            frames = self.vae.upscale_ratio[0](self.shape[2])
            size = (batch, frames, height, width, channels)
            try:
                self.images = torch.empty(size, dtype=pictures.dtype, device=pictures.device)
            except (RuntimeError, MemoryError):  # it does nothing but allocate
                self.is_kept = False
                return
        self.images[:, self.filled : self.filled + pictures.shape[1]] = pictures
        self.filled += pictures.shape[1]


def is_of_size(slot, x: Tensor) -> bool:
    return isinstance(slot, Tensor) and slot.shape[-2:] == x.shape[-2:]
