"""Read ComfyUI's progress events from its websocket (RFC 6455).

Only what that needs: text messages are handed out as data, previews as pictures, pings are
answered and everything else is skipped. On the standard library alone, because scripts/demo.py
shows progress with whatever Python it was started with, where nothing is installed: aiohttp is
ComfyUI's, in an environment of its own.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

HTTP_PORT = 80  # where an address names none
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
# What ComfyUI puts before a picture: which kind of message it is; then the format, or the length of
# what it says of the picture, and that.
PREVIEW, PREVIEW_WITH_METADATA = 1, 4


class WebSocket:
    """A connection to the server at `url`, over plain HTTP."""

    def __init__(self, url: str, path: str):
        address = urllib.parse.urlsplit(url)
        if address.scheme != "http":
            raise ConnectionError(
                f"{url}: events are read over plain http alone. Name the server's own http address."
            )
        self.buffer = b""
        place = (address.hostname, address.port or HTTP_PORT)
        self.socket = socket.create_connection(place, timeout=30)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            (
                f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nUpgrade:"
                " websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key:"
                f" {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            ).encode()
        )
        while b"\r\n\r\n" not in self.buffer:
            self._receive()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(
                f"the server refused the websocket: {head.splitlines()[0].decode(errors='replace')}"
            )

    def read(self, seconds: float) -> Iterator[dict[str, Any]]:
        """The events that arrive within so many seconds; with 0, those that are there already."""
        for message in self.messages(seconds):
            if not isinstance(message, bytes):
                yield message

    def messages(self, seconds: float) -> Iterator[dict[str, Any] | bytes]:
        """Events as of read, and the pictures of previews, files as they are."""
        deadline = time.monotonic() + seconds
        while True:
            while (frame := self._next_frame()) is not None:
                kind, payload = frame
                if kind == TEXT:
                    yield json.loads(payload)
                elif kind == BINARY and (picture := picture_in(payload)):
                    yield picture
                elif kind == PING:
                    self._send(PONG, payload)
                elif kind == CLOSE:
                    raise ConnectionError("the server closed the websocket")
            # Past the deadline, too, what has arrived is read: on a busy machine that may be all
            # there is.
            self.socket.settimeout(max(0.0, deadline - time.monotonic()))
            try:
                self._receive()
            except (TimeoutError, BlockingIOError):
                return

    def close(self) -> None:
        self.socket.close()

    def _receive(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.buffer += data

    def _next_frame(self) -> tuple[int, bytes] | None:
        """(kind, payload) of the next whole frame. A server's frames are unmasked, unfragmented."""
        data = self.buffer
        if len(data) < 2:
            return None
        length, start = data[1] & 0x7F, 2
        if length > 125:
            start = 4 if length == 126 else 10
            if len(data) < start:
                return None
            length = int.from_bytes(data[2:start], "big")
        if len(data) < start + length:
            return None
        self.buffer = data[start + length :]
        return data[0] & 0x0F, data[start : start + length]

    def _send(self, kind: int, payload: bytes) -> None:
        """Send a short frame; a client has to mask what it sends."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        self.socket.sendall(bytes([0x80 | kind, 0x80 | len(payload)]) + mask + masked)


def picture_in(payload: bytes) -> bytes | None:
    """The picture of a preview, a JPEG or PNG file; None for every other message."""
    if len(payload) < 8:
        return None
    kind, length = struct.unpack(">II", payload[:8])
    if kind == PREVIEW:
        return payload[8:]
    return payload[8 + length :] if kind == PREVIEW_WITH_METADATA else None
