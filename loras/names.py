"""What the name of a file and the titles in it say: words, step counts, and which expert it is for.

A path is relative to the models folder and written as either kind of system writes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import lru_cache

from .accelerator import Expert
from .header import ENDINGS

# Where trainers and converters put a file's title.
TITLE_METADATA = ("modelspec.title", "ss_output_name", "title", "name")

# Endings of model files, the ones that are never opened here among them.
MODEL_ENDINGS = (*ENDINGS, ".gguf", ".ckpt", ".pt", ".pth", ".bin")

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
        "highnoise",
        "lora",
        "low",
        "lownoise",
        "model",
        "noise",
        "pytorch",
        "transformer",
        "unet",
        "weights",
    }
)
# Of a title that anybody wrote, what is read.
LONGEST_TITLE = 300

# A word that the name denies, and its steps with it: non-turbo, no_lightx2v_4step.
DENIED = r"(?<![^\W_])(no|non|without)[-_ ]+[^\W_]+([-_ ]+\d{1,4}[-_ ]?steps?)?"

EXPERT_WORDS = {expert.word: expert for expert in Expert}


@dataclass(frozen=True)
class Name:
    """What a path or a title says, read once and asked for every record."""

    text: str  # as it is written
    stem: str  # the file's name without folders and ending, in lower case
    is_generic: bool  # it says nothing about which release the file is
    words: frozenset[str]  # folders among them
    step_counts: frozenset[int]
    experts: frozenset[Expert]
    experts_by_noise: frozenset[Expert]  # where a bare "high" or "low" may mean anything

    def says(self, groups: tuple[str, ...], excludes: tuple[str, ...]) -> bool:
        """Whether its words hold one of each group ("lightning|lightx2v") and none excluded."""
        is_said = all(self.words & set(group.split("|")) for group in groups)
        return is_said and not self.words & set(excludes)


def read_name(path: str) -> Name:
    """What a path or a title says."""
    stem, words = stem_of(path), words_of(path)
    return Name(
        path,
        stem,
        is_generic(stem),
        frozenset(words),
        frozenset(step_counts_in(words)),
        frozenset(experts_named(path)),
        frozenset(experts_named(path, by_noise_alone=True)),
    )


@lru_cache(maxsize=1 << 12)
def read_published(path: str) -> Name:
    """The same for a record's file: all are asked about every file that is recognised."""
    return read_name(path)


@dataclass(frozen=True)
class Words:
    """All that a file says of itself in words."""

    titles: Mapping[str, Name]  # those that are in its metadata, by the entry's name
    path: Name  # its folders among the words
    stem: Name  # of its own name alone


def words_in(metadata: Mapping[str, str], path: str) -> Words:
    """What a file says of itself: its titles and its path, which may be empty."""
    name = read_name(path)
    told = {entry: metadata.get(entry, "") for entry in TITLE_METADATA}
    titles = {entry: read_name(title[:LONGEST_TITLE]) for entry, title in told.items() if title}
    return Words(titles, name, read_name(name.stem))


def short_name(path: str) -> str:
    """The file's name without folders, in lower case."""
    return path.replace("\\", "/").rpartition("/")[2].lower()


def stem_of(path: str) -> str:
    """The short name without its ending, and without the number in brackets that a browser gives a
    second download.
    """
    name = short_name(path)
    stem = name.rsplit(".", 1)[0] if name.endswith(MODEL_ENDINGS) else name
    return re.sub(r" ?\(\d+\)$", "", stem)


@lru_cache(maxsize=1 << 12)
def kept_name(repo: str, path: str) -> str:
    """What a published file is called when it is kept, without its ending: as it was published, or
    as its repository is, where its own name says nothing.
    """
    stem = stem_of(path)
    return short_name(repo) if path and is_generic(stem) else stem


def is_generic(stem: str) -> bool:
    """Whether a file's name without its ending says nothing about which release it is."""
    return set(_tokens(stem)) <= GENERIC_WORDS


def words_of(path: str) -> set[str]:
    """Words, step counts ("4step") and experts ("high", "low") of a path and its folders, without
    those that it denies.
    """
    folders = path.replace("\\", "/").rpartition("/")[0].lower()
    text = re.sub(DENIED, "", f"{folders}/{stem_of(path)}")
    counts = {f"{count}step" for count in re.findall(r"(?<!\d)(\d{1,4})[-_ ]?steps?", text)}
    return {*_tokens(text), *counts, *_words_of_noise(text)}


def step_counts_in(words: Set[str]) -> set[int]:
    """The step counts among the words of a path."""
    return {int(word[:-4]) for word in words if re.fullmatch(r"\d{1,4}step", word)}


def experts_named(path: str, by_noise_alone: bool = False) -> set[Expert]:
    """The experts of Wan 2.2 that a file's name is for: high-noise, HighNoise, -HIGH-.

    Folders are their owner's order (low_vram, high quality), so they speak only where the name
    itself is generic and says neither. by_noise_alone: the bare words are left out, which are also
    said of ranks, memory and quality.
    """
    stem = stem_of(path)
    named = _experts_in(stem, by_noise_alone)
    if not named and is_generic(stem):
        return _experts_in(path.lower(), by_noise_alone)
    return named


def _experts_in(text: str, by_noise_alone: bool) -> set[Expert]:
    # What is said with "noise" is said of the experts, whatever else is high or low.
    words = _words_of_noise(text)
    if not words and not by_noise_alone:
        words = EXPERT_WORDS.keys() & _tokens(text)
    return {EXPERT_WORDS[word] for word in words}


def _words_of_noise(text: str) -> set[str]:
    """The "high" and "low" that "noise" stands behind, glued to it or not."""
    return set(re.findall(r"(high|low)[^a-z0-9]*noise", text))


def _tokens(text: str) -> list[str]:
    """Runs of letters and digits. Those of other scripts are words of their own: in Chinese no
    space parts them from a release's.
    """
    return re.findall(r"[a-z0-9]+|[^\W_a-z0-9]+", text.lower())
