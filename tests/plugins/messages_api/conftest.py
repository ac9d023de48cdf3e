"""A gateway that serves the Messages API in front of a stub of a vendor."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from gatehook.testing import Reply, StubUpstream, serving

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "up",
    "content": [{"type": "text", "text": "Yes."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 7, "output_tokens": 2},
}
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "up",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
}
PLAIN: Mapping[str, Any] = {"anthropic": MESSAGE, "openai": CHAT}


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The events of a stream, each under its own name."""
        *blocks, rest = self.body.split(b"\n\n")
        assert rest == b""
        found = [block.split(b"\n") for block in blocks if not block.startswith(b":")]
        events = [json.loads(data.removeprefix(b"data: ")) for _, data in found]
        assert [name.removeprefix(b"event: ").decode() for name, _ in found] == [one["type"] for one in events]
        return events

    def error(self, status: int, kind: str) -> str:
        """The message of an error, after everything that must hold for any."""
        assert self.status == status, self.body
        told = self.json
        assert set(told) == {"type", "error", "request_id"}
        assert (told["type"], told["error"]["type"]) == ("error", kind)
        assert set(told["error"]) == {"type", "message"}
        assert told["request_id"] == self.headers["request-id"] == self.headers["X-Request-ID"]
        return str(told["error"]["message"])


class Front:
    """A client, and what the vendor was asked."""

    def __init__(self, url: str, session: aiohttp.ClientSession, stub: StubUpstream) -> None:
        self.url = url
        self.stub = stub
        self._session = session

    async def ask(self, body: Any, path: str = "/v1/messages", method: str = "POST", **headers: str) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **headers}
        async with self._session.request(method, self.url + path, data=data, headers=sent) as response:
            read = b""
            with contextlib.suppress(aiohttp.ClientPayloadError):  # an answer that breaks off is cut
                async for piece in response.content.iter_any():
                    read += piece
            return Answer(response.status, response.headers, read)

    @property
    def asked(self) -> Any:
        """The last request to the vendor."""
        return self.stub.requests[-1].json


Open = Callable[..., AbstractAsyncContextManager[Front]]


@pytest.fixture
def front() -> Open:
    """`async with front("openai", reply) as gateway`; without a reply the vendor says "Yes.".

    `more` goes into the vendor's table, and may begin others; `told` into that of the model, `server` into [server];
    `plugins` are further ones, by name.
    """

    @contextlib.asynccontextmanager
    async def opened(
        vendor: str = "openai",
        *replies: Reply,
        model: str = "up",
        more: str = "",
        told: str = "",
        server: str = "",
        plugins: Any = None,
    ) -> AsyncIterator[Front]:
        async with StubUpstream(*(replies or [Reply.of_json(PLAIN[vendor])])) as stub:
            base = stub.url + ("/v1" if vendor == "openai" else "")
            text = (
                f"[server]\nport = 0\n{server}\n[failover]\nretries = 0\n"
                "[plugins.messages_api]\n[plugins.route_models]\n"
                f"[plugins.vendor_{vendor}]\n{more}\n[[models]]\nname = 'm'\nvendor = '{vendor}'\nmodel = '{model}'\n"
                f"base_url = '{base}'\napi_key = 'upstream-secret-0123456789'\n{told}\n"
            )
            async with serving(text, plugins=plugins) as served, aiohttp.ClientSession() as session:
                yield Front(served.url, session, stub)

    return opened
