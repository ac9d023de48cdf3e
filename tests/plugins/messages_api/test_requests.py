"""What requests become for servers of OpenAI's dialect, and what is wrong with others."""

import base64
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from gatehook.testing import Reply

Open = Callable[..., AbstractAsyncContextManager[Any]]

HI: Any = [{"role": "user", "content": "Hi"}]
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
PDF = base64.b64encode(b"%PDF-1.7 and so on").decode()
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
SHOWN = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
MARK = {"type": "ephemeral"}
ANSWER: Any = {"name": "answer", "schema": {}, "strict": True}
LOOK: Any = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}


def asking(**more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": HI, **more}


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


# --- what servers of OpenAI's dialect get --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "sent", "lost"),
    [
        ({}, {}, ""),
        ({"temperature": 0.5, "top_p": 1, "top_k": 3}, {"temperature": 0.5, "top_p": 1, "top_k": 3}, ""),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}, ""),
        ({"metadata": {"user_id": "ann"}}, {"user": "ann"}, ""),
        ({"metadata": {"user_id": "a" * 65}}, {}, "user"),
        ({"metadata": {"user_id": "ann", "team": "x", "none": None}}, {"user": "ann"}, "metadata.team"),
        ({"output_config": {"task_budget": {"type": "tokens", "total": 9}}}, {}, "output_config.task_budget"),
        (
            {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}, "more": 1}}},
            {
                "reasoning_effort": "low",
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {}, "strict": True},
                },
            },
            "output_config.format.more",
        ),
        ({"tool_choice": {"type": "auto", "mood": "good"}}, {"tool_choice": "auto"}, "tool_choice.mood"),
        ({"service_tier": "auto"}, {}, ""),
        ({"service_tier": "standard_only"}, {"service_tier": "default"}, ""),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, {}, "thinking"),
        ({"thinking": {"type": "adaptive"}}, {}, "thinking"),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}, ""),
        ({"output_config": {"effort": "high"}}, {"reasoning_effort": "high"}, ""),
        ({"output_config": {"effort": "xhigh"}}, {"reasoning_effort": "high"}, "output_config"),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "high"}, "output_config"),
        ({"context_management": {"edits": [{"type": "clear_thinking_20251015"}]}}, {}, "context_management"),
        ({"speed": "fast", "foo": 1, "bar": None, "betas": []}, {}, "speed, foo"),
        ({"stream": False, "tools": None, "container": None, "mcp_servers": []}, {}, ""),
    ],
)
async def test_parameters(front: Open, more: dict[str, Any], sent: dict[str, Any], lost: str) -> None:
    async with front() as gateway:
        answer = await gateway.ask(asking(**more))
    assert answer.status == 200, answer.body
    assert gateway.asked == {"model": "up", "max_tokens": 9, "messages": HI, **sent}
    assert answer.headers.get("X-Gatehook-Dropped-Params", "") == lost


async def test_what_is_lost_is_told_by_vendors_that_translate_too_and_refused_where_they_are_strict(
    front: Open,
) -> None:
    more = asking(context_management={"edits": [1]}, thinking={"type": "adaptive"})
    async with front("mock", Reply()) as gateway:
        answer = await gateway.ask(more)
        assert answer.headers["X-Gatehook-Dropped-Params"] == "context_management"
    async with front(told="strict = true") as gateway:
        message = (await gateway.ask(more)).error(400, "invalid_request_error")
    assert message == "context_management: would be lost at vendor 'openai'"


async def test_tools(front: Open) -> None:
    tools = [{**LOOK, "strict": True, "cache_control": MARK, "type": "custom"}, {**LOOK, "name": "now"}]
    choice = {"type": "tool", "name": "now", "disable_parallel_tool_use": True}
    async with front() as gateway:
        answer = await gateway.ask(asking(tools=tools, tool_choice=choice))
    assert answer.status == 200, answer.body
    function = {"name": "look", "description": "Looks.", "parameters": LOOK["input_schema"]}
    assert gateway.asked["tools"] == [
        {"type": "function", "function": {**function, "strict": True}},
        {"type": "function", "function": {**function, "name": "now"}},
    ]
    assert gateway.asked["tool_choice"] == {"type": "function", "function": {"name": "now"}}
    assert gateway.asked["parallel_tool_calls"] is False
    assert answer.headers["X-Gatehook-Dropped-Params"] == "cache_control"


async def test_what_else_tools_have_is_told_as_dropped_once(front: Open) -> None:
    tools = [{**LOOK, "input_examples": [{}], "defer_loading": False, "x": None}, {**LOOK, "input_examples": [{}]}]
    async with front() as gateway:
        answer = await gateway.ask(asking(tools=tools))
    assert answer.headers["X-Gatehook-Dropped-Params"] == "tools.input_examples"


async def test_without_tools_there_is_nothing_to_be_called_one_by_one(front: Open) -> None:
    async with front() as gateway:
        await gateway.ask(asking(tool_choice={"type": "auto", "disable_parallel_tool_use": True}))
    assert "parallel_tool_calls" not in gateway.asked


@pytest.mark.parametrize(("kind", "told"), [("auto", "auto"), ("any", "required"), ("none", "none")])
async def test_tool_choices(front: Open, kind: str, told: str) -> None:
    async with front() as gateway:
        await gateway.ask(asking(tools=[LOOK], tool_choice={"type": kind}))
    assert gateway.asked["tool_choice"] == told
    assert "parallel_tool_calls" not in gateway.asked


def use(name: str, **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": name, "name": "look", "input": given}


def result(name: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": name, "content": content, **more}


def made(name: str, arguments: str) -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": "look", "arguments": arguments}}


def gave(name: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": content}


async def test_a_conversation_with_tools(front: Open) -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    messages = [
        {"role": "user", "content": [text("Look.", cache_control=MARK)]},
        {"role": "assistant", "content": [thought, text("I look."), use("a", at="it"), use("b"), use("c")]},
        {
            "role": "user",
            "content": [
                text("Well?"),
                result("a", [text("see:"), PICTURE]),
                result("b", "no such thing", is_error=True),
                result("c", None),
            ],
        },
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "So.", "signature": ""}, text("It")]},
    ]
    async with front() as gateway:
        answer = await gateway.ask(asking(messages=messages, system=[text("Be kind."), text("Be brief.")]))
    assert answer.status == 200, answer.body
    assert gateway.asked["messages"] == [
        {"role": "system", "content": [text("Be kind."), text("Be brief.")]},
        {"role": "user", "content": [text("Look.")]},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [made("a", '{"at":"it"}'), made("b", "{}"), made("c", "{}")],
        },
        gave("a", "see:"),
        gave("b", "The tool failed: no such thing"),
        gave("c", ""),
        {"role": "user", "content": [SHOWN]},
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": "It", "reasoning_content": "So."},
    ]
    assert answer.headers["X-Gatehook-Dropped-Params"] == "cache_control, thinking_blocks"


async def test_thoughts_alone_are_no_message(front: Open) -> None:
    messages = [*HI, {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "c2VhbGVk"}]}, *HI]
    async with front() as gateway:
        await gateway.ask(asking(messages=messages))
    assert gateway.asked["messages"] == [*HI, *HI]


@pytest.mark.parametrize(
    ("source", "title", "sent"),
    [
        (
            {"type": "base64", "media_type": "application/pdf", "data": PDF},
            "A paper",
            {"type": "file", "file": {"filename": "A paper", "file_data": f"data:application/pdf;base64,{PDF}"}},
        ),
        (
            {"type": "base64", "media_type": "application/pdf", "data": PDF},
            None,
            {"type": "file", "file": {"filename": "document", "file_data": f"data:application/pdf;base64,{PDF}"}},
        ),
        ({"type": "text", "media_type": "text/plain", "data": "Grüße"}, "A letter", text("A letter\n\nGrüße")),
    ],
)
async def test_documents(front: Open, source: Any, title: str | None, sent: Any) -> None:
    document = {"type": "document", "source": source, "title": title, "context": "c", "citations": {"enabled": True}}
    messages = [{"role": "user", "content": [document, text("What is it?")]}]
    async with front() as gateway:
        answer = await gateway.ask(asking(messages=messages))
    assert answer.status == 200, answer.body
    assert gateway.asked["messages"] == [{"role": "user", "content": [sent, text("What is it?")]}]
    lost = answer.headers["X-Gatehook-Dropped-Params"]
    assert lost == "messages[0].content[0].context, messages[0].content[0].citations"


FOUND: Any = {
    "type": "search_result",
    "source": "https://ruby.test/history",
    "title": "History",
    "content": [text("It was made"), text("in Japan.")],
    "citations": {"enabled": True},
    "cache_control": MARK,
}


async def test_what_a_search_has_found_is_a_document(front: Open) -> None:
    told = "History (https://ruby.test/history)\n\nIt was made\n\nin Japan."
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [FOUND]}
    messages = [
        {"role": "user", "content": [FOUND, text("Where?")]},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    async with front() as gateway:
        answer = await gateway.ask(asking(messages=messages, tools=[LOOK]))
    assert answer.status == 200, answer.body
    said, _, given = gateway.asked["messages"]
    assert said == {"role": "user", "content": [text(told), text("Where?")]}
    assert given == {"role": "tool", "tool_call_id": "toolu_1", "content": told}
    lost = answer.headers["X-Gatehook-Dropped-Params"].split(", ")
    assert {"messages[0].content[0].citations", "messages[2].content[0].content[0].citations"} <= set(lost)


async def test_a_document_by_url_is_refused_where_nobody_fetches_it(front: Open) -> None:
    document = {"type": "document", "source": {"type": "url", "url": "https://papers.test/a.pdf"}}
    async with front() as gateway:
        answer = await gateway.ask(asking(messages=[{"role": "user", "content": [document]}]))
    assert "messages[0].content[0].file.file_url: documents by URL" in answer.error(400, "invalid_request_error")


async def test_a_stream_asks_for_its_usage(front: Open) -> None:
    async with front() as gateway:
        await gateway.ask(asking(stream=True))
    assert gateway.asked["stream"] is True
    assert gateway.asked["stream_options"] == {"include_usage": True}


# --- what is wrong -------------------------------------------------------------------------------------------------


def said(*blocks: Any, role: str = "user") -> Any:
    return [{"role": role, "content": list(blocks)}]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"model": None}, "model: expected str, got null"),
        ({"messages": []}, "messages: expected array of length >= 1"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role: required, but missing"),
        (
            {"messages": [{"role": "tool", "content": "Hi"}]},
            "messages[0].role: invalid value 'tool'; there are: user, assistant, system",
        ),
        ({"messages": said({"type": "text", "text": 7})}, "messages[0].content[0].text: expected str, got int"),
        ({"messages": said({"type": "text"})}, "messages[0].content[0].text: required, but missing"),
        (
            {"messages": said({"type": "server_tool_use"})},
            "messages[0].content[0].type: invalid value 'server_tool_use'",
        ),
        ({"messages": said(use("a"))}, "messages[0].content[0].type: invalid value 'tool_use'"),
        ({"messages": said(PICTURE, role="assistant")}, "messages[0].content[0].type: invalid value 'image'"),
        (
            {"messages": said({"type": "image", "source": {"type": "file", "file_id": "x"}})},
            "messages[0].content[0].source.type: invalid value 'file'",
        ),
        ({"system": 7}, "system: expected str | array | null, got int"),
        ({"temperature": 1.5}, "temperature: expected float <= 1"),
        ({"stream": "yes"}, "stream: expected bool | null, got str"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema: required, but missing"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name: required, but missing"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type: 'web_search_20250305' is"),
        ({"tools": [{"type": "bash_20250124"}]}, "tools[0].type: 'bash_20250124' is"),
        ({"tools": [{"type": "computer_toolset_20260801"}]}, "tools[0].type: 'computer_toolset_20260801' is"),
        ({"tool_choice": "auto"}, "tool_choice: expected object | null, got str"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name: required, but missing"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens: required, but missing"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort: invalid value 'huge'; there are: "),
        ({"service_tier": "flex"}, "service_tier: invalid value 'flex'"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers: the model would not have their tools"),
        ({"container": "c_1"}, "container: containers run on Anthropic's servers"),
        ({"inference_geo": "us"}, "inference_geo: "),
        ({"output_format": {"type": "json_schema"}}, "output_format: it is now output_config.format"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_what_is_wrong_is_named(front: Open, path: str, more: dict[str, Any], told: str) -> None:
    async with front() as gateway:
        answer = await gateway.ask(asking(**more), path)
        assert answer.error(400, "invalid_request_error").startswith(told)
    assert not gateway.stub.requests


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "required, but missing"),
        ({"max_tokens": None}, "expected int, got null"),
        ({"max_tokens": "9"}, "expected int, got str"),
        ({"max_tokens": -1}, "expected int >= 0"),
    ],
)
async def test_a_limit_is_needed(front: Open, more: dict[str, Any], told: str) -> None:
    async with front() as gateway:
        message = (await gateway.ask({"model": "m", "messages": HI, **more})).error(400, "invalid_request_error")
    assert message == f"max_tokens: {told}"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b'{"model": "m", "max_tokens": NaN}'])
async def test_what_is_no_json_object_is_no_request(front: Open, body: bytes) -> None:
    async with front() as gateway:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            assert (await gateway.ask(body, path)).error(400, "invalid_request_error")


async def test_what_says_nothing_is_asked_as_it_is(front: Open) -> None:
    messages = [{"role": "user", "content": []}, {"role": "system", "content": []}, *said(text(""))]
    async with front() as gateway:
        answer = await gateway.ask(asking(messages=messages, system=""))
    assert answer.status == 200, answer.body
    assert json.loads(json.dumps(gateway.asked["messages"]))[-1] == {"role": "user", "content": ""}


# --- what Gemini gets ----------------------------------------------------------------------------------------------

YES = Reply.of_json({"candidates": [{"index": 0, "content": {"parts": [{"text": "Yes."}]}, "finishReason": "STOP"}]})


async def test_gemini_is_asked_for_the_most_that_it_knows(front: Open) -> None:
    async with front("gemini", YES, model="gemini-2.5-flash") as gateway:
        answer = await gateway.ask(asking(output_config={"effort": "max"}))
    assert answer.status == 200, answer.body
    assert gateway.asked["generationConfig"]["thinkingConfig"]["thinkingBudget"] == 24576
    assert answer.headers["X-Gatehook-Dropped-Params"] == "output_config"


async def test_gemini_hears_of_failed_tools_in_words_and_of_no_thinking(front: Open) -> None:
    messages = [*HI, *said(use("a"), role="assistant"), *said(result("a", "no such thing", is_error=True))]
    body = asking(messages=messages, tools=[LOOK], thinking={"type": "adaptive"}, output_config={"effort": "low"})
    async with front("gemini", YES, model="gemini-2.5-flash") as gateway:
        answer = await gateway.ask(body)
    assert answer.status == 200, answer.body
    (response,) = gateway.asked["contents"][-1]["parts"]
    assert response["functionResponse"]["response"] == {"result": "The tool failed: no such thing"}
    assert gateway.asked["generationConfig"]["thinkingConfig"]
    assert answer.headers["X-Gatehook-Dropped-Params"] == "thinking"
