"""Who may: what `register_limiters` promises, end to end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from gatehook import Call, Outcome, RateLimited, Retry, Target, UpstreamError, Usage


async def test_hook_register_limiters_all_must_admit_and_are_settled_once_in_reverse(kit: Any) -> None:
    log: list[str] = []
    one, two, three = kit.Gatekeeper("a", log), kit.Gatekeeper("b", log, permits=False), kit.Gatekeeper("c", log)
    async with kit.client(**kit.limiters(one, two, three)) as ask:
        assert (await ask.chat()).status == 200
        await one.settled.wait()
    assert log == ["admit a m anonymous", "admit b m anonymous", "admit c m anonymous", "settle c", "settle a"]
    (outcome,) = one.outcomes
    assert (outcome.status, outcome.http_status, outcome.code) == ("complete", 200, "")
    assert outcome.usage == Usage(3, 2)
    assert outcome.duration > 0
    assert outcome.first_token is None


async def test_hook_register_limiters_a_refusal_is_429_with_retry_after_and_settles_those_before(kit: Any) -> None:
    log: list[str] = []
    refusing = kit.Gatekeeper("b", log, refuses=RateLimited("60 requests a minute", retry_after=1.01))
    one, vendor = kit.Gatekeeper("a", log), kit.Vendor()
    async with kit.client(vendor, **kit.limiters(one, refusing, kit.Gatekeeper("c", log))) as ask:
        answer = await ask.chat(stream=True)
        await one.settled.wait()
    assert (answer.status, answer.headers["Retry-After"]) == (429, "2")
    assert answer.error == {
        "message": "60 requests a minute",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert log == ["admit a m anonymous", "admit b m anonymous", "settle a"]
    (outcome,) = one.outcomes
    assert (outcome.status, outcome.http_status, outcome.code) == ("rejected", 429, "rate_limit_exceeded")
    assert outcome.usage is None
    assert vendor.attempts == []


@pytest.mark.parametrize("broken", [RuntimeError("boom"), ConnectionResetError("redis went away")])
async def test_hook_register_limiters_one_that_breaks_refuses_and_settles_those_before(
    kit: Any, broken: Exception
) -> None:
    one = kit.Gatekeeper("a", [])
    async with kit.client(**kit.limiters(one, kit.Gatekeeper("b", [], refuses=broken))) as ask:
        answer = await ask.chat()
        await one.settled.wait()
    assert answer.status == 500
    assert one.outcomes[0].status == "rejected"


@pytest.mark.parametrize("waits", [(), (0,), (1,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("fails", [(), (0,), (1, 2), (0, 1, 2)])
async def test_hook_register_limiters_may_be_plain_and_are_settled_once_in_reverse_all_the_same(
    kit: Any, waits: Sequence[int], fails: Sequence[int]
) -> None:
    log: list[str] = []
    keepers = [kit.PlainKeeper(name, log, fails=place in fails) for place, name in enumerate("abc")]
    for place in waits:
        keepers[place].waits = True
    async with kit.client(**kit.limiters(*keepers)) as ask:
        assert (await ask.chat()).status == 200
        await keepers[0].settled.wait()
    assert log == [*(f"admit {name} m anonymous" for name in "abc"), "settle c", "settle b", "settle a"]
    assert [[outcome.status for outcome in keeper.outcomes] for keeper in keepers] == [["complete"]] * 3


async def test_hook_register_limiters_plain_ones_are_settled_when_a_later_one_refuses(kit: Any) -> None:
    log: list[str] = []
    one, two = kit.PlainKeeper("a", log), kit.PlainKeeper("b", log, refuses=RateLimited("no"))
    async with kit.client(**kit.limiters(one, two)) as ask:
        assert (await ask.chat()).status == 429
    assert log == ["admit a m anonymous", "admit b m anonymous", "settle a"]
    assert [outcome.status for outcome in one.outcomes] == ["rejected"]


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_limiters_lines_are_on_every_answer(kit: Any, stream: bool) -> None:
    class Lines:
        def admit(self, call: Call) -> None:
            call.answer_lines += "X-RateLimit-Limit: 5\r\nX-RateLimit-Remaining: 4\r\n"
            call.answer_headers["X-Other"] = "more"

    async with kit.client(k=kit.specimen(register_limiters=[Lines()])) as ask:
        for answer in (await ask.chat(stream=stream), await ask.chat(model="unknown", stream=stream)):
            told = [answer.headers[name] for name in ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-Other")]
            assert told == ["5", "4", "more"]


async def test_hook_register_limiters_headers_are_on_every_answer(kit: Any) -> None:
    async with kit.client(**kit.limiters(kit.Gatekeeper("a", [], header="X-RateLimit-Limit"))) as ask:
        for answer in (await ask.chat(), await ask.chat(stream=True), await ask.chat(model="unknown")):
            assert answer.headers["X-RateLimit-Limit"] == "a"
    refusing = kit.Gatekeeper("a", [], header="X-RateLimit-Limit", refuses=RateLimited("no"))
    async with kit.client(**kit.limiters(refusing)) as ask:
        assert (await ask.chat()).headers["X-RateLimit-Limit"] == "a"


async def test_hook_register_limiters_a_permit_that_cannot_be_settled_harms_neither_the_call_nor_the_others(
    kit: Any,
) -> None:
    one, two = kit.Gatekeeper("a", []), kit.Gatekeeper("b", [], fails=True)
    async with kit.client(**kit.limiters(one, two)) as ask:
        assert (await ask.chat()).status == 200
        await one.settled.wait()
    assert len(two.outcomes) == 1


async def test_hook_register_limiters_are_settled_when_the_client_leaves_a_stream(kit: Any) -> None:
    vendor, one = kit.Vendor(kit.say("hel"), asyncio.Event(), kit.finish()), kit.Gatekeeper("a", [])
    async with kit.client(vendor, **kit.limiters(one)) as ask:
        await ask.leave(vendor, b"hel", stream=True)
        await one.settled.wait()
        await vendor.closed.wait()
    (outcome,) = one.outcomes
    assert (outcome.status, outcome.http_status, outcome.code) == ("partial", 499, "client_left")
    assert outcome.usage is not None
    assert (outcome.usage.completion_tokens, outcome.usage.estimated) == (1, True)
    assert outcome.first_token is not None


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_limiters_are_settled_when_the_client_leaves_before_any_answer(
    kit: Any, stream: bool
) -> None:
    vendor, one = kit.Vendor(asyncio.Event(), kit.say("late"), kit.finish()), kit.Gatekeeper("a", [])
    async with kit.client(vendor, **kit.limiters(one)) as ask:
        await ask.leave(vendor, stream=stream)
        await one.settled.wait()
    assert [(o.status, o.http_status, o.code) for o in one.outcomes] == [("failed", 499, "client_left")]


async def test_hook_register_limiters_a_slow_settlement_is_brought_to_its_end_though_the_client_left(kit: Any) -> None:
    vendor, one, two = kit.Vendor(kit.say("hel"), asyncio.Event()), kit.Gatekeeper("a", []), kit.Gatekeeper("b", [])
    two.settling = asyncio.Event()
    async with kit.client(vendor, **kit.limiters(one, two)) as ask:
        await ask.leave(vendor, b"hel", stream=True)
        await vendor.closed.wait()
        two.settling.set()
        await one.settled.wait()
    assert (len(one.outcomes), len(two.outcomes)) == (1, 1)


async def test_hook_register_limiters_are_settled_before_the_gateway_s_lifespans_end(kit: Any) -> None:
    log: list[str] = []
    one = kit.Gatekeeper("a", log, settling=asyncio.Event())
    vendor = kit.Vendor(kit.say("hel"), asyncio.Event())

    @contextlib.asynccontextmanager
    async def database() -> AsyncIterator[None]:
        yield
        log.append("closed")

    plugins = {"a": kit.specimen(register_limiters=[one], register_lifespans=[database])}
    async with kit.client(vendor, **plugins) as ask:
        await ask.leave(vendor, b"hel", stream=True)
        await vendor.closed.wait()
        assert one.settling is not None
        asyncio.get_running_loop().call_later(0.3, one.settling.set)
    assert log == ["admit a m anonymous", "settle a", "closed"]


class Doorkeeper:
    """A limiter that looks at deployments."""

    def __init__(self, *refused: str, never: str = "") -> None:
        self.refused = refused
        self.never = never
        self.log: list[str] = []

    async def admit(self, call: Call) -> None:
        self.log.append("admit")

    async def admit_attempt(self, call: Call, target: Target) -> "Slot":
        if target.key == self.never:
            raise RateLimited("too large", retry=Retry.NEXT, final=True)
        if target.key in self.refused:
            raise RateLimited(f"{target.key} is full", retry=Retry.NEXT, retry_after=7)
        self.log.append(f"take {target.key}")
        return Slot(self.log, target.key)


class AttemptsOnly:
    """A limiter that has nothing to say of calls, and so no `admit`."""

    name = "attempts"

    def __init__(self) -> None:
        self.log: list[str] = []

    def admit_attempt(self, call: Call, target: Target) -> "Slot":
        self.log.append(f"take {target.key}")
        return Slot(self.log, target.key)


async def test_a_limiter_may_look_at_attempts_alone(kit: Any) -> None:
    one = AttemptsOnly()
    async with kit.client(**kit.limiters(one)) as ask:
        assert (await ask.chat()).status == 200
    key = one.log[0].removeprefix("take ")
    assert one.log == [f"take {key}", f"settle {key} complete"]


class Slot:
    def __init__(self, log: list[str], key: str) -> None:
        self.log, self.key = log, key

    def settle(self, outcome: Outcome) -> None:
        self.log.append(f"settle {self.key} {outcome.status} {outcome.code}".rstrip())


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_limiters_may_send_an_attempt_on_to_the_next_deployment(kit: Any, stream: bool) -> None:
    keeper, vendor = Doorkeeper("one"), kit.Vendor()
    guide = kit.Guide(x=[kit.target("one"), kit.target("two")])
    plugins = {"k": kit.specimen(register_limiters=[keeper]), "r": kit.specimen(register_routers=[guide])}
    async with kit.client(vendor, **plugins) as ask:
        answer = await ask.chat(model="x", stream=stream)
    assert answer.headers["X-Gatehook-Deployment"] == "two"
    assert [attempt.target.key for attempt in vendor.attempts] == ["two"]
    assert keeper.log == ["admit", "take two", "settle two complete"]


@pytest.mark.parametrize(
    ("refused", "never", "message", "should_retry"),
    [
        (["one"], "", "one is full", None),
        (["one"], "two", "one is full", None),
        (["two"], "one", "two is full", None),
        ([], "one", "too large", "false"),
    ],
)
async def test_hook_register_limiters_a_client_is_told_not_to_repeat_what_no_deployment_will_ever_take(
    kit: Any, refused: list[str], never: str, message: str, should_retry: str | None
) -> None:
    keeper = Doorkeeper(*refused, never=never)
    guide = kit.Guide(x=[kit.target(key) for key in ("one", "two") if key in (*refused, never)])
    plugins = {"k": kit.specimen(register_limiters=[keeper]), "r": kit.specimen(register_routers=[guide])}
    async with kit.client(kit.Vendor(), **plugins) as ask:
        answer = await ask.chat(model="x")
    assert (answer.status, answer.error["message"]) == (429, message)
    assert answer.headers.get("X-Should-Retry") == should_retry


async def test_hook_register_limiters_when_every_deployment_is_full_nothing_was_tried(kit: Any) -> None:
    keeper, vendor, watch = Doorkeeper("one", "two"), kit.Vendor(), kit.Watching()
    guide = kit.Guide(x=[kit.target("one"), kit.target("two")])
    plugins = {"k": kit.specimen(register_limiters=[keeper]), "r": kit.specimen(register_routers=[guide])}
    async with kit.client(vendor, **plugins, w=kit.specimen(register_observers=[watch])) as ask:
        answer = await ask.chat(model="x")
    assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
    assert "X-Should-Retry" not in answer.headers
    assert answer.error["message"] == "one is full"
    assert "X-Gatehook-Deployment" not in answer.headers
    assert [outcome.status for outcome in watch.outcomes] == ["rejected"]
    assert vendor.attempts == []


async def test_hook_register_limiters_what_an_attempt_reserved_is_settled_when_it_fails(kit: Any) -> None:
    keeper, vendor = Doorkeeper("three"), kit.Vendor(UpstreamError("out of order", retry=Retry.NEXT))
    guide = kit.Guide(x=[kit.target("one"), kit.target("two"), kit.target("three")])
    plugins = {"k": kit.specimen(register_limiters=[keeper]), "r": kit.specimen(register_routers=[guide])}
    async with kit.client(vendor, **plugins) as ask:
        answer = await ask.chat(model="x")
    assert (answer.status, answer.error["message"]) == (502, "out of order")  # not that the last one was full
    assert keeper.log == [
        "admit",
        "take one",
        "settle one failed upstream_error",
        "take two",
        "settle two failed upstream_error",
    ]


async def test_hook_register_limiters_a_permit_that_never_waits_is_settled_without_a_task(kit: Any) -> None:
    tasks: list[object] = []

    class Immediate:
        async def admit(self, call: Call) -> "Immediate":
            tasks.append(asyncio.current_task())
            return self

        def settle(self, outcome: Outcome) -> None:
            tasks.append(asyncio.current_task())

    async with kit.client(k=kit.specimen(register_limiters=[Immediate()])) as ask:
        assert (await ask.chat()).status == 200
    assert len(tasks) == 2
    assert tasks[0] is tasks[1]
