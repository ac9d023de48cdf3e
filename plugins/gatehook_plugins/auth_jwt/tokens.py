"""A token, from its text to claims that can be believed. What is wrong with it is told; the token itself never is."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from msgspec import Struct

from gatehook import AuthenticationFailed
from gatehook_plugins.auth_jwt.keys import Key

if TYPE_CHECKING:
    from gatehook_plugins.auth_jwt.decoding import Decoder

__all__ = ["MAX_LENGTH", "Header", "Keys", "OneKey", "Verifier", "read_header", "read_json", "refused"]

MAX_LENGTH: Final = 16384
"""Characters a token may have."""

_FORM: Final = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*", re.ASCII)


def refused(what: str, code: str = "invalid_token") -> AuthenticationFailed:
    """The error for a token that is ours, and bad: "the token " and what is wrong with it."""
    return AuthenticationFailed(f"the token {what}", code=code)


class Header(Struct, frozen=True):
    """What a token says of how it is signed. Whatever else it says (jku, x5u, jwk …) is not even read."""

    alg: str
    kid: str | None


class Keys(Protocol):
    """Where the keys come from."""

    async def key(self, header: Header) -> Key:
        """The one key that a token with this header may be signed by.

        Raises:
            AuthenticationFailed: there is none. Unavailable: nobody can tell now.
        """
        ...


class OneKey:
    """A single key; what tokens call it does not matter."""

    def __init__(self, key: Key) -> None:
        self._key = key

    async def key(self, header: Header) -> Key:
        """The key, if it may be used with the token's algorithm."""
        if header.alg not in self._key.algorithms:
            raise refused("is signed by an algorithm that is not accepted (alg)")
        return self._key


def read_header(token: str) -> Header | None:
    """The header of a JWT (in compact form, signed); None for any other kind of token.

    Raises:
        AuthenticationFailed: a JWT, but its header cannot be right.
    """
    if len(token) > MAX_LENGTH:
        if token.count(".") == 2 and token.isascii():
            raise refused(f"is longer than {MAX_LENGTH} characters")
        return None
    form = _FORM.fullmatch(token)
    if form is None:
        return None
    try:
        # "==" is enough for every length; more than is needed does not matter.
        header = read_json(base64.urlsafe_b64decode(form[1] + "=="))
    except ValueError:
        return None
    if not isinstance(header, dict) or "alg" not in header:
        return None
    alg, kid = header["alg"], header.get("kid")
    if not isinstance(alg, str):
        raise refused("is signed by an algorithm that is not accepted (alg)")
    if not (kid is None or isinstance(kid, str)):
        raise refused("has a key id that is no text (kid)")
    return Header(alg, kid)


class Verifier:
    """Checks tokens: the signature, then what they say of when, by whom and for whom they are."""

    def __init__(self, keys: Keys, *, issuer: Sequence[str], audience: Sequence[str], leeway: float) -> None:
        """Args: where keys come from; issuers and audiences, empty for not checking; `leeway` in seconds.

        A token that names an audience is refused also where none is expected: it is meant for somebody else.
        """
        self._keys = keys
        self._issuer = list(issuer) or None
        self._audience = list(audience) or None
        self._leeway = leeway
        self._decoder: Decoder | None = None

    async def verify(self, token: str) -> dict[str, Any] | None:
        """The claims of a good token; None for what is no JWT at all.

        Raises:
            AuthenticationFailed: a bad token. Unavailable: the keys are not there to tell.
        """
        header = read_header(token)
        if header is None:
            return None
        key = await self._keys.key(header)
        if self._decoder is None:  # in a thread: the import takes long enough to be seen in everybody's streams
            self._decoder = await asyncio.to_thread(self._make_decoder)
        return self._decoder.claims(token, key)

    def _make_decoder(self) -> Decoder:
        from gatehook_plugins.auth_jwt.decoding import Decoder

        return Decoder(issuer=self._issuer, audience=self._audience, leeway=self._leeway)


def read_json(raw: bytes) -> Any:
    """One JSON text in UTF-8, without repeated names.

    Raises:
        ValueError: it is not one.
    """
    try:
        return json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError("a name is repeated")
        found[name] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
