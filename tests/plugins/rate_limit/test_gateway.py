"""The plugin in a whole gateway, limiting in memory and in Redis."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from gatehook import (
    Call,
    Key,
    Limiter,
    Limits,
    Outcome,
    Permit,
    Principal,
    RateLimited,
    Section,
    StartupError,
    User,
    hookimpl,
)
from gatehook.awaiting import awaited
from gatehook.testing import built
from gatehook_plugins.rate_limit import RateLimit

Gateway = Callable[..., AbstractAsyncContextManager[Any]]

MODEL = """
[[models]]
name = "m"
vendor = "mock"
options = { text = "Fine.", usage = { prompt_tokens = 40, completion_tokens = 60 } }
"""


def person(user: Limits | None = None, key: Limits | None = None, name: str = "ann") -> Principal:
    return Principal(
        id=name,
        user=None if user is None else User(name, limits=user),
        key=None if key is None else Key(f"{name}-key", name, "gk_ann", limits=key),
    )


def limits_told(answer: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items() if "ratelimit" in name.lower()}


async def test_a_key_s_limit_refuses_in_openai_s_shape(
    gateway: Gateway, people: dict[str, Principal], redis_table: str
) -> None:
    people["t"] = person(key=Limits(2))
    async with gateway(f"{redis_table}[plugins.rate_limit]\n{MODEL}") as client:
        before = time.time()
        first, second, third = [await client.ask("t") for _ in range(3)]
    assert [one.status for one in (first, second, third)] == [200, 200, 429]
    assert third.body["error"]["type"] == "rate_limit_error"
    assert third.body["error"]["code"] == "rate_limit_exceeded"
    wait = int(third.headers["Retry-After"])
    assert third.body["error"]["message"] == (
        f"rate limit reached for this key: 2 requests per minute; try again in {wait} s"
    )
    assert 58 <= wait <= 61
    told = limits_told(first)
    assert before + 59 <= int(told.pop("x-ratelimit-reset")) <= time.time() + 62
    assert told.pop("x-ratelimit-reset-requests").startswith("1m")
    assert told == {
        "x-ratelimit-limit": "2",
        "x-ratelimit-remaining": "1",
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
    }
    assert [limits_told(one)["x-ratelimit-remaining"] for one in (second, third)] == ["0", "0"]
    names = [name.lower() for name in third.headers]
    assert len(names) == len(set(names))


async def test_tokens_are_reserved_by_the_estimate_and_settled_by_the_true_figure(
    gateway: Gateway, people: dict[str, Principal], redis_table: str
) -> None:
    people["t"] = person(user=Limits(None, 2000))
    async with gateway(f"{redis_table}[plugins.rate_limit]\n{MODEL}") as client:
        first = int(limits_told(await client.ask("t", max_tokens=300))["x-ratelimit-remaining-tokens"])
        assert 1640 < first < 1700  # the answer's limit, and a few of the prompt
        second = int(limits_told(await client.ask("t", max_tokens=300, stream=True))["x-ratelimit-remaining-tokens"])
        assert abs(second - (first - 100)) <= 1
        told = limits_told(await client.ask("t", max_tokens=300))
        assert abs(int(told["x-ratelimit-remaining-tokens"]) - (second - 100)) <= 1
        assert told["x-ratelimit-limit"] == told["x-ratelimit-limit-tokens"] == "2000"
        assert "x-ratelimit-limit-requests" not in told


async def test_a_request_too_large_for_the_limit_is_told_so(gateway: Gateway, people: dict[str, Principal]) -> None:
    people["t"] = person(user=Limits(None, 200))
    async with gateway(f"[plugins.rate_limit]\n{MODEL}") as client:
        answer = await client.ask("t", max_tokens=400)
        assert (answer.status, answer.body["error"]["code"]) == (429, "request_too_large_for_limit")
        assert "this user has 200 tokens per minute, so it can never pass" in answer.body["error"]["message"]
        assert "Retry-After" not in answer.headers
        assert (await client.ask("t", max_tokens=20)).status == 200


async def test_defaults_are_for_users_without_limits_of_their_own_each_by_itself(
    gateway: Gateway, people: dict[str, Principal], redis_table: str
) -> None:
    people |= {"a": person(name="a"), "b": person(Limits(), Limits(), "b"), "own": person(Limits(5), None, "own")}
    async with gateway(f"{redis_table}[plugins.rate_limit]\nrequests_per_minute = 1\n{MODEL}") as client:
        for token in ("a", "b"):
            assert [(await client.ask(token)).status for _ in range(2)] == [200, 429]
        assert [(await client.ask("own")).status for _ in range(6)] == [200] * 5 + [429]


async def test_anonymous_callers_share_one(gateway: Gateway) -> None:
    async with gateway(f"[plugins.rate_limit]\nrequests_per_minute = 1\n{MODEL}") as client:
        assert [(await client.ask()).status for _ in range(2)] == [200, 429]


async def test_a_changed_limit_counts_from_the_next_call_on(gateway: Gateway, people: dict[str, Principal]) -> None:
    changes = [Principal("ann", key_id="k", user=User("ann", limits=one)) for one in (Limits(5), Limits(), Limits(1))]
    people["t"] = changes[0]
    async with gateway(f"[plugins.rate_limit]\nrequests_per_minute = 9\n{MODEL}") as client:
        told = []
        for people["t"] in changes:  # as when somebody changes them meanwhile
            answer = await client.ask("t")
            told.append((answer.status, limits_told(answer)["x-ratelimit-limit-requests"]))
    assert told == [(200, "5"), (200, "9"), (429, "1")]


async def test_callers_are_told_apart_even_by_the_same_key(gateway: Gateway, people: dict[str, Principal]) -> None:
    people |= {name: Principal(name, key_id="same") for name in ("ann", "bob")}
    async with gateway(f"[plugins.rate_limit]\nrequests_per_minute = 2\n{MODEL}") as client:
        answers = [await client.ask(name) for _ in range(3) for name in ("ann", "bob")]
    assert [one.status for one in answers] == [200] * 4 + [429] * 2


async def test_who_has_no_limit_sees_no_header(gateway: Gateway, people: dict[str, Principal]) -> None:
    people["t"] = person(Limits(), Limits())
    async with gateway(f"[plugins.rate_limit]\n{MODEL}") as client:
        assert limits_told(await client.ask("t")) == {}


async def test_a_model_s_limit_is_for_all_its_callers(
    gateway: Gateway, people: dict[str, Principal], redis_table: str
) -> None:
    people |= {"a": person(name="a"), "b": person(name="b")}
    table = '[plugins.rate_limit]\n[plugins.rate_limit.models."M-4.1/x"]\nrequests_per_minute = 1\n'
    models = '[[models]]\nname = "M-4.1/x"\nvendor = "mock"\n[[models]]\nname = "n"\nvendor = "mock"\n'
    async with gateway(redis_table + table + models) as client:
        assert (await client.ask("a", "M-4.1/x")).status == 200
        answer = await client.ask("b", "M-4.1/x")
        assert answer.status == 429
        assert "for the model 'M-4.1/x': 1 request per minute" in answer.body["error"]["message"]
        assert (await client.ask("b", "n")).status == 200


async def test_a_full_deployment_is_passed_over(gateway: Gateway, redis_table: str) -> None:
    models = """
    [[models]]
    name = "m"
    vendor = "mock"
    rate_limit = { requests_per_minute = 2 }
    options = { text = "first" }
    [[models]]
    name = "m"
    vendor = "mock"
    priority = 2
    rate_limit = { requests_per_minute = 1 }
    options = { text = "second" }
    """
    async with gateway(f"{redis_table}[plugins.rate_limit]\n{models}") as client:
        answers = [await client.ask() for _ in range(4)]
    texts = [one.body["choices"][0]["message"]["content"] for one in answers[:3]]
    assert texts == ["first", "first", "second"]
    assert answers[3].status == 429
    assert "for the deployment 'm#" in answers[3].body["error"]["message"]
    assert 55 <= int(answers[3].headers["Retry-After"]) <= 61


async def test_a_failed_attempt_gives_its_tokens_back_and_stays_counted(gateway: Gateway, redis_table: str) -> None:
    models = """
    [[models]]
    name = "m"
    vendor = "mock"
    rate_limit = { requests_per_minute = 2, tokens_per_minute = 600 }
    options = { script = [{ fault = { kind = "status", status = 500 } }, { text = "done" }] }
    """
    settings = f"{redis_table}[failover]\nretries = 1\n[plugins.rate_limit]\n{models}"
    async with gateway(settings) as client:
        assert (await client.ask(max_tokens=500)).status == 200  # both tries fit into the tokens of one
        refused = await client.ask(max_tokens=10)
        assert refused.status == 429
        assert "2 requests per minute" in refused.body["error"]["message"]


async def test_requests_at_the_same_time_are_counted_until_their_streams_end(
    gateway: Gateway, people: dict[str, Principal], redis_table: str
) -> None:
    people["t"] = person(key=Limits(None, None, 1))
    stalls = '[[models]]\nname = "stalls"\nvendor = "mock"\noptions = { fault = { kind = "stall", after = 2 } }\n'
    async with gateway(f"{redis_table}[plugins.rate_limit]\n{MODEL}{stalls}") as client:
        body = {"model": "stalls", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        running = await client.post(body, "t")
        assert running.status == 200
        answer = await client.ask("t")
        assert answer.status == 429
        assert "1 request at the same time; try again when a running one has ended" in answer.body["error"]["message"]
        assert (answer.headers["X-RateLimit-Limit"], answer.headers["X-RateLimit-Remaining"]) == ("1", "0")
        running.close()  # the client leaves
        while (await client.ask("t")).status == 429:
            pass
        assert (await client.ask("t")).status == 200


async def test_hundreds_at_once_get_the_limit_exactly(
    gateway: Gateway, people: dict[str, Principal], redis_table: str
) -> None:
    people["t"] = person(user=Limits(100), key=Limits(70))
    async with gateway(f"{redis_table}[plugins.rate_limit]\n{MODEL}") as client:
        answers = await asyncio.gather(*(client.ask("t") for _ in range(200)))
    assert sorted(one.status for one in answers) == [200] * 70 + [429] * 130


class Refuses:
    """A limiter after ours that lets nobody through."""

    class Settings(Section):
        """[plugins.refuses]."""

    def __init__(self, settings: Settings) -> None: ...

    @hookimpl
    def register_limiters(self) -> Iterable[Limiter]:
        return [self]

    async def admit(self, call: Call) -> Permit | None:
        raise RateLimited("not you")


async def test_what_another_limiter_refuses_costs_nothing(
    gateway: Gateway, people: dict[str, Principal], redis_table: str
) -> None:
    people["t"] = person(key=Limits(1, 700, 1))
    settings = f"{redis_table}[plugins.rate_limit]\n[plugins.refuses]\norder = 1\n{MODEL}"
    async with gateway(settings, {"refuses": Refuses}) as client:
        for _ in range(3):
            answer = await client.ask("t")
            assert answer.body["error"]["message"] == "not you"
            assert limits_told(answer)["x-ratelimit-remaining"] == "0"


async def test_what_no_vendor_was_tried_for_costs_nothing(gateway: Gateway, people: dict[str, Principal]) -> None:
    people["t"] = person(key=Limits(1, 700))
    async with gateway(f"[plugins.rate_limit]\n{MODEL}") as client:
        assert [(await client.ask("t", "unknown")).status for _ in range(3)] == [404] * 3
        assert [(await client.ask("t")).status for _ in range(2)] == [200, 429]


async def test_a_failed_call_stays_counted_without_its_tokens(gateway: Gateway, people: dict[str, Principal]) -> None:
    people["t"] = person(key=Limits(3, 600))
    model = '[[models]]\nname = "m"\nvendor = "mock"\noptions = { fault = { kind = "status", status = 400 } }\n'
    async with gateway(f"[plugins.rate_limit]\n{model}") as client:
        answers = [await client.ask("t", max_tokens=500) for _ in range(4)]
    assert [one.status for one in answers] == [400, 400, 400, 429]
    assert "3 requests per minute" in answers[3].body["error"]["message"]


async def test_two_gateways_on_one_redis_share_their_limits(
    gateway: Gateway, people: dict[str, Principal], redis_url: str
) -> None:
    people["t"] = person(key=Limits(30))
    settings = f'[redis]\nurl = "{redis_url}"\ntimeout = 10\n[plugins.rate_limit]\n{MODEL}'
    async with gateway(settings) as one, gateway(settings) as other:
        answers = await asyncio.gather(*(client.ask("t") for _ in range(30) for client in (one, other)))
    assert sorted(answer.status for answer in answers) == [200] * 30 + [429] * 30


async def test_permits_of_memory_settle_at_once(people: dict[str, Principal]) -> None:
    (limiter,) = RateLimit(RateLimit.Settings(requests_per_minute=3)).register_limiters(built(""))
    permit = await awaited(limiter.admit(Call("chat", "test", {})))
    assert permit is not None
    assert permit.settle(Outcome("complete", 200)) is None


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("requests_per_minute = -1", "greater than or equal to 0"),
        ("requests_per_minute = 1.5", "integer"),
        ('tokens_per_minute = "many"', "integer"),
        ('on_failure = "pray"', "'local', 'open' or 'closed'"),
        ("burst = 3", "burst"),
        ("[plugins.rate_limit.models.m]\nrequests = 3", "requests"),
        ("[plugins.rate_limit.models.m]\nconcurrent_requests = -3", "concurrent_requests"),
    ],
)
def test_wrong_settings_are_refused(table: str, told: str) -> None:
    with pytest.raises(StartupError, match=told):
        built(f"[plugins.rate_limit]\n{table}", plugins={"rate_limit": RateLimit})
