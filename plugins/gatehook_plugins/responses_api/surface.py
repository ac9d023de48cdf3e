"""The dialect as spoken with clients: requests become chats, and the answers to chats become responses."""

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
    decoded_answer,
    encode,
    envelope,
    fitted,
    read_object,
)
from gatehook_plugins.responses_api.chat import as_chat
from gatehook_plugins.responses_api.naming import named_as_sent
from gatehook_plugins.responses_api.requests import ResponseRequest, check
from gatehook_plugins.responses_api.response import Response, echoed

__all__ = ["ResponsesSurface"]

_STATE: Final = "responses_api"
"""The key in `call.state` of the response that is being made."""


class ResponsesSurface:
    """Implements `gatehook.Surface`."""

    name = "responses"
    canonical = False

    def parse(self, call: Call, request: web.Request, body: bytes) -> None:
        """Check the body and fill the call from it.

        Raises:
            InvalidRequest: naming the field.
        """
        data = read_object(body, "a JSON object with 'model' and 'input'")
        if isinstance(model := data.get("model"), str):
            call.model = model[:LONGEST_MODEL_NAME]  # errors name it, also when the rest of the request is at fault
        asked = fitted(data, ResponseRequest)
        check(asked)
        dropped: list[str] = []
        chat = as_chat(asked, data, dropped.append)
        call.stream = call.include_usage = asked.stream is True
        call.max_tokens, call.choices = asked.max_output_tokens, 1
        call.body = Document(chat.body)
        call.state[_STATE] = Response(call.id, echoed(asked, data), chat)
        call.lost = tuple(dropped)
        call.extended = any("thinking_blocks" in message for message in chat.body["messages"])

    def answer(self, call: Call, completion: Completion) -> bytes:
        """The response object."""
        response, data = _response(call), decoded_answer(call, completion)
        response.begin(call.public_name, data)
        response.add(data, "message", completion.usage)
        return encode(response.whole(completion.usage))

    def event(self, call: Call, chunk: Chunk) -> bytes:
        """The events that a chunk becomes; none for one that tells the usage alone."""
        response, data = _response(call), decoded_answer(call, chunk)
        response.begin(call.public_name, data)
        response.add(data, "delta", chunk.usage)
        return response.events.taken()

    def end(self, call: Call, usage: Usage | None) -> bytes:
        """The ends of all items, and ``response.completed`` or ``response.incomplete`` with the whole object."""
        response = _response(call)
        response.begin(call.public_name, {})
        return response.end(usage)

    def error(self, call: Call, error: GatewayError) -> bytes:
        """``{"error": {"message", "type", "param", "code"}}``."""
        response = call.state.get(_STATE)  # nothing was read yet of what could not be
        return encode(named_as_sent(error, response.origins) if response is not None else envelope(error))

    def error_event(self, call: Call, error: GatewayError) -> bytes:
        """``response.failed``; nothing follows it."""
        return _response(call).fail(call.public_name, error)


def _response(call: Call) -> Response:
    response: Response = call.state[_STATE]
    return response


_implements: type[Surface] = ResponsesSurface
