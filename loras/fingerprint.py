"""From a .safetensors header to what the file is. Only the header is read: milliseconds on a file
of any size.

Evidence is weighed in this order: the tensors (kind, base architecture, size, rank), the file's
exact size, its metadata, its name last. Several repositories publish under one name, and any
trainer may write "pytorch_lora_weights.safetensors", so a name can only choose among records that
the tensors allow. Folders are their owner's order, an undistilled model beside the distilled one,
so they speak only where the name is generic or several records share it. Nor does a base alone
choose: an ordinary LoRA for that base would look the same, so something must speak for an
accelerator before one is recognised.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from .accelerator import Accelerator, Expert, Kind
from .architecture import Layers, measure
from .bases import Base, bases_in_words
from .catalog.left_out import LOOK_ALIKES, LookAlike
from .refusal import Refusal

# Endings of the tensors that make up one adapted layer; what stands before is the layer's name.
DOWN_ENDINGS = (
    ".lora_down.weight",
    ".lora_A.weight",
    ".lora_A.default.weight",
    "_lora.down.weight",
    ".lora.down.weight",
    ".lora_linear_layer.down.weight",
)
UP_ENDINGS = (
    ".lora_up.weight",
    ".lora_B.weight",
    ".lora_B.default.weight",
    "_lora.up.weight",
    ".lora.up.weight",
    ".lora_linear_layer.up.weight",
)
LORA_ENDINGS = (*DOWN_ENDINGS, *UP_ENDINGS, ".lora_mid.weight")
DIFFERENCE_ENDINGS = (".diff", ".diff_b", ".diff_m")
OTHER_ENDINGS = (
    ".alpha",
    ".dora_scale",
    *DIFFERENCE_ENDINGS,
    ".set_weight",
    ".reshape_weight",
    ".w_norm",
    ".b_norm",
)

# Every trainer and several of the repositories name files by these alone, which say nothing about
# which release a file is.
GENERIC_WORDS = frozenset(
    {
        "adapter",
        "bf16",
        "diffusers",
        "diffusion",
        "fp16",
        "fp32",
        "fp8",
        "high",
        "lora",
        "low",
        "model",
        "noise",
        "pytorch",
        "transformer",
        "unet",
        "weights",
    }
)

ALPHA_METADATA = ("lora_alpha", "network_alpha", "ss_network_alpha", "alpha")
TITLE_METADATA = ("modelspec.title", "ss_output_name", "title", "name")

# Nobody trains an ordinary LoRA of a rank above this: it is the difference of two whole models.
LARGEST_TRAINED_RANK = 256

# The endings of files that may be opened here.
ENDINGS = (".safetensors", ".sft")

# In bytes: some 100 000 tensors, which no real file comes near. The format's own 100 MB would take
# a gigabyte and many seconds.
LARGEST_HEADER = 16_000_000

MODEL_LAYER = (
    r"(^|\.)(blocks|layers|double_blocks|transformer_blocks|input_blocks|down_blocks|joint_blocks|double_stream_blocks"
    r"|double_stream_layers)\.\d+\."
)


class FileProblem(Refusal):
    """A file that cannot be what the user means it to be. The message says what was found and what
    to do.
    """


class Stored(NamedTuple):
    """Where a tensor's numbers are. dtype: the format's name for it, such as BF16. begin, end:
    bytes from the start of the file.
    """

    dtype: str
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """shapes: tensor name -> shape. metadata: the header's own string map. size: bytes of the whole
    file, 0 if unknown.

    stored: tensor name -> where in the file; empty if unknown.
    """

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    size: int = 0
    stored: Mapping[str, Stored] = field(default_factory=dict)


@dataclass(frozen=True)
class Fingerprint:
    """What the tensors alone prove. `bases` holds every architecture they fit; empty when none is
    known.

    width: hidden width, None where no layer shows it. has_differences: whole tensors were written
    beside low-rank pairs, which an extract of a distilled model does and ordinary training does
    not.
    """

    kind: Kind | None
    bases: tuple[Base, ...]
    width: int | None
    ranks: tuple[int, ...]
    alpha: str
    has_differences: bool
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Recognition:
    """`record` is set when the evidence leaves one; otherwise `candidates` are all that it leaves.

    look_alike: the file is a model that only looks distilled. is_certain: the file's contents
    decided.
    """

    fingerprint: Fingerprint
    record: Accelerator | None
    candidates: tuple[Accelerator, ...]
    evidence: tuple[str, ...]
    is_certain: bool
    look_alike: LookAlike | None = None


def read_header(path: str | Path) -> Header:
    """The header of a .safetensors file. Raises FileProblem for anything that is not one, whole."""
    content, size = _content_of(Path(path))
    metadata = content.pop("__metadata__", None) or {}
    start = size - max(
        (entry["data_offsets"][1] for entry in content.values()), default=0
    )  # nothing may follow the last
    shapes, stored = {}, {}
    for key, entry in content.items():
        begin, end = entry["data_offsets"]
        shapes[key], stored[key] = (
            tuple(entry["shape"]),
            Stored(entry["dtype"], start + begin, start + end),
        )
    return Header(shapes, metadata, size, stored)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The header's own string map alone. Raises FileProblem as read_header does."""
    return _content_of(Path(path))[0].get("__metadata__") or {}


def _content_of(path: Path) -> tuple[dict[str, Any], int]:
    """(the header as the file has it, bytes of the whole file), after the format's own library
    found it in order.

    That library hands a header on tensor by tensor, a slice of the file for each, which takes
    longer than reading it again.
    """
    if not path.is_file():
        raise FileProblem(
            f"{path.name} is not there. Expected a .safetensors file in the models folder."
        )
    if path.suffix.lower() not in ENDINGS:
        raise FileProblem(
            f"{path.name} is a {path.suffix or 'file without an ending'}, which can carry code and"
            " is never opened here. Use the .safetensors version of this accelerator."
        )
    size = path.stat().st_size
    if size == 0:
        raise FileProblem(
            f"{path.name} is empty (0 bytes). Expected a .safetensors file: download it again."
        )
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if LARGEST_HEADER < length <= size - 8:
            raise FileProblem(
                f"{path.name}: its header is {length} bytes long, and no more than {LARGEST_HEADER}"
                " are read here: real LoRAs and models stay far below. Save it again without the"
                " metadata that makes it so long."
            )
        try:
            if length > size - 8:
                is_page = (
                    start.startswith(b"<") and length > LARGEST_HEADER
                )  # eight letters make a huge number
                raise ValueError(
                    "it is a web page" if is_page else f"its header should be {length} bytes long"
                )
            with safe_open(path, framework="np"):
                return json.loads(file.read(length)), size
        except (SafetensorError, OSError, ValueError) as error:
            raise FileProblem(
                f"{path.name} ({size} bytes) is not a complete .safetensors file: {error}. "
                "Either the download broke off or it is another kind of file: download it again."
            ) from None


@lru_cache(
    maxsize=1 << 14
)  # the same few thousand keys are asked for three times while a file is attached
def layer_of(key: str) -> str:
    """Name of the layer a LoRA tensor belongs to: the key without its ending."""
    for ending in LORA_ENDINGS if key.endswith(".weight") else OTHER_ENDINGS:
        if key.endswith(ending):
            return key[: -len(ending)]
    return key


def layers_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of every layer a LoRA adapts: rows of its up factor, columns of its down
    factor; 0 if unknown.
    """
    sizes: dict[str, tuple[int, int]] = {}
    for key, shape in shapes.items():
        outputs, inputs = sizes.get(layer := layer_of(key), (0, 0))
        if len(shape) > 1 and key.endswith(DOWN_ENDINGS):
            inputs = shape[1]
        if len(shape) > 1 and key.endswith(UP_ENDINGS):
            outputs = shape[0]
        sizes[layer] = (outputs, inputs)
    return sizes


def weights_as_layers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of every layer of a whole model, by its weights."""
    return {
        key.removesuffix(".weight"): (shape[0], shape[1])
        for key, shape in shapes.items()
        if key.endswith(".weight") and len(shape) > 1
    }


def inspect(header: Header) -> Fingerprint:
    """What the file is by its tensors alone."""
    keys = header.shapes
    kind = _kind_of(keys)
    if kind is not Kind.LORA:
        what = f"header: {kind.value if kind else 'no adapter and no diffusion model'}"
        return Fingerprint(kind, (), None, (), "absent", False, (what,))
    ranks = tuple(
        sorted({shape[0] for key, shape in keys.items() if key.endswith(DOWN_ENDINGS) and shape})
    )
    alpha = (
        "tensors"
        if any(key.endswith(".alpha") for key in keys)
        else "metadata"
        if alpha_in(header.metadata)
        else "absent"
    )
    return lora_fingerprint(
        layers_of(keys), ranks, alpha, any(key.endswith(DIFFERENCE_ENDINGS) for key in keys)
    )


def _kind_of(keys: Iterable[str]) -> Kind | None:
    keys = list(keys)
    if any("motion_modules." in key or "temporal_transformer" in key for key in keys):
        return Kind.MOTION_MODULE
    if any(key.endswith((*LORA_ENDINGS, *DIFFERENCE_ENDINGS)) for key in keys):
        return Kind.LORA
    if any(re.search(MODEL_LAYER, key) for key in keys):
        return Kind.MODEL
    return None


def lora_fingerprint(
    layers: Layers, ranks: tuple[int, ...], alpha: str, has_differences: bool
) -> Fingerprint:
    """The fingerprint of a LoRA whose layers and ranks are known, in a file or on a model."""
    measured = measure(layers)
    rank_words = (
        f"rank {ranks[0]}"
        if len(ranks) == 1
        else f"ranks {ranks[0]} to {ranks[-1]}"
        if ranks
        else "no low-rank pair"
    )
    differences = ", whole differences" if has_differences else ""
    words = f"header: LoRA for {measured.words}, {rank_words}, alpha {alpha}{differences}"
    return Fingerprint(
        Kind.LORA, measured.bases, measured.width, ranks, alpha, has_differences, (words,)
    )


def alpha_in(metadata: Mapping[str, str]) -> float | None:
    """The network alpha kept in file metadata, or None. Raises FileProblem for one that is not a
    positive number.
    """
    for name in ALPHA_METADATA:
        if name in metadata and metadata[name] not in ("", "None"):
            try:
                value = float(metadata[name])
            except ValueError:
                raise FileProblem(
                    f"metadata {name} = {metadata[name]!r}: expected a number."
                ) from None
            if not (math.isfinite(value) and value > 0):
                raise FileProblem(
                    f"metadata {name} = {metadata[name]!r}: expected a positive number."
                )
            return value
    return None


# ---------------------------------------------------------------- recognition


def recognise(header: Header, path: str, records: Iterable[Accelerator]) -> Recognition:
    """The record a LoRA file belongs to. `path` is relative to the models folder, so that folders
    speak too.
    """
    return recognise_lora(inspect(header), header.metadata, path, header.size, records)


def recognise_lora(
    found: Fingerprint,
    metadata: Mapping[str, str],
    path: str,
    size: int,
    records: Iterable[Accelerator],
) -> Recognition:
    """The record of a LoRA by its fingerprint and what else is known; an empty path and size 0 say
    nothing.
    """
    records = tuple(records)
    possible = fitting(found, records)
    if not possible:
        return Recognition(found, None, (), found.evidence, False)
    decided, reason = _by_content(found, size, possible)
    if decided is not None:
        return Recognition(found, decided, (decided,), (*found.evidence, reason), True)
    return _by_names(found, records, possible, metadata, path)


def recognise_model(
    base: Base | None,
    width: int | None,
    metadata: Mapping[str, str],
    path: str,
    records: Iterable[Accelerator],
) -> Recognition:
    """The record of a loaded model that may be distilled as a whole: its architecture first, then
    what its file is called.
    """
    bases = (base,) if base else ()
    words = f"model: {base.label if base else 'an architecture that is not known here'}" + (
        f", width {width}" if width else ""
    )
    found = Fingerprint(Kind.MODEL, bases, width, (), "absent", False, (words,))
    records = tuple(records)
    possible = fitting(found, records)
    # A published name is the release itself; by the words alone a look-alike would pass, for
    # "distilled" is in its name too.
    alike = None if _published_as(possible, path) else _look_alike(base, path)
    return _by_names(found, records, possible, metadata, path, alike)


def _by_names(
    found: Fingerprint,
    records: tuple[Accelerator, ...],
    possible: tuple[Accelerator, ...],
    metadata: Mapping[str, str],
    path: str,
    alike: LookAlike | None = None,
) -> Recognition:
    """Which of the `possible` records the file's title speaks for, else its path. alike: what its
    path speaks for instead.
    """
    borrowed = _borrowed_name(found, records, possible, metadata, path)
    if borrowed:
        return Recognition(found, None, (), (*found.evidence, borrowed), False)
    named, reason = _by_title(possible, metadata)
    if not reason and alike is not None:
        return Recognition(found, None, possible, found.evidence, False, alike)
    if not reason:
        named, reason = _by_path(possible, path)
    evidence = (*found.evidence, reason) if reason else found.evidence
    return Recognition(
        found, named[0] if reason and len(named) == 1 else None, named, evidence, False
    )


def _look_alike(base: Base | None, path: str) -> LookAlike | None:
    words = _words_of(_stem_of(path))
    return next(
        (
            other
            for other in LOOK_ALIKES
            if base in other.bases and _says(words, other.name_words, other.name_excludes)
        ),
        None,
    )


def fitting(found: Fingerprint, records: Iterable[Accelerator]) -> tuple[Accelerator, ...]:
    """Records of the kind, base and size that the tensors prove."""
    possible = [
        record
        for record in records
        if record.kind is found.kind
        and not record.only_by_choice
        and set(record.bases) & set(found.bases)
    ]
    published = {record.width for record in possible}
    # A width that no release has is a model of one's own, of which nothing follows.
    if found.width is not None and found.width in published:
        possible = [record for record in possible if record.width in (found.width, None)]
    return tuple(possible)


def _by_content(
    found: Fingerprint, size: int, records: tuple[Accelerator, ...]
) -> tuple[Accelerator | None, str]:
    """The record that the file's contents alone prove, and how; None where an ordinary LoRA may
    look the same.
    """
    sized = [record for record in records if any(file.size == size for file in record.files)]
    if size and len(sized) == 1:
        return sized[0], f"size: exactly the {size} bytes of the published file"
    is_extract = found.has_differences or any(rank > LARGEST_TRAINED_RANK for rank in found.ranks)
    ranked = [
        record
        for record in records
        if any(file.rank is None or (file.rank,) == found.ranks for file in record.files)
    ]
    # A file of unknown rank speaks against the others, never for its own record.
    if (
        is_extract
        and len(ranked) == 1
        and any((file.rank,) == found.ranks for file in ranked[0].files)
    ):
        return (
            ranked[0],
            (
                f"header: an extract of a distilled model, and only {ranked[0].id} has rank"
                f" {found.ranks[0]}"
            ),
        )
    return None, ""


def _borrowed_name(
    found: Fingerprint,
    records: tuple[Accelerator, ...],
    possible: tuple[Accelerator, ...],
    metadata: Mapping[str, str],
    path: str,
) -> str:
    """In words, whose published name the file bears against what its tensors are; empty where it
    bears none.

    The words of such a name may well speak for a record that the tensors allow: Hyper-SD15-8steps
    for Hyper-SDXL's.
    """
    names = [*(metadata.get(name, "") for name in TITLE_METADATA), path]
    if any(_published_as(possible, name) for name in names):
        return ""
    others = [
        record for record in records if record.kind is found.kind and not record.only_by_choice
    ]
    owner = next((record for name in names for record in _published_as(others, name)), None)
    return (
        ""
        if owner is None
        else (f"its name is that of {owner.id}, which is for {bases_in_words(owner.bases)}")
        + (f", width {owner.width}" if owner.width else "")
    )


def _by_title(
    records: tuple[Accelerator, ...], metadata: Mapping[str, str]
) -> tuple[tuple[Accelerator, ...], str]:
    """Records that the title in the metadata speaks for, and how; all and no reason when it says
    nothing.
    """
    for name in TITLE_METADATA:
        title = metadata.get(name, "")
        named = _published_as(records, title) or _named_by(records, title)
        if named:
            return named, f"metadata {name}: {title!r}"
    return records, ""


def is_titled_as_published(record: Accelerator, metadata: Mapping[str, str]) -> bool:
    """Whether a title in the metadata is the name of one of the record's files; the words alone may
    be any LoRA's.
    """
    return any(_published_as((record,), metadata.get(name, "")) for name in TITLE_METADATA)


def _by_path(records: tuple[Accelerator, ...], path: str) -> tuple[tuple[Accelerator, ...], str]:
    """Records that the file's name speaks for, and how; all and no reason when it says nothing."""
    published = _published_as(records, path)
    if published:
        return published, f"file name: published as {path.replace(chr(92), '/').rpartition('/')[2]}"
    stem = _stem_of(path)
    said = path if is_generic(stem) else stem
    named = _named_by(records, said)
    if not named:
        return records, ""
    return named, f"path: the words {', '.join(sorted(_words_of(said) & _vocabulary(named)))}"


def is_generic(stem: str) -> bool:
    """Whether a file's name without its ending says nothing about which release it is."""
    return set(re.findall(r"[a-z0-9]+", stem.lower())) <= GENERIC_WORDS


def _published_as(records: Iterable[Accelerator], path: str) -> tuple[Accelerator, ...]:
    """Records with a file of this name. One name in two folders of a repository: the folder
    decides, if it came along.
    """
    stem = _stem_of(path)
    if is_generic(stem):
        return ()
    published = tuple(
        record for record in records if any(_stem_of(file.name) == stem for file in record.files)
    )
    return _named_by(published, path) or published


def short_name(path: str) -> str:
    """The file's name without folders, in lower case. path: as either kind of system writes it."""
    return path.replace("\\", "/").rpartition("/")[2].lower()


def _stem_of(path: str) -> str:
    """The short name without its ending."""
    name = short_name(path)
    return (
        name.rsplit(".", 1)[0]
        if name.endswith((*ENDINGS, ".gguf", ".ckpt", ".pt", ".pth", ".bin"))
        else name
    )


def _named_by(records: tuple[Accelerator, ...], text: str) -> tuple[Accelerator, ...]:
    words = _words_of(text)
    return tuple(record for record in records if _speaks_for(words, record))


def _words_of(path: str) -> set[str]:
    """Words and step counts of a path, without the file's ending."""
    text = f"{path.replace(chr(92), '/').rpartition('/')[0]}/{_stem_of(path)}".lower()
    return set(re.findall(r"[a-z0-9]+", text)) | {
        f"{count}step" for count in re.findall(r"(\d+)[-_ ]?steps?", text)
    }


def _counts_in(words: Iterable[str]) -> set[int]:
    return {int(word[:-4]) for word in words if re.fullmatch(r"\d+step", word)}


def _vocabulary(records: tuple[Accelerator, ...]) -> set[str]:
    own = {word for record in records for group in record.name_words for word in group.split("|")}
    return own | {f"{n}step" for record in records for n in record.steps} | {"high", "low"}


def _says(words: set[str], groups: tuple[str, ...], excludes: tuple[str, ...]) -> bool:
    """Whether the words hold one of each group ("lightning|lightx2v") and none that speaks against
    it.
    """
    return all(words & set(group.split("|")) for group in groups) and not words & set(excludes)


def _speaks_for(words: set[str], record: Accelerator) -> bool:
    """Whether every claim the words make agrees with the record, and they make the release's own."""
    if not _says(words, record.name_words, record.name_excludes):
        return False
    counts = _counts_in(words)
    # A release that puts its step count into its files' names means it; one that does not leaves
    # the choice to its user.
    own_counts = {n for file in record.files for n in _counts_in(_words_of(file.name))} or set(
        record.steps
    )
    named_experts = {
        expert
        for expert, word in ((Expert.HIGH_NOISE, "high"), (Expert.LOW_NOISE, "low"))
        if word in words
    }
    return (not counts or bool(counts & own_counts)) and named_experts == (
        {record.expert} if record.expert else set()
    )
