"""Plain answers, and what servers say when something is wrong."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from gatehook import GatewayError, InvalidRequest, RateLimited, Retry, SecretStr, UpstreamError, UpstreamTimeout, Usage
from gatehook.testing import Replay

Ask = Callable[..., Any]


def answer(**rest: Any) -> dict[str, Any]:
    """A chat answer as OpenAI writes it."""
    message = {"role": "assistant", "content": "Hi", "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "upstream-model",
            "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
            **rest}  # fmt: skip


async def test_an_answer_is_renamed_and_every_other_byte_stays(ask: Ask) -> None:
    raw = json.dumps(answer(zz={"big": 123456789012345678901234567890, "f": 1.50}), indent=1).encode() + b"\n"
    run = await ask(answer=raw)
    assert run.completion.raw == raw.replace(b"upstream-model", b"public", 1)
    assert (run.completion.usage.prompt_tokens, run.completion.usage.total_tokens) == (3, 5)


@pytest.mark.parametrize("model", [None, "", "other", "public", "pub\\u006cic", 'a"b', "model"])
async def test_the_client_reads_the_name_it_asked_for(ask: Ask, model: str | None) -> None:
    run = await ask(answer=answer(model=model, metadata={"model": "upstream-model"}))
    assert (run.data["model"], run.data["metadata"]) == ("public", {"model": "upstream-model"})


async def test_an_answer_without_a_model_gets_one_and_nested_ones_stay(ask: Ask) -> None:
    raw = answer(metadata={"model": ""})
    del raw["model"]
    run = await ask(answer=raw)
    assert (run.data["model"], run.data["metadata"]) == ("public", {"model": ""})


async def test_an_answer_that_cannot_be_renamed_is_an_upstream_failure(ask: Ask) -> None:
    choice = b'{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}'
    run = await ask(answer=b'{"choices":[' + choice + b'],"x":' + b"9" * 5000 + b',"model":"a","model":"b"}')
    assert isinstance(run.error, UpstreamError)
    assert run.error.code == "upstream_malformed"


@pytest.mark.parametrize(
    ("finish", "told"), [("stop", "tool_calls"), ("length", "length"), ("tool_calls", "tool_calls")]
)
async def test_stop_beside_tool_calls_is_told_as_tool_calls(ask: Ask, finish: str, told: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    plain = {"index": 1, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    run = await ask(answer=answer(choices=[{"index": 0, "message": message, "finish_reason": finish}, plain]))
    assert [choice["finish_reason"] for choice in run.data["choices"]] == [told, "stop"]
    assert run.data["choices"][0]["message"] == message


async def test_lone_surrogates_go_through(ask: Ask) -> None:
    message = {"role": "assistant", "content": "half \ud83d"}
    run = await ask(
        answer=json.dumps(answer(choices=[{"index": 0, "message": message, "finish_reason": "stop"}])).encode()
    )
    assert json.loads(run.completion.raw)["choices"][0]["message"] == message


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        (None, None),
        ("many", None),
        ({}, None),
        ({"total_tokens": 7}, (7, 0, 0, 0)),
        ({"prompt_tokens": None, "total_tokens": 7.0}, (7, 0, 0, 0)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None),
        ({"prompt_tokens": None, "completion_tokens": "7"}, None),
        ({"prompt_tokens": -5, "completion_tokens": 1e300}, None),
        ({"prompt_tokens": True, "completion_tokens": 2.0}, (0, 2, 0, 0)),
        ({"prompt_tokens": 9, "prompt_cache_hit_tokens": 4}, (9, 0, 4, 0)),
        ({"prompt_tokens": 9, "prompt_tokens_details": None, "completion_tokens_details": "x"}, (9, 0, 0, 0)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens": 5,
          "completion_tokens_details": {"reasoning_tokens": 2}}, (9, 5, 3, 2)),
        *(({"prompt_tokens": asked, "completion_tokens": 9, "total_tokens": 135,  # xAI's total has what its parts lack
            "completion_tokens_details": {"reasoning_tokens": 94}}, (32, 103, 0, 94)) for asked in (32, 32.0)),
        *(({"prompt_tokens": 9, "total_tokens": 105, **told}, (9, 96, 0, 0))  # Gemini's thoughts are in the total alone
          for told in ({}, {"completion_tokens": 1}, {"completion_tokens": 1.0})),
        ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 12}, (9, 5, 0, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 90,
          "completion_tokens_details": {}}, (9, 5, 0, 0)),
        ({"prompt_tokens": 9, "cached_tokens": 4, "completion_tokens": 5}, (9, 5, 4, 0)),  # Moonshot
        ({"prompt_tokens": 9, "num_cached_tokens": 4, "completion_tokens": 5}, (9, 5, 4, 0)),  # Mistral
        *(({"prompt_tokens": 9, "completion_tokens": told, "total_tokens": 389,  # Mistral's total has the sound, too
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 375}}, (384, 5, 0, 0)) for told in (5, 5.0)),
        ({"prompt_tokens": 380, "completion_tokens": 5, "total_tokens": 385,  # OpenAI counts it to the prompt
          "prompt_tokens_details": {"audio_tokens": 375}}, (380, 5, 0, 0)),
    ],
)  # fmt: skip
async def test_usage_of_any_form_is_counted_or_unknown(ask: Ask, usage: Any, counted: Any) -> None:
    told = (await ask(answer=answer(usage=usage))).completion.usage
    if counted is None:
        assert told is None
    else:
        assert (told.prompt_tokens, told.completion_tokens, told.cached_tokens, told.reasoning_tokens) == counted


@pytest.mark.parametrize("tokens", [5, 5.0])
async def test_tokens_written_to_the_vendors_cache_are_counted(
    ask: Ask, stream: Ask, sse: Callable[..., bytes], event: Callable[..., dict[str, Any]], tokens: float
) -> None:
    """They have a price of their own."""
    usage = {"prompt_tokens": 4020, "completion_tokens": tokens, "total_tokens": 4025,
             "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 4000}}  # fmt: skip
    plain = (await ask(answer=answer(usage=usage))).completion.usage
    asked = {"model": "public", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
    body = sse(event({"content": "Hi"}, "stop"), event(choices=[], usage=usage))
    streamed = (await stream(body, asked)).answer["usage"]
    assert plain == streamed == Usage(4020, 5, cached_tokens=8, cache_write_tokens=4000)


async def test_thoughts_that_are_in_the_total_alone_are_booked_and_the_client_reads_what_was_told(
    stream: Ask, sse: Callable[..., bytes], event: Callable[..., dict[str, Any]]
) -> None:
    usage = {"completion_tokens": 1, "prompt_tokens": 9, "total_tokens": 103}
    asked = {"model": "public", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
    run = await stream(sse(event({"content": "Hi"}, "stop"), event(choices=[], usage=usage)), asked)
    assert run.answer["usage"] == Usage(9, 94)
    assert run.chunks[-1].data["usage"] == usage


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"Hi"',
        b"{}",
        b"<!DOCTYPE html><html>Bad gateway</html>",
        b'{"id":"x","choices":[',
        b'{"choices":null}',
        b'{"choices":[]}',
        b'{"choices":{}}',
        b'{"choices":"none"}',
        b'{"choices":[null]}',
        b'{"choices":["Hi"]}',
        b'{"choices":[{"message":"Hi"}]}',
        b'{"choices":[{"finish_reason":1}]}',
        b'{"model":7,"choices":[{"message":{}}]}',
        b'{"choices":[{"message":{"content":"\xff"}}]}',
        b'{"choices":[],"x":NaN}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        '{"choices":[{"message":{"content":"Hi"}}]}'.encode("utf-16"),
    ],
)
async def test_a_200_that_is_no_answer_is_an_upstream_failure(ask: Ask, body: bytes) -> None:
    run = await ask(answer=body)
    assert type(run.error) is UpstreamError
    assert (run.error.status, run.error.retry) == (502, Retry.SAME)
    assert "html" not in run.error.message


@pytest.mark.parametrize("body", [b'{"data":null}', b"{}", b'{"data":{}}', b'{"data":[]}', b'{"choices":[{}]}'])
async def test_embeddings_without_data_are_an_upstream_failure(ask: Ask, body: bytes) -> None:
    run = await ask({"model": "public", "input": "x"}, body, operation="embeddings")
    assert type(run.error) is UpstreamError


@pytest.mark.parametrize("tokens", [b"2", b"2.0"])
async def test_embeddings_keep_their_numbers_to_the_last_digit(ask: Ask, tokens: bytes) -> None:
    raw = (
        b'{"object":"list","model":"upstream-model","data":[{"object":"embedding","index":0,'
        b'"embedding":[0.10000000000000000555,-1E-7]}],"usage":{"prompt_tokens":%b,"total_tokens":2}}' % tokens
    )
    run = await ask({"model": "public", "input": "x"}, raw, operation="embeddings")
    assert run.completion.raw == raw.replace(b"upstream-model", b"public")
    assert run.completion.usage.prompt_tokens == 2


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"error": {"message": "boom", "type": "server_error"}}, 502, "boom"),
        ({"error": {"message": "slow down", "code": 429}}, 429, "slow down"),
        ({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, 429, "slow down"),
        ({"error": {"message": "This model's maximum context length is 5", "code": 400}}, 400, "maximum context"),
        ({"error": "boom"}, 502, "boom"),
        ({"error": {"message": "boom", "code": 502}, "choices": []}, 502, "boom"),
        ({"object": "error", "message": "boom", "type": "BadRequestError", "code": 400}, 400, "boom"),
        ({"detail": "boom"}, 502, "boom"),
        ({"message": "boom"}, 502, "boom"),
        ({"choices": [{"finish_reason": "error", "error": {"message": "slow down", "code": 429}}]}, 429, "slow down"),
        ({"choices": [{"message": {"content": "Hel"}, "finish_reason": "error"}]}, 502, "broke off"),
        (
            {
                "choices": [
                    {"message": {"content": "Hello"}, "finish_reason": "stop"},
                    {"message": {"content": "Hel"}, "finish_reason": "insufficient_system_resource"},
                ]
            },
            502,
            "'insufficient_system_resource'",
        ),
        ({"choices": [{"finish_reason": ""}, {"finish_reason": "error"}]}, 502, "broke off"),
        ({"choices": [{"finish_reason": "stop"}, {"error": {"message": "slow down", "code": 429}}]}, 429, "slow down"),
    ],
)
async def test_a_200_with_an_error_in_it_is_that_error(ask: Ask, body: Any, status: int, says: str) -> None:
    run = await ask(answer=body)
    assert run.error.status == status
    assert says in run.error.message


ERRORS: list[tuple[int, Any, type[GatewayError], int, str | None, str]] = [
    # OpenAI
    (401, {"error": {"message": "Incorrect API key provided", "type": "invalid_request_error", "param": None,
                     "code": "invalid_api_key"}}, UpstreamError, 502, "upstream_credential_rejected", "Incorrect"),
    (429, {"error": {"message": "Rate limit reached", "type": "tokens", "code": "rate_limit_exceeded"}},
     RateLimited, 429, "rate_limit_exceeded", "Rate limit reached"),
    (429, {"error": {"message": "You exceeded your current quota", "type": "insufficient_quota",
                     "code": "insufficient_quota"}}, UpstreamError, 502, "upstream_quota_exceeded", "quota"),
    (404, {"error": {"message": "The model `x` does not exist", "code": "model_not_found"}},
     UpstreamError, 502, "upstream_model_not_found", "does not exist"),
    (400, {"error": {"message": "This model's maximum context length is 128 tokens", "param": "messages",
                     "code": "context_length_exceeded"}}, InvalidRequest, 400, "context_length_exceeded", "maximum"),
    (400, {"error": {"message": "Invalid schema", "type": "invalid_request_error", "param": "response_format",
                     "code": "invalid_schema"}}, InvalidRequest, 400, "invalid_schema", "Invalid schema"),
    (500, {"error": {"message": "The server had an error", "type": "server_error", "code": None}},
     UpstreamError, 502, "upstream_error", "The server had an error"),
    (503, {"error": {"message": "Overloaded"}}, UpstreamError, 503, "upstream_overloaded", "Overloaded"),
    # Azure
    (400, {"error": {"message": "The response was filtered due to the prompt triggering Azure OpenAI's content "
                     "management policy", "code": "content_filter", "param": "prompt", "status": 400,
                     "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
     InvalidRequest, 400, "content_filter", "filtered"),
    (429, {"error": {"code": "429", "message": "Requests have exceeded the token rate limit"}},
     RateLimited, 429, "rate_limit_exceeded", "exceeded"),
    (404, {"statusCode": 404, "message": "Resource not found"}, UpstreamError, 502, "upstream_model_not_found",
     "Resource not found"),
    (404, {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}},
     UpstreamError, 502, "upstream_model_not_found", "deployment"),
    # vLLM
    (400, {"object": "error", "message": "max_tokens must be at least 1", "type": "BadRequestError", "param": None,
           "code": 400}, InvalidRequest, 400, "BadRequestError", "max_tokens"),
    (404, {"error": {"message": "The model does not exist.", "type": "NotFoundError", "code": 404}},
     UpstreamError, 502, "upstream_model_not_found", "does not exist"),
    # OpenRouter
    (402, {"error": {"message": "Insufficient credits", "code": 402}, "user_id": "u"},
     UpstreamError, 502, "upstream_quota_exceeded", "Insufficient"),
    (408, {"error": {"message": "Request timed out", "code": 408}}, UpstreamTimeout, 504, "upstream_timeout", "timed"),
    (502, {"error": {"message": "Provider returned error", "code": 502, "metadata": {"raw": "x"}}},
     UpstreamError, 502, "upstream_error", "Provider"),
    (400, {"error": {"message": "Provider returned error", "code": 400,
                     "metadata": {"raw": "prompt is too long: 9 tokens", "provider_name": "p"}}},
     InvalidRequest, 400, "context_length_exceeded", "Provider returned error: prompt is too long"),
    (403, {"error": {"message": "Your chosen model requires moderation and your input was flagged", "code": 403,
                     "metadata": {"reasons": ["violence"], "flagged_input": "x"}}},
     InvalidRequest, 400, "content_filter", "was flagged"),
    (404, {"error": {"message": "No endpoints found that support image input", "code": 404}},
     InvalidRequest, 400, None, "image input"),
    (404, {"error": {"message": "No endpoints found for x/y.", "code": 404}},
     UpstreamError, 502, "upstream_model_not_found", "No endpoints"),
    # xAI, Perplexity
    (403, {"code": "The caller does not have permission to execute the specified operation",
           "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"},
     InvalidRequest, 400, "content_filter", "usage guidelines"),
    (400, {"code": "invalid-argument", "error": "Incorrect API key provided. You can get one from us."},
     UpstreamError, 502, "upstream_credential_rejected", "Incorrect"),
    (400, {"code": "invalid-argument", "error": "no such thing"}, InvalidRequest, 400, "invalid-argument", "no such"),
    (400, {"error": {"message": "All messages are too long.", "type": "too_many_prompt_tokens", "code": 400}},
     InvalidRequest, 400, "context_length_exceeded", "too long"),
    (400, {"error": {"message": "The requested model 'x' does not exist.", "code": "model_not_found"}},
     UpstreamError, 502, "upstream_model_not_found", "does not exist"),
    # Groq
    (413, {"error": {"message": "Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested "
                     "9000, please reduce your message size and try again.", "type": "tokens",
                     "code": "rate_limit_exceeded"}}, RateLimited, 429, "rate_limit_exceeded", "per minute"),
    # FastAPI
    (422, {"detail": [{"loc": ["body", "n"], "msg": "Input should be 1", "type": "value_error"}]},
     InvalidRequest, 422, None, "Input should be 1"),
    (404, {"detail": "Not Found"}, UpstreamError, 502, "upstream_model_not_found", "Not Found"),
    # Ollama, llama.cpp, Cloudflare, Gemini's compatible server, others
    (404, {"error": "model 'x' not found"}, UpstreamError, 502, "upstream_model_not_found", "not found"),
    (503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
     UpstreamError, 503, "upstream_overloaded", "Loading model"),
    (400, [{"error": {"code": 400, "message": "API key not valid. Please pass one.", "status": "INVALID_ARGUMENT"}}],
     UpstreamError, 502, "upstream_credential_rejected", "not valid"),
    (400, [{"error": {"code": 400, "message": "Invalid value", "status": "INVALID_ARGUMENT"}}],
     InvalidRequest, 400, None, "Invalid value"),
    (400, {"error": None, "message": "no such thing"}, InvalidRequest, 400, None, "no such thing"),
    (400, {"error": True, "message": "no such thing"}, InvalidRequest, 400, None, "no such thing"),
    (400, {"errors": [{"message": "no such thing", "code": 1}]}, InvalidRequest, 400, None, "no such thing"),
    (529, {"error": {"message": "busy"}}, UpstreamError, 503, "upstream_overloaded", "busy"),
    (400, {"error": {"message": {"deep": "text"}}}, InvalidRequest, 400, None, "deep"),
    (500, {}, UpstreamError, 502, "upstream_error", "answered 500"),
    (500, [], UpstreamError, 502, "upstream_error", "answered 500"),
    (500, None, UpstreamError, 502, "upstream_error", "answered 500"),
    (500, 17, UpstreamError, 502, "upstream_error", "answered 500"),
    (500, "just words", UpstreamError, 502, "upstream_error", "just words"),
    (409, {"error": {"message": "conflict"}}, UpstreamError, 502, "upstream_error", "conflict"),
    (405, {"error": {"message": "POST"}}, UpstreamError, 502, "upstream_misconfigured", "POST"),
    (413, {"error": {"message": "too big"}}, InvalidRequest, 413, None, "too big"),
    (204, {}, UpstreamError, 502, "upstream_error", "answered 204"),
    (599, {}, UpstreamError, 502, "upstream_error", "answered 599"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind", "told", "code", "says"), ERRORS)
async def test_every_servers_error_becomes_ours(
    ask: Ask, stream: Ask, status: int, body: Any, kind: type[GatewayError], told: int, code: str | None, says: str
) -> None:
    raw = json.dumps(body).encode()
    for run in (await ask(replay=Replay(raw, status=status)), await stream(replay=Replay(raw, status=status))):
        assert type(run.error) is kind
        assert (run.error.status, run.error.code) == (told, code)
        assert run.error.message.startswith("openai: ")
        assert says in run.error.message
        assert run.closed


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"upstream connect error or disconnect/reset before headers", "upstream connect error"),
        (b"\xff\xfe broken \x00 text", "text"),
        (b"<html><body><h1>502 Bad Gateway</h1></body></html>", "answered 502"),
        (b"  \n <?xml version='1.0'?><Error/>", "answered 502"),
        (b"", "answered 502"),
        (b"x" * 100_000, "xxx"),
        (b'{"error": {"mess', "mess"),
    ],
)
async def test_an_error_that_is_no_json_tells_its_short_text_but_no_page(ask: Ask, body: bytes, says: str) -> None:
    run = await ask(replay=Replay(body, status=502, content_type="text/plain"))
    assert type(run.error) is UpstreamError
    assert says in run.error.message
    assert len(run.error.message) < 2100
    assert "<" not in run.error.message


async def test_a_parameter_that_the_vendor_blames_is_told(ask: Ask) -> None:
    run = await ask(replay=Replay(b'{"error":{"message":"bad","param":"temperature","code":"x"}}', status=400))
    assert (run.error.param, run.error.retry) == ("temperature", Retry.NEVER)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed_but_explained(ask: Ask, status: int) -> None:
    run = await ask(replay=Replay(b"", status=status, headers={"Location": "http://elsewhere.test/"}))
    assert type(run.error) is UpstreamError
    assert "base_url" in run.error.message


async def test_retry_after_of_a_rate_limit_is_kept(ask: Ask) -> None:
    run = await ask(replay=Replay(b'{"error":{"message":"slow"}}', status=429, headers={"Retry-After": "7"}))
    assert run.error.retry_after == 7


@pytest.mark.parametrize(
    ("told", "code", "seconds"),
    [
        ([{"violations": [{"quotaId": "RequestsPerMinutePerProject"}]}, {"retryDelay": "7.5s"}], "rate_limit", 7.5),
        ([{"violations": [{"quotaId": "RequestsPerDayPerProject"}]}, {"retryDelay": "7s"}], "upstream_quota", 7),
        ([{"violations": [1, {"quotaId": 2}]}, {"violations": 3}, {"retryDelay": 4}, 5], "rate_limit", 9),
        ([{"retryDelay": "soon"}], "rate_limit", 9),
        (None, "rate_limit", 9),
    ],
)
async def test_a_limit_of_geminis_compatible_server_is_what_its_details_say(
    ask: Ask, stream: Ask, sse: Callable[..., bytes], told: Any, code: str, seconds: float
) -> None:
    error = {"code": 429, "message": "You exceeded your current quota, please check your plan and billing details.",
             "status": "RESOURCE_EXHAUSTED", "details": told}  # fmt: skip
    raw = json.dumps([{"error": error}]).encode()
    run = await ask(replay=Replay(raw, status=429, headers={"Retry-After": "9"}))
    assert (run.error.code, run.error.retry_after) == (f"{code}_exceeded", seconds)
    assert run.error.message.startswith("openai: You exceeded")
    assert (await stream(sse({"error": error}))).error.code == f"{code}_exceeded"


async def test_a_line_cut_in_the_answer_is_an_upstream_failure(ask: Ask) -> None:
    cut = UpstreamError("openai: the connection was cut in the middle of the answer")
    run = await ask(replay=Replay(b"", fails=cut))
    assert run.error is cut


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"heders": {}}, "heders"),
        ({"headers": {"x": 1}}, "headers"),
        ({"include_usage": "no"}, "include_usage"),
        ({"max_tokens_field": "maxtokens"}, "max_tokens_field"),
    ],
)
def test_wrong_options_are_told_before_serving(options: Any, fault: str) -> None:
    from gatehook.model import Target
    from gatehook.testing import ReplayEgress
    from gatehook_plugins.vendor_openai.vendor import OpenAIVendor

    target = Target(key="m#1", name="m", vendor="openai", model="m", options=options)
    (told,) = OpenAIVendor(ReplayEgress()).check(target)
    assert told.startswith("options")
    assert fault in told


@pytest.mark.parametrize("shown", [8, 20, 28])
async def test_half_a_key_is_not_told_where_an_error_is_cut(ask: Ask, shown: int) -> None:
    key = "a-key-of-thirty-letters-000000"
    body = b"x " * ((300 - shown) // 2) + key.encode() + b" was refused"
    run = await ask(replay=Replay(body, status=502, content_type="text/plain"), api_key=SecretStr(key))
    assert key[:4] not in run.error.message
