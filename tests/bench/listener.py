"""A client that takes next to nothing: what it takes is missing where models are computed on all cores.

Each stream has a connection and a thread of its own, which waits in the system for what comes and keeps it.
"""

import json
import re
import socket
import time
from typing import Any

__all__ = ["Address", "connected", "listen"]

Address = str | tuple[str, int]
"""The path of a Unix socket, or host and port."""

_LIMIT = 120.0
"""Seconds without a byte."""
_CONTENT = re.compile(rb'"content": ?"[^"]')
_WHOLE = re.compile(rb'"finish_reason": ?"length"')
_END = b"\r\n0\r\n\r\n"
_PIECE = 1 << 16


def connected(address: Address) -> socket.socket:
    """A connection, for one request."""
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    sock.settimeout(_LIMIT)
    sock.connect(address)
    return sock


def listen(sock: socket.socket, path: str, body: dict[str, Any]) -> tuple[float, float]:
    """POST `body` as JSON; when the first content of the streamed answer came, and its end, by `time.perf_counter`.

    Raises:
        ConnectionError: it is no answer of as many tokens as were asked for.
    """
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    answer = bytearray()
    first = 0.0
    with sock:
        sock.sendall(f"{head}\r\n\r\n".encode() + data)
        while not answer.endswith(_END) and (piece := sock.recv(_PIECE)):
            answer += piece
            if not first and _CONTENT.search(answer):
                first = time.perf_counter()
    last = time.perf_counter()
    if not first or not _WHOLE.search(answer):
        raise ConnectionError(f"not the answer asked for: {bytes(answer[:500])!r}")
    return first, last
