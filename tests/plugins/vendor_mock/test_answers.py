"""What the mock says, plain and streamed: by its options, its script, and what it is asked."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gatehook import Attempt, Chunk, InvalidRequest, Usage, Vendor
from gatehook.testing import attempt, built
from gatehook_plugins.vendor_mock import VendorMock
from gatehook_plugins.vendor_mock.answer import GREETING
from gatehook_plugins.vendor_mock.vendor import MockVendor

HI = [{"role": "user", "content": "Hi there"}]
PARTS = [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]
CALL_F = {"name": "f", "arguments": {"a": 1}}


def chat(options: Mapping[str, Any] | None = None, *, cap: int | None = None, **payload: Any) -> Attempt:
    body = {"model": "public", "messages": HI, **payload}
    return attempt(body, options=options or {}, max_tokens=cap, vendor="mock")


async def say(options: Mapping[str, Any] | None = None, **payload: Any) -> dict[str, Any]:
    return (await MockVendor().complete(chat(options, **payload))).data


async def first(options: Mapping[str, Any] | None = None, **payload: Any) -> dict[str, Any]:
    choice: dict[str, Any] = (await say(options, **payload))["choices"][0]
    return choice


async def text(options: Mapping[str, Any] | None = None, **payload: Any) -> Any:
    return (await first(options, **payload))["message"]["content"]


async def batches(one: Attempt, vendor: MockVendor | None = None) -> list[Sequence[Chunk]]:
    return [batch async for batch in (vendor or MockVendor()).stream(one)]


async def chunks(options: Mapping[str, Any] | None = None, **payload: Any) -> list[Chunk]:
    return [chunk for batch in await batches(chat(options, stream=True, **payload)) for chunk in batch]


def deltas(stream: Sequence[Chunk], index: int = 0) -> list[dict[str, Any]]:
    return [c["delta"] for chunk in stream for c in chunk.data["choices"] if c["index"] == index]


def joined(stream: Sequence[Chunk], index: int = 0, key: str = "content") -> str:
    return "".join(delta.get(key) or "" for delta in deltas(stream, index))


def reasons(stream: Sequence[Chunk], index: int = 0) -> list[str]:
    return [
        c["finish_reason"]
        for chunk in stream
        for c in chunk.data["choices"]
        if c["index"] == index and c["finish_reason"] is not None
    ]


def test_the_plugin_offers_one_vendor_called_mock() -> None:
    (vendor,) = VendorMock(VendorMock.Settings()).register_vendors(built(""))
    assert isinstance(vendor, Vendor)
    assert vendor.name == "mock"
    assert vendor.operations == {"chat", "completions", "embeddings", "images"}
    assert vendor.parameters == {}


async def test_without_options_it_greets_and_repeats() -> None:
    assert await text() == f"{GREETING} You said: Hi there"
    assert await text(messages=[]) == GREETING


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mode": "echo"}, "Hi there"),
        ({"mode": "echo", "text": "You: "}, "You: Hi there"),
        ({"text": "Paris."}, "Paris."),
        ({"text": ""}, ""),
        ({"mode": "fixed", "text": "Paris."}, "Paris."),
        ({"mode": "fixed"}, GREETING),
        ({"reasoning": "Hm."}, f"{GREETING} You said: Hi there"),
        ({"script": [{"text": "one"}]}, "one"),
        ({"script": [{}]}, GREETING),
    ],
)
async def test_what_is_said_follows_the_options(options: Mapping[str, Any], expected: str) -> None:
    assert await text(options) == expected


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}], "one"),
        ([{"role": "user", "content": "one"}, {"role": "tool", "tool_call_id": "x", "content": "22 °C"}], "22 °C"),
        ([{"role": "system", "content": "be brief"}], ""),
        ([{"role": "user", "content": PARTS}], "a b"),
        ([{"role": "user", "content": None}], ""),
        ([{"role": "user", "content": "\ud83d"}], "\ud83d"),
    ],
)  # fmt: skip
async def test_the_last_words_of_a_user_or_tool_are_repeated(messages: Any, expected: str) -> None:
    assert await text({"mode": "echo"}, messages=messages) == expected


async def test_a_plain_answer_has_the_shape_of_openai() -> None:
    body = await say({"text": "a b"})
    assert body["id"].startswith("chatcmpl-")
    assert (body["object"], body["model"], body["system_fingerprint"]) == ("chat.completion", "public", None)
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "a b", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"] == 4


async def test_the_script_is_played_by_request_and_begins_again() -> None:
    vendor = MockVendor()
    one = chat({"script": [{"text": "one"}, {"tool_calls": [CALL_F]}, {"text": "three"}]})
    said = [(await vendor.complete(one)).data["choices"][0] for _ in range(4)]
    assert [choice["message"]["content"] for choice in said] == ["one", None, "three", "one"]
    assert said[1]["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}


async def test_plain_and_streamed_requests_advance_one_script() -> None:
    vendor = MockVendor()
    one = chat({"script": [{"text": "one"}, {"text": "two"}]})
    await vendor.complete(one)
    assert joined([chunk for batch in await batches(one, vendor) for chunk in batch]) == "two"


async def test_deployments_are_counted_apart() -> None:
    vendor = MockVendor()
    options = {"script": [{"text": "one"}, {"text": "two"}]}
    for key in ("a#1", "a#2"):
        one = attempt({"messages": HI}, options=options, key=key)
        assert (await vendor.complete(one)).data["choices"][0]["message"]["content"] == "one"


async def test_changed_options_count_from_the_beginning() -> None:
    vendor = MockVendor()
    await vendor.complete(chat({"script": [{"text": "one"}, {"text": "two"}]}))
    assert (await vendor.complete(chat({"text": "new"}))).data["choices"][0]["message"]["content"] == "new"


async def test_n_gives_that_many_choices_and_counts_them_all() -> None:
    body = await say({"text": "a b c"}, n=3)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert body["usage"]["completion_tokens"] == 9
    stream = await chunks({"text": "a b c"}, n=3)
    assert [joined(stream, index) for index in range(3)] == ["a b c"] * 3
    assert [reasons(stream, index) for index in range(3)] == [["stop"]] * 3
    assert [chunk.data["choices"][0]["index"] for chunk in stream[:4]] == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("c", "a b "),
        ("a", ""),
        (["x", "b"], "a "),
        (["c", "b"], "a "),
        (["x"], "a b c d"),
        ([], "a b c d"),
        ("", "a b c d"),
    ],
)
async def test_the_text_ends_before_the_first_stop_sequence(stop: Any, expected: str) -> None:
    choice = await first({"text": "a b c d"}, stop=stop)
    assert (choice["message"]["content"], choice["finish_reason"]) == (expected, "stop")
    assert joined(await chunks({"text": "a b c d"}, stop=stop)) == expected


@pytest.mark.parametrize(
    ("limits", "expected", "reason"),
    [
        ({"max_tokens": 2}, "a b", "length"),
        ({"max_completion_tokens": 3}, "a b c", "length"),
        ({"max_completion_tokens": 3, "max_tokens": 1}, "a b c", "length"),
        ({"max_tokens": 4}, "a b c d", "stop"),
        ({"max_tokens": None}, "a b c d", "stop"),
    ],
)
async def test_a_limit_of_tokens_cuts_the_text(limits: Any, expected: str, reason: str) -> None:
    body = await say({"text": "a b c d"}, **limits)
    choice = body["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (expected, reason)
    assert body["usage"]["completion_tokens"] == len(expected.split())
    stream = await chunks({"text": "a b c d"}, **limits)
    assert (joined(stream), reasons(stream)) == (expected, [reason])


@pytest.mark.parametrize(("asked", "expected"), [(None, "a b"), (1, "a"), (4, "a b")])
async def test_the_deployments_own_limit_is_above_the_requests(asked: int | None, expected: str) -> None:
    one = chat({"text": "a b c d"}, cap=2, max_tokens=asked)
    assert (await MockVendor().complete(one)).data["choices"][0]["message"]["content"] == expected


async def test_thinking_may_eat_the_whole_limit() -> None:
    body = await say({"reasoning": "let me think", "text": "Paris"}, max_tokens=2)
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "content": "",
        "refusal": None,
        "reasoning_content": "let me",
    }
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


async def test_reasoning_comes_before_the_text() -> None:
    message = (await first({"reasoning": "let me think", "text": "Paris"}))["message"]
    assert (message["reasoning_content"], message["content"]) == ("let me think", "Paris")
    stream = await chunks({"reasoning": "let me think", "text": "Paris"})
    assert joined(stream, key="reasoning_content") == "let me think"
    kinds = ["reasoning" if "reasoning_content" in delta else "text" for delta in deltas(stream)[:-1]]
    assert kinds == ["reasoning"] * 3 + ["text"]


async def test_streamed_tool_calls_are_numbered_and_their_arguments_joined() -> None:
    options = {"text": "ok", "tool_calls": [CALL_F, {"name": "g", "arguments": {"b": "two words"}}], "chunk_size": 4}
    stream = await chunks(options)
    found: dict[int, dict[str, str]] = {}
    for delta in deltas(stream):
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                assert call["type"] == "function"
                assert call["function"]["arguments"] == ""
                found[call["index"]] = {"name": call["function"]["name"], "arguments": ""}
            else:
                assert "name" not in call["function"]
                found[call["index"]]["arguments"] += call["function"]["arguments"]
    assert found == {
        0: {"name": "f", "arguments": '{"a":1}'},
        1: {"name": "g", "arguments": '{"b":"two words"}'},
    }
    assert reasons(stream) == ["tool_calls"]


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


CONFORMING = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


@pytest.mark.parametrize(
    ("options", "wanted", "expected"),
    [
        ({}, {"type": "text"}, f"{GREETING} You said: Hi there"),
        ({"text": "Hello"}, {"type": "json_object"}, '{"text":"Hello"}'),
        ({"text": '{"a":1}'}, {"type": "json_object"}, '{"a":1}'),
        ({}, CONFORMING, '{"name":"text","age":0}'),
        ({"text": "no"}, CONFORMING, '{"name":"text","age":0}'),
        ({"text": '{"a":1}'}, CONFORMING, '{"a":1}'),
        ({"mode": "echo"}, {"type": "json_schema", "json_schema": {"name": "x"}}, '{"text":"Hi there"}'),
    ],
)
async def test_json_is_answered_where_json_is_asked_for(options: Any, wanted: Any, expected: str) -> None:
    assert await text(options, response_format=wanted) == expected
    assert joined(await chunks(options, response_format=wanted)) == expected


@pytest.mark.parametrize(
    ("payload", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": ["hi"]}, "messages"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"n": "2"}, "n"),
        ({"stop": 5}, "stop"),
        ({"stop": [5]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "g"}}],
                "tool_choice": {"type": "function", "function": {"name": "f"}},
            },
            "tool_choice",
        ),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}}, "response_format"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"minLength": 10**12, "type": "string"}},
                }
            },
            "response_format",
        ),
    ],
)
async def test_what_cannot_be_understood_is_refused_by_name(payload: Mapping[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await say(**payload)
    assert caught.value.param == param
    with pytest.raises(InvalidRequest):
        await chunks(**payload)


@pytest.mark.parametrize(
    "name", ["n", "stop", "max_tokens", "max_completion_tokens", "tools", "tool_choice", "response_format"]
)
async def test_null_is_the_same_as_absent(name: str) -> None:
    assert await text({"text": "a"}, **{name: None}) == "a"


async def test_seed_and_unknown_parameters_change_nothing() -> None:
    assert await text({"text": "a"}, seed=7, temperature=2, made_up={"x": 1}) == "a"


async def test_usage_counts_words_and_can_be_overridden_in_part() -> None:
    counted = await MockVendor().complete(chat({"text": "a b c", "reasoning": "hm"}))
    assert counted.usage == Usage(prompt_tokens=2, completion_tokens=4, reasoning_tokens=1)
    options = {"text": "a b c", "usage": {"prompt_tokens": 100, "cached_tokens": 60, "reasoning_tokens": 2}}
    told = await MockVendor().complete(chat(options))
    assert told.usage == Usage(prompt_tokens=100, completion_tokens=3, cached_tokens=60, reasoning_tokens=2)
    assert told.data["usage"]["prompt_tokens_details"] == {"cached_tokens": 60}


async def test_a_vendor_that_tells_no_usage_can_be_rehearsed() -> None:
    told = await MockVendor().complete(chat({"report_usage": False}))
    assert (told.usage, told.data["usage"]) == (None, None)
    assert not any(chunk.usage_only for chunk in await chunks({"report_usage": False}))


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter"])
async def test_the_finish_reason_can_be_overridden(reason: str) -> None:
    assert (await first({"text": "a", "finish_reason": reason}))["finish_reason"] == reason
    assert reasons(await chunks({"text": "a", "finish_reason": reason})) == [reason]


async def test_stop_with_tool_calls_is_tool_calls_plain_and_streamed() -> None:
    options = {"tool_calls": [CALL_F], "finish_reason": "stop"}
    assert (await first(options))["finish_reason"] == "tool_calls"
    assert reasons(await chunks(options)) == ["tool_calls"]


async def test_a_stream_keeps_openais_invariants() -> None:
    stream = await chunks({"text": "a b c"}, stream_options={"include_usage": True})
    bodies = [chunk.data for chunk in stream]
    assert len({(body["id"], body["created"], body["model"], body["object"]) for body in bodies}) == 1
    assert bodies[0]["object"] == "chat.completion.chunk"
    assert [delta.get("role") for delta in deltas(stream)] == ["assistant", None, None, None]
    assert deltas(stream)[-1] == {}
    assert [chunk.finished for chunk in stream] == [False, False, False, True, False]
    assert [chunk.content for chunk in stream] == [True, True, True, False, False]
    assert bodies[-1]["choices"] == []
    assert [body["usage"] is None for body in bodies] == [True] * 4 + [False]
    assert stream[-1].usage == Usage(2, 3)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (None, ["Grüße", " an", " alle."]),
        (1, list("Grüße an alle.")),
        (4, ["Grüß", "e an", " all", "e."]),
        (99, ["Grüße an alle."]),
    ],
)
async def test_chunks_have_the_size_that_was_asked_for(size: int | None, expected: list[str]) -> None:
    options = {"text": "Grüße an alle."} | ({} if size is None else {"chunk_size": size})
    found = await batches(chat(options, stream=True))
    assert [delta["content"] for batch in found[:-1] for delta in deltas(batch)] == expected
    assert all(len(batch) == 1 for batch in found[:-1])


async def test_an_empty_answer_still_has_a_role_and_an_end() -> None:
    stream = await chunks({"text": ""})
    assert deltas(stream) == [{"role": "assistant"}]
    assert reasons(stream) == ["stop"]


async def test_whitespace_survives_being_cut_into_words() -> None:
    said = "\n  a\tb  \n\nc "
    assert joined(await chunks({"text": said})) == said
