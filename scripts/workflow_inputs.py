"""Where a workflow in API format keeps its prompt and its seed, so that a batch can set them.

Both are looked for by the names of inputs, upstream from where a sampler takes them, and through
the nodes of core that make texts of texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from comfy_client import Prompt

# Where a node keeps its prompt (core's encoders of several texts name them after their text
# encoders), and by which inputs one comes from a sampler to it.
TEXT_INPUTS = (
    "text",
    "prompt",
    "user_prompt",
    "text_g",
    "text_l",
    "clip_l",
    "clip_g",
    "t5xxl",
    "llama",
    "bert",
    "mt5xl",
    "qwen25_7b",
)
CONDITIONING_INPUTS = (
    "positive",
    "conditioning",
    "guider",
    "conditioning_1",
    "conditioning_to",
    "cond",
    "cond_NEW",
    "positive_NEW",
    "positive_A",
)
SEED_INPUTS = ("seed", "noise_seed")
# Where core's Text, Text (Multiline) and Int nodes keep what they hand on, and the one text that
# core's Trim, Replace, Case Converter and others change: no prompt and no seed unless a link from
# one leads there.
VALUE_INPUT = "value"
CHANGED_INPUTS = (VALUE_INPUT, "string", "texts", "source")
# What core's Concatenate joins, and how the values of its Format Text are called.
JOINED_INPUTS, FORMAT_PREFIX = ("string_a", "string_b"), "values."

# (node, input)
Place = tuple[str, str]


class BatchError(ValueError):
    """A request that cannot be run. Says what was expected, what was found and what to do."""


@dataclass(frozen=True)
class Workflow:
    """A workflow in API format. name: of its file, for the report."""

    name: str
    prompt: Prompt


@dataclass
class Search:
    """What the ways upstream led to."""

    places: set[Place] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)  # where a way to a value ended, in words
    ends: list[str] = field(default_factory=list)  # nodes that hand on no known conditioning


def seed_inputs(workflow: Workflow) -> list[Place]:
    """Every seed: where a node has it as a number, or where the link that it has instead leads."""
    prompt, search = workflow.prompt, Search()
    names = (*SEED_INPUTS, VALUE_INPUT)
    for id, node in prompt.items():
        for name in SEED_INPUTS:
            if name in node["inputs"]:
                follow(prompt, (id, name), names, int, search)
    if not search.places:
        raise BatchError(
            f"{workflow.name} has no seed to set: no number lies behind a node's"
            f" {' or '.join(SEED_INPUTS)}.{in_words(search.lost)}"
        )
    return sorted(search.places)


def text_inputs(workflow: Workflow) -> list[Place]:
    """Every prompt: from each sampler's positive conditioning to where its text is written.

    Raises BatchError where there is none, or where the way to a part of it is lost.
    """
    prompt, search = workflow.prompt, Search()
    for start in positives(prompt):
        follow_conditioning(prompt, start, search)
    if not search.places:
        raise BatchError(
            f"{workflow.name} has no prompt to set: no text lies behind a sampler's positive"
            f" input.{in_words(search.lost or search.ends)}"
        )
    if search.lost:
        raise BatchError(
            f"{workflow.name} has a prompt of which a part cannot be set.{in_words(search.lost)}"
        )
    return sorted(search.places)


def in_words(reasons: Sequence[str]) -> str:
    return "".join(f" {reason}." for reason in dict.fromkeys(reasons))


def positives(prompt: Prompt) -> list[str]:
    """The nodes that samplers and guiders take their positive conditioning from."""
    return [
        node["inputs"][name][0]
        for node in prompt.values()
        for name in ("positive", "conditioning")
        if (name == "positive" or "Guider" in node["class_type"])
        and is_link(node["inputs"].get(name))
    ]


def follow_conditioning(prompt: Prompt, start: str, search: Search) -> None:
    """The nearest texts upstream of a node, through nodes that only pass conditioning on."""
    waiting, seen = [start], set()
    while waiting:
        node = waiting.pop()
        if node in seen or node not in prompt:
            continue
        seen.add(node)
        inputs = prompt[node]["inputs"]
        texts = [name for name in TEXT_INPUTS if is_text(inputs.get(name))]
        for name in texts:
            follow(prompt, (node, name), (*TEXT_INPUTS, *CHANGED_INPUTS), str, search)
        behind = [inputs[name][0] for name in CONDITIONING_INPUTS if is_link(inputs.get(name))]
        if not texts and not behind:
            search.ends.append(
                f"The search ended at {title(prompt, node)}, whose inputs are"
                f" {listed(inputs)}; a text is known as {listed(TEXT_INPUTS)}"
            )
        waiting += [] if texts else behind


def follow(prompt: Prompt, start: Place, names: Sequence[str], kind: type, search: Search) -> None:
    """Where an input's value is written: there, or at its link's end, under these names."""
    waiting, seen = [start], set()
    while waiting:
        place = node, name = waiting.pop()
        if place in seen or node not in prompt:
            continue
        seen.add(place)
        value = prompt[node]["inputs"].get(name)
        if isinstance(value, kind):
            search.places.add(place)
        elif is_link(value):
            behind, lost = sources(prompt, value[0], names, kind)
            waiting += [(value[0], name) for name in behind]
            search.lost += lost


def sources(
    prompt: Prompt, node: str, names: Sequence[str], kind: type
) -> tuple[list[str], list[str]]:
    """(the inputs that a node makes its value of, why there are none) of a node behind a link."""
    inputs = prompt.get(node, {}).get("inputs", {})
    known = [
        name for name in names if isinstance(inputs.get(name), kind) or is_link(inputs.get(name))
    ]
    if known:
        return known, []
    joined = [name for name in inputs if name in JOINED_INPUTS or name.startswith(FORMAT_PREFIX)]
    # What is written beside a link is what every prompt has in common.
    parts = [name for name in joined if is_link(inputs[name])] or [
        name for name in joined if isinstance(inputs[name], str) and inputs[name].strip()
    ]
    if len(parts) == 1:
        return parts, []
    if parts:
        return [], [
            f"{title(prompt, node)} puts {listed(parts)} together, and it is not clear which of"
            " them is the prompt: link it alone, from a Text node, and write the others there"
        ]
    return [], [
        f"The search ended at {title(prompt, node)}, whose inputs are {listed(inputs)}; known are"
        f" {listed(names)}"
    ]


def title(prompt: Prompt, node: str) -> str:
    return f"node {node} ({prompt[node]['class_type']})" if node in prompt else f"node {node}"


def listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def is_text(value: Any) -> bool:
    return isinstance(value, str) or is_link(value)


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
