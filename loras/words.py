"""Words that messages and reports have in common."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """1 step, 21 latent frames. noun: in the singular, one that takes an s."""
    return f"{count} {noun}{'s' * (count != 1)}"
