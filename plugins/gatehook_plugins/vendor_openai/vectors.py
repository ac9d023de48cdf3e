"""Vectors in the form that was asked for: many servers know no `encoding_format`, and give numbers.

OpenAI's own client for JavaScript always asks for base64, and takes whatever comes for it.
"""

import base64
import struct
from collections.abc import Sequence
from typing import Any

from gatehook import Attempt, MalformedJSON, decode, encode
from gatehook_plugins.vendor_openai import failure
from gatehook_plugins.vendor_openai.splice import mentions

__all__ = ["as_asked"]


def as_asked(attempt: Attempt, raw: bytes) -> bytes:
    """The answer, its vectors in base64 if the request wants that.

    Raises:
        UpstreamError: a vector is not made of 32-bit numbers.
    """
    call = attempt.call
    if not mentions(call.body.raw, "base64") or call.payload.get("encoding_format") != "base64":
        return raw
    try:
        answer = decode(raw)
        numbers = [one for one in answer["data"] if isinstance(one, dict) and isinstance(one.get("embedding"), list)]
        for one in numbers:
            one["embedding"] = _packed(one["embedding"])
    except (MalformedJSON, struct.error, OverflowError):
        raise failure.malformed(attempt.target, "an embedding is not made of 32-bit numbers") from None
    return encode(answer) if numbers else raw


def _packed(vector: Sequence[Any]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
