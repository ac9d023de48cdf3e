"""This API's dialect as spoken with clients: OpenAI's chats with the parameters apart, and answers with their cost."""

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from gatehook import (
    LONGEST_MODEL_NAME,
    Call,
    Chunk,
    Completion,
    Cost,
    Document,
    GatewayError,
    Surface,
    Usage,
    confirmation_of,
    decoded_answer,
    dollars,
    encode,
    read_object,
)
from gatehook.sse import DONE, frame
from gatehook_plugins.llm_api.errors import error_body
from gatehook_plugins.llm_api.requests import as_chat

__all__ = ["LlmSurface"]

_EMPTY: Final[Mapping[str, Any]] = {"index": 0, "delta": {}, "finish_reason": None}
"""A choice that adds nothing. The last event has one, for clients that look into the first choice of every event."""


class LlmSurface:
    """Implements `gatehook.Surface`."""

    name = "llm"
    canonical = False

    def __init__(self, *, always_streams: bool = False) -> None:
        """`always_streams`: whatever the parameter `stream` says."""
        self._always_streams = always_streams

    def parse(self, call: Call, request: web.Request, body: bytes) -> None:
        """Check the body and fill the call from it.

        Raises:
            InvalidRequest: naming the field.
        """
        data = read_object(body, "a JSON object with 'model' and 'messages'")
        if isinstance(model := data.get("model"), str):
            call.model = model[:LONGEST_MODEL_NAME]  # errors name it, also when the rest of the request is at fault
        chat = as_chat(data)
        call.stream = chat.pop("stream", False) or self._always_streams
        if call.stream:
            chat["stream"] = True
        call.body = Document(chat)

    def answer(self, call: Call, completion: Completion) -> bytes:
        """``{"id", "model", "choices", "usage", "cost"}``; the model is the one that answered, perhaps a fallback."""
        data = decoded_answer(call, completion)
        choices = [_bare(choice) for choice in data.get("choices") or ()]
        asked = confirmation_of(data)
        return encode(
            {"id": call.id, "model": call.public_name, "choices": choices, **_spent(call, completion.usage), **asked}
        )

    def event(self, call: Call, chunk: Chunk) -> bytes:
        """``data: {"id", "choices": [{"index", "delta", "finish_reason"}]}``; nothing where a chunk has no choice."""
        data = decoded_answer(call, chunk)
        choices = [{**_EMPTY, **_bare(choice)} for choice in data.get("choices") or ()]
        return frame(encode({"id": _stream_id(call), "choices": choices, **confirmation_of(data)})) if choices else b""

    def end(self, call: Call, usage: Usage | None) -> bytes:
        """An event with usage and cost, and ``data: [DONE]``."""
        return frame(encode({"id": _stream_id(call), "choices": [_EMPTY], **_spent(call, usage)})) + DONE

    def error(self, call: Call, error: GatewayError) -> bytes:
        """``{"error": {"code", "message", "details", "request_id"}}``."""
        return error_body(error, call.id, call.model)

    def status(self, error: GatewayError) -> int:
        """503 whenever a model cannot answer now, whoever is to blame."""
        return 503 if error.status in (502, 504) else error.status

    def error_event(self, call: Call, error: GatewayError) -> bytes:
        """The error object as an event; no [DONE] follows it."""
        return frame(self.error(call, error))


def _stream_id(call: Call) -> str:
    return "stream_" + call.id.removeprefix("req_")


def _bare(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A choice without the log probabilities that nobody asked for."""
    return {name: value for name, value in choice.items() if value is not None or name != "logprobs"}


def _spent(call: Call, usage: Usage | None) -> dict[str, Any]:
    """Tokens and dollars: null where the vendor told nothing or no price is known, 0 where the cache answered."""
    if call.attempts == 0:
        return _bill(Usage(), Cost())
    pricing = call.target.pricing if call.target is not None else None
    return _bill(usage, usage.cost(pricing) if usage is not None and pricing is not None else None)


def _bill(usage: Usage | None, cost: Cost | None) -> dict[str, Any]:
    return {
        "usage": {
            "prompt_tokens": usage and usage.prompt_tokens,
            "completion_tokens": usage and usage.completion_tokens,
            "total_tokens": usage and usage.total_tokens,
        },
        "cost": {
            "input_cost": cost and dollars(cost.input),
            "output_cost": cost and dollars(cost.output),
            "total_cost": cost and dollars(cost.total),
        },
    }


_implements: type[Surface] = LlmSurface
