"""What the vendor is sent: the client's bytes, but for the model's name and what accounting needs."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehook import Attempt
from gatehook.testing import Replay, ReplayEgress, attempt
from gatehook_plugins.vendor_openai.vendor import OpenAIVendor

Ask = Callable[..., Any]

PLAIN = [
    b'{"model":"public","messages":[{"role":"user","content":"Hi"}]}',
    b'{"messages":[],"model":"public","zz_unknown":{"deep":[1.0,1e5,-0.0,{"k":null}]},"n":1}',
    b'{ "model" : "public",\n  "seed": 123456789012345678901234567890, "temperature": 0.70 }\r\n',
    b'{"model":"public","logit_bias":{"50256":-100.000},"stop":null,"x":1,"x":2}',
    '{"model":"public","messages":[{"role":"user","content":"Grüße \\ud83d \\u00e9 😀"}]}'.encode(),
]


@pytest.mark.parametrize("raw", PLAIN)
async def test_a_plain_request_goes_through_byte_for_byte_but_for_the_model(ask: Ask, raw: bytes) -> None:
    run = await ask(raw)
    assert run.error is None
    assert run.sent.body == raw.replace(b'"public"', b'"upstream-model"', 1)


async def test_a_deployment_that_changed_under_its_key_is_called_as_it_is_now() -> None:
    egress = ReplayEgress(Replay(b'{"choices":[{"message":{"role":"assistant","content":"Hi"}}]}'))
    vendor = OpenAIVendor(egress)
    one = attempt({"model": "m", "messages": []}, base_url="http://old.test/v1")
    await vendor.complete(one)
    other = replace(one.target, base_url="http://new.test/v1", options={"headers": {"X-New": "1"}})
    await vendor.complete(Attempt(one.call, other))
    old, new = egress.requests
    assert (old.path, new.path) == ("http://old.test/v1/chat/completions", "http://new.test/v1/chat/completions")
    assert "X-New" not in old.headers
    assert new.headers["X-New"] == "1"


@pytest.mark.parametrize("raw", PLAIN)
async def test_a_request_whose_name_is_the_vendors_goes_through_byte_for_byte(ask: Ask, raw: bytes) -> None:
    run = await ask(raw, model="public")
    assert run.sent.body == raw


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"public","metadata":{"model":"public"}}',
        b'{"metadata":{"model":"other"},"model":"public"}',
        b'{"m\\u006fdel":"public","metadata":{"model":"public"}}',
        b'{"\\u006Dodel":"public"}',
        b'{"model":"public","messages":[{"role":"user","content":"model"},{"role":"user","content":"\\"model\\":\\"public\\""}]}',
        b'{"model":"pu\\u0062lic"}',
        b'{"\\"model":"public","model":"public"}',
    ],
)
async def test_only_the_top_level_model_is_renamed_however_it_is_spelled(ask: Ask, raw: bytes) -> None:
    run = await ask(raw)
    assert json.loads(run.sent.body) == {**json.loads(raw), "model": "upstream-model"}


@pytest.mark.parametrize("model", ["public", "upstream-model"])
@pytest.mark.parametrize(
    "raw", [b'{"model":"forbidden","model":"public"}', b'{"model":"forbidden","mod\\u0065l":"public"}']
)
async def test_the_vendor_gets_one_model_the_one_that_was_checked(ask: Ask, raw: bytes, model: str) -> None:
    run = await ask(raw, model=model)
    names: list[Any] = []
    json.loads(run.sent.body, object_pairs_hook=lambda pairs: names.extend(v for k, v in pairs if k == "model"))
    assert names == [model]


async def test_a_stream_asks_for_usage_and_leaves_the_rest_alone(stream: Ask) -> None:
    raw = b'{"model":"public","stream":true,"zz":1.50,"zz":[2]}'
    run = await stream(payload=raw)
    assert run.sent.body == (
        b'{"model":"upstream-model","stream":true,"zz":1.50,"zz":[2],"stream_options":{"include_usage":true}}'
    )


@pytest.mark.parametrize(
    ("given_options", "sent"),
    [
        (b"null", {"include_usage": True}),
        (b"{}", {"include_usage": True}),
        (b'{"include_usage":false}', {"include_usage": True}),
        (b'{"include_usage":null,"include_obfuscation":false}', {"include_usage": True, "include_obfuscation": False}),
        (b'{"include_obfuscation":false}', {"include_usage": True, "include_obfuscation": False}),
    ],
)
@pytest.mark.parametrize("key", [b'"stream_options"', b'"stream\\u005foptions"'])
async def test_other_stream_options_of_the_client_survive(
    stream: Ask, given_options: bytes, sent: Any, key: bytes
) -> None:
    run = await stream(payload=b'{"model":"public","stream":true,' + key + b":" + given_options + b"}")
    assert run.sent.json == {"model": "upstream-model", "stream": True, "stream_options": sent}


async def test_a_stream_that_asks_for_usage_itself_is_not_touched(stream: Ask) -> None:
    raw = b'{"model":"public","stream":true,"stream_options":{"include_usage" :true}}'
    run = await stream(payload=raw, model="public")
    assert run.sent.body == raw


@pytest.mark.parametrize("asked", [None, {}, {"include_usage": False}, {"include_usage": True}])
async def test_a_server_that_does_not_know_stream_options_never_sees_them(stream: Ask, asked: Any) -> None:
    payload = {"model": "public", "stream": True, "messages": []}
    if asked is not None:
        payload["stream_options"] = asked
    run = await stream(payload=payload, options={"include_usage": False})
    assert run.sent.json == {"model": "upstream-model", "stream": True, "messages": []}


async def test_the_word_stream_options_in_a_message_changes_nothing(stream: Ask) -> None:
    payload = {"model": "public", "stream": True, "messages": [{"role": "user", "content": "stream_options"}]}
    run = await stream(payload=payload)
    assert run.sent.json == {**payload, "model": "upstream-model", "stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    ("field", "given_limits", "sent"),
    [
        ("max_tokens", {"max_completion_tokens": 5}, {"max_tokens": 5}),
        ("max_completion_tokens", {"max_tokens": 5}, {"max_completion_tokens": 5}),
        ("max_tokens", {"max_tokens": 5}, {"max_tokens": 5}),
        ("max_tokens", {"max_tokens": 9, "max_completion_tokens": 5}, {"max_tokens": 5}),
        ("max_completion_tokens", {"max_tokens": 9, "max_completion_tokens": 5}, {"max_completion_tokens": 5}),
        ("max_completion_tokens", {"max_tokens": 9, "max_completion_tokens": None}, {"max_completion_tokens": 9}),
        ("max_tokens", {"max_completion_tokens": None}, {}),
        ("max_tokens", {}, {}),
    ],
)
async def test_the_limit_goes_under_the_one_name_the_model_takes(
    ask: Ask, field: str, given_limits: Any, sent: Any
) -> None:
    run = await ask({"model": "public", "x": 1, **given_limits}, options={"max_tokens_field": field})
    assert run.sent.json == {"model": "upstream-model", "x": 1, **sent}


async def test_the_key_travels_as_a_bearer_token_and_extra_headers_with_it(ask: Ask) -> None:
    run = await ask(options={"headers": {"OpenAI-Organization": "org-1"}})
    assert run.sent.headers["Authorization"] == "Bearer vendor-secret-0123456789abcdef"
    assert run.sent.headers["OpenAI-Organization"] == "org-1"
    assert run.sent.headers["Content-Type"] == "application/json"


async def test_what_azure_wants_in_the_address_is_added_to_it(ask: Ask) -> None:
    run = await ask(options={"query": {"api-version": "2024-10-21", "x": "a&b=c"}})
    assert run.sent.path.endswith("/chat/completions?api-version=2024-10-21&x=a%26b%3Dc")


async def test_without_a_key_there_is_no_authorization_header(ask: Ask) -> None:
    run = await ask(api_key=None)
    assert "Authorization" not in run.sent.headers


@pytest.mark.parametrize(
    ("operation", "path"),
    [("chat", "/chat/completions"), ("completions", "/completions"), ("embeddings", "/embeddings")],
)
async def test_each_operation_has_its_path_under_the_base_url(ask: Ask, operation: str, path: str) -> None:
    answer = {"data": [{"index": 0, "embedding": [0.5]}], "choices": [{"index": 0, "text": "x"}], "model": "m"}
    run = await ask({"model": "public", "input": "x"}, answer, operation=operation)
    assert (run.sent.method, run.sent.path) == ("POST", "http://vendor.test/v1" + path)
    assert run.data["model"] == "public"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from(["model", "public", '"model":']),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.just("model"), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4), st.booleans(), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_request_arrives_with_only_model_and_stream_options_changed(
    stream: Ask, ask: Ask, extra: Any, ascii_only: bool, streamed: bool
) -> None:
    value = {**extra, "model": "public", "stream": streamed}
    value.pop("stream_options", None)
    raw = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    run = await (stream(payload=raw) if streamed else ask(raw))
    options = {"stream_options": {"include_usage": True}} if streamed else {}
    assert run.sent.json == {**value, "model": "upstream-model", **options}


@pytest.mark.parametrize("zz", [b"1e400", b"9" * 5000])
async def test_a_number_that_cannot_be_held_goes_through_or_is_refused(ask: Ask, stream: Ask, zz: bytes) -> None:
    raw = b'{"model":"public","zz":' + zz + b"}"
    assert (await ask(raw)).sent.body == raw.replace(b"public", b"upstream-model")
    run = await stream(payload=b'{"model":"public","stream":true,"x":"\\u00e9","zz":' + zz + b"}")
    assert (run.error.status, run.error.code, run.sent.body) == (400, "invalid_json", b"")
