"""What the surface lets in: everything OpenAI documents, and no wrong type."""

import json
import re
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request
from jsonschema import Draft202012Validator

from gatehook import Call, InvalidRequest, Operation, encode
from gatehook.testing import built
from gatehook_plugins.openai_api.openapi import openapi as openapi_of
from gatehook_plugins.openai_api.requests import ChatRequest
from gatehook_plugins.openai_api.surface import OpenAISurface

REQUEST = make_mocked_request("POST", "/v1/chat/completions")
USER = {"role": "user", "content": "Hi"}
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}, "strict": True}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def parsed(body: Any, operation: Operation = "chat") -> Call:
    """The call that the surface makes of a body."""
    call = Call(operation=operation, surface="openai", headers={})
    OpenAISurface().parse(call, REQUEST, body if isinstance(body, bytes) else encode(body))
    return call


def openapi() -> dict[str, Any]:
    """The document of a gateway with this plugin alone."""
    return openapi_of(built("[plugins.openai_api]").routes)


def validator(name: str) -> Draft202012Validator:
    """The published schema of one request."""
    schemas = openapi()["components"]["schemas"]
    text = json.dumps({**schemas[name], "$defs": schemas}).replace("#/components/schemas/", "#/$defs/")
    return Draft202012Validator(json.loads(text))


CHAT_FIELDS: list[dict[str, Any]] = [
    {"audio": {"voice": "alloy", "format": "wav"}},
    {"frequency_penalty": -2.0},
    {"presence_penalty": 2},
    {"function_call": "auto"},
    {"function_call": {"name": "f"}},
    {"functions": [FUNCTION]},
    {"logit_bias": {"50256": -100, "1": 0.5}},
    {"logprobs": True, "top_logprobs": 20},
    {"logprobs": False, "top_logprobs": 0},
    {"max_completion_tokens": 1},
    {"max_tokens": 4096},
    {"metadata": {"k": "v"}},
    {"modalities": ["text", "audio"]},
    {"moderation": {"zz": 1}},
    {"n": 1},
    {"n": 128},
    {"parallel_tool_calls": False},
    {"prediction": {"type": "content", "content": "x"}},
    {"prompt_cache_key": "k"},
    {"prompt_cache_retention": "24h"},
    {"reasoning_effort": "minimal"},
    {"reasoning_effort": "xhigh"},
    {"response_format": {"type": "text"}},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {
        "name": "s", "schema": {"type": "object"}, "strict": True, "description": "d"}}},
    {"safety_identifier": "u"},
    {"seed": -9223372036854775808},
    {"seed": 123456789012345678901234567890},
    {"service_tier": "priority"},
    {"stop": "x"},
    {"stop": ["a", "b"]},
    {"stop": []},
    {"store": True},
    {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
    {"stream": True, "stream_options": {}},
    {"stream": False},
    {"temperature": 0},
    {"temperature": 2},
    {"tool_choice": "none"},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
    {"tools": [TOOL, {"type": "custom", "custom": {"name": "c", "format": {"type": "text"}}}]},
    {"tools": [{"type": "function", "function": {"name": "f"}}]},
    {"tools": []},
    {"top_p": 0},
    {"top_p": 1.0},
    {"user": ""},
    {"verbosity": "low"},
    {"web_search_options": {}},
    {"zz_unknown": {"a": [None, 1.5, "x"]}},
]  # fmt: skip
MESSAGES: list[Any] = [
    [{"role": "system", "content": "x", "name": "n"}, USER],
    [{"role": "developer", "content": [{"type": "text", "text": "x"}]}, USER],
    [{"role": "user", "content": ""}],
    [{"role": "user", "content": []}],
    [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "u"}}]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}}]}],
    [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]}],
    [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}],
    [{"role": "user", "content": [{"type": "file", "file": {"file_data": "AA", "filename": "a.pdf"}}]}],
    [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "u"}}]}],
    [USER, {"role": "assistant", "content": "x"}],
    [USER, {"role": "assistant"}],
    [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}],
    [USER, {"role": "assistant", "content": "", "tool_calls": []}],
    [USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
    [USER, {"role": "assistant", "refusal": "no", "audio": {"id": "a"}}],
    [USER, {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}],
    [USER, {"role": "assistant", "content": "x", "reasoning_content": "hm", "thinking_blocks": [
        {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "redacted_thinking", "data": "d"}]}],
    [USER, {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "n", "input": "x"}}]}],
    [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "call_1", "content": "42"}],
    [USER, {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "42"}]}],
    [USER, {"role": "function", "name": "f", "content": None}],
    [{"content": "the role comes last", "role": "user"}],
]  # fmt: skip
OTHERS: list[tuple[Operation, str, dict[str, Any]]] = [
    ("completions", "CompletionRequest", fields)
    for fields in (
        {"prompt": "x"}, {"prompt": ["x", "y"]}, {"prompt": [1, 2, 3]}, {"prompt": [[1, 2], [3]]}, {"prompt": None}, {},
        {"prompt": "x", "best_of": 2, "echo": True, "logprobs": 5, "max_tokens": 0, "n": 2, "suffix": "s", "seed": 1},
        {"prompt": "x", "stop": None, "temperature": 0.5, "top_p": 1, "user": "u", "logit_bias": {"1": 1}},
        {"prompt": "x", "stream": True, "stream_options": {"include_usage": True}, "presence_penalty": 1},
    )
] + [
    ("embeddings", "EmbeddingRequest", fields)
    for fields in (
        {"input": "x"}, {"input": ["x", "y"]}, {"input": [1, 2]}, {"input": [[1], [2, 3]]}, {"input": [""]},
        {"input": "x", "encoding_format": "base64", "dimensions": 256, "user": "u"},
        {"input": "x", "encoding_format": "float", "input_type": "query"},
    )
]  # fmt: skip


@pytest.mark.parametrize("fields", CHAT_FIELDS, ids=lambda fields: json.dumps(fields)[:60])
def test_every_documented_field_is_let_through(fields: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [USER], **fields}
    call = parsed(body)
    assert (call.model, call.body.raw) == ("m", encode(body))
    assert call.stream is (fields.get("stream") is True)
    assert validator("ChatRequest").is_valid(body)


@pytest.mark.parametrize("name", sorted(set().union(*CHAT_FIELDS)))
def test_an_explicit_null_is_the_same_as_nothing(name: str) -> None:
    call = parsed({"model": "m", "messages": [USER], name: None})
    assert (call.stream, call.include_usage) == (False, False)


@pytest.mark.parametrize("messages", MESSAGES, ids=lambda messages: json.dumps(messages[-1])[:60])
def test_every_documented_message_is_let_through(messages: Any) -> None:
    body = {"model": "m", "messages": messages}
    assert parsed(body).payload == body
    assert validator("ChatRequest").is_valid(body)


@pytest.mark.parametrize(("operation", "schema", "fields"), OTHERS)
def test_completions_and_embeddings_take_their_fields(
    operation: Operation, schema: str, fields: dict[str, Any]
) -> None:
    body = {"model": "m", **fields}
    assert parsed(body, operation).payload == body
    assert validator(schema).is_valid(body)


@pytest.mark.parametrize(
    ("prompt", "times"), [(None, 1), ("a", 1), ([], 1), (["a"], 1), (["a", "b", "c"], 3), ([1, 2], 1), ([[1], [2]], 2)]
)
def test_each_of_several_prompts_of_a_completion_is_answered(prompt: Any, times: int) -> None:
    assert parsed({"model": "m", "prompt": prompt}, "completions").choices == times
    assert parsed({"model": "m", "prompt": prompt, "n": 2, "best_of": 5}, "completions").choices == 5 * times


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [USER], **fields}


def said(*messages: Any) -> dict[str, Any]:
    return {"model": "m", "messages": list(messages)}


def part(**fields: Any) -> dict[str, Any]:
    return said({"role": "user", "content": [fields]})


BAD: list[tuple[Any, str | None]] = [
    ([], None), ("text", None), (None, None), (17, None), ({}, "model"),
    ({"model": "m"}, "messages"),
    ({"messages": [USER]}, "model"),
    (chat(model=None), "model"), (chat(model=7), "model"), (chat(model=""), "model"), (chat(model="m" * 257), "model"),
    (chat(model=["m"]), "model"),
    (chat(messages=[]), "messages"), (chat(messages=None), "messages"), (chat(messages="Hi"), "messages"),
    (chat(messages={}), "messages"), (chat(messages=USER), "messages"),
    (said("Hi"), "messages[0]"), (said(None), "messages[0]"), (said([]), "messages[0]"),
    (said({}), "messages[0].role"), (said({"content": "x"}), "messages[0].role"),
    (said({"role": "robot", "content": "x"}), "messages[0].role"),
    (said({"role": 7, "content": "x"}), "messages[0].role"), (said({"role": None}), "messages[0].role"),
    (said({"role": "user"}), "messages[0].content"), (said({"role": "user", "content": None}), "messages[0].content"),
    (said({"role": "user", "content": 7}), "messages[0].content"),
    (said({"role": "user", "content": {}}), "messages[0].content"),
    (said({"role": "user", "content": ["x"]}), "messages[0].content[0]"),
    (said({"role": "user", "content": "x", "name": 7}), "messages[0].name"),
    (said({"role": "system"}), "messages[0].content"),
    (said({"role": "developer", "content": None}), "messages[0].content"),
    (said({"role": "tool", "content": "x"}), "messages[0].tool_call_id"),
    (said({"role": "tool", "content": "x", "tool_call_id": ""}), "messages[0].tool_call_id"),
    (said({"role": "tool", "content": "x", "tool_call_id": 7}), "messages[0].tool_call_id"),
    (said({"role": "tool", "tool_call_id": "c"}), "messages[0].content"),
    (said({"role": "function", "content": "x"}), "messages[0].name"),
    (said({"role": "assistant", "content": 7}), "messages[0].content"),
    (said({"role": "assistant", "tool_calls": {}}), "messages[0].tool_calls"),
    (said({"role": "assistant", "tool_calls": [{}]}), "messages[0].tool_calls[0].id"),
    (said({"role": "assistant", "tool_calls": [{"id": ""}]}), "messages[0].tool_calls[0].id"),
    (said({"role": "assistant", "tool_calls": [{"id": "c", "function": {}}]}),
     "messages[0].tool_calls[0].function.name"),
    (said({"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {}}}]}),
     "messages[0].tool_calls[0].function.arguments"),
    (said(USER, {"role": "assistant", "tool_calls": [{"id": "c"}]}), "messages[1].tool_calls[0].function"),
    (said({"role": "assistant", "function_call": {"arguments": "{}"}}), "messages[0].function_call.name"),
    (part(text="x"), "messages[0].content[0].type"), (part(type=7), "messages[0].content[0].type"),
    (part(type="text"), "messages[0].content[0].text"), (part(type="text", text=7), "messages[0].content[0].text"),
    (part(type="image_url"), "messages[0].content[0].image_url"),
    (part(type="image_url", image_url={}), "messages[0].content[0].image_url.url"),
    (part(type="image_url", image_url={"url": ""}), "messages[0].content[0].image_url.url"),
    (part(type="image_url", image_url=7), "messages[0].content[0].image_url"),
    (part(type="input_audio"), "messages[0].content[0].input_audio"),
    (part(type="input_audio", input_audio={"data": "AA"}), "messages[0].content[0].input_audio.format"),
    (part(type="file"), "messages[0].content[0].file"), (part(type="refusal"), "messages[0].content[0].refusal"),
    (chat(stream="true"), "stream"), (chat(stream=1), "stream"), (chat(stream=[]), "stream"),
    (chat(stream_options={"include_usage": True}), "stream_options"),
    (chat(stream=False, stream_options={}), "stream_options"),
    (chat(stream=True, stream_options=True), "stream_options"),
    (chat(stream=True, stream_options={"include_usage": "yes"}), "stream_options.include_usage"),
    (chat(temperature=2.1), "temperature"), (chat(temperature=-0.1), "temperature"),
    (chat(temperature="hot"), "temperature"),
    (b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":1e999}', "temperature"),
    (chat(top_p=1.1), "top_p"), (chat(top_p=True), "top_p"),
    (chat(max_tokens=0), "max_tokens"), (chat(max_tokens=-1), "max_tokens"), (chat(max_tokens=1.5), "max_tokens"),
    (chat(max_tokens="9"), "max_tokens"), (chat(max_completion_tokens=0), "max_completion_tokens"),
    (chat(n=0), "n"), (chat(n=129), "n"), (chat(n="1"), "n"),
    (chat(stop=7), "stop"), (chat(stop=[7]), "stop[0]"), (chat(stop={}), "stop"),
    (chat(seed="x"), "seed"), (chat(seed=1.5), "seed"),
    (chat(presence_penalty="x"), "presence_penalty"), (chat(frequency_penalty=[]), "frequency_penalty"),
    (chat(logit_bias=[]), "logit_bias"), (chat(logit_bias={"1": "x"}), "logit_bias[...]"),
    (chat(logprobs=5), "logprobs"), (chat(top_logprobs=-1), "top_logprobs"),
    (chat(tools={}), "tools"), (chat(tools=["f"]), "tools[0]"), (chat(tools=[{}]), "tools[0].type"),
    (chat(tools=[{"type": "function"}]), "tools[0].function"),
    (chat(tools=[TOOL, {"type": "function"}]), "tools[1].function"),
    (chat(tools=[{"type": "function", "function": {}}]), "tools[0].function.name"),
    (chat(tools=[{"type": "function", "function": {"name": ""}}]), "tools[0].function.name"),
    (chat(tools=[{"type": "function", "function": {"name": "f", "parameters": []}}]), "tools[0].function.parameters"),
    (chat(tools=[{"type": "function", "function": {"name": "f", "strict": "yes"}}]), "tools[0].function.strict"),
    (chat(tool_choice=7), "tool_choice"), (chat(tool_choice={}), "tool_choice.type"),
    (chat(tool_choice={"type": "function"}), "tool_choice.function"),
    (chat(tool_choice={"type": "function", "function": {}}), "tool_choice.function.name"),
    (chat(parallel_tool_calls="no"), "parallel_tool_calls"),
    (chat(response_format="json"), "response_format"), (chat(response_format={}), "response_format.type"),
    (chat(response_format={"type": "json_schema"}), "response_format.json_schema"),
    (chat(response_format={"type": "json_schema", "json_schema": {}}), "response_format.json_schema.name"),
    (chat(response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": []}}),
     "response_format.json_schema.schema"),
    (chat(user=7), "user"), (chat(metadata=[]), "metadata"), (chat(metadata={"k": 1}), "metadata[...]"),
    (chat(modalities="text"), "modalities"), (chat(store="yes"), "store"), (chat(service_tier=1), "service_tier"),
    (chat(reasoning_effort=3), "reasoning_effort"),
]  # fmt: skip
BAD_OTHERS: list[tuple[Operation, dict[str, Any], str]] = [
    ("completions", {"prompt": {}}, "prompt"), ("completions", {"prompt": 7}, "prompt"),
    ("completions", {"prompt": [1.5]}, "prompt[0]"), ("completions", {"prompt": "x", "logprobs": True}, "logprobs"),
    ("completions", {"prompt": "x", "max_tokens": -1}, "max_tokens"), ("completions", {"prompt": "x", "n": 0}, "n"),
    ("completions", {"prompt": "x", "echo": "yes"}, "echo"), ("completions", {"prompt": "x", "best_of": 0}, "best_of"),
    ("completions", {"prompt": "x", "stream_options": {}}, "stream_options"),
    ("embeddings", {}, "input"), ("embeddings", {"input": ""}, "input"), ("embeddings", {"input": []}, "input"),
    ("embeddings", {"input": None}, "input"), ("embeddings", {"input": {}}, "input"),
    ("embeddings", {"input": ["x"] * 2049}, "input"), ("embeddings", {"input": [None]}, "input[0]"),
    ("embeddings", {"input": "x", "encoding_format": "int8"}, "encoding_format"),
    ("embeddings", {"input": "x", "encoding_format": 7}, "encoding_format"),
    ("embeddings", {"input": "x", "dimensions": 0}, "dimensions"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param"), BAD, ids=lambda one: str(one)[:60])
def test_a_bad_body_is_refused_naming_the_field(body: Any, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(body)
    assert (refused.value.status, refused.value.param) == (400, param)
    if param:
        assert refused.value.message.startswith(f"{param}: ")
    call = Call("chat", "openai", {})
    told = json.loads(OpenAISurface().error(call, refused.value))
    assert set(told) == {"error"}
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert (told["error"]["type"], told["error"]["param"]) == ("invalid_request_error", param)
    assert not re.search(r"[`$]|msgspec|Struct|<class", told["error"]["message"])


@pytest.mark.parametrize(("operation", "fields", "param"), BAD_OTHERS)
def test_bad_completions_and_embeddings_are_refused_naming_the_field(
    operation: Operation, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed({"model": "m", **fields}, operation)
    assert refused.value.param == param


# Of the rules only those that a JSON Schema can tell.
BY_TYPE = [
    body for body, param in BAD if param in ("model", "messages", "messages[0]", "messages[0].role", "stop", "n")
]


@pytest.mark.parametrize("body", BY_TYPE)
def test_the_published_schema_refuses_what_the_surface_refuses_by_type(body: Any) -> None:
    assert not validator("ChatRequest").is_valid(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"hello",
        b"\x00",
        b'{"model":"m"',
        b'{"model":"m",}',
        b"{'model':'m'}",
        b'{"model":"m"} {}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"zz":NaN}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"zz":Infinity}',
        b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"zz":"\xff"}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"z\xff":1}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"zz":"\xed\xa0\x80"}',
        b'{"model":"m","messages":[{"role":"user","content":"x\n"}]}',
        '{"model":"m","messages":[{"role":"user","content":"x"}]}'.encode("utf-16"),
        '{"model":"m","messages":[{"role":"user","content":"x"}]}'.encode("utf-16-be"),
        '{"model":"m","messages":[{"role":"user","content":"x"}]}'.encode("utf-32-le"),
        b'{"a":' * 100_000,
        b"[" * 100_000,
    ],
    ids=lambda body: str(body)[:40],
)
@pytest.mark.parametrize("operation", ["chat", "completions", "embeddings"])
def test_what_is_no_json_in_utf8_is_refused(body: bytes, operation: Operation) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(body, operation)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "content",
    ["9" * 5000, "Grüße 😀", "\ud83d", "\u0000", "\\u0000", '{"model":"x"}', "\x7f\u2028", "[" * 500],
)
def test_any_text_is_let_through_as_it_came(content: str) -> None:
    raw = json.dumps(chat(messages=[{"role": "user", "content": content}])).encode()
    call = parsed(raw)
    assert call.body.raw == raw
    assert call.payload["messages"][0]["content"] == content


@pytest.mark.parametrize("zz", [b'"\\ud800"', b"123456789012345678901234567890", b"-0.0", b"9" * 4000, b"1e-999"])
def test_what_was_let_in_can_be_decoded_later(zz: bytes) -> None:
    assert "zz" in parsed(b'{"model":"m","messages":[{"role":"user","content":"x"}],"zz":' + zz + b"}").payload


@pytest.mark.parametrize("zz", [b"1e400", b"9" * 5000])
def test_an_unknown_field_that_nobody_can_hold_is_refused_when_it_must_be_read(zz: bytes) -> None:
    call = parsed(b'{"model":"m","messages":[{"role":"user","content":"x"}],"zz":' + zz + b"}")
    with pytest.raises(InvalidRequest) as refused:
        _ = call.payload
    assert refused.value.code == "invalid_json"


def test_the_last_of_two_equal_keys_counts() -> None:
    assert parsed(b'{"model":"a","messages":[{"role":"user","content":"x"}],"model":"b"}').model == "b"


def refs(value: Any) -> set[str]:
    """Every $ref in a document."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(refs(one) for one in value.values()))
    return set().union(*(refs(one) for one in value)) if isinstance(value, list) else set()


def test_the_openapi_document_is_well_formed() -> None:
    document = json.loads(encode(openapi()))
    assert document["openapi"].startswith("3.1.")
    assert {"title", "version"} <= set(document["info"])
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for reference in refs(document):
        place = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
    seen = set()
    for path, item in document["paths"].items():
        assert path.startswith("/")
        assert set(re.findall(r"{(\w+)}", path)) == {one["name"] for one in item.get("parameters", [])}
        for method, operation in item.items():
            if method == "parameters":
                continue
            seen.add((method, path))
            assert operation["summary"]
            assert all(re.fullmatch(r"\d{3}", status) for status in operation["responses"])
            assert all(answer["description"] for answer in operation["responses"].values())
            for answer in operation["responses"].values():
                for media in answer.get("content", {}).values():
                    Draft202012Validator.check_schema(media.get("schema", {}))
    assert ("post", "/v1/chat/completions") in seen


def test_every_checked_field_is_in_the_published_schema() -> None:
    properties = openapi()["components"]["schemas"]["ChatRequest"]["properties"]
    assert set(properties) == {field.encode_name for field in msgspec.structs.fields(ChatRequest)}
