"""What the surface lets in, what it makes of it, and how it refuses the rest."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehook import Call, InvalidRequest, encode
from gatehook_plugins.llm_api.surface import LlmSurface

OpenLlm = Callable[..., Any]

REQUEST = make_mocked_request("POST", "/api/llm/generate")
USER = {"role": "user", "content": "Hi"}
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}, "strict": True}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def parsed(body: Any, *, always_streams: bool = False) -> Call:
    """The call that the surface makes of a body."""
    call = Call(operation="chat", surface="llm", headers={})
    LlmSurface(always_streams=always_streams).parse(call, REQUEST, body if isinstance(body, bytes) else encode(body))
    return call


def asked(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER], **fields}


PARAMETERS: list[dict[str, Any]] = [
    {"temperature": 0.7, "max_tokens": 100, "top_p": 1, "stop": ["a", "b"], "seed": -5},
    {"presence_penalty": -2, "frequency_penalty": 1.5, "n": 3, "user": "u", "logit_bias": {"5": -100}},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False},
    {"tools": [{"type": "custom", "custom": {"name": "c"}}], "tool_choice": "required"},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}},
    {"logprobs": True, "top_logprobs": 5, "reasoning_effort": "low", "metadata": {"a": "b"}, "store": False},
    {"zz_unknown": {"a": [None, 1.5, "\ud83d"]}, "top_k": 5, "seed": 12345678901234567890123},
    {},
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=lambda one: json.dumps(one)[:50])
def test_parameters_become_fields_of_the_chat_wherever_they_stand(parameters: dict[str, Any]) -> None:
    chat = asked(**parameters)
    for body in (asked(parameters=parameters), chat, asked(parameters={**parameters, "min_p": None}, top_k=None)):
        call = parsed(json.dumps(body).encode())
        assert call.payload == chat
        assert (call.model, call.stream, call.include_usage) == ("m", False, False)
        assert json.loads(call.body.raw) == chat


def test_what_stands_in_parameters_wins() -> None:
    call = parsed(asked(temperature=1, stream=True, parameters={"temperature": 0, "stream": False, "top_p": None}))
    assert (call.payload, call.stream) == (asked(temperature=0), False)
    assert parsed(asked(temperature=1, parameters={"temperature": None})).payload["temperature"] == 1


@pytest.mark.parametrize("parameters", [{}, {"stream": False}, {"stream": True}, None])
def test_the_streaming_path_always_streams(parameters: Any) -> None:
    call = parsed(asked(parameters=parameters), always_streams=True)
    assert (call.stream, call.payload["stream"]) == (True, True)


MESSAGES: list[Any] = [
    [{"role": "system", "content": "x", "name": "n"}, {"role": "developer", "content": []}, USER],
    [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "u"}}]}],
    [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]}],
    [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}, {"type": "video", "video": 7}]}],
    [USER, {"role": "assistant"}, USER, {"role": "assistant", "content": None, "refusal": "no"}],
    [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "call_1", "content": "42"}],
    [USER, {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "n"}}]}],
    [USER, {"role": "assistant", "function_call": {"name": "f"}}, {"role": "function", "name": "f", "content": None}],
    [USER, {"role": "assistant", "content": "x", "thinking_blocks": [{"type": "thinking", "signature": "s"}]}],
    [{"role": "user", "content": "", "unknown": [{}]}],
]


@pytest.mark.parametrize("messages", MESSAGES, ids=lambda messages: json.dumps(messages[-1])[:50])
def test_messages_go_through_as_they_are(messages: Any) -> None:
    assert parsed({"model": "m", "messages": messages}).payload == {"model": "m", "messages": messages}


def test_a_prompt_is_a_message() -> None:
    call = parsed({"model": "m", "prompt": "Grüße \u0000 😀", "messages": None})
    assert call.payload == {"model": "m", "messages": [{"role": "user", "content": "Grüße \u0000 😀"}]}


def said(**message: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [message]}


def with_(**parameters: Any) -> dict[str, Any]:
    return asked(parameters=parameters)


BAD: list[tuple[Any, str | None]] = [
    ([], None), ("text", None), (None, None), (7, None),
    ({}, "model"), ({"messages": [USER]}, "model"), (asked(model=None), "model"), (asked(model=""), "model"),
    (asked(model="m" * 257), "model"), (asked(model=["m"]), "model"),
    ({"model": "m"}, "messages"), (asked(messages=[]), "messages"), (asked(messages="Hi"), "messages"),
    (asked(messages=None), "messages"), (asked(messages={}), "messages"),
    ({"model": "m", "prompt": ""}, "prompt"), ({"model": "m", "prompt": ["x"]}, "prompt"),
    (asked(prompt="x"), "prompt"),
    (asked(parameters=[]), "parameters"), (asked(parameters="x"), "parameters"),
    (with_(model="other"), "parameters.model"), (with_(messages=[USER]), "parameters.messages"),
    (with_(prompt="x"), "parameters.prompt"), (with_(parameters={}), "parameters.parameters"),
    (said(), "messages[0].role"), (said(role="robot"), "messages[0].role"), (said(role=7), "messages[0].role"),
    (said(role="user"), "messages[0].content"), (said(role="user", content=7), "messages[0].content"),
    (said(role="system", content=None), "messages[0].content"), (said(role="developer"), "messages[0].content"),
    (said(role="tool", content="x"), "messages[0].tool_call_id"), (said(role="function"), "messages[0].name"),
    (said(role="tool", tool_call_id="c"), "messages[0].content"),
    (said(role="user", content=["x"]), "messages[0].content[0]"),
    (said(role="user", content=[{}]), "messages[0].content[0].type"),
    (said(role="user", content=[{"type": "text"}]), "messages[0].content[0].text"),
    (said(role="user", content=[{"type": "image_url"}]), "messages[0].content[0].image_url"),
    (said(role="user", content=[{"type": "image_url", "image_url": {}}]), "messages[0].content[0].image_url.url"),
    (said(role="user", content=[{"type": "file"}]), "messages[0].content[0].file"),
    (said(role="user", content=[{"type": "input_audio"}]), "messages[0].content[0].input_audio"),
    (said(role="assistant", content=[{"type": "refusal"}]), "messages[0].content[0].refusal"),
    (said(role="assistant", tool_calls=[{}]), "messages[0].tool_calls[0].id"),
    (said(role="assistant", tool_calls=[{"id": "c"}]), "messages[0].tool_calls[0].function"),
    (said(role="assistant", tool_calls=[{"id": "c", "function": {"name": ""}}]),
     "messages[0].tool_calls[0].function.name"),
    (with_(temperature=2.1), "parameters.temperature"), (with_(temperature="hot"), "parameters.temperature"),
    (asked(temperature=-1), "temperature"), (with_(top_p=1.1), "parameters.top_p"),
    (with_(top_p=True), "parameters.top_p"),
    (with_(max_tokens=0), "parameters.max_tokens"), (with_(max_tokens=1.5), "parameters.max_tokens"),
    (with_(n=0), "parameters.n"), (with_(n=129), "parameters.n"), (with_(stop=7), "parameters.stop"),
    (with_(stop=[7]), "parameters.stop[0]"), (with_(seed="x"), "parameters.seed"),
    (with_(stream="yes"), "parameters.stream"), (with_(stream=1), "parameters.stream"),
    (with_(stream_options=True), "parameters.stream_options"),
    (with_(tools={}), "parameters.tools"), (with_(tools=[{}]), "parameters.tools[0].type"),
    (with_(tools=[TOOL, {"type": "function"}]), "parameters.tools[1].function"),
    (asked(tools=[{"type": "function"}]), "tools[0].function"),
    (with_(tools=[{"type": "function", "function": {"name": "f", "parameters": []}}]),
     "parameters.tools[0].function.parameters"),
    (with_(tool_choice=7), "parameters.tool_choice"),
    (with_(tool_choice={"type": "function"}), "parameters.tool_choice.function"),
    (with_(response_format="json"), "parameters.response_format"),
    (with_(response_format={"type": "json_schema"}), "parameters.response_format.json_schema"),
    (with_(metadata={"k": 1}), "parameters.metadata[...]"), (with_(user=7), "parameters.user"),
    (b'{"model":"m","messages":[{"role":"\\ud800","content":"x"}]}', None),
    (b'{"model":"m","messages":[{"role":"user","content":"x"}],"zz":' + b"9" * 5000 + b"}", None),
    (b'{"model":"m","messages":[{"role":"user","content":"x"}],"zz":1e999}', None),
    (b'{"model":"m","messages":[{"role":"user","content":"x"}],"zz":NaN}', None),
    (b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}', None),
    (b"{", None), (b"\x00", None), (json.dumps(asked()).encode("utf-16"), None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "field"), BAD, ids=lambda value: str(value)[:60])
def test_a_fault_names_its_field(body: Any, field: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(body)
    assert (refused.value.status, refused.value.param) == (400, field)
    assert field is None or refused.value.message.startswith(f"{field}: ")
    assert "msgspec" not in refused.value.message
    assert "`" not in refused.value.message
    assert len(refused.value.message) < 400


def test_a_refusal_does_not_repeat_a_huge_value() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(said(role="x" * 100_000, content="y"))
    assert len(refused.value.message) < 400


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.text(max_size=8)
PARTS = st.fixed_dictionaries({"type": st.sampled_from(["text", "refusal", "image_url", "file", "x"])}, optional={
    "text": WORDS, "refusal": WORDS, "image_url": WORDS | st.fixed_dictionaries({"url": WORDS}),
    "file": st.fixed_dictionaries({}, optional={"file_data": WORDS, "file_id": WORDS})})  # fmt: skip
CALLS = st.fixed_dictionaries({"id": WORDS, "type": st.sampled_from(["function", "custom"])}, optional={
    "function": st.fixed_dictionaries({"name": WORDS}, optional={"arguments": WORDS | st.just("{}")})})  # fmt: skip
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "user", "assistant", "system", "tool"]), "content": WORDS | st.lists(PARTS)},
    optional={"tool_calls": st.lists(CALLS, max_size=2), "tool_call_id": WORDS, "name": WORDS, "zz": JUNK},
)
PARAMETERS_LIKE_REAL_ONES = st.fixed_dictionaries({}, optional={
    "temperature": st.floats(0, 2), "n": st.integers(1, 3), "stop": WORDS | st.lists(WORDS), "stream": st.booleans(),
    "max_tokens": st.integers(1, 10**30), "seed": st.integers(),
    "tool_choice": st.sampled_from(["auto", "none", "f", ""]),
    "tools": st.lists(st.just(TOOL) | st.just({"type": "x"}), max_size=2), "functions": JUNK, "function_call": JUNK,
    "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}, {"type": "x"}]),
    "logit_bias": st.dictionaries(WORDS, st.floats(-1, 1), max_size=2), "modalities": st.lists(WORDS, max_size=2),
    "reasoning_effort": WORDS, "zz": JUNK, "metadata": st.dictionaries(WORDS, WORDS, max_size=2)})  # fmt: skip
NAMES = st.sampled_from(["model", "messages", "prompt", "parameters", "temperature", "stream", "tools", "stop"])
LIKELY = st.builds(
    lambda messages, parameters: {"model": "m", "messages": messages, "parameters": parameters},
    st.lists(MESSAGE, min_size=1, max_size=3),
    PARAMETERS_LIKE_REAL_ONES,
)
SPOILT = st.builds(lambda body, junk: {**body, **junk}, LIKELY, st.dictionaries(NAMES, JUNK, max_size=2))

VENDORS = "".join(
    f'[[models]]\nname = "m"\nvendor = "{vendor}"\npriority = {place}\napi_key = "k"\nbase_url = "http://127.0.0.1:9"\n'
    for place, vendor in enumerate(("anthropic", "gemini", "mock"))
)
TABLES = "[plugins.vendor_anthropic]\n[plugins.vendor_gemini]\n"


async def test_whatever_a_client_sends_is_an_answer_or_a_4xx(llm: OpenLlm, caplog: pytest.LogCaptureFixture) -> None:
    """Through the translations of two vendors, whose upstreams are not there, to the mock's answer."""
    async with llm(TABLES + VENDORS) as gateway:
        loop = asyncio.get_running_loop()

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(body=LIKELY | SPOILT | JUNK, path=st.sampled_from(["/api/llm/generate", "/api/v1/llm/generate/stream"]))
        def send(body: Any, path: str) -> None:
            raw = json.dumps(body).encode()
            answer = asyncio.run_coroutine_threadsafe(gateway.ask(path, raw=raw), loop).result(20)
            if answer.status != 200:
                assert 400 <= answer.status < 500, (answer.body, body)
                error = answer.error(answer.status, answer.json["error"]["code"])
                assert error["request_id"] == answer.headers["X-Request-ID"]

        await asyncio.to_thread(send)
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
