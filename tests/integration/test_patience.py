"""How long a request is fought for, what a client hears meanwhile, and what a deployment says for a silent request."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from gatehook import estimate
from gatehook.catalog import LiveCatalog
from gatehook.config.sections import ModelSettings
from gatehook.model import Call
from gatehook.testing import Reply, StubUpstream

House = Callable[..., Any]
Wire = Any

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = {**CHAT, "stream": True}


# --- budgets


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
async def test_so_many_vendors_are_called_for_one_request_and_no_more(house: House, wire: Wire, body: Any) -> None:
    async with StubUpstream(wire.error(500, "out of order")) as stub:
        models = [wire.deployment(stub, api_key=f"upstream-secret-{number}") for number in range(4)]
        async with house(*models, failover={"retries": 1, "max_attempts": 3}) as opened:
            status, answer, _ = await opened.ask(body)
        assert (status, answer["error"]["code"]) == (502, "upstream_error")
        assert len(stub.requests) == 3


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "stream"])
async def test_after_its_time_no_further_attempt_is_begun(house: House, wire: Wire, body: Any) -> None:
    error = wire.error(500, "out of order")
    slow = Reply(error.body, error.status, error.content_type, error.headers, before=0.3)
    async with StubUpstream(slow) as stub:
        models = [wire.deployment(stub, api_key=f"upstream-secret-{number}") for number in range(3)]
        async with house(*models, failover={"retries": 2, "budget": 0.2}) as opened:
            status, answer, _ = await opened.ask(body)
        assert (status, answer["error"]["code"]) == (502, "upstream_error")
        assert len(stub.requests) == 1, "the first attempt is never cut short, and no other begun"


async def test_a_wait_that_goes_beyond_the_budget_is_not_begun_and_another_deployment_is_asked(
    house: House, wire: Wire
) -> None:
    async with (
        StubUpstream(wire.error(429, "slow down", headers={"Retry-After": "5"})) as limited,
        StubUpstream(wire.text("here")) as other,
    ):
        models = [wire.deployment(limited, priority=1), wire.deployment(other, priority=2)]
        async with house(*models, failover={"retries": 2, "retry_after_cap": 10, "budget": 2}) as opened:
            status, _, _ = await opened.ask(CHAT)
        assert (status, len(limited.requests), len(other.requests)) == (200, 1, 1)


# --- heartbeats


async def raw_stream(opened: Any) -> bytes:
    async with opened.http.post(f"{opened.url}/v1/chat/completions", json=STREAM) as answer:
        assert answer.status == 200
        body: bytes = await answer.read()
        return body


def paused(wire: Wire, seconds: float) -> Reply:
    """A stream of two words, with a pause between them."""
    whole = b"".join(wire.stream(["one", "two"]).body)
    place = whole.index(b"two")
    return Reply.of_events([whole[:place], whole[place:]], pause=seconds)


async def test_a_silent_stream_tells_the_client_that_it_lives(house: House, wire: Wire) -> None:
    async with StubUpstream(paused(wire, 1.5)) as stub:  # who is late with one has time for others
        async with house(wire.deployment(stub), server={"heartbeat": 0.1}) as opened:
            body, text = await asyncio.gather(raw_stream(opened), told(opened))
        assert body.count(b": keep-alive\n\n") >= 2
        assert body.endswith(b"data: [DONE]\n\n")
        assert text == "onetwo", "the official client does not notice"
        for event in body.replace(b": keep-alive\n\n", b"").split(b"\n\n")[:-2]:
            json.loads(event.removeprefix(b"data: "))


async def told(opened: Any) -> str:
    """The text that the official client reads."""
    chunks = [chunk async for chunk in await opened.openai.chat.completions.create(**STREAM)]
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@pytest.mark.parametrize("heartbeat", [0, 30])
async def test_nobody_hears_what_was_not_asked_for(house: House, wire: Wire, heartbeat: float) -> None:
    async with (
        StubUpstream(paused(wire, 0.25)) as stub,
        house(wire.deployment(stub), server={"heartbeat": heartbeat}) as opened,
    ):
        assert b"keep-alive" not in await raw_stream(opened)


async def test_a_heartbeat_does_not_put_off_the_end_of_patience(house: House, wire: Wire) -> None:
    whole = b"".join(wire.stream(["one", "two"]).body)
    stalled = Reply.of_events([whole[: whole.index(b"two")]], end="silence")
    patience = {"server": {"heartbeat": 0.1}, "failover": {"stall_timeout": 0.6}}
    async with StubUpstream(stalled) as stub, house(wire.deployment(stub), **patience) as opened:
        reader, writer = await asyncio.open_connection("127.0.0.1", opened.port)
        body = json.dumps(STREAM).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        body = await reader.read()
        writer.close()
    assert b": keep-alive\n\n" in body
    assert b"upstream_timeout" in body


async def test_before_the_first_content_there_is_no_heartbeat_and_the_status_is_honest(
    house: House, wire: Wire
) -> None:
    patience = {"server": {"heartbeat": 0.1}, "failover": {"first_token_timeout": 0.4}}
    async with (
        StubUpstream(Reply(status=0, end="silence")) as stub,
        house(wire.deployment(stub), **patience) as opened,
    ):
        assert (await opened.ask(STREAM))[0] == 504


# --- defaults


DEFAULTS = {"default_temperature": 0.25, "max_tokens": 77}


def sent(wire_name: str, request: Any) -> tuple[Any, Any]:
    """Temperature and limit, as this vendor is told."""
    body = request.json
    if wire_name == "gemini":
        config = body.get("generationConfig", {})
        return config.get("temperature"), config.get("maxOutputTokens")
    return body.get("temperature"), body.get("max_tokens") or body.get("max_completion_tokens")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, (0.25, 77)),
        ({"temperature": 0, "max_tokens": 5}, (0, 5)),
        ({"max_completion_tokens": 6, "temperature": None}, (0.25, 6)),
    ],
)
async def test_a_deployment_s_parameters_are_for_requests_that_do_not_say(
    house: House, wire: Wire, asked: Any, told: tuple[Any, Any], stream: bool
) -> None:
    async with StubUpstream(wire.stream(["a"]) if stream else wire.text("a")) as stub:
        model = wire.deployment(stub, parameters=DEFAULTS)
        async with house(model) as opened:
            status, _, _ = await opened.ask({**CHAT, **asked, "stream": stream, "user": "kept"})
        assert status == 200
        assert sent(model["vendor"], stub.requests[0]) == told


async def test_an_embedding_has_no_such_parameters(house: House, openai_wire: Wire) -> None:
    answer = {
        "object": "list",
        "model": "up-model",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }
    async with StubUpstream(Reply.of_json(answer)) as stub:
        async with house(openai_wire.deployment(stub, parameters=DEFAULTS)) as opened:
            assert (await opened.ask({"model": "m", "input": "x"}, path="/v1/embeddings"))[0] == 200
        assert "max_tokens" not in stub.requests[0].json


def test_an_answer_is_reserved_for_by_the_default() -> None:
    table: dict[str, Any] = {"name": "m", "vendor": "v", "parameters": DEFAULTS, "limits": {"max_tokens": 500}}
    target = ModelSettings(**table).to_target("m#1")
    call = Call("chat", "openai", {}, model="m")
    call.choices = 2
    assert estimate(call, LiveCatalog([target]).group("m")).completion_most == 2 * 77


async def test_cancelling_a_request_in_its_back_off_ends_it(house: House, wire: Wire) -> None:
    async with StubUpstream(wire.error(429, "slow down", headers={"Retry-After": "9"})) as stub:
        async with house(wire.deployment(stub), failover={"retries": 1}) as opened:
            asking = asyncio.create_task(opened.ask(CHAT))
            async with asyncio.timeout(10):
                while not stub.requests:  # noqa: ASYNC110  # it is what the stub counts
                    await asyncio.sleep(0.01)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert len(stub.requests) == 1
