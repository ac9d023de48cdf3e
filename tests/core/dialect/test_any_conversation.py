"""Any conversation is read whole and in order. Its texts, calls and results are labelled, so that each can be found."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook.dialect.conversation import Conversation, Text, ToolResult, ToolUse, Turn, read_conversation
from gatehook.errors import InvalidRequest

Message = dict[str, Any]


def read(messages: list[Message]) -> Conversation:
    return read_conversation(messages, list[str]().append)


def turns(messages: list[Message]) -> list[Turn]:
    return read(messages).turns


def text(label: str) -> Message:
    return {"type": "text", "text": label}


def call(id: str, name: str, label: str) -> Message:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": json.dumps({"label": label})}}


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    count = iter(range(10_000))

    def content() -> Any:
        kind = draw(st.sampled_from(["text", "parts", "null", "empty"]))
        label = f"t{next(count)}"
        parts = [text(label), text(""), text(f"t{next(count)}")]
        return {"text": label, "parts": parts, "null": None, "empty": ""}[kind]

    def words() -> Message:
        return {"role": draw(st.sampled_from(["system", "developer", "user", "assistant"])), "content": content()}

    messages: list[Message] = []
    for _ in range(draw(st.integers(0, 6))):
        messages += [words() for _ in range(draw(st.integers(0, 3)))]
        ids = draw(st.lists(st.sampled_from(["a", "a_2", "b", "call-1"]), max_size=3))
        if ids:
            calls = [call(given, f"f{n}", f"c{next(count)}") for n, given in enumerate(ids)]
            messages.append({"role": "assistant", "content": content(), "tool_calls": calls})
            for given in draw(st.permutations(ids)):
                if draw(st.booleans()):
                    messages.append({"role": "system", "content": content()})
                messages.append({"role": "tool", "tool_call_id": given, "content": f"r{next(count)}"})
    return messages


def _texts(messages: list[Message], *roles: str) -> list[str]:
    found: list[str] = []
    for message in messages:
        if message["role"] in roles:
            content = message["content"] or []
            found += [content] if isinstance(content, str) else [part["text"] for part in content if part["text"]]
    return found


@given(conversations())
def test_turns_alternate_and_hold_no_empty_part(messages: list[Message]) -> None:
    found = turns(messages)
    assert all(one.role != next_one.role for one, next_one in pairwise(found))
    assert all(turn.parts for turn in found)
    assert all(part.text for turn in found for part in turn.parts if isinstance(part, Text))


@given(conversations())
def test_no_word_is_lost_or_moved_within_its_side(messages: list[Message]) -> None:
    conversation = read(messages)
    assert [part.text for part in conversation.system] == _texts(messages, "system", "developer")
    for role in ("user", "assistant"):
        said = [
            part.text
            for turn in conversation.turns
            if turn.role == role
            for part in turn.parts
            if isinstance(part, Text)
        ]
        assert said == _texts(messages, role)


@given(conversations())
def test_results_come_first_and_answer_the_calls_of_the_turn_before(messages: list[Message]) -> None:
    found = turns(messages)
    seen: set[str] = set()
    for before, turn in pairwise([Turn("user", []), *found]):
        kinds = [isinstance(part, ToolResult) for part in turn.parts]
        assert kinds == sorted(kinds, reverse=True)
        called = {part.id: part for part in before.parts if isinstance(part, ToolUse)}
        answered = [part for part in turn.parts if isinstance(part, ToolResult)]
        assert sorted(called) == sorted(result.id for result in answered)
        assert all(called[result.id].name == result.name for result in answered)
        assert not seen & called.keys()
        seen |= called.keys()


@given(conversations())
def test_every_call_and_every_result_is_there_and_they_match_as_given(messages: list[Message]) -> None:
    # What the client wrote: for each answer with calls, the k-th result with an id belongs to the k-th call with it.
    expected: list[tuple[str, str]] = []
    open_calls: list[tuple[str, str]] = []
    for message in messages:
        if message.get("tool_calls"):
            open_calls = [
                (one["id"], json.loads(one["function"]["arguments"])["label"]) for one in message["tool_calls"]
            ]
        elif message["role"] == "tool":
            place = next(n for n, (given, _) in enumerate(open_calls) if given == message["tool_call_id"])
            expected.append((open_calls.pop(place)[1], message["content"]))

    labels: dict[str, str] = {}
    matched: list[tuple[str, str]] = []
    for turn in turns(messages):
        for part in turn.parts:
            if isinstance(part, ToolUse):
                labels[part.id] = part.arguments["label"]
            elif isinstance(part, ToolResult):
                [given] = part.parts
                assert isinstance(given, Text)
                matched.append((labels[part.id], given.text))
    assert matched == expected


@given(conversations(), st.data())
def test_a_missing_result_is_always_refused(messages: list[Message], data: st.DataObject) -> None:
    results = [n for n, message in enumerate(messages) if message["role"] == "tool"]
    if results:
        del messages[data.draw(st.sampled_from(results))]
        with pytest.raises(InvalidRequest, match="no tool message answers"):
            read(messages)


@given(conversations())
def test_reading_does_not_change_what_is_read(messages: list[Message]) -> None:
    before = json.dumps(messages)
    read(messages)
    assert json.dumps(messages) == before
