"""The turn after a decision that could not begin: it may be asked for again, and nothing is made twice."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from gatehook import Call, Limiter, Permit, RateLimited, Section, Tool, hookimpl
from gatehook.testing import Reply

Vendor = Any
Keys = Any

RULES = 'rules = [{ tool = "launch", verdict = "confirm" }]'


class Door:
    """A limiter that is open, shut, or has callers wait."""

    def __init__(self) -> None:
        self.state = "open"
        self.entered, self.left = asyncio.Event(), asyncio.Event()

    async def admit(self, call: Call) -> Permit | None:
        if self.state == "shut":
            raise RateLimited("not now", retry_after=1)
        if self.state == "waiting":
            self.entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        return None


class Launch:
    """Counts its runs."""

    name = "launch"
    description = "Launches something."
    parameters: Mapping[str, Any] = {"type": "object", "properties": {"what": {"type": "string"}}}

    def __init__(self) -> None:
        self.runs: list[Any] = []
        self.begun = asyncio.Event()

    async def run(self, call: Call, arguments: Mapping[str, Any]) -> str:
        self.runs.append(arguments)
        if arguments["what"] == "a rocket":
            self.begun.set()
            await asyncio.Event().wait()
        return f"launched {arguments['what']}"


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def launch() -> Launch:
    return Launch()


@pytest.fixture
def harbour(door: Door, launch: Launch, database_url: str, opened_house: Any) -> Callable[..., Any]:
    """Opens a gateway that has the tool, behind the door."""

    class Plugin:
        class Settings(Section): ...

        def __init__(self, settings: Settings) -> None: ...

        @hookimpl
        def register_tools(self) -> Iterable[Tool]:
            return [launch]

        @hookimpl
        def register_limiters(self) -> Iterable[Limiter]:
            return [door]

    def enter(*replies: Any, policy: str = RULES) -> Any:
        return opened_house(
            *replies, policy=policy, database=database_url, more="[plugins.harbour]\n", plugins={"harbour": Plugin}
        )

    return enter


def said(answer: Any, *, stream: bool) -> Any:
    assert answer.status == 200, answer.body
    return answer.text if stream else answer.json["choices"][0]["message"]["content"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_that_a_limit_refuses_may_be_asked_for_again(
    harbour: Any, vendor: Vendor, door: Door, launch: Launch, stream: bool
) -> None:
    own = vendor.call("launch", {"what": "the boat"})
    then = vendor.streamed(text="It is launched.") if stream else vendor.plain(text="It is launched.")
    async with harbour(vendor.plain(own), then) as at:
        session = await at.asked()
        door.state = "shut"
        refused = [await at.confirm(session, "call_1", stream=stream) for _ in range(2)]
        waiting = await at.pending()
        door.state = "open"
        answer = await at.confirm(session, "call_1", stream=stream)
        over = await at.confirm(session, "call_1", stream=stream)
        told = [action for _, action, _, _ in await at.audit() if action.startswith("tool.")]
    assert [one.status for one in refused] == [429, 429]
    assert waiting == []
    assert said(answer, stream=stream) == "It is launched."
    assert (over.status, over.error["code"]) == (409, "already_resolved")
    assert launch.runs == [{"what": "the boat"}]
    assert at.stub.requests[1].json["messages"][-1]["content"] == "launched the boat"
    assert told == ["tool.ask", "tool.confirm"]


async def test_a_refusal_s_turn_too_with_its_reason(harbour: Any, vendor: Vendor, door: Door, launch: Launch) -> None:
    async with harbour(vendor.plain(vendor.call("launch", {"what": "it"})), vendor.plain(text="Then not.")) as at:
        session = await at.asked()
        door.state = "shut"
        assert (await at.deny(session, reason="storm")).status == 429
        door.state = "open"
        answer = await at.deny(session, reason="storm")
    assert said(answer, stream=False) == "Then not."
    assert launch.runs == []
    assert at.stub.requests[1].json["messages"][-1]["content"].endswith("They said: storm")


async def test_a_turn_that_no_vendor_answers_may_be_asked_for_again(
    harbour: Any, vendor: Vendor, launch: Launch
) -> None:
    replies = (
        vendor.plain(vendor.call("launch", {"what": "it"})),
        Reply(b"away", status=500),
        vendor.plain(text="Done."),
    )
    async with harbour(*replies) as at:
        session = await at.asked()
        failed = await at.confirm(session, "call_1")
        answer = await at.confirm(session, "call_1")
    assert (failed.status, said(answer, stream=False), len(launch.runs)) == (502, "Done.", 1)


async def test_what_was_decided_stands(harbour: Any, vendor: Vendor, door: Door, launch: Launch, keys: Keys) -> None:
    """Another decision about it comes too late; an admin may go on, and somebody else does not see it."""
    async with harbour(vendor.plain(vendor.call("launch", {"what": "it"})), vendor.plain(text="Done.")) as at:
        session = await at.asked()
        door.state = "shut"
        assert (await at.confirm(session, "call_1")).status == 429
        door.state = "open"
        others = [
            await at.deny(session),
            await at.confirm(session, "call_1", arguments={"call_1": {"what": "that"}}),
            await at.confirm(session, "call_1", key=keys.bob),
        ]
        answer = await at.confirm(session, "call_1", key=keys.admin)
    assert [one.status for one in others] == [409, 409, 404]
    assert others[0].error["code"] == "already_resolved"
    assert (said(answer, stream=False), launch.runs) == ("Done.", [{"what": "it"}])


async def test_of_several_who_ask_at_the_same_time_one_gets_it(
    harbour: Any, vendor: Vendor, door: Door, launch: Launch
) -> None:
    async with harbour(vendor.plain(vendor.call("launch", {"what": "it"})), vendor.plain(text="Done.")) as at:
        session = await at.asked()
        door.state = "shut"
        assert (await at.confirm(session, "call_1")).status == 429
        door.state = "open"
        answers = await asyncio.gather(*(at.confirm(session, "call_1") for _ in range(5)))
    assert sorted(one.status for one in answers) == [200, 409, 409, 409, 409]
    assert (len(at.stub.requests), len(launch.runs)) == (2, 1)


async def test_it_outlives_a_restart_and_rules_that_deny_the_tool_by_now(
    harbour: Any, vendor: Vendor, door: Door, launch: Launch
) -> None:
    async with harbour(vendor.plain(vendor.call("launch", {"what": "it"}))) as at:
        session = await at.asked()
        door.state = "shut"
        assert (await at.confirm(session, "call_1")).status == 429
    door.state = "open"
    async with harbour(vendor.plain(text="Done."), policy=RULES.replace("confirm", "deny")) as at:
        answer = await at.confirm(session, "call_1")
    assert (said(answer, stream=False), len(launch.runs)) == ("Done.", 1)


async def test_who_leaves_while_a_limit_has_them_wait_may_come_again(
    harbour: Any, vendor: Vendor, door: Door, launch: Launch
) -> None:
    async with harbour(vendor.plain(vendor.call("launch", {"what": "it"})), vendor.plain(text="Done.")) as at:
        session = await at.asked()
        door.state = "waiting"
        async with asyncio.timeout(10):
            asking = asyncio.create_task(at.confirm(session, "call_1"))
            await door.entered.wait()
            asking.cancel()
            await door.left.wait()
        door.state = "open"
        async with asyncio.timeout(10):
            while (answer := await at.confirm(session, "call_1")).status == 409:  # until that is written
                assert answer.error["code"] == "already_resolved"
    assert (said(answer, stream=False), len(launch.runs)) == ("Done.", 1)


async def test_who_leaves_while_tools_run_may_come_again_and_nothing_is_run_twice(
    harbour: Any, vendor: Vendor, launch: Launch
) -> None:
    calls = vendor.call("launch", {"what": "it"}, id="a"), vendor.call("launch", {"what": "a rocket"}, id="b")
    async with harbour(vendor.plain(*calls), vendor.plain(text="Done.")) as at:
        session = await at.asked()
        async with asyncio.timeout(10):
            asking = asyncio.create_task(at.confirm(session, "a", "b"))
            await launch.begun.wait()
            asking.cancel()
            while (answer := await at.confirm(session, "b", "a")).status == 409:  # until that is written
                assert answer.error["code"] == "already_resolved"
    assert (said(answer, stream=False), len(launch.runs)) == ("Done.", 2)
    first, second = at.stub.requests[1].json["messages"][-2:]
    assert (first["tool_call_id"], first["content"]) == ("a", "launched it")
    assert second["tool_call_id"] == "b"
    assert "broken off" in second["content"]
