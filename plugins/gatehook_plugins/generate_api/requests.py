"""What a request must look like, and the chat in OpenAI's shape that it becomes."""

from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from gatehook import LONGEST_MODEL_NAME, InvalidRequest, fitted, read_object

__all__ = ["DEFAULT_MODEL", "MOST_IN_A_BATCH", "as_chat", "read_batch"]

DEFAULT_MODEL: Final = "default"
"""The name that stands for whichever model the operator has chosen, unless they chose none and call one so."""
MOST_IN_A_BATCH: Final = 100


class Generate(Struct):
    """The body of /generate. Other parameters go through to the vendor as they are."""

    prompt: Annotated[str, Meta(min_length=1)]
    model: Annotated[str, Meta(min_length=1, max_length=LONGEST_MODEL_NAME)] | None = None
    system: str | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    stream: bool | None = None
    n: Annotated[int, Meta(ge=1, le=1)] | None = None


class Batch(Struct):
    """The body of /batch/generate. A request of it that is wrong does not spoil the others: they are checked alone."""

    requests: Annotated[list[Any], Meta(min_length=1, max_length=MOST_IN_A_BATCH)]


_OWN: Final = ("prompt", "system", "messages")


def read_batch(body: bytes) -> list[Any]:
    """The requests of a batch, none of them checked yet.

    Raises:
        InvalidRequest: there are none, or too many.
    """
    return fitted(read_object(body, "a JSON object with 'requests'"), Batch).requests


def as_chat(data: Any, default_model: str) -> dict[str, Any]:
    """The request as a chat: the prompt is what the user says.

    Args:
        data: as it was sent.
        default_model: what no model, or "default", stands for; "" if there is none.

    Raises:
        InvalidRequest: naming the field.
    """
    request = fitted(data, Generate)
    if "messages" in data:
        raise InvalidRequest("messages: this API takes a prompt; chats go to /v1/chat/completions", param="messages")
    model = default_model if request.model in (None, DEFAULT_MODEL) else request.model
    if not model:
        raise InvalidRequest("model: there is no default model; name one that GET /api/v1/models lists", param="model")
    said = [{"role": "system", "content": request.system}] if request.system else []
    rest = {name: value for name, value in data.items() if name not in _OWN and value is not None}
    return {**rest, "model": model, "messages": [*said, {"role": "user", "content": request.prompt}]}
