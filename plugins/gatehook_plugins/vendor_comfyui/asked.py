"""What a request asks of a workflow, read from OpenAI's shape."""

import re
import secrets
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from gatehook import Attempt, InvalidRequest, Retry
from gatehook_plugins.vendor_comfyui.workflow import Workflow, canonical_input

__all__ = ["Asked", "read_chat", "read_images"]

_SIZE: Final = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_KNOWN: Final = frozenset({"model", "prompt", "n", "size", "response_format", "user", "metadata", "store"})
_KNOWN_OF_CHATS: Final = frozenset({"model", "messages", "n", "stream", "stream_options", "user", "metadata", "store"})
_ASKS_FOR_NOTHING: Final = (None, "auto")
_LARGEST_SEED: Final = 2**53 - 1
"""The largest number that every reader of JSON keeps exactly."""
_MOST: Final = 10


class Asked(Struct, frozen=True):
    """What to make: values for the workflow's inputs, by name, and how often it is run, each time with another seed."""

    values: Mapping[str, Any]
    times: int = 1

    def round(self, number: int, workflow: Workflow) -> Mapping[str, Any]:
        """The values of one run, counted from 0."""
        seed = workflow.inputs.get("seed")
        if seed is None or not number:
            return self.values
        low, high = int(seed.least or 0), int(_LARGEST_SEED if seed.most is None else seed.most)
        return {**self.values, "seed": low + (self.values["seed"] - low + number) % (high - low + 1)}


def read_images(attempt: Attempt, workflow: Workflow) -> Asked:
    """Read a request for pictures.

    Raises:
        InvalidRequest: naming the field.
    """
    asked = attempt.payload
    values = _values(attempt, workflow, _KNOWN)
    values["prompt"] = workflow.inputs["prompt"].read(asked.get("prompt"))
    size = asked.get("size")
    if size not in _ASKS_FOR_NOTHING:
        values |= _size(attempt, workflow, size)
    return _completed(attempt, workflow, values)


def read_chat(attempt: Attempt, workflow: Workflow) -> Asked:
    """Read a chat: the user's last message is the prompt.

    Raises:
        InvalidRequest: naming the field.
    """
    values = _values(attempt, workflow, _KNOWN_OF_CHATS)
    values["prompt"] = workflow.inputs["prompt"].read(_last_said(attempt), "messages")
    return _completed(attempt, workflow, values)


def _values(attempt: Attempt, workflow: Workflow, known: frozenset[str]) -> dict[str, Any]:
    """The inputs that the request gives under their own names; parameters without a place are noted as dropped."""
    values: dict[str, Any] = {}
    for field, value in attempt.payload.items():
        name = canonical_input(field)
        if (field in known and field != "n") or value is None:
            continue
        if name in workflow.inputs and name not in ("prompt", "model"):
            values[name] = workflow.inputs[name].read(value, field)
        elif field not in known and value not in _ASKS_FOR_NOTHING:
            attempt.drop(field)
    return values


def _completed(attempt: Attempt, workflow: Workflow, values: dict[str, Any]) -> Asked:
    """The request, completed with what it leaves open: a random seed, and the deployment's own model."""
    target = attempt.target
    if "model" in workflow.inputs and target.model != target.name:
        values["model"] = target.model
    seed = workflow.inputs.get("seed")
    if seed is not None and "seed" not in values:
        low, high = int(seed.least or 0), int(_LARGEST_SEED if seed.most is None else seed.most)
        values["seed"] = low + secrets.randbelow(high - low + 1)
    times = attempt.payload.get("n") or 1
    if not isinstance(times, int) or not 1 <= times <= _MOST:
        raise InvalidRequest(f"n: expected a whole number from 1 to {_MOST}", param="n", retry=Retry.NEXT)
    return Asked(values, 1 if "n" in workflow.inputs else times)


def _size(attempt: Attempt, workflow: Workflow, size: Any) -> dict[str, Any]:
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None:
        raise InvalidRequest("size: expected 'auto' or a size such as '1024x1024'", param="size", retry=Retry.NEXT)
    if not {"width", "height"} <= workflow.inputs.keys():
        attempt.drop("size")
        return {}
    sides = {"width": int(match[1]), "height": int(match[2])}
    return {name: workflow.inputs[name].read(side, "size") for name, side in sides.items()}


def _last_said(attempt: Attempt) -> str:
    messages: Any = attempt.payload.get("messages")
    for message in reversed(messages) if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role") == "user":
            return _text(attempt, message.get("content"))
    raise InvalidRequest(
        "messages: a model that makes pictures needs a message of the user, whose text is the prompt",
        param="messages",
        retry=Retry.NEXT,
    )


def _text(attempt: Attempt, content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    if any(part.get("type") != "text" for part in parts):
        attempt.drop("messages.content")
    text = "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    if not text:
        raise InvalidRequest("messages: the last message of the user has no text", param="messages", retry=Retry.NEXT)
    return text
