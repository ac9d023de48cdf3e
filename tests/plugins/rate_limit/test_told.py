"""What callers read: headers and messages, word for word."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from gatehook import ConcurrencyLimited, Limits, RateLimited, Retry
from gatehook_plugins.rate_limit import told
from gatehook_plugins.rate_limit.rules import Rule, Scope, Unit, rules
from gatehook_plugins.rate_limit.store import BUSY, NEVER, Decision
from gatehook_plugins.rate_limit.told import Headers, duration


class Reading(NamedTuple):
    """One limit, and what was decided by it."""

    rule: Rule
    left: int
    wait: int
    reset: int


def reading(
    unit: Unit, most: int, left: int = 0, wait: int = 0, reset: int = 0, *, scope: Scope = "key", owner: str = "k1"
) -> Reading:
    limits = {"requests": Limits(most), "tokens": Limits(None, most), "concurrent": Limits(None, None, most)}[unit]
    (rule,) = rules(scope, owner, limits)
    return Reading(rule, left, wait, reset)


def decided(readings: Sequence[Reading]) -> tuple[list[Rule], Decision]:
    waits = [one.wait for one in readings]
    decision = Decision([one.left for one in readings], [one.reset for one in readings], waits if any(waits) else ())
    return [one.rule for one in readings], decision


def headers(readings: Sequence[Reading], now: float) -> dict[str, str]:
    found, decision = decided(readings)
    lines = Headers(found).of(decision, now)
    assert lines == "".join(line + "\r\n" for line in lines.splitlines())
    told = [line.split(": ") for line in lines.splitlines()]
    assert len(dict(told)) == len(told)
    return dict(told)


def refusal(readings: Sequence[Reading], tokens: int, retry: Retry | None = None) -> RateLimited:
    return told.refusal(*decided(readings), tokens, retry)


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "0s"),
        (1, "1ms"),
        (120_000, "120ms"),
        (999_999, "1s"),
        (1_000_000, "1s"),
        (1_500_000, "1.5s"),
        (59_999_000, "59.999s"),
        (60_000_000, "1m0s"),
        (60_250_001, "1m0.251s"),
        (360_000_000, "6m0s"),
    ],
)
def test_durations_are_written_as_openai_does(microseconds: int, text: str) -> None:
    assert duration(microseconds) == text


def test_headers_of_all_limits() -> None:
    readings = [
        reading("requests", 60, 59, reset=61_000_000),
        reading("tokens", 10_000, 9_000, reset=61_000_000),
        reading("concurrent", 5, 4),
    ]
    assert headers(readings, 1_700_000_000.25) == {
        "X-RateLimit-Limit": "60",
        "X-RateLimit-Remaining": "59",
        "X-RateLimit-Reset": "1700000062",
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1m1s",
        "x-ratelimit-limit-tokens": "10000",
        "x-ratelimit-remaining-tokens": "9000",
        "x-ratelimit-reset-tokens": "1m1s",
    }


def test_each_family_tells_of_its_tightest_limit() -> None:
    readings = [
        reading("requests", 60, 10, reset=1_000_000),
        reading("tokens", 500, 400),
        reading("requests", 20, 10, reset=9_000_000, scope="user"),
        reading("tokens", 10_000, 3, scope="user"),
    ]
    said = headers(readings, 0)
    assert (said["X-RateLimit-Limit"], said["X-RateLimit-Reset"]) == ("20", "9")
    assert said["x-ratelimit-limit-requests"] == "20"
    assert said["x-ratelimit-remaining-tokens"] == "3"


def test_without_a_limit_of_requests_tokens_are_told_then_what_runs() -> None:
    tokens, running = reading("tokens", 100, 40, reset=500_000), reading("concurrent", 5, 4)
    assert headers([running, tokens], 10)["X-RateLimit-Limit"] == "100"
    assert headers([running], 10.5) == {
        "X-RateLimit-Limit": "5",
        "X-RateLimit-Remaining": "4",
        "X-RateLimit-Reset": "11",
    }
    assert headers([], 10) == {}


@pytest.mark.parametrize(
    ("refused", "message", "retry_after"),
    [
        (
            reading("requests", 60, wait=11_200_000),
            "rate limit reached for this key: 60 requests per minute; try again in 12 s",
            11.2,
        ),
        (
            reading("tokens", 90, 20, wait=3_000_000, scope="user"),
            (
                "rate limit reached for this user: 90 tokens per minute; "
                "20 are left, this request may use about 70; try again in 3 s"
            ),
            3,
        ),
        (
            reading("concurrent", 5, wait=BUSY, scope="model", owner="m"),
            "rate limit reached for the model 'm': 5 requests at the same time; try again when a running one has ended",
            1,
        ),
        (
            reading("requests", 0, wait=NEVER, scope="deployment", owner="m#1"),
            "rate limit reached for the deployment 'm#1': 0 requests per minute; nothing is allowed",
            None,
        ),
    ],
)
def test_a_refusal_names_the_scope_the_limit_and_the_wait(
    refused: Reading, message: str, retry_after: float | None
) -> None:
    error = refusal([reading("requests", 9, 9), refused], 70)
    assert error.message == message
    assert error.retry_after == retry_after
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert error.final == (retry_after is None)
    assert isinstance(error, ConcurrencyLimited) == ("at the same time" in message)


def test_a_request_that_can_never_pass_has_a_code_of_its_own_and_no_time_to_wait() -> None:
    refused = [reading("requests", 60, wait=5_000_000), reading("tokens", 500, 500, wait=NEVER)]
    error = refusal(refused, 812, Retry.NEXT)
    assert error.message == (
        "this request may use about 812 tokens, and this key has 500 tokens per minute, so it can never pass; "
        "send less, or ask for a shorter answer with max_tokens"
    )
    assert (error.code, error.retry_after, error.retry) == ("request_too_large_for_limit", None, Retry.NEXT)
    assert error.final


def test_of_several_refusals_the_longest_wait_is_told() -> None:
    refused = [reading("requests", 60, wait=5_000_000), reading("requests", 70, wait=9_000_000, scope="user")]
    assert refusal(refused, 0).retry_after == 9
