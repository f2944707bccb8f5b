"""What every training of the demo has in common: going on from a checkpoint, and telling how it
goes.
"""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import host

log = logging.getLogger("demo")


def resume(checkpoint: Path, **parts: Any) -> int:
    """Give each part (a model, an optimizer) its state from the checkpoint; the step to go on with,
    0 where there is no checkpoint.
    """
    state = host.load_checkpoint(checkpoint)
    if state is None:
        return 0
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"]


def loss_in_words(mean: float) -> str:
    return f"loss {mean:.4f}"


def psnr_in_words(mean: float) -> str:
    """mean: of the squared error of pixels in [0, 1]."""
    return f"PSNR {-10 * math.log10(mean):.1f} dB"


class Pace:
    """Logs the mean of what was measured since the last time, and the seconds of a step."""

    def __init__(
        self,
        what: str,
        first: int,
        steps: int,
        every: int,
        in_words: Callable[[float], str] = loss_in_words,
    ):
        self.what, self.first, self.steps, self.every = what, first, steps, every
        self.in_words = in_words
        self.started, self.recent = time.monotonic(), []

    def measured(self, step: int, value: float, more: str = "") -> None:
        """Once in so many steps, and after the last, log it. more: what else to say then."""
        self.recent.append(value)
        done = step + 1
        if done % self.every and done < self.steps:
            return
        seconds = (time.monotonic() - self.started) / (done - self.first)
        mean = self.in_words(sum(self.recent) / len(self.recent))
        words = ", ".join(filter(None, (mean, more)))
        log.info("%s %d of %d: %s, %.2f s per step", self.what, done, self.steps, words, seconds)
        self.recent.clear()
