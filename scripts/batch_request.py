"""What the commands that run batches are asked for, and what they say of what is missing."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from batch import Outcome
from batch_jobs import Job, checked_url, make_jobs, read_prompts, read_workflow
from workflow_inputs import BatchError

ROOT = Path(__file__).resolve().parent.parent

# What the report cannot be made without.
NEEDED = ("torch", "torchvision", "torchmetrics", "matplotlib", "PIL", "jinja2")


@dataclass(frozen=True)
class Request:
    """What was asked for, read and in order."""

    servers: Sequence[str]
    workflows: Sequence[str]  # their names; the first is the reference
    jobs: Sequence[Job]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workflow",
        action="append",
        required=True,
        type=Path,
        help="API-format JSON; the first is the reference",
    )
    parser.add_argument(
        "--prompts", required=True, type=Path, help="a text file with one prompt a line"
    )
    parser.add_argument(
        "--seeds", type=positive, default=1, help="how many seeds for each prompt (default 1)"
    )
    parser.add_argument("--first-seed", type=int, default=1, help="the first of them (default 1)")
    parser.add_argument("--out", required=True, type=Path, help="folder for results and report")
    parser.add_argument(
        "--price-per-hour", type=float, default=0.0, help="of a machine that runs one ComfyUI"
    )


def read_request(options: argparse.Namespace) -> Request:
    """Raises BatchError for what cannot be run, OSError for a file that cannot be read."""
    servers = [checked_url(url) for url in options.server]
    workflows = [read_workflow(path) for path in options.workflow]
    names = [workflow.name for workflow in workflows]
    if len(set(names)) < len(names):
        raise BatchError(
            "Two workflow files have the same name, so the report could not tell them apart."
            " Rename one."
        )
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    return Request(servers, names, make_jobs(workflows, read_prompts(options.prompts), seeds))


def missing_modules() -> str:
    """What this Python lacks to make the report, and what to do; empty where nothing is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return missing and (
        f"{', '.join(missing)} cannot be imported by {sys.executable}. Run this with ComfyUI's"
        " own Python, after installing this pack's requirements there: python -m pip install"
        f" -r {ROOT / 'requirements.txt'}"
    )


def tell_missing(outcome: Outcome, not_compared: int) -> bool:
    """Say what the report lacks; whether it lacks something."""
    if outcome.failed or outcome.left:
        print(
            f"{outcome.failed} failed, {outcome.left} not run. The same command again runs these"
            " and no others.",
            file=sys.stderr,
        )
    if not_compared:
        print(f"{not_compared} could not be compared: the report says why.", file=sys.stderr)
    return bool(outcome.failed or outcome.left or not_compared)


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("1 or more is expected")
    return number


def say(line: str) -> None:
    print(line, flush=True)
