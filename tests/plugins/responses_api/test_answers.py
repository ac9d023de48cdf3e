"""Answers, plain and streamed: every object valid by the SDK's types, and both the same."""

from typing import Any

import pytest

from gatehook_plugins.responses_api.sealing import unsealed

OpenApi = Any
Mock = Any
FUNCTIONS = [
    {"type": "function", "name": "look", "description": "d", "parameters": {"type": "object"}, "strict": False},
    {"type": "function", "name": "now", "parameters": None, "strict": None},
]


async def test_text(api: OpenApi, mock: Mock) -> None:
    async with api(
        mock('text = "Grüße 😀", usage = { prompt_tokens = 11, completion_tokens = 7, cached_tokens = 4 }')
    ) as it:
        response = await it.both()
    (item,) = response["output"]
    part = {"type": "output_text", "text": "Grüße 😀", "annotations": [], "logprobs": []}
    assert item == {"id": item["id"], "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    assert (response["status"], response["model"]) == ("completed", "m")
    assert response["usage"] == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 18,
    }


async def test_reasoning_text_and_calls_are_items_in_this_order(api: OpenApi, mock: Mock) -> None:
    calls = '[{ name = "look", arguments = { city = "Köln" }, id = "call_1" }, { name = "now", id = "call_2" }]'
    async with api(mock(f'reasoning = "I have to look.", text = "One moment.", tool_calls = {calls}')) as it:
        response = await it.both(tools=FUNCTIONS)
    thought, said, *called = response["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "I have to look."}]
    assert unsealed(thought["encrypted_content"]) == []
    assert said["content"][0]["text"] == "One moment."
    assert [(call["call_id"], call["name"], call["arguments"], call["status"]) for call in called] == [
        ("call_1", "look", '{"city":"Köln"}', "completed"),
        ("call_2", "now", "{}", "completed"),
    ]
    assert response["tools"] == FUNCTIONS


async def test_a_function_in_a_namespace_is_called_by_both_names(api: OpenApi, mock: Mock) -> None:
    space = {"type": "namespace", "name": "files", "description": "", "tools": FUNCTIONS}
    async with api(mock('tool_calls = [{ name = "files__look", id = "c1" }, { name = "look", id = "c2" }]')) as it:
        response = await it.both(tools=[*FUNCTIONS, space])
    assert [(call.get("namespace"), call["name"]) for call in response["output"]] == [("files", "look"), (None, "look")]
    assert response["tools"] == [*FUNCTIONS, space]


async def test_an_answer_that_says_nothing_has_an_empty_message(api: OpenApi, mock: Mock) -> None:
    async with api(mock('text = ""')) as it:
        response = await it.both()
    assert [part["text"] for item in response["output"] for part in item["content"]] == [""]


@pytest.mark.parametrize(("reason", "told"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
async def test_an_answer_that_was_cut_off_is_incomplete(api: OpenApi, mock: Mock, reason: str, told: str) -> None:
    async with api(mock(f'text = "Once upon", finish_reason = "{reason}"')) as it:
        response = await it.both()
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": told})
    assert [item["status"] for item in response["output"]] == ["incomplete"]


async def test_a_cap_that_reasoning_uses_up_leaves_reasoning_alone(api: OpenApi, mock: Mock) -> None:
    async with api(mock('reasoning = "a b c d e f", text = "g"')) as it:
        response = await it.both(max_output_tokens=3)
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [(item["type"], item["status"]) for item in response["output"]] == [("reasoning", "incomplete")]


async def test_the_request_is_repeated_in_the_answer(api: OpenApi, mock: Mock) -> None:
    asked: dict[str, Any] = {
        "instructions": "Be brief.",
        "max_output_tokens": 99,
        "metadata": {"run": "7"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "reasoning": {"effort": "low", "summary": "auto"},
        "safety_identifier": "s",
        "service_tier": "auto",
        "temperature": 0.5,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"},
        "tool_choice": {"type": "function", "name": "look"},
        "tools": FUNCTIONS,
        "top_p": 0.9,
        "truncation": "disabled",
        "user": "u",
    }
    async with api(mock('text = "{}"')) as it:
        response = await it.both(**asked, store=True)
    assert {name: response[name] for name in asked} == asked
    assert response["previous_response_id"] is None


async def test_what_is_left_to_the_vendor_is_null(api: OpenApi, mock: Mock) -> None:
    async with api(mock('text = "x"')) as it:
        response = await it.both()
    assert [response[name] for name in ("temperature", "top_p", "max_output_tokens", "instructions")] == [None] * 4
    assert (response["tools"], response["tool_choice"], response["parallel_tool_calls"]) == ([], "auto", True)
    assert (response["text"], response["metadata"]) == ({"format": {"type": "text"}}, {})


async def test_the_public_name_is_told_also_of_a_fallback(api: OpenApi) -> None:
    models = """
    [[models]]
    name = "m"
    vendor = "mock"
    fallbacks = ["spare"]
    options = { fault = { kind = "status", status = 500 } }
    [[models]]
    name = "spare"
    vendor = "mock"
    model = "its-own-name"
    """
    async with api(models) as it:
        assert (await it.both())["model"] == "spare"


async def test_tokens_that_the_gateway_has_counted_are_marked(api: OpenApi, mock: Mock) -> None:
    async with api(mock('text = "a b c", report_usage = false')) as it:
        told = [(await it.ask(stream=stream)).response["usage"] for stream in (False, True)]
    assert all(usage["output_tokens"] > 0 and usage["estimated"] is True for usage in told)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_from_the_cache_is_the_same(api: OpenApi, mock: Mock, bare: Any, stream: bool) -> None:
    options = 'reasoning = "so", text = "Hi", tool_calls = [{ name = "look", id = "c" }]'
    async with api(f"[plugins.cache]\n{mock(options)}") as it:
        first, second = [await it.ask(stream=stream, tools=FUNCTIONS, metadata={"n": n}) for n in "12"]
        assert second.headers["X-Cache"] == "hit"
        one, two = first.response, second.response
    assert (one.pop("metadata"), two.pop("metadata")) == ({"n": "1"}, {"n": "2"})
    assert bare(one) == bare(two)
    assert one["usage"] is not None
    assert one["id"] != two["id"]
