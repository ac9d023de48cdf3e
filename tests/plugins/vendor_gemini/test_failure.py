"""Gemini's errors, and what failover may make of them."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from gatehook import GatewayError, InvalidRequest, RateLimited, Retry, UpstreamError, UpstreamTimeout
from gatehook.testing import Replay, ReplayEgress, attempt
from gatehook_plugins.vendor_gemini.vendor import Gemini

USER = {"role": "user", "content": "hello"}


async def failed(
    status: int, body: Any, *, stream: bool = False, headers: dict[str, str] | None = None
) -> GatewayError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    replay = Replay(raw, status=status, headers=headers)
    one = attempt({"messages": [USER]}, vendor="gemini", api_key=SecretStr("very-secret"))
    vendor = Gemini(ReplayEgress(replay))
    with pytest.raises(GatewayError) as caught:
        await (_drained(vendor.stream(one)) if stream else vendor.complete(one))
    assert replay.closed
    assert caught.value.message.startswith("gemini: ")
    return caught.value


async def _drained(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


def error(code: int, status: str, message: str = "", *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "30s"}
TOO_LONG = "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576)."
QUOTA = "You exceeded your current quota, please check your plan and billing details."


def quota(name: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": name}]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "retry"),
    [
        (400, error(400, "INVALID_ARGUMENT", "bad field"), InvalidRequest, "INVALID_ARGUMENT", Retry.NEVER),
        (
            400,
            error(400, "INVALID_ARGUMENT", TOO_LONG),
            InvalidRequest,
            "context_length_exceeded",
            Retry.NEXT,
        ),
        (
            400,
            error(
                400,
                "INVALID_ARGUMENT",
                "API key not valid. Please pass a valid API key.",
                {"reason": "API_KEY_INVALID"},
            ),
            UpstreamError,
            "upstream_credential_rejected",
            Retry.NEXT,
        ),
        (
            400,
            error(400, "INVALID_ARGUMENT", "API key expired."),
            UpstreamError,
            "upstream_credential_rejected",
            Retry.NEXT,
        ),
        (
            400,
            error(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
            UpstreamError,
            "upstream_credential_rejected",
            Retry.NEXT,
        ),
        (401, error(401, "UNAUTHENTICATED", "no"), UpstreamError, "upstream_credential_rejected", Retry.NEXT),
        (403, error(403, "PERMISSION_DENIED", "no"), UpstreamError, "upstream_credential_rejected", Retry.NEXT),
        (
            403,
            error(
                403,
                "PERMISSION_DENIED",
                "You do not have permission to access the File abc or it may not exist.",
            ),
            InvalidRequest,
            "PERMISSION_DENIED",
            Retry.NEXT,
        ),
        (
            400,
            error(400, "FAILED_PRECONDITION", "The File abc is not in an ACTIVE state and usage is not allowed."),
            InvalidRequest,
            "FAILED_PRECONDITION",
            Retry.NEXT,
        ),
        (404, error(404, "NOT_FOUND", "models/x is not found"), UpstreamError, "upstream_model_not_found", Retry.NEXT),
        (429, error(429, "RESOURCE_EXHAUSTED", QUOTA), RateLimited, "rate_limit_exceeded", Retry.SAME),
        (
            429,
            error(429, "RESOURCE_EXHAUSTED", QUOTA, quota("GenerateRequestsPerDayPerProject-FreeTier"), RETRY),
            UpstreamError,
            "upstream_quota_exceeded",
            Retry.NEXT,
        ),
        (500, error(500, "INTERNAL", "oops"), UpstreamError, "upstream_error", Retry.SAME),
        (503, error(503, "UNAVAILABLE", "The model is overloaded."), UpstreamError, "upstream_overloaded", Retry.SAME),
        (504, error(504, "DEADLINE_EXCEEDED", "late"), UpstreamTimeout, "upstream_timeout", Retry.SAME),
        (503, [error(503, "UNAVAILABLE", "overloaded")], UpstreamError, "upstream_overloaded", Retry.SAME),
        (502, b"<html>Bad gateway</html>", UpstreamError, "upstream_error", Retry.SAME),
        (302, b"", UpstreamError, "upstream_misconfigured", Retry.NEXT),
        (500, {"error": None}, UpstreamError, "upstream_error", Retry.SAME),
        (400, {"error": {"message": ["x"], "status": 5, "details": {"a": 1}}}, InvalidRequest, None, Retry.NEVER),
        (
            429,
            error(429, "x", "", {"violations": {}, "retryDelay": 5}, {"violations": [1]}),
            RateLimited,
            "rate_limit_exceeded",
            Retry.SAME,
        ),
    ],
)
async def test_errors_keep_their_meaning(
    status: int, body: Any, kind: type[GatewayError], code: str | None, retry: Retry, stream: bool
) -> None:
    found = await failed(status, body, stream=stream)
    assert (type(found), found.code, found.retry) == (kind, code, retry)


@pytest.mark.parametrize(
    ("details", "headers", "seconds"),
    [
        ([RETRY], {}, 30.0),
        ([{"retryDelay": "1.5s"}], {"Retry-After": "7"}, 1.5),
        ([], {"Retry-After": "7"}, 7.0),
        ([{"retryDelay": "soon"}], {}, None),
        ([quota("GenerateRequestsPerMinutePerProject"), RETRY], {}, 30.0),
    ],
)
async def test_the_vendor_tells_when_to_come_back(
    details: list[dict[str, Any]], headers: dict[str, str], seconds: float | None
) -> None:
    found = await failed(429, error(429, "RESOURCE_EXHAUSTED", QUOTA, *details), headers=headers)
    assert isinstance(found, RateLimited)
    assert found.retry_after == seconds


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_keys_never_stand_in_messages(status: int) -> None:
    found = await failed(status, error(status, "X", "key very-secret or AIzaSyA123456 is bad"))
    assert "very-secret" not in found.message
    assert "AIza" not in found.message


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (error(429, "RESOURCE_EXHAUSTED", "slow down", RETRY), RateLimited),
        ({"error": {"status": "RESOURCE_EXHAUSTED"}}, RateLimited),
        ([error(503, "UNAVAILABLE", "overloaded")], UpstreamError),
        ({"error": {"status": "NEW_STATUS"}}, UpstreamError),
        ({"error": {"code": True}}, UpstreamError),
        (b"<html>hello</html>", UpstreamError),
        ({"candidates": []}, UpstreamError),
        (b"", UpstreamError),
    ],
)
async def test_a_200_to_a_stream_that_is_no_event_stream_is_read_as_an_error(
    body: Any, kind: type[GatewayError]
) -> None:
    assert type(await failed(200, body, stream=True)) is kind
