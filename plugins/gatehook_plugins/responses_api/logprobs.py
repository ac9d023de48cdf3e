"""Log probabilities of a chat's answer, with the fields that this API always has."""

from typing import Any

import msgspec

__all__ = ["read_logprobs"]


class _Token(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None


class _Said(_Token, kw_only=True):
    top_logprobs: list[_Token] | None = None


class _Choice(msgspec.Struct):
    content: list[_Said] | None = None


def read_logprobs(given: Any) -> list[dict[str, Any]]:
    """Those of a piece of text; none where a vendor gives something else, for which no answer has to fail.

    Args:
        given: the choice's `logprobs`; None if it has none.
    """
    if given is None:
        return []
    try:
        said = msgspec.convert(given, _Choice).content
    except msgspec.ValidationError:
        return []
    return [{**_plain(one), "top_logprobs": list(map(_plain, one.top_logprobs or ()))} for one in said or ()]


def _plain(one: _Token) -> dict[str, Any]:
    return {"token": one.token, "logprob": one.logprob, "bytes": one.bytes or []}
