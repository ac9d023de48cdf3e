"""GET /stats/usage and /stats/performance: who sees what, and to the nano-dollar."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehook import (
    LEDGER,
    NANO,
    AuthenticationFailed,
    Authenticator,
    Credential,
    Gateway,
    ModelUsage,
    Performance,
    Principal,
    Section,
    ServiceKey,
    Unavailable,
    hookimpl,
)

OpenLlm = Callable[..., Any]

MOUNTS = ("/api/llm", "/api/v1/llm")
ROUTES = ("/stats/usage", "/stats/performance")
MODELS = """
[[models]]
name = "mock"
vendor = "mock"
pricing = { input_per_1k_tokens = 0.0025, output_per_1k_tokens = 0.01 }
options = { text = "Paris.", usage = { prompt_tokens = 1234, completion_tokens = 567 } }
[[models]]
name = "cheap"
vendor = "mock"
pricing = { input_per_1k_tokens = 0.0000015, output_per_1k_tokens = 0.0000004 }
options = { text = "x", usage = { prompt_tokens = 1, completion_tokens = 1 } }
[[models]]
name = "unpriced"
vendor = "mock"
options = { text = "x", usage = { prompt_tokens = 10, completion_tokens = 10 } }
[[models]]
name = "broken"
vendor = "mock"
pricing = { input_per_1k_tokens = 1, output_per_1k_tokens = 1 }
options = { fault = { kind = "status", status = 500 } }
[plugins.names]
"""
MOCK = 1234 * 2_500 + 567 * 10_000
"""Nano-dollars of one answer of "mock", by hand."""
CHEAP = 2 + 1
"""1.5 and 0.4, rounded up."""


class ByName(Authenticator):
    """The key is the name of who calls; "root" is an admin."""

    async def authenticate(self, credential: Credential) -> Principal:
        if not credential.token:
            raise AuthenticationFailed("who are you?")
        return Principal(credential.token, admin=credential.token == "root")


class Names:
    class Settings(Section): ...

    def __init__(self, settings: Settings) -> None: ...

    @hookimpl
    def register_authenticators(self, gateway: Gateway) -> Iterable[Authenticator]:
        return [ByName()]


@pytest.fixture
def with_ledger(llm: OpenLlm, database_url: str, tmp_path: Path) -> Callable[[], Any]:
    """A gateway that keeps the ledger, in each kind of database."""
    tables = f"""
[database]
url = "{database_url}"
secret = "0123456789abcdef0123456789abcdef"
[plugins.database]
[plugins.ledger]
directory = "{tmp_path / "journal"}"
"""
    return lambda: llm(tables + MODELS, {"names": Names})


def used(requests: int, tokens: int, nano: int | None) -> dict[str, Any]:
    return {"requests": requests, "tokens": tokens, "cost": None if nano is None else nano / NANO}


async def test_callers_see_what_they_used_and_admins_see_all(with_ledger: Callable[[], Any]) -> None:
    async with with_ledger() as gateway:
        for key, model, stream in [
            ("alice", "mock", False), ("alice", "mock", True), ("alice", "cheap", False), ("alice", "broken", False),
            ("bob", "mock", False), ("bob", "unpriced", True),
        ]:  # fmt: skip
            await gateway.ask(key=key, model=model, parameters={"stream": stream})

        async def total(key: str, mount: str = "/api/llm", **query: str) -> dict[str, Any]:
            answer = await gateway.get(f"{mount}/stats/usage", key, **query)
            assert answer.status == 200, answer.body
            found: dict[str, Any] = answer.json
            assert set(found) == {"period", "total_requests", "total_tokens", "total_cost", "by_model"}
            found.pop("period")
            return found

        alice = {
            "total_requests": 4, "total_tokens": 3604, "total_cost": (2 * MOCK + CHEAP) / NANO,
            "by_model": {"mock": used(2, 3602, 2 * MOCK), "cheap": used(1, 2, CHEAP), "broken": used(1, 0, 0)},
        }  # fmt: skip
        for mount in MOUNTS:
            assert await total("alice", mount) == alice
        assert await total("alice", user_id="alice") == alice
        assert await total("root", user_id="alice") == alice
        assert await total("alice", model="cheap") == {
            "total_requests": 1, "total_tokens": 2, "total_cost": CHEAP / NANO,
            "by_model": {"cheap": used(1, 2, CHEAP)},
        }  # fmt: skip
        assert (await total("bob"))["by_model"] == {"mock": used(1, 1801, MOCK), "unpriced": used(1, 20, None)}
        assert (await total("bob"))["total_cost"] == MOCK / NANO
        assert (await total("bob", model="unpriced"))["total_cost"] is None
        everybody = await total("root")
        assert (everybody["total_requests"], everybody["by_model"]["mock"]) == (6, used(3, 5403, 3 * MOCK))
        nothing = {"total_requests": 0, "total_tokens": 0, "total_cost": 0.0, "by_model": {}}
        assert await total("carol") == nothing
        assert await total("alice", model="unpriced") == nothing
        assert await total("root", user_id="carol") == nothing
        assert await total("alice", end_date="2026-01-01") == nothing
        lately = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)  # today, though it began a moment ago
        assert await total("alice", start_date=lately.date().isoformat()) == alice


async def test_how_requests_went_is_told_to_callers_of_their_own(with_ledger: Callable[[], Any]) -> None:
    async with with_ledger() as gateway:
        for _ in range(3):
            await gateway.ask(key="alice")
        await gateway.ask(key="alice", model="broken")
        await gateway.ask(key="alice", model="nobody")
        await gateway.ask(key="bob", model="broken")
        alice = (await gateway.get("/api/llm/stats/performance", "alice", window="600")).json
        broken = (await gateway.get("/api/v1/llm/stats/performance", "root", model="broken")).json
        nobody = (await gateway.get("/api/llm/stats/performance", "carol")).json
    assert (alice["success_rate"], alice["error_rate"]) == (0.75, 0.25)
    assert alice["throughput"] == {"requests_per_minute": 0.5, "tokens_per_minute": 3 * 1801 / 10}
    times = alice["response_times"]
    assert set(times) == {"average_ms", "p50_ms", "p95_ms", "p99_ms"}
    assert 0 <= times["p50_ms"] <= times["p95_ms"] <= times["p99_ms"] < 10_000
    assert (broken["success_rate"], broken["error_rate"]) == (0.0, 1.0)
    unknown = {"average_ms": None, "p50_ms": None, "p95_ms": None, "p99_ms": None}
    assert broken["response_times"] == unknown
    assert (nobody["response_times"], nobody["success_rate"], nobody["error_rate"]) == (unknown, None, None)
    assert nobody["throughput"] == {"requests_per_minute": 0.0, "tokens_per_minute": 0.0}


async def test_the_costs_answered_add_up_to_the_costs_kept(with_ledger: Callable[[], Any]) -> None:
    async with with_ledger() as gateway:
        answers = [await gateway.ask(key="alice", model=model) for model in ("mock", "cheap", "cheap", "mock")]
        streams = [await gateway.ask("/api/llm/generate/stream", key="alice", model="cheap") for _ in range(3)]
        kept = (await gateway.get("/api/llm/stats/usage", "alice")).json["total_cost"]
    told = [one.json["cost"] for one in answers] + [one.events[-2]["cost"] for one in streams]
    assert sum(round(one["total_cost"] * NANO) for one in told) == round(kept * NANO) == 2 * MOCK + 5 * CHEAP


async def test_names_that_no_database_can_hold_are_not_asked_for(with_ledger: Callable[[], Any]) -> None:
    async with with_ledger() as gateway:
        for key, name in (("root", "user_id"), ("alice", "model"), ("root", "model")):
            for value in ("a\0b", "x" * 257, "\x1b[31m"):
                for route in ROUTES:
                    answer = await gateway.get("/api/llm" + route, key, **{name: value})
                    assert answer.error(400, "INVALID_REQUEST")["message"].startswith(f"{name}: ")
        for name in ("model", "user_id"):
            for value in ("'; DROP TABLE usage; --", "%", "Größe 😀", "\\", "x" * 256):
                answer = await gateway.get("/api/llm/stats/usage", "root", **{name: value})
                assert answer.json["by_model"] == {}


async def test_odd_names_of_models_do_not_spoil_the_statistics(with_ledger: Callable[[], Any]) -> None:
    async with with_ledger() as gateway:
        for model in ("a\0b", "\ud800", "x" * 100_000, 7, ["m"], "\x1b[31m", ""):
            assert (await gateway.ask(key="alice", model=model)).status in (400, 404)
        await gateway.ask(key="alice")
        usage = (await gateway.get("/api/llm/stats/usage", "alice")).json
        performance = (await gateway.get("/api/llm/stats/performance", "alice")).json
    assert usage["by_model"] == {"mock": used(1, 1801, MOCK)}
    assert performance["success_rate"] == 1.0


class FixedLedger:
    """A ledger of which only the questions are of interest."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.away = False

    async def usage(self, start: int, end: int, **who: Any) -> list[ModelUsage]:
        self.asked.append((start, end, who))
        if self.away:
            raise Unavailable("the database cannot be reached", retry_after=3)
        return [ModelUsage("a/b", 2, 10, 5, 7), ModelUsage("c", 1, 1, 1, 10**18)]

    async def performance(self, start: int, end: int, **who: Any) -> Performance:
        self.asked.append((start, end, who))
        return Performance(12, 6, 2, 600, 12.5, 10, 20, 30)


class Fixed:
    class Settings(Section): ...

    ledger = FixedLedger()

    def __init__(self, settings: Settings) -> None: ...

    @hookimpl
    def register_services(self, gateway: Gateway) -> Iterable[tuple[ServiceKey[Any], Any]]:
        return [(LEDGER, self.ledger)]


@pytest.fixture
async def fixed(llm: OpenLlm) -> AsyncIterator[tuple[Any, FixedLedger]]:
    """A gateway with that ledger."""
    Fixed.ledger = FixedLedger()
    async with llm(MODELS + "[plugins.fixed]\n", {"names": Names, "fixed": Fixed}) as gateway:
        yield gateway, Fixed.ledger


NOVEMBER = {"start_date": "2026-11-01", "end_date": "2026-11-30"}
NOVEMBER_MS = (1_793_491_200_000, 1_796_083_200_000)
NOVEMBER_WRITTEN = {"start": "2026-11-01T00:00:00.000Z", "end": "2026-12-01T00:00:00.000Z"}


async def test_the_ledger_is_asked_for_exactly_the_period_the_user_and_the_model(fixed: Any) -> None:
    gateway, ledger = fixed
    usage = (await gateway.get("/api/llm/stats/usage", "alice", model="a/b", **NOVEMBER)).json
    performance = (await gateway.get("/api/v1/llm/stats/performance", "root", **NOVEMBER)).json
    assert ledger.asked == [
        (*NOVEMBER_MS, {"user_id": "alice", "model": "a/b"}), (*NOVEMBER_MS, {"user_id": None, "model": None})
    ]  # fmt: skip
    assert usage == {
        "period": NOVEMBER_WRITTEN, "total_requests": 3, "total_tokens": 17, "total_cost": 1_000_000_000.000000007,
        "by_model": {"a/b": used(2, 15, 7), "c": used(1, 2, 10**18)},
    }  # fmt: skip
    minutes = 30 * 24 * 60
    assert performance == {
        "window": NOVEMBER_WRITTEN,
        "response_times": {"average_ms": 12.5, "p50_ms": 10, "p95_ms": 20, "p99_ms": 30},
        "success_rate": 0.75, "error_rate": 0.25,
        "throughput": {"requests_per_minute": 12 / minutes, "tokens_per_minute": 600 / minutes},
    }  # fmt: skip


async def test_nobody_sees_what_others_used(fixed: Any) -> None:
    gateway, ledger = fixed
    for route in ROUTES:
        for query in ({"user_id": "alice"}, {"user_id": "root"}, {"user_id": "BOB"}, {"user_id": "bob "}):
            answer = await gateway.get("/api/llm" + route, "bob", **query)
            assert answer.error(403, "FORBIDDEN")["details"]["reason"] == "admin_required"
        for query in ({}, {"user_id": ""}, {"user_id": "bob"}, {"user": "alice"}):
            assert (await gateway.get("/api/llm" + route, "bob", **query)).status == 200
        (await gateway.get("/api/llm" + route)).error(401, "UNAUTHORIZED")
    assert {who["user_id"] for *_, who in ledger.asked} == {"bob"}


BAD = [
    ({"start_date": "yesterday"}, "start_date"), ({"end_date": "2026-02-30"}, "end_date"),
    ({"start_date": "2026-11-02", "end_date": "2026-11-01"}, "start_date"),
    ({"start_date": "0001-01-01"}, "start_date"), ({"end_date": "9999-12-31"}, "end_date"),
    ({"start_date": "\u0000"}, "start_date"), ({"model": "\u0000"}, "model"),
]  # fmt: skip


async def test_a_bad_query_names_its_field(fixed: Any) -> None:
    gateway, ledger = fixed
    for route in ROUTES:
        for query, field in BAD:
            error = (await gateway.get("/api/llm" + route, "alice", **query)).error(400, "INVALID_REQUEST")
            assert error["message"].startswith(f"{field}: ")
    for window in ("0", "-5", "1h", "99999999999"):
        error = (await gateway.get("/api/llm/stats/performance", "alice", window=window)).error(400, "INVALID_REQUEST")
        assert error["message"].startswith("window: ")
    assert ledger.asked == []


async def test_any_query_is_answered_or_refused(fixed: Any) -> None:
    gateway, _ = fixed
    loop = asyncio.get_running_loop()
    names = st.sampled_from(["start_date", "end_date", "model", "user_id", "window", "x"])
    values = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.dates().map(str) | st.just("3600")

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(query=st.dictionaries(names, values, max_size=4), route=st.sampled_from(ROUTES))
    def ask(query: dict[str, str], route: str) -> None:
        going = gateway.get("/api/llm" + route, "root", **query)
        answer = asyncio.run_coroutine_threadsafe(going, loop).result(20)
        if answer.status != 200:
            answer.error(400, "INVALID_REQUEST")

    await asyncio.to_thread(ask)


async def test_a_ledger_that_is_away_is_told(fixed: Any) -> None:
    gateway, ledger = fixed
    ledger.away = True
    answer = await gateway.get("/api/llm/stats/usage", "alice")
    error = answer.error(503, "SERVICE_UNAVAILABLE")
    assert error["details"] == {"model": None, "reason": "service_unavailable", "retry_after": 3}
    assert answer.headers["Retry-After"] == "3"


@pytest.mark.parametrize("mount", MOUNTS)
@pytest.mark.parametrize("route", ROUTES)
async def test_without_a_ledger_statistics_say_what_to_enable(llm: OpenLlm, mount: str, route: str) -> None:
    async with llm(MODELS, {"names": Names}) as gateway:
        error = (await gateway.get(mount + route, "alice")).error(503, "SERVICE_UNAVAILABLE")
        assert "[plugins.ledger]" in error["message"]
        assert error["details"]["reason"] == "ledger_disabled"
        health = (await gateway.get(f"{mount}/health")).json
        assert health["services"]["cost_tracker"] == "disabled"


async def test_with_a_ledger_costs_are_tracked(fixed: Any) -> None:
    gateway, _ = fixed
    assert (await gateway.get("/api/llm/health")).json["services"]["cost_tracker"] == "healthy"
