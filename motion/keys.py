"""Published motion module files: what a header proves, and their tensors under this pack's names.

Two layouts are in use, both in `down_blocks.0.motion_modules.1` and its like. There AnimateDiff's
own, which ComfyUI packs read, says
`temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q.weight`; diffusers' motion
adapter says `transformer_blocks.0.attn1.to_q.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from types import MappingProxyType

from torch import Tensor

from ..loras.refusal import Refusal
from ..loras.words import counted
from .module import Architecture, MotionModule, sinusoids

POSITIONS = ".positions.weight"
# AnimateLCM's files carry no position encodings; its authors' code computes this many.
POSITIONS_WITHOUT_ENCODING = 64
# Far beyond any UNet and any clip: a header that names more is no motion module's.
LARGEST_WIDTH, MOST_POSITIONS = 1 << 14, 1 << 16


class MotionFileError(Refusal):
    """A file that is no motion module for SD 1.5. The message says what it is and what to do."""


class Version(str, Enum):
    """Generations of AnimateDiff that the tensors tell apart. Values are for people.

    AnimateDiff-Lightning has v2's tensors, name for name and shape for shape; so has AnimateLCM
    where a converter has written its position encodings out at another length.
    """

    V1 = "AnimateDiff v1"
    V2 = "AnimateDiff v2"
    V3 = "AnimateDiff v3"
    LCM = "AnimateLCM"


class Layout(str, Enum):
    ANIMATEDIFF = "AnimateDiff"
    DIFFUSERS = "diffusers"


@dataclass(frozen=True)
class MotionFile:
    """What the header of a motion module proves."""

    version: Version
    layout: Layout
    architecture: Architecture


_PLACE = (
    r"(?:module\.)?(?:unet\.)?(?:(down|up)_blocks\.(\d+)|mid_block)"
    r"\.motion_modules\.(\d+)\.(?:temporal_transformer\.)?(.+)"
)

# The rest of a key -> its name here. Both layouts; \1 is attention 0 or 1, "both" stands for
# either.
_RENAMES = (
    (r"(norm|proj_in|proj_out)\.(weight|bias)", r"\1.\2"),
    (
        r"transformer_blocks\.0\.attention_blocks\.([01])\.to_([qkv])\.weight",
        r"block.attentions.\1.to_\2.weight",
    ),
    (
        r"transformer_blocks\.0\.attention_blocks\.([01])\.to_out\.0\.(weight|bias)",
        r"block.attentions.\1.to_out.\2",
    ),
    (
        r"transformer_blocks\.0\.attention_blocks\.([01])\.pos_encoder\.pe",
        r"block.attentions.\1.positions.weight",
    ),
    (r"transformer_blocks\.0\.norms\.([01])\.(weight|bias)", r"block.attentions.\1.norm.\2"),
    (r"transformer_blocks\.0\.ff_norm\.(weight|bias)", r"block.feed_forward.norm.\1"),
    (r"transformer_blocks\.0\.ff\.net\.0\.proj\.(weight|bias)", r"block.feed_forward.proj_in.\1"),
    (r"transformer_blocks\.0\.ff\.net\.2\.(weight|bias)", r"block.feed_forward.proj_out.\1"),
    (r"transformer_blocks\.0\.attn1\.to_([qkv])\.weight", r"block.attentions.0.to_\1.weight"),
    (r"transformer_blocks\.0\.attn2\.to_([qkv])\.weight", r"block.attentions.1.to_\1.weight"),
    (r"transformer_blocks\.0\.attn1\.to_out\.0\.(weight|bias)", r"block.attentions.0.to_out.\1"),
    (r"transformer_blocks\.0\.attn2\.to_out\.0\.(weight|bias)", r"block.attentions.1.to_out.\1"),
    (r"transformer_blocks\.0\.pos_embed\.pe", r"block.attentions.both.positions.weight"),
    (r"transformer_blocks\.0\.norm1\.(weight|bias)", r"block.attentions.0.norm.\1"),
    (r"transformer_blocks\.0\.norm2\.(weight|bias)", r"block.attentions.1.norm.\1"),
    (r"transformer_blocks\.0\.norm3\.(weight|bias)", r"block.feed_forward.norm.\1"),
)


def names_of(key: str) -> tuple[str, ...]:
    """The names of a file's tensor here: two for diffusers' shared positions, none for others."""
    place = re.fullmatch(_PLACE, key)
    if place is None:
        return ()
    direction, level, index, rest = place.groups()
    prefix = f"{direction}.{level}.{index}." if direction else "middle."
    return tuple(prefix + name for name in _names_in_a_module(rest))


@lru_cache(maxsize=64)  # every module of a file has the same two dozen
def _names_in_a_module(rest: str) -> tuple[str, ...]:
    for pattern, name in _RENAMES:
        if match := re.fullmatch(pattern, rest):
            name = match.expand(name)
            if ".both." not in name:
                return (name,)
            return tuple(name.replace(".both.", f".{i}.") for i in (0, 1))
    return ()


def inspect(shapes: Mapping[str, tuple[int, ...]], file_name: str) -> MotionFile:
    """What a motion module's header proves; MotionFileError for anything else.

    shapes: tensor name -> shape.
    """
    refuse_other_kinds(shapes, file_name)
    found = {name: shape for key, shape in shapes.items() for name in names_of(key)}
    norms = [found.get(f"down.{level}.0.norm.weight", ()) for level in range(4)]
    widths = tuple(shape[0] for shape in norms if len(shape) == 1)
    encodings = {
        shape[1] for name, shape in found.items() if name.endswith(POSITIONS) and len(shape) == 3
    }
    has_middle = any(name.startswith("middle.") for name in found)
    positions = min(encodings, default=POSITIONS_WITHOUT_ENCODING)
    architecture = Architecture(widths, positions, has_middle)
    refuse_incomplete(found, architecture, file_name)
    layout = (
        Layout.ANIMATEDIFF
        if any(".temporal_transformer." in key for key in shapes)
        else Layout.DIFFUSERS
    )
    return MotionFile(_version(architecture, bool(encodings)), layout, architecture)


def _version(architecture: Architecture, has_encodings: bool) -> Version:
    if not has_encodings or architecture.positions == POSITIONS_WITHOUT_ENCODING:
        return Version.LCM
    if architecture.has_middle:
        return Version.V2
    return Version.V1 if architecture.positions <= 24 else Version.V3


def refuse_other_kinds(keys: Iterable[str], file_name: str) -> None:
    """Raise MotionFileError for a file that is something else, saying what and where it belongs."""
    keys = list(keys)
    is_motion = any("motion_modules." in key for key in keys)
    if any("lora" in key for key in keys):
        raise MotionFileError(
            f"{file_name} is a motion LoRA: it changes a motion module and is not one itself."
            " This pack does not apply motion LoRAs; choose the motion module it was made for."
            if is_motion
            else (
                f"{file_name} is a LoRA for pictures, with no motion in it. Load it with Load LoRA,"
                " or with the Accelerator Loader if it is an accelerator, and choose a motion"
                " module here."
            )
        )
    if any("temporal_attentions." in key for key in keys):
        raise MotionFileError(
            f"{file_name} is a HotshotXL motion module, for SDXL. Only motion modules for SD 1.5"
            " can be loaded."
        )
    if not is_motion:
        raise MotionFileError(
            f"{file_name} is not an AnimateDiff motion module: it holds"
            f" {counted(len(keys), 'tensor')}, and none belongs in one. Choose a file such as"
            " animatediff_lightning_4step_comfyui.safetensors."
        )
    levels = {
        match[2] for key in keys if (match := re.fullmatch(_PLACE, key)) and match[1] == "down"
    }
    if levels == {"0", "1", "2"}:
        raise MotionFileError(
            f"{file_name} is a motion module for SDXL (three resolutions). Only motion modules for"
            " SD 1.5 can be loaded."
        )
    if any(key.startswith(("conv_in.", "img_encoder.")) for key in keys) and not any(
        "resnets." in key for key in keys
    ):
        raise MotionFileError(
            f"{file_name} is a motion module that starts from a picture (PIA, AnimateLCM-I2V) and"
            " brings more than temporal attention. Choose a text-to-video one."
        )


def refuse_incomplete(
    found: Mapping[str, tuple[int, ...]], architecture: Architecture, file_name: str
) -> None:
    """Raise MotionFileError unless every tensor of this architecture is there and fits."""
    if len(architecture.widths) != 4 or any(
        width % 32 or not 0 < width <= LARGEST_WIDTH for width in architecture.widths
    ):
        raise MotionFileError(
            f"{file_name} is not a whole motion module for SD 1.5: expected four resolutions, found"
            f" widths {list(architecture.widths)}. Download it again."
        )
    if not 0 < architecture.positions <= MOST_POSITIONS:
        raise MotionFileError(
            f"{file_name} is not a whole motion module for SD 1.5: it has"
            f" {counted(architecture.positions, 'position')} for frames. Download it again."
        )
    expected = shapes_of(architecture)
    missing = [name for name in expected if name not in found and not name.endswith(POSITIONS)]
    misfit = [name for name in expected if name in found and found[name] != expected[name]]
    if missing or misfit:
        which = (
            f"it lacks {counted(len(missing), 'tensor')}, such as {missing[0]}"
            if missing
            else f"{misfit[0]} is {list(found[misfit[0]])}, expected {list(expected[misfit[0]])}"
        )
        raise MotionFileError(
            f"{file_name} is not a whole motion module for SD 1.5: {which}. Download it again, or"
            " choose another."
        )


def renamed(tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """A file's tensors, named as MotionModule's; positions are computed if it has none."""
    found = {name: tensor for key, tensor in tensors.items() for name in names_of(key)}
    for name, shape in shapes_of(architecture).items():
        if name.endswith(POSITIONS) and name not in found:
            found[name] = sinusoids(architecture.positions, shape[-1])
    return found


@lru_cache(maxsize=8)
def shapes_of(architecture: Architecture) -> Mapping[str, tuple[int, ...]]:
    """What a MotionModule of this architecture holds: name -> shape."""
    network = MotionModule(architecture, device="meta")
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    return MappingProxyType(shapes)
