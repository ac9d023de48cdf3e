"""A deployment fails before it has said anything: another answers, or the client gets an honest error."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from gatehook.testing import Reply

Dialect = Any
OpenWall = Callable[..., Any]

BOTH = pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
HTML = "<html><body>PARTIAL- Bad gateway</body></html>"
OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
DATE = "Wed, 21 Oct 2026 12:00:00 GMT"


@dataclass(frozen=True)
class Fault:
    """One way to fail, and what is decided: calls of the deployment with one retry, and the error if there is no other.

    `asks` false: nobody else is asked, for it is the caller's fault.
    """

    reply: Callable[[Dialect, bool], Reply]
    tries: int
    status: int
    code: str | None
    retry_after: str | None = None
    asks: bool = True


def said(kind: str, **headers: str) -> Callable[[Dialect, bool], Reply]:
    """The vendor's own error of this kind."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda dialect, streams: dialect.answer(kind, headers=named)


def page(status: int) -> Callable[[Dialect, bool], Reply]:
    """A proxy's page."""
    return lambda dialect, streams: Reply(HTML.encode(), status, "text/html")


def raw(body: bytes) -> Callable[[Dialect, bool], Reply]:
    """These bytes after a good head."""

    def made(dialect: Dialect, streams: bool) -> Reply:
        kind = b"text/event-stream" if streams else b"application/json"
        return Reply(OK_HEAD % kind + body, raw=True, end="close")

    return made


def silent(dialect: Dialect, streams: bool) -> Reply:
    """The head, of a stream also the events before the first content, and then nothing."""
    return Reply.of_events(dialect.opening(), end="silence") if streams else Reply(b'{"id": "PARTIAL-', end="silence")


def cut(end: Any) -> Callable[[Dialect, bool], Reply]:
    """The line ends before anything was said; of a plain answer in its middle."""

    def made(dialect: Dialect, streams: bool) -> Reply:
        if streams:
            return Reply.of_events(dialect.opening() or [b": hello\n\n"], end=end)
        whole = dialect.wire.text("PARTIAL- answer").body
        return Reply(whole[: len(whole) // 2 + 20], end=end)

    return made


def garbage(body: bytes) -> Callable[[Dialect, bool], Reply]:
    """What should be JSON."""
    return lambda dialect, streams: Reply.of_events(b"data: %b\n\n" % body) if streams else Reply(body)


def not_http(dialect: Dialect, streams: bool) -> Reply:
    """Another protocol."""
    return Reply(b"220 PARTIAL- ESMTP\r\n", raw=True, end="close")


def nothing(dialect: Dialect, streams: bool) -> Reply:
    """An answer with nothing in it."""
    return Reply.of_events(b"") if streams else Reply(b"")


def within_200(kind: str) -> Callable[[Dialect, bool], Reply]:
    """An error that calls itself a success."""
    return lambda dialect, streams: dialect.answer(kind, status=200)


def announced(kind: str) -> Callable[[Dialect, bool], Reply]:
    """An error as the event where the content should be; a plain answer has it in its body."""

    def made(dialect: Dialect, streams: bool) -> Reply:
        if not streams:
            return dialect.answer(kind, status=200)  # type: ignore[no-any-return]
        return Reply.of_events([*dialect.opening(), dialect.event(kind)], end="keep")

    return made


UNLIMITED = "rate_limit_exceeded"
FAMILIES: dict[str, dict[str, Fault]] = {
    "limits": {
        "rate limit, for long": Fault(said("rate", Retry_After="7"), 1, 429, UNLIMITED, "7"),
        "rate limit, until a date": Fault(said("rate", Retry_After="Wed, 21 Oct 2026 12:00:07 GMT", Date=DATE), 1, 429,
                                          UNLIMITED, "7"),
        "rate limit, in milliseconds": Fault(said("rate", retry_after_ms="6500"), 1, 429, UNLIMITED, "7"),
        "rate limit, for a moment": Fault(said("rate", Retry_After="0.01"), 2, 429, UNLIMITED, "1"),
        "rate limit, persistent": Fault(said("rate"), 2, 429, UNLIMITED),
    },
    "refusals": {
        "quota": Fault(said("quota"), 1, 502, "upstream_quota_exceeded"),
        "credential": Fault(said("key"), 1, 502, "upstream_credential_rejected"),
        "forbidden": Fault(said("forbidden"), 1, 502, "upstream_credential_rejected"),
        "gone": Fault(said("gone"), 1, 502, "upstream_model_not_found"),
        "context length": Fault(said("long"), 1, 400, "context_length_exceeded"),
        "content filter": Fault(said("filter"), 1, 400, "content_filter"),
        "caller": Fault(said("caller"), 1, 400, None, asks=False),
    },
    "statuses": {
        "500": Fault(said("broken"), 2, 502, "upstream_error"),
        "503": Fault(said("busy"), 2, 503, "upstream_overloaded"),
        "503, for long": Fault(said("busy", Retry_After="9"), 1, 503, "upstream_overloaded", "9"),
        "HTML with 200": Fault(page(200), 2, 502, None),
        "HTML with 502": Fault(page(502), 2, 502, "upstream_error"),
        "HTML with 503": Fault(page(503), 2, 503, "upstream_overloaded"),
        "HTML with 504": Fault(page(504), 1, 504, "upstream_timeout"),
        "HTML with 404": Fault(page(404), 1, 502, "upstream_model_not_found"),
        "redirect": Fault(page(302), 1, 502, "upstream_misconfigured"),
        "405": Fault(page(405), 1, 502, "upstream_misconfigured"),
        "501": Fault(page(501), 1, 502, "upstream_misconfigured"),
    },
    "the line": {
        "reset": Fault(lambda dialect, streams: Reply(status=0, end="reset"), 2, 502, "upstream_error"),
        "closed": Fault(lambda dialect, streams: Reply(status=0, end="close"), 2, 502, "upstream_error"),
        "cut": Fault(cut("cut"), 2, 502, None),
        "reset in the body": Fault(cut("reset"), 2, 502, None),
        "ended, not finished": Fault(cut("keep"), 2, 502, None),
    },
    "silence": {
        "no answer": Fault(lambda dialect, streams: Reply(status=0, end="silence"), 1, 504, "upstream_timeout"),
        "head, then silence": Fault(silent, 1, 504, "upstream_timeout"),
    },
    "garbage": {
        "not JSON": Fault(garbage(b"PARTIAL- <oops>"), 2, 502, None),
        "half of JSON": Fault(garbage(b'{"id": "PARTIAL-", "choices": [{'), 2, 502, None),
        "null": Fault(garbage(b"null"), 2, 502, None),
        "a list": Fault(garbage(b"[1]"), 2, 502, None),
        "an empty answer": Fault(nothing, 2, 502, None),
        "bad chunks": Fault(raw(b"zz\r\nPARTIAL-"), 2, 502, None),
        "bad chunk after a good one": Fault(raw(b"2\r\n: \r\nzz\r\n"), 2, 502, None),
        "no HTTP at all": Fault(not_http, 2, 502, None),
    },
    "errors in a 200": {
        "200 with a rate limit": Fault(within_200("rate"), 2, 429, UNLIMITED),
        "200 with a spent quota": Fault(within_200("quota"), 1, 502, "upstream_quota_exceeded"),
        "200 with a bad key": Fault(within_200("key"), 1, 502, "upstream_credential_rejected"),
        "200 with no such model": Fault(within_200("gone"), 1, 502, "upstream_model_not_found"),
        "200 with a long prompt": Fault(within_200("long"), 1, 400, "context_length_exceeded"),
        "200 with a filter": Fault(within_200("filter"), 1, 400, "content_filter"),
        "200 with overload": Fault(within_200("busy"), 2, 503, "upstream_overloaded"),
        "200 with an error": Fault(within_200("broken"), 2, 502, "upstream_error"),
    },
    "errors in a stream": {
        "event with a rate limit": Fault(announced("rate"), 2, 429, UNLIMITED),
        "event with a spent quota": Fault(announced("quota"), 1, 502, "upstream_quota_exceeded"),
        "event with a bad key": Fault(announced("key"), 1, 502, "upstream_credential_rejected"),
        "event with no such model": Fault(announced("gone"), 1, 502, "upstream_model_not_found"),
        "event with a long prompt": Fault(announced("long"), 1, 400, "context_length_exceeded"),
        "event with a filter": Fault(announced("filter"), 1, 400, "content_filter"),
        "event with overload": Fault(announced("busy"), 2, 503, "upstream_overloaded"),
        "event with an error": Fault(announced("broken"), 2, 502, "upstream_error"),
    },
}  # fmt: skip
FAULTS = {name: fault for family in FAMILIES.values() for name, fault in family.items()}
SHORT = 0.25
"""Seconds, for those of whom nothing else is to come; all others have more than they need."""
EACH = pytest.mark.parametrize("family", FAMILIES)


def patience_with(family: str) -> float:
    return SHORT if family == "silence" else 5.0


def good(wire: Any, streams: bool) -> Reply:
    """A whole answer, "fine"."""
    return wire.stream(["fi", "ne"]) if streams else wire.text("fine")  # type: ignore[no-any-return]


@BOTH
@EACH
async def test_another_deployment_answers(
    wall: OpenWall, dialect: Dialect, other: Any, streams: bool, family: str
) -> None:
    expected: list[str] = []
    async with wall(
        dialect.wire, second=[good(other, streams)], other=other, streams=streams, patience=patience_with(family)
    ) as opened:
        for name, fault in FAMILIES[family].items():
            answer, calls = await opened.play(fault.reply(dialect, streams))
            expected += ["m#1"] * fault.tries
            if not fault.asks:
                assert (name, answer.status, calls) == (name, fault.status, (1, 0))
                continue
            assert (name, answer.status, answer.cut, answer.error) == (name, 200, False, None)
            assert (name, answer.text, answer.headers["X-Gatehook-Deployment"]) == (name, "fine", "m#2")
            assert (name, calls) == (name, (fault.tries, 1))
    assert [key for key, _ in opened.watcher.failed] == expected
    for fault, outcome in zip(FAMILIES[family].values(), opened.watcher.outcomes, strict=True):
        ended = ("complete", 200) if fault.asks else ("failed", fault.status)
        assert (outcome.status, outcome.http_status) == ended


@BOTH
@EACH
async def test_with_no_other_the_client_gets_an_honest_error(
    wall: OpenWall, dialect: Dialect, streams: bool, family: str
) -> None:
    async with wall(dialect.wire, streams=streams, patience=patience_with(family)) as opened:
        for name, fault in FAMILIES[family].items():
            answer, calls = await opened.play(fault.reply(dialect, streams))
            error = json.loads(answer.body)["error"]
            assert (name, answer.status, error["code"]) == (name, fault.status, fault.code or error["code"])
            assert (name, answer.headers.get("Retry-After")) == (name, fault.retry_after)
            assert (name, calls) == (name, (fault.tries, 0))
            assert error["message"].startswith(dialect.wire.name)
            assert "<html" not in error["message"]
            outcome = opened.watcher.outcomes[-1]
            assert (outcome.status, outcome.http_status) == ("failed", fault.status)
            assert outcome.code == (error["code"] or error["type"])
    assert len(opened.watcher.failed) == sum(fault.tries for fault in FAMILIES[family].values())


@BOTH
async def test_what_passes_is_mended_by_one_retry(wall: OpenWall, dialect: Dialect, streams: bool) -> None:
    passing = {name: fault for name, fault in FAULTS.items() if fault.tries == 2}
    async with wall(dialect.wire, second=[good(dialect.wire, streams)], streams=streams) as opened:
        for name, fault in passing.items():
            answer, calls = await opened.play(fault.reply(dialect, streams), good(dialect.wire, streams))
            assert (name, answer.status, answer.text, calls) == (name, 200, "fine", (2, 0))
    assert len(opened.watcher.failed) == len(passing)


@BOTH
async def test_a_flapping_deployment_never_hurts_a_client(wall: OpenWall, dialect: Dialect, streams: bool) -> None:
    ways = ("500", "reset", "rate limit, persistent", "HTML with 502", "cut")
    replies = [one for way in ways for one in (FAULTS[way].reply(dialect, streams), good(dialect.wire, streams))]
    async with wall(dialect.wire, replies, [good(dialect.wire, streams)], streams=streams) as opened:
        for _ in ways:
            answer = await opened.ask()
            assert (answer.status, answer.text) == (200, "fine")
        assert opened.calls == (2 * len(ways), 0)


@BOTH
async def test_a_fallback_that_refuses_the_request_does_not_make_it_the_caller_s_fault(
    wall: OpenWall, dialect: Dialect, streams: bool
) -> None:
    refusal = dialect.answer("caller")
    refusal = replace(refusal, body=refusal.body.replace(b"temperature", b"a prefill of the assistant"))
    replies = [FAULTS["500"].reply(dialect, streams)]
    prefill = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I"}]
    async with wall(dialect.wire, replies, [refusal], fallback=True, streams=streams) as opened:
        answer = await opened.ask(messages=prefill)
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["code"], opened.calls) == (502, "upstream_error", (2, 1))
    assert [key for key, _ in opened.watcher.failed] == ["m#1", "m#1", "n#1"]
    assert opened.watcher.outcomes[0].code == "upstream_error"


@BOTH
async def test_who_is_slow_within_the_limit_is_waited_for(wall: OpenWall, dialect: Dialect, streams: bool) -> None:
    slow = replace(good(dialect.wire, streams), before=0.05)
    async with wall(dialect.wire, [slow], [good(dialect.wire, streams)], streams=streams) as opened:
        answer = await opened.ask()
        assert (answer.status, answer.text, opened.calls) == (200, "fine", (1, 0))


async def test_signs_of_life_are_no_first_token(wall: OpenWall, dialect: Dialect) -> None:
    pings = [b'event: ping\ndata: {"type": "ping"}\n\n' if dialect.wire.name == "anthropic" else b": ping\n\n"] * 20
    thinking = Reply.of_events([*dialect.opening(), *pings], pause=0.04, end="silence")
    async with wall(dialect.wire, [thinking], [dialect.wire.stream(["fine"])], streams=True, patience=SHORT) as opened:
        answer = await opened.ask()
        assert (answer.status, answer.text, opened.calls) == (200, "fine", (1, 1))
    assert opened.watcher.failed == [("m#1", "upstream_timeout")]
