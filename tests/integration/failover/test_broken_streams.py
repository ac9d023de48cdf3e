"""A stream that breaks after its first content is never mended: it ends with an error, and a cut line."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import openai
import pytest

from gatehook.testing import Reply, StubUpstream

House = Callable[..., Any]
Wire = Any
Wait = Callable[..., Any]
Half = Callable[..., Reply]
Watcher = Any

USER: Any = {"role": "user", "content": "Hi"}
CHAT: dict[str, Any] = {"model": "m", "messages": [USER]}
STREAM = {**CHAT, "stream": True}


BREAKS: dict[str, Any] = {
    "cut": lambda half: half(end="cut"),
    "reset": lambda half: half(end="reset"),
    "ended": lambda half: half(end="close"),
    "malformed": lambda half: Reply.of_events([*half().body, b"data: {oops\n\n"]),
    "an error": lambda half: Reply.of_events(
        [*half().body, b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n']
    ),
    "silence": lambda half: half(end="silence"),
}


async def broken(home: Any, body: Any = STREAM) -> tuple[int, bytes, bool]:
    """Status, the events, and whether the line was cut before the body's end."""
    received = b""
    async with home.http.post(home.url + "/v1/chat/completions", json=body) as answer:
        try:
            async for piece in answer.content.iter_any():
                received += piece
        except aiohttp.ClientPayloadError:
            return answer.status, received, True
    return answer.status, received, False


@pytest.mark.parametrize("name", BREAKS)
async def test_a_stream_that_breaks_ends_with_an_error_event_and_a_cut_line(
    watched: House, wire: Wire, watcher: Watcher, name: str, half_of: Half, content: Callable[[bytes], str]
) -> None:
    whole = wire.stream(["first", "second"])
    reply = BREAKS[name](lambda **how: half_of(whole, b"first", **how))
    patience = 0.15 if name == "silence" else 20
    async with (
        StubUpstream(reply) as stub,
        StubUpstream(wire.stream(["other"])) as other,
        watched(
            wire.deployment(stub),
            wire.deployment(other, priority=2),
            failover={"stall_timeout": patience, "retries": 2},
        ) as home,
    ):
        status, events, cut = await broken(home)
        assert (len(stub.requests), len(other.requests)) == (1, 0)
        if name == "silence":
            await asyncio.wait_for(stub.closed_early.wait(), 5)
    assert (status, content(events), cut) == (200, "first", True)
    assert b"[DONE]" not in events
    last = events.decode().strip().rpartition("\n\n")[2]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("timeout_error" if name == "silence" else "server_error")
    (outcome,) = watcher.outcomes
    assert (outcome.status, outcome.http_status) == ("partial", 200)
    assert outcome.code
    assert outcome.usage is not None


async def test_the_sdk_raises_when_a_stream_breaks(house: House, wire: Wire, half_of: Half) -> None:
    reply = half_of(wire.stream(["first", "second"]), b"first", end="cut")
    async with StubUpstream(reply) as stub, house(wire.deployment(stub)) as home:
        received: list[str | None] = []

        async def read() -> None:
            async for chunk in await home.openai.chat.completions.create(**STREAM):
                received.append(chunk.choices[0].delta.content)  # noqa: PERF401  # it breaks off

        with pytest.raises(openai.APIError):
            await read()
    assert "first" in received


async def test_the_total_time_limits_a_stream_that_drips(house: House, wire: Wire) -> None:
    reply = wire.stream(["drop"] * 100, pause=0.05)
    async with StubUpstream(reply) as stub, house(wire.deployment(stub, timeout=0.4)) as home:
        begun = time.monotonic()
        _, events, cut = await broken(home)
        assert time.monotonic() - begun < 3
        await asyncio.wait_for(stub.closed_early.wait(), 5)
    assert cut
    assert b"timeout_error" in events


async def test_a_connection_whose_answer_was_read_serves_the_next_call(house: House, wire: Wire, settled: Wait) -> None:
    async with StubUpstream(wire.text("a"), wire.stream(["b"])) as stub, house(wire.deployment(stub)) as home:
        for body in (CHAT, STREAM, STREAM):
            assert (await home.ask(body))[0] == 200
        assert stub.open == 1
    await settled(lambda: not stub.open)
    assert not stub.open


async def test_a_connection_whose_answer_was_half_read_serves_nobody(
    house: House, wire: Wire, settled: Wait, half_of: Half
) -> None:
    half = half_of(wire.stream(["first", "second"]), b"first")
    bad = Reply.of_events([*half.body, b"data: {oops\n\n", b"data: never read\n\n" * 1000], end="keep")
    async with StubUpstream(bad, wire.text("fine")) as stub, house(wire.deployment(stub)) as home:
        await broken(home)
        status, answer, _ = await home.ask()
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "fine")
