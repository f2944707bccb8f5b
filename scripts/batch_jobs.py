"""The jobs of a batch: every workflow with every prompt and every seed."""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_client import Prompt
from workflow_inputs import BatchError, Workflow, seed_inputs, text_inputs


@dataclass(frozen=True)
class Job:
    """One workflow with one prompt and one seed."""

    id: str  # the same workflow, prompt and seed always have the same
    workflow: str
    text: str
    seed: int
    prompt: Prompt


def read_workflow(path: Path) -> Workflow:
    """Raises BatchError for anything but a workflow in API format."""
    try:
        prompt = json.loads(path.read_text(encoding="utf-8-sig"))
        json.dumps(prompt, allow_nan=False)  # as it will be sent
    except (OSError, ValueError, RecursionError) as error:
        raise BatchError(f"{path} cannot be read as JSON: {error}") from None
    if isinstance(prompt, dict) and "nodes" in prompt:
        raise BatchError(
            f"{path} is not a workflow in API format but in the editor's own. In ComfyUI: Workflow,"
            " Export (API), and give that file."
        )
    if (
        not isinstance(prompt, dict)
        or not prompt
        or not all(is_node(node) for node in prompt.values())
    ):
        raise BatchError(
            f"{path} is not a workflow in API format: expected an object of nodes with a class_type"
            " and inputs each."
        )
    return Workflow(path.stem, prompt)


def is_node(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("class_type"), str)
        and isinstance(value.get("inputs"), dict)
    )


def read_prompts(path: Path) -> list[str]:
    """The prompts of a text file, one a line; empty lines do not count."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # with a mark at its beginning or without
    except UnicodeDecodeError as error:
        raise BatchError(f"{path} is not UTF-8 text ({error}): save it as UTF-8.") from None
    prompts = [line.strip() for line in text.splitlines()]
    if not any(prompts):
        raise BatchError(f"{path} has no prompt in it: expected one on each line.")
    return [prompt for prompt in prompts if prompt]


def checked_url(url: str) -> str:
    """A server's URL without its final slash. Raises BatchError unless it is http or https."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BatchError(
            f"--server {url}: expected the address of a ComfyUI server, such as"
            " http://127.0.0.1:8188."
        )
    return url.rstrip("/")


def make_jobs(
    workflows: Sequence[Workflow], prompts: Sequence[str], seeds: Sequence[int]
) -> list[Job]:
    """Every prompt and seed, one workflow after the other: a server loads each model once."""
    return [
        make_job(workflow, text, seed)
        for workflow in workflows
        for text in prompts
        for seed in seeds
    ]


def make_job(workflow: Workflow, text: str, seed: int) -> Job:
    prompt = filled(workflow, text, seed)
    words = json.dumps([workflow.name, prompt], sort_keys=True).encode()
    return Job(hashlib.sha256(words).hexdigest()[:16], workflow.name, text, seed, prompt)


def filled(workflow: Workflow, text: str, seed: int) -> Prompt:
    """A copy of the workflow with this prompt and seed in it."""
    prompt = {id: {**node, "inputs": dict(node["inputs"])} for id, node in workflow.prompt.items()}
    for node, name in text_inputs(workflow):
        prompt[node]["inputs"][name] = text
    for node, name in seed_inputs(workflow):
        prompt[node]["inputs"][name] = seed
    return prompt
