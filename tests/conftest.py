"""Load the pack the way ComfyUI does, under a fixed name.

Tests say `from comfyui_fewstep.samplers import plan`. The repository root itself must stay off
sys.path: its folders nodes/ and tests/ have the names of ComfyUI's own modules.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent


def keep_root_off_the_path() -> None:
    """`python -m pytest` started in the root puts the root on the path."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


# The same examples in every run, none remembered from an earlier one, and no clock over them: a
# failure is one of what was changed. fuzz_files.py is what looks for new ones, and
# --hypothesis-profile=default. Examples share what a fixture made.
settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("repeatable")
# The servers of the tests are on this machine, whatever proxy leads to others.
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Every test begins at the same of torch's random numbers, whichever tests ran before it."""
    if torch := sys.modules.get("torch"):
        # Without a card, its own way to seed one costs as much as many of the tests.
        (torch if torch.cuda.is_available() else torch.default_generator).manual_seed(0)


# A run that is told to end, as by a time limit, ends its servers as one that is stopped by hand
# does.
signal.signal(signal.SIGTERM, signal.default_int_handler)
keep_root_off_the_path()
# At the end, so that nothing in it can hide a module of ComfyUI's.
sys.path += [str(ROOT / name) for name in ("scripts", "scripts/build", "benchmarks", "tests")]
import thinning  # noqa: E402

from pack_loader import PACK, load_pack  # noqa: E402

if PACK not in sys.modules:
    load_pack()

LEFT_OUT = pytest.StashKey[dict[str, int]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only a run of everything takes, and keep count of it."""
    if thinning.EVERYTHING:
        return
    gone = thinning.left_out(items)
    config.hook.pytest_deselected(items=gone)
    left = set(gone)
    items[:] = [item for item in items if item not in left]
    generated = [item.get_closest_marker("examples") for item in items]
    counts = {"cases": len(gone), "examples": sum(mark.args[0] for mark in generated if mark)}
    config.stash[LEFT_OUT] = counts
    if hasattr(config, "workeroutput"):  # one of several processes, that another one reports for
        config.workeroutput["left_out"] = counts


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    """Of several processes that run the tests all have collected the same."""
    if counts := getattr(node, "workeroutput", {}).get("left_out"):
        node.config.stash[LEFT_OUT] = counts


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    counts = config.stash.get(LEFT_OUT, {})
    if words := thinning.in_words(**counts) if counts else "":
        terminalreporter.write_line(words)
