"""Anthropic's dialect as spoken with clients."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from gatehook import (
    LONGEST_MODEL_NAME,
    Call,
    Chunk,
    Completion,
    Document,
    GatewayError,
    Surface,
    Usage,
    encode,
    read_object,
)
from gatehook.sse import frame
from gatehook_plugins.messages_api.answer import message_of
from gatehook_plugins.messages_api.chat import Chat, read_chat
from gatehook_plugins.messages_api.errors import error_body, known_status
from gatehook_plugins.messages_api.stream import Events

__all__ = ["MessagesSurface", "fill"]

_KEY: Final = "messages_api"


class MessagesSurface:
    """Implements `gatehook.Surface`."""

    name = "messages"
    canonical = False
    heartbeat = frame(b'{"type":"ping"}', "ping")

    def parse(self, call: Call, request: web.Request, body: bytes) -> None:
        """Check the body and fill the call from it.

        Raises:
            InvalidRequest: naming the field.
        """
        data = read_object(body, "a JSON object with 'model', 'max_tokens' and 'messages'")
        if isinstance(model := data.get("model"), str):
            call.model = model[:LONGEST_MODEL_NAME]  # errors name it, also when the rest of the request is at fault
        fill(call, read_chat(data))
        call.answer_headers |= self.error_headers(call)

    def answer(self, call: Call, completion: Completion) -> bytes:
        """A message: ``{"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"}``."""
        return encode(message_of(call, completion, completion.usage))

    def event(self, call: Call, chunk: Chunk) -> bytes:
        """The events of one chunk, mostly one; none where it says nothing that Anthropic's clients know."""
        return _events(call).take(call, chunk)

    def end(self, call: Call, usage: Usage | None) -> bytes:
        """``message_delta`` with the stop reason and the counts, and ``message_stop``."""
        return _events(call).end(call, usage)

    def error(self, call: Call, error: GatewayError) -> bytes:
        """``{"type": "error", "error": {"type", "message"}, "request_id"}``."""
        return error_body(error, call.id)

    def status(self, error: GatewayError) -> int:
        """One that these clients know."""
        return known_status(error)

    def error_headers(self, call: Call) -> Mapping[str, str]:
        """The header in which these clients look for the id of their request."""
        return {"request-id": call.id}

    def error_event(self, call: Call, error: GatewayError) -> bytes:
        """``event: error``; no message_stop follows it."""
        return frame(self.error(call, error), "error")


def fill(call: Call, chat: Chat) -> None:
    """Take over what a request asks for."""
    call.model = chat.body["model"]
    call.stream = call.include_usage = chat.stream  # the usage event tells the counts that message_delta ends with
    call.max_tokens, call.choices = chat.max_tokens, 1
    call.body = Document(chat.body)
    call.extended = True
    call.lost = chat.lost


def _events(call: Call) -> Events:
    """The state of this call's stream."""
    events: Events | None = call.state.get(_KEY)
    if events is None:
        events = call.state[_KEY] = Events()
    return events


_implements: type[Surface] = MessagesSurface
