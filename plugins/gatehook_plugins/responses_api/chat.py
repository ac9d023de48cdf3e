"""The request as a chat in OpenAI's shape."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gatehook import unread
from gatehook_plugins.responses_api.items import Messages
from gatehook_plugins.responses_api.namespaces import Names, names_of
from gatehook_plugins.responses_api.requests import LOGPROBS, ResponseRequest, TextFormat
from gatehook_plugins.responses_api.tools import as_choice, as_tools

__all__ = ["Chat", "as_chat"]

_SAME: Final = (
    *("model", "temperature", "top_p", "parallel_tool_calls", "user", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention", "service_tier"),
)
"""What has the same name and meaning in chats."""
_BEYOND: Final = frozenset(
    ("stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "top_k", "min_p", "thinking")
)
"""What this API has no word for and chats have: it goes on to the vendor as it came."""
_KNOWN: Final = frozenset(ResponseRequest.__struct_fields__)


class Chat(msgspec.Struct, frozen=True):
    """A chat, and what its answer and its faults are to be read by."""

    body: dict[str, Any]
    origins: Sequence[str]
    """Where in the request each of its messages comes from."""
    names: Names
    """What the names of its functions stand for, where they are joined."""


def as_chat(request: ResponseRequest, data: Mapping[str, Any], drop: Callable[[str], None]) -> Chat:
    """The chat that a request becomes.

    Args:
        request: checked.
        data: the same as it came, with what its type does not name.
        drop: told what is left out.

    Raises:
        InvalidRequest: naming the field.
    """
    messages = Messages(drop)
    if request.instructions:
        messages.instruct(request.instructions)
    messages.read(request.input)
    chat: dict[str, Any] = {name: value for name in _SAME if (value := getattr(request, name)) is not None}
    chat["messages"] = messages.made
    if request.max_output_tokens is not None:
        chat["max_completion_tokens"] = request.max_output_tokens
    if request.tools:
        chat["tools"] = as_tools(request.tools, drop)
    if request.tool_choice is not None:
        chat["tool_choice"] = as_choice(request.tool_choice)
    if request.reasoning is not None and request.reasoning.effort is not None:
        chat["reasoning_effort"] = request.reasoning.effort
    chat |= _text(request) | _log_probabilities(request)
    if request.stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}  # its last event tells the usage
    chat |= {name: value for name, value in data.items() if name in _BEYOND and value is not None}
    _drop_the_rest(request, data, drop)
    return Chat(chat, messages.origins, names_of(request.tools or ()))


def _text(request: ResponseRequest) -> dict[str, Any]:
    """The form of the text, and how much of it."""
    said: dict[str, Any] = {}
    if request.text is None:
        return said
    if request.text.verbosity is not None:
        said["verbosity"] = request.text.verbosity
    form = request.text.format
    if form is not None and form.type == "json_schema":
        said["response_format"] = {"type": form.type, "json_schema": _schema(form)}
    elif form is not None and form.type != "text":
        said["response_format"] = {"type": form.type}
    return said


def _schema(form: TextFormat) -> dict[str, Any]:
    given = msgspec.structs.asdict(form)
    return {name: value for name, value in given.items() if name != "type" and value is not None}


def _log_probabilities(request: ResponseRequest) -> dict[str, Any]:
    most = {"top_logprobs": request.top_logprobs} if request.top_logprobs else {}
    return {"logprobs": True, **most} if most or LOGPROBS in (request.include or ()) else {}


def _drop_the_rest(request: ResponseRequest, data: Mapping[str, Any], drop: Callable[[str], None]) -> None:
    """Tell what neither goes to the vendor, nor is done by this API itself."""
    if request.store:
        drop("store")
    for name, value in data.items():
        if value is not None and name not in _KNOWN and name not in _BEYOND:
            drop(name)
    for path in unread({name: value for name, value in data.items() if name in _KNOWN}, request):
        drop(path)
