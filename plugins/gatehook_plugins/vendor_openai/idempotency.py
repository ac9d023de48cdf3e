"""Idempotency keys: by them a server recognises a request that it has had before, and does not make it twice."""

import re
from hashlib import blake2b
from typing import Final

from gatehook import Attempt, Call

__all__ = ["is_header_name", "key"]

_HEADER: Final = "Idempotency-Key"
"""The header by which clients of the gateway name a request that they repeat."""
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def is_header_name(text: str) -> bool:
    """Whether a header can have this name."""
    return _NAME.fullmatch(text) is not None


def key(attempt: Attempt, *options: object) -> str:
    """32 letters and digits: the same ones whenever the same request of the same caller goes to the same server.

    Servers refuse a key that comes again with another body. So it is made of all that the body is made of: the next
    round of a call with tools, and another deployment with defaults of its own, have other keys.

    Args:
        attempt: whose request is sent.
        options: of its deployment, those by which the body is made.
    """
    call, target = attempt.call, attempt.target
    made_of = (
        _asked_by(call),
        target.base_url,
        target.model,
        options,
        call.operation,
        call.stream,
        call.include_usage,
        call.body.raw,
        sorted(attempt.defaults.items()),
    )
    return blake2b(repr(made_of).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _asked_by(call: Call) -> tuple[str, ...]:
    """What identifies the request: its client's own key, or else the job or the call that it belongs to.

    A client's key counts with its caller: the same key of another caller means another request.
    """
    if (given := call.headers.get(_HEADER, "")) != "":
        return "client", call.principal.id, given
    return ("job", call.reservation) if call.reservation else ("call", call.id)
