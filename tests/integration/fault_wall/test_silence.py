"""Silence has two sides: what a vendor may keep, and what a client has to bear."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gatehook import Call, Section, ToolCall, Verdict, hookimpl
from gatehook.testing import Reply

Dialect = Any
OpenWall = Callable[..., Any]

COMMENT = b": keep-alive\n\n"
CALL = ("call_1", "weather", '{"city": "' + "O" * 20 + '"}')
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def pings(dialect: Dialect, number: int) -> list[bytes]:
    """How this vendor says that it still thinks."""
    one = b'event: ping\ndata: {"type": "ping"}\n\n' if dialect.wire.name == "anthropic" else b": thinking\n\n"
    return [one] * number


def with_pings(dialect: Dialect, number: int) -> Reply:
    """A stream that thinks between its two words."""
    whole = list(dialect.wire.stream(["one", "two"]).body)
    place = next(number for number, piece in enumerate(whole) if b"two" in piece)
    before, after = b"".join(whole[:place]), b"".join(whole[place:])
    return Reply.of_events([before, *pings(dialect, number), after], pause=0.05)


async def test_a_vendor_that_only_pings_is_no_reason_to_leave_the_client_in_silence(
    wall: OpenWall, dialect: Dialect
) -> None:
    async with wall(dialect.wire, [with_pings(dialect, 20)], streams=True, server={"heartbeat": 0.1}) as opened:
        answer = await opened.ask()
        assert (answer.text, answer.cut) == ("onetwo", False)
    assert answer.body.count(COMMENT) >= 2
    assert answer.body.index(b"one") < answer.body.index(COMMENT) < answer.body.rindex(COMMENT)
    assert answer.body.rindex(COMMENT) < answer.body.index(b"two")


async def test_pings_are_signs_of_life_until_the_time_of_the_attempt_is_over(wall: OpenWall, dialect: Dialect) -> None:
    endless = Reply.of_events([b"".join(dialect.begun().body), *pings(dialect, 1000)], pause=0.02)
    async with wall(dialect.wire, [endless], streams=True, patience=0.7, attempt=1.5) as opened:
        begun = asyncio.get_running_loop().time()
        answer = await opened.ask()
        lasted = asyncio.get_running_loop().time() - begun
        assert (answer.cut, answer.error["code"]) == (True, "upstream_timeout")
    assert 1.5 <= lasted < 10, "not the silence of the stall limit, but the time of the whole attempt"


async def test_who_hears_something_all_the_time_hears_no_heartbeat(wall: OpenWall, dialect: Dialect) -> None:
    steady = dialect.wire.stream([f"{number} " for number in range(14)], pause=0.1)
    async with wall(dialect.wire, [steady], streams=True, server={"heartbeat": 1}) as opened:
        answer = await opened.ask()
        assert answer.text.split() == [str(number) for number in range(14)]
    assert COMMENT not in answer.body


class Thoughtful:
    """A tool policy that takes its time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def offer(self, call: Call, tools: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        return tools

    async def judge(self, call: Call, tool_call: ToolCall) -> Verdict:
        await asyncio.sleep(self._seconds)
        return Verdict("allow")


def policy(seconds: float) -> type:
    class Plugin:
        Settings = Section

        def __init__(self, settings: Section) -> None:
            pass

        @hookimpl
        def register_tool_policies(self) -> list[Thoughtful]:
            return [Thoughtful(seconds)]

    return Plugin


async def test_a_tool_call_that_is_held_back_is_silence_to_the_client(wall: OpenWall, dialect: Dialect) -> None:
    whole = list(dialect.wire.calls_stream([CALL], "Let me look.").body)
    spoken = next(number for number, piece in enumerate(whole) if b"Let me look." in piece) + 1
    held = [one for piece in whole[spoken:] for one in (*pings(dialect, 3), piece)]
    slow = Reply.of_events([b"".join(whole[:spoken]), *held], pause=0.05)
    async with wall(
        dialect.wire, [slow], streams=True, server={"heartbeat": 0.1}, plugins={"policy": policy(0)}, plugin_policy={}
    ) as opened:
        answer = await opened.ask(tools=TOOLS)
        assert (answer.finish, answer.cut) == ("tool_calls", False)
    assert COMMENT in answer.body
    assert answer.body.index(COMMENT) < answer.body.index(b'"weather"')


async def test_a_tool_policy_that_thinks_is_silence_to_the_client_and_not_the_vendor_s(
    wall: OpenWall, dialect: Dialect
) -> None:
    async with wall(
        dialect.wire,
        [dialect.wire.calls_stream([CALL])],
        streams=True,
        server={"heartbeat": 0.1},
        patience=0.7,
        plugins={"policy": policy(1.5)},
        plugin_policy={},
    ) as opened:
        answer = await opened.ask(tools=TOOLS)
        assert (answer.finish, answer.cut) == ("tool_calls", False)
        opened.first.script(dialect.wire.stream(["fine"]))
        again = await opened.ask()  # on the same connection: nothing came after the end of the first
        assert again.text == "fine"
    assert answer.body.count(COMMENT) >= 2
    assert answer.body.endswith(b"data: [DONE]\n\n")
