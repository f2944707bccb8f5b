"""The most memory a call takes, measured in a process of its own.

    memory.peak("loader", "attaching", "core", folder).taken

starts a process that calls loader.attaching("core", folder), which prepares and returns the call to
be measured. Arguments travel as text.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import in_host


@dataclass(frozen=True)
class Peak:
    """Bytes of the GPU, or of main memory without one: before the call, and at most in it."""

    before: int
    highest: int

    @property
    def taken(self) -> int:
        return self.highest - self.before


def peak(module: str, function: str, *arguments: object) -> Peak:
    command = [sys.executable, __file__, module, function, *map(str, arguments)]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{answer.stderr[-3000:]}")
    return Peak(*json.loads(answer.stdout.splitlines()[-1]))


def peak_of(call: Callable[[], object]) -> Peak:
    """Of a call in this process."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return Peak(before, torch.cuda.max_memory_allocated())
    forget_peak()
    before = held("VmRSS")
    call()
    return Peak(before, held("VmHWM"))


def forget_peak() -> None:
    """Let Linux count the highest resident size from here (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def held(name: str) -> int:
    """A size of this process in bytes: VmRSS now, VmHWM at its highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(
        f"/proc/self/status tells no {name}: peak memory is measured on Linux or on a GPU"
    )


def main() -> None:
    in_host.enter()
    module, function, *arguments = sys.argv[1:]
    call = getattr(importlib.import_module(module), function)(*arguments)
    print(json.dumps(astuple(peak_of(call))))


if __name__ == "__main__":
    main()
