"""The way out of streams: any cut of the same calls is judged alike, and what is no call is not held back."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehook import (
    Attempt,
    Call,
    Chunk,
    Completion,
    Document,
    Frames,
    Operation,
    Parameter,
    PermissionDenied,
    Question,
    Section,
    StreamBuilder,
    ToolCall,
    Verdict,
    hookimpl,
)
from gatehook.sse import events, frame
from gatehook.testing import Reply, serving
from gatehook.tools.policies import ToolPolicies

House = Any
OpenHouse = Any
Vendor = Any

KINDS = ["allow", "confirm", "retry", "deny"]


class Policy:
    """Judges by the word that the arguments hold, and notes what it was asked."""

    def __init__(self) -> None:
        self.judged: list[tuple[str, str]] = []
        self.asked: list[Question] = []

    async def offer(self, call: Call, tools: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        return tools

    async def judge(self, call: Call, tool_call: ToolCall) -> Verdict:
        self.judged.append((tool_call.name, tool_call.arguments))
        return Verdict(json.loads(tool_call.arguments)["kind"], "because")

    async def ask(self, call: Call, question: Question) -> Mapping[str, Any]:
        self.asked.append(question)
        return {"session_id": "s"}


def asking() -> Call:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function"}]}
    return Call("chat", "test", {}, model="m", stream=True, body=Document(body))


CALLS = st.lists(st.tuples(st.sampled_from(["f", "g"]), st.sampled_from(KINDS)), min_size=1, max_size=3)


def pieces(data: st.DataObject, text: str) -> list[str]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def streamed(data: st.DataObject, call: Call, said: str, calls: Sequence[tuple[str, str]]) -> list[Chunk]:
    """The same answer, its texts cut anywhere; the end may come with the last piece."""
    builder = StreamBuilder(call)
    chunks = [builder.open()]
    chunks += [builder.text(piece) for piece in pieces(data, said)]
    for place, (name, kind) in enumerate(calls):
        first, *rest = pieces(data, json.dumps({"kind": kind, "text": "“quoted” \\ "}))
        chunks.append(builder.tool_call(f"call_{place}", name, first))
        chunks += [builder.tool_arguments(piece) for piece in rest]
    end = builder.finish("stop")
    if data.draw(st.booleans()):
        last = chunks.pop().data
        last["choices"][0]["finish_reason"] = "tool_calls"
        end = Chunk(last, content=True, finished=True)
    return [*chunks, end]


def batches(data: st.DataObject, chunks: Sequence[Chunk]) -> list[Sequence[Chunk]]:
    """The chunks in batches; some of them frames, as from vendors that speak OpenAI's dialect."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(chunks)))))
    parts = [chunks[a:b] for a, b in zip([0, *cuts], [*cuts, len(chunks)], strict=True)]
    return [as_frames(one) if data.draw(st.booleans()) else one for one in parts]


def as_frames(chunks: Sequence[Chunk]) -> Frames:
    def split(raw: bytes) -> list[Chunk]:
        found = [Chunk(raw=one) for _, one in events(raw)]
        for chunk in found:
            chunk.finished = any(choice["finish_reason"] for choice in chunk.data["choices"])
        return found

    return Frames(b"".join(frame(chunk.raw) for chunk in chunks), split)


@given(st.data(), st.text("ab ", max_size=6), CALLS)
@settings(max_examples=200, deadline=None)
def test_any_cut_of_the_same_calls_is_judged_alike(data: Any, said: str, calls: list[tuple[str, str]]) -> None:
    asyncio.run(judged_alike(data, said, calls))


async def judged_alike(data: Any, said: str, calls: list[tuple[str, str]]) -> None:
    policy, call = Policy(), asking()
    tools = ToolPolicies([policy])
    gate, out = tools.gate(call), list[Chunk]()
    assert gate is not None
    strictest = max((kind for _, kind in calls), key=KINDS.index)
    chunks = streamed(data, call, said, calls)
    try:
        for batch in batches(data, chunks):
            out += await gate.passed(batch)
        out += await gate.rest()
    except PermissionDenied:
        assert strictest == "deny"
    assert [(name, json.loads(text)["kind"]) for name, text in policy.judged] == calls
    shown = [choice for chunk in out for choice in chunk.data["choices"]]
    text = "".join(one["delta"].get("content") or "" for one in shown)
    assert said.startswith(text) if strictest == "deny" else text == said
    if strictest != "allow":
        assert not any("tool_calls" in one["delta"] for one in shown)
    if strictest == "confirm":
        (question,) = policy.asked
        assert (question.message["content"] or "") == said
        assert [one["function"]["name"] for one in question.message["tool_calls"]] == [name for name, _ in calls]
        assert [one["finish_reason"] for one in shown if one["finish_reason"]] == ["stop"]
        assert out[-1].data["session_id"] == "s"
    assert gate.wants_another_round == (strictest == "retry")
    assert call.asked == (strictest == "confirm")
    whole = await ToolPolicies([Policy()]).judge(asking(), as_whole(said, calls)) if strictest != "deny" else None
    assert (whole is None) == (strictest in ("retry", "deny"))


def as_whole(said: str, calls: Sequence[tuple[str, str]]) -> Completion:
    listed = [
        {"id": str(place), "type": "function", "function": {"name": name, "arguments": json.dumps({"kind": kind})}}
        for place, (name, kind) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": said, "tool_calls": listed}
    return Completion({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})


class Stepping:
    """A vendor that says one word after another, each when it is told to."""

    name = "stepping"
    operations: frozenset[Operation] = frozenset({"chat"})
    parameters: Mapping[Operation, Mapping[str, Parameter]] = {}

    def __init__(self) -> None:
        self.words: asyncio.Queue[str] = asyncio.Queue()

    async def complete(self, attempt: Attempt) -> Completion:
        raise NotImplementedError

    async def stream(self, attempt: Attempt) -> AsyncGenerator[Sequence[Chunk], None]:
        builder = StreamBuilder(attempt.call)
        while word := await self.words.get():
            chunk = builder.text(word)
            yield Frames(frame(chunk.raw), lambda raw: [Chunk(raw=one) for _, one in events(raw)], contents=1)
        yield [builder.finish("stop")]


VENDOR = Stepping()


class SteppingPlugin:
    class Settings(Section): ...

    def __init__(self, settings: Settings) -> None: ...

    @hookimpl
    def register_vendors(self) -> Iterable[Any]:
        VENDOR.words = asyncio.Queue()
        return [VENDOR]


STEPS = """
[plugins.openai_api]
[plugins.route_models]
[plugins.stepping]
[[models]]
name = "m"
vendor = "stepping"
"""


@pytest.mark.parametrize("policy", ["", "[plugins.tool_policy]\n"])
async def test_each_word_arrives_before_the_next_is_said(policy: str) -> None:
    """With the policy on and off alike: a word that were held back would never arrive here."""
    async with serving(policy + STEPS, plugins={"stepping": SteppingPlugin}) as at, aiohttp.ClientSession() as http:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        body["tools"] = [{"type": "function", "function": {"name": "f"}}]
        VENDOR.words.put_nowait("one ")
        async with http.post(f"{at.url}/v1/chat/completions", json=body) as response:
            for word in ("one ", "two ", "three "):
                event = json.loads((await response.content.readuntil(b"\n\n")).removeprefix(b"data: "))
                assert event["choices"][0]["delta"]["content"] == word
                VENDOR.words.put_nowait({"one ": "two ", "two ": "three ", "three ": ""}[word])
            assert (await response.content.read()).endswith(b"data: [DONE]\n\n")


async def test_frames_without_calls_stay_one_piece() -> None:
    """They are not even read: what goes out is what came in."""

    def never(raw: bytes) -> Sequence[Chunk]:
        raise AssertionError("taken apart")

    gate = ToolPolicies([Policy()]).gate(asking())
    assert gate is not None
    frames = Frames(b'data: {"choices":[{"index":0,"delta":{"content":"a word"}}]}\n\n', never, contents=1)
    assert await gate.passed(frames) is frames


async def test_a_call_whose_field_is_written_with_escapes_is_seen() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"kind": "deny"}'}}
    choice = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}
    raw = json.dumps({"choices": [choice]}).replace("tool_calls", "\\u0074ool_calls").encode()
    gate = ToolPolicies([Policy()]).gate(asking())
    assert gate is not None
    with pytest.raises(PermissionDenied):
        await gate.passed(Frames(frame(raw), lambda data: [Chunk(raw=one, finished=True) for _, one in events(data)]))


async def test_nothing_of_a_second_turn_follows_a_question() -> None:
    policy, call = Policy(), asking()
    gate = ToolPolicies([policy]).gate(call)
    assert gate is not None
    builder = StreamBuilder(call)
    confirm = json.dumps({"kind": "confirm"})
    await gate.passed([builder.tool_call("a", "f", confirm), builder.finish("tool_calls")])
    assert call.asked
    more = [builder.tool_call("b", "f", confirm), builder.text("more"), builder.finish("tool_calls")]
    assert await gate.passed(more) == []
    assert len(policy.asked) == 1


async def test_a_call_is_not_whole_where_finish_reasons_are_empty_until_the_end(
    house: OpenHouse, vendor: Vendor
) -> None:
    reply = vendor.streamed(vendor.call("get_weather"), vendor.call("get_weather", id="call_2"))
    body = [piece.replace(b'"finish_reason": null', b'"finish_reason": ""') for piece in reply.body]
    async with house(Reply.of_events(body)) as at:
        answer = await at.chat(stream=True)
    calls = [call for one in answer.events[:-1] for call in one["choices"][0]["delta"].get("tool_calls", ())]
    assert [call["id"] for call in calls if "id" in call] == ["call_1", "call_2"]
    assert answer.events[-1] == "[DONE]"
