"""Events that only add a text pass from the vendor's socket to the client's, and the call sleeps meanwhile."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from gatehook import Call, Chunk
from gatehook.calls.attempts import Stream
from gatehook.calls.deadlines import Watch
from gatehook.testing import StubUpstream

House = Callable[..., Any]
Wire = Any
Wait = Callable[..., Any]
Watcher = Any
Content = Callable[[bytes], str]

WORDS = [f"word{number} " for number in range(20)]
STREAM: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


@pytest.fixture
def relayed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The contents of what was relayed, of all streams."""
    found: list[int] = []
    begin = Stream.relayed

    def begun(self: Stream, watch: Watch, write: Callable[[bytes], bool]) -> Stream:
        begin(self, watch, write)
        attempt = self._attempt
        relay = attempt.relay
        assert relay is not None

        def counted(data: bytes, contents: int) -> bool:
            done = relay(data, contents)
            found.extend([contents] * done)
            return done

        attempt.relay = counted
        return self

    monkeypatch.setattr(Stream, "relayed", begun)
    return found


async def asked(http: aiohttp.ClientSession, port: int) -> bytes:
    async with http.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=STREAM) as answer:
        assert answer.status == 200
        return await answer.read()


async def test_all_but_the_first_and_the_last_are_relayed_and_counted(
    watched: House, openai_wire: Wire, watcher: Watcher, relayed: list[int], content: Content
) -> None:
    reply = openai_wire.stream(WORDS, pause=0.01)
    async with (
        StubUpstream(reply) as stub,
        watched(openai_wire.deployment(stub)) as home,
        aiohttp.ClientSession() as http,
    ):
        body = await asked(http, home.port)
    assert content(body) == "".join(WORDS)
    assert body.endswith(b"data: [DONE]\n\n")
    assert sum(relayed) >= len(WORDS) - 3
    (outcome,) = watcher.outcomes
    assert (outcome.status, outcome.usage.estimated) == ("complete", False)


async def test_what_was_relayed_counts_when_the_vendor_breaks_off_and_when_the_client_leaves(
    watched: House, openai_wire: Wire, watcher: Watcher, settled: Wait, relayed: list[int], half_of: Any
) -> None:
    cut = half_of(openai_wire.stream(WORDS), b"word17", end="cut", pause=0.01)
    held = half_of(openai_wire.stream(WORDS), b"word17", end="silence", pause=0.01)
    async with StubUpstream(cut, held) as stub, watched(openai_wire.deployment(stub)) as home:
        async with aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.ClientPayloadError):
                await asked(http, home.port)
            before = sum(relayed)
            async with http.post(f"http://127.0.0.1:{home.port}/v1/chat/completions", json=STREAM) as answer:
                await answer.content.readuntil(b"word17")
                answer.close()
        await settled(lambda: len(watcher.outcomes) == 2)
    broken, left = watcher.outcomes
    assert (broken.status, broken.code) == ("partial", "upstream_error")
    assert (left.status, left.code) == ("partial", "client_left")
    assert before > 10
    assert sum(relayed) - before > 10
    for outcome in (broken, left):
        assert outcome.usage.estimated
        assert outcome.usage.completion_tokens >= 18, "of each event, at least a token"


async def test_a_vendor_that_falls_silent_after_what_was_relayed_is_given_up(
    watched: House, openai_wire: Wire, watcher: Watcher, relayed: list[int], half_of: Any
) -> None:
    held = half_of(openai_wire.stream(WORDS), b"word17", end="silence", pause=0.05)
    async with (
        StubUpstream(held) as stub,
        watched(openai_wire.deployment(stub), failover={"stall_timeout": 0.4}) as home,
        aiohttp.ClientSession() as http,
        asyncio.timeout(20),
    ):
        with pytest.raises(aiohttp.ClientPayloadError):  # not after 0.4 s of a stream that takes 0.9 s
            await asked(http, home.port)
    (outcome,) = watcher.outcomes
    assert (outcome.status, outcome.code) == ("partial", "upstream_timeout")
    assert sum(relayed) > 10


async def test_nothing_is_relayed_past_an_observer_of_chunks(
    house: House, openai_wire: Wire, relayed: list[int], content: Content
) -> None:
    from gatehook import Observer, Section, hookimpl

    seen: list[str] = []

    class Reader(Observer):
        def chunk(self, call: Call, chunk: Chunk) -> None:
            seen.extend(choice["delta"].get("content") or "" for choice in json.loads(chunk.raw or b"{}")["choices"])

    class Watch:
        Settings = Section

        def __init__(self, settings: Section) -> None:
            pass

        @hookimpl
        def register_observers(self) -> list[Observer]:
            return [Reader()]

    reply = openai_wire.stream(WORDS, pause=0.01)
    async with (
        StubUpstream(reply) as stub,
        house(openai_wire.deployment(stub), plugins={"watch": Watch}, plugin_watch={}) as home,
        aiohttp.ClientSession() as http,
    ):
        body = await asked(http, home.port)
    assert content(body) == "".join(seen) == "".join(WORDS)
    assert not relayed
