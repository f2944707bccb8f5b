"""FewStepStream: causal video models block by block, each block shown as soon as it is finished."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..loras.words import counted, in_figures
from ..samplers.causal import (
    StreamPlan,
    Window,
    in_frames,
    in_seconds,
    make_stream_plan,
    pictures_before,
    video_frames,
)
from ..samplers.plan import PlanError, make_plan
from .host.guided_start import refuse_guided_start
from .host.latent import handed_on
from .host.live import LiveStream, running
from .host.model import LoaderNews, look_at, sigma_of, start_picture
from .host.other_skip import another_skip_node
from .host.recognise import accelerated
from .host.report import SENT_AGAIN, Report, notes_of_loaders, rows_on_loaders
from .host.run import refuse_cfg_sent
from .host.server import drop_cached_results, is_connected, missing_output, node_id_of, show_on_node
from .host.stream import StreamRun, refuse_not_causal, run_stream, shape_of
from .host.stream_decode import can_decode_frames, room_for_pictures, size_of_pictures
from .host.stream_prompts import Change, refuse_clip
from .host.stream_record import (
    Recording,
    in_history,
    recording_of,
    refuse_without_encoder,
    video_of,
    video_of_pictures,
)
from .host.timeline import refuse_prompts, timeline_of

# image_or_video_shape in the configurations of Self Forcing, Causal Forcing and CausVid: 81 frames
# of video.
TRAINED_FRAMES = 21

NO_NEGATIVE = (
    "A patch on the model asks for a negative prompt (as NAG does), and a stream has none: the"
    " patch does nothing here. Take it off, and say what you want in the positive prompt."
)
MOST_SHOWN = 80  # characters of a text in the report for people
IMAGES, VIDEO = 1, 3  # which outputs they are
NO_VAE = (
    "The Streaming Sampler has no VAE, so it makes no images. Connect one to its vae input, or"
    " decode its latent output."
)
NOTHING_RECORDED = "The Streaming Sampler recorded nothing: the first block was not decoded."


class FewStepStream(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepStream",
            display_name="Streaming Sampler",
            category="few-step",
            description=(
                "Samples a causal video model (Self Forcing, Causal Forcing, CausVid) block by"
                " block and shows each block as soon as it is finished. A window keeps memory flat"
                " however long the clip is; interrupting keeps what is done."
            ),
            search_aliases=[
                "causal",
                "self forcing",
                "causal forcing",
                "causvid",
                "autoregressive",
                "ar_video",
                "realtime",
                "live",
                "streaming",
                "long video",
                "infinite video",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "A causal model with its accelerator: Accelerator Loader, lora_name none."
                    ),
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip=(
                        "What the video should show: one prompt for the whole clip, or a Prompt"
                        " Timeline of several."
                    ),
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip=(
                        "An empty video latent: its size, length and batch are the clip's. The"
                        " length counts the frames of start_latent too."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip=(
                        "The same seed gives the same clip, and a longer clip begins like a shorter"
                        " one."
                    ),
                ),
                io.Int.Input(
                    "frames_per_block",
                    default=0,
                    min=0,
                    max=64,
                    tooltip=(
                        "Latent frames made together. 0 takes the accelerator's own: 3 for"
                        " chunk-wise models, 1 for frame-wise ones. Other values than its own are"
                        " refused."
                    ),
                ),
                io.Int.Input(
                    "window_frames",
                    display_name="window_frames (0 = all)",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip=(
                        "Latent frames seen at once, the block being made among them. Lower saves"
                        " memory and time and forgets sooner; 0 sees the whole clip, and memory"
                        " grows with its length."
                    ),
                ),
                io.Int.Input(
                    "sink_frames",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip=(
                        "First latent frames that stay in the window for good. More holds the scene"
                        " together; they count as part of window_frames."
                    ),
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip=(
                        "Decodes every block as it is finished, for the live preview and for"
                        " images."
                    ),
                ),
                io.Latent.Input(
                    "start_latent",
                    optional=True,
                    tooltip=(
                        "An encoded picture to start from, or a clip to go on with. It is the"
                        " beginning of the result."
                    ),
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip=(
                        "Takes texts while the clip is made: each is sent to ComfyUI's server, and"
                        " the video follows it from the next block on. scripts/live.py does it from"
                        " a terminal."
                    ),
                ),
                io.String.Input(
                    "record",
                    default="",
                    optional=True,
                    tooltip=(
                        "Names an MP4 in ComfyUI's output folder, as Save Video does; empty for"
                        " none. Each block is written as soon as it is finished, so an interrupted"
                        " clip plays too. With nothing connected to images, no picture is kept in"
                        " memory, however long the clip is. Needs a vae."
                    ),
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", tooltip="The whole clip, start_latent included."
                ),
                io.Image.Output(display_name="images", tooltip="The decoded frames. Needs a vae."),
                io.String.Output(
                    display_name="report",
                    tooltip="Time to the first frame, frames per second, evaluations and memory.",
                ),
                io.Video.Output(
                    display_name="video",
                    tooltip=(
                        "The recorded file; without record the images as a video, at the model's"
                        " frame rate. Needs a vae."
                    ),
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            **SENT_AGAIN,
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs) -> float:
        """A clip that takes texts is another each time: what was sent is not in the graph."""
        # A new one each time: the host's cache finds the very object math.nan again.
        return float("nan") if "clip" in inputs else 0.0

    @classmethod
    def execute(
        cls,
        model,
        positive,
        latent_image,
        seed: int,
        frames_per_block: int,
        window_frames: int,
        sink_frames: int,
        vae=None,
        start_latent=None,
        clip=None,
        record: str = "",
    ) -> io.NodeOutput:
        loaded = look_at(model, cls.hidden)
        refuse_not_causal(loaded)
        refuse_guided_start(model, "every block of a stream begins with noise of its own")
        models = accelerated(loaded)
        patcher, accelerator = models.patchers[0], models.records[0]
        shape, picture = shape_of(patcher, latent_image), start_picture(patcher)
        start = start_of(start_latent, picture, shape)
        sigma, given = sigma_of(patcher), 0 if start is None else start.shape[2]
        window = Window(window_frames, sink_frames)
        refuse_prompts(positive)
        timeline = timeline_of(positive, loaded.frame_rate)
        plan = make_stream_plan(
            accelerator, shape[2], sigma, given, frames_per_block, window, timeline
        )
        refuse_cfg_sent(cls.hidden, make_plan(accelerator, 0, 1.0, sigma))
        refuse_patches(patcher)
        refuse_clip(clip)
        refuse_pictures(vae, shape, cls.hidden, record)
        node_id = node_id_of(cls.hidden)

        def show(text: str) -> None:
            show_on_node(text, node_id)

        with (
            running(node_id, LiveStream(plan, clip)) as live,
            recording_for(record, vae, shape, loaded.frame_rate, cls.hidden) as recording,
        ):
            run = run_stream(
                patcher, plan, positive, shape, seed, start, vae, show, live, recording
            )
        if run.is_interrupted:
            # The same graph again asks for the whole clip, and must not be handed this one from the
            # host's cache.
            drop_cached_results()
        negative = (NO_NEGATIVE,) if models.is_negative_forced else ()
        begun = (*models.notes, *notes_on_start(start_latent, picture), *negative)
        notes = (*begun, *notes_on_live(live))
        report = report_on_stream(plan, run, vae, notes, models.news, recording)
        latent, images = handed_on(latent_image, run.samples), images_of(run, vae)
        video, ui = video_in(recording, images, loaded.frame_rate), report.publish(cls.hidden)
        return io.NodeOutput(latent, images, report.markdown, video, ui={**ui, **listed(recording)})


def images_of(run: StreamRun, vae):
    """The pictures of the whole batch, one after the other, or why there are none."""
    if run.images is None:
        return missing_output(NO_VAE if vae is None else run.missing)
    return run.images.flatten(0, 1)


def video_in(recording: Recording | None, images, frame_rate: float):
    """What was recorded; without a recording the images as a video, or why there are none."""
    if recording is None:
        return video_of_pictures(images, frame_rate) if isinstance(images, Tensor) else images
    return missing_output(NOTHING_RECORDED) if recording.path is None else video_of(recording.path)


def listed(recording: Recording | None) -> dict[str, Any]:
    """What the node's `ui` says of a file."""
    return {} if recording is None or recording.path is None else in_history(recording.path)


def recording_for(record: str, vae, shape: torch.Size, frame_rate: float, hidden):
    """The recording of a clip, or None, as a context. shape: (B, C, frames, H, W) of its latent."""
    if not record.strip():
        return nullcontext()
    _, height, width = size_of_pictures(vae, shape)
    return recording_of(
        record.strip(), (width, height), frame_rate, hidden, not is_connected(hidden, IMAGES)
    )


def start_of(
    start_latent: Mapping[str, Any] | None, picture: Tensor | None, shape: torch.Size
) -> Tensor | None:
    """The frames a clip starts with, (1 or B, C, frames, H, W); start_latent goes before the
    picture that core's ARVideoI2V put on the model. Raises PlanError where they do not fit the
    clip.
    """
    if start_latent is not None:
        name, start, advice = (
            "start_latent",
            start_latent["samples"],
            "Scale the picture to the video's size before VAE Encode.",
        )
    elif picture is not None:
        name, start, advice = (
            "The picture of ARVideoI2V",
            picture,
            "Connect the Wan 2.1 VAE to that node, and its LATENT to latent_image.",
        )
    else:
        return None
    fits = (
        not start.is_nested
        and start.ndim == 5
        and start.shape[0] in (1, shape[0])
        and start.shape[1] == shape[1]
    )
    if not fits or start.shape[3:] != shape[3:]:
        raise PlanError(
            f"{name} is {list(start.shape)} and the clip {list(shape)} (batch, channels, frames,"
            f" height, width): all but the frames must agree, or its batch be 1. {advice}"
        )
    return start


# ---------------------------------------------------------------- what is refused


def refuse_patches(model) -> None:
    """Raise for nodes that answer in place of the network or cut the clip themselves."""
    other = another_skip_node(model)
    if other is not None:
        raise PlanError(
            f"The model skips evaluations with {other}, and a skipped evaluation leaves no keys for"
            f" the frames after it. Remove {other}."
        )
    if "context_handler" in model.model_options:
        raise PlanError(
            "The model carries context windows, which cut a clip that a causal model must see in"
            " order. Remove that node; window_frames bounds memory here."
        )


def refuse_pictures(vae, shape: torch.Size, hidden, record: str) -> None:
    """Raise where the images, the video or the recording that are asked for cannot be made.

    shape: (B, C, frames, H, W) of the clip's latent. hidden: hidden inputs.
    """
    refuse_images(vae, shape, hidden, record)
    if record.strip():
        refuse_record(vae, shape)


def refuse_images(vae, shape: torch.Size, hidden, record: str) -> None:
    # A video that is not recorded is made of the images.
    outputs = (IMAGES,) if record.strip() else (IMAGES, VIDEO)
    is_asked = any(is_connected(hidden, output) for output in outputs)
    if vae is None:
        if is_asked:
            raise PlanError(NO_VAE)
        return
    vae.throw_exception_if_invalid()
    if vae.latent_dim != 3 or vae.latent_channels != shape[1]:
        kind = "video" if vae.latent_dim == 3 else "pictures"
        raise PlanError(
            f"The connected VAE is one for {kind} with {vae.latent_channels} latent channels; this"
            f" model makes video with {shape[1]}. Load the Wan 2.1 VAE."
        )
    room = room_for_pictures(vae, shape)
    if not room.is_enough and is_asked:
        raise PlanError(
            f"The {counted(video_frames(shape[2]), 'picture')} of this clip take {room.words}. Make"
            " it in parts: a shorter clip, then one that goes on from it (start_latent). Or take"
            " the wire off images and name a file in record: the pictures are written to it as"
            " they come, and the latent alone takes a fiftieth of that."
        )


def refuse_record(vae, shape: torch.Size) -> None:
    if vae is None:
        raise PlanError(
            "record writes decoded pictures, and no VAE is connected. Connect one to the vae input,"
            " or clear record."
        )
    if not can_decode_frames(vae):
        raise PlanError(
            "record writes each block as it is finished, and"
            f" {type(vae.first_stage_model).__name__} cannot decode a clip in pieces. Connect the"
            " Wan 2.1 VAE, or clear record and save the video output."
        )
    if shape[0] > 1:
        raise PlanError(
            f"record writes one clip, and latent_image holds a batch of {shape[0]}. Set batch_size"
            " to 1, or clear record and save the video output."
        )
    refuse_without_encoder()


# ---------------------------------------------------------------- what is told


def report_on_stream(
    plan: StreamPlan,
    run: StreamRun,
    vae=None,
    notes: tuple[str, ...] = (),
    news: Sequence[LoaderNews] = (),
    recording: Recording | None = None,
) -> Report:
    """notes: how an accelerator of another loader was recognised, and where a start picture came
    from. news: of the loaders.
    """
    pace, decoded = run.seconds_per_picture(plan.given), run.decoded
    cut = (
        f"Interrupted after {run.blocks} of {len(plan.made)} blocks: " if run.is_interrupted else ""
    )
    return Report(
        node="Streaming Sampler",
        summary=(
            f"{cut}{counted(run.pictures, 'frame')} in {in_figures(run.seconds)} s, the first after"
            f" {in_figures(run.first_seconds)} s, then {1 / pace:.3g} a second"
        ),
        rows=(
            *rows_on_stream(plan, run, pace, decoded),
            *rows_on_recording(recording),
            *rows_on_loaders(news),
        ),
        notes=(*notes, *notes_on_stream(plan, run, vae), *run.notes, *notes_of_loaders(news)),
        data={
            **data_of_stream(plan, run, pace, decoded),
            "recorded": None if recording is None else recording.told,
        },
    )


def rows_on_recording(recording: Recording | None) -> tuple[tuple[str, str], ...]:
    if recording is None or recording.told is None:
        return ()
    told = recording.told
    skipped = ", without those of start_latent" if recording.skipped else ""
    return (
        (
            "recorded",
            f"{told['file']}, {counted(told['frames'], 'frame')} at {told['frame_rate']:g} a second"
            f"{skipped}, {told['bytes'] / 2**20:.3g} MiB",
        ),
    )


def rows_on_stream(
    plan: StreamPlan, run: StreamRun, pace: float, decoded: str
) -> tuple[tuple[str, str], ...]:
    """pace: seconds per picture."""
    frames, size, window = run.samples.shape[2], plan.made[0].frames, plan.window
    first, later = plan.made[0].steps, plan.made[-1].steps
    steps = f"{later}, {first} in the first block" if first != later else str(later)
    view = (
        f"{in_frames(window.frames)}, {window.sink} of them sinks"
        if window.frames
        else f"the whole clip, {in_frames(plan.frames)}"
    )
    memory = (
        (("peak memory of the device", f"{run.peak_bytes / 2**20:.0f} MiB"),)
        if run.peak_bytes is not None
        else ()
    )
    start = (("start", f"{in_frames(plan.given)} given"),) if plan.given else ()
    return (
        ("accelerator", plan.record.id),
        ("frames", f"{run.pictures} ({in_frames(frames)}), {size} to a block"),
        ("time to the first frame", f"{in_figures(run.first_seconds)} s"),
        ("seconds per frame", f"{in_figures(pace)} ({1 / pace:.3g} frames per second)"),
        ("seconds", in_figures(run.seconds)),
        ("steps", f"{steps}, CFG 1 (locked)"),
        ("evaluations", f"{run.evaluations:g}, context passes included"),
        ("window", view),
        *rows_on_prompts(plan, run),
        ("key-value cache", f"{run.cache_bytes / 2**20:.1f} MiB"),
        *memory,
        ("decoded", decoded),
        *start,
        *((entry["node"], entry["summary"]) for entry in run.log.entries),
    )


def rows_on_prompts(plan: StreamPlan, run: StreamRun) -> tuple[tuple[str, str], ...]:
    """When another prompt took over, and what it took to read again what was in view."""

    def words(change: Change) -> str:
        second, price = (
            plan.timeline.begins(change.frame),
            counted(change.evaluations, "evaluation"),
        )
        where = f"from {in_seconds(second)} (frame {pictures_before(change.frame)}, {price} more"
        if not change.text:
            return f"another {where})"
        text = textwrap.shorten(change.text, MOST_SHOWN)
        return f'"{text}" {where}, encoded in {in_figures(change.seconds)} s)'

    if not run.changes:
        return ()
    return (("prompts", "; ".join(["one from the start", *map(words, run.changes)])),)


def data_of_stream(plan: StreamPlan, run: StreamRun, pace: float, decoded: str) -> dict[str, Any]:
    """The report for programs. pace: seconds per picture."""
    return {
        "accelerator": plan.record.id,
        "frames": run.pictures,
        "latent_frames": run.samples.shape[2],
        "frames_per_block": plan.made[0].frames,
        "blocks": run.blocks,
        "given_frames": plan.given,
        "seconds": run.seconds,
        "first_frame_seconds": run.first_seconds,
        "seconds_per_frame": pace,
        "frames_per_second": 1 / pace,
        "evaluations": run.evaluations,
        "forward_passes": run.log.calls,
        "window_frames": plan.window.frames,
        "sink_frames": plan.window.sink,
        "cache_bytes": run.cache_bytes,
        "peak_bytes": run.peak_bytes,
        "sigmas": list(plan.made[-1].sigmas),
        "first_sigmas": list(plan.made[0].sigmas),
        "decoded": decoded,
        "interrupted": run.is_interrupted,
        "prompt_changes": [
            {
                "frame": pictures_before(change.frame),
                "second": plan.timeline.begins(change.frame),
                "evaluations": change.evaluations,
                "text": change.text,
                "seconds": change.seconds,
            }
            for change in run.changes
        ],
        "entries": run.log.entries,
    }


def notes_on_start(
    start_latent: Mapping[str, Any] | None, picture: Tensor | None
) -> tuple[str, ...]:
    """What is to be told of the picture that core's ARVideoI2V put on the model."""
    if picture is None:
        return ()
    if start_latent is None:
        return ("The clip starts with the picture that ARVideoI2V put on the model.",)
    return (
        "The clip starts with start_latent; the picture that ARVideoI2V put on the model is left"
        " out.",
    )


def notes_on_stream(plan: StreamPlan, run: StreamRun, vae) -> tuple[str, ...]:
    notes = []
    if run.is_interrupted:
        notes.append(
            f"Interrupted: the result is what was finished, {run.blocks} of"
            f" {counted(len(plan.made), 'block')}."
        )
    if vae is not None and not can_decode_frames(vae):
        notes.append(
            f"{type(vae.first_stage_model).__name__} cannot decode a clip in pieces, so it was"
            " decoded whole at the end. The Wan 2.1 VAE shows every block as it is finished."
        )
    return (*notes, *notes_on_timeline(plan), *notes_on_window(plan))


def notes_on_timeline(plan: StreamPlan) -> tuple[str, ...]:
    """What to tell of prompts that begin before the first block that is made, or after it."""
    timeline = plan.timeline
    start, opening = timeline.begins(plan.given), timeline.seconds[plan.opening]
    if plan.opening:
        over = counted(plan.opening, "prompt")
        return (
            f"The start that was given lasts {in_seconds(start)}, so {over} of the timeline"
            f" {'is' if plan.opening == 1 else 'are'} over before the first block is made.",
        )
    if opening > start and not timeline.is_reached(plan.opening, plan.given):
        return (
            f"The first prompt of the timeline begins at {in_seconds(opening)}; with none before it"
            " it serves from the start.",
        )
    return ()


def notes_on_live(live: LiveStream) -> tuple[str, ...]:
    """What to tell of a text that was sent and never followed."""
    if live.waiting is None:
        return ()
    text = textwrap.shorten(live.waiting.text, MOST_SHOWN)
    return (f'The text "{text}" was sent, and the run ended before the next block began.',)


def notes_on_window(plan: StreamPlan) -> tuple[str, ...]:
    """What to tell of a clip longer than those of the training."""
    if plan.frames <= TRAINED_FRAMES:
        return ()
    seen = plan.window.capacity(plan.frames)
    sinks = f"sink_frames to {plan.made[0].frames}"
    if seen > TRAINED_FRAMES:
        setting = f"Set window_frames to {TRAINED_FRAMES} or less"
        also = "" if plan.window.sink else f", and {sinks}: without sinks long clips flicker"
        return (
            f"{in_frames(seen)} are more than the {TRAINED_FRAMES} these models were trained on,"
            f" all of them seen at once: memory grows and quality may fade. {setting}{also}.",
        )
    if plan.window.sink == 0:
        return (
            f"A window without sinks, in a clip longer than the {TRAINED_FRAMES} latent frames"
            " these models were trained on: pictures are known to flicker once the first frames"
            f" have left it. Set {sinks}; they count as part of window_frames.",
        )
    return ()


NODES = [FewStepStream]
