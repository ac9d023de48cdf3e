"""The head of a request, parsed here if there is nothing unusual about it.

Whatever a parser of HTTP must be careful about (folded lines, headers given twice, transfer codings, upgrades, odd
white space) is left to aiohttp's: this one accepts a narrow form of requests, in which there is no doubt where one
ends.
"""

import re
from typing import Final

from aiohttp import HttpVersion11
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from gatehook.calls.usual import JSON, credential_in

__all__ = ["LONGEST", "Head", "read_head"]

LONGEST: Final = 8192
"""Bytes of a head that is parsed here."""
_MOST_FIELDS: Final = 100
_LINE: Final = re.compile(rb"(GET|POST|PUT|DELETE|PATCH) (/[!$%&-;=@-Z_a-z~?]*) HTTP/1\.1\r\n")
_FIELDS: Final = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e]*\r\n)+")
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_UNUSUAL: Final = ("Transfer-Encoding", "Content-Encoding", "Upgrade", "Expect")


class Head:
    """What a client sends before the body."""

    __slots__ = ("credential", "headers", "is_json", "length", "message", "size", "text")

    def __init__(self, text: bytes, message: RawRequestMessage, length: int) -> None:
        self.text = text
        """All of it, with the empty line."""
        self.message = message
        """The head as aiohttp's parser gives it."""
        self.headers: CIMultiDictProxy[str] = message.headers
        self.length = length
        """Bytes of the body that follows."""
        self.size = len(text) + length
        """Bytes of the request in all."""
        self.credential = credential_in(self.headers)
        self.is_json = self.headers.get("Content-Type", JSON) == JSON


def read_head(text: bytes) -> Head | None:
    """Parse a head of the usual form; None if it has another form, valid or not.

    Args:
        text: the head, with the empty line that ends it.
    """
    line = _LINE.match(text)
    if line is None or len(text) > LONGEST or _FIELDS.fullmatch(text, line.end(), len(text) - 2) is None:
        return None
    fields = [field.partition(":") for field in text[line.end() : -4].decode("ascii").split("\r\n")]
    if len(fields) > _MOST_FIELDS or len({name.lower() for name, _, _ in fields}) != len(fields):
        return None
    headers = CIMultiDictProxy(CIMultiDict([(name, value.strip(" \t")) for name, _, value in fields]))
    length = headers.get("Content-Length", "0")
    if not (_is_usual(headers) and _LENGTH.fullmatch(length)):
        return None
    method, path = line[1].decode(), line[2].decode()
    message = RawRequestMessage(
        method,
        path,
        HttpVersion11,
        headers,
        tuple((name.encode(), value.encode()) for name, value in headers.items()),
        False,  # should_close
        None,  # compression
        False,  # upgrade
        False,  # chunked
        URL(path, encoded=True),
    )
    return Head(text, message, int(length))


def _is_usual(headers: CIMultiDictProxy[str]) -> bool:
    """Whether nothing changes how the request is framed, or what becomes of its connection."""
    if "Host" not in headers or any(name in headers for name in _UNUSUAL):
        return False
    return headers.get("Connection", "keep-alive").lower() == "keep-alive"
