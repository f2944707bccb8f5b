"""Run workflows x prompts x seeds on a fleet: ComfyUI servers on any number of machines, by Ray.

    python scripts/fleet.py --workflow a.json --workflow b.json --prompts prompts.txt --seeds 4 \
        --workers 8 --out results/

Each worker is a ComfyUI of its own, started where Ray finds room for it. Ray is optional (pip
install "ray[default]"): without it the same command runs on this machine alone. Whatever is killed,
a ComfyUI, a worker, a machine or this program: the same command again does what is missing, and
nothing twice. The folder then holds results/, results.csv and report.html, as of compare.py.

Only the standard library is needed; for the report, what compare.py needs.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fleet_run
import fleet_table
from batch import Outcome
from batch_request import Request, missing_modules, positive, read_request, say, tell_missing
from batch_request import add_options as add_batch_options
from batch_store import Store
from comfy_server import ServerError
from console import print_everywhere
from fleet_engines import Actors, Threads, connect
from fleet_worker import Setup, graphics_cards
from host import DEFAULT_VERSION, HostError, ensure_host
from workflow_inputs import BatchError

INSTALL_RAY = 'pip install "ray[default]"'
TROUBLES = (BatchError, HostError, ServerError, OSError)


def main(arguments: Sequence[str] | None = None) -> int:
    """0: everything is there. 1: something failed or is missing. 2: the request is wrong."""
    options = parsed(arguments)
    store = Store(options.out)
    try:
        request = read_request(options)
        outcome = run(request, options, store)
    except TROUBLES as error:
        print(f"fleet: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        return 130
    known = [result for job in request.jobs if (result := store.read(job))]
    say(fleet_table.in_words(fleet_table.table(known, options.price_per_hour)))
    if outcome.stopped:
        print(f"fleet: {outcome.stopped}", file=sys.stderr)
    return 1 if tell_missing(outcome, write_report(request, options, store, outcome)) else 0


def run(request: Request, options: argparse.Namespace, store: Store) -> Outcome:
    """Run what is missing, on Ray where it is there. Raises one of TROUBLES."""
    began = time.monotonic()
    engine, devices = joined(options) if has_ray(options.ray) else alone(options)
    # Told to end, it ends its servers first, as it does when it is stopped by hand. Only now: Ray
    # brings a handler of its own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    workers = make_workers(request.servers, options, devices)
    outcome = fleet_run.run(request.jobs, workers, engine, store, say)
    hours = (time.monotonic() - began) / 3600
    paid = hours * len(workers) * options.price_per_hour
    price = f", price {paid:.4g}" if options.price_per_hour else ""
    # What is paid for, loading and waiting included.
    most = f"{len(workers)} worker{'s' * (len(workers) != 1)} at most"
    say(f"this run: {3600 * hours:.1f} s with {most}{price}")
    return outcome


def has_ray(address: str) -> bool:
    """Whether this run is Ray's. Raises BatchError where a cluster is named and Ray is missing."""
    is_here = importlib.util.find_spec("ray") is not None
    if address not in ("local", "off") and not is_here:
        raise BatchError(
            f"--ray {address}: Ray is not installed for {sys.executable}. Run {INSTALL_RAY} there,"
            " or leave --ray out to run on this machine."
        )
    if address == "local" and not is_here:
        say(f"Ray is not installed ({INSTALL_RAY}): running on this machine alone")
    return is_here and address != "off"


def joined(options: argparse.Namespace) -> tuple[Actors, Sequence[Sequence[str]]]:
    """(engine, what the ComfyUIs of as many workers as have room are started with)."""
    import ray

    try:
        dashboard = connect(ray, options.ray)
    # ValueError: no address; RuntimeError: another version of Ray or Python.
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BatchError(
            f"--ray {options.ray}: this machine cannot join a Ray cluster there ({error}). The"
            " cluster has to run, with the same version of Ray and the same token (RAY_AUTH_MODE)."
        ) from None
    has = ray.cluster_resources()
    cards = options.gpus if options.gpus is not None else min(1.0, has.get("GPU", 0))
    takes = {"num_cpus": options.cpus, "num_gpus": cards}
    if options.server:
        takes = {"num_cpus": 0}
    found = f"{has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs"
    say(f"Ray {ray.__version__}: {found}" + f", dashboard http://{dashboard}" * bool(dashboard))
    room = max(1, int(has.get("GPU", 0) / cards)) if cards else 1
    return Actors(ray, takes), [[] if cards else ["--cpu"]] * room


def alone(options: argparse.Namespace) -> tuple[Threads, Sequence[Sequence[str]]]:
    """(engine, what the ComfyUIs of this machine are started with, one for each card)."""
    cards = 0 if options.server else graphics_cards(ensure_host(options.version))
    return Threads(), [["--cuda-device", str(card)] for card in range(cards)] or [["--cpu"]]


def make_workers(
    servers: Sequence[str], options: argparse.Namespace, devices: Sequence[Sequence[str]]
) -> dict[str, Setup]:
    """Each worker's ComfyUI by the worker's name: the servers, or one for each device."""
    if servers:
        return {f"worker {place}": Setup(url) for place, url in enumerate(servers, 1)}
    place_of_results = str(options.out.resolve())
    run_name = hashlib.sha256(place_of_results.encode()).hexdigest()[:8]
    return {
        f"worker {place}": Setup(
            version=options.version,
            folder=f"{run_name}-{place}",
            models=options.models,
            arguments=(*devices[(place - 1) % len(devices)], *options.comfyui_argument),
        )
        for place in range(1, (options.workers or len(devices)) + 1)
    }


def write_report(
    request: Request, options: argparse.Namespace, store: Store, outcome: Outcome
) -> int:
    """How many jobs could not be compared."""
    if options.no_report:
        return 0
    if missing := missing_modules():
        say(f"no report: {missing}")
        return 0
    import report_page  # needs torch

    written = report_page.write(
        store, request.jobs, request.workflows, options.price_per_hour, outcome
    )
    say(f"{written.page}\n{written.page.with_name('results.csv')}")
    return written.not_compared


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_batch_options(parser)
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        help="a ComfyUI that runs already, instead of one that is started; may be given several"
        " times",
    )
    parser.add_argument(
        "--no-report",
        action="store_true",
        help="the table alone: the page shows every pair of pictures",
    )
    add_options(parser, ray="local")
    return parser.parse_args(arguments)


def add_options(parser: argparse.ArgumentParser, ray: str | None) -> None:
    """ray: what --ray is where it is left out."""
    group = parser.add_argument_group("fleet")
    add: Any = group.add_argument
    add(
        "--ray",
        nargs="?",
        const="local",
        default=ray,
        metavar="ADDRESS",
        help="of a Ray cluster; local (default): the one that RAY_ADDRESS names, else one on this"
        " machine; auto: the one that this machine is in; off: no Ray",
    )
    add("--workers", type=positive, help="how many ComfyUIs (default: one for each GPU, else one)")
    add("--gpus", type=float, help="GPUs of each worker, by Ray (default 1 where there are any)")
    add("--cpus", type=float, default=1, help="CPUs of each worker, by Ray (default 1)")
    add("--models", type=Path, help="models folder, the same path on every machine")
    add("--version", default=DEFAULT_VERSION, help="ComfyUI to get where COMFYUI_PATH names none")
    add(
        "--comfyui-argument",
        action="append",
        default=[],
        help="of ComfyUI's main.py, such as --comfyui-argument=--lowvram; may be given several"
        " times",
    )


if __name__ == "__main__":
    print_everywhere()
    sys.exit(main())
