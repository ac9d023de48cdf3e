"""Tools that are offered, and what they gave."""

from typing import Any

import pytest

from gatehook import InvalidRequest, Retry

HI = [{"role": "user", "content": "hi"}]
ANSWER = {"output": {"message": {"content": [{"text": "a"}]}}, "stopReason": "end_turn"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", True),
        ("us.anthropic.claude-opus-4-6-v1", True),
        ("anthropic.claude-sonnet-5", True),
        ("my-profile", True),
        ("qwen.qwen3-32b-v1:0", True),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", False),
        ("us.anthropic.claude-opus-4-7", False),
        ("us.amazon.nova-pro-v1:0", False),
        ("us.meta.llama3-3-70b-instruct-v1:0", False),
    ],
)
async def test_tools_are_strict_where_the_model_can_be_held_to_a_schema(asked: Any, model: str, kept: bool) -> None:
    tool = {"type": "function", "function": TOOL["function"] | {"strict": True}}
    (request,), _, one = await asked({"messages": HI, "tools": [tool]}, ANSWER, model=model)
    (sent,) = request.json["toolConfig"]["tools"]
    assert sent["toolSpec"].get("strict", False) is kept
    assert one.dropped == ([] if kept else ["tools[0].function.strict"])


async def test_a_tool_without_a_function_is_the_client_s_fault(asked: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await asked({"messages": HI, "tools": [{"type": "function"}]}, ANSWER)
    assert caught.value.param == "tools[0].function"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, {"type": "object", "properties": {}}),
        ({"properties": {"a": {}}}, {"type": "object", "properties": {"a": {}}}),
        ({"$ref": "#/$defs/a"}, {"type": "object", "properties": {}, "$ref": "#/$defs/a"}),
        ({"type": "object"}, {"type": "object"}),
    ],
)
async def test_a_schema_without_a_type_is_an_object_s(asked: Any, given: Any, sent: Any) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": given}}
    (request,), _, _ = await asked({"messages": HI, "tools": [tool]}, ANSWER)
    assert request.json["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"] == {"json": sent}


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"name": "github.search"}, "tools[0].function.name"),
        ({"name": "x" * 65}, "tools[0].function.name"),
        ({"parameters": {"type": "string"}}, "tools[0].function.parameters.type"),
    ],
)
async def test_a_tool_that_bedrock_does_not_take_is_left_to_other_deployments(
    asked: Any, changed: Any, param: str
) -> None:
    tool = {"type": "function", "function": TOOL["function"] | changed}
    with pytest.raises(InvalidRequest) as caught:
        await asked({"messages": HI, "tools": [tool]}, ANSWER)
    assert (caught.value.param, caught.value.retry) == (param, Retry.NEXT)


@pytest.mark.parametrize(
    ("model", "told"),
    [("us.anthropic.claude-sonnet-4-5", True), ("us.amazon.nova-pro-v1:0", True), ("qwen.qwen3-32b-v1:0", False)],
)
async def test_a_tool_s_failure_is_told_as_its_status_or_in_words(asked: Any, model: str, told: bool) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    result = {"role": "tool", "tool_call_id": "c1", "content": "no such file", "is_error": True}
    history = [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}, result]
    (request,), _, _ = await asked({"messages": history, "tools": [TOOL]}, ANSWER, model=model)
    (block,) = request.json["messages"][-1]["content"]
    assert block["toolResult"].get("status") == ("error" if told else None)
    assert len(block["toolResult"]["content"]) == (1 if told else 2)


@pytest.mark.parametrize(
    ("model", "inside"),
    [
        ("us.anthropic.claude-sonnet-4-5", True),
        ("us.meta.llama4-maverick-17b-instruct-v1:0", True),
        ("my-profile", True),
        ("us.openai.gpt-5.6-sol", False),
    ],
)
async def test_what_a_tool_shows_stands_where_the_model_takes_it(asked: Any, model: str, inside: bool) -> None:
    calls = [{"id": one, "type": "function", "function": {"name": "add", "arguments": "{}"}} for one in ("c1", "c2")]
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    history = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "a.png"}, picture]},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "user", "content": "And?"},
    ]
    (request,), _, _ = await asked({"messages": history, "tools": [TOOL]}, ANSWER, model=model)
    first, second, *others = request.json["messages"][-1]["content"]
    block = {"image": {"format": "png", "source": {"bytes": "AAAA"}}}
    assert first["toolResult"]["content"] == [{"text": "a.png"}, block if inside else {"text": "(shown below)"}]
    assert second["toolResult"]["content"] == [{"text": "2"}]
    assert others == [*([] if inside else [block]), {"text": "And?"}]
