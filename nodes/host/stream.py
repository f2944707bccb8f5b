"""One run of a causal model on the host: cache, finished blocks, what is shown meanwhile.

The host's guider runs it like any sampler, with all that wrappers and hooks of other nodes do.
Keys, values and the place in the clip are locals of the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.supported_models
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ...loras.words import counted
from ...samplers.causal import (
    OnePrompt,
    Prompts,
    StreamPlan,
    refuse_partial_patches,
    seeded_draw,
    unroll,
    video_frames,
)
from ...samplers.plan import PlanError
from .latent import between_nodes, fitted_latent
from .live import LiveStream
from .model import LoadedModel
from .recognise import UNMARKED
from .run import RunLog, guider_for
from .server import version
from .stream_cache import CachedFrames, add_to_loading
from .stream_decode import (
    FrameDecoder,
    Room,
    can_decode_frames,
    is_out_of_memory,
    room_for_pictures,
)
from .stream_prompts import Change, StreamPrompts, add_later, opening
from .stream_record import Recording

NOT_KEPT = (
    "there are none at the images output. The latent is whole: decode it where there is more"
    " memory, or make the clip in parts, each going on from the last (start_latent)."
)
RECORDED = (
    "The Streaming Sampler recorded its pictures and kept none, since nothing was connected to"
    " images when it ran. Take them from its video output (Get Video Components), or run it once"
    " more with this connection: any other seed, or ComfyUI's cache emptied."
)


@dataclass
class StreamRun:
    """What a run left."""

    # (B, C, frames, H, W) as other nodes take latents, the given frames first.
    samples: Tensor | None = None
    images: Tensor | None = None  # (B, frames, H, W, 3)
    log: RunLog = field(default_factory=RunLog)
    # From the start of sampling to its end and to the first finished block, decoded where there is
    # a VAE.
    seconds: float = 0.0
    first_seconds: float = 0.0
    first_frames: int = 0  # pictures there at that moment
    blocks: int = 0
    cache_bytes: int = 0  # of keys and values
    # The most memory of the device in use meanwhile, models included, where it counts that (CUDA
    # and ROCm).
    peak_bytes: int | None = None
    is_interrupted: bool = False  # by the user
    decoded: str = "no VAE connected"  # how, in words
    missing: str = ""  # why there are no images, where there is a VAE
    notes: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)  # of the prompt

    @property
    def pictures(self) -> int:
        """The clip's length in pictures, those of the given frames among them."""
        return video_frames(self.samples.shape[2])

    @property
    def evaluations(self) -> float:
        """For each row of the latent batch, context passes included."""
        return self.log.rows / self.samples.shape[0]

    def seconds_per_picture(self, given: int) -> float:
        """The pace of the pictures after the first block; one block alone has only its own. given:
        latent frames that were there before.
        """
        later = self.pictures - self.first_frames
        if later:
            return (self.seconds - self.first_seconds) / later
        return self.seconds / (self.pictures - (video_frames(given) if given else 0))


@torch.no_grad()
def run_stream(
    model,
    plan: StreamPlan,
    positive,
    shape: torch.Size,
    seed: int,
    start: Tensor | None = None,
    vae=None,
    show: Callable[[str], None] = lambda text: None,
    live: LiveStream | None = None,
    recording: Recording | None = None,
) -> StreamRun:
    """Make a clip. positive: its prompt, or all of the plan's timeline. shape: (B, C, frames, H, W)
    of the whole clip. start: the given frames, as other nodes hand them on. show: what takes a line
    on how far it is. live: where texts come in meanwhile. Raises what the host raises on an
    interruption before the first block is finished.

    Where memory has no room for all pictures of the clip, they are shown as they come, and the
    latent alone is left.
    """
    run, decoder = StreamRun(), None
    room = None if vae is None else room_for_pictures(vae, shape)
    if vae is not None and can_decode_frames(vae):
        is_kept = room.is_enough and not (recording and recording.is_alone)
        decoder = FrameDecoder(vae, shape, is_kept)
    screen = Screen(model, plan, show, has_pictures=decoder is not None)
    counts_memory = model.load_device.type == "cuda"
    if counts_memory:
        torch.cuda.reset_peak_memory_stats(model.load_device)
    started = time.perf_counter()
    guider = guider_for(model, 1.0, opening(plan, positive), None, run.log)
    add_later(guider, plan, positive)
    add_to_loading(guider, plan, shape, decoder)
    pictures = Pictures(decoder, screen, run, recording)
    loop = BlockLoop(guider, plan, shape, seed, start, pictures, screen, run, started, live)
    # The host reckons with a block at a time, as the network sees it; noise is drawn in the loop.
    empty = torch.zeros(*shape[:2], plan.made[0].frames, *shape[3:])
    sigmas = torch.tensor(plan.made[-1].sigmas, dtype=torch.float32)
    sampler = comfy.samplers.KSAMPLER(loop.sample_stream)
    samples = guider.sample(empty, empty, sampler, sigmas, disable_pbar=True, seed=seed)
    comfy.model_management.synchronize()  # a GPU may still be at work on it
    run.seconds, run.samples = time.perf_counter() - started, samples.to(**between_nodes())
    if vae is not None:
        keep_images(run, vae, decoder, room, recording)
    if counts_memory:
        run.peak_bytes = torch.cuda.max_memory_allocated(model.load_device)
    return run


def keep_images(
    run: StreamRun,
    vae,
    decoder: FrameDecoder | None,
    room: Room,
    recording: Recording | None = None,
) -> None:
    """Put the pictures of a finished clip into its run, or say there why they are not."""
    if decoder is not None and not decoder.has_failed:
        run.decoded = "block by block"
        if decoder.is_kept:
            run.images = decoder.pictures(run.samples.shape[2])
        else:
            run.decoded += f", {'shown' if recording is None else 'recorded'} and not kept"
    elif room.is_enough:
        try:
            run.images, run.decoded = vae.decode(run.samples), "whole, at the end"
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
    if run.images is None and (decoder is None or decoder.has_failed):
        run.decoded = "not"
    if recording is not None:
        finish(recording, run)
    if recording is not None and recording.is_alone:
        run.images, run.missing = None, RECORDED
    elif run.images is None:
        why = "did not fit into memory" if room.is_enough else f"take {room.words}"
        run.missing = f"The pictures of the clip {why}: {NOT_KEPT}"
        run.notes.append(run.missing)


def finish(recording: Recording, run: StreamRun) -> None:
    """Have in the recording what was decoded at the end, or say what it lacks."""
    recording.wait()
    recorded, whole = recording.pictures, run.pictures - recording.skipped
    if recorded < whole and not recording.failure:
        if run.images is not None:
            recording.add([run.images[0, -(whole - recorded) :]])
            recording.wait()
        else:
            run.notes.append(
                f"The recording ends after {recorded} of {counted(whole, 'picture')}: the others"
                " could not be decoded, for lack of memory. The latent is whole."
            )
    if recording.failure:
        run.notes.append(recording.failure)


@dataclass(frozen=True)
class BlockLoop:
    """The sampler function of a stream, and what it needs beside what the host's samplers get."""

    guider: Any
    plan: StreamPlan
    shape: torch.Size  # (B, C, frames, H, W) of the whole clip
    seed: int
    start: Tensor | None  # the given frames, as other nodes hand them on
    pictures: Pictures
    screen: Screen
    run: StreamRun  # what is noted as it happens
    started: float
    live: LiveStream | None = None  # where texts come in meanwhile

    # Those that look at a sampler's name, such as Step Skip, know a stream by this one.
    def sample_stream(
        self, denoise, x: Tensor, sigmas: Tensor, extra_args=None, callback=None, disable=None
    ) -> Tensor:
        """The finished frames, (B, C, frames, H, W) in the model's own scale."""
        batch, channels, _, height, width = self.shape
        screen, inner = self.screen, self.guider.inner_model
        memory = CachedFrames(
            denoise, extra_args or {}, self.plan, self.shape, x.device, screen.after_evaluation
        )
        self.run.cache_bytes = memory.nbytes
        draw = seeded_draw(self.seed, (batch, channels, height, width), x.device)
        given, made = None, []
        if self.start is not None:
            start = inner.process_latent_in(self.start.to(x.device, torch.float32))
            given = start.expand(batch, -1, -1, -1, -1)
            made.append(given)
        try:
            if given is not None:
                self.pictures.begin(inner.process_latent_out(given))
            for _, latent in unroll(
                memory,
                self.plan.blocks,
                draw,
                given,
                self._prompts(memory, x),
                self.plan.window,
                self.plan.handover,
            ):
                self.pictures.add(inner.process_latent_out(latent))
                made.append(latent)
                self._after_block(made)
        except comfy.model_management.InterruptProcessingException:
            if self.run.blocks == 0:
                raise
            self.run.is_interrupted = True
        return torch.cat(made, dim=2)

    def _prompts(self, memory: CachedFrames, x: Tensor) -> Prompts:
        """What changes the prompt, where anything can."""
        live = self.live if self.live is not None and self.live.clip is not None else None
        if live is None and not self.plan.turns:
            return OnePrompt()
        decoder, expect = self.pictures.decoder, self.screen.expect
        beside = decoder.memory_needed() if decoder is not None else 0
        changes, notes = self.run.changes, self.run.notes
        return StreamPrompts(
            self.guider, self.plan, memory, x, live, changes, notes, expect, beside
        )

    def _after_block(self, made: list[Tensor]) -> None:
        run, frames = self.run, sum(part.shape[2] for part in made)
        run.blocks += 1
        if run.blocks == 1:
            made[-1].flatten()[0].item()  # waits for the device, whichever it is
            run.first_seconds = time.perf_counter() - self.started
            run.first_frames = video_frames(frames)
        self.screen.after_block(run, frames, time.perf_counter() - self.started)


# ---------------------------------------------------------------- what is shown


class Pictures:
    """Decodes finished blocks, shows and records them; at the end if decoding does not fit in
    memory.
    """

    def __init__(
        self,
        decoder: FrameDecoder | None,
        screen: Screen,
        run: StreamRun,
        recording: Recording | None,
    ):
        self.decoder, self.screen, self.run, self.recording = decoder, screen, run, recording

    def begin(self, given: Tensor) -> None:
        """The frames that a clip starts with, (B, C, frames, H, W) as other nodes hand them on.

        A picture is recorded with what is made of it; a clip that goes on is not once more.
        """
        parts = []
        for pictures in self._decoded(given):
            self.screen.show_picture(pictures[-1])
            parts.append(pictures)
        if given.shape[2] > 1 and self.recording is not None:
            self.recording.skipped = video_frames(given.shape[2])
        elif parts:
            self._record(parts)

    def add(self, latent: Tensor) -> None:
        """A finished block, (B, C, frames, H, W) as other nodes take it."""
        parts = []
        for pictures in self._decoded(latent):
            if not parts:
                self.screen.show_picture(pictures[0])
            parts.append(pictures)
        if self.decoder is not None and not self.decoder.has_failed:
            self.screen.play(parts, self.run.blocks)
            self._record(parts)

    def _record(self, parts: Sequence[Tensor]) -> None:
        if self.recording is not None:
            self.recording.add(parts)

    def _decoded(self, latent: Tensor) -> Iterator[Tensor]:
        """The pictures of each frame as FrameDecoder.decode has them; none from where there proves
        to be no memory.
        """
        if self.decoder is None or self.decoder.has_failed:
            return
        try:
            yield from self.decoder.decode(latent)
        except (comfy.model_management.OOM_EXCEPTION, RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.decoder.give_up()
            self.run.notes.append(
                "Decoding beside the model did not fit into memory, so it was left to the end."
            )


@dataclass
class Playing:
    """Pictures of a finished block, shown while the next one is made: at its pace, not at once."""

    pictures: Sequence[Tensor]  # (H, W, 3) each, the first shown already
    evaluations: int  # until the next block is finished
    done: int = 0  # of these
    shown: int = 0  # the picture shown last

    def after_evaluation(self) -> Tensor | None:
        """The picture that is due now, None where it is the one shown last."""
        self.done += 1
        last = len(self.pictures) - 1
        due = min(self.done * len(self.pictures) // self.evaluations, last)
        if due == self.shown:
            return None
        self.shown = due
        return self.pictures[due]


class Screen:
    """Progress and previews on the node, by the host's own means.

    has_pictures: decoded ones take the latent preview's place.
    """

    def __init__(self, model, plan: StreamPlan, show: Callable[[str], None], has_pictures: bool):
        self.plan, self.show, self.total, self.done = plan, show, plan.evaluations, 0
        self.bar = comfy.utils.ProgressBar(self.total)
        self.preview = None if has_pictures else latent_preview.prepare_callback(model, self.total)
        self.playing: Playing | None = None

    def expect(self, evaluations: int) -> None:
        """So many more than were planned."""
        self.total += evaluations

    def after_evaluation(self, denoised: Tensor, x: Tensor) -> None:
        self.done += 1
        picture = None if self.playing is None else self.playing.after_evaluation()
        if self.preview is not None:
            self.preview(self.done - 1, denoised, x, self.total)
        elif picture is not None:
            self.show_picture(picture)
        else:
            self.bar.update_absolute(self.done, self.total)

    def play(self, parts: Sequence[Tensor], blocks: int) -> None:
        """Show a block, whose first picture is shown already, while the next one is made; of the
        last block the last picture.

        parts: its pictures, (frames, H, W, 3). blocks: how many were made before it.
        """
        pictures, later = (
            [picture for part in parts for picture in part],
            self.plan.made[blocks + 1 :],
        )
        if later:
            # The context pass and the steps of the next block.
            self.playing = Playing(pictures, 1 + later[0].steps)
        elif len(pictures) > 1:
            self.show_picture(pictures[-1])

    def show_picture(self, picture: Tensor) -> None:
        """picture: (H, W, 3) in 0..1."""
        image = latent_preview.preview_to_image(picture, do_scale=False)
        self.bar.update_absolute(
            self.done, self.total, preview=("JPEG", image, latent_preview.MAX_PREVIEW_RESOLUTION)
        )

    def after_block(self, run: StreamRun, frames: int, seconds: float) -> None:
        there, all_of_them = video_frames(frames), video_frames(self.plan.frames)
        self.show(
            f"{there} of {counted(all_of_them, 'frame')} after {seconds:.1f} s, the first after"
            f" {run.first_seconds:.1f} s"
        )


def require_causal_wan() -> None:
    """Raise PlanError where this ComfyUI has no causal Wan models yet."""
    if not hasattr(comfy.supported_models, "WAN21_CausalAR_T2V"):
        raise PlanError(
            f"This ComfyUI ({version()}) has no causal Wan models, which the Streaming Sampler"
            " runs. Update ComfyUI."
        )


def shape_of(model, latent: Mapping[str, Any]) -> torch.Size:
    """(B, C, frames, H, W) of the clip. Raises PlanError where a causal model cannot make it."""
    samples = latent["samples"]
    if samples.is_nested or samples.ndim != 5:
        found = (
            "several tensors at once"
            if samples.is_nested
            else f"a tensor of {samples.ndim} dimensions {list(samples.shape)}"
        )
        raise PlanError(
            "latent_image should be a video latent (batch, channels, frames, height, width), and"
            f" it is {found}. Use Empty HunyuanVideo Latent, or Empty AR Video Latent."
        )
    if latent.get("noise_mask") is not None:
        raise PlanError(
            "latent_image carries a noise mask, and a causal model makes whole frames. Remove the"
            " mask; frames that are to stay go into start_latent."
        )
    if samples.any():
        raise PlanError(
            "latent_image is not empty, and a causal model makes its frames from noise alone:"
            " nothing of it would be seen. Connect an empty one (Empty HunyuanVideo Latent). Frames"
            " to keep go into the Streaming Sampler's start_latent; a clip to make over goes into"
            " the Few-Step Sampler, with an ordinary Wan model and denoise below 1."
        )
    shape = fitted_latent(model, latent).shape
    pixels = model.get_model_object("latent_format").spacial_downscale_ratio
    refuse_partial_patches(*shape[3:], model.model.diffusion_model.patch_size, pixels)
    return shape


def refuse_not_causal(loaded: LoadedModel) -> None:
    """Raise where the network looks at all frames at once, or the host has no causal ones yet."""
    require_causal_wan()
    if loaded.is_causal:
        return
    raise PlanError(
        "The Streaming Sampler needs a causal model (Self Forcing, Causal Forcing, CausVid), and"
        f" the connected model was loaded as {loaded.words}, which makes all frames at once: use"
        f" the Few-Step Sampler for it. {UNMARKED}"
    )
