"""Clients and vendors that begin and do not go on."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from gatehook.testing import Reply, StubUpstream, serving
from gatehook_plugins.vendor_openai import vendor as openai_vendor


async def test_a_body_that_does_not_arrive_is_given_up_and_answered_408() -> None:
    settings = "[server]\nport = 0\nread_timeout = 0.2\n[plugins.openai_api]\n"
    async with serving(settings) as served:
        host, port = served.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
        error = json.loads(await reader.readexactly(length))["error"]
        assert (head.split()[1], error["type"], error["code"]) == ("408", "timeout_error", "request_timeout")
        writer.close()
        await writer.wait_closed()


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    data = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: %b\n\n" % json.dumps(data).encode()


async def test_a_vendor_that_finishes_and_then_only_holds_the_line_has_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openai_vendor, "_FORMALITIES_SECONDS", 0.2)
    body = [chunk({"role": "assistant", "content": "all of it"}), chunk({}, "stop")]
    async with StubUpstream(Reply.of_events(body, end="silence")) as stub:
        settings = (
            "[plugins.openai_api]\n[plugins.route_models]\n[plugins.vendor_openai]\n"
            f"[[models]]\nname = 'm'\nvendor = 'openai'\nbase_url = '{stub.url}'\n"
        )
        async with serving(settings) as served, aiohttp.ClientSession() as http:
            request = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
            async with http.post(f"{served.url}/v1/chat/completions", json=request) as answer:
                text = await answer.text()
                assert answer.headers["Server"] == "gatehook"
        assert text.endswith("data: [DONE]\n\n")
        assert "all of it" in text
