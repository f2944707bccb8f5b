"""What decodes a model's latents faster than its VAE, in words."""

from __future__ import annotations

from dataclasses import dataclass

from ...loras.words import counted
from .cost import seconds_in_words
from .ways import Way

LARGE_SHARE = 1 / 5  # of the whole: decoding that takes more is worth a word


@dataclass(frozen=True)
class TinyVae:
    """A tiny VAE for a model's latents, as core's Load VAE knows it."""

    # What to put into models/vae_approx for Load VAE to list it; empty where ComfyUI knows none.
    files: tuple[str, ...] = ()
    option: str = ""  # how Load VAE lists it; empty where it is not there
    seconds: float | None = None  # of a decoding, None where it was not measured
    problem: str = ""  # why not, of one that is there
    is_connected: bool = False  # the connected VAE is one already


def is_worth_a_word(way: Way) -> bool:
    return way.decoding_share > LARGE_SHARE


def decode_faster(way: Way, tiny: TinyVae) -> str:
    """What to do about a way that decodes for more than LARGE_SHARE of its time."""
    assert way.overhead is not None
    share = f"Decode: {way.decoding_share:.0%} of the whole at {counted(way.steps, 'step')}."
    return f"{share} {_instead(way, way.overhead.decoding, tiny)}"


def _instead(way: Way, decoding: float, tiny: TinyVae) -> str:
    """decoding: seconds with the connected VAE."""
    if tiny.is_connected:
        return "The connected VAE is a tiny one already."
    if not tiny.files:
        return "ComfyUI knows no tiny VAE for this model."
    if not tiny.option:
        return (
            f"A tiny VAE is faster, with less fine detail: put {' and '.join(tiny.files)} into"
            " models/vae_approx, choose it in Load VAE, and this node measures it too."
        )
    if tiny.seconds is None:
        return f"{tiny.option} in Load VAE is a tiny VAE for this model; {tiny.problem}"
    if tiny.seconds >= decoding:
        return (
            f"{tiny.option}, the tiny VAE that is there, takes {seconds_in_words(tiny.seconds)}:"
            " no gain."
        )
    whole = seconds_in_words(way.whole - decoding + tiny.seconds)
    return (
        f"{tiny.option}, a tiny VAE, takes {seconds_in_words(tiny.seconds)} in place of"
        f" {seconds_in_words(decoding)}, which makes the whole {whole}, with less fine detail:"
        " choose it in Load VAE."
    )
