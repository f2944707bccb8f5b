"""How long something may take, by a clock that a busy machine does not move."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


@contextlib.contextmanager
def processor_seconds_below(limit: float) -> Iterator[None]:
    """Fails if this thread has worked for so many seconds or more. Time in which others had the
    processor does not count.
    """
    started = time.thread_time()
    try:
        yield
    finally:  # a refusal has to come in time, too
        worked = time.thread_time() - started
        assert worked < limit, f"{worked:.3g} s of work, and {limit:g} were expected at most"
