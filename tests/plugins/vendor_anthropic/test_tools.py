from typing import Any

import pytest
from anthropic.types import ToolChoiceParam, ToolParam, ToolUnionParam
from pydantic import TypeAdapter

from gatehook import InvalidRequest, Retry


def tool(name: str = "look", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
EMPTY = {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (tool(description="d", parameters=SCHEMA), {"name": "look", "description": "d", "input_schema": SCHEMA}),
        (tool(), {"name": "look", "input_schema": EMPTY}),
        (tool(parameters=None), {"name": "look", "input_schema": EMPTY}),
        (tool(parameters={}), {"name": "look", "input_schema": EMPTY}),
        (
            tool(parameters={"properties": {"a": {}}}),
            {"name": "look", "input_schema": {"type": "object", "properties": {"a": {}}}},
        ),
        (tool(strict=True, parameters=SCHEMA), {"name": "look", "input_schema": SCHEMA, "strict": True}),
        (tool(strict=False), {"name": "look", "input_schema": EMPTY}),
        (
            tool(cache_control={"type": "ephemeral"}),
            {"name": "look", "input_schema": EMPTY, "cache_control": {"type": "ephemeral"}},
        ),
    ],
)
async def test_function_tools_become_custom_tools(ask: Any, given: Any, sent: Any) -> None:
    run = await ask({"tools": [given]})
    assert run.body["tools"] == [sent]
    assert "tool_choice" not in run.body
    assert run.dropped == []
    TypeAdapter(ToolParam).validate_python(sent)


async def test_strict_is_dropped_with_a_signal_where_the_model_cannot(ask: Any) -> None:
    run = await ask({"tools": [tool(strict=True)]}, options={"structured_outputs": False})
    assert "strict" not in run.body["tools"][0]
    assert run.dropped == ["tools[0].function.strict"]


@pytest.mark.parametrize(
    "kind", ["web_search_20250305", "code_interpreter", "bash_code_execution_20250522", "custom", "mcp"]
)
async def test_tools_that_are_no_functions_are_refused_by_position(ask: Any, kind: str) -> None:
    with pytest.raises(InvalidRequest, match=kind) as caught:
        await ask({"tools": [tool(), {"type": kind, "name": "x"}]})
    assert (caught.value.param, caught.value.retry) == ("tools[1].type", Retry.NEXT)


async def test_tools_that_claude_was_taught_go_out_as_they_are_with_the_betas_that_they_need(ask: Any) -> None:
    taught = [
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 10_000},
        {"type": "memory_20250818", "name": "memory", "cache_control": {"type": "ephemeral"}},
    ]
    run = await ask({"tools": [tool(), *taught], "tool_choice": {"type": "function", "function": {"name": "bash"}}})
    assert run.body["tools"][1:] == taught
    assert run.body["tool_choice"] == {"type": "tool", "name": "bash"}
    assert "anthropic-beta" not in run.headers
    for one in taught:
        TypeAdapter(ToolUnionParam).validate_python(one)
    screen = {"type": "computer_20251124", "name": "computer", "display_width_px": 1024, "display_height_px": 768}
    run = await ask({"tools": [screen]}, options={"beta": "a-1"})
    assert (run.body["tools"], run.headers["anthropic-beta"]) == ([screen], "a-1,computer-use-2025-11-24")
    assert (await ask({"tools": [screen]})).headers["anthropic-beta"] == "computer-use-2025-11-24"
    assert run.dropped == []


@pytest.mark.parametrize(
    "tools",
    [{"a": 1}, [5], [{"type": "function"}], [tool("")], [tool(parameters=[1])], [tool(parameters={"type": "array"})]],
)
async def test_malformed_tools_are_refused(ask: Any, tools: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^tools"):
        await ask({"tools": tools})


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": {"type": "function", "function": {"name": "look"}}}, {"type": "tool", "name": "look"}),
        ({"parallel_tool_calls": True}, None),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"parallel_tool_calls": False, "tool_choice": "required"}, {"type": "any", "disable_parallel_tool_use": True}),
        ({"parallel_tool_calls": False, "tool_choice": "none"}, {"type": "none"}),
        (
            {"parallel_tool_calls": False, "tool_choice": {"type": "function", "function": {"name": "look"}}},
            {"type": "tool", "name": "look", "disable_parallel_tool_use": True},
        ),
    ],
)
async def test_tool_choice(ask: Any, given: Any, sent: Any) -> None:
    run = await ask({"tools": [tool()], **given})
    assert run.body.get("tool_choice") == sent
    assert run.body["tools"]
    if sent:
        TypeAdapter(ToolChoiceParam).validate_python(sent)


def allowing(*names: Any, **more: Any) -> dict[str, Any]:
    functions = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"tools": functions, **more}}


@pytest.mark.parametrize(("mode", "sent"), [({}, "auto"), ({"mode": "auto"}, "auto"), ({"mode": "required"}, "any")])
async def test_of_tools_that_are_not_all_allowed_the_others_are_not_offered(ask: Any, mode: Any, sent: str) -> None:
    tools = [tool(name) for name in ("a", "b", "c")]
    run = await ask({"tools": tools, "tool_choice": allowing("c", "a", **mode), "parallel_tool_calls": False})
    assert [one["name"] for one in run.body["tools"]] == ["a", "c"]
    assert run.body["tool_choice"] == {"type": sent, "disable_parallel_tool_use": True}
    assert run.dropped == []


@pytest.mark.parametrize("given", [{"tool_choice": "auto"}, {"tool_choice": "none"}, {"parallel_tool_calls": False}])
async def test_a_choice_without_tools_that_forces_nothing_is_left_out(ask: Any, given: Any) -> None:
    assert "tool_choice" not in (await ask(given)).body


@pytest.mark.parametrize(
    ("payload", "retry"),
    [
        ({"tool_choice": "required"}, Retry.NEVER),
        ({"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "gone"}}}, Retry.NEVER),
        ({"tools": [tool()], "tool_choice": {"type": "function"}}, Retry.NEVER),
        ({"tools": [tool()], "tool_choice": "any"}, Retry.NEVER),
        ({"tools": [tool()], "tool_choice": 5}, Retry.NEVER),
        ({"tools": [tool()], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, Retry.NEXT),
        ({"tools": [tool()], "tool_choice": {"type": "allowed_tools"}}, Retry.NEXT),
        ({"tools": [tool()], "tool_choice": allowing("look", mode="none")}, Retry.NEXT),
        ({"tools": [tool()], "tool_choice": allowing("look", "gone")}, Retry.NEVER),
        ({"tools": [tool()], "tool_choice": {"type": "custom", "custom": {"name": "look"}}}, Retry.NEXT),
    ],
)
async def test_choices_that_cannot_be_met_are_refused(ask: Any, payload: Any, retry: Retry) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await ask(payload)
    assert (caught.value.param, caught.value.retry) == ("tool_choice", retry)


async def test_tools_that_only_the_history_knows_are_declared_but_not_offered(ask: Any) -> None:
    calls = [
        {"id": f"c{number}", "type": "function", "function": {"name": "look", "arguments": "{}"}} for number in (1, 2)
    ]
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "r"},
        {"role": "tool", "tool_call_id": "c2", "content": "r"},
    ]
    run = await ask({"messages": messages})
    assert run.body["tools"] == [{"name": "look", "input_schema": EMPTY}]
    assert run.body["tool_choice"] == {"type": "none"}
