"""Run every test this machine can run, and say what was left out and why.

    python scripts/test.py [--all] [--oldest] [--host 0.30.0] [--tier static --tier pure ...]
    [-k EXPRESSION] [pytest arguments]

Tiers: static (ruff, mypy), pure (no ComfyUI imported; with --all prints how much of samplers/ and
loras/ it covers), host (real ComfyUI, in process and over HTTP), browser (the real frontend in
Chromium); with --all, frontend (the browser tier once more in a newer frontend, thinned); with
--oldest, as continuous integration has it, oldest (the host tier once more on the oldest ComfyUI
that is supported). The tests are split over the processors.

A plain run takes the corners of costly tables of cases and a few generated examples, and says how
many it left out; --all leaves out none. FEWSTEP_ALL_WORKFLOWS=1 in the environment adds every
shipped workflow alone. A ComfyUI is provided by scripts/host.py, with everything the tests need,
on the first run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from comfy_server import link_folder
from console import print_everywhere
from frontend import FRONTEND_VERSION, ensure_frontend
from host import (
    DEFAULT_VERSION,
    OLDEST_VERSION,
    ROOT,
    Host,
    HostError,
    ensure_host,
    ensure_test_tools,
    runs,
)

TESTS = ROOT / "tests"
# How several processes share a tier's tests. Of those of the host tiers some stay together, as
# tests/host/conftest.py says; the browser's share one page.
SPLIT = {"pure": "worksteal", "host": "loadgroup", "oldest": "loadgroup"}
# exit status of pytest when it found no test to run
NOTHING_COLLECTED = 5
# Set, nothing is left out by tests/thinning.py.
ALL_TESTS = "FEWSTEP_ALL_TESTS"
# More processes than this would each hold a ComfyUI, and most tests are over before they are up.
MOST_PROCESSES = 4
# Of the lines in these folders, at least this share, in per cent, has to be run by the pure tier.
COVERED, LEAST_COVERAGE = ("samplers", "loras"), 95


@dataclass(frozen=True)
class Outcome:
    """How one tier ended. passed is None for a tier that was left out."""

    tier: str
    passed: bool | None
    words: str


def static_tier(host: Host, options: argparse.Namespace) -> Outcome:
    """ruff over everything, mypy over the pure packages."""
    if missing := [name for name in ("ruff", "mypy") if not runs(host.python, f"import {name}")]:
        # Into a host of our own they were installed by ensure_test_tools; a person's own install
        # may do without.
        return Outcome(
            "static",
            False if host.owned else None,
            f"{' and '.join(missing)} not installed in {host.python}",
        )
    ruff = run([host.python, "-m", "ruff", "check", "."])
    mypy = run_mypy(host)
    words = [
        f"{name} {'clean' if code == 0 else 'found problems'}"
        for name, code in (("ruff", ruff), ("mypy", mypy))
    ]
    return Outcome("static", ruff == 0 and mypy == 0, ", ".join(words))


def run_mypy(host: Host) -> int:
    """mypy on samplers/, loras/ and quality/ as one package, whatever this folder is named."""
    with tempfile.TemporaryDirectory() as scratch:
        link_folder(ROOT, Path(scratch) / "comfyui_fewstep")
        settings = ["--config-file", ROOT / "pyproject.toml", "--cache-dir", ROOT / ".mypy_cache"]
        packages = [
            "-p",
            "comfyui_fewstep.samplers",
            "-p",
            "comfyui_fewstep.loras",
            "-p",
            "comfyui_fewstep.quality",
        ]
        return run([host.python, "-m", "mypy", *settings, *packages], cwd=Path(scratch))


def pure_tier(host: Host, options: argparse.Namespace) -> Outcome:
    """Everything that runs without a ComfyUI."""
    paths = [str(path) for path in sorted(TESTS.glob("test_*.py"))]
    # A part of the tests covers a part of the lines, and counting takes as long as half the tests.
    is_part = not options.all or options.k or options.pytest
    if is_part or not runs(host.python, "import pytest_cov"):
        return run_pytest("pure", host, paths, options)
    with tempfile.TemporaryDirectory() as scratch:
        sources = [f"--cov={ROOT / folder}" for folder in COVERED]
        limits = ["--cov-report=term-missing:skip-covered", f"--cov-fail-under={LEAST_COVERAGE}"]
        return run_pytest(
            "pure",
            host,
            [*sources, *limits, *paths],
            options,
            COVERAGE_FILE=str(Path(scratch) / "coverage"),
        )


def host_tier(host: Host, options: argparse.Namespace) -> Outcome:
    """The nodes in a real ComfyUI, in this process and in a server of its own."""
    return run_pytest("host", host, [str(TESTS / "host")], options, COMFYUI_PATH=str(host.root))


def oldest_tier(host: Host, options: argparse.Namespace) -> Outcome:
    """The host tier once more, on the oldest ComfyUI that is supported."""
    if os.environ.get("COMFYUI_PATH") or host.version != DEFAULT_VERSION:
        return Outcome("oldest", None, f"only beside the pinned ComfyUI {DEFAULT_VERSION}")
    try:
        oldest = ensure_host(OLDEST_VERSION, options.oldest_cache or options.cache)
        ensure_test_tools(oldest)
    except (HostError, OSError, subprocess.SubprocessError) as error:
        return Outcome(
            "oldest",
            None,
            f"ComfyUI {OLDEST_VERSION} could not be built here: {str(error).splitlines()[0]}",
        )
    print(f"ComfyUI {oldest.version} at {oldest.root}", flush=True)
    # Full width tells nothing about a host that the newest one has not told.
    outcome = run_pytest(
        "oldest",
        oldest,
        [str(TESTS / "host"), "-m", "not slow"],
        options,
        COMFYUI_PATH=str(oldest.root),
    )
    slow = (
        f"; without the slow tests (`--all --host {OLDEST_VERSION} --tier host` runs them)"
        if options.all
        else ""
    )
    return replace(outcome, words=outcome.words + slow)


def browser_tier(host: Host, options: argparse.Namespace) -> Outcome:
    """The shipped graphs in the frontend that came with this ComfyUI."""
    return run_in_browser("browser", host, options)


def frontend_tier(host: Host, options: argparse.Namespace) -> Outcome:
    """The browser tier once more, in a newer frontend."""
    try:
        folder = ensure_frontend(host.python, cache=options.cache)
    except (HostError, OSError, subprocess.SubprocessError) as error:
        reason = str(error).splitlines()[0]
        return Outcome("frontend", None, f"{FRONTEND_VERSION} could not be downloaded: {reason}")
    thinned = argparse.Namespace(**{**vars(options), "all": False})
    outcome = run_in_browser("frontend", host, thinned, FEWSTEP_FRONTEND=str(folder))
    return replace(outcome, words=f"frontend {FRONTEND_VERSION}: {outcome.words}")


def run_in_browser(
    tier: str, host: Host, options: argparse.Namespace, **environment: str
) -> Outcome:
    if not runs(host.python, "import playwright"):
        return Outcome(tier, None, f"playwright is not installed in {host.python}")
    chromium = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if chromium is None:
        return Outcome(tier, None, "no chromium on this machine")
    arguments = [str(TESTS / "browser")]
    environment |= {"COMFYUI_PATH": str(host.root), "CHROMIUM": chromium}
    outcome = run_pytest(tier, host, arguments, options, **environment)
    if outcome.passed is False:
        # A person's clicks on a page that is still moving may miss; a defect of the pack misses
        # twice.
        again = run_pytest(tier, host, [*arguments, "--last-failed"], options, **environment)
        outcome = Outcome(
            tier, again.passed, f"{outcome.words}; the failed ones once more: {again.words}"
        )
    return outcome


TIERS: dict[str, Callable[[Host, argparse.Namespace], Outcome]] = {
    "static": static_tier,
    "pure": pure_tier,
    "host": host_tier,
    "browser": browser_tier,
    "frontend": frontend_tier,
    "oldest": oldest_tier,
}


def run_pytest(
    tier: str, host: Host, paths: Sequence[str], options: argparse.Namespace, **environment: str
) -> Outcome:
    """Run pytest, passing its output on; its last summary line becomes the outcome's words."""
    arguments = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "--durations=10"]
    # Of its own: what another tier failed is not run once more here.
    arguments += ["-o", f"cache_dir=.pytest_cache/{tier}"]
    arguments += [*paths, *options.pytest]
    if options.k:
        arguments += ["-k", options.k]
    if tier in SPLIT and runs(host.python, "import xdist"):
        arguments += ["-n", str(processes()), "--dist", SPLIT[tier]]
        # One thread each for torch, in the servers too: the processes share the processors.
        environment.setdefault("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    if options.all:
        environment[ALL_TESTS] = "1"
    if options.cache:
        environment["COMFYUI_FEWSTEP_CACHE"] = str(options.cache.resolve())
    inherited = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    # Started in tests/: `-m pytest` puts the current folder on sys.path, and the root has folders
    # named like ComfyUI's.
    with subprocess.Popen(
        [str(host.python), "-m", "pytest", *arguments],
        cwd=TESTS,
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            summary = passed_on(process.stdout)
        except KeyboardInterrupt:
            process.terminate()  # pytest ends its servers then
            raise
    is_empty = process.returncode == NOTHING_COLLECTED and bool(options.k)
    words = summary or f"pytest ended without a summary (exit {process.returncode})"
    return Outcome(tier, process.returncode == 0 or is_empty, words)


def passed_on(lines: Iterable[str]) -> str:
    """Print pytest's output as it comes; its summary in one line, empty where it gave none."""
    summary = coverage = left_out = ""
    for line in lines:
        print(line, end="", flush=True)
        if line.startswith("=") and " in " in line:
            summary = line.strip()
        if line.startswith("TOTAL") and line.rstrip().endswith("%"):
            coverage = f"; {line.split()[-1]} of the lines of {' and '.join(COVERED)} run"
        if line.startswith("left out: "):
            left_out = f"; {line.strip()}"
    return summary and summary + coverage + left_out


def processes() -> int:
    """How many processes run the tests: one for each processor, within reason."""
    return min(os.cpu_count() or 1, MOST_PROCESSES)


def run(command: Sequence[object], cwd: Path = ROOT) -> int:
    """Run a command with its output passed on; its exit status."""
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, stdin=subprocess.DEVNULL
    ).returncode


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run every test this machine can run.")
    parser.add_argument(
        "--host", default=DEFAULT_VERSION, metavar="VERSION", help="ComfyUI version to test on"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        help="folder to build ComfyUI in (default: the user's cache directory)",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="every case of every table and every generated example, and the slow tests",
    )
    parser.add_argument(
        "--oldest", action="store_true", help=f"also run the host tier on ComfyUI {OLDEST_VERSION}"
    )
    parser.add_argument(
        "--oldest-cache",
        type=Path,
        help="folder to build that one in, where it is to be another (default: as --cache)",
    )
    parser.add_argument(
        "--tier", action="append", choices=list(TIERS), help="only this tier; may be given again"
    )
    parser.add_argument(
        "-k", default="", metavar="EXPRESSION", help="only the tests that pytest's -k selects"
    )
    options, rest = parser.parse_known_args(arguments)
    options.pytest = [argument for argument in rest if argument != "--"]
    return options


def not_asked_for(options: argparse.Namespace) -> list[Outcome]:
    """The tiers that a run without arguments leaves out."""
    if options.tier:
        return []
    wanted = {"frontend": options.all, "oldest": options.oldest}
    flags = {"frontend": "--all", "oldest": "--oldest"}
    return [
        Outcome(tier, None, f"{flags[tier]} not given")
        for tier, is_wanted in wanted.items()
        if not is_wanted
    ]


def main() -> int:
    options = parse_arguments(sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        host = ensure_host(options.host, options.cache)
        ensure_test_tools(host)
    except HostError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"ComfyUI {host.version} at {host.root}", flush=True)
    outcomes = []
    left_out = not_asked_for(options)
    unasked = {outcome.tier for outcome in left_out}
    for tier in options.tier or [tier for tier in TIERS if tier not in unasked]:
        print(f"\n--- {tier} tier: {TIERS[tier].__doc__}", flush=True)
        outcomes.append(TIERS[tier](host, options))
    print()
    for outcome in [*outcomes, *left_out]:
        verdict = {True: "passed", False: "FAILED", None: "left out"}[outcome.passed]
        print(f"{outcome.tier:9}{verdict:9} {outcome.words}")
    return 1 if any(outcome.passed is False for outcome in outcomes) else 0


if __name__ == "__main__":
    print_everywhere()
    raise SystemExit(main())
