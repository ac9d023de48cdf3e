from typing import Any

import pytest
from anthropic.types import Message

from gatehook import UpstreamError, Usage

TEXT = {"type": "text", "text": "Hello"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"q": "π", "n": 9007199254740993}}


def message(*content: Any, stop: Any = "end_turn", **rest: Any) -> dict[str, Any]:
    return {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": list(content),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 5},
    } | rest


async def test_a_text_answer(ask: Any) -> None:
    run = await ask(answer=message(TEXT))
    Message.model_validate(message(TEXT))
    data = run.completion.data
    assert (data["object"], data["model"]) == ("chat.completion", "claude")
    assert data["id"].startswith("chatcmpl-")
    assert data["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert run.completion.usage == Usage(10, 5)
    assert data["usage"]["total_tokens"] == 15


@pytest.mark.parametrize(
    ("stop", "details", "refusal"),
    [
        (
            "refusal",
            {"type": "refusal", "category": "cyber", "explanation": "Against the policy."},
            "Against the policy.",
        ),
        ("refusal", {"type": "refusal", "category": None, "explanation": None}, None),
        ("refusal", None, None),
        ("refusal", "why", None),
        ("end_turn", {"type": "later", "explanation": "no refusal"}, None),
    ],
)
async def test_why_the_model_refused_is_the_refusal(ask: Any, stop: str, details: Any, refusal: str | None) -> None:
    run = await ask(answer=message(stop=stop, stop_details=details))
    assert (run.message["content"], run.message["refusal"]) == ("", refusal)


async def test_all_text_blocks_are_joined_whatever_stands_between_them(ask: Any) -> None:
    cited = {"type": "text", "text": "B", "citations": [{"type": "char_location", "cited_text": "x"}]}
    searched = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    unknown = {"type": "a_later_invention", "payload": [1]}
    run = await ask(
        answer=message({"type": "text", "text": "A"}, searched, unknown, cited, {"type": "text", "text": "C"})
    )
    assert run.message["content"] == "ABC"
    assert "tool_calls" not in run.message


async def test_text_and_tool_calls_are_both_kept(ask: Any) -> None:
    run = await ask(answer=message(TEXT, CALL, CALL | {"id": "toolu_2", "input": {}}, stop="tool_use"))
    assert run.message["content"] == "Hello"
    assert run.message["tool_calls"] == [
        {
            "id": "toolu_1",
            "type": "function",
            "function": {"name": "look", "arguments": '{"q":"π","n":9007199254740993}'},
        },
        {"id": "toolu_2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
    ]
    assert run.choice["finish_reason"] == "tool_calls"


async def test_content_is_null_only_beside_tool_calls(ask: Any) -> None:
    assert (await ask(answer=message(CALL, stop="tool_use"))).message["content"] is None
    assert (await ask(answer=message(stop="max_tokens"))).message["content"] == ""


async def test_thinking_that_ate_the_limit_gives_an_empty_answer_not_none(ask: Any) -> None:
    run = await ask(answer=message({"type": "thinking", "thinking": "long", "signature": ""}, stop="max_tokens"))
    assert run.message == {"role": "assistant", "content": "", "refusal": None, "reasoning_content": "long"}
    assert run.choice["finish_reason"] == "length"


async def test_thinking_is_shown_as_reasoning_and_kept_as_signed_blocks(ask: Any) -> None:
    thinking = {"type": "thinking", "thinking": "Let me see", "signature": "EqQB=="}
    omitted = {"type": "thinking", "thinking": "", "signature": "Er=="}
    sealed = {"type": "redacted_thinking", "data": "c2VhbGVk"}
    run = await ask(answer=message(thinking, sealed, omitted, TEXT, CALL, stop="tool_use"))
    assert run.message["reasoning_content"] == "Let me see"
    assert run.message["thinking_blocks"] == [thinking, sealed, omitted]
    assert "c2VhbGVk" not in run.message["content"] + run.message["reasoning_content"]


async def test_the_thinking_of_an_answer_can_be_sent_back_as_it_came(ask: Any) -> None:
    thinking = {"type": "thinking", "thinking": "Let me see", "signature": "EqQB=="}
    sealed = {"type": "redacted_thinking", "data": "c2VhbGVk"}
    first = await ask(answer=message(thinking, sealed, TEXT, CALL, stop="tool_use"))
    history = [
        {"role": "user", "content": "go"},
        first.message,
        {"role": "tool", "tool_call_id": "toolu_1", "content": "r"},
    ]
    again = await ask({"messages": history, "tools": [{"type": "function", "function": {"name": "look"}}]})
    assert again.body["messages"][1]["content"] == [thinking, sealed, TEXT, CALL]


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("tool_use", "stop"),
    ],
)
async def test_stop_reasons(ask: Any, stop: str, finish: str) -> None:
    run = await ask(answer=message(TEXT, stop=stop))
    assert (run.choice["finish_reason"], run.dropped) == (finish, [])


async def test_an_unknown_stop_reason_is_a_stop_with_a_signal(ask: Any) -> None:
    run = await ask(answer=message(TEXT, stop="tired"))
    assert (run.choice["finish_reason"], run.dropped) == ("stop", ["stop_reason=tired"])


@pytest.mark.parametrize(
    ("stop", "finish"), [("end_turn", "tool_calls"), ("tool_use", "tool_calls"), ("max_tokens", "length")]
)
async def test_a_stop_with_tool_calls_is_reported_as_tool_calls(ask: Any, stop: str, finish: str) -> None:
    assert (await ask(answer=message(CALL, stop=stop))).choice["finish_reason"] == finish


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        (
            {
                "input_tokens": 5,
                "output_tokens": 7,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 20,
                "output_tokens_details": {"thinking_tokens": 3},
            },
            Usage(125, 7, cached_tokens=100, cache_write_tokens=20, reasoning_tokens=3),
        ),
        (
            {
                "input_tokens": 5,
                "output_tokens": 7,
                "cache_creation_input_tokens": 20,
                "cache_creation": {"ephemeral_5m_input_tokens": 8, "ephemeral_1h_input_tokens": 12},
            },
            Usage(25, 7, cache_write_tokens=20, cache_write_1h_tokens=12),
        ),
        (
            {"output_tokens": 7, "cache_creation_input_tokens": 9, "cache_creation": {"ephemeral_1h_input_tokens": 10}},
            Usage(9, 7, cache_write_tokens=9, cache_write_1h_tokens=9),
        ),
        ({"output_tokens": 7, "cache_creation": {"ephemeral_1h_input_tokens": "1"}}, Usage(0, 7)),
        ({"output_tokens": 7, "cache_creation": None}, Usage(0, 7)),
        ({"input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": None}, Usage(5, 7)),
        ({"input_tokens": "5", "output_tokens": True, "output_tokens_details": 3, "cache_read_input_tokens": -1}, None),
        ({"output_tokens": 7}, Usage(0, 7)),
        (None, None),
        ([], None),
        ({}, None),
    ],
)
async def test_the_prompt_includes_what_the_cache_gave_and_took(ask: Any, usage: Any, counted: Any) -> None:
    run = await ask(answer=message(TEXT, usage=usage))
    assert run.completion.usage == counted


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>gateway</html>",
        b"[]",
        b'"text"',
        b"{}",
        {"content": "Hello"},
        message("Hello"),
        message({"type": "text"}),
        message({"type": "text", "text": 5}),
        message({"type": "thinking", "thinking": None}),
        message({"type": "redacted_thinking"}),
        message({"type": "tool_use", "id": "a", "name": "b", "input": "{}"}),
        message({"type": "tool_use", "id": 5, "name": "b", "input": {}}),
        message({"type": "tool_use", "id": "a", "input": {}}),
        message(TEXT, stop=None),
        message(TEXT, stop=["end_turn"]),
    ],
    ids=str,
)
async def test_an_answer_of_another_shape_is_the_vendors_failure(ask: Any, answer: Any) -> None:
    with pytest.raises(UpstreamError, match=r"^anthropic: ") as caught:
        await ask(answer=answer)
    assert caught.value.status == 502


async def test_unknown_fields_and_block_types_of_any_shape_are_ignored(ask: Any) -> None:
    run = await ask(
        answer=message(TEXT, {"type": None}, {"type": ["x"]}, {}, container={"id": 1}, context_management=[])
    )
    assert run.message["content"] == "Hello"
