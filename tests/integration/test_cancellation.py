"""A call may be cancelled at any step of the event loop: no permit, connection or task is lost, and it ends once."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

import pytest

from gatehook import Call, Observer, Outcome, Section, Target, ToolCall, Verdict, hookimpl
from gatehook.testing import Reply, StubUpstream

House = Callable[..., Any]
Wire = Any
Way = Callable[["Client", "Concerns"], Awaitable[None]]

MOST_STEPS = 2000
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


class Permit:
    """Waits before it is settled, as one in Redis does."""

    def __init__(self, concerns: "Concerns") -> None:
        self._concerns = concerns

    async def settle(self, outcome: Outcome) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        self._concerns.settled += 1


class Concerns(Observer):
    """A limiter of calls and of attempts, a tool policy and an observer, all of which wait where they may."""

    def __init__(self) -> None:
        self.given = self.settled = 0
        self.tasks: list[asyncio.Task[Any]] = []
        self.outcomes: list[Outcome] = []

    async def _permit(self) -> Permit:
        await asyncio.sleep(0)
        self.given += 1
        return Permit(self)

    async def admit(self, call: Call) -> Permit:
        return await self._permit()

    async def admit_attempt(self, call: Call, target: Target) -> Permit:
        return await self._permit()

    async def offer(self, call: Call, tools: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        await asyncio.sleep(0)
        return tools

    async def judge(self, call: Call, tool_call: ToolCall) -> Verdict:
        await asyncio.sleep(0)
        return Verdict("allow")

    def started(self, call: Call) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)

    def finished(self, call: Call, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


@pytest.fixture(autouse=True)
def no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatehook.calls.failover._FIRST_BACKOFF", 0)


@pytest.fixture
def concerns() -> Concerns:
    return Concerns()


@pytest.fixture
def plugin(concerns: Concerns) -> type:
    class Plugin:
        Settings = Section

        def __init__(self, settings: Section) -> None:
            pass

        @hookimpl
        def register_limiters(self) -> list[Concerns]:
            return [concerns]

        @hookimpl
        def register_tool_policies(self) -> list[Concerns]:
            return [concerns]

        @hookimpl
        def register_observers(self) -> list[Observer]:
            return [concerns]

    return Plugin


class Client:
    """One request on a bare socket."""

    def __init__(self, port: int, body: Any) -> None:
        raw = json.dumps(body).encode()
        self._request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(raw), raw)
        )
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(self._request)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    def leave(self) -> None:
        """Reset the line."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


async def leave(client: Client, concerns: Concerns) -> None:
    """The client closes its line."""
    client.leave()


async def cancel(client: Client, concerns: Concerns) -> None:
    """The task is cancelled, as by a shutdown."""
    for task in concerns.tasks[-1:]:
        task.cancel()


async def cancel_again_and_again(client: Client, concerns: Concerns) -> None:
    """The task is cancelled, and so is whatever it still does to end well."""
    for _ in range(6):
        await cancel(client, concerns)
        await asyncio.sleep(0)


def replies(wire: Wire, streams: bool) -> list[Reply]:
    """A failure, and then an answer with a tool call, in several pieces; after each the line is closed."""
    call = ("call_1", "weather", '{"city": "Oslo"}')
    good = wire.calls_stream([call], "Let me look.") if streams else wire.calls([call], "Let me look.")
    body = good.body if streams else [good.body[:40], good.body[40:]]
    return [
        wire.error(500, "once", end="close"),
        Reply(body, content_type=good.content_type, pause=0.00001, end="close"),
    ]


async def spun(condition: Callable[[], bool]) -> bool:
    """Let the loop turn until a condition holds; whether it does, after 5 seconds at most."""
    end = asyncio.get_running_loop().time() + 5
    while not condition() and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110  # nobody announces it
        await asyncio.sleep(0)
    return condition()


@pytest.mark.parametrize("way", [leave, cancel, cancel_again_and_again])
@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
async def test_a_call_that_is_cancelled_at_any_step_leaves_nothing(
    house: House, wire: Wire, concerns: Concerns, plugin: type, way: Way, streams: bool
) -> None:
    async with (
        StubUpstream() as stub,
        house(wire.deployment(stub), plugins={"concerns": plugin}, plugin_concerns={}, failover={"retries": 1}) as home,
    ):
        await cancel_at_every_step(home, stub, wire, concerns, way, streams)


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
async def test_nor_does_one_on_the_way_that_vendors_with_tls_are_called(
    house: House, openai_wire: Wire, concerns: Concerns, plugin: type, streams: bool
) -> None:
    async with (
        StubUpstream() as stub,
        house(
            openai_wire.deployment(stub), plugins={"concerns": plugin}, plugin_concerns={}, failover={"retries": 1}
        ) as home,
    ):
        home.gateway.egress._pool = None
        await cancel_at_every_step(home, stub, openai_wire, concerns, cancel, streams)


async def cancel_at_every_step(
    home: Any, stub: StubUpstream, wire: Wire, concerns: Concerns, way: Way, streams: bool
) -> None:
    """Call, and cancel one step of the loop later than the time before, until it comes too late three times."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS, "stream": streams}
    before = asyncio.all_tasks()
    whole, step = 0, 0
    while whole < 3:
        stub.script(*replies(wire, streams))
        stub.requests.clear()
        async with Client(home.port, body) as client:
            for _ in range(step):
                await asyncio.sleep(0)
            await way(client, concerns)
        assert await spun(lambda: all(task.done() for task in concerns.tasks)), step
        assert await spun(lambda: concerns.settled == concerns.given), f"a permit is lost at step {step}"
        assert await spun(lambda: not stub.open), f"a connection is left over from step {step}"
        assert await spun(lambda: asyncio.all_tasks() <= before), f"a task is left over from step {step}"
        assert len(concerns.outcomes) == len(concerns.tasks), f"the call of step {step} does not end, or ends twice"
        assert len(stub.requests) <= 2
        whole = whole + 1 if concerns.outcomes and concerns.outcomes[-1].status == "complete" else 0
        step += 1
        assert step < MOST_STEPS, "it never comes too late"
    ended = {outcome.status for outcome in concerns.outcomes}
    assert ended == {"complete", "failed", "partial"} if streams else {"complete", "failed"}
    assert step > 30, "there are many steps in a call"
