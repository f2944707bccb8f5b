"""Prompts with start times in one CONDITIONING, and what a causal model's prompt may not carry.

A prompt's time stands in its own dictionary, as the host keeps a mask's strength or an area there,
so that it goes through nodes that know nothing of it. Only the Streaming Sampler plays them one
after another: any other sampler blends all entries of a conditioning, as it always does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...loras.words import counted
from ...samplers.causal import Timeline
from ...samplers.plan import PlanError

START = "fewstep_start_seconds"  # in the dictionary of a prompt, from the clip's beginning
# A CONDITIONING's entry: the encoded text and what goes with it.
Prompt = Sequence[Any]

# What a prompt may not carry, by the host's name for it, and why: one conditioning fills the cache
# for all that follows.
REFUSED_IN_PROMPT = {
    "area": "an area",
    "mask": "a mask",
    "hooks": "hooks",
    "start_percent": "a start and end in the schedule",
    "end_percent": "a start and end in the schedule",
    "control": "a ControlNet",
    "gligen": "GLIGEN boxes",
}


def with_start(prompt: Prompt, seconds: float) -> list[Any]:
    """The prompt, which begins at this second."""
    return [prompt[0], {**prompt[1], START: seconds}]


def is_timed(prompt: Prompt) -> bool:
    return START in prompt[1]


def timeline_of(conditioning: Sequence[Prompt], frame_rate: float) -> Timeline:
    """When its prompts begin."""
    return Timeline(tuple(start_of(prompt) for prompt in in_order(conditioning)), frame_rate)


def in_order(conditioning: Sequence[Prompt]) -> list[Prompt]:
    """Its prompts in the order of their times."""
    return sorted(conditioning, key=start_of)


def start_of(prompt: Prompt) -> float:
    """The second at which it begins: with the clip, where it has no time of its own."""
    return prompt[1].get(START, 0.0)


def untimed(prompt: Prompt) -> list[Any]:
    """The prompt as the host's samplers take it."""
    return [prompt[0], {key: value for key, value in prompt[1].items() if key != START}]


def refuse_prompts(conditioning: Sequence[Prompt]) -> None:
    """Raise for prompts of a stream that change by place or step, or that are given at once: the
    cached keys belong to one.
    """
    timed = [is_timed(prompt) for prompt in conditioning]
    if len(conditioning) != 1 and not (timed and all(timed)):
        raise PlanError(
            f"positive holds {len(conditioning)} prompts, combined; a causal model remembers what"
            " it saw under one. Connect a single CLIP Text Encode, or a Prompt Timeline, where one"
            " follows the other."
        )
    for prompt in conditioning:
        refuse_carried(prompt)


def carried_by(prompt: Prompt) -> list[str]:
    """What a prompt carries that makes it change by place or step, in words."""
    return sorted(
        {words for key, words in REFUSED_IN_PROMPT.items() if prompt[1].get(key) is not None}
    )


def refuse_carried(prompt: Prompt) -> None:
    """Raise for a prompt that carries what a causal model cannot follow."""
    if carried := carried_by(prompt):
        raise PlanError(
            f"The prompt carries {' and '.join(carried)}; a causal model remembers what it saw"
            " under one prompt for the whole clip. Connect the prompt without it."
        )
    if prompt[1].get("concat_latent_image") is not None:
        raise PlanError(
            "The prompt carries a start image (as Wan Image To Video adds it), which causal models"
            " do not read. Encode the picture with VAE Encode and connect it to start_latent."
        )


def refuse_timeline(conditioning: Sequence[Prompt], name: str) -> None:
    """Raise for a timeline where all prompts of a conditioning are blended. name: of the input."""
    if len(conditioning) > 1 and any(is_timed(prompt) for prompt in conditioning):
        raise PlanError(
            f"{name} is a Prompt Timeline of {counted(len(conditioning), 'prompt')}, which only the"
            " Streaming Sampler shows one after another: here all of them would be blended."
            " Connect a single CLIP Text Encode."
        )
