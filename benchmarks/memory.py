"""The most memory a call takes, measured in a process of its own.

    memory.peak("loader", "attaching", "core", folder)

starts a process that calls loader.attaching("core", folder), which prepares and returns the call to be measured. Arguments travel as
text. What had been allocated before that call does not count.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import in_host


def peak(module: str, function: str, *arguments: object) -> int:
    """Bytes that the prepared call took at most: of the GPU where there is one, of main memory otherwise."""
    command = [sys.executable, __file__, module, function, *map(str, arguments)]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{answer.stderr[-3000:]}")
    return json.loads(answer.stdout.splitlines()[-1])


def taken_by(call: Callable[[], object]) -> int:
    """Bytes above those held before the call, at their highest."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    forget_peak()
    before = held("VmRSS")
    call()
    return held("VmHWM") - before


def forget_peak() -> None:
    """Let Linux count the highest resident size from here (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def held(name: str) -> int:
    """A size of this process in bytes: VmRSS now, VmHWM at its highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"/proc/self/status tells no {name}: peak memory is measured on Linux or on a GPU")


def main() -> None:
    in_host.enter()
    module, function, *arguments = sys.argv[1:]
    call = getattr(importlib.import_module(module), function)(*arguments)
    print(json.dumps(taken_by(call)))


if __name__ == "__main__":
    main()
