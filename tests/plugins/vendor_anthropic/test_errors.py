from typing import Any

import pytest
from pydantic import SecretStr

from gatehook import GatewayError, InvalidRequest, RateLimited, Retry, UpstreamError, UpstreamTimeout, encode
from gatehook.testing import Replay


def error(kind: str, message: str = "no luck") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


_CREDIT = "Your credit balance is too low"
_LIMITS = "You have reached your specified {}API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."
_DISABLED = "This organization has been disabled."
_PROMPT = "prompt is too long: 9 tokens > 5 maximum"
_TOGETHER = "input length and `max_tokens` exceed context limit: 1 + 2 > 2"
_SAME, _NEXT, _NEVER = Retry.SAME, Retry.NEXT, Retry.NEVER

CASES = [
    (400, error("invalid_request_error"), InvalidRequest, 400, "invalid_request_error", _NEVER),
    (400, error("invalid_request_error", _PROMPT), InvalidRequest, 400, "context_length_exceeded", _NEXT),
    (400, error("invalid_request_error", _TOGETHER), InvalidRequest, 400, "context_length_exceeded", _NEXT),
    (400, error("invalid_request_error", _CREDIT), UpstreamError, 502, "upstream_quota_exceeded", _NEXT),
    (400, error("invalid_request_error", _LIMITS.format("")), UpstreamError, 502, "upstream_quota_exceeded", _NEXT),
    (
        429,
        error("rate_limit_error", _LIMITS.format("workspace ")),
        UpstreamError,
        502,
        "upstream_quota_exceeded",
        _NEXT,
    ),
    (400, error("invalid_request_error", _DISABLED), UpstreamError, 502, "upstream_credential_rejected", _NEXT),
    (400, error("invalid_request_error", f"x: {_DISABLED}"), InvalidRequest, 400, "invalid_request_error", _NEVER),
    (401, error("authentication_error"), UpstreamError, 502, "upstream_credential_rejected", _NEXT),
    (402, error("billing_error"), UpstreamError, 502, "upstream_quota_exceeded", _NEXT),
    (403, error("permission_error"), UpstreamError, 502, "upstream_credential_rejected", _NEXT),
    (404, error("not_found_error", "model: claude-0"), UpstreamError, 502, "upstream_model_not_found", _NEXT),
    (409, error("conflict_error"), UpstreamError, 502, "upstream_error", _SAME),
    (413, error("request_too_large"), InvalidRequest, 413, "request_too_large", _NEVER),
    (429, error("rate_limit_error"), RateLimited, 429, "rate_limit_exceeded", _SAME),
    (500, error("api_error"), UpstreamError, 502, "upstream_error", _SAME),
    (504, error("timeout_error"), UpstreamTimeout, 504, "upstream_timeout", _SAME),
    (529, error("overloaded_error"), UpstreamError, 503, "upstream_overloaded", _SAME),
]


def check(caught: GatewayError, kind: type[GatewayError], status: int, code: str, retry: Retry) -> None:
    assert type(caught) is kind
    assert (caught.status, caught.code, caught.retry) == (status, code, retry)
    assert caught.message.startswith("anthropic: ")


@pytest.mark.parametrize(("status", "body", "kind", "ours", "code", "retry"), CASES)
async def test_an_error_answer(
    ask: Any, stream: Any, status: int, body: Any, kind: Any, ours: int, code: str, retry: Any
) -> None:
    replay = Replay(encode(body), status=status)
    with pytest.raises(GatewayError) as caught:
        await ask(replay=replay)
    check(caught.value, kind, ours, code, retry)
    assert body["error"]["message"] in caught.value.message
    run = await stream([], replay=Replay(encode(body), status=status))
    check(run.error, kind, ours, code, retry)
    assert run.closed


@pytest.mark.parametrize(("status", "body", "kind", "ours", "code", "retry"), CASES)
async def test_an_error_under_status_200_counts_like_its_own_status(
    ask: Any, stream: Any, status: int, body: Any, kind: Any, ours: int, code: str, retry: Any
) -> None:
    with pytest.raises(GatewayError) as caught:
        await ask(answer=body)
    check(caught.value, kind, ours, code, retry)
    as_json = await stream([], replay=Replay(encode(body)))
    check(as_json.error, kind, ours, code, retry)
    as_event = await stream(b"event: error\ndata: " + encode(body) + b"\n\n")
    check(as_event.error, kind, ours, code, retry)


@pytest.mark.parametrize("status", [429, 503, 529])
async def test_retry_after_is_kept(ask: Any, stream: Any, status: int) -> None:
    def replay() -> Replay:
        return Replay(encode(error("overloaded_error")), status=status, headers={"Retry-After": "7"})

    with pytest.raises(GatewayError) as caught:
        await ask(replay=replay())
    assert caught.value.retry_after == 7
    assert (await stream([], replay=replay())).error.retry_after == 7


@pytest.mark.parametrize(
    ("status", "body", "ours"),
    [
        (502, b"<html>Bad gateway sk-ant-oops-123456</html>", 502),
        (503, b"", 503),
        (500, b'{"error":"plain words"}', 502),
        (500, b'{"error":{"type":5,"message":["x"]}}', 502),
        (500, b"[1]", 502),
        (302, b"", 502),
        (200, b"<html>hello</html>", 502),
        (200, b'{"type":"error"}', 502),
        (200, b'{"type":"error","error":null}', 502),
        (200, b'{"type":"error","error":{"type":"brand_new_error","message":"m"}}', 502),
    ],
)
async def test_an_answer_that_explains_nothing_is_still_told_apart(
    ask: Any, stream: Any, status: int, body: bytes, ours: int
) -> None:
    with pytest.raises(UpstreamError, match=r"^anthropic: ") as caught:
        await ask(replay=Replay(body, status=status))
    assert caught.value.status == ours
    assert "<html>" not in caught.value.message
    run = await stream([], replay=Replay(body, status=status))
    assert run.error.status == ours


async def test_a_stream_that_is_answered_without_one_is_the_vendors_failure(stream: Any) -> None:
    run = await stream([], replay=Replay(encode({"type": "message", "content": [], "stop_reason": "end_turn"})))
    assert isinstance(run.error, UpstreamError)
    assert run.closed


async def test_the_key_never_shows_in_a_message(ask: Any) -> None:
    body = error("authentication_error", "bad key hush-hush-1 and sk-ant-api03-abcdefgh")
    with pytest.raises(GatewayError) as caught:
        await ask(replay=Replay(encode(body), status=401), api_key=SecretStr("hush-hush-1"))
    assert "hush" not in caught.value.message
    assert "api03" not in caught.value.message
