"""What every benchmark shares: it may be started with any Python, times things in pairs, and says
what it ran on.

    import in_host; in_host.enter()

makes ComfyUI, the pack (as `comfyui_fewstep`) and the tests' small models importable. Where the
running Python is not the host's own, the script starts itself again with that one.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


def enter() -> None:
    """Continue inside the host: its Python, its modules, the CPU where there is no GPU."""
    sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests" / "host")]
    sys.path.append(str(ROOT / "tests"))
    from console import print_everywhere
    from host import ensure_host, ensure_test_tools

    print_everywhere()
    host = ensure_host()
    if (
        Path(sys.prefix).resolve() != host.python.parent.parent.resolve()
        and "COMFYUI_FEWSTEP_INSIDE" not in os.environ
    ):
        ensure_test_tools(host)
        environment = {**os.environ, "COMFYUI_PATH": str(host.root), "COMFYUI_FEWSTEP_INSIDE": "1"}
        raise SystemExit(subprocess.run([str(host.python), *sys.argv], env=environment).returncode)
    from enter_host import enter_host

    enter_host(host.root)
    import pack  # noqa: F401  makes comfyui_fewstep importable


@contextlib.contextmanager
def demo_scripts() -> Iterator[None]:
    """Within it demo/'s scripts can be imported; they too have a module called `host`."""
    ours = sys.modules.pop("host", None)
    sys.path.insert(0, str(ROOT / "demo"))
    try:
        yield
    finally:
        sys.path.remove(str(ROOT / "demo"))
        sys.modules.pop("host", None)
        if ours is not None:
            sys.modules["host"] = ours


def in_turns(
    first: Callable[[], object], second: Callable[[], object], rounds: int, is_warm: bool = False
) -> tuple[list[float], list[float]]:
    """Wall seconds of each call, in turns: a drift in speed meets both. One warm-up each."""
    taken = all_in_turns({0: first, 1: second}, rounds, is_warm=is_warm)
    return [each.wall for each in taken[0]], [each.wall for each in taken[1]]


def seconds_of(call: Callable[[], object]) -> float:
    """Wall time of one call, without progress bars, with the work it has left the device."""
    return taken_by(call).wall


class Taken(NamedTuple):
    """Seconds of a call, without progress bars, with the work it has left the device."""

    wall: float
    # Of this process on all processors: other work on the machine does not move it, but threads
    # that wait for one another do (OMP_NUM_THREADS=1).
    processor: float


def taken_by(call: Callable[[], object]) -> Taken:
    import torch

    with contextlib.redirect_stderr(io.StringIO()):
        wall, processor = time.perf_counter(), time.process_time()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return Taken(time.perf_counter() - wall, time.process_time() - processor)


def all_in_turns(
    calls: Mapping[Hashable, Callable[[], object]],
    rounds: int,
    before: Callable[[], object] = lambda: None,
    is_warm: bool = False,
) -> dict[Hashable, list[Taken]]:
    """What each call takes, in turns, every other round in the opposite order; one warm-up each,
    unless they are warm. before: called before each of them, untimed.
    """
    for call in () if is_warm else calls.values():
        before()
        taken_by(call)
    taken: dict[Hashable, list[Taken]] = {name: [] for name in calls}
    # A collection of all objects there are takes longer than some calls, and would count against
    # the one it happens to meet. One before each call would cost all of them what the processor
    # has at hand.
    gc.collect()
    gc.freeze()
    for number in range(rounds):
        order = list(calls.items())
        for name, call in reversed(order) if number % 2 else order:
            before()
            taken[name].append(taken_by(call))
    gc.unfreeze()
    return taken


def median_ratio(first: list[float], second: list[float]) -> float:
    """Median of the pairwise ratios first / second."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def machine() -> str:
    """What the figures were measured on."""
    import comfyui_version
    import torch

    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU ({processor()}, {torch.get_num_threads()} threads)"
    )
    return (
        f"{device}, Python {platform.python_version()}, torch {torch.__version__}, ComfyUI"
        f" {comfyui_version.__version__}"
    )


def processor() -> str:
    """The processor's own name where the system tells it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def load() -> str:
    """What else the machine does, in running processes."""
    if not hasattr(os, "getloadavg"):
        return "not known on this system"
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
