"""What the scripts print can be shown on every console."""

from __future__ import annotations

import io
import sys


def print_everywhere() -> None:
    """From now on a character that the console cannot show is printed as its code and ends nothing.

    Every script calls this first: a console of Windows may know 256 characters, one without a
    language 128.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
