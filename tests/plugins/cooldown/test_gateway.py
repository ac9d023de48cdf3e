"""Deployments that fail, in a gateway on a real socket in front of real ones."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from gatehook import HEALTH, StartupError
from gatehook.testing import Reply, StubUpstream, built, serving

Make = Callable[..., AbstractAsyncContextManager[Any]]
ONE = "failure_threshold = 1\nrecovery_threshold = 1"
OVERSIZE = Reply.of_json(
    {
        "error": {
            "message": "Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 12000",
            "type": "tokens",
            "code": "rate_limit_exceeded",
        }
    },
    status=413,
    headers={"Retry-After": "30"},
)


@pytest.fixture
def gateway(settings: Callable[..., str], client: Callable[..., Any]) -> Make:
    """`async with gateway(stub, stub, cooldown=…) as (client, gateway)`."""

    @asynccontextmanager
    async def make(*stubs: StubUpstream, **rest: str) -> AsyncIterator[Any]:
        async with serving(settings(*stubs, **rest)) as served, aiohttp.ClientSession() as session:
            yield client(session, served.url), served.gateway

    return make


def state(gateway: Any, key: str) -> str:
    health = gateway.services[HEALTH]
    target = next(one for one in gateway.catalog.group("m") if one.key == key)
    return str(health.of(target).state)


async def test_a_deployment_that_fails_thrice_is_passed_over(
    gateway: Make, answer: Reply, broken: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    async with StubUpstream(broken) as bad, StubUpstream(answer) as good, gateway(bad, good) as (client, served):
        with caplog.at_level(logging.INFO, "gatehook"):
            for _ in range(6):
                status, _, headers = await client.ask()
                assert status == 200
                assert headers["X-Gatehook-Deployment"] == "m#2"
        assert len(bad.requests) == 3
        assert len(good.requests) == 6
        assert state(served, "m#1") == "unavailable"
        assert state(served, "m#2") == "healthy"
        said = [one.getMessage() for one in caplog.records if one.name == "gatehook.cooldown"]
        assert len(said) == 1, "once, not per request"
        assert said[0].startswith("deployment m#1 is given a rest of ")
        metrics = await client.get("/metrics")
        assert 'gateway_deployment_state{deployment="m#1"} 2.0' in metrics
        assert 'gateway_deployment_rests_total{deployment="m#1"} 1.0' in metrics
        assert (await client.get("/api/llm/models/m/status"))["health"] == "degraded"
        assert (await client.get("/api/llm/health"))["status"] == "degraded"


async def test_when_all_rest_the_client_is_told_when_the_first_is_tried_again(gateway: Make, broken: Reply) -> None:
    busy = Reply.of_json({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "20"})
    async with StubUpstream(broken) as bad, StubUpstream(busy) as also, gateway(bad, also, cooldown=ONE) as (client, _):
        assert (await client.ask())[0] in (429, 502)
        status, body, headers = await client.ask()
        assert status == 503
        assert body["error"]["code"] == "deployment_resting"
        assert "m#2" in body["error"]["message"], "its rest ends first"
        assert 18 <= int(headers["Retry-After"]) <= 20
        assert len(bad.requests) == len(also.requests) == 1
        assert (await client.get("/api/llm/models/m/status"))["health"] == "unavailable"


async def test_after_its_rest_one_request_at_a_time_tries_it_and_it_is_trusted_again(
    gateway: Make, answer: Reply, broken: Reply, wait: Any
) -> None:
    cooldown = "failure_threshold = 1\nrecovery_threshold = 2\nrest = 0.2\nlongest_rest = 0.2"
    async with (
        StubUpstream(broken, answer) as flapping,
        StubUpstream(answer) as good,
        gateway(flapping, good, cooldown=cooldown) as (client, served),
    ):
        await client.ask()
        assert state(served, "m#1") == "unavailable"
        await wait(lambda: state(served, "m#1") == "degraded")
        slow = Reply(answer.body, before=0.3)
        flapping.script(slow, answer)
        answers = await asyncio.gather(*(client.ask() for _ in range(5)))
        by = [headers["X-Gatehook-Deployment"] for _, _, headers in answers]
        assert sorted(by) == ["m#1", "m#2", "m#2", "m#2", "m#2"], "one tried it, the others did not wait"
        assert state(served, "m#1") == "degraded"
        assert (await client.ask())[2]["X-Gatehook-Deployment"] == "m#1"
        assert state(served, "m#1") == "healthy"


async def test_a_client_that_leaves_while_its_request_tries_it_lets_another_one_try(
    gateway: Make, answer: Reply, broken: Reply, wait: Any
) -> None:
    cooldown = f"{ONE}\nrest = 0.1\nlongest_rest = 0.1"
    async with (
        StubUpstream(broken, Reply(end="silence", status=0), answer) as bad,
        StubUpstream(answer) as good,
        gateway(bad, good, cooldown=cooldown) as (client, served),
    ):
        await client.ask()
        await wait(lambda: state(served, "m#1") == "degraded")
        leaving = asyncio.create_task(client.ask())
        await wait(lambda: len(bad.requests) == 2)
        assert (await client.ask())[2]["X-Gatehook-Deployment"] == "m#2"
        leaving.cancel()
        await asyncio.wait([leaving])

        async def tried() -> bool:
            return bool((await client.ask())[2]["X-Gatehook-Deployment"] == "m#1")

        async with asyncio.timeout(5):
            while not await tried():
                pass
        assert state(served, "m#1") == "healthy"


@pytest.mark.parametrize(
    ("reply", "counts"),
    [
        (Reply.of_json({"error": {"message": "bad"}}, status=400), False),
        (Reply.of_json({"error": {"message": "x", "code": "context_length_exceeded"}}, status=400), False),
        (Reply.of_json({"error": {"message": "your input was flagged"}}, status=403), False),
        (Reply.of_json({"error": {"message": "who are you"}}, status=401), True),
        (Reply.of_json({"error": {"message": "gone"}}, status=404), True),
        (Reply.of_json({"error": {"message": "pay", "code": "insufficient_quota"}}, status=429), True),
        (Reply.of_json({"error": {"message": "slow down"}}, status=429), True),
        (Reply.of_json({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "9"}), True),
        (OVERSIZE, False),
        (Reply(b"<html>", content_type="text/html"), True),
        (Reply(status=0, end="reset"), True),
    ],
)
async def test_whose_fault_an_error_is_decides(gateway: Make, answer: Reply, reply: Reply, *, counts: bool) -> None:
    async with (
        StubUpstream(reply) as bad,
        StubUpstream(answer) as good,
        gateway(bad, good, cooldown=ONE) as (one, served),
    ):
        await one.ask()
        assert state(served, "m#1") == ("unavailable" if counts else "healthy")


async def test_who_asks_for_more_than_every_limit_has_is_told_not_to_repeat_it(gateway: Make) -> None:
    async with StubUpstream(OVERSIZE) as one, StubUpstream(OVERSIZE) as two, gateway(one, two) as (client, served):
        status, body, headers = await client.ask()
        assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
        assert "Requested 12000" in body["error"]["message"]
        assert headers["X-Should-Retry"] == "false"
        assert "Retry-After" not in headers
        assert {state(served, "m#1"), state(served, "m#2")} == {"healthy"}


async def test_the_only_deployment_of_a_model_is_given_no_rest(gateway: Make, answer: Reply, broken: Reply) -> None:
    async with StubUpstream(*[broken] * 4, answer) as bad, gateway(bad, cooldown=ONE) as (client, served):
        for _ in range(4):
            assert (await client.ask())[0] == 502
        assert state(served, "m#1") == "degraded"
        assert (await client.ask())[0] == 200
        assert state(served, "m#1") == "healthy"


async def test_a_stream_that_breaks_after_content_is_a_failure_too(gateway: Make, answer: Reply) -> None:
    chunk = (
        b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"x","choices":[{"index":0,'
        b'"delta":{"role":"assistant","content":"Hel"},"finish_reason":null}]}\n\n'
    )
    async with (
        StubUpstream(Reply.of_events(chunk, end="cut")) as bad,
        StubUpstream(answer) as good,
        gateway(bad, good, cooldown=ONE) as (client, served),
    ):
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.ask(stream=True)
        assert state(served, "m#1") == "unavailable"


@pytest.mark.parametrize("key", ["failure_threshold", "recovery_threshold", "rest"])
def test_a_threshold_of_zero_is_refused_by_name(settings: Callable[..., str], key: str) -> None:
    with pytest.raises(StartupError, match=rf"\[plugins.cooldown\] {key}"):
        built(settings(cooldown=f"{key} = 0"))
    with pytest.raises(StartupError, match="longest_rest"):
        built(settings(cooldown="rest = 20\nlongest_rest = 10"))
