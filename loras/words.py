"""Words that messages and reports have in common."""

from __future__ import annotations


def counted(count: float, noun: str) -> str:
    """1 step, 21 latent frames, 1.5 evaluations. noun: singular, plural in s (es after an s)."""
    number = f"{count:g}" if isinstance(count, float) else str(count)
    ending = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending * (count != 1)}"
