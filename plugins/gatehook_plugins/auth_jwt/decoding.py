"""A token's signature and claims, checked by PyJWT, which loads `cryptography`: imported with the first token."""

from collections.abc import Sequence
from typing import Any, Final

from jwt import PyJWT
from jwt.exceptions import (
    DecodeError,
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidSignatureError,
    MissingRequiredClaimError,
    PyJWTError,
)

from gatehook import AuthenticationFailed
from gatehook_plugins.auth_jwt.keys import Key
from gatehook_plugins.auth_jwt.tokens import read_json, refused

__all__ = ["Decoder"]

_LATEST: Final = 253_402_300_800
"""The year 10000, in seconds: times from there on are milliseconds by mistake, and would hold for ever."""

_REASONS: Final[Sequence[tuple[type[Exception], str]]] = (
    (ImmatureSignatureError, "is not valid yet (nbf, iat)"),
    (InvalidIssuerError, "is from an issuer that is not accepted (iss)"),
    (InvalidAudienceError, "is meant for another audience (aud)"),
    (InvalidSignatureError, "has a signature that is not right"),
)


class Decoder:
    """Checks tokens against a key, and for what is expected of all of them."""

    def __init__(self, *, issuer: list[str] | None, audience: list[str] | None, leeway: float) -> None:
        """Args: issuers and audiences, None for not checking; `leeway` in seconds."""
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway
        # Who a token speaks of is read later, by `ClaimNames`.
        self._strict = _Strict({"require": ["exp"], "verify_sub": False, "verify_jti": False})

    def claims(self, token: str, key: Key) -> dict[str, Any]:
        """What a token says, if it is signed by this key and good now.

        Raises:
            AuthenticationFailed: it is not.
        """
        try:
            return self._strict.decode(
                token,
                key.material,
                algorithms=key.algorithms,
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway,
            )
        except (PyJWTError, RecursionError) as error:
            raise _explained(error) from None


def _explained(error: Exception) -> AuthenticationFailed:
    if isinstance(error, ExpiredSignatureError):
        return refused("has expired (exp)", code="token_expired")
    if isinstance(error, MissingRequiredClaimError):
        return refused(f"lacks the claim {error.claim}")
    if isinstance(error, _WrongTimeError):
        return refused(str(error))
    return refused(next((words for kind, words in _REASONS if isinstance(error, kind)), "is malformed"))


class _WrongTimeError(DecodeError):
    """A claim that should be a time is not one."""


class _Strict(PyJWT):
    """PyJWT, reading the claims more strictly: it would take two values for one claim, and texts for times."""

    def _decode_payload(self, decoded: dict[str, Any]) -> dict[str, Any]:
        try:
            claims = read_json(decoded["payload"])
        except ValueError:
            raise DecodeError("not JSON") from None
        if not isinstance(claims, dict):
            raise DecodeError("not an object")
        for name in ("exp", "nbf", "iat"):
            if name in claims and not _is_time(claims[name]):
                raise _WrongTimeError(f"has a time that is no number of seconds since 1970 ({name})")
        return claims


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value < _LATEST
