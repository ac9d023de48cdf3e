"""Messages with tool calls: assembled from deltas as servers send them, and given ids."""

from typing import Any

import pytest

from gatehook.tools.calls import PartialMessage, identified


def assembled(*fragments: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The id, name and arguments of the calls that these fragments add up to."""
    message = PartialMessage()
    for fragment in fragments:
        message.add({"tool_calls": [fragment]})
    calls = message.whole()["tool_calls"]
    return [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls]


def piece(place: int | None, key: str = "", name: str = "", arguments: Any = "") -> dict[str, Any]:
    return {"index": place, "id": key, "function": {"name": name, "arguments": arguments}}


def test_pieces_of_one_number_are_one_call() -> None:
    assert assembled(piece(0, "a", "now", '{"x"'), piece(0, arguments=": 1}")) == [("a", "now", '{"x": 1}')]


def test_another_id_under_the_same_number_is_another_call_and_calls_keep_their_order() -> None:
    fragments = [piece(0, "a", "first"), piece(1, "b", "second"), piece(0, "c", "third"), piece(0, arguments="{}")]
    assert assembled(*fragments) == [("a", "first", ""), ("b", "second", ""), ("c", "third", "{}")]


def test_calls_without_numbers_are_told_apart_by_their_ids() -> None:
    assert assembled(piece(None, "a", "one"), piece(None, "b", "two")) == [("a", "one", ""), ("b", "two", "")]


def test_arguments_that_are_an_object_become_json_text() -> None:
    assert assembled(piece(0, "a", "now", {"x": 1})) == [("a", "now", '{"x":1}')]


def test_texts_and_lists_grow_and_other_fields_have_their_last_value() -> None:
    message = PartialMessage()
    for delta in ({"role": "assistant", "content": "a", "notes": [1]}, {"content": "b", "notes": [2], "mood": None}):
        message.add(delta)
    assert message.whole() == {"role": "assistant", "content": "ab", "notes": [1, 2]}


def test_a_message_in_the_old_form_has_its_one_call() -> None:
    message = PartialMessage()
    for function in ({"name": "now"}, {"arguments": "{"}, {"arguments": "}"}):
        message.add({"function_call": function})
    assert message.whole()["function_call"] == {"name": "now", "arguments": "{}"}


@pytest.mark.parametrize("keys", [["", ""], [None, None], ["same", "same"], [7, 7], [7, "a"]])
def test_each_call_gets_an_id_of_its_own(keys: list[Any]) -> None:
    calls = identified({"tool_calls": [{"id": key, "function": {}} for key in keys]})["tool_calls"]
    ids = [call["id"] for call in calls]
    assert len(set(ids)) == 2
    assert all(isinstance(one, str) and one for one in ids)


def test_good_ids_stay() -> None:
    message = {"content": "hi", "tool_calls": [{"id": "a"}, {"id": "b"}]}
    assert identified(message) == message
    assert identified({"content": "hi"}) == {"content": "hi"}
