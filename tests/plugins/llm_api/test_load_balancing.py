"""GET and PUT /config/load-balancing: what an administrator sets while the gateway serves, on both databases."""

import asyncio
import contextlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import BALANCING, CATALOG, HEALTH, InvalidRequest, Section, ServiceKey, Services, Target
from gatehook.catalog import LiveCatalog
from gatehook_plugins.llm_api.balancing import LoadBalancing, _check_sums
from gatehook_plugins.route_models.balance import Balance

ADMIN = "admin-key-0123456789abcdef"
MOUNTS = ("/api/llm", "/api/v1/llm")


async def until(question: Callable[[], Any], wanted: Any) -> None:
    """Return as soon as the answer is the one wanted; it must be within a second.

    A second is a hundred questions: those in which a busy machine does something else are none.
    """
    for _ in range(100):
        if await question() == wanted:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("another gateway never learnt of it")


PLAIN = {"strategy": "weighted", "health_check_interval": 0.0, "failure_threshold": 3, "recovery_threshold": 2,
         "weights": {}}  # fmt: skip


async def test_the_contracts_own_example_is_taken_and_answered_as_a_whole(admin: Any) -> None:
    before = await admin.get("load-balancing")
    assert (before.status, before.json, before.headers["ETag"]) == (200, PLAIN, '"0"')
    asked = {"strategy": "round_robin", "health_check_interval": 30, "failure_threshold": 4, "recovery_threshold": 5,
             "weights": {"m": 0.4}}  # fmt: skip
    for mount in MOUNTS:
        answer = await admin.put("load-balancing", asked, mount=mount)
        assert (answer.status, answer.json) == (200, asked)
        again = await admin.get("load-balancing", mount=mount)
        assert (again.json, again.headers["ETag"]) == (asked, answer.headers["ETag"])
        assert again.headers["Cache-Control"] == "no-store"
    actor, action, subject, detail = (await admin.audit())[-1]
    assert (action, subject, detail) == ("config.change", "load-balancing", asked)
    assert actor
    assert ADMIN not in json.dumps(await admin.audit())


async def test_what_is_not_named_stays_and_null_takes_back(admin: Any) -> None:
    await admin.put("load-balancing", {"strategy": "priority", "weights": {"m": 2, "spare": 3}})
    answer = await admin.put("load-balancing", {"weights": {"m": None, "m#1": 4}})
    assert answer.json == {**PLAIN, "strategy": "priority", "weights": {"spare": 3, "m#1": 4}}
    answer = await admin.put("load-balancing", {"strategy": None, "weights": None})
    assert answer.json == PLAIN
    assert (await admin.put("load-balancing", {})).json == PLAIN


@pytest.mark.parametrize(
    ("asked", "param", "words"),
    [
        ({"strategy": "round_robbin"}, "strategy", "did you mean 'round_robin'"),
        ({"strategy": "xyz"}, "strategy", "there are: least_busy, lowest_cost, "),
        ({"strategy": 5}, "strategy", "unknown strategy"),
        ({"startegy": "priority"}, "startegy", "unknown key; did you mean 'strategy'"),
        ({"health_check_interval": -1}, "health_check_interval", "from 0 to 86400"),
        ({"health_check_interval": "30"}, "health_check_interval", "must be a number"),
        ({"health_check_interval": 1e9}, "health_check_interval", "from 0 to 86400"),
        ({"failure_threshold": 0}, "failure_threshold", "from 1 to 10000"),
        ({"failure_threshold": 1.5}, "failure_threshold", "whole number"),
        ({"recovery_threshold": 0}, "recovery_threshold", "from 1 to 10000"),
        ({"recovery_threshold": True}, "recovery_threshold", "whole number"),
        ({"weights": [1]}, "weights", "must be an object"),
        ({"weights": {"m": -1}}, "weights.m", "from 0"),
        ({"weights": {"m": True}}, "weights.m", "must be a number"),
        ({"weights": {"n": 1}}, "weights.n", "no model or deployment is named so"),
        ({"weights": {"m#3": 1}}, "weights.m#3", "did you mean 'm#"),
        ({"weights": {"spare": 0}}, "weights", "those of 'spare' at priority 1 would sum to zero"),
        ({"weights": {"m#2": 0, "spare": 1}}, "weights", "those of 'm' at priority 1 would sum to zero"),
        ({"weights": {"m": 0, "spare": 0}}, "weights", "sum to zero"),
    ],
)
async def test_what_cannot_be_is_refused_by_name_and_nothing_changes(
    opened_on_sqlite: Callable[..., Any], asked: dict[str, Any], param: str, words: str
) -> None:
    async with opened_on_sqlite() as admin:
        kept = await admin.put("load-balancing", {"strategy": "priority", "weights": {"m": 5}})
        answer = await admin.put("load-balancing", {"failure_threshold": 7, "weights": {"m": 6}, **asked})
        error = answer.error(400, "INVALID_REQUEST")
        assert error["message"].startswith(f"{param}: ")
        assert words in error["message"]
        now = await admin.get("load-balancing")
        assert (now.json, now.headers["ETag"]) == (kept.json, kept.headers["ETag"])
        assert len(await admin.audit()) == 1


KEYS = st.sampled_from([*PLAIN, "m", "m#1", "spare", "other"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2000) | st.floats() | st.sampled_from(["", "priority", "\ud800"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_whatever_is_asked_is_refused_as_the_callers_fault_or_can_hold(asked: Any) -> None:
    services, catalog = (
        Services(),
        LiveCatalog([Target("m#1", "m", "mock", "m"), Target("spare#1", "spare", "mock", "m", weight=2.0)]),
    )
    services.provide(CATALOG, catalog, "kernel")
    services.provide(BALANCING, Balance("weighted"), "route_models")
    health: Any = object()  # only that there is something counts
    services.provide(HEALTH, health, "rules")
    balancing = LoadBalancing(services)
    with contextlib.suppress(InvalidRequest):
        balancing._check(asked)
        weights = {name: weight for name, weight in (asked.get("weights") or {}).items() if weight is not None}
        _check_sums(catalog, weights, weights)
        assert all(0 <= weight < math.inf for weight in weights.values())
        assert weights.get("spare", 2.0) > 0
        assert weights.get("m#1", weights.get("m", 1)) > 0
        assert (asked.get("failure_threshold") or 1) >= 1


async def test_bodies_that_are_none_are_refused(admin: Any) -> None:
    for path in ("load-balancing", "models/m"):
        for raw in (
            b"",
            b"[]",
            b"{",
            b"5",
            b"\xff",
            b'{"a": NaN}',
            b'{"weights": {"m": 1e999}}',
            b"[" * 10_000,
            rb'{"\ud800": 1}',
            rb'{"weights": {"\ud800": 1}}',
            rb'{"strategy": "\ud800"}',
            rb'{"fallback_models": ["\ud800"]}',
            rb'{"priority": ' + b"9" * 5000 + b"}",
        ):
            answer = await admin.put(path, raw)
            answer.error(400, "INVALID_REQUEST")
        (await admin.put(path, {}, Content_Type="text/plain")).error(415, "INVALID_REQUEST")
    assert await admin.audit() == []


async def test_a_weight_of_zero_is_fine_where_somebody_is_left(opened: Callable[..., Any], models: str) -> None:
    async with opened(models.replace("priority = 2", "")) as admin:
        answer = await admin.put("load-balancing", {"weights": {"m#1": 0}})
        assert answer.json["weights"] == {"m#1": 0}
        (await admin.put("load-balancing", {"weights": {"m#2": 0}})).error(400, "INVALID_REQUEST")
        assert (await admin.put("load-balancing", {"weights": {"m#1": 1, "m#2": 0}})).status == 200


@pytest.mark.parametrize("path", ["load-balancing", "models/m", "models/m%231"])
async def test_concurrent_editors_get_a_conflict_not_a_lost_update(opened: Callable[..., Any], path: str) -> None:
    asked = (
        ({"strategy": "priority"}, {"strategy": "least_busy"}) if "load" in path else ({"priority": 4}, {"priority": 5})
    )
    async with opened() as here, opened() as there:
        tag = (await here.get(path)).headers["ETag"]
        assert tag == '"0"'
        done = await asyncio.gather(here.put(path, asked[0], If_Match=tag), there.put(path, asked[1], If_Match=tag))
        won, lost = sorted(done, key=lambda one: one.status)
        assert won.status == 200
        error = lost.error(412, "CONFLICT")
        assert error["details"]["reason"] == "revision_conflict"
        assert "somebody else has changed it meanwhile" in error["message"]
        other = there if won is done[0] else here
        # At once, though the other process may not know of it yet.
        after = await other.put(path, asked[0], If_Match=f'"x", {won.headers["ETag"]}')
        assert after.status == 200
        for stale in (tag, won.headers["ETag"], f"W/{after.headers['ETag']}", "nonsense", '"-1"', '"9999999"'):
            (await here.put(path, asked[1], If_Match=stale)).error(412, "CONFLICT")
        assert (await here.put(path, {}, If_Match="*")).status == 200
        assert len(await here.audit()) == 3


async def test_editors_without_a_condition_lose_nothing_of_each_other(opened: Callable[..., Any]) -> None:
    async with opened() as here, opened() as there:
        weights = [("m", 5), ("spare", 6), ("m#1", 7), ("m#2", 8), ("org/deep", 9)]
        asked: list[Mapping[str, Any]] = [{"weights": dict([one])} for one in weights]
        asked += [{"strategy": "priority"}, {"failure_threshold": 9}, {"recovery_threshold": 8}]
        puts = [(here, there)[n % 2].put("load-balancing", one) for n, one in enumerate(asked)]
        assert {answer.status for answer in await asyncio.gather(*puts)} == {200}
        whole = {**PLAIN, "strategy": "priority", "failure_threshold": 9, "recovery_threshold": 8,
                 "weights": dict(weights)}  # fmt: skip
        for admin in (here, there):

            async def seen(admin: Any = admin) -> Any:
                return (await admin.get("load-balancing")).json

            await until(seen, whole)


async def test_load_balancing_outlives_a_restart_and_a_model_that_goes(opened: Callable[..., Any], models: str) -> None:
    async with opened() as first:
        kept = await first.put("load-balancing", {"strategy": "priority", "weights": {"org/deep": 2}})
    async with opened(models.replace("org/deep", "other")) as second:
        assert (await second.get("load-balancing")).json == kept.json
        assert (await second.put("load-balancing", {"failure_threshold": 4})).status == 200
        answer = await second.put("load-balancing", {"weights": {"org/deep": None}})
        assert answer.json == {**PLAIN, "strategy": "priority", "failure_threshold": 4}


async def test_what_nobody_follows_is_not_taken(opened: Callable[..., Any]) -> None:
    class Nothing:
        class Settings(Section): ...

        def __init__(self, settings: Settings) -> None: ...

    async with opened(nothing=Nothing) as admin:
        services = admin.gateway.gateway.services
        health: dict[str, ServiceKey[Any]] = dict.fromkeys(
            ("health_check_interval", "failure_threshold", "recovery_threshold"), HEALTH
        )
        for name, key in {**health, "strategy": BALANCING, "weights": BALANCING}.items():
            if key in services:
                continue
            answer = await admin.put("load-balancing", {name: 5})
            error = answer.error(503, "SERVICE_UNAVAILABLE")
            assert f"[plugins.{key.provider}]" in error["message"]
            assert (await admin.get("load-balancing")).json[name] == ({} if name == "weights" else None)
