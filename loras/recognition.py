"""From a fingerprint and names to the record a file belongs to.

Evidence is weighed in this order: the tensors (kind, base architecture, size, rank), the file's
exact size, its metadata, its name last. Several repositories publish under one name, and any
trainer may write "pytorch_lora_weights.safetensors", so a name can only choose among records that
the tensors allow. Folders are their owner's order, an undistilled model beside the distilled one,
so they speak only where the name is generic or several records share it. Nor does a base alone
choose: an ordinary LoRA for that base would look the same, so something must speak for an
accelerator before one is recognised. The words of a name are a style's as well ("lightning_style"),
so they count only where the contents bear them out (doubt.py). A user's own record for a file says
what that file is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from .accelerator import Accelerator, Kind, PublishedFile
from .architecture import has_known_layers
from .bases import Base, BaseRow, UnlistedBase, bases_in_words, is_of, needed_host
from .catalog.left_out import LOOK_ALIKES, LookAlike
from .doubt import doubt_of, has_words_of_its_own, likeliest
from .fingerprint import Fingerprint, fingerprint_of
from .header import Header
from .merges import merged_by_name
from .names import (
    EXPERT_WORDS,
    Name,
    Words,
    kept_name,
    read_name,
    read_published,
    short_name,
    words_in,
)


@dataclass(frozen=True)
class Recognition:
    """What a file or a model was taken for, and why."""

    fingerprint: Fingerprint
    record: Accelerator | None  # set when the evidence leaves one
    candidates: tuple[Accelerator, ...]  # all that the evidence leaves
    evidence: tuple[str, ...]  # for people
    is_certain: bool  # the file's contents decided
    # What the words of the name speak for, and the contents do not bear out.
    suspected: tuple[Accelerator, ...] = ()
    # Why the contents do not, for people; of a model, what its name says that was merged into it.
    doubt: str = ""
    look_alike: LookAlike | None = None  # a model that only looks distilled


@dataclass(frozen=True)
class Testimony:
    """What one piece of evidence speaks for."""

    records: tuple[Accelerator, ...]  # at least one
    words: str  # how, for people
    name: Name | None = None  # whose words they are, where it is words that speak


def recognise(
    header: Header, path: str, records: Iterable[Accelerator], base: BaseRow | None = None
) -> Recognition:
    """The record a LoRA file belongs to. path: relative to the models folder; folders count too.

    base: of the connected model, which decides where one file is published for several.
    """
    return recognise_lora(fingerprint_of(header), header.metadata, path, header.size, records, base)


def recognise_lora(
    fingerprint: Fingerprint,
    metadata: Mapping[str, str],
    path: str,
    size: int,
    records: Iterable[Accelerator],
    base: BaseRow | None = None,
) -> Recognition:
    """The record of a LoRA by its fingerprint, and by path and size unless they are "" and 0.

    base: of the connected model.
    """
    records = tuple(records)
    # What a user's own record is declared for is nothing else. One for a class that is not listed
    # would be any file's by its layers: it is only what it is declared for.
    listed = [record for record in records if not _is_unlisted(record)]
    possible = fitting(fingerprint, declared_for(records, path) or listed)
    if not possible:
        return Recognition(fingerprint, None, (), fingerprint.evidence, False)
    if own := declared_for(possible, path):
        return _decided(fingerprint, _declaration(own, path))
    words = words_in(metadata, path)
    if content := _by_content(fingerprint, size, possible, words.path, base):
        return _decided(fingerprint, content, is_certain=True)
    return _by_names(fingerprint, records, possible, words)


def recognise_model(
    base: BaseRow | None,
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
    recognition = _by_names(fingerprint, records, possible, words, alike)
    if alike is not None or _borrowed_name(fingerprint, records, possible, words) is not None:
        return recognition
    if recognition.record is not None and not _may_be_merge(recognition.record, words, possible):
        return recognition
    return _with_merged(recognition, base, records, words)


def _may_be_merge(record: Accelerator, words: Words, possible: tuple[Accelerator, ...]) -> bool:
    """Whether a model that words call a release may be one of somebody's that has it in it.

    Of Stable Diffusion there are hundreds; of every other base the release itself is passed on, in
    other formats and names.
    """
    names = [*words.titles.values(), words.path]
    if record.is_declared or any(_published_as((record,), name) for name in names):
        return False
    is_diffusion = all(base.has_timesteps for base in record.bases)
    return is_diffusion and has_words_of_its_own(record, words.stem, possible)


def _with_merged(
    recognition: Recognition,
    base: BaseRow | None,
    records: tuple[Accelerator, ...],
    words: Words,
) -> Recognition:
    """A model, with what its name or a title says that was merged into it, if any of them does, and
    no record.
    """
    names = [words.path, *words.titles.values()]
    found = (merged_by_name(name.text, base, records) for name in names)
    merged = next((one for one in found if one is not None), None)
    if merged is None:
        return replace(recognition, record=None)
    others = [record for record in recognition.candidates if record not in merged.records]
    return replace(
        recognition,
        record=None,
        candidates=(*merged.records, *others),
        suspected=merged.records,
        doubt=f"its name says {merged.word}",
    )


def fitting(fingerprint: Fingerprint, records: Iterable[Accelerator]) -> tuple[Accelerator, ...]:
    """Records of the kind, base and size that the tensors prove."""
    possible = [
        record
        for record in records
        if record.kind is fingerprint.kind
        and not record.only_by_choice
        and are_layers_of(record, fingerprint)
    ]
    published = {record.width for record in possible}
    # A width that no release has is a model of one's own, of which nothing follows.
    if fingerprint.width is not None and fingerprint.width in published:
        possible = [record for record in possible if record.width in (fingerprint.width, None)]
    return tuple(possible)


def are_layers_of(record: Accelerator, fingerprint: Fingerprint) -> bool:
    """Whether the layers of a file are of a base that the record's files have.

    Of a base whose layers are not known nothing can be said, unless they are another's.
    """
    own = set(record.bases)
    if fingerprint.kind is Kind.LORA:
        if _is_unlisted(record):
            return True
        if not fingerprint.bases:
            return not all(map(has_known_layers, own))
        own |= {file.layers_of for file in record.files if file.layers_of}
        own |= {Base[name] for base in record.bases for name in base.layers_as}
    return any(is_of(found, base) for found in fingerprint.bases for base in own)


def _is_unlisted(record: Accelerator) -> bool:
    """Whether it is for a class that is only known by its name, so that any layers may be its."""
    return any(isinstance(base, UnlistedBase) for base in record.bases)


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
    fingerprint: Fingerprint,
    size: int,
    records: tuple[Accelerator, ...],
    name: Name,
    base: BaseRow | None,
) -> Testimony | None:
    """The record that the contents alone prove; None where an ordinary LoRA may look the same."""
    sized = tuple(
        record for record in records if any(file.size == size for file in record.files if size)
    )
    if len(sized) == 1:
        return Testimony(sized, f"size: exactly the {size} bytes of the published file")
    if sized:
        return _of_one_file(sized, size, name, base)
    ranked = [
        record
        for record in records
        if any(file.rank is None or (file.rank,) == fingerprint.ranks for file in record.files)
    ]
    # A file of unknown rank speaks against the others, never for its own record.
    if (
        fingerprint.is_extract
        and len(ranked) == 1
        and any((file.rank,) == fingerprint.ranks for file in ranked[0].files)
    ):
        return Testimony(
            tuple(ranked),
            f"header: an extract of a distilled model, and only {ranked[0].id} has rank"
            f" {fingerprint.ranks[0]}",
        )
    return None


def _of_one_file(
    records: tuple[Accelerator, ...], size: int, name: Name, base: BaseRow | None
) -> Testimony:
    """Which of several releases of the same file is meant: the one of its name, if that goes on the
    connected model, else the one that does.
    """
    both = " and ".join(record.id for record in records)
    words = f"size: exactly the {size} bytes of one file that is published as both {both}"
    named = _published_as(records, name)
    here = tuple(record for record in records if base in record.bases)
    if len(named) == 1 and (not here or named[0] in here):
        return Testimony(named, f"{words}; its name is that of {named[0].id}")
    if len(here) == 1 and base is not None:
        return Testimony(here, f"{words}; the connected model is {base.label}")
    return Testimony(records, words)


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
    if published := _by_published_name(possible, words):
        return _decided(fingerprint, published)
    title = _by_words_of_title(possible, words)
    if title is None and alike is not None:
        evidence = fingerprint.evidence
        return Recognition(fingerprint, None, possible, evidence, False, look_alike=alike)
    testimony = title or _by_words_of_path(possible, words)
    if testimony is None:
        ordered = likeliest(fingerprint, possible)
        return Recognition(fingerprint, None, ordered, fingerprint.evidence, False)
    return _borne_out(fingerprint, testimony, possible)


def _borne_out(
    fingerprint: Fingerprint, testimony: Testimony, possible: tuple[Accelerator, ...]
) -> Recognition:
    """What words speak for, if the contents are those of the one release they leave."""
    named, doubt = testimony.records, None
    if len(named) == 1 and testimony.name is not None:
        doubt = doubt_of(fingerprint, named[0], testimony.name, possible)
        if doubt is None:
            return _decided(fingerprint, testimony)
    evidence = (*fingerprint.evidence, testimony.words, *((doubt,) if doubt else ()))
    others = [record for record in likeliest(fingerprint, possible) if record not in named]
    candidates = (*named, *others)
    return Recognition(fingerprint, None, candidates, evidence, False, named, doubt or "")


def _decided(
    fingerprint: Fingerprint, testimony: Testimony, is_certain: bool = False
) -> Recognition:
    record = testimony.records[0] if len(testimony.records) == 1 else None
    evidence = (*fingerprint.evidence, testimony.words)
    is_certain = is_certain and record is not None
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
    needed = needed_host(owner.bases)
    return (
        f"its name is that of {owner.id}, which is for {bases_in_words(owner.bases)}{size}"
        f"{f'; {needed}' if needed else ''}"
    )


def _by_published_name(records: tuple[Accelerator, ...], words: Words) -> Testimony | None:
    """What the file was published as, by a title in its metadata or by its name."""
    for entry, title in words.titles.items():
        if published := _published_as(records, title):
            return Testimony(published, f"metadata {entry}: {title.text!r}")
    if published := _published_as(records, words.path):
        name = words.path.text.replace("\\", "/").rpartition("/")[2]
        return Testimony(published, f"file name: published as {name}")
    return None


def _by_words_of_title(records: tuple[Accelerator, ...], words: Words) -> Testimony | None:
    for entry, title in words.titles.items():
        if named := _begun_by(records, title) or _named_by(records, title):
            return Testimony(named, f"metadata {entry}: {title.text!r}", title)
    return None


def _by_words_of_path(records: tuple[Accelerator, ...], words: Words) -> Testimony | None:
    """What the words of the file's name speak for, and its folders' where it says nothing."""
    name = words.path if words.path.is_generic else words.stem
    if begun := _begun_by(records, name):
        return Testimony(begun, "path: a published name with more behind it", name)
    named = _named_by(records, name)
    if not named:
        return None
    spoken = name.words & _vocabulary(named)
    return Testimony(named, f"path: the words {', '.join(sorted(spoken))}", name)


def _published_as(records: Iterable[Accelerator], name: Name) -> tuple[Accelerator, ...]:
    """Records with a file of this name. Where two folders have it, the folder decides; a name that
    says nothing is one with its folder alone.
    """
    if name.is_generic:
        place = _parts_of(name.text)[-2:]
        return tuple(
            record for record in records if any(_lies_in(file, place) for file in record.files)
        )
    published = tuple(
        record
        for record in records
        if any(kept_name(file.repo, file.path) == name.stem for file in record.files)
    )
    return _named_by(published, name) or published


def _begun_by(records: Iterable[Accelerator], name: Name) -> tuple[Accelerator, ...]:
    """Records whose published name this one goes on from, the longest such: of a copy. What stands
    behind it is the copy's (_low_vram), unless it is another release's claim.
    """
    begun: dict[int, list[Accelerator]] = {}
    for record in records:
        for file in record.files:
            published = read_published(file.name)
            if not published.is_generic and _goes_on(name, published, record):
                begun.setdefault(len(published.stem), []).append(record)
    if not begun:
        return ()
    longest = tuple({record.id: record for record in begun[max(begun)]}.values())
    return _named_by(longest, name) or longest


def _goes_on(name: Name, published: Name, record: Accelerator) -> bool:
    """Whether a name is a published one with more behind it that contradicts nothing of it."""
    if not name.stem.startswith(published.stem) or name.stem[len(published.stem) :][:1].isalnum():
        return False
    counts = published.step_counts or set(record.steps)
    return (
        name.step_counts <= counts
        and name.experts_by_noise <= ({record.expert} if record.expert else set())
        and not (name.words - published.words) & set(record.name_excludes)
    )


def _lies_in(file: PublishedFile, place: list[str]) -> bool:
    """Whether a file was published in this folder under this name. place: the two."""
    return len(place) == 2 and _parts_of(f"{file.repo}/{file.path}")[-2:] == place


def _look_alike(base: BaseRow | None, name: Name) -> LookAlike | None:
    return next(
        (
            other
            for other in LOOK_ALIKES
            if any(is_of(base, own) for own in other.bases)
            and name.says(other.name_words, other.name_excludes)
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
