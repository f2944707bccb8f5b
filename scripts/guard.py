"""End a process group once standard input closes without a word.

    python scripts/guard.py GROUP

Its input is a pipe from the program that started both, and closes however that one ended, killed
from outside included: so no server outlives its owner, with its memory and its port. A byte says
that the group has ended by itself. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from console import print_everywhere


def main() -> None:
    group = int(sys.argv[1])
    if os.read(sys.stdin.fileno(), 1):
        return
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(group)], capture_output=True)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


@contextlib.contextmanager
def guarded(process: subprocess.Popen) -> Iterator[None]:
    """Until this is left, the process group that this process leads ends with the caller."""
    # The process and its guard are siblings: Ray kills the children of a worker that it ends, and
    # nobody's grandchildren.
    command = [sys.executable, str(Path(__file__).resolve()), str(process.pid)]
    own = {"creationflags": 0x200} if sys.platform == "win32" else {"start_new_session": True}
    with subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, **own) as guard:
        try:
            yield
        finally:
            assert guard.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                guard.stdin.write(b".")


if __name__ == "__main__":
    print_everywhere()
    main()
