"""What decoding a latent costs here: with the connected VAE, and with a tiny one that is there.

Nothing is remembered, and what is decoded is thrown away.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import comfy.model_management
import comfy.taesd.taehv
import comfy.taesd.taesd
import comfy.utils
import torch
from torch import Tensor

import nodes

from ...loras.header import FileProblem, read_header
from ...samplers.budget.cost import BudgetError
from ...samplers.budget.decoding import TinyVae
from .files import listed_files, required_path
from .latent import first_tensor, fitted_latent
from .measure import noise_like
from .model import LoadedModel
from .stream_decode import (
    FrameDecoder,
    can_decode_frames,
    is_out_of_memory,
    room_for_pictures,
)

TIMED = 3
# A first decoding this slow is the only one: what it takes to warm up is a small part of it.
SLOW_SECONDS = 2.0
FRAMES_TIMED = 4  # of a stream, after its first

NO_ROOM = "Decoding could not be measured and is in none of these figures:"
# Tiny VAEs that core's Load VAE lists, of latent formats of the host that do not name theirs.
UNNAMED = {"LTXAV": "taeltx_2"}
WITH_PICTURES = (2, 3)  # latent dimensions of VAEs for pictures and clips
SAFE = ".safetensors"


@dataclass(frozen=True)
class Decoding:
    """What decoding all of a latent takes."""

    seconds: float | None  # None where memory has no room for it
    note: str = ""  # why not


def latent_to_decode(loaded: LoadedModel, latent: Mapping[str, Tensor]) -> Tensor:
    """Noise as VAE Decode gets a latent: of several tensors at once, such as a clip and its sound,
    the first.
    """
    return first_tensor(noise_like(fitted_latent(loaded.patcher, latent)))


def measure_decoding(
    vae, samples: Tensor, is_stream: bool, clock: Callable[[], float] = time.perf_counter
) -> Decoding:
    """Seconds of decoding a latent of this shape: whole, as core's VAE Decode does it and in tiles
    where that does, or frame by frame, as the Streaming Sampler does it.

    Raises BudgetError for a VAE of another kind of latent.
    """
    refuse_other_channels(vae, samples)
    try:
        if is_stream and can_decode_frames(vae):
            return Decoding(_frame_by_frame(vae, samples, clock))
        room = room_for_pictures(vae, samples.shape) if samples.ndim == 5 else None
        if room is not None and not room.is_enough:
            return Decoding(None, f"{NO_ROOM} the pictures would take {room.words}.")
        return Decoding(_whole(vae, samples, clock))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return Decoding(
            None,
            f"{NO_ROOM} memory ran out, so VAE Decode would fail here too. VAE Decode (Tiled) needs"
            " less.",
        )


def refuse_other_channels(vae, samples: Tensor) -> None:
    vae.throw_exception_if_invalid()
    if vae.latent_dim in WITH_PICTURES and vae.latent_channels != samples.shape[1]:
        raise BudgetError(
            f"The connected VAE decodes latents of {vae.latent_channels} channels, and this"
            f" model's have {samples.shape[1]}. Connect the VAE that decodes this model's latents,"
            " or none."
        )


@torch.inference_mode()  # as the host runs VAE Decode
def _whole(vae, samples: Tensor, clock: Callable[[], float]) -> float:
    """Median seconds after a warm-up; of a slow VAE those of the first decoding."""
    progress, seconds = comfy.utils.ProgressBar(1 + TIMED), []
    needed = vae.memory_used_decode(samples.shape, vae.vae_dtype)
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=needed)
    for _ in range(1 + TIMED):
        started = clock()
        _wait_for(vae.decode(samples))
        seconds.append(clock() - started)
        progress.update(1)
        comfy.model_management.throw_exception_if_processing_interrupted()
        if seconds[0] > SLOW_SECONDS:
            progress.update_absolute(progress.total)
            return seconds[0]
    return statistics.median(seconds[1:])


@torch.inference_mode()  # as the host runs VAE Decode
def _frame_by_frame(vae, samples: Tensor, clock: Callable[[], float]) -> float:
    """Seconds of all frames: of the first, which makes one picture, and of the others, which make
    as many as each other, from the median of the first few.
    """
    frames = samples.shape[2]
    timed = samples[:, :, : 1 + FRAMES_TIMED]
    progress = comfy.utils.ProgressBar(2 * timed.shape[2])
    comfy.model_management.load_models_gpu(
        [vae.patcher], memory_required=FrameDecoder(vae, samples.shape).memory_needed()
    )
    seconds: list[float] = []
    for _ in ("warm-up", "timed"):
        seconds.clear()
        decoder, started = FrameDecoder(vae, samples.shape, is_kept=False), clock()
        for picture in decoder.decode(timed):
            _wait_for(picture)
            seconds.append(clock() - started)
            progress.update(1)
            comfy.model_management.throw_exception_if_processing_interrupted()
            started = clock()
    rest = statistics.median(seconds[1:]) if frames > 1 else 0.0
    return seconds[0] + (frames - 1) * rest


def _wait_for(pictures: Tensor) -> None:
    """Until the device has made them, whichever it is."""
    pictures[(0,) * pictures.ndim].item()


# ---------------------------------------------------------------- tiny VAEs


def tiny_vae(
    loaded: LoadedModel,
    vae,
    samples: Tensor,
    clock: Callable[[], float] = time.perf_counter,
) -> TinyVae:
    """The tiny VAE for the model's latents, measured where core's Load VAE has it."""
    if isinstance(vae.first_stage_model, comfy.taesd.taesd.TAESD | comfy.taesd.taehv.TAEHV):
        return TinyVae(is_connected=True)
    name = _name_of(loaded)
    if not name:
        return TinyVae()
    # Those for pictures are published in two halves, and Load VAE lists both as one.
    parts = ("_encoder", "_decoder") if name in nodes.VAELoader.image_taes else ("",)
    tiny = TinyVae(tuple(f"{name}{part}{SAFE}" for part in parts))
    there = [_file_of(f"{name}{part}", is_any=len(parts) == 1) for part in parts]
    if not all(there):
        return tiny
    tiny = replace(tiny, option=name if len(parts) > 1 else there[0])
    if not all(file.endswith(SAFE) for file in there):
        problem = f"it was not measured, because this node opens {SAFE} files alone."
        return replace(tiny, problem=problem)
    return _measured(tiny, there, samples, clock)


def _name_of(loaded: LoadedModel) -> str:
    """Of the release that decodes this model's latents; empty where core's Load VAE knows none.

    The demo model's latents are its own.
    """
    if loaded.facts is not None:
        return ""
    latent_format = loaded.patcher.get_model_object("latent_format")
    name = latent_format.taesd_decoder_name or UNNAMED.get(type(latent_format).__name__, "")
    name = name.removesuffix("_decoder")
    loader = nodes.VAELoader
    return name if name in (*loader.image_taes, *loader.video_taes) else ""


def _file_of(stem: str, is_any: bool) -> str:
    """The file in models/vae_approx; empty where there is none. is_any: Load VAE lists each; else
    it takes the first.
    """
    files = [file for file in listed_files("vae_approx") if file.startswith(f"{stem}.")]
    if is_any and f"{stem}{SAFE}" in files:
        return f"{stem}{SAFE}"
    return next(iter(files), "")


def _measured(
    tiny: TinyVae, files: Sequence[str], samples: Tensor, clock: Callable[[], float]
) -> TinyVae:
    """The same with its seconds, or with what is wrong with its files."""
    try:
        for file in files:
            read_header(required_path("vae_approx", file))
        (vae,) = nodes.VAELoader().load_vae(tiny.option)
        decoding = measure_decoding(vae, samples, is_stream=False, clock=clock)
    except (FileProblem, BudgetError, RuntimeError) as error:
        return replace(tiny, problem=f"it could not be measured: {error}")
    return replace(tiny, seconds=decoding.seconds, problem=decoding.note)
