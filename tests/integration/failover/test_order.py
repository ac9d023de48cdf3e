"""Whom a failure hands a request to, and what its client is told: for each vendor's format where it matters."""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from gatehook.testing import Reply, StubUpstream

House = Callable[..., Any]
Wire = Any
Watcher = Any

USER: Any = {"role": "user", "content": "Hi"}
CHAT: dict[str, Any] = {"model": "m", "messages": [USER]}
STREAM = {**CHAT, "stream": True}


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_deployments_are_tried_in_turn_then_the_fallback(
    watched: House, wire: Wire, watcher: Watcher, body: Any, content: Callable[[bytes], str]
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


@pytest.mark.parametrize(("status", "level"), [(500, logging.WARNING), (401, logging.WARNING), (400, logging.DEBUG)])
async def test_the_log_warns_of_faults_but_not_of_what_clients_ask_for_wrongly(
    house: House, wire: Wire, caplog: pytest.LogCaptureFixture, status: int, level: int
) -> None:
    caplog.set_level(logging.DEBUG, "gatehook")
    async with StubUpstream(wire.error(status, "no")) as stub, house(wire.deployment(stub)) as home:
        await home.ask()
    told = [record for record in caplog.records if " m#1" in record.getMessage()]
    assert [record.levelno for record in told] == [level]


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
        house(wire.deployment(stub), failover={"retries": 1, "retry_after_cap": 20}) as home,
    ):
        begun = time.monotonic()
        status, _, _ = await home.ask()
    assert status == 200
    assert float(after) <= time.monotonic() - begun < 10, "as long as was asked for, and not the cap"


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
async def test_any_failure_before_content_moves_on_to_the_next(
    house: House, wire: Wire, body: Any, content: Callable[[bytes], str]
) -> None:
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
async def test_no_first_token_in_time_moves_on(
    house: House, wire: Wire, pieces: list[bytes], content: Callable[[bytes], str]
) -> None:
    async with (
        StubUpstream(Reply.of_events(pieces, end="silence")) as first,
        StubUpstream(wire.stream(["fine"])) as second,
        house(
            wire.deployment(first), wire.deployment(second, priority=2), failover={"first_token_timeout": 0.5}
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
