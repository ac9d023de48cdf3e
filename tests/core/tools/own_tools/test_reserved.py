"""What limiters are told of a request that has changed since they admitted it: by tools, transforms and policies."""

from typing import Any

import pytest

from gatehook import Call, Document, Entry, RateLimited, estimate


class Watchful:
    """A limiter that notes what it is asked about, and how large that is."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.asked: list[tuple[str, int]] = []
        self._refuses = refuses

    async def admit(self, call: Call) -> None:
        self.asked.append(("admit", estimate(call, ()).prompt_most))

    async def admit_change(self, call: Call) -> None:
        self.asked.append(("change", estimate(call, ()).prompt_most))
        if self._refuses:
            raise RateLimited("it has become too large")


class Adding:
    """A transform that adds words of the system, if there are any."""

    def __init__(self, words: str) -> None:
        self._words = words

    async def transform(self, call: Call) -> None:
        if self._words:
            first = {"role": "system", "content": self._words}
            call.body = Document({**call.payload, "messages": [first, *call.payload["messages"]]})


class Hiding:
    """A policy that shows no tools."""

    async def offer(self, call: Call, tools: Any) -> Any:
        return []

    async def judge(self, call: Call, tool_call: Any) -> Any:
        raise AssertionError


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_limiters_what_is_added_to_a_request_is_asked_about_before_its_first_round(
    kit: Any, stream: bool
) -> None:
    limiter, tool = Watchful(), kit.Noting()
    reply = kit.streams("ok") if stream else kit.answers("ok")
    plugins = {
        "limiter": kit.plugin(register_limiters=[limiter]),
        "adding": kit.plugin(register_transforms=[Adding("x" * 5_000)]),
    }
    async with kit.asking(reply, tools=[tool], **plugins) as ask:
        await (ask.stream() if stream else ask.chat())
        sent = ask.stub.requests[0].body
    (first, before), (then, after) = limiter.asked
    assert (first, then) == ("admit", "change")
    assert after > before + 5_000
    assert after >= len(sent)


async def test_what_is_refused_then_is_not_sent(kit: Any) -> None:
    limiter = Watchful(refuses=True)
    plugin = kit.plugin(register_limiters=[limiter])
    async with kit.asking(kit.answers("ok"), tools=[kit.Noting()], limiter=plugin) as ask:
        error = (await ask.chat(status=429))["error"]
        await ask.watching.over.wait()
        assert ask.stub.requests == []
    assert error["message"] == "it has become too large"
    assert [outcome.status for outcome in ask.watching.outcomes] == ["rejected"]


async def test_what_is_left_out_counts_too_and_what_stays_the_same_is_not_asked_about(kit: Any) -> None:
    mine = {"type": "function", "function": {"name": "mine", "description": "x" * 900, "parameters": {}}}
    limiter = Watchful()
    plugins = {
        "limiter": kit.plugin(register_limiters=[limiter]),
        "hiding": kit.plugin(register_tool_policies=[Hiding()]),
        "adding": kit.plugin(register_transforms=[Adding("")]),
    }
    async with kit.asking(kit.answers("ok"), kit.answers("ok"), **plugins) as ask:
        await ask.chat(tools=[mine])
        await ask.chat()
    (_, before), (changed, after), (_, _) = limiter.asked
    assert (changed, before - after > 900) == ("change", True)


@pytest.mark.parametrize("stream", [False, True])
async def test_limiters_hear_what_the_rounds_took_that_are_over(kit: Any, stream: bool) -> None:
    class Limiter:
        def __init__(self) -> None:
            self.spent: list[Any] = []

        async def admit(self, call: Call) -> None:
            self.spent.append(call.spent)

        async def admit_round(self, call: Call) -> None:
            assert call.spent is not None
            usage, cost = call.spent
            self.spent.append((usage and usage.total_tokens, cost and cost.total))

    limiter, priced = Limiter(), "pricing = { input_per_1k_tokens = 1, output_per_1k_tokens = 2 }"
    plugin = kit.plugin(register_limiters=[limiter])
    replies = [kit.calls("search"), kit.calls("search"), kit.answers("ok")]
    if stream:
        called = kit.streams(kit.begins("search", arguments='{"q": "tea"}'), reason="tool_calls")
        replies = [called, called, kit.streams("ok")]
    async with kit.asking(*replies, tools=[kit.Noting()], options=priced, limiter=plugin) as ask:
        await (ask.stream() if stream else ask.chat())
    assert limiter.spent == [None, (15, 20_000_000), (30, 40_000_000)]


async def test_an_answer_from_a_cache_is_not_asked_about(kit: Any) -> None:
    class Cache:
        def __init__(self) -> None:
            self.kept: dict[bytes, Entry] = {}

        async def get(self, key: bytes, call: Call) -> Entry | None:
            return self.kept.get(key)

        async def put(self, key: bytes, call: Call, entry: Entry) -> None:
            self.kept[key] = entry

    limiter = Watchful()
    plugins = {
        "limiter": kit.plugin(register_limiters=[limiter]),
        "adding": kit.plugin(register_transforms=[Adding("words")]),
        "caching": kit.plugin(register_caches=[Cache()]),
    }
    async with kit.asking(kit.answers("ok"), **plugins) as ask:
        await ask.chat()
        await ask.chat()
        assert len(ask.stub.requests) == 1
    assert [kind for kind, _ in limiter.asked] == ["admit", "change", "admit"]
