"""Clients and vendors that begin and do not go on."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gatehook.testing import Reply, StubUpstream, serving
from gatehook_plugins.vendor_openai import vendor as openai_vendor

ADMIN = "admin-key-0123456789abcdef"
BODIES = [
    "POST /v1/chat/completions",
    "PUT /api/llm/config/load-balancing",
    "PUT /api/llm/config/models/m",
    "POST /admin/users",
]


@pytest.mark.parametrize("request_line", BODIES)
async def test_a_body_that_does_not_arrive_is_given_up_and_answered_408(request_line: str, tmp_path: Path) -> None:
    settings = (
        "[server]\nport = 0\nread_timeout = 0.2\n[plugins.openai_api]\n[plugins.llm_api]\n[plugins.admin_api]\n"
        f"[database]\nurl = 'sqlite:///{tmp_path / 'a.db'}'\n[plugins.database]\n"
        f"[plugins.auth_keys]\nadmin_keys = ['{ADMIN}']\n[plugins.route_models]\n[plugins.vendor_mock]\n"
        "[[models]]\nname = 'm'\nvendor = 'mock'\n"
    )
    async with serving(settings) as served:
        host, port = served.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"{request_line} HTTP/1.1\r\nHost: x\r\nX-API-Key: {ADMIN}\r\nContent-Length: 100\r\n\r\n{{"
        writer.write(head.encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
        error = json.loads(await reader.readexactly(length))["error"]
        assert head.split()[1] == "408"
        assert "server.read_timeout" in error["message"]
        assert "request_timeout" in (error.get("code"), error.get("details", {}).get("reason"))
        writer.close()
        await writer.wait_closed()


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    data = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: %b\n\n" % json.dumps(data).encode()


@pytest.mark.parametrize("beats", [0, 400], ids=["in silence", "with heartbeats"])
async def test_a_vendor_that_finishes_and_then_only_holds_the_line_has_answered(
    monkeypatch: pytest.MonkeyPatch, beats: int
) -> None:
    monkeypatch.setattr(openai_vendor, "_FORMALITIES_SECONDS", 0.2)
    body = [chunk({"role": "assistant", "content": "all of it"}), chunk({}, "stop")]
    said = [b"".join(body), *[b": still here\n\n"] * beats]
    async with StubUpstream(Reply.of_events(said, end="silence", pause=0.05)) as stub:
        settings = (
            "[plugins.openai_api]\n[plugins.route_models]\n[plugins.vendor_openai]\n"
            f"[[models]]\nname = 'm'\nvendor = 'openai'\nbase_url = '{stub.url}'\n"
        )
        async with serving(settings) as served, aiohttp.ClientSession() as http:
            request = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
            async with http.post(f"{served.url}/v1/chat/completions", json=request) as answer:
                async with asyncio.timeout(10):  # half of what the heartbeats take
                    text = await answer.text()
                assert answer.headers["Server"] == "gatehook"
        assert text.endswith("data: [DONE]\n\n")
        assert "all of it" in text
