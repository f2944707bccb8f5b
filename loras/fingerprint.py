"""From a .safetensors header to what the file is. Only the header is read: milliseconds on a file of any size.

Evidence is weighed in this order: the tensors (kind, base architecture, rank), the metadata, the file's path last. Several
repositories publish under one name, and any trainer may write "pytorch_lora_weights.safetensors", so a path can only choose
among records that the tensors allow, and a generic name chooses nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .accelerator import Accelerator, Base, Expert, Kind

# Endings of the tensors that make up one adapted layer; what stands before is the layer's name.
LORA_ENDINGS = (
    ".lora_down.weight", ".lora_up.weight", ".lora_mid.weight", ".lora_A.weight", ".lora_B.weight",
    ".lora_A.default.weight", ".lora_B.default.weight", "_lora.down.weight", "_lora.up.weight",
    ".lora.down.weight", ".lora.up.weight", ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight",
)
DOWN_ENDINGS = (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight", "_lora.down.weight", ".lora.down.weight",
                ".lora_linear_layer.down.weight")
OTHER_ENDINGS = (".alpha", ".dora_scale", ".diff", ".diff_b", ".diff_m", ".set_weight", ".reshape_weight", ".w_norm", ".b_norm")

# Every trainer and several of the repositories write these: they say nothing about which release a file is.
GENERIC_NAMES = ("pytorch_lora_weights", "adapter_model", "diffusion_pytorch_model", "high_noise_model", "low_noise_model")

ALPHA_METADATA = ("lora_alpha", "network_alpha", "ss_network_alpha", "alpha")


class FileProblem(ValueError):
    """A file that cannot be what the user means it to be. The message says what was found and what to do."""


@dataclass(frozen=True)
class Header:
    """shapes: tensor name -> shape. metadata: the header's own string map."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Fingerprint:
    """What the tensors alone prove. `bases` holds every architecture they fit; empty when none is known."""

    kind: Kind | None
    bases: tuple[Base, ...]
    ranks: tuple[int, ...]
    alpha: str
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Recognition:
    """`record` is set when the evidence leaves one; otherwise `candidates` are all that it leaves."""

    fingerprint: Fingerprint
    record: Accelerator | None
    candidates: tuple[Accelerator, ...]
    evidence: tuple[str, ...]
    is_certain: bool


def read_header(path: str | Path) -> Header:
    """The header of a .safetensors file. Raises FileProblem for anything that is not one, whole."""
    path = Path(path)
    if not path.is_file():
        raise FileProblem(f"{path.name} is not there. Expected a .safetensors file in the models folder.")
    if path.suffix.lower() not in (".safetensors", ".sft"):
        raise FileProblem(f"{path.name} is a {path.suffix or 'file without an ending'}, which can carry code and is never opened "
                          "here. Use the .safetensors version of this accelerator.")
    size = path.stat().st_size
    if size == 0:
        raise FileProblem(f"{path.name} is empty (0 bytes). Expected a .safetensors file: download it again.")
    try:
        with safe_open(path, framework="np") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
            return Header(shapes, dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError) as error:
        raise FileProblem(f"{path.name} ({size} bytes) is not a complete .safetensors file: {error}. "
                          "Either the download broke off or it is another kind of file: download it again.") from None


def layer_of(key: str) -> str:
    """Name of the layer a LoRA tensor belongs to: the key without its ending."""
    for ending in LORA_ENDINGS + OTHER_ENDINGS:
        if key.endswith(ending):
            return key[: -len(ending)]
    return key


def inspect(header: Header) -> Fingerprint:
    """What the file is by its tensors alone."""
    keys = header.shapes
    kind = _kind_of(keys)
    if kind is not Kind.LORA:
        return Fingerprint(kind, (), (), "absent", (f"header: {kind.value if kind else 'no adapter and no diffusion model'}",))
    bases, reason = _bases_of_lora(header.shapes)
    ranks = tuple(sorted({shape[0] for key, shape in keys.items() if key.endswith(DOWN_ENDINGS) and shape}))
    alpha = "tensors" if any(key.endswith(".alpha") for key in keys) else "metadata" if alpha_in(header.metadata) else "absent"
    rank_words = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}" if ranks else "no low-rank pair"
    return Fingerprint(kind, bases, ranks, alpha, (f"header: LoRA for {reason}, {rank_words}, alpha {alpha}",))


def alpha_in(metadata: Mapping[str, str]) -> float | None:
    """The network alpha kept in file metadata, or None. Raises FileProblem for one that is not a positive number."""
    for name in ALPHA_METADATA:
        if name in metadata and metadata[name] not in ("", "None"):
            try:
                value = float(metadata[name])
            except ValueError:
                raise FileProblem(f"metadata {name} = {metadata[name]!r}: expected a number.") from None
            if not (math.isfinite(value) and value > 0):
                raise FileProblem(f"metadata {name} = {metadata[name]!r}: expected a positive number.")
            return value
    return None


def recognise(header: Header, path: str, records: Iterable[Accelerator]) -> Recognition:
    """The record a LoRA file belongs to. `path` is relative to the models folder, so that folders speak too."""
    found = inspect(header)
    possible = tuple(record for record in records if record.kind is found.kind and set(record.bases) & set(found.bases))
    if not possible:
        return Recognition(found, None, (), found.evidence, False)
    if len(possible) == 1:
        return Recognition(found, possible[0], possible, found.evidence, True)
    named, reason = _narrow_by_path(possible, path)
    evidence = found.evidence + ((reason,) if reason else ())
    return Recognition(found, named[0] if len(named) == 1 else None, named, evidence, False)


def _kind_of(keys: Iterable[str]) -> Kind | None:
    keys = list(keys)
    if any("motion_modules." in key or "temporal_transformer" in key for key in keys):
        return Kind.MOTION_MODULE
    if any(key.endswith(LORA_ENDINGS) for key in keys):
        return Kind.LORA
    if any(key.endswith((".diff", ".diff_b", ".diff_m")) for key in keys):
        return Kind.LORA
    if any(re.search(r"(^|\.)(blocks|double_blocks|transformer_blocks|input_blocks|down_blocks|joint_blocks)\.\d+\.", key) for key in keys):
        return Kind.MODEL
    return None


def _bases_of_lora(shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[Base, ...], str]:
    """Architectures these tensors fit, and the words for it."""
    layers = {layer_of(key) for key in shapes}
    if any(re.search(r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn|ffn|diff_m|modulation)", layer) for layer in layers):
        return _wan_bases(shapes, layers)
    if any("transformer_blocks" in layer and ("attn2" in layer or "attn1" in layer) for layer in layers):
        return _unet_bases(shapes, layers)
    return (), "an architecture that is not known here"


def _wan_bases(shapes: Mapping[str, tuple[int, ...]], layers: set[str]) -> tuple[tuple[Base, ...], str]:
    if any("k_img" in layer or "img_emb" in layer for layer in layers):
        return (Base.WAN21_I2V,), "Wan 2.1 image-to-video (it adapts the image branch)"
    channels = {shape[1] for key, shape in shapes.items() if "patch_embedding" in key and key.endswith(DOWN_ENDINGS) and len(shape) > 1}
    if channels == {16}:
        return (Base.WAN_T2V,), "Wan text-to-video (16 input channels)"
    if channels == {36}:
        return (Base.WAN22_I2V,), "Wan 2.2 image-to-video (36 input channels, no image branch)"
    return (Base.WAN_T2V, Base.WAN22_I2V), "Wan without an image branch (2.1/2.2 text-to-video or 2.2 image-to-video)"


def _unet_bases(shapes: Mapping[str, tuple[int, ...]], layers: set[str]) -> tuple[tuple[Base, ...], str]:
    """Stable Diffusion UNets differ by the width of the text they attend to: the input of attn2's keys."""
    widths = {shape[1] for key, shape in shapes.items()
              if re.search(r"attn2[._](processor[._])?to_[kv]", key) and key.endswith(DOWN_ENDINGS) and len(shape) > 1}
    if widths == {768}:
        return (Base.SD15,), "SD 1.5 (text width 768)"
    if widths == {2048}:
        # SSD-1B is SDXL without the middle block's attention (and with fewer layers elsewhere).
        if any(re.search(r"mid(dle)?_block", layer) and "attn" in layer for layer in layers):
            return (Base.SDXL,), "SDXL (text width 2048)"
        return (Base.SSD1B,), "SSD-1B (text width 2048, no middle block)"
    return (), f"a UNet with text width {sorted(widths)}, which is not known here"


def _narrow_by_path(records: tuple[Accelerator, ...], path: str) -> tuple[tuple[Accelerator, ...], str]:
    """Records the path speaks for, and how; all of them and no reason when it says nothing."""
    folder, _, name = path.replace("\\", "/").rpartition("/")
    stem = name.rsplit(".", 1)[0].lower()
    published = tuple(record for record in records if any(file.name.lower() == name.lower() for file in record.files))
    if published and stem not in GENERIC_NAMES:
        return published, f"file name: published as {name}"
    words = _words_of(f"{folder}/{stem}")
    named = tuple(record for record in records if _speaks_for(words, record))
    return (named, f"path: the words {', '.join(sorted(words & _vocabulary(named)))}") if named else (records, "")


def _words_of(path: str) -> set[str]:
    words = set(re.findall(r"[a-z0-9]+", path.lower()))
    steps = {f"{count}step" for count in re.findall(r"(\d+)[-_ ]?steps?", path.lower())}
    return words | steps


def _vocabulary(records: tuple[Accelerator, ...]) -> set[str]:
    own = {word for record in records for group in record.name_words for word in group.split("|")}
    return own | {f"{n}step" for record in records for n in record.steps} | {"cfg", "high", "low"}


def _speaks_for(words: set[str], record: Accelerator) -> bool:
    """Whether every claim the path makes agrees with the record, and it makes the family's own."""
    counts = {int(word[:-4]) for word in words if re.fullmatch(r"\d+step", word)}
    named_experts = {expert for expert, word in ((Expert.HIGH_NOISE, "high"), (Expert.LOW_NOISE, "low")) if word in words}
    return (
        all(words & set(group.split("|")) for group in record.name_words)
        and (not counts or record.default_steps in counts)
        and named_experts == ({record.expert} if record.expert else set())
        and ("cfg" in words) == (record.is_guided)
    )
