"""A clip on disk while it is made: an mp4 that grows by a block at a time and plays at any moment.

The host's own writers cannot do this: VideoFromComponents.save_to, which Save Video calls, takes
all pictures at once, and its file is none before it is closed. What they write is written here too:
H.264 of 4:2:0 colour, the host's names and counters, the workflow inside.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy_api.v0_0_2 import InputImpl, Types, io, ui
from torch import Tensor

from ...loras.words import counted
from ...quality.libraries import in_words
from ...samplers.plan import PlanError

# A fragment for each block, which says of itself where in time it begins. The header goes first and
# counts no pictures. Keys of any name are kept in it, as the host keeps "prompt" and "workflow".
MOVFLAGS = "frag_custom+empty_moov+default_base_moof+frag_discont+skip_trailer+use_metadata_tags"


class Recording:
    """An mp4 below the host's output folder, to which blocks of pictures are added.

    Used with `with`. The file is there from the first block on. Blocks are encoded in a thread
    beside the sampling; the next one waits for it, so no more than two are in memory.

    is_alone: nobody wants the pictures beside it.
    """

    def __init__(
        self,
        name: str,
        size: tuple[int, int],
        frame_rate: float,
        metadata: Mapping[str, Any],
        is_alone: bool,
    ):
        """name: as the host's filename_prefix, with its counter and ending to come. size: (width,
        height). Raises what the host raises for a name that leads out of its output folder.
        """
        self.name, self.size, self.metadata, self.is_alone = name, size, metadata, is_alone
        # As the host's own writers round it.
        self.frame_rate = Fraction(round(frame_rate * 1000), 1000)
        self.path: Path | None = None  # of the file, once it is there
        self.blocks = self.pictures = self.bytes = 0  # written
        self.skipped = 0  # pictures of the clip that were there before it
        self.failure = ""  # why nothing more is written, in words
        self._file: FileIO | None = None
        self._worker = ThreadPoolExecutor(1)
        self._pending: Future | None = None
        self._place()

    @property
    def told(self) -> dict[str, Any] | None:
        """What was recorded, for programs; None where nothing was."""
        if self.path is None:
            return None
        return {
            "file": Path(
                os.path.relpath(self.path, folder_paths.get_output_directory())
            ).as_posix(),
            "frames": self.pictures,
            "frame_rate": float(self.frame_rate),
            "bytes": self.bytes,
        }

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_) -> None:
        try:
            self.wait()
        finally:
            self._worker.shutdown()
            if self._file is not None:
                self._file.close()

    def add(self, pictures: Sequence[Tensor]) -> None:
        """Write a finished block. pictures: (frames, H, W, 3) in 0..1, in order, not to be changed.

        Raises what wait raises. After a failure nothing more is written.
        """
        self.wait()
        if not self.failure:
            self._pending = self._worker.submit(self._write, pictures)

    def wait(self) -> None:
        """Return when all that was added is in the file, or `failure` says why it is not.

        Raises OSError in words where not even the first block could be written. Later what is made
        is worth more than the file: a full disk must not cost the clip.
        """
        pending, self._pending = self._pending, None
        try:
            if pending is not None:
                pending.result()
        except OSError as error:
            words = (
                f"A block of the clip could not be written to {self.name} in the output folder:"
                f" {error.strerror or error}."
            )
            if self.blocks == 0:
                raise OSError(words) from error
            self.failure = (
                f"{words} The file ends there, after {counted(self.pictures, 'picture')}; the"
                " latent is whole."
            )

    def _write(self, pictures: Sequence[Tensor]) -> None:
        count, part = self._encoded(pictures)
        if self._file is None:
            self.path = self._place()
            # Not a file that is there already: another server may use the same folder.
            self._file = self.path.open("xb", buffering=0)
        self._append(part)
        self.blocks, self.pictures = self.blocks + 1, self.pictures + count

    def _append(self, part: bytes) -> None:
        """Write a block so that it is there as a whole or not at all: under the name of a box that
        players pass over, and under its own once all of it is written.
        """
        start = first_fragment(part)
        header = part[:start] if self.blocks == 0 else b""
        left = memoryview(header + part[start : start + 4] + b"free" + part[start + 8 :])
        place = self.bytes + len(header) + 4
        self.bytes += len(left)
        while left:
            left = left[self._file.write(left) :]
        self._file.seek(place)
        self._file.write(b"moof")
        self._file.seek(self.bytes)

    def _place(self) -> Path:
        folder, name, counter, *_ = folder_paths.get_save_image_path(
            self.name, folder_paths.get_output_directory(), *self.size
        )
        return Path(folder, f"{name}_{counter:05}_.mp4")

    def _encoded(self, pictures: Sequence[Tensor]) -> tuple[int, bytes]:
        """How many pictures, and an mp4 of them: a header and one fragment.

        Each block begins with a key frame and needs none of those before it.
        """
        import av

        buffer, count = BytesIO(), 0
        options = {
            "movflags": MOVFLAGS,
            "fragment_index": str(self.blocks + 1),
            # Otherwise every fragment would be moved to the beginning.
            "avoid_negative_ts": "disabled",
        }
        with av.open(buffer, "w", format="mp4", container_options=options) as container:
            if self.blocks == 0:
                container.metadata.update(
                    {key: json.dumps(value) for key, value in self.metadata.items()}
                )
            stream = container.add_stream("h264", rate=self.frame_rate)
            stream.width, stream.height = self.size
            stream.pix_fmt = "yuv420p"
            # Where pictures refer to later ones, decoding a block begins before it is shown, and so
            # before the end of the block in front of it.
            stream.codec_context.max_b_frames = 0
            for picture in (picture for part in pictures for picture in part):
                frame = av.VideoFrame.from_ndarray(in_bytes(picture), format="rgb24")
                frame = frame.reformat(format="yuv420p")
                frame.pts, frame.time_base = self.pictures + count, 1 / self.frame_rate
                container.mux(stream.encode(frame))
                count += 1
            container.mux(stream.encode(None))
        return count, buffer.getvalue()


def in_bytes(picture: Tensor):
    """(H, W, 3) in 0..1 as the host's writers hand it to the encoder."""
    return (picture * 255).clamp(0, 255).byte().cpu().numpy()


def first_fragment(part: bytes) -> int:
    """Where the header of a fragmented mp4 ends. Its boxes begin with their length and name."""
    start = 0
    while part[start + 4 : start + 8] != b"moof":
        start += int.from_bytes(part[start : start + 4], "big")
    return start


def recording_of(
    name: str, size: tuple[int, int], frame_rate: float, hidden: Any, is_alone: bool
) -> Recording:
    """The recording of this name, with the workflow inside as Save Video writes it.

    size: (width, height). hidden: with prompt and extra_pnginfo.
    """
    metadata = dict(getattr(hidden, "extra_pnginfo", None) or {})
    prompt = getattr(hidden, "prompt", None)
    if prompt is not None:
        metadata["prompt"] = prompt
    return Recording(name, size, frame_rate, {} if args.disable_metadata else metadata, is_alone)


def refuse_without_encoder() -> None:
    """Raise PlanError where nothing can be recorded with this Python."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise PlanError(
            "record cannot write a video: PyAV, which ComfyUI brings, is not installed in its"
            " Python. Install it there (python -m pip install av), or clear record."
        ) from error
    except Exception as error:
        raise PlanError(
            f"record cannot write a video: {in_words('av', error)} Or clear record."
        ) from error
    try:
        av.codec.Codec("h264", "w")
    except ValueError as error:
        raise PlanError(
            "record cannot write a video: PyAV is there, and its FFmpeg has no H.264 encoder."
            " Install PyAV's own build (python -m pip install --force-reinstall av). Or clear"
            " record, and save the images in another format."
        ) from error


# ---------------------------------------------------------------- what the node hands on


def video_of(path: Path):
    """The host's VIDEO of a file."""
    return InputImpl.VideoFromFile(str(path))


def video_of_pictures(images: Tensor, frame_rate: float):
    """The host's VIDEO of pictures, (frames, H, W, 3), as Create Video makes it."""
    return InputImpl.VideoFromComponents(
        Types.VideoComponents(images=images, frame_rate=Fraction(frame_rate))
    )


def in_history(path: Path) -> dict[str, Any]:
    """What a node's `ui` has to hold for /history and the editor's list of results to know a file
    of the output folder.

    Not as Save Video has it, under "images": where a node had live pictures, frontends (seen in
    1.47.12) take the last of them for the video, and Nodes 2.0 says that it failed to load.
    """
    subfolder = os.path.relpath(path.parent, folder_paths.get_output_directory())
    saved = ui.SavedResult(path.name, "" if subfolder == "." else subfolder, io.FolderType.output)
    return {"video": [saved]}
