"""Streams that run now, by their node's id: the server's thread gives them texts, the sampling
thread takes them where a block begins.

An entry is made when a run begins and taken out when it ends, however it ends.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ...loras.refusal import Refusal
from ...samplers.causal import Block, StreamPlan, pictures_before

MOST_CHARACTERS = 4000  # of a text
_running: dict[str, LiveStream] = {}


class NotTaken(Refusal):
    """A text that no stream takes. Says why, and what to do."""

    def __init__(self, status: int, words: str):
        super().__init__(words)
        self.status = status  # as HTTP has it


@dataclass(frozen=True)
class LiveText:
    """A text that waits for the next block."""

    text: str
    tokens: Any  # of the host's own tokenizer


@dataclass(frozen=True)
class Effect:
    """Where a text takes effect."""

    frame: int  # picture of the clip, counted from 0
    second: float
    replaces: bool  # another text that waited for the same block


class LiveStream:
    """One stream that runs now. clip: what encodes texts; None: it takes none."""

    def __init__(self, plan: StreamPlan, clip=None):
        self.plan, self.clip = plan, clip
        self._lock = threading.Lock()
        self._waiting: LiveText | None = None
        self._after = dict(pairwise(plan.made))
        # The first block that is not begun; None: all are.
        self._coming: Block | None = plan.made[0]
        self._refusal = ""

    def offer(self, text: str) -> Effect:
        """Have this text take over at the next block that begins. Raises NotTaken, and what the
        tokenizer raises of texts that it cannot read.
        """
        if self.clip is None:
            raise NotTaken(
                409,
                "This stream takes no text: connect a CLIP to the clip input of its Streaming"
                " Sampler, and run it again.",
            )
        waiting = LiveText(text, self.clip.tokenize(text))
        with self._lock:
            if self._refusal:
                raise NotTaken(409, self._refusal)
            if self._coming is None:
                raise NotTaken(
                    409, "The last block of this stream is being made: no other begins after it."
                )
            replaces, self._waiting = self._waiting is not None, waiting
            frame = self._coming.start
        return Effect(pictures_before(frame), self.plan.timeline.begins(frame), replaces)

    def take(self, block: Block) -> LiveText | None:
        """The text that takes over at this block, which begins now."""
        with self._lock:
            taken, self._waiting = self._waiting, None
            self._coming = self._after.get(block)
        return taken

    def refuse_more(self, words: str) -> None:
        """Take no text from now on."""
        with self._lock:
            self._refusal = words

    @property
    def waiting(self) -> LiveText | None:
        with self._lock:
            return self._waiting

    @property
    def state(self) -> dict[str, Any]:
        """For programs."""
        with self._lock:
            coming = self._coming if self.clip is not None and not self._refusal else None
        frame = None if coming is None else pictures_before(coming.start)
        return {"takes_text": coming is not None, "next_frame": frame}


@contextlib.contextmanager
def running(node_id: str, live: LiveStream) -> Iterator[LiveStream]:
    """Within it, texts for this node's id reach the stream; none do where it has no id."""
    if node_id:
        _running[node_id] = live
    try:
        yield live
    finally:
        if _running.get(node_id) is live:
            del _running[node_id]


def stream_of(node_id: str) -> LiveStream:
    """The stream that runs at this node. Raises NotTaken."""
    live = _running.get(node_id)
    if live is None:
        ids = list(_running)
        found = f"One runs at node {ids[0]}" if ids else "None runs now"
        raise NotTaken(
            404,
            f"No stream runs at node {node_id}. {found}: a text reaches a Streaming Sampler while"
            " it makes its clip.",
        )
    return live


def all_running() -> dict[str, LiveStream]:
    return dict(_running)
