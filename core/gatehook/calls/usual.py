"""Requests of the usual form: clients send the same headers again and again, and a connection reads them once."""

from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs
from multidict import istr

from gatehook.model import Credential

__all__ = ["JSON", "Usual", "credential_in"]

JSON: Final = "application/json"
_API_KEY: Final = istr("X-API-Key")


class Usual:
    """A request by HTTP/1.1, on a connection that stays."""

    __slots__ = ()

    credential: Credential
    """What its client shows; the same object for as long as that sends the same headers."""
    is_json: bool
    """Whether its body is declared as JSON, or not at all. If not, it may be in other words."""


def credential_in(headers: Mapping[str, str]) -> Credential:
    """What a client shows in these headers."""
    scheme, _, token = headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme != "Bearer" and scheme.lower() != "bearer":
        token = ""
    return Credential(token.strip() or headers.get(_API_KEY, "").strip(), headers)
