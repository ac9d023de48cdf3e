"""Rounds of streams: to its reader it is one stream, and own calls are never seen."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI

from gatehook import Call, Chunk, Observer, ToolCall, Verdict
from gatehook.testing import Reply

CLIENT_TOOL = {"type": "function", "function": {"name": "mine", "parameters": {"type": "object"}}}
USAGE = {"stream_options": {"include_usage": True}}


def text(events: list[Any]) -> str:
    return "".join(delta.get("content") or "" for delta in deltas(events))


def deltas(events: list[Any]) -> list[Any]:
    return [choice["delta"] for event in events[:-1] for choice in event.get("choices", ())]


def reasons(events: list[Any]) -> list[Any]:
    found = [choice["finish_reason"] for event in events[:-1] for choice in event.get("choices", ())]
    return [reason for reason in found if reason]


def calls_search(kit: Any, *before: Any, **rest: Any) -> Reply:
    """A stream that calls `search`, in pieces."""
    reply: Reply = kit.streams(
        *before, kit.begins("search"), kit.more('{"q": '), kit.more('"tea"}'), reason="tool_calls", **rest
    )
    return reply


async def test_it_is_one_stream_with_one_id_one_role_one_end_and_the_usage_of_all_rounds(kit: Any) -> None:
    replies = [calls_search(kit, "Let me ", "see.", id="first"), kit.streams("He", "re.", id="second")]
    async with kit.asking(*replies, tools=[tool := kit.Noting()]) as ask:
        events = await ask.stream(**USAGE)
        await ask.watching.over.wait()
    assert text(events) == "Let me see.\n\nHere."
    assert {event["id"] for event in events[:-1]} == {"first"}
    assert [delta["role"] for delta in deltas(events) if "role" in delta] == ["assistant"]
    assert not any("tool_calls" in delta for delta in deltas(events))
    assert reasons(events) == ["stop"]
    assert events[-1] == "[DONE]"
    assert [event["usage"]["total_tokens"] for event in events[:-1] if event.get("usage")] == [30]
    assert [dict(run) for run in tool.runs] == [{"q": "tea"}]
    (outcome,) = ask.watching.outcomes
    assert (outcome.status, outcome.usage.total_tokens) == ("complete", 30)


async def test_a_vendor_that_tells_no_usage_of_any_round_is_counted_for_all_of_them(kit: Any) -> None:
    untold: dict[str, Any] = {"tells_usage": False}
    replies = [calls_search(kit, "Let me ", "see.", id="first", **untold), kit.streams("He", "re.", **untold)]
    async with kit.asking(*replies, tools=[kit.Noting()]) as ask:
        events = await ask.stream(**USAGE)
        await ask.watching.over.wait()
    assert events[-1] == "[DONE]"
    assert {event["id"] for event in events[:-1]} == {"first"}
    told = [event for event in events[:-1] if event.get("usage")]
    assert told == [events[-2]]
    assert told[0]["choices"] == []
    (outcome,) = ask.watching.outcomes
    assert told[0]["usage"] == outcome.usage.as_openai() | {"estimated": True}


async def test_the_model_is_told_what_it_said_and_called(kit: Any) -> None:
    thinking = {"reasoning_content": "hm"}, {"reasoning_content": "m", "thinking_blocks": [{"signature": "a"}]}
    more = {"thinking_blocks": [{"signature": "b", "index": 1}]}
    replies = [calls_search(kit, *thinking, more, "Let ", "me."), kit.streams("ok")]
    async with kit.asking(*replies, tools=[kit.Noting()]) as ask:
        await ask.stream()
    _, assistant, result = ask.sent(1)["messages"]
    function = {"name": "search", "arguments": '{"q": "tea"}'}
    assert assistant == {
        "role": "assistant",
        "content": "Let me.",
        "reasoning_content": "hmm",
        "thinking_blocks": [{"signature": "a"}, {"signature": "b"}],
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }
    assert result == {"role": "tool", "tool_call_id": "call_1", "content": "found"}


async def test_the_numbers_of_signed_thoughts_go_on_over_all_rounds(kit: Any) -> None:
    def signs(*signatures: str) -> list[Any]:
        return [{"thinking_blocks": [{"signature": one, "index": place}]} for place, one in enumerate(signatures)]

    replies = [calls_search(kit, *signs("a", "b"), "x"), calls_search(kit, *signs("c")), kit.streams(*signs("d", "e"))]
    async with kit.asking(*replies, tools=[kit.Noting()]) as ask:
        told = [block for delta in deltas(await ask.stream()) for block in delta.get("thinking_blocks", ())]
    assert told == [{"signature": one, "index": place} for place, one in enumerate("abcde")]


async def test_a_client_that_did_not_ask_for_usage_gets_none(kit: Any) -> None:
    async with kit.asking(calls_search(kit), kit.streams("ok"), tools=[kit.Noting()]) as ask:
        events = await ask.stream()
    assert not any(event.get("usage") for event in events[:-1])
    assert deltas(events)[0] == {"role": "assistant"}
    assert text(events) == "ok"


async def test_without_a_call_a_stream_s_bytes_pass_as_they_are(kit: Any) -> None:
    reply = kit.streams("Say ", '"tool_calls', '\\"', "!")
    bodies = []
    for tools in ([], [kit.Noting()]):
        async with kit.asking(reply, tools=tools) as ask, ask.post(stream=True, **USAGE) as answer:
            bodies.append(await answer.read())
    assert bodies[0] == bodies[1]


async def test_text_passes_before_the_tool_is_run(kit: Any) -> None:
    may_end = asyncio.Event()

    async def waits(arguments: Any) -> str:
        await may_end.wait()
        return "found"

    replies = [calls_search(kit, "Let me see."), kit.streams("Here.")]
    async with kit.asking(*replies, tools=[kit.Noting(does=waits)]) as ask, ask.post(stream=True) as answer:
        begun = b""
        while b"see." not in begun:
            begun += await answer.content.readany()
        assert b"tool_calls" not in begun
        may_end.set()
        assert b"Here." in await answer.read()


async def test_a_client_hears_that_it_lives_while_a_tool_is_run(kit: Any) -> None:
    may_end = asyncio.Event()

    async def waits(arguments: Any) -> str:
        await may_end.wait()
        return "found"

    replies = [calls_search(kit), kit.streams("Here.")]
    settings = "[server]\nport = 0\nheartbeat = 0.05\n[failover]\nstall_timeout = 0.2\nretries = 0\n"
    tools = [kit.Noting(does=waits)]
    async with kit.asking(*replies, tools=tools, settings=settings) as ask, ask.post(stream=True) as answer:
        heard = b""
        while heard.count(b": keep-alive") < 5:  # longer than a vendor may be silent
            heard += await answer.content.readany()
        may_end.set()
        assert b"Here." in await answer.read()


@pytest.mark.parametrize("leaves", ["in a tool", "in the next round"])
async def test_the_client_s_leaving_stops_a_tool_and_the_next_round(kit: Any, leaves: str) -> None:
    async def waits(arguments: Any) -> str:
        await asyncio.Event().wait()
        return ""

    tool = kit.Noting(does=waits if leaves == "in a tool" else "found")
    replies = [calls_search(kit, "Let"), kit.streams("Here", end="silence")]
    async with kit.asking(*replies, tools=[tool]) as ask:
        async with ask.post(stream=True) as answer:
            heard = b""
            while (b"Let" if leaves == "in a tool" else b"Here") not in heard:
                heard += await answer.content.readany()
            await tool.started.wait()
        await ask.watching.over.wait()
        if leaves == "in a tool":
            await tool.cancelled.wait()
        else:
            await ask.stub.closed_early.wait()
    (outcome,) = ask.watching.outcomes
    assert (outcome.status, outcome.code) == ("partial", "client_left")
    assert outcome.usage.total_tokens >= 15


async def test_leaving_a_plain_answer_stops_its_tool(kit: Any) -> None:
    async def waits(arguments: Any) -> str:
        await asyncio.Event().wait()
        return ""

    tool = kit.Noting(does=waits)
    async with kit.asking(kit.calls("search"), tools=[tool]) as ask:
        asked = asyncio.create_task(ask.chat())
        await tool.started.wait()
        asked.cancel()
        await asyncio.wait([asked])
        await tool.cancelled.wait()
        await ask.watching.over.wait()
    assert ask.watching.outcomes[0].code == "client_left"


async def test_of_a_mixed_stream_the_client_gets_its_calls_numbered_anew(kit: Any) -> None:
    reply = kit.streams(
        "Both.",
        kit.begins("search", 0), kit.more("{}", 0), kit.begins("mine", 1), kit.more('{"a"', 1), kit.more(":1}", 1),
        reason="tool_calls",
    )  # fmt: skip
    async with kit.asking(reply, tools=[tool := kit.Noting()]) as ask:
        events = await ask.stream(tools=[CLIENT_TOOL], **USAGE)
    (call,) = [one for delta in deltas(events) for one in delta.get("tool_calls", ())]
    assert call == {
        "index": 0,
        "id": "call_2",
        "type": "function",
        "function": {"name": "mine", "arguments": '{"a":1}'},
    }
    assert (text(events), reasons(events)) == ("Both.", ["tool_calls"])
    assert [event["usage"]["total_tokens"] for event in events[:-1] if event.get("usage")] == [15]
    assert tool.runs == []


async def test_the_client_s_calls_of_a_later_round_reach_it(kit: Any) -> None:
    replies = [calls_search(kit, id="first"), kit.streams(kit.begins("mine", 0, "{}"), reason="tool_calls")]
    async with kit.asking(*replies, tools=[kit.Noting()]) as ask:
        events = await ask.stream(tools=[CLIENT_TOOL])
    (call,) = [one for delta in deltas(events) for one in delta.get("tool_calls", ())]
    assert (call["id"], call["function"]["name"]) == ("call_1", "mine")
    assert reasons(events) == ["tool_calls"]
    assert {event["id"] for event in events[:-1]} == {"first"}


async def test_a_call_that_was_cut_is_neither_shown_nor_run(kit: Any) -> None:
    reply = kit.streams("Let", kit.begins("search"), kit.more('{"q": "te'), reason="length")
    async with kit.asking(reply, tools=[tool := kit.Noting()]) as ask:
        events = await ask.stream()
    assert (text(events), reasons(events), tool.runs) == ("Let", ["length"], [])
    assert b"search" not in json.dumps(events).encode()


async def test_a_second_round_that_breaks_is_an_error_event_and_no_clean_end(kit: Any) -> None:
    replies = [calls_search(kit, "Let"), Reply(b"{}", status=500)]
    async with kit.asking(*replies, tools=[kit.Noting()]) as ask:
        events = await ask.stream()
        await ask.watching.over.wait()
    assert events[-1]["error"]["code"] == "upstream_error"
    (outcome,) = ask.watching.outcomes
    assert (outcome.status, outcome.usage.total_tokens) == ("partial", 15)


async def test_a_loop_that_never_ends_is_ended_in_the_stream(kit: Any) -> None:
    async with kit.asking(calls_search(kit), tools=[kit.Noting()], settings="[tools]\nmax_rounds = 2\n") as ask:
        events = await ask.stream()
    assert events[-1]["error"]["code"] == "too_many_tool_rounds"


async def test_a_streamed_answer_that_tools_were_run_for_is_not_stored(kit: Any) -> None:
    replies = [calls_search(kit), kit.streams("one"), kit.streams("two")]
    async with kit.asking(*replies, tools=[kit.Noting()], settings="[plugins.cache]\n") as ask:
        said = [text(await ask.stream()) for _ in range(3)]
    assert said == ["one", "two", "two"]


async def test_an_own_call_that_is_denied_ends_the_stream_before_it_is_run(kit: Any) -> None:
    class Deny:
        async def offer(self, call: Call, tools: Any) -> Any:
            return tools

        async def judge(self, call: Call, tool_call: ToolCall) -> Verdict:
            return Verdict("deny", "not today")

    policy = kit.plugin(register_tool_policies=[Deny()])
    async with kit.asking(calls_search(kit, "Let"), tools=[tool := kit.Noting()], policy=policy) as ask:
        events = await ask.stream()
    assert text([*events[:-1], None]) == "Let"
    assert events[-1]["error"]["code"] == "tool_call_denied"
    assert tool.runs == []


async def test_who_watches_every_chunk_sees_what_the_client_sees(kit: Any) -> None:
    seen: list[Chunk] = []

    class Seeing(Observer):
        def chunk(self, call: Call, chunk: Chunk) -> None:
            seen.append(chunk)

    watch = kit.plugin(register_observers=[Seeing()])
    replies = [calls_search(kit, "Let"), kit.streams("Here.")]
    async with kit.asking(*replies, tools=[kit.Noting()], seeing=watch) as ask:
        events = await ask.stream(**USAGE)
    assert [chunk.data for chunk in seen] == events[:-1]
    assert [chunk.usage.total_tokens for chunk in seen if chunk.usage] == [30]


@pytest.mark.parametrize("stream", [False, True])
async def test_openai_s_own_client_sees_a_plain_conversation(kit: Any, stream: bool) -> None:
    script = (
        '{ tool_calls = [{ name = "search", arguments = { q = "a" } }, { name = "search", arguments = { q = "b" } }] }'
    )
    model = f'[[models]]\nname = "mock"\nvendor = "mock"\noptions = {{ script = [{script}, {{ text = "Done." }}] }}\n'
    settings = f"[plugins.vendor_mock]\n{model}"
    async with (
        kit.asking(kit.answers("unused"), tools=[tool := kit.Noting()], settings=settings) as ask,
        AsyncOpenAI(base_url=f"{ask.served.url}/v1", api_key="none") as client,
    ):
        messages: Any = [{"role": "user", "content": "hi"}]
        if stream:
            chunks = await client.chat.completions.create(model="mock", messages=messages, stream=True)
            said = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])
        else:
            answer = await client.chat.completions.create(model="mock", messages=messages)
            said = answer.choices[0].message.content or ""
            assert answer.choices[0].message.tool_calls is None
    assert said == "Done."
    assert [run["q"] for run in tool.runs] == ["a", "b"]


PIECE = st.one_of(
    st.tuples(st.just("text"), st.text('ab "\\é', min_size=1, max_size=4)),
    st.tuples(st.just("call"), st.sampled_from(["search", "mine"])),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.lists(PIECE, max_size=5), second=st.lists(st.text("ab ", min_size=1, max_size=3), max_size=3))
async def test_whatever_a_round_says_and_calls_text_is_whole_and_own_calls_are_unseen(
    kit: Any, first: list[tuple[str, str]], second: list[str]
) -> None:
    named = [name for kind, name in first if kind == "call"]
    parts, count = [], 0
    for kind, value in first:
        if kind == "text":
            parts.append(value)
        else:
            parts += [kit.begins(value, count), kit.more('{"q": ', count), kit.more('"tea"}', count)]
            count += 1
    replies = [kit.streams(*parts, reason="tool_calls" if named else "stop"), kit.streams(*second)]
    async with kit.asking(*replies, tools=[tool := kit.Noting()]) as ask:
        events = await ask.stream(tools=[CLIENT_TOOL])
    goes_on = bool(named) and "mine" not in named
    said = "".join(value for kind, value in first if kind == "text")
    then = "".join(second) if goes_on else ""
    assert text(events) == (said + "\n\n" + then if said and then else said + then)
    shown = [one["function"]["name"] for delta in deltas(events) for one in delta.get("tool_calls", ())]
    assert shown == [name for name in named if name == "mine"]
    assert len(reasons(events)) == 1
    assert len(tool.runs) == (len(named) if goes_on else 0)
