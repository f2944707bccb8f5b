"""What in a LoRA's contents speaks against the words of its name.

A style may well be called lightning_4step: the words of a release count only where the file's rank,
keys and layers are those of the release, and nothing in it says that it was trained as a style.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .accelerator import Accelerator, Kind, Make, PublishedFile
from .fingerprint import Fingerprint
from .names import GENERIC_WORDS, Name, kept_name, read_published, short_name
from .words import counted, first_few

# What people put before and behind the name of a file they keep.
OF_A_COPY = frozenset(
    {
        "backup",
        "copy",
        "final",
        "my",
        "new",
        "of",
        "old",
        "quality",
        "renamed",
        "resized",
        "vram",
    }
)
# What is said of the numbers of a model, and of what else is in its file.
OF_A_FORMAT = frozenset(
    {
        "baked",
        "bakedvae",
        "e4m3fn",
        "e5m2",
        "ema",
        "emaonly",
        "full",
        "k",
        "m",
        "no",
        "noema",
        "pruned",
        "q",
        "s",
        "scaled",
        "vae",
    }
)
NUMBERS = r"(v|rank|r)?\d+|\d*steps?"


def doubt_of(
    fingerprint: Fingerprint, record: Accelerator, name: Name, possible: Iterable[Accelerator]
) -> str | None:
    """Why a LoRA that its name's words call `record` may be a style all the same, for people.

    None where its contents are those of the record's files. possible: the records that its tensors
    allow, whose names it may share words with.
    """
    if record.is_declared or record.kind is not Kind.LORA:
        return None
    if fingerprint.trainer:
        return f"it was trained with {fingerprint.trainer}, by its metadata"
    if fingerprint.is_dora:
        return "it is a DoRA, and no accelerator is one"
    if fingerprint.has_text_encoder:
        return "it changes the text encoder, which no accelerator does"
    if doubt := _doubt_of_pairs(fingerprint, record):
        return doubt
    if not fingerprint.has_convolutions and all(base.has_timesteps for base in record.bases):
        return "it leaves the convolutions as they are, which no accelerator for its base does"
    foreign = _foreign_words(record, name, possible)
    if foreign and not fingerprint.is_extract:
        return f"no published name has the word {first_few(sorted(foreign))}"
    return None


def _doubt_of_pairs(fingerprint: Fingerprint, record: Accelerator) -> str | None:
    """What of the low-rank pairs is not as in any of the record's files."""
    ranked = [file for file in record.files if (file.rank,) == fingerprint.ranks]
    if not ranked:
        known = sorted({file.rank for file in record.files if file.rank is not None})
        if not known:
            return f"the rank of {record.id} is not known, so nothing in the file bears that out"
        return f"its rank is {_listed(fingerprint.ranks)}, and that of {record.id} {_listed(known)}"
    makes = [file.make for file in ranked if file.make is not None]
    # One of which nothing more is known may be it.
    if len(makes) < len(ranked) or fingerprint.pairs is None:
        return None
    return _doubt_of_makes(fingerprint, record, makes)


def _doubt_of_makes(fingerprint: Fingerprint, record: Accelerator, makes: list[Make]) -> str | None:
    """makes: of the record's files of the same rank."""
    assert fingerprint.pairs is not None
    alike = [make for make in makes if make.naming == fingerprint.naming]
    if not alike:
        published = _listed(sorted({make.naming for make in makes}))
        own = fingerprint.naming or "of several kinds"
        return f"its keys are {own}, and those of {record.id} {published}"
    counts = {make.pairs for make in alike if make.pairs is not None}
    if len(counts) < len({make.pairs for make in alike}) or fingerprint.pairs in counts:
        return None
    adapted = counted(fingerprint.pairs, "layer")
    return f"it adapts {adapted}, and {record.id} {_listed(sorted(counts))}"


def has_words_of_its_own(record: Accelerator, name: Name, possible: Iterable[Accelerator]) -> bool:
    """Whether a name that calls a model `record` has words that no release's has, and that are not
    said of a format either. possible: as in doubt_of.
    """
    # A file whose own name is not known may be called as its repository is, with more behind it.
    repositories = (file.repo for file in record.files if not file.path)
    if any(repo and name.stem.startswith(short_name(repo)) for repo in repositories):
        return False
    return bool(_foreign_words(record, name, possible) - OF_A_FORMAT)


def _foreign_words(record: Accelerator, name: Name, possible: Iterable[Accelerator]) -> set[str]:
    """The words in a name that no published name has, if it does not begin with one of those."""
    if _begins_as_published(record, name):
        return set()
    return _words_that_tell(name) - _published_words(possible)


def _words_that_tell(name: Name) -> set[str]:
    """The words that not any file may have: no numbers, versions and steps, nothing that every
    trainer writes or that is said of a copy.
    """
    words = name.words - GENERIC_WORDS - OF_A_COPY
    return {word for word in words if not re.fullmatch(NUMBERS, word)}


def _published_words(records: Iterable[Accelerator]) -> set[str]:
    """The words of the records' own files, and those that speak for their releases."""
    words: set[str] = set()
    for record in records:
        for file in record.files:
            words |= read_published(f"{file.repo}/{file.path}").words
        for group in record.name_words:
            words |= set(group.split("|"))
    return words


def _begins_as_published(record: Accelerator, name: Name) -> bool:
    """Whether a name is one of the record's own with more behind it: ..._lora_high_quality."""
    published = (kept_name(file.repo, file.path) for file in record.files)
    return any(stem and name.stem.startswith(stem) for stem in published)


def _listed(values: Iterable[object]) -> str:
    """16, or 16 or 32, or 16 to 256."""
    listed = list(map(str, values))
    return f"{listed[0]} to {listed[-1]}" if len(listed) > 2 else " or ".join(listed) or "none"


# ---------------------------------------------------------------- which to name first


def likeliest(fingerprint: Fingerprint, records: Iterable[Accelerator]) -> tuple[Accelerator, ...]:
    """The records, those first whose files are most like this one: in rank, in keys, in numbers."""

    def likeness(record: Accelerator) -> int:
        return max((_points(fingerprint, file) for file in record.files), default=0)

    return tuple(sorted(records, key=likeness, reverse=True))


def _points(fingerprint: Fingerprint, file: PublishedFile) -> int:
    points = 4 * ((file.rank,) == fingerprint.ranks)
    if file.make is not None:
        points += 2 * (file.make.pairs == fingerprint.pairs)
        points += file.make.naming == fingerprint.naming
        points += bool(fingerprint.dtype) and file.make.dtype == fingerprint.dtype
    return points
