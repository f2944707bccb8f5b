"""What the name of a file says: its words, its step counts, and which expert it is for.

A path is relative to the models folder and written as either kind of system writes it.
"""

from __future__ import annotations

import re

from .accelerator import Expert
from .header import ENDINGS

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
EXPERT_WORDS = {expert.word: expert for expert in Expert}


def short_name(path: str) -> str:
    """The file's name without folders, in lower case."""
    return path.replace("\\", "/").rpartition("/")[2].lower()


def stem_of(path: str) -> str:
    """The short name without its ending."""
    name = short_name(path)
    return name.rsplit(".", 1)[0] if name.endswith(MODEL_ENDINGS) else name


def is_generic(stem: str) -> bool:
    """Whether a file's name without its ending says nothing about which release it is."""
    return set(_tokens(stem)) <= GENERIC_WORDS


def words_of(path: str) -> set[str]:
    """Words, step counts ("4step") and experts ("high", "low") of a path and its folders."""
    folders = path.replace("\\", "/").rpartition("/")[0].lower()
    text = f"{folders}/{stem_of(path)}"
    counts = {f"{count}step" for count in re.findall(r"(\d+)[-_ ]?steps?", text)}
    return {*_tokens(text), *counts, *_words_of_noise(text)}


def step_counts_in(words: set[str]) -> set[int]:
    """The step counts among the words of a path."""
    return {int(word[:-4]) for word in words if re.fullmatch(r"\d+step", word)}


def says(words: set[str], groups: tuple[str, ...], excludes: tuple[str, ...]) -> bool:
    """Whether the words hold one of each group ("lightning|lightx2v") and none excluded."""
    return all(words & set(group.split("|")) for group in groups) and not words & set(excludes)


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
    return re.findall(r"[a-z0-9]+", text.lower())
