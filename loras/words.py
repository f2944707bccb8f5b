"""Words that messages and reports have in common."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: float, noun: str) -> str:
    """1 step, 21 latent frames, 1.5 evaluations. noun: singular, plural in s (es after an s)."""
    number = f"{count:g}" if isinstance(count, float) else str(count)
    ending = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending * (count != 1)}"


def first_few(words: Sequence[str]) -> str:
    """Three of them, and whether there are more."""
    return ", ".join(words[:3]) + (" and more" if len(words) > 3 else "")


def in_figures(seconds: float) -> str:
    """Three figures or more, large numbers never as a power of ten: 0.0431, 4.26, 1200.

    Speed-Quality Compare divides by them.
    """
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:.0f}"


def in_gib(size: float) -> str:
    """size: bytes."""
    return f"{size / 2**30:.3g} GiB"
