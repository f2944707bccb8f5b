"""The routes by which a person speaks to a running stream, on the host's own server.

Whoever may queue a workflow there may send a text: the host's access is theirs. What comes in is a
text of bounded length, and nothing else is read of it.
"""

from __future__ import annotations

import json
from typing import Any

from .live import MOST_CHARACTERS, NotTaken, all_running, stream_of
from .server import add_route

PATH = "/fewstep/stream"
# A text of the most characters, each written as two \uXXXX, and the rest of the JSON.
MOST_BYTES = 12 * MOST_CHARACTERS + 1000


def add_routes() -> None:
    add_route("GET", PATH, list_streams)
    add_route("POST", PATH + "/{node_id}", take_text)


async def list_streams(request) -> tuple[int, dict[str, Any]]:
    """The streams that run now."""
    return 200, {"streams": [{"node_id": id, **live.state} for id, live in all_running().items()]}


async def take_text(request) -> tuple[int, dict[str, Any]]:
    """Give a running stream a text; the answer says where it takes effect."""
    try:
        text = text_of(await body_of(request))
        effect = stream_of(request.match_info["node_id"]).offer(text)
    except NotTaken as refusal:
        return refusal.status, {"error": str(refusal)}
    except ValueError as error:  # the tokenizer's: a word that it does not know
        return 400, {"error": str(error)}
    return 200, {"frame": effect.frame, "second": effect.second, "replaces": effect.replaces}


async def body_of(request) -> bytes:
    """What was sent, if it is not too long. Raises NotTaken."""
    body = bytearray()
    async for part in request.content.iter_chunked(MOST_BYTES):
        body += part
        if len(body) > MOST_BYTES:
            raise too_long()
    return bytes(body)


def text_of(body: bytes) -> str:
    """The text in {"text": ...}. Raises NotTaken."""
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        sent = None
    text = sent.get("text") if isinstance(sent, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise NotTaken(
            400, 'Send JSON with the text that the video should follow: {"text": "a blue sky"}.'
        )
    if len(text) > MOST_CHARACTERS:
        raise too_long()
    return text


def too_long() -> NotTaken:
    return NotTaken(400, f"The text is too long: send at most {MOST_CHARACTERS} characters.")
