"""Anthropic's answers as they came, for its own clients: those of the surface `messages`."""

from collections.abc import Mapping
from typing import Any, Final

from gatehook import Call, decode, encode
from gatehook.sse import Event, frame

__all__ = ["SURFACE", "original_answer", "original_event"]

SURFACE: Final = "messages"
"""The name of the surface whose clients read what Anthropic writes."""


def original_answer(call: Call, message: Mapping[str, Any]) -> bytes:
    """A whole message, under the public model name."""
    return encode({**message, "model": call.public_name})


def original_event(call: Call, event: Event) -> bytes:
    """One event, framed; in the one that begins the message, the model has its public name.

    Args:
        call: the one that is answered.
        event: one that was translated, so that it is known to be an object.
    """
    kind, data = event
    if kind not in (b"message_start", b""):
        return frame(data, kind.decode("ascii", "replace"))
    told = decode(data)
    if isinstance(message := told.get("message"), dict):
        told["message"] = {**message, "model": call.public_name}
    return frame(encode(told), str(told.get("type")))
