"""Tools are called as written, as forced, or not at all."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from gatehook.testing import attempt
from gatehook_plugins.vendor_mock.answer import GREETING
from gatehook_plugins.vendor_mock.vendor import MockVendor

HI = [{"role": "user", "content": "Hi there"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city", "days"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CALL_F = {"name": "f", "arguments": {"a": 1}}


async def say(options: Mapping[str, Any], **payload: Any) -> dict[str, Any]:
    body = {"model": "public", "messages": HI, **payload}
    return (await MockVendor().complete(attempt(body, options=options, vendor="mock"))).data


async def first(options: Mapping[str, Any] | None = None, **payload: Any) -> dict[str, Any]:
    choice: dict[str, Any] = (await say(options or {}, **payload))["choices"][0]
    return choice


async def test_tool_calls_beyond_the_limit_are_not_made() -> None:
    choice = await first({"text": "a b", "tool_calls": [CALL_F]}, max_tokens=2)
    assert (choice["message"]["content"], choice["finish_reason"]) == ("a b", "length")
    assert "tool_calls" not in choice["message"]


async def test_tool_calls_are_made_as_written() -> None:
    choice = await first({"tool_calls": [{"name": "f", "arguments": "{broken", "id": "call_7"}, {"name": "g"}]})
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    one, other = choice["message"]["tool_calls"]
    assert one == {"id": "call_7", "type": "function", "function": {"name": "f", "arguments": "{broken"}}
    assert other["id"].startswith("call_")
    assert other["function"] == {"name": "g", "arguments": "{}"}


async def test_text_and_tool_calls_go_together() -> None:
    message = (await first({"text": "Let me look.", "tool_calls": [CALL_F]}))["message"]
    assert message["content"] == "Let me look."
    assert len(message["tool_calls"]) == 1


async def test_each_choice_gets_tool_call_ids_of_its_own() -> None:
    body = await say({"tool_calls": [CALL_F]}, n=2)
    assert len({choice["message"]["tool_calls"][0]["id"] for choice in body["choices"]}) == 2


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("required", "get_weather"),
        ({"type": "function", "function": {"name": "clock"}}, "clock"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [CLOCK]}}, "clock"),
    ],
)
async def test_a_forced_tool_is_called_with_arguments_from_its_schema(choice: Any, expected: str) -> None:
    made = await first(tools=[WEATHER, CLOCK], tool_choice=choice)
    assert made["finish_reason"] == "tool_calls"
    assert made["message"]["content"] is None
    (call,) = made["message"]["tool_calls"]
    assert call["function"]["name"] == expected
    arguments = json.loads(call["function"]["arguments"])
    assert arguments == ({"city": "text", "days": 1} if expected == "get_weather" else {})


async def test_a_forced_call_is_taken_from_the_options_if_they_have_one() -> None:
    options = {"tool_calls": [CALL_F, {"name": "clock", "arguments": {"zone": "UTC"}}]}
    named = {"type": "function", "function": {"name": "clock"}}
    (call,) = (await first(options, tools=[WEATHER, CLOCK], tool_choice=named))["message"]["tool_calls"]
    assert call["function"] == {"name": "clock", "arguments": '{"zone":"UTC"}'}


@pytest.mark.parametrize(
    "choice", [None, "auto", {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}]
)
async def test_tools_that_may_but_need_not_be_called_are_not(choice: Any) -> None:
    made = await first(tools=[WEATHER], tool_choice=choice)
    assert made["finish_reason"] == "stop"
    assert "tool_calls" not in made["message"]


async def test_tool_choice_none_holds_the_written_calls_back() -> None:
    made = await first({"tool_calls": [CALL_F]}, tools=[WEATHER], tool_choice="none")
    assert made["message"]["content"] == f"{GREETING} You said: Hi there"
    assert "tool_calls" not in made["message"]
