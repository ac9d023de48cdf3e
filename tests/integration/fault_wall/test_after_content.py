"""A stream breaks when the client already has a part of it: it is told, the line is cut, and nobody else is asked."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gatehook.testing import Reply
from gatehook.upstream import direct

Dialect = Any
OpenWall = Callable[..., Any]

PARTIAL = "PARTIAL-"


def followed(*more: bytes, end: Any = "silence") -> Callable[[Dialect], Reply]:
    """A stream's beginning, and then these bytes."""

    def made(dialect: Dialect) -> Reply:
        begun = dialect.begun()
        return Reply.of_events([*begun.body, *more], end=end)

    return made


def chunks(pieces: Sequence[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def badly_chunked(dialect: Dialect) -> Reply:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return Reply([head + chunks(dialect.begun().body), b"oops\r\n"], raw=True, pause=0.05, end="silence")


def told(kind: str) -> Callable[[Dialect], Reply]:
    return lambda dialect: followed(dialect.event(kind))(dialect)


# How it goes on, and the type and code of the error that the client is told; a code of None is any.
Breaks = dict[str, tuple[Callable[[Dialect], Reply], str, str | None]]
BREAKS: Breaks = {
    "cut": (lambda dialect: dialect.begun(end="cut"), "server_error", None),
    "reset": (lambda dialect: dialect.begun(end="reset"), "server_error", None),
    "ended without its marker": (lambda dialect: dialect.begun(), "server_error", None),
    "closed without its marker": (lambda dialect: dialect.begun(end="close"), "server_error", None),
    "garbage": (followed(b"data: <html>\n\n"), "server_error", None),
    "half of JSON": (followed(b'data: {"choices": [{\n\n'), "server_error", None),
    "not an object": (followed(b"data: [1]\n\n"), "server_error", None),
    "not text": (followed(b'data: {"choices": "\xff\xfe"}\n\n'), "server_error", None),
    "badly chunked": (badly_chunked, "server_error", None),
    "overload": (told("busy"), "server_error", "upstream_overloaded"),
    "a rate limit": (told("rate"), "rate_limit_error", "rate_limit_exceeded"),
    "a spent quota": (told("quota"), "server_error", "upstream_quota_exceeded"),
    "a failure": (told("broken"), "server_error", "upstream_error"),
    "a filter": (told("filter"), "invalid_request_error", "content_filter"),
}
STALLS: Breaks = {
    "stalled": (lambda dialect: dialect.begun(end="silence"), "timeout_error", "upstream_timeout"),
    "stalled in an event": (followed(b'data: {"id"'), "timeout_error", "upstream_timeout"),
}


@pytest.mark.parametrize(("breaks", "patience"), [(BREAKS, 5.0), (STALLS, 0.3)], ids=["breaks", "stalls"])
async def test_the_client_is_told_and_nobody_else_is_asked(
    wall: OpenWall, dialect: Dialect, breaks: Any, patience: float
) -> None:
    other = dialect.wire.stream(["other"])
    async with wall(dialect.wire, second=[other], streams=True, patience=patience) as opened:
        for name, (reply, kind, code) in breaks.items():
            if name == "badly chunked" and not direct.available:
                continue  # aiohttp's own client does not wake who reads: there it is a stall
            answer, calls = await opened.play(reply(dialect))
            assert (name, calls) == (name, (1, 0))
            assert (name, answer.status, answer.text, answer.cut) == (name, 200, PARTIAL, True)
            assert (name, answer.error["type"], answer.error["code"]) == (name, kind, code or answer.error["code"])
            assert set(answer.error) == {"message", "type", "param", "code"}
            assert answer.error["message"].startswith(dialect.wire.name)
            assert b"[DONE]" not in answer.body
            assert answer.finish is None
    assert not opened.watcher.failed, "no attempt failed over"
    codes = [answered.code for answered in opened.watcher.outcomes]
    assert all(codes)
    assert {(one.status, one.http_status) for one in opened.watcher.outcomes} == {("partial", 200)}
    assert all(one.usage and one.usage.completion_tokens for one in opened.watcher.outcomes), "it is to be paid for"


async def test_what_came_with_the_fault_still_goes_out(wall: OpenWall, dialect: Dialect) -> None:
    begun = dialect.begun()
    together = Reply.of_events([b"".join(begun.body) + b"data: {oops\n\n"])
    async with wall(dialect.wire, [together], streams=True) as opened:
        answer = await opened.ask()
        assert (answer.status, answer.text, answer.cut) == (200, PARTIAL, True)
        assert answer.error["type"] == "server_error"


async def test_a_retry_after_a_plain_answer_s_cut_asks_for_the_same_again(wall: OpenWall, dialect: Dialect) -> None:
    whole = dialect.wire.text("fine")
    half = dialect.wire.text(PARTIAL + "and more of it").body
    cut = Reply(half[: len(half) * 3 // 4], end="cut")
    async with wall(dialect.wire, [cut, whole], [whole]) as opened:
        assert (await opened.ask()).text == "fine"
        once, again = opened.first.requests
        assert once.body == again.body


# --- streams that are odd, not broken


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
async def test_an_answer_may_be_empty(wall: OpenWall, dialect: Dialect, streams: bool) -> None:
    empty = dialect.wire.stream([""]) if streams else dialect.wire.text("")
    async with wall(dialect.wire, [empty], [dialect.wire.text("other")], streams=streams) as opened:
        answer = await opened.ask()
        assert (answer.status, answer.text, answer.cut, opened.calls) == (200, "", False, (1, 0))
        if streams:
            assert answer.finish == "stop"
            assert answer.body.endswith(b"data: [DONE]\n\n")
    (outcome,) = opened.watcher.outcomes
    assert (outcome.status, outcome.http_status) == ("complete", 200)
    assert outcome.usage.prompt_tokens == 11


async def test_tool_calls_alone_are_content(wall: OpenWall, dialect: Dialect) -> None:
    call = ("call_1", "weather", '{"city": "Oslo"}')
    async with wall(dialect.wire, [dialect.wire.calls_stream([call])], streams=True) as opened:
        tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
        answer = await opened.ask(tools=tools)
        assert (answer.status, answer.text, answer.cut, answer.finish) == (200, "", False, "tool_calls")
        deltas = [choice["delta"] for event in answer.events for choice in event["choices"]]
        functions = [one["function"] for delta in deltas for one in delta.get("tool_calls") or ()]
        assert json.loads("".join(one.get("arguments") or "" for one in functions)) == {"city": "Oslo"}
    assert opened.watcher.outcomes[0].first_token is not None


async def test_usage_at_the_end_is_booked_and_only_shown_to_who_asked(wall: OpenWall, dialect: Dialect) -> None:
    async with wall(dialect.wire, [dialect.wire.stream(["fine"])], streams=True) as opened:
        assert not any(event.get("usage") for event in (await opened.ask()).events)
        shown = [
            event["usage"]
            for event in (await opened.ask(stream_options={"include_usage": True})).events
            if event.get("usage")
        ]
        assert [usage["prompt_tokens"] for usage in shown] == [11]
    assert [one.usage.prompt_tokens for one in opened.watcher.outcomes] == [11, 11]


async def test_an_answer_that_its_vendor_filters_is_an_answer(wall: OpenWall, dialect: Dialect) -> None:
    reasons = {
        "openai": (b'"finish_reason": "stop"', b'"finish_reason": "content_filter"'),
        "anthropic": (b'"stop_reason": "end_turn"', b'"stop_reason": "refusal"'),
        "gemini": (b'"finishReason": "STOP"', b'"finishReason": "SAFETY"'),
    }
    old, new = reasons[dialect.wire.name]
    stream = dialect.wire.stream(["some"])
    filtered = replace(stream, body=[piece.replace(old, new) for piece in stream.body])
    async with wall(dialect.wire, [filtered], [dialect.wire.stream(["other"])], streams=True) as opened:
        answer = await opened.ask()
        assert (answer.text, answer.finish, answer.cut) == ("some", "content_filter", False)
        assert opened.calls == (1, 0)


async def test_a_stream_in_which_one_choice_never_ends_is_broken(wall: OpenWall, dialect: Dialect) -> None:
    if dialect.wire.name == "anthropic":
        pytest.skip("Anthropic gives one answer")
    bodies = [piece.replace(b'"index": 0', b'"index": 1') for piece in dialect.begun().body]
    whole = list(dialect.wire.stream([PARTIAL]).body)
    done = whole.pop() if whole[-1].startswith(b"data: [DONE]") else b""
    reply = Reply.of_events([*bodies, *whole, done])
    async with wall(dialect.wire, [reply], streams=True) as opened:
        answer = await opened.ask(n=2)
        assert (answer.status, answer.cut) == (200, True)
        assert answer.error["type"] == "server_error"
        assert b"[DONE]" not in answer.body
    assert opened.watcher.outcomes[0].status == "partial"


async def test_content_after_the_finish_does_no_harm(wall: OpenWall, dialect: Dialect) -> None:
    whole = list(dialect.wire.stream(["fi", "ne"]).body)
    late = next(piece for piece in dialect.wire.stream(["late"]).body if b"late" in piece)
    done = [whole.pop()] if whole[-1].startswith(b"data: [DONE]") else []
    async with wall(dialect.wire, [Reply.of_events([*whole, late, *done])], streams=True) as opened:
        answer = await opened.ask()
        # After message_stop nobody listens; the other vendors have no such last word before the end of the line.
        assert answer.text == ("fine" if dialect.wire.name == "anthropic" else "finelate")
        assert (answer.status, answer.cut, answer.error) == (200, False, None)
        assert answer.body.endswith(b"data: [DONE]\n\n")
    assert opened.watcher.outcomes[0].status == "complete"


async def test_an_end_that_is_told_with_every_event_is_none(
    wall: OpenWall, dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dialect.wire.name == "anthropic":
        return  # which tells its end in an event of its own
    monkeypatch.setattr(f"gatehook_plugins.vendor_{dialect.wire.name}.vendor._FORMALITIES_SECONDS", 0.6)
    words = [f"{number} " for number in range(8)]
    whole = [piece for piece in dialect.wire.stream(words).body if b"[DONE]" not in piece]
    field, told = ("finish_reason", "stop") if dialect.wire.name == "openai" else ("finishReason", "STOP")
    ended = [_told_everywhere(piece, field, told) for piece in whole]
    async with wall(dialect.wire, [Reply.of_events(ended, pause=0.15)], streams=True) as opened:
        answer = await opened.ask()
        assert (answer.status, answer.text, answer.cut, answer.error) == (200, "".join(words), False, None)
    assert opened.watcher.outcomes[0].status == "complete"


def _told_everywhere(piece: bytes, field: str, told: str) -> bytes:
    """The event, in which every choice, or candidate, tells an end."""
    data = json.loads(piece.partition(b"data: ")[2])
    for choice in data.get("choices") or data.get("candidates") or ():
        choice[field] = told
    return b"data: %b\n\n" % json.dumps(data).encode()


@pytest.mark.parametrize("end", ["cut", "reset", "silence"])
async def test_an_answer_whose_end_was_told_is_whole_whatever_becomes_of_its_line(
    wall: OpenWall, dialect: Dialect, end: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for vendor in ("openai", "gemini"):
        monkeypatch.setattr(f"gatehook_plugins.vendor_{vendor}.vendor._FORMALITIES_SECONDS", 0.2)
    pieces = [piece for piece in dialect.wire.stream(["fi", "ne"]).body if b"[DONE]" not in piece]
    async with wall(dialect.wire, [Reply.of_events(pieces, end=end)], streams=True) as opened:
        answer = await opened.ask()
        assert (answer.status, answer.text, answer.finish, answer.cut) == (200, "fine", "stop", False)
        assert answer.body.endswith(b"data: [DONE]\n\n")
    (outcome,) = opened.watcher.outcomes
    assert (outcome.status, outcome.usage.prompt_tokens) == ("complete", 11)
