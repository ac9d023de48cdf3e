"""A plain 200 as one piece of bytes.

`web.Response` keeps its headers in a dictionary that minds no case, adds to them, checks each and writes them out: for
an answer whose headers are all known, that costs more than parsing the request did.
"""

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from typing import Any

from aiohttp import web

__all__ = ["Ready", "suits"]


def suits(request: web.BaseRequest) -> bool:
    """Whether the client speaks HTTP/1.1 and keeps its connection, so that no header is owed to say otherwise."""
    return request.keep_alive and request.version == (1, 1)


class Ready(web.StreamResponse):
    """What aiohttp's connection handler asks of an answer, and no more: it is prepared, and is written at its end."""

    def __init__(self, request: web.BaseRequest, headers: Mapping[str, str], body: bytes) -> None:
        """To be returned by the handler of `request`, which it `suits`.

        Args:
            request: that is answered.
            headers: all but Content-Type (JSON), Content-Length and Date.
            body: small enough to be written at once.

        Raises:
            ValueError: a header that would break out of its line.
        """
        # Nothing of the base class's state is made: it is there for what is said and changed before a head is sent.
        self._to = request
        text = "\r\n".join([f"{name}: {value}" for name, value in headers.items()])
        if text.count("\n") != len(headers) - 1 or text.count("\r") != len(headers) - 1 or "\0" in text:
            raise ValueError("a header of the answer has a character that ends its line")
        self._bytes = (
            f"HTTP/1.1 200 OK\r\n{text}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Date: {_date(int(time.time()))}\r\n\r\n"
        ).encode() + body

    @property
    def keep_alive(self) -> bool:
        """Always: see `suits`."""
        return True

    @property
    def prepared(self) -> bool:
        """It is."""
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        """It is."""

    async def write_eof(self, data: Any = b"") -> None:
        """Write it, and wait if the client has left much unread.

        Raises:
            ConnectionError: the client has left.
        """
        protocol, writer = self._to.protocol, self._to.writer
        transport = protocol.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        writer.output_size += len(self._bytes)
        transport.write(self._bytes)
        if protocol.writing_paused:
            await writer.drain()


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
