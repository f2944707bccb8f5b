"""Run a command, and end it with all that it started once standard input closes.

    python scripts/guard.py COMMAND...

A pipe closes however its holder ended, killed from outside included: no server outlives the program
that started it, with its memory and its port. Standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main() -> int:
    """The command's exit code. Expects to lead a process group of its own."""
    # Ctrl+C reaches the command as well, which ends by it, and this program with the command.
    signal.signal(signal.SIGINT, lambda *_: None)
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=end_with_input, args=(process,), daemon=True).start()
    return process.wait()


def end_with_input(process: subprocess.Popen) -> None:
    """Wait until standard input closes; nothing is ever written to it."""
    os.read(sys.stdin.fileno(), 1)
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
    else:
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main())
