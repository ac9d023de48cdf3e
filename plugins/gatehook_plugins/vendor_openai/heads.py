"""What every answer of OpenAI's begins with, for servers that leave it out, or leave it empty."""

import time

from gatehook import Call, decode, encode

__all__ = ["own_id", "with_head"]


def own_id(call: Call) -> str:
    """The id of an answer that has none."""
    return ("chatcmpl-" if call.operation == "chat" else "cmpl-") + call.id.removeprefix("req_")


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
