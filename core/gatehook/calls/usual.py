"""Requests of the usual form: their clients send the same headers again and again, and these are parsed once."""

from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs
from multidict import istr

from gatehook.model import Credential

__all__ = ["JSON", "Usual", "credential_in"]

JSON: Final = "application/json"
_API_KEY: Final = istr("X-API-Key")


class Usual:
    """A request over HTTP/1.1, on a connection that is kept."""

    __slots__ = ()

    credential: Credential
    """What the client shows; the same object for as long as it sends the same headers."""
    is_json: bool
    """Whether the body is declared as plain application/json, or not at all; if False, look closer."""


def credential_in(headers: Mapping[str, str]) -> Credential:
    """The credential in a request's headers."""
    scheme, _, token = headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme != "Bearer" and scheme.lower() != "bearer":
        token = ""
    return Credential(token.strip() or headers.get(_API_KEY, "").strip(), headers)
