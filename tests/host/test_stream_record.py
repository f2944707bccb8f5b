"""Clips on disk as they are made: the file plays at any moment, also where the run, the disk or the
whole server fails, and memory does not grow with it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import comfy.model_management
import folder_paths
import pytest
import torch
from comfy.cli_args import args
from comfy_api.v0_0_2 import InputImpl
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes.host import stream as stream_run
from comfyui_fewstep.nodes.host import stream_record
from comfyui_fewstep.nodes.host.attach import with_record
from comfyui_fewstep.nodes.host.files import load_vae
from comfyui_fewstep.nodes.host.model import with_model_sampling
from comfyui_fewstep.nodes.host.stream_record import Recording
from comfyui_fewstep.nodes.stream import FewStepStream
from comfyui_fewstep.samplers.plan import PlanError
from thinning import thorough
from torch import Tensor

import nodes as core
import small_models
from left_behind import live_bytes

pytestmark = pytest.mark.skipif(
    not small_models.HAS_CAUSAL_WAN, reason="this ComfyUI has no causal Wan"
)

CHUNKS, FRAMES = CATALOG["self-forcing-dmd"], CATALOG["causal-forcing-framewise"]
SIDE = 8
PROMPT = {
    "1": {"class_type": "FewStepStream", "inputs": {"record": "clip"}},
    "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 2]}},
}
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def causal(models):
    path = models / "diffusion_models" / "recorded.safetensors"
    return small_models.load_model(small_models.write_wan(path, "wan21_causal", seed=2))


@pytest.fixture(scope="module")
def vae(models):
    return load_vae(str(small_models.write_wan_vae(models / "vae" / "recorded_vae.safetensors")))


@pytest.fixture(scope="module")
def text():
    return small_models.conditioning(length=6)


@pytest.fixture
def output(tmp_path):
    """The host's output folder, this test's own."""
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_output_directory(before)


@pytest.fixture
def stream(causal, text, vae, output):
    """stream(frames, record="", images=False, **more): one run of the node, whose images output is
    connected where `images` says so. Gives the node's outputs, its `ui` beside them.
    """

    def run(frames, accelerator=FRAMES, images=False, extra_pnginfo=None, model=causal, **more):
        links = {"images": ["1", 1]} if images else {}
        prompt = {**PROMPT, "3": {"class_type": "PreviewImage", "inputs": links}}
        hidden = SimpleNamespace(unique_id="1", prompt=prompt, extra_pnginfo=extra_pnginfo)
        node = type("Asked", (FewStepStream,), {"hidden": hidden})
        model = with_record(with_model_sampling(model, accelerator), accelerator)
        latent = {"samples": torch.zeros(1, 16, frames, SIDE, SIDE)}
        inputs = {"window_frames": 4, "sink_frames": 1, "vae": vae, **more}
        if accelerator is CHUNKS:
            inputs |= {"window_frames": 0, "sink_frames": 0}
        with torch.inference_mode():
            made = node.execute(model, text, latent, 3, 0, **inputs)
        latent, images, report, video = made.args
        data = made.ui["fewstep_report"][0]
        return SimpleNamespace(
            latent=latent["samples"],
            images=images,
            report=report,
            video=video,
            data=data,
            ui=made.ui,
        )

    return run


def played(file: Path | bytes) -> Tensor:
    """The pictures of a video as a player decodes them, (frames, H, W, 3) in 0..1."""
    source = io.BytesIO(file) if isinstance(file, bytes) else str(file)
    with av.open(source) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.stack([torch.from_numpy(frame) for frame in frames]) / 255


def times(file: Path) -> list[Fraction]:
    """When each picture of a video is shown, in seconds."""
    with av.open(str(file)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours - theirs).abs().mean().item()


def are_those(recorded: Tensor, images: Tensor) -> bool:
    """Whether each recorded picture is nearest to its own image, of all of them."""
    apart = torch.cdist(recorded.flatten(1), images.flatten(1))
    return apart.argmin(1).tolist() == list(range(len(images)))


# ---------------------------------------------------------------- what is in the file


@pytest.mark.parametrize(
    ("accelerator", "frames"), [(FRAMES, 5), (CHUNKS, 9)], ids=["frames", "chunks"]
)
def test_the_file_plays_the_images_and_is_as_good_as_save_videos(
    stream, output, accelerator, frames
):
    made = stream(frames, accelerator, images=True, record="clip")
    ours = played(output / "clip_00001_.mp4")
    count = 4 * frames - 3
    assert ours.shape == made.images.shape == (count, 8 * SIDE, 8 * SIDE, 3)
    # What core's Save Video makes of the same pictures.
    core_video = stream_record.video_of_pictures(made.images, 16.0)
    core_video.save_to(str(output / "core.mp4"))
    lost = difference(played(output / "core.mp4"), made.images)
    assert difference(ours, made.images) < 1.1 * lost + 1 / 255
    assert are_those(ours, made.images)
    assert times(output / "clip_00001_.mp4") == [Fraction(n, 16) for n in range(count)]
    assert made.data["recorded"] == {
        "file": "clip_00001_.mp4",
        "frames": count,
        "frame_rate": 16.0,
        "bytes": (output / "clip_00001_.mp4").stat().st_size,
    }
    assert f"recorded: clip_00001_.mp4, {count} frames at 16 a second" in made.report


def test_the_file_is_h264_that_browsers_play_with_a_key_frame_for_each_block(stream, output):
    stream(9, CHUNKS, record="clip")
    with av.open(str(output / "clip_00001_.mp4")) as container:
        video = container.streams.video[0]
        assert (video.codec.name, video.pix_fmt) == ("h264", "yuv420p")
        assert (video.width, video.height) == (64, 64) and video.average_rate == 16
        keys = [
            packet.pts * packet.time_base for packet in container.demux(video) if packet.is_keyframe
        ]
    # Three latent frames a block: 9 pictures, then 12 each.
    assert set(keys) >= {0, Fraction(9, 16), Fraction(21, 16)}


def test_the_hosts_video_of_the_file_has_its_length_and_can_be_saved_again(stream, output):
    made = stream(5, record="clip")
    assert isinstance(made.video, InputImpl.VideoFromFile)
    components = made.video.get_components()
    assert components.frame_rate == 16 and components.images.shape == (17, 64, 64, 3)
    assert made.video.get_duration() == pytest.approx(17 / 16, abs=0.01)
    assert made.video.get_dimensions() == (64, 64)
    made.video.save_to(str(output / "again.mp4"))
    assert torch.equal(played(output / "again.mp4"), played(output / "clip_00001_.mp4"))


def test_recording_changes_no_bit_of_the_clip(stream):
    plain, recorded = stream(4, images=True), stream(4, images=True, record="clip")
    assert torch.equal(plain.latent, recorded.latent)
    assert torch.equal(plain.images, recorded.images)
    assert plain.data["recorded"] is None and "recorded" not in plain.report


def test_the_workflow_is_in_the_file_as_save_video_writes_it(stream, output, monkeypatch):
    workflow = {"nodes": [{"type": "FewStepStream", "title": "moof größer"}]}
    made = stream(3, images=True, record="clip", extra_pnginfo={"workflow": workflow})
    with av.open(str(output / "clip_00001_.mp4")) as container:
        inside = {key: json.loads(container.metadata[key]) for key in ("workflow", "prompt")}
    assert inside["workflow"] == workflow and inside["prompt"]["2"] == PROMPT["2"]
    monkeypatch.setattr(args, "disable_metadata", True)
    stream(3, record="clip", extra_pnginfo={"workflow": workflow})
    with av.open(str(output / "clip_00002_.mp4")) as container:
        assert not {"workflow", "prompt"} & set(container.metadata)
    assert made.data["frames"] == 9


def test_the_history_names_the_file_and_not_among_pictures(stream, output):
    made = stream(3, record="few/step/clip")
    assert made.ui["video"] == [
        {"filename": "clip_00001_.mp4", "subfolder": os.path.join("few", "step"), "type": "output"}
    ]
    # The editor would take the node's last live picture for this video.
    assert "images" not in made.ui and "animated" not in made.ui
    assert made.data["recorded"]["file"] == "few/step/clip_00001_.mp4"
    assert "video" not in stream(3).ui


# ---------------------------------------------------------------- names


def test_names_and_counters_are_the_hosts(stream, output):
    (output / "clip_00041_.mp4").write_bytes(b"someone's")
    stream(2, record=" clip ")
    stream(2, record="clip")
    stream(2, record="sub/folder/clip_%width%x%height%")
    names = {path.relative_to(output).as_posix() for path in output.rglob("*.mp4")}
    assert names == {
        "clip_00041_.mp4",
        "clip_00042_.mp4",
        "clip_00043_.mp4",
        "sub/folder/clip_64x64_00001_.mp4",
    }
    assert (output / "clip_00041_.mp4").read_bytes() == b"someone's"


@pytest.mark.parametrize("name", ["../clip", "sub/../../clip", "/tmp/clip", "..\\..\\clip"])
def test_a_name_that_leads_out_is_refused_as_the_host_refuses_it(stream, output, causal, name):
    if "\\" in name and sys.platform != "win32":
        stream(2, record=name)  # a name like any other here
        assert [path.parent for path in output.rglob("*.mp4")] == [output]
        return
    model, evaluations = counted(causal)
    with pytest.raises(Exception, match="outside the output folder is not allowed"):
        stream(2, record=name, model=model)
    assert evaluations == [] and not list(output.parent.glob("clip*"))


def counted(model):
    """(the model, a list that every evaluation lengthens)"""
    model, evaluations = model.clone(), []

    def forward(apply, options):
        evaluations.append(options["input"].shape)
        return apply(options["input"], options["timestep"], **options["c"])

    model.set_model_unet_function_wrapper(forward)
    return model, evaluations


def at_evaluation(model, number: int, happen: Callable[[], None]):
    """The model, with something that happens in its evaluation of this number, from 1."""
    model, evaluations = model.clone(), []

    def forward(apply, options):
        evaluations.append(0)
        if len(evaluations) == number:
            happen()
        return apply(options["input"], options["timestep"], **options["c"])

    model.set_model_unet_function_wrapper(forward)
    return model


# ---------------------------------------------------------------- at any moment


def test_each_block_is_in_the_file_before_the_next_one_is_finished(stream, causal, output):
    """Looked at in the last evaluation of each block: the blocks before it play."""
    path, seen = output / "clip_00001_.mp4", []

    def look(apply, options):
        evaluations.append(0)
        # Four steps and a context pass for each latent frame.
        if len(evaluations) % 5 == 4 and len(evaluations) > 5:
            wanted = 4 * (len(evaluations) // 5) - 3
            deadline = time.monotonic() + PATIENCE_SECONDS
            while time.monotonic() < deadline and playable(path) < wanted:
                time.sleep(0.01)
            seen.append((playable(path), wanted))
        return apply(options["input"], options["timestep"], **options["c"])

    evaluations: list[int] = []
    model = causal.clone()
    model.set_model_unet_function_wrapper(look)
    stream(5, record="clip", model=model)
    assert seen == [(1, 1), (5, 5), (9, 9), (13, 13)]


def playable(path: Path) -> int:
    return len(played(path)) if path.exists() else 0


def test_whatever_of_a_block_is_written_the_file_plays_those_before_it(stream, output, monkeypatch):
    """A server that is killed while it writes leaves the beginning of a block. It has its name when
    the rest is there.
    """
    written: list[bytes] = []

    class Watched(io.FileIO):
        def write(self, part):
            place = self.tell()
            self.seek(0)
            before = self.readall()
            self.seek(place)
            # As much of it as a process gets done in half the time, and all of it.
            written.extend(
                before[:place] + bytes(part[:n]) + before[place + n :]
                for n in (len(part) // 2, len(part) - 1, len(part))
            )
            return super().write(part)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode, buffering: Watched(path, mode + "+"))
        stream(4, record="clip")
    whole = (output / "clip_00001_.mp4").read_bytes()
    pictures = played(whole)
    assert written[-1] == whole and len(written) == 4 * 2 * 3
    for number, file in enumerate(written):
        blocks = (number + 1) // 6
        if blocks:
            assert torch.equal(played(file), pictures[: 4 * blocks - 3])


def boxes(data: bytes) -> list[tuple[int, bytes]]:
    """(place, kind) of the parts of an mp4."""
    found, place = [], 0
    while place < len(data):
        found.append((place, data[place + 4 : place + 8]))
        place += int.from_bytes(data[place : place + 4], "big")
    return found


@pytest.mark.parametrize("number", [8, 13, 20])
def test_an_error_leaves_the_blocks_that_were_finished(stream, causal, output, number):
    def break_down():
        raise RuntimeError("the network broke")

    with pytest.raises(RuntimeError, match="the network broke"):
        stream(6, record="clip", model=at_evaluation(causal, number, break_down))
    assert playable(output / "clip_00001_.mp4") == 4 * (number // 5) - 3
    assert open_files(output) == []
    stream(2, record="clip")
    assert playable(output / "clip_00002_.mp4") == 5


def test_an_interruption_leaves_the_blocks_that_were_finished(stream, causal, output):
    whole = stream(6, images=True)
    model = at_evaluation(causal, 13, lambda: core.interrupt_processing(True))
    made = stream(6, record="clip", images=True, model=model)
    assert made.data["interrupted"] and made.data["blocks"] == 2
    assert made.data["recorded"]["frames"] == playable(output / "clip_00001_.mp4") == 5
    assert torch.equal(made.images, whole.images[:5])
    assert len(made.video.get_components().images) == 5 and open_files(output) == []


def test_a_run_that_ends_before_its_first_block_leaves_no_file(stream, causal, output):
    model = at_evaluation(causal, 2, lambda: core.interrupt_processing(True))
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        stream(6, record="sub/clip", model=model)
    assert [path for path in output.rglob("*") if path.is_file()] == []


def open_files(folder: Path) -> list[str]:
    """Files of a folder that this process holds open, where the system tells."""
    if not Path("/proc/self/fd").exists():
        return []
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(link))
    return [path for path in found if path.startswith(str(folder))]


@pytest.mark.skipif(sys.platform == "win32", reason="limits a file's size by a Unix system call")
def test_a_disk_that_is_full_is_told_the_clip_is_made_and_what_is_there_plays(stream, output):
    import resource

    unbroken = stream(6, record="whole")
    whole = (output / "whole_00001_.mp4").read_bytes()
    fragments = [start for start, kind in boxes(whole) if kind == b"moof"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Room for three blocks and the beginning of the fourth.
    resource.setrlimit(resource.RLIMIT_FSIZE, (fragments[3] + 20, before[1]))
    try:
        full = stream(6, record="clip")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(OSError, match="could not be written to none in the output folder"):
            stream(6, record="none")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (note,) = full.data["notes"]
    assert "could not be written to clip in the output folder" in note and "9 pictures" in note
    assert torch.equal(full.latent, unbroken.latent) and full.data["recorded"]["frames"] == 9
    assert torch.equal(played(output / "clip_00001_.mp4"), played(whole)[:9])
    assert open_files(output) == []


# ---------------------------------------------------------------- memory


def test_with_nothing_connected_to_images_no_pictures_are_kept(stream, output):
    kept, alone = stream(5, images=True, record="clip"), stream(5, record="clip")
    assert kept.data["decoded"] == "block by block" and kept.images.shape[0] == 17
    assert alone.data["decoded"] == "block by block, recorded and not kept"
    assert "recorded its pictures and kept none" in alone.images.message
    assert alone.data["notes"] == []
    assert torch.equal(kept.latent, alone.latent)
    files = [played(output / f"clip_0000{n}_.mp4") for n in (1, 2)]
    assert torch.equal(*files)


@thorough
@pytest.mark.parametrize("length", [36, 120])
def test_all_memory_of_a_recorded_run_is_flat_in_length(stream, monkeypatch, length):
    """Every tensor there is beyond those before the run, the latent not counted: it is the result.
    Kept pictures would be 192 KiB for each latent frame.
    """
    after = stream_run.Screen.after_block

    def most_held(frames: int, **more) -> int:
        held = []
        before = live_bytes()

        def count(self, run, made, seconds):
            if run.blocks % (frames // 4) == 0:
                held.append(live_bytes() - before - (made + frames) * 16 * SIDE * SIDE * 4)
            after(self, run, made, seconds)

        with monkeypatch.context() as patch:
            patch.setattr(stream_run.Screen, "after_block", count)
            stream(frames, **more)
        assert len(held) == 4
        return max(held)

    stream(1)  # the host keeps the model it has loaded
    short, long = (most_held(frames, record="clip") for frames in (12, length))
    picture = 64 * 64 * 3 * 4
    # Two blocks of four pictures, one of them in the encoder, at most.
    assert long - short < 8 * picture
    assert most_held(length, images=True) - long > (length - 12) * 4 * picture / 2, "kept, it grows"


# ---------------------------------------------------------------- going on


@thorough
def test_a_clip_that_goes_on_is_recorded_from_where_the_first_file_ends(stream, output):
    first = stream(6, record="clip")
    start = {"samples": first.latent}
    both = stream(12, images=True, record="clip", start_latent=start)
    assert both.data["recorded"]["frames"] == 24 and "without those of start_latent" in both.report
    parts = [played(output / f"clip_0000{n}_.mp4") for n in (1, 2)]
    assert [len(part) for part in parts] == [21, 24]
    joined = torch.cat(parts)
    assert are_those(joined, both.images)
    # Kept without sinks, the last latents of a view are all that the next clip needs.
    settings = {"window_frames": 4, "sink_frames": 0}
    whole = stream(12, start_latent=start, **settings)
    last = stream(9, start_latent={"samples": first.latent[:, :, 3:]}, record="last", **settings)
    assert torch.allclose(last.latent[:, :, 3:], whole.latent[:, :, 6:], atol=1e-4)
    assert playable(output / "last_00001_.mp4") == 24


def test_a_start_picture_is_the_first_of_the_recording(stream, output):
    generator = torch.Generator().manual_seed(5)
    start = {"samples": torch.randn(1, 16, 1, SIDE, SIDE, generator=generator)}
    made = stream(4, images=True, record="clip", start_latent=start)
    ours = played(output / "clip_00001_.mp4")
    assert made.data["recorded"]["frames"] == 13 and are_those(ours, made.images)


def test_a_clip_goes_on_from_its_file_alone(stream, output, vae):
    """As after a server that was killed: no latent is left."""
    stream(5, record="clip")
    last = InputImpl.VideoFromFile(str(output / "clip_00001_.mp4")).get_components().images[-9:]
    with torch.inference_mode():
        start = {"samples": vae.encode(last)}
    made = stream(6, record="clip", start_latent=start)
    assert made.data["given_frames"] == 3 and playable(output / "clip_00002_.mp4") == 12


# ---------------------------------------------------------------- decoding that finds no memory


def out_of_memory_at(monkeypatch, number: int) -> None:
    """The VAE finds no memory for the latent frame of this number, from 1, nor for later ones."""
    decode, seen = stream_run.FrameDecoder._pictures, []

    def fail(self, latent):
        seen.append(0)
        if len(seen) >= number:
            raise comfy.model_management.OOM_EXCEPTION("none left")
        return decode(self, latent)

    monkeypatch.setattr(stream_run.FrameDecoder, "_pictures", fail)


def test_what_is_decoded_at_the_end_is_recorded_there(stream, output, monkeypatch):
    with monkeypatch.context() as patch:
        out_of_memory_at(patch, 3)
        made = stream(5, images=True, record="clip")
    assert made.data["decoded"] == "whole, at the end" and made.data["recorded"]["frames"] == 17
    assert are_those(played(output / "clip_00001_.mp4"), made.images)
    with monkeypatch.context() as patch:
        out_of_memory_at(patch, 3)
        alone = stream(5, record="clip")
    assert "kept none" in alone.images.message and playable(output / "clip_00002_.mp4") == 17


def test_a_start_picture_that_finds_no_memory_is_recorded_at_the_end(stream, output, monkeypatch):
    start = {"samples": torch.randn(1, 16, 1, SIDE, SIDE)}
    out_of_memory_at(monkeypatch, 1)
    made = stream(3, images=True, record="clip", start_latent=start)
    assert made.data["recorded"]["frames"] == 9
    assert are_those(played(output / "clip_00001_.mp4"), made.images)


def test_a_recording_that_cannot_be_whole_says_so(stream, output, monkeypatch, vae):
    def full(self, samples):
        raise comfy.model_management.OOM_EXCEPTION("none left")

    monkeypatch.setattr(type(vae), "decode", full)
    with monkeypatch.context() as patch:
        out_of_memory_at(patch, 3)
        made = stream(5, record="clip")
    assert made.data["recorded"]["frames"] == playable(output / "clip_00001_.mp4") == 5
    assert "The recording ends after 5 of 17 pictures" in made.report
    assert torch.isfinite(made.latent).all()
    out_of_memory_at(monkeypatch, 1)
    made = stream(5, record="none")
    assert made.data["recorded"] is None and "recorded nothing" in made.video.message
    assert "The recording ends after 0 of 17 pictures" in made.report
    assert "video" not in made.ui


# ---------------------------------------------------------------- the video without a recording


def test_without_a_record_the_video_is_made_of_the_images(stream, output):
    made = stream(3)
    assert isinstance(made.video, InputImpl.VideoFromComponents)
    components = made.video.get_components()
    assert components.frame_rate == 16 and torch.equal(components.images, made.images)
    assert list(output.rglob("*")) == []
    assert "has no VAE" in stream(3, vae=None).video.message


def test_a_video_that_is_asked_for_is_refused_where_there_is_no_vae(causal, text):
    prompt = {"1": {"inputs": {}}, "2": {"inputs": {"video": ["1", 3]}}}
    hidden = SimpleNamespace(unique_id="1", prompt=prompt, extra_pnginfo=None)
    node = type("Asked", (FewStepStream,), {"hidden": hidden})
    model = with_record(with_model_sampling(causal, FRAMES), FRAMES)
    latent = {"samples": torch.zeros(1, 16, 3, SIDE, SIDE)}
    with pytest.raises(PlanError, match="has no VAE, so it makes no images"):
        node.execute(model, text, latent, 1, 0, 0, 0)


# ---------------------------------------------------------------- what is refused


class Tiny:
    """A VAE that decodes whole clips alone."""

    latent_dim, latent_channels, first_stage_model = 3, 16, torch.nn.Identity()
    upscale_ratio, output_device = (lambda frames: frames, 1, 1), torch.device("cpu")

    def throw_exception_if_invalid(self):
        pass


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"vae": None}, "record writes decoded pictures, and no VAE is connected"),
        ({"vae": Tiny()}, "Identity cannot decode a clip in pieces.* clear record"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_anything_runs(
    stream, causal, output, inputs, message
):
    model, evaluations = counted(causal)
    with pytest.raises(PlanError, match=message):
        stream(3, record="clip", model=model, **inputs)
    assert evaluations == [] and list(output.rglob("*")) == []


def test_a_batch_is_refused(causal, text, vae, output):
    model = with_record(with_model_sampling(causal, FRAMES), FRAMES)
    latent = {"samples": torch.zeros(2, 16, 3, SIDE, SIDE)}
    with pytest.raises(PlanError, match="a batch of 2. Set batch_size to 1, or clear record"):
        FewStepStream.execute(model, text, latent, 1, 0, 0, 0, vae=vae, record="clip")
    assert list(output.rglob("*")) == []


def test_an_encoder_that_is_missing_is_told_before_anything_runs(stream, causal, monkeypatch):
    model, evaluations = counted(causal)

    def unknown(name: str, mode: str):
        raise av.codec.codec.UnknownCodecError(name)

    monkeypatch.setattr(av.codec, "Codec", unknown)
    with pytest.raises(PlanError, match="FFmpeg has no H.264 encoder. Install PyAV's own build"):
        stream(3, record="clip", model=model)
    assert evaluations == []
    assert stream(3).data["frames"] == 9, "nothing else needs it"


# ---------------------------------------------------------------- the recording by itself


def test_recordings_of_one_name_at_the_same_time_get_files_of_their_own(output):
    """As two servers with one output folder make them."""
    pictures = [torch.rand(4, 64, 64, 3), torch.rand(4, 64, 64, 3)]
    with (
        Recording("clip", (64, 64), 16.0, {}, True) as first,
        Recording("clip", (64, 64), 16.0, {}, True) as second,
    ):
        for recording, count in ((first, 2), (second, 1), (first, 1)):
            recording.add(pictures[:count])
            recording.wait()
    assert [playable(output / f"clip_0000{n}_.mp4") for n in (1, 2)] == [12, 4]
