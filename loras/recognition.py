"""From a fingerprint and names to the record a file belongs to.

Evidence is weighed in this order: the tensors (kind, base architecture, size, rank), the file's
exact size, its metadata, its name last. Several repositories publish under one name, and any
trainer may write "pytorch_lora_weights.safetensors", so a name can only choose among records that
the tensors allow. Folders are their owner's order, an undistilled model beside the distilled one,
so they speak only where the name is generic or several records share it. Nor does a base alone
choose: an ordinary LoRA for that base would look the same, so something must speak for an
accelerator before one is recognised. A user's own record for a file says what that file is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .accelerator import Accelerator, Kind
from .bases import Base, bases_in_words
from .catalog.left_out import LOOK_ALIKES, LookAlike
from .fingerprint import Fingerprint, fingerprint_of
from .header import Header
from .names import EXPERT_WORDS, Name, Words, read_name, read_published, short_name, words_in

# Nobody trains an ordinary LoRA of a rank above this: it is the difference of two whole models.
LARGEST_TRAINED_RANK = 256


@dataclass(frozen=True)
class Recognition:
    """What a file or a model was taken for, and why."""

    fingerprint: Fingerprint
    record: Accelerator | None  # set when the evidence leaves one
    candidates: tuple[Accelerator, ...]  # all that the evidence leaves
    evidence: tuple[str, ...]  # for people
    is_certain: bool  # the file's contents decided
    look_alike: LookAlike | None = None  # a model that only looks distilled


@dataclass(frozen=True)
class Testimony:
    """What one piece of evidence speaks for."""

    records: tuple[Accelerator, ...]  # at least one
    words: str  # how, for people


def recognise(header: Header, path: str, records: Iterable[Accelerator]) -> Recognition:
    """The record a LoRA file belongs to. path: relative to the models folder; folders count too."""
    return recognise_lora(fingerprint_of(header), header.metadata, path, header.size, records)


def recognise_lora(
    fingerprint: Fingerprint,
    metadata: Mapping[str, str],
    path: str,
    size: int,
    records: Iterable[Accelerator],
) -> Recognition:
    """The record of a LoRA by its fingerprint, and by path and size unless they are "" and 0."""
    records = tuple(records)
    # What a user's own record is declared for is nothing else.
    possible = fitting(fingerprint, declared_for(records, path) or records)
    if not possible:
        return Recognition(fingerprint, None, (), fingerprint.evidence, False)
    if own := declared_for(possible, path):
        return _decided(fingerprint, _declaration(own, path))
    if content := _by_content(fingerprint, size, possible):
        return _decided(fingerprint, content, is_certain=True)
    return _by_names(fingerprint, records, possible, words_in(metadata, path))


def recognise_model(
    base: Base | None,
    width: int | None,
    metadata: Mapping[str, str],
    path: str,
    records: Iterable[Accelerator],
) -> Recognition:
    """The record of a loaded, wholly distilled model: by its architecture, then its file's name."""
    evidence = f"model: {base.label if base else 'an unknown architecture'}" + (
        f", width {width}" if width else ""
    )
    fingerprint = Fingerprint(Kind.MODEL, (base,) if base else (), (evidence,), width)
    records = tuple(records)
    possible = fitting(fingerprint, records)
    if own := declared_for(possible, path):
        return _decided(fingerprint, _declaration(own, path))
    words = words_in(metadata, path)
    # A published name is the release itself; by the words alone a look-alike would pass, for
    # "distilled" is in its name too.
    alike = None if _published_as(possible, words.path) else _look_alike(base, words.stem)
    return _by_names(fingerprint, records, possible, words, alike)


def fitting(fingerprint: Fingerprint, records: Iterable[Accelerator]) -> tuple[Accelerator, ...]:
    """Records of the kind, base and size that the tensors prove."""
    possible = [
        record
        for record in records
        if record.kind is fingerprint.kind
        and not record.only_by_choice
        and set(record.bases) & set(fingerprint.bases)
    ]
    published = {record.width for record in possible}
    # A width that no release has is a model of one's own, of which nothing follows.
    if fingerprint.width is not None and fingerprint.width in published:
        possible = [record for record in possible if record.width in (fingerprint.width, None)]
    return tuple(possible)


def declared_for(records: Iterable[Accelerator], path: str) -> tuple[Accelerator, ...]:
    """The user's own records for this file: by its name, and by the folders that they name."""
    parts = _parts_of(path)
    return tuple(
        record
        for record in records
        if record.is_declared
        and any(parts[-len(own) :] == own for own in map(_parts_of, record.paths))
    )


def _declaration(own: tuple[Accelerator, ...], path: str) -> Testimony:
    return Testimony(own, f"declared for {short_name(path)}")


def _parts_of(path: str) -> list[str]:
    return path.replace("\\", "/").lower().split("/")


def is_titled_as_published(record: Accelerator, metadata: Mapping[str, str]) -> bool:
    """Whether a metadata title is a file name of the record; any LoRA may have the words alone."""
    titles = words_in(metadata, "").titles.values()
    return any(_published_as((record,), title) for title in titles)


def is_published_as(record: Accelerator, path: str) -> bool:
    """Whether a file's name is that of one of the record's files."""
    return bool(_published_as((record,), read_name(path)))


# ---------------------------------------------------------------- by contents


def _by_content(
    fingerprint: Fingerprint, size: int, records: tuple[Accelerator, ...]
) -> Testimony | None:
    """The record that the contents alone prove; None where an ordinary LoRA may look the same."""
    sized = [record for record in records if any(file.size == size for file in record.files)]
    if size and len(sized) == 1:
        return Testimony(tuple(sized), f"size: exactly the {size} bytes of the published file")
    is_extract = fingerprint.has_differences or any(
        rank > LARGEST_TRAINED_RANK for rank in fingerprint.ranks
    )
    ranked = [
        record
        for record in records
        if any(file.rank is None or (file.rank,) == fingerprint.ranks for file in record.files)
    ]
    # A file of unknown rank speaks against the others, never for its own record.
    if (
        is_extract
        and len(ranked) == 1
        and any((file.rank,) == fingerprint.ranks for file in ranked[0].files)
    ):
        return Testimony(
            tuple(ranked),
            f"header: an extract of a distilled model, and only {ranked[0].id} has rank"
            f" {fingerprint.ranks[0]}",
        )
    return None


# ---------------------------------------------------------------- by names


def _by_names(
    fingerprint: Fingerprint,
    records: tuple[Accelerator, ...],
    possible: tuple[Accelerator, ...],
    words: Words,
    alike: LookAlike | None = None,
) -> Recognition:
    """Which `possible` records the file's title speaks for, else its path.

    alike: what its path speaks for instead.
    """
    borrowed = _borrowed_name(fingerprint, records, possible, words)
    if borrowed is not None:
        return Recognition(fingerprint, None, (), (*fingerprint.evidence, borrowed), False)
    title = _by_title(possible, words)
    if title is None and alike is not None:
        return Recognition(fingerprint, None, possible, fingerprint.evidence, False, alike)
    testimony = title or _by_path(possible, words)
    if testimony is None:
        return Recognition(fingerprint, None, possible, fingerprint.evidence, False)
    return _decided(fingerprint, testimony)


def _decided(
    fingerprint: Fingerprint, testimony: Testimony, is_certain: bool = False
) -> Recognition:
    record = testimony.records[0] if len(testimony.records) == 1 else None
    evidence = (*fingerprint.evidence, testimony.words)
    return Recognition(fingerprint, record, testimony.records, evidence, is_certain)


def _borrowed_name(
    fingerprint: Fingerprint,
    records: tuple[Accelerator, ...],
    possible: tuple[Accelerator, ...],
    words: Words,
) -> str | None:
    """In words, whose published name the file bears against its own tensors; None if nobody's.

    The words of such a name may well speak for a record that the tensors allow: Hyper-SD15-8steps
    for Hyper-SDXL's.
    """
    names = [*words.titles.values(), words.path]
    if any(_published_as(possible, name) for name in names):
        return None
    others = [
        record
        for record in records
        if record.kind is fingerprint.kind and not record.only_by_choice
    ]
    owner = next((record for name in names for record in _published_as(others, name)), None)
    if owner is None:
        return None
    size = f", width {owner.width}" if owner.width else ""
    return f"its name is that of {owner.id}, which is for {bases_in_words(owner.bases)}{size}"


def _by_title(records: tuple[Accelerator, ...], words: Words) -> Testimony | None:
    """What the title in the metadata speaks for."""
    for entry, title in words.titles.items():
        named = _published_as(records, title) or _named_by(records, title)
        if named:
            return Testimony(named, f"metadata {entry}: {title.text!r}")
    return None


def _by_path(records: tuple[Accelerator, ...], words: Words) -> Testimony | None:
    """What the file's name speaks for, and its folders where it says nothing."""
    published = _published_as(records, words.path)
    if published:
        name = words.path.text.replace("\\", "/").rpartition("/")[2]
        return Testimony(published, f"file name: published as {name}")
    name = words.path if words.path.is_generic else words.stem
    named = _named_by(records, name)
    if not named:
        return None
    spoken = name.words & _vocabulary(named)
    return Testimony(named, f"path: the words {', '.join(sorted(spoken))}")


def _published_as(records: Iterable[Accelerator], name: Name) -> tuple[Accelerator, ...]:
    """Records with a file of this name. Where two folders have it, the folder decides."""
    if name.is_generic:
        return ()
    published = tuple(
        record
        for record in records
        if any(read_published(file.name).stem == name.stem for file in record.files)
    )
    return _named_by(published, name) or published


def _look_alike(base: Base | None, name: Name) -> LookAlike | None:
    return next(
        (
            other
            for other in LOOK_ALIKES
            if base in other.bases and name.says(other.name_words, other.name_excludes)
        ),
        None,
    )


def _named_by(records: tuple[Accelerator, ...], name: Name) -> tuple[Accelerator, ...]:
    return tuple(record for record in records if _speaks_for(name, record))


def _speaks_for(name: Name, record: Accelerator) -> bool:
    """Whether a name makes the release's own claims, and names no other step count or expert."""
    if not record.name_words or not name.says(record.name_words, record.name_excludes):
        return False
    # A release that puts its step count into its files' names means it; one that does not leaves
    # the choice to its user.
    own_counts = {n for file in record.files for n in read_published(file.name).step_counts}
    if name.step_counts and not name.step_counts & (own_counts or set(record.steps)):
        return False
    experts = name.experts if _names_tell_experts(record) else name.experts_by_noise
    return experts == ({record.expert} if record.expert else set())


def _names_tell_experts(record: Accelerator) -> bool:
    """Whether a bare "high" or "low" in a name is one of Wan 2.2's experts, and no rank."""
    return any(base.names_tell_experts for base in record.bases)


def _vocabulary(records: tuple[Accelerator, ...]) -> set[str]:
    """The words that can speak for any of these records."""
    own = {word for record in records for group in record.name_words for word in group.split("|")}
    counts = {f"{count}step" for record in records for count in record.steps}
    return own | counts | (set(EXPERT_WORDS) if any(map(_names_tell_experts, records)) else set())
