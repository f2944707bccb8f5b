"""Compare workflows over many prompts and seeds, on one or several running ComfyUI servers.

    python scripts/compare.py --server http://127.0.0.1:8188 --workflow full.json \
        --workflow fast.json --prompts prompts.txt --seeds 4 --out report/

The workflows are in API format (ComfyUI: Workflow, Export (API)). The first is the reference that
the others are compared with. Each runs every prompt (one a line) with every seed. The folder then
holds results.csv and report.html, one file with everything in it. The same command run again does
only what is missing: a killed server, a failed job or Ctrl+C loses nothing already done. Give
--server several times to spread the jobs, or --ray for a fleet as of fleet.py.

Needs torch, torchvision, torchmetrics, matplotlib, Pillow and jinja2: ComfyUI's own Python has them
once this pack's requirements.txt is installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import batch
import fleet
from batch_request import Request, add_options, missing_modules, read_request, say, tell_missing
from batch_store import Store
from console import print_everywhere
from workflow_inputs import BatchError


def main(arguments: Sequence[str] | None = None) -> int:
    """0: everything is there. 1: something failed or is missing. 2: the request is wrong.

    At 1 the report holds the rest.
    """
    options = parsed(arguments)
    try:
        request = checked_request(options)
        store = Store(options.out)
        outcome = run(request, options, store)
    except fleet.TROUBLES as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        return 130
    import report_page  # needs torch: only now is it known to be there

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


def checked_request(options: argparse.Namespace) -> Request:
    """Raises BatchError for what cannot be run, OSError for a file that cannot be read."""
    request = read_request(options)
    if not request.servers and options.ray is None:
        raise BatchError(
            "No server to run on: give --server http://127.0.0.1:8188, or --ray for a fleet."
        )
    if missing := missing_modules():
        raise BatchError(missing)
    return request


def run(request: Request, options: argparse.Namespace, store: Store) -> batch.Outcome:
    if options.ray is not None:
        return fleet.run(request, options, store)
    return batch.run_all(request.jobs, request.servers, store, say, options.wait)


def complain(what: object) -> None:
    print(f"compare: {what}", file=sys.stderr)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        help="address of a ComfyUI server; may be given several times",
    )
    add_options(parser)
    parser.add_argument(
        "--wait",
        type=float,
        default=batch.RETURN_SECONDS,
        help="seconds to wait for a server that stopped answering",
    )
    fleet.add_options(parser, ray=None)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print_everywhere()
    sys.exit(main())
