"""Compare workflows over many prompts and seeds, on one or several running ComfyUI servers.

    python scripts/compare.py --server http://127.0.0.1:8188 --workflow full.json \
        --workflow fast.json --prompts prompts.txt --seeds 4 --out report/

The workflows are in API format (ComfyUI: Workflow, Export (API)). The first is the reference that
the others are compared with. Each runs every prompt (one a line) with every seed. The folder then
holds results.csv and report.html, one file with everything in it. The same command run again does
only what is missing: a killed server, a failed job or Ctrl+C loses nothing already done. Give
--server several times to spread the jobs.

Needs torch, torchvision, torchmetrics, matplotlib, Pillow and jinja2: ComfyUI's own Python has them
once this pack's requirements.txt is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import batch
from batch_jobs import Job, checked_url, make_jobs, read_prompts, read_workflow
from batch_store import Store
from console import print_everywhere
from workflow_inputs import BatchError

ROOT = Path(__file__).resolve().parent.parent

# What the report cannot be made without, asked for before a server works for nothing.
NEEDED = ("torch", "torchvision", "torchmetrics", "matplotlib", "PIL", "jinja2")


@dataclass(frozen=True)
class Request:
    """What was asked for, read and in order."""

    servers: Sequence[str]
    workflows: Sequence[str]  # their names; the first is the reference
    jobs: Sequence[Job]


def main(arguments: Sequence[str] | None = None) -> int:
    """0: everything is there. 1: something failed or is missing. 2: the request is wrong.

    At 1 the report holds the rest.
    """
    options = parsed(arguments)
    try:
        request = read_request(options)
        refuse_missing_modules()
    except (BatchError, OSError) as error:
        complain(error)
        return 2
    import report_page  # needs torch: only now is it known to be there

    store = Store(options.out)
    outcome = batch.run_all(request.jobs, request.servers, store, say, options.wait)
    if outcome.stopped:
        complain(
            f"{outcome.stopped}. What is done is kept; the same command goes on from there once"
            " that is mended."
        )
    try:
        written = report_page.write(
            store, request.jobs, request.workflows, options.price_per_hour, outcome
        )
    except OSError as error:
        complain(f"the report cannot be written: {error}")
        return 1
    print(f"{written.page}\n{written.page.with_name('results.csv')}")
    return 1 if tell_missing(outcome, written.not_compared) else 0


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


def tell_missing(outcome: batch.Outcome, not_compared: int) -> bool:
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


def refuse_missing_modules() -> None:
    """Raise BatchError where this Python cannot make the report."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise BatchError(
            f"{', '.join(missing)} cannot be imported by {sys.executable}. Run this with ComfyUI's"
            " own Python, after installing this pack's requirements there: python -m pip install"
            f" -r {ROOT / 'requirements.txt'}"
        )


def complain(what: object) -> None:
    print(f"compare: {what}", file=sys.stderr)


def say(line: str) -> None:
    print(line, flush=True)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--server",
        action="append",
        required=True,
        help="address of a ComfyUI server; may be given several times",
    )
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
        "--price-per-hour",
        type=float,
        default=0.0,
        help="of the machine, for the price of each picture or clip saved",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=batch.RETURN_SECONDS,
        help="seconds to wait for a server that stopped answering",
    )
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("1 or more is expected")
    return number


if __name__ == "__main__":
    print_everywhere()
    sys.exit(main())
