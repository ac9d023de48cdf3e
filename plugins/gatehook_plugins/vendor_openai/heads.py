"""What every answer of OpenAI's begins with, for servers that leave it out, or leave it empty."""

import time
from typing import Final

from gatehook import Call, Usage, decode, encode, estimated_usage

__all__ = ["counted", "own_id", "with_head"]

_BYTES_PER_TOKEN: Final = 4
"""As the gateway counts where a vendor tells nothing."""


def own_id(call: Call) -> str:
    """The id of an answer that has none."""
    return ("chatcmpl-" if call.operation == "chat" else "cmpl-") + call.id.removeprefix("req_")


def counted(call: Call, raw: bytes) -> Usage:
    """The usage of an answer that tells none, as the gateway would count it: of what is added nothing is charged."""
    return estimated_usage(call, len(raw) // _BYTES_PER_TOKEN)


def with_head(call: Call, raw: bytes) -> bytes:
    """A whole answer with an id, its kind and time, and numbered choices; null for what nobody can know.

    Raises:
        MalformedJSON: a field that is not looked at otherwise cannot be decoded.
    """
    answer = decode(raw)
    kind = "chat.completion" if call.operation == "chat" else "text_completion"
    own = {"id": own_id(call), "object": kind, "created": int(time.time())}
    head = {name: answer.get(name) or value for name, value in own.items()}
    choices = [{"index": at, **choice} for at, choice in enumerate(answer["choices"])]
    return encode({**head, "usage": None, "system_fingerprint": None, **answer, **head, "choices": choices})
