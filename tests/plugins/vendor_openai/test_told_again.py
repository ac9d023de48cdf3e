"""Streams of servers that tell again with every event, or somewhere else, what is told once and in its place."""

from collections.abc import Callable
from typing import Any

import pytest

from gatehook.testing import splits

Ask = Callable[..., Any]
Make = Callable[..., Any]

ASKED = {"model": "public", "messages": [{"role": "user", "content": "x"}], "stream": True,
         "stream_options": {"include_usage": True}}  # fmt: skip
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "cost": 0.0015,
}


async def test_a_role_in_every_event_is_told_once(stream: Ask, event: Make, sse: Make) -> None:
    """The official SDK joins them to a role that no API takes back: "assistantassistant"."""
    said = [event({"role": "assistant", "content": text}) for text in ("A", "B", "C", "D")]
    for pieces in splits(sse(*said, event({"role": "assistant"}, "stop"))):
        run = await stream(pieces)
        deltas = [chunk.data["choices"][0]["delta"] for chunk in run.chunks]
        assert deltas == [{"role": "assistant", "content": "A"}, *({"content": text} for text in "BCD"), {}]


async def test_a_role_in_every_event_of_several_choices_is_told_once_in_each(
    stream: Ask, event: Make, sse: Make
) -> None:
    both = event({"role": "assistant", "content": "A"})
    both["choices"].append({**both["choices"][0], "index": 1})
    last = event({}, "stop")
    last["choices"].append({**last["choices"][0], "index": 1, "delta": {"role": "assistant"}})
    alone = event({"role": "assistant", "content": "B"})
    run = await stream(sse(event({"role": "assistant", "content": "A"}), both, alone, last))
    choices = run.answer["choices"]
    assert [(one["content"], one["roles"]) for one in choices.values()] == [("AAB", 1), ("A", 1)]


async def test_a_role_beside_each_fragment_of_a_call_is_told_once(stream: Ask, event: Make, sse: Make) -> None:
    def fragment(arguments: str, **first: Any) -> Any:
        named = {"name": "f"} if first else {}
        call = {"index": 0, **first, "function": {**named, "arguments": arguments}}
        return event({"role": "assistant", "content": None, "tool_calls": [call]})

    said = [fragment("", id="c", type="function"), fragment('{"a"'), fragment(": 1"), fragment("}")]
    for pieces in splits(sse(*said, event({"role": "assistant", "content": ""}, "tool_calls"))):
        choice = (await stream(pieces)).answer["choices"][0]
        assert (choice["roles"], choice["finish"]) == (1, "tool_calls")
        assert choice["tools"] == {0: {"id": "c", "name": "f", "arguments": '{"a": 1}'}}


@pytest.mark.parametrize("often", [False, True])
async def test_usage_beside_choices_is_told_once_and_in_full_to_who_asked(
    stream: Ask, event: Make, sse: Make, often: bool
) -> None:
    """Clients add up what they are told, and what only one vendor tells is not lost."""
    early = {"usage": {**USAGE, "completion_tokens": 1, "total_tokens": None}} if often else {}
    body = sse({**event({"role": "assistant", "content": "A"}), **early}, {**event({}, "stop"), "usage": USAGE})
    for pieces in splits(body):
        run = await stream(pieces, ASKED)
        told = [chunk.data.get("usage") for chunk in run.chunks]
        assert told[:-1] == [None, None]
        assert told[-1] == USAGE
        assert run.chunks[-1].data["choices"] == []
        assert run.answer["usage"].cached_tokens == 4


async def test_usage_beside_choices_stays_there_for_who_did_not_ask(stream: Ask, event: Make, sse: Make) -> None:
    """Some servers' own clients never ask, and read it there."""
    stop = {**event({}, "stop"), "usage": USAGE}
    run = await stream(sse(event({"role": "assistant", "content": "A"}), stop))
    assert run.chunks[-1].data == {**stop, "model": "public"}


async def test_an_empty_object_is_told_as_any_other(stream: Ask, event: Make, sse: Make) -> None:
    first = {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": []}
    run = await stream(sse(first, event({"role": "assistant", "content": "A"}), event({}, "stop")))
    assert {chunk.data["object"] for chunk in run.chunks} == {"chat.completion.chunk"}
    assert run.chunks[0].data["prompt_filter_results"] == []
