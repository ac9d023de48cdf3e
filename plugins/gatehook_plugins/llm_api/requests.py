"""What a request must look like, and what it becomes: a chat in OpenAI's shape.

Parameters that `gatehook.chats` does not name go through as they are.
"""

from typing import Annotated, Any

from msgspec import Meta

from gatehook import InvalidRequest, fitted
from gatehook.chats import ChatParameters, Message, Name, Text, missing_field

__all__ = ["as_chat"]


class GenerateRequest(ChatParameters, kw_only=True):
    """The body. Parameters may also stand beside the messages, as OpenAI has them; those in `parameters` win."""

    model: Name
    messages: Annotated[list[Message], Meta(min_length=1)] | None = None
    prompt: Text | None = None
    parameters: ChatParameters | None = None


_BESIDE = ("model", "messages", "prompt", "parameters")
"""The fields of the body that are not parameters."""


def as_chat(data: dict[str, Any]) -> dict[str, Any]:
    """The request as a chat in OpenAI's shape: the parameters beside model and messages, a prompt as one message.

    Raises:
        InvalidRequest: naming the field.
    """
    request = fitted(data, GenerateRequest)
    nested = data.get("parameters") or {}
    if misplaced := next((name for name in _BESIDE if name in nested), None):
        path = f"parameters.{misplaced}"
        raise InvalidRequest(f"{path}: not a parameter; its place is beside 'parameters'", param=path)
    if (needed := _missing(request)) is not None:
        raise InvalidRequest(f"{needed}: required, but missing", param=needed)
    chat = {"model": request.model, "messages": _messages(request, data)}
    for parameters in (data, nested):
        chat |= {name: value for name, value in parameters.items() if value is not None and name not in _BESIDE}
    return chat


def _messages(request: GenerateRequest, data: dict[str, Any]) -> Any:
    if request.prompt is None:
        return data["messages"]
    if request.messages is not None:
        raise InvalidRequest("prompt: give either messages or a prompt, not both", param="prompt")
    return [{"role": "user", "content": request.prompt}]


def _missing(request: GenerateRequest) -> str | None:
    """The path of the first field that a role or a type asks for and that is not there."""
    if request.messages is None and request.prompt is None:
        return "messages"
    nested = None if request.parameters is None else missing_field((), request.parameters)
    return missing_field(request.messages or (), request) or (nested and f"parameters.{nested}")
