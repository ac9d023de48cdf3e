"""Answers written as one piece of bytes are the answers that aiohttp would have written."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gatehook.testing import StubUpstream

House = Callable[..., Any]
Wire = Any

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}).encode()
PATH = "/v1/chat/completions"


@pytest.fixture
async def home(house: House, openai_wire: Wire) -> AsyncIterator[Any]:
    async with (
        StubUpstream(*[openai_wire.text("Hello.")] * 4) as stub,
        house(openai_wire.deployment(stub)) as opened,
    ):
        yield opened


async def ask(
    home: Any, target: str = PATH, *, version: str = "1.1", extra: str = ""
) -> tuple[str, dict[str, str], bytes]:
    """The status line, the headers and the body, as they came; the connection is closed by us or by them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", home.port)
    head = f"POST {target} HTTP/{version}\r\nHost: x\r\nAuthorization: Bearer {home.key}\r\n{extra}"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    body = await reader.readexactly(int(headers["Content-Length"]))
    if headers.get("Connection") == "close":
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    return status, headers, body


async def test_they_are_what_the_router_s_way_gives(home: Any) -> None:
    ours, theirs = await ask(home), await ask(home, f"{PATH}?any=thing", extra="Connection: close\r\n")
    assert ours[0] == theirs[0] == "HTTP/1.1 200 OK"
    assert sorted(ours[1]) == sorted(name for name in theirs[1] if name != "Connection")
    changing = ("X-Request-ID", "Date", "Connection")
    same = [{name: value for name, value in one[1].items() if name not in changing} for one in (ours, theirs)]
    assert same[0] == same[1]
    assert json.loads(ours[2])["choices"] == json.loads(theirs[2])["choices"]


@pytest.mark.parametrize(("version", "extra"), [("1.0", ""), ("1.1", "Connection: close\r\n")])
async def test_who_does_not_keep_the_connection_has_it_closed(home: Any, version: str, extra: str) -> None:
    status, headers, _ = await ask(home, version=version, extra=extra)
    assert status.endswith("200 OK")
    assert headers.get("Connection", "close") == "close"


async def test_an_http_1_0_client_that_keeps_its_connection_is_told_that_it_may(home: Any) -> None:
    status, headers, _ = await ask(home, version="1.0", extra="Connection: keep-alive\r\n")
    assert status.endswith("200 OK")
    assert headers["Connection"] == "keep-alive"


async def test_many_sent_at_once_on_one_connection_are_all_answered(home: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", home.port)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {home.key}\r\nContent-Type: application/json\r\n"
    writer.write(b"".join(f"{head}Content-Length: {len(BODY)}\r\nX: {n}\r\n\r\n".encode() + BODY for n in range(4)))
    ids = []
    for _ in range(4):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        await reader.readexactly(int(headers["Content-Length"]))
        ids.append(headers["X-Request-ID"])
    writer.close()
    assert len(set(ids)) == 4
