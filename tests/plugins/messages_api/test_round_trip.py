"""A request to a vendor of the same dialect arrives there as it was meant; so does what comes back."""

import base64
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from gatehook.testing import Reply

Open = Callable[..., AbstractAsyncContextManager[Any]]

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
PDF = base64.b64encode(b"%PDF-1.7 and so on").decode()
MARK = {"type": "ephemeral", "ttl": "1h"}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


WHOLE: dict[str, Any] = {
    "model": "m",
    "max_tokens": 5000,
    "system": [text("You are kind."), text("You know everything.", cache_control=MARK)],
    "messages": [
        {
            "role": "user",
            "content": [
                text("What is this?"),
                PICTURE,
                {"type": "image", "source": {"type": "url", "url": "https://pictures.test/a.png"}},
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                    "title": "A paper",
                },
                {"type": "document", "source": {"type": "url", "url": "https://papers.test/a.pdf"}},
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Grüße"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "c2VhbGVk"},
                text("Let me think again."),
                {"type": "thinking", "thinking": "", "signature": "c2lnMg=="},
                {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": ["it", 1, None]}},
                {"type": "tool_use", "id": "toolu_2", "name": "look", "input": {}, "cache_control": MARK},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("see:"), PICTURE]},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "content": [text("no such thing")],
                    "is_error": True,
                    "cache_control": MARK,
                },
                text("Well?", cache_control={"type": "ephemeral"}),
            ],
        },
        {"role": "assistant", "content": [text("It is")]},
    ],
    "tools": [
        {
            "name": "look",
            "description": "Looks.",
            "input_schema": {"type": "object", "properties": {"at": {"type": "array"}}},
            "strict": True,
        },
        {"name": "now", "input_schema": {"type": "object", "properties": {}}},
    ],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "stop_sequences": ["END", "\n\nHuman:"],
    "thinking": {"type": "enabled", "budget_tokens": 2000, "display": "summarized"},
    "output_config": {"effort": "max", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "metadata": {"user_id": "u" * 150},
    "service_tier": "standard_only",
}


async def test_everything_arrives_as_it_was_sent(front: Open) -> None:
    more = "forward_user = true\n"
    async with front("anthropic", model="claude-opus-4-5", more=more) as gateway:
        answer = await gateway.ask(WHOLE)
    assert answer.status == 200, answer.body
    assert gateway.asked == WHOLE | {"model": "claude-opus-4-5"}
    assert "X-Gatehook-Dropped-Params" not in answer.headers


async def test_what_a_search_has_found_arrives_as_a_document(front: Open) -> None:
    found = {"type": "search_result", "source": "https://a.test", "title": "A", "content": [text("It is.")]}
    document = {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "It is."},
        "title": "A (https://a.test)",
    }
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [found]}
    messages = [
        {"role": "user", "content": [found | {"cache_control": MARK}, text("Well?")]},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    async with front("anthropic", model="claude-opus-4-5") as gateway:
        answer = await gateway.ask(WHOLE | {"messages": messages})
    assert answer.status == 200, answer.body
    first, _, last = gateway.asked["messages"]
    assert first["content"] == [document | {"cache_control": MARK}, text("Well?")]
    assert last["content"] == [result | {"content": [document]}]


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.5, "top_k": 5},
        {"top_p": 0.5},
        {"tools": WHOLE["tools"], "tool_choice": {"type": "any"}},
        {"tools": WHOLE["tools"], "tool_choice": {"type": "tool", "name": "now"}},
        {"tools": WHOLE["tools"], "tool_choice": {"type": "none"}},
        {"thinking": {"type": "adaptive"}},
        {"thinking": {"type": "disabled"}},
        {"thinking": {"type": "between_tools"}},
        {"output_config": {"effort": "xhigh"}},
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        {"tools": [WHOLE["tools"][0] | {"cache_control": MARK}]},
        {"max_tokens": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("model", ["claude-opus-4-5", "claude-opus-4-6", "claude-sonnet-4-5"])
async def test_a_parameter_arrives_as_it_was_sent(front: Open, model: str, change: dict[str, Any]) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [text("Hi")]}]} | change
    async with front("anthropic", model=model) as gateway:
        answer = await gateway.ask(body)
    assert answer.status == 200, answer.body
    assert gateway.asked == body | {"model": model}
    assert "X-Gatehook-Dropped-Params" not in answer.headers


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (
            {"system": "Be kind.", "messages": [{"role": "user", "content": "Hi"}]},
            {"system": [text("Be kind.")], "messages": [{"role": "user", "content": [text("Hi")]}]},
        ),
        (
            {"messages": [{"role": "user", "content": "A"}, {"role": "user", "content": "B"}]},
            {"messages": [{"role": "user", "content": [text("A"), text("B")]}]},
        ),
        (
            {"messages": [{"role": "user", "content": "A"}], "cache_control": MARK},
            {"messages": [{"role": "user", "content": [text("A", cache_control=MARK)]}]},
        ),
        (
            {"messages": [{"role": "user", "content": "A"}], "stop_sequences": [], "tools": [], "system": None},
            {"messages": [{"role": "user", "content": [text("A")]}]},
        ),
    ],
)
async def test_a_short_form_arrives_as_the_long_one(front: Open, short: dict[str, Any], long: dict[str, Any]) -> None:
    head = {"model": "m", "max_tokens": 9}
    async with front("anthropic", model="claude-sonnet-4-5") as gateway:
        answer = await gateway.ask(head | short)
    assert answer.status == 200, answer.body
    assert gateway.asked == head | long | {"model": "claude-sonnet-4-5"}


async def test_results_of_one_turn_in_several_messages_come_together(front: Open) -> None:
    def use(name: str) -> dict[str, Any]:
        return {"type": "tool_use", "id": name, "name": "look", "input": {}}

    def result(name: str) -> dict[str, Any]:
        return {"type": "tool_result", "tool_use_id": name, "content": [text(name)]}

    messages = [
        {"role": "user", "content": [text("Look.")]},
        {"role": "assistant", "content": [use("a"), use("b")]},
        {"role": "user", "content": [text("The first:"), result("a")]},
        {"role": "user", "content": [result("b")]},
    ]
    async with front("anthropic", model="claude-sonnet-4-5") as gateway:
        answer = await gateway.ask({"model": "m", "max_tokens": 9, "messages": messages, "tools": WHOLE["tools"]})
    assert answer.status == 200, answer.body
    together = {"role": "user", "content": [result("a"), result("b"), text("The first:")]}
    assert gateway.asked["messages"] == [*messages[:2], together]


async def test_a_system_message_stays_where_it_is_if_the_model_heeds_it(front: Open) -> None:
    messages = [
        {"role": "user", "content": [text("Hi")]},
        {"role": "assistant", "content": [text("Hello")]},
        {"role": "user", "content": [text("Well?")]},
        {"role": "system", "content": [text("Be brief.")]},
    ]
    body = {"model": "m", "max_tokens": 9, "messages": messages}
    async with front("anthropic", model="claude-opus-4-8") as gateway:
        answer = await gateway.ask(body)
    assert answer.status == 200, answer.body
    assert gateway.asked == body | {"model": "claude-opus-4-8"}


ANSWER: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "up",
    "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "c2VhbGVk"},
        text("Look:"),
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": ["it", 1, None]}},
        {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "stop_details": None,
    "usage": {
        "input_tokens": 7,
        "cache_creation": {"ephemeral_1h_input_tokens": 1, "ephemeral_5m_input_tokens": 2},
        "cache_creation_input_tokens": 3,
        "cache_read_input_tokens": 4,
        "output_tokens": 2,
    },
}
ENDS: list[dict[str, Any]] = [
    {},
    {"content": [text("A")], "stop_reason": "end_turn"},
    {"content": [text("A")], "stop_reason": "max_tokens"},
    {"content": [text("A")], "stop_reason": "stop_sequence", "stop_sequence": "END"},
    {"content": [], "stop_reason": "end_turn"},
    {
        "content": [],
        "stop_reason": "refusal",
        "stop_details": {"type": "refusal", "category": None, "explanation": "It is bad."},
    },
    {"content": [{"type": "thinking", "thinking": "", "signature": "c2ln"}, text("A")], "stop_reason": "end_turn"},
]


def told(answer: Any) -> dict[str, Any]:
    """An answer without what the gateway tells in its own words."""
    assert answer.status == 200, answer.body
    return {**answer.json, "id": "msg_1", "model": "up"}


@pytest.mark.parametrize("end", ENDS)
async def test_an_answer_comes_back_as_it_was(front: Open, end: dict[str, Any]) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "tools": WHOLE["tools"]}
    async with front("anthropic", Reply.of_json(ANSWER | end)) as gateway:
        assert told(await gateway.ask(body)) == ANSWER | end
