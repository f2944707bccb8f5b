"""The routes by which a person speaks to a running stream, on the host's own server.

Whoever may queue a workflow there may send a text: the host's access is theirs. What comes in is a
text of bounded length, and nothing else is read of it.
"""

from __future__ import annotations

import json

from aiohttp import web

from .live import MOST_CHARACTERS, NotTaken, all_running, stream_of
from .server import running_server

PATH = "/fewstep/stream"
# A text of the most characters, each written as two \uXXXX, and the rest of the JSON.
MOST_BYTES = 12 * MOST_CHARACTERS + 1000


def add_routes() -> None:
    """Nothing where no server runs, as in a program that uses the nodes."""
    server = running_server()
    if server is not None:
        server.routes.get(PATH)(list_streams)
        server.routes.post(PATH + "/{node_id}")(take_text)


async def list_streams(request: web.Request) -> web.Response:
    """The streams that run now."""
    return web.json_response(
        {"streams": [{"node_id": id, **live.state} for id, live in all_running().items()]}
    )


async def take_text(request: web.Request) -> web.Response:
    """Give a running stream a text; answer where it takes effect."""
    try:
        live = stream_of(request.match_info["node_id"])
        effect = live.offer(text_of(await body_of(request)))
    except NotTaken as refusal:
        return web.json_response({"error": str(refusal)}, status=refusal.status)
    except ValueError as error:  # the tokenizer's: a word that it does not know
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response(
        {"frame": effect.frame, "second": effect.second, "replaces": effect.replaces}
    )


async def body_of(request: web.Request) -> bytes:
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
