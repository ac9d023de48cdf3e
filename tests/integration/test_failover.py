"""What happens when vendors fail, and when clients do: over real sockets, for each vendor's format where it matters."""

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import openai
import pytest

from gatehook import Call, Observer, Outcome, Section, Target, hookimpl
from gatehook.testing import Reply, StubUpstream

House = Callable[..., Any]
Wire = Any
Wait = Callable[..., Any]

USER: Any = {"role": "user", "content": "Hi"}
CHAT: dict[str, Any] = {"model": "m", "messages": [USER]}
STREAM = {**CHAT, "stream": True}


class Watcher(Observer):
    """Keeps what observers are told."""

    def __init__(self) -> None:
        self.failed: list[tuple[str, str | None]] = []
        self.outcomes: list[Outcome] = []

    def attempt_failed(self, call: Call, target: Target, error: Any) -> None:
        self.failed.append((target.key, error.code))

    def finished(self, call: Call, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
def watched(house: House, watcher: Watcher) -> House:
    """A house whose every call is watched."""

    class Watch:
        Settings = Section

        def __init__(self, settings: Section) -> None:
            pass

        @hookimpl
        def register_observers(self) -> list[Observer]:
            return [watcher]

    def opened(*models: Any, **changes: Any) -> Any:
        return house(*models, plugins={"watch": Watch}, plugin_watch={}, **changes)

    return opened


def content(events: bytes) -> str:
    """The text in a stream of OpenAI's dialect."""
    found = ""
    for event in events.decode().split("\n\n"):
        if event.startswith("data: {") and (choices := json.loads(event[6:]).get("choices")):
            found += choices[0]["delta"].get("content") or ""
    return found


# --- which deployment


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_deployments_are_tried_in_turn_then_the_fallback(
    watched: House, wire: Wire, watcher: Watcher, body: Any
) -> None:
    good = wire.stream(["third"]) if body is STREAM else wire.text("third")
    async with (
        StubUpstream(wire.error(500, "one")) as first,
        StubUpstream(wire.error(503, "two")) as second,
        StubUpstream(good) as third,
        watched(
            wire.deployment(first, fallbacks=["n"]),
            wire.deployment(second, priority=2, fallbacks=["n"]),
            wire.deployment(third, "n"),
        ) as home,
    ):
        status, answer, headers = await home.ask(body)
        assert (len(first.requests), len(second.requests), len(third.requests)) == (1, 1, 1)
    text = content(answer) if body is STREAM else answer["choices"][0]["message"]["content"]
    assert (status, text) == (200, "third")
    assert headers["X-Gatehook-Deployment"].startswith("n")
    told = json.loads(answer.split(b"\n\n")[0][6:]) if body is STREAM else answer
    assert told["model"] == "n", "the answer names the model that gave it"
    assert [key for key, _ in watcher.failed] == ["m#1", "m#2"]
    assert [(one.status, one.http_status) for one in watcher.outcomes] == [("complete", 200)]


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_when_all_fail_the_last_error_is_told(house: House, wire: Wire, body: Any) -> None:
    async with (
        StubUpstream(wire.error(500, "one")) as first,
        StubUpstream(wire.error(429, "two")) as second,
        house(wire.deployment(first), wire.deployment(second, priority=2)) as home,
    ):
        status, answer, headers = await home.ask(body)
    assert (status, answer["error"]["type"]) == (429, "rate_limit_error")
    assert "two" in answer["error"]["message"]
    assert headers["X-Gatehook-Deployment"] == "m#2"


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_only_transient_errors_are_tried_again(
    house: House, openai_wire: Wire, monkeypatch: pytest.MonkeyPatch, body: Any
) -> None:
    monkeypatch.setattr("gatehook.calls.failover._FIRST_BACKOFF", 0.001)
    tries = dict.fromkeys((500, 502, 503, 429), 3) | dict.fromkeys((401, 403, 404, 402, 400, 422, 413), 1)
    async with StubUpstream() as stub, house(openai_wire.deployment(stub), failover={"retries": 2}) as home:
        for status, calls in tries.items():
            stub.requests.clear()
            stub.script(openai_wire.error(status, "no"))
            await home.ask(body)
            assert (status, len(stub.requests)) == (status, calls)


@pytest.mark.parametrize(("status", "told", "moves"), [(401, 502, True), (404, 502, True), (400, 400, False)])
async def test_a_fault_of_the_deployment_moves_on_and_one_of_the_request_does_not(
    house: House, wire: Wire, status: int, told: int, moves: bool
) -> None:
    async with (
        StubUpstream(wire.error(status, "no")) as first,
        StubUpstream(wire.text("x")) as second,
        house(wire.deployment(first), wire.deployment(second, priority=2)) as home,
    ):
        got, _, _ = await home.ask()
        assert (got, len(second.requests)) == ((200, 1) if moves else (told, 0))


async def test_a_transient_fault_is_mended_by_the_retry(watched: House, wire: Wire, watcher: Watcher) -> None:
    async with (
        StubUpstream(wire.error(500, "no"), wire.text("yes")) as stub,
        watched(wire.deployment(stub), failover={"retries": 1}) as home,
    ):
        status, answer, _ = await home.ask()
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "yes")
    assert len(watcher.failed) == 1


@pytest.mark.parametrize("after", ["0", "0.05"])
async def test_retry_after_within_the_cap_is_waited_for(house: House, wire: Wire, after: str) -> None:
    async with (
        StubUpstream(wire.error(429, "slow", headers={"Retry-After": after}), wire.text("yes")) as stub,
        house(wire.deployment(stub), failover={"retries": 1, "retry_after_cap": 1}) as home,
    ):
        begun = time.monotonic()
        status, _, _ = await home.ask()
    assert status == 200
    assert float(after) <= time.monotonic() - begun < 1


@pytest.mark.parametrize(("after", "told"), [("5", "5"), ("86400", "86400"), ("1e300", "604800")])  # a week at most
async def test_retry_after_over_the_cap_is_told_to_the_client_at_once(
    house: House, wire: Wire, after: str, told: str
) -> None:
    async with (
        StubUpstream(wire.error(429, "slow", headers={"Retry-After": after})) as stub,
        house(wire.deployment(stub), failover={"retries": 2, "retry_after_cap": 1}) as home,
    ):
        status, answer, headers = await home.ask()
        assert len(stub.requests) == 1
    assert (status, answer["error"]["type"]) == (429, "rate_limit_error")
    assert headers["Retry-After"] == told


async def test_a_senseless_retry_after_harms_nobody(house: House, wire: Wire) -> None:
    async with StubUpstream() as stub, house(wire.deployment(stub)) as home:
        for after in ("inf", "nan", "-1", "soon", "Fri, 31 Dec 1999 23:59:59 GMT", ""):
            stub.script(wire.error(429, "slow", headers={"Retry-After": after}))
            status, answer, _ = await home.ask()
            assert (after, status, answer["error"]["type"]) == (after, 429, "rate_limit_error")


# --- how vendors fail


FAULTS: dict[str, Any] = {
    "reset before the answer": lambda wire: Reply(status=0, end="reset"),
    "closed before the answer": lambda wire: Reply(status=0, end="close"),
    "cut in the head": lambda wire: Reply(b"{", end="cut"),
    "reset in the body": lambda wire: Reply(b'{"id"', end="reset"),
    "malformed JSON": lambda wire: Reply(b'{"id": "x", "choices": [{'),
    "HTML": lambda wire: Reply(b"<html>Bad gateway</html>", content_type="text/html"),
    "an empty answer": lambda wire: Reply(b""),
    "null": lambda wire: Reply(b"null"),
    "an empty object": lambda wire: Reply(b"{}"),
    "a redirect": lambda wire: Reply(b"", status=302, headers={"Location": "http://127.0.0.1:9/"}),
    "a 500 page": lambda wire: Reply(b"<html></html>", status=500, content_type="text/html"),
    "events that are none": lambda wire: Reply.of_events(b"data: <html>\n\n"),
    "events that end at once": lambda wire: Reply.of_events(b""),
    "events cut before content": lambda wire: Reply.of_events([b": hello\n\n"], end="cut"),
    "an error among the events": lambda wire: Reply.of_events(b'event: error\ndata: {"error":{"message":"x"}}\n\n'),
}


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_any_failure_before_content_moves_on_to_the_next(house: House, wire: Wire, body: Any) -> None:
    good = wire.stream(["fine"]) if body is STREAM else wire.text("fine")
    async with (
        StubUpstream() as first,
        StubUpstream(good) as second,
        house(wire.deployment(first), wire.deployment(second, priority=2)) as home,
    ):
        for number, (name, fault) in enumerate(FAULTS.items(), 1):
            first.script(fault(wire))
            status, answer, headers = await home.ask(body)
            assert (name, status, headers["X-Gatehook-Deployment"]) == (name, 200, "m#2")
            assert (content(answer) if body is STREAM else answer["choices"][0]["message"]["content"]) == "fine"
            assert (len(first.requests), len(second.requests)) == (number, number)


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_any_failure_before_content_is_a_clean_status(house: House, wire: Wire, body: Any) -> None:
    async with StubUpstream() as stub, house(wire.deployment(stub)) as home:
        for name, fault in FAULTS.items():
            stub.script(fault(wire))
            status, answer, _ = await home.ask(body)
            assert (name, status, set(answer)) == (name, 502, {"error"})
            assert answer["error"]["type"] == "server_error"
            assert wire.name in answer["error"]["message"]
            assert "<html" not in answer["error"]["message"]
            assert "127.0.0.1" not in answer["error"]["message"]


async def test_a_vendor_that_is_not_there_is_a_502(house: House, wire: Wire) -> None:
    async with StubUpstream() as stub:
        gone = wire.deployment(stub)
    async with house(gone) as home:
        status, answer, _ = await home.ask()
    assert status == 502
    assert str(gone["base_url"]).split("/")[2] not in answer["error"]["message"]


@pytest.mark.parametrize("pieces", [[], [b": ping\n\n"]])
async def test_no_first_token_in_time_moves_on(house: House, wire: Wire, pieces: list[bytes]) -> None:
    async with (
        StubUpstream(Reply.of_events(pieces, end="silence")) as first,
        StubUpstream(wire.stream(["fine"])) as second,
        house(
            wire.deployment(first), wire.deployment(second, priority=2), failover={"first_token_timeout": 0.15}
        ) as home,
    ):
        status, answer, _ = await home.ask(STREAM)
        assert (status, content(answer)) == (200, "fine")
        await asyncio.wait_for(first.closed_early.wait(), 5)


async def test_no_first_token_anywhere_is_a_504(house: House, wire: Wire) -> None:
    async with (
        StubUpstream(Reply(status=0, end="silence")) as stub,
        house(wire.deployment(stub), failover={"first_token_timeout": 0.15, "retries": 2}) as home,
    ):
        status, answer, _ = await home.ask(STREAM)
        assert (status, answer["error"]["type"], answer["error"]["code"]) == (504, "timeout_error", "upstream_timeout")
        assert len(stub.requests) == 1
        await asyncio.wait_for(stub.closed_early.wait(), 5)


async def test_a_plain_answer_over_its_time_is_a_504(house: House, wire: Wire) -> None:
    async with (
        StubUpstream(Reply(status=0, end="silence")) as stub,
        house(wire.deployment(stub, timeout=0.15)) as home,
    ):
        status, answer, _ = await home.ask()
        assert (status, answer["error"]["type"]) == (504, "timeout_error")
        await asyncio.wait_for(stub.closed_early.wait(), 5)


# --- after the first content


def half_of(reply: Reply, until: bytes, **how: Any) -> Reply:
    """The reply's events up to and including the first with `until` in it."""
    pieces = list(reply.body)
    last = next(number for number, piece in enumerate(pieces) if until in piece)  # type: ignore[operator]
    return Reply.of_events(pieces[: last + 1], **how)  # type: ignore[arg-type]


BREAKS: dict[str, Any] = {
    "cut": lambda half: half(end="cut"),
    "reset": lambda half: half(end="reset"),
    "ended": lambda half: half(end="close"),
    "malformed": lambda half: Reply.of_events([*half().body, b"data: {oops\n\n"]),
    "an error": lambda half: Reply.of_events(
        [*half().body, b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n']
    ),
    "silence": lambda half: half(end="silence"),
}


async def broken(home: Any, body: Any = STREAM) -> tuple[int, bytes, bool]:
    """Status, the events, and whether the line was cut before the body's end."""
    received = b""
    async with home.http.post(home.url + "/v1/chat/completions", json=body) as answer:
        try:
            async for piece in answer.content.iter_any():
                received += piece
        except aiohttp.ClientPayloadError:
            return answer.status, received, True
    return answer.status, received, False


@pytest.mark.parametrize("name", BREAKS)
async def test_a_stream_that_breaks_ends_with_an_error_event_and_a_cut_line(
    watched: House, wire: Wire, watcher: Watcher, name: str
) -> None:
    whole = wire.stream(["first", "second"])
    reply = BREAKS[name](lambda **how: half_of(whole, b"first", **how))
    async with (
        StubUpstream(reply) as stub,
        StubUpstream(wire.stream(["other"])) as other,
        watched(
            wire.deployment(stub), wire.deployment(other, priority=2), failover={"stall_timeout": 0.15, "retries": 2}
        ) as home,
    ):
        status, events, cut = await broken(home)
        assert (len(stub.requests), len(other.requests)) == (1, 0)
        if name == "silence":
            await asyncio.wait_for(stub.closed_early.wait(), 5)
    assert (status, content(events), cut) == (200, "first", True)
    assert b"[DONE]" not in events
    last = events.decode().strip().rpartition("\n\n")[2]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("timeout_error" if name == "silence" else "server_error")
    (outcome,) = watcher.outcomes
    assert (outcome.status, outcome.http_status) == ("partial", 200)
    assert outcome.code
    assert outcome.usage is not None


async def test_the_sdk_raises_when_a_stream_breaks(house: House, wire: Wire) -> None:
    reply = half_of(wire.stream(["first", "second"]), b"first", end="cut")
    async with StubUpstream(reply) as stub, house(wire.deployment(stub)) as home:
        received: list[str | None] = []

        async def read() -> None:
            async for chunk in await home.openai.chat.completions.create(**STREAM):
                received.append(chunk.choices[0].delta.content)  # noqa: PERF401  # it breaks off

        with pytest.raises(openai.APIError):
            await read()
    assert "first" in received


async def test_the_total_time_limits_a_stream_that_drips(house: House, wire: Wire) -> None:
    reply = wire.stream(["drop"] * 100, pause=0.05)
    async with StubUpstream(reply) as stub, house(wire.deployment(stub, timeout=0.4)) as home:
        begun = time.monotonic()
        _, events, cut = await broken(home)
        assert time.monotonic() - begun < 3
        await asyncio.wait_for(stub.closed_early.wait(), 5)
    assert cut
    assert b"timeout_error" in events


# --- headers


async def test_lost_parameters_are_told_in_a_header(house: House, wire: Wire) -> None:
    body = {**CHAT, "user": "u", "zz_unknown": 1, "zz\r\nX-Evil: 1": 2, "größe": 3, "seed": None}
    async with StubUpstream(wire.text("x"), wire.stream(["x"])) as stub, house(wire.deployment(stub)) as home:
        for one in (body, {**body, "stream": True}):
            status, _, headers = await home.ask(one)
            assert status == 200
            assert "X-Evil" not in headers
            lost = headers.get("X-Gatehook-Dropped-Params", "")
            if wire.name == "openai":
                assert lost == ""
            else:
                assert lost.split(", ")[:2] == ["user", "zz_unknown"]
                assert "seed" not in lost
                assert lost.isascii()


async def test_thousands_of_lost_parameters_do_not_break_the_answer(house: House, wire: Wire) -> None:
    body = {**CHAT, **{f"unknown_{'x' * 100}_{number}": 1 for number in range(2000)}}
    async with StubUpstream(wire.text("x")) as stub, house(wire.deployment(stub)) as home:
        status, answer, _ = await home.ask(body)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "x")


async def test_strict_deployments_refuse_what_others_drop(house: House, wire: Wire) -> None:
    async with StubUpstream(wire.text("x")) as stub, house(wire.deployment(stub, strict=True)) as home:
        status, answer, _ = await home.ask({**CHAT, "zz_unknown": 1})
        if wire.name == "openai":
            assert status == 200
        else:
            assert (status, answer["error"]["param"]) == (400, "zz_unknown")
            assert not stub.requests


# --- clients


async def raw_client(port: int, body: Any, *, version: str = "1.1", head: str = "") -> tuple[Any, Any]:
    """A client on a bare socket that has sent its request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw_request(body, version=version, head=head))
    await writer.drain()
    return reader, writer


def raw_request(body: Any, *, version: str = "1.1", head: str = "") -> bytes:
    raw = json.dumps(body).encode()
    lines = f"POST /v1/chat/completions HTTP/{version}\r\nHost: x\r\nContent-Type: application/json\r\n{head}"
    return f"{lines}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


WAITS: dict[str, Any] = {
    "before the head": lambda wire: Reply(status=0, end="silence"),
    "in the body": lambda wire: Reply(b'{"id"', end="silence"),
    "before the first event": lambda wire: Reply.of_events([], end="silence"),
    "after the first content": lambda wire: half_of(wire.stream(["first", "second"]), b"first", end="silence"),
}


@pytest.mark.parametrize("where", WAITS)
@pytest.mark.parametrize("abrupt", [False, True])
async def test_a_client_that_leaves_ends_the_vendors_call_at_once(
    watched: House, wire: Wire, watcher: Watcher, settled: Wait, where: str, abrupt: bool
) -> None:
    body = CHAT if where == "in the body" else STREAM
    async with (
        StubUpstream(WAITS[where](wire)) as stub,
        watched(wire.deployment(stub), failover={"retries": 2}) as home,
    ):
        reader, writer = await raw_client(home.port, body)
        if where == "after the first content":
            await reader.readuntil(b"first")
        await settled(lambda: stub.requests)
        if abrupt:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        writer.close()
        begun = time.monotonic()
        await asyncio.wait_for(stub.closed_early.wait(), 5)
        assert time.monotonic() - begun < 1
        await settled(lambda: watcher.outcomes and not stub.open)
        assert not stub.open
        assert len(stub.requests) == 1
    (outcome,) = watcher.outcomes
    status = "partial" if where == "after the first content" else "failed"
    assert (outcome.status, outcome.http_status, outcome.code) == (status, 499, "client_left")


async def test_a_client_that_leaves_while_a_retry_waits_is_not_served(
    watched: House, openai_wire: Wire, watcher: Watcher, settled: Wait
) -> None:
    slow = openai_wire.error(429, "slow", headers={"Retry-After": "9"})
    async with StubUpstream(slow) as stub, watched(openai_wire.deployment(stub), failover={"retries": 2}) as home:
        _, writer = await raw_client(home.port, CHAT)
        await settled(lambda: watcher.failed)
        writer.close()
        await settled(lambda: watcher.outcomes)
        assert len(stub.requests) == 1
    assert watcher.outcomes[0].code == "client_left"


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_does_not_read_is_let_go(
    watched: House, openai_wire: Wire, watcher: Watcher, settled: Wait, streamed: bool
) -> None:
    big = "x" * 50_000
    reply = openai_wire.stream([big] * 600) if streamed else openai_wire.text(big * 600)
    async with (
        StubUpstream(reply) as stub,
        watched(openai_wire.deployment(stub), server={"write_timeout": 0.3}) as home,
    ):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", home.port))
        await loop.sock_sendall(sock, raw_request(STREAM if streamed else CHAT))
        await settled(lambda: watcher.outcomes)
        received = 0
        async with asyncio.timeout(10):  # the line is closed, else this would wait for more
            with contextlib.suppress(ConnectionResetError):
                while data := await loop.sock_recv(sock, 1 << 20):
                    received += len(data)
        sock.close()
    assert received < 30_000_000
    (outcome,) = watcher.outcomes
    assert (outcome.status, outcome.http_status, outcome.code) == ("partial", 499, "client_left")
    assert outcome.usage is not None


@pytest.mark.parametrize("size", [65_000, 65_536, 65_537, 3_000_000])
async def test_a_large_plain_answer_arrives_whole(house: House, wire: Wire, size: int) -> None:
    text = "é" * (size // 2)
    async with StubUpstream(wire.text(text)) as stub, house(wire.deployment(stub)) as home:
        for _ in range(2):
            status, answer, headers = await home.ask()
            assert (status, answer["choices"][0]["message"]["content"]) == (200, text)
            assert int(headers["Content-Length"]) > size
            assert headers["Content-Type"] == "application/json"


async def test_a_slow_client_that_reads_gets_everything(house: House, openai_wire: Wire) -> None:
    big = "x" * 50_000
    async with (
        StubUpstream(openai_wire.stream([big] * 100)) as stub,
        house(openai_wire.deployment(stub), server={"write_timeout": 1}) as home,
    ):
        reader, writer = await raw_client(home.port, STREAM, head="Connection: close\r\n")
        received = b""
        while data := await reader.read(1 << 18):
            received += data
            await asyncio.sleep(0)
        writer.close()
    assert received.count(b"x" * 50_000) == 100
    assert b"data: [DONE]" in received


async def test_an_http_1_0_client_gets_a_stream_that_the_end_of_the_line_ends(house: House, wire: Wire) -> None:
    async with StubUpstream(wire.stream(["a", "b"])) as stub, house(wire.deployment(stub)) as home:
        reader, writer = await raw_client(home.port, STREAM, version="1.0")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200")
    assert b"chunked" not in head.lower()
    assert content(body) == "ab"
    assert body.endswith(b"data: [DONE]\n\n")


async def test_an_http_1_0_client_gets_a_plain_answer(house: House, wire: Wire) -> None:
    async with StubUpstream(wire.text("a")) as stub, house(wire.deployment(stub)) as home:
        reader, writer = await raw_client(home.port, CHAT, version="1.0")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert b"HTTP/1.0 200" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["message"]["content"] == "a"


async def test_pipelined_requests_are_answered_in_order(house: House, wire: Wire) -> None:
    replies = (wire.stream(["first"]), wire.text("second"), wire.error(500, "third"), wire.text("fourth"))
    async with StubUpstream(*replies) as stub, house(wire.deployment(stub)) as home:
        reader, writer = await asyncio.open_connection("127.0.0.1", home.port)
        last = raw_request(CHAT, head="Connection: close\r\n")
        writer.write(raw_request(STREAM) + raw_request(CHAT) * 2 + last)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert len(stub.requests) == 4
    places = [answer.index(word) for word in (b"first", b"[DONE]", b"second", b"third", b"fourth")]
    assert places == sorted(places)
    assert answer.count(b"HTTP/1.1 200") == 3


async def test_a_connection_whose_answer_was_read_serves_the_next_call(house: House, wire: Wire, settled: Wait) -> None:
    async with StubUpstream(wire.text("a"), wire.stream(["b"])) as stub, house(wire.deployment(stub)) as home:
        for body in (CHAT, STREAM, STREAM):
            assert (await home.ask(body))[0] == 200
        assert stub.open == 1
    await settled(lambda: not stub.open)
    assert not stub.open


async def test_a_connection_whose_answer_was_half_read_serves_nobody(house: House, wire: Wire, settled: Wait) -> None:
    half = half_of(wire.stream(["first", "second"]), b"first")
    bad = Reply.of_events([*half.body, b"data: {oops\n\n", b"data: never read\n\n" * 1000], end="keep")
    async with StubUpstream(bad, wire.text("fine")) as stub, house(wire.deployment(stub)) as home:
        await broken(home)
        status, answer, _ = await home.ask()
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "fine")
