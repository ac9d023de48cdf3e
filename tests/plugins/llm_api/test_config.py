"""GET and PUT /config: what an administrator sets while the gateway serves, on both databases."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import (
    BALANCING,
    CATALOG,
    DIRECTORY,
    HEALTH,
    Directory,
    Gateway,
    InvalidRequest,
    Section,
    ServiceKey,
    Services,
    Target,
    Vitality,
    hookimpl,
)
from gatehook.catalog import LiveCatalog
from gatehook_plugins.llm_api.balancing import LoadBalancing, _check_sums
from gatehook_plugins.route_models.balance import Balance

ADMIN = "admin-key-0123456789abcdef"
USER = "ordinary-key-0123456789abcdef"
MOUNTS = ("/api/llm", "/api/v1/llm")
MODELS = f"""
[plugins.auth_keys]
admin_keys = ["{ADMIN}"]
keys = ["{USER}"]
[[models]]
name = "m"
vendor = "mock"
priority = 2
fallbacks = ["spare"]
rate_limit = {{ requests_per_minute = 60 }}
[[models]]
name = "m"
vendor = "mock"
model = "second"
[[models]]
name = "spare"
vendor = "mock"
[[models]]
name = "org/deep"
vendor = "mock"
"""
NULL_LIMIT = {"requests_per_minute": None, "tokens_per_minute": None}
NULL_PARAMETERS = {"default_temperature": None, "max_tokens": None}
FIRST = {"enabled": True, "priority": 2, "rate_limit": {"requests_per_minute": 60, "tokens_per_minute": None},
         "fallback_models": ["spare"], "parameters": NULL_PARAMETERS}  # fmt: skip
SECOND = {"enabled": True, "priority": 1, "rate_limit": NULL_LIMIT, "fallback_models": [],
          "parameters": NULL_PARAMETERS}  # fmt: skip


class Rules:
    """Health as another plugin offers it: what is configured holds, else the settings."""

    def __init__(self) -> None:
        self.directory: Directory | None = None

    def _now(self, name: str, default: Any) -> Any:
        return default if self.directory is None else self.directory.config("load-balancing")[0].get(name, default)

    @property
    def failure_threshold(self) -> int:
        return int(self._now("failure_threshold", 3))

    @property
    def recovery_threshold(self) -> int:
        return int(self._now("recovery_threshold", 2))

    @property
    def health_check_interval(self) -> float:
        return float(self._now("health_check_interval", 0))

    def of(self, target: Target) -> Vitality:
        return Vitality()


class Follows:
    class Settings(Section): ...

    def __init__(self, settings: Settings) -> None:
        self._rules = Rules()

    @hookimpl
    def register_services(self) -> Iterable[tuple[ServiceKey[Any], object]]:
        return [(HEALTH, self._rules)]

    @hookimpl
    def register_routes(self, gateway: Gateway) -> Iterable[Any]:
        self._rules.directory = gateway.services.get(DIRECTORY)
        return []


class Admin:
    """An administrator's client."""

    def __init__(self, gateway: Any) -> None:
        self.gateway = gateway

    async def get(self, path: str, *, key: str = ADMIN, mount: str = MOUNTS[0]) -> Any:
        return await self.gateway.request("GET", f"{mount}/config/{path}", key=key)

    async def put(self, path: str, body: Any, *, key: str = ADMIN, mount: str = MOUNTS[0], **headers: str) -> Any:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {"Content-Type": "application/json", **{name.replace("_", "-"): one for name, one in headers.items()}}
        return await self.gateway.request("PUT", f"{mount}/config/{path}", key=key, data=raw, headers=named)

    async def audit(self) -> list[tuple[str, str, str, Any]]:
        lines = await self.gateway.gateway.services[DIRECTORY].audit()
        return [(line.actor, line.action, line.subject, line.detail) for line in lines]


def database(url: str) -> str:
    return f'[database]\nurl = "{url}"\nsecret = "{"pepper" * 8}"\n[plugins.database]\n'


@pytest.fixture
def opened(llm: Callable[..., Any], database_url: str) -> Callable[..., Any]:
    """Opens gateways on one database."""

    @contextlib.asynccontextmanager
    async def enter(models: str = MODELS, **plugins: type) -> AsyncIterator[Admin]:
        plugins = plugins or {"rules": Follows}
        tables = "".join(f"[plugins.{name}]\n" for name in plugins)
        text = database(database_url) + tables + models
        async with llm(text, plugins) as gateway:
            yield Admin(gateway)

    return enter


@pytest.fixture
async def admin(opened: Callable[..., Any]) -> AsyncIterator[Admin]:
    async with opened() as one:
        yield one


async def until(question: Callable[[], Any], wanted: Any) -> None:
    """Return as soon as the answer is the one wanted; it must be within a second."""
    async with asyncio.timeout(1):
        while await question() != wanted:  # noqa: ASYNC110  # another gateway learns of it unannounced
            await asyncio.sleep(0.01)


# --- load balancing


PLAIN = {"strategy": "weighted", "health_check_interval": 0.0, "failure_threshold": 3, "recovery_threshold": 2,
         "weights": {}}  # fmt: skip


async def test_the_contracts_own_example_is_taken_and_answered_as_a_whole(admin: Admin) -> None:
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


async def test_what_is_not_named_stays_and_null_takes_back(admin: Admin) -> None:
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
        ({"failure_threshold": 0}, "failure_threshold", "from 1 to 1000"),
        ({"failure_threshold": 1.5}, "failure_threshold", "whole number"),
        ({"recovery_threshold": 0}, "recovery_threshold", "from 1 to 1000"),
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
    llm: Callable[..., Any], tmp_path: Any, asked: dict[str, Any], param: str, words: str
) -> None:
    text = database(f"sqlite:///{tmp_path / 'a.db'}") + "[plugins.rules]\n" + MODELS
    async with llm(text, {"rules": Follows}) as gateway:
        admin = Admin(gateway)
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
    services.provide(HEALTH, Rules(), "rules")
    balancing = LoadBalancing(services)
    with contextlib.suppress(InvalidRequest):
        balancing._check(asked)
        weights = {name: weight for name, weight in (asked.get("weights") or {}).items() if weight is not None}
        _check_sums(catalog, weights, weights)
        assert all(0 <= weight < math.inf for weight in weights.values())
        assert weights.get("spare", 2.0) > 0
        assert weights.get("m#1", weights.get("m", 1)) > 0
        assert (asked.get("failure_threshold") or 1) >= 1


async def test_bodies_that_are_none_are_refused(admin: Admin) -> None:
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


async def test_a_weight_of_zero_is_fine_where_somebody_is_left(opened: Callable[..., Any]) -> None:
    async with opened(MODELS.replace("priority = 2", "")) as admin:
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

            async def seen(admin: Admin = admin) -> Any:
                return (await admin.get("load-balancing")).json

            await until(seen, whole)


async def test_load_balancing_outlives_a_restart_and_a_model_that_goes(opened: Callable[..., Any]) -> None:
    async with opened() as first:
        kept = await first.put("load-balancing", {"strategy": "priority", "weights": {"org/deep": 2}})
    async with opened(MODELS.replace("org/deep", "other")) as second:
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


# --- models


async def test_a_model_is_shown_as_it_holds_and_so_is_a_deployment(admin: Admin) -> None:
    for mount in MOUNTS:
        answer = await admin.get("models/m", mount=mount)
        assert answer.json == {
            "model_id": "m",
            **SECOND,
            "deployments": [{"id": "m#1", **FIRST}, {"id": "m#2", **SECOND}],
        }
        assert answer.headers["ETag"] == '"0"'
        assert (await admin.get("models/m%231", mount=mount)).json == {"model_id": "m#1", **FIRST}
        assert (await admin.get("models/org/deep", mount=mount)).json["model_id"] == "org/deep"


async def test_the_contracts_own_change_of_a_model_holds_at_once(admin: Admin) -> None:
    asked = {"enabled": True, "priority": 3, "rate_limit": {"requests_per_minute": 5, "tokens_per_minute": 10_000},
             "fallback_models": ["spare"], "parameters": {"default_temperature": 0.7, "max_tokens": 2000}}  # fmt: skip
    answer = await admin.put("models/m", asked)
    assert answer.status == 200
    assert answer.json == {"model_id": "m", **asked, "deployments": [{"id": "m#1", **asked}, {"id": "m#2", **asked}]}
    assert (await admin.get("models/m")).json == answer.json
    assert (await admin.audit())[0][1:] == ("config.change", "model:m", asked)
    answer = await admin.put("models/m%232", {"enabled": False, "rate_limit": {"tokens_per_minute": None}})
    assert (answer.json["enabled"], answer.json["rate_limit"]) == (False, asked["rate_limit"])
    model = (await admin.get("models/m")).json
    assert (model["enabled"], [one["enabled"] for one in model["deployments"]]) == (True, [True, False])
    taken_back = await admin.put("models/m", dict.fromkeys(asked))
    assert taken_back.json["deployments"] == [{"id": "m#1", **FIRST}, {"id": "m#2", **SECOND, "enabled": False}]


async def test_a_model_that_is_switched_off_is_not_called_and_its_fallback_is(admin: Admin) -> None:
    gateway = admin.gateway
    assert (await gateway.ask(model="spare", key=USER)).status == 200
    await admin.put("models/spare", {"enabled": False})
    assert (await admin.get("models/spare")).json["enabled"] is False
    assert (await gateway.ask(model="spare", key=USER)).status in (404, 503)
    assert (await gateway.get("/api/llm/models/spare/status", key=USER)).json["status"] == "unavailable"
    await admin.put("models/m", {"enabled": False, "fallback_models": ["org/deep"]})
    assert (await gateway.ask(model="m", key=USER)).status == 200
    await admin.put("models/spare", {"enabled": None})
    assert (await gateway.ask(model="spare", key=USER)).status == 200


async def test_a_rate_limit_of_a_model_holds_for_the_next_call(opened: Callable[..., Any]) -> None:
    async with opened(MODELS + "[plugins.rate_limit]\n") as admin:
        assert [(await admin.gateway.ask(model="spare", key=USER)).status for _ in range(3)] == [200] * 3
        await admin.put("models/spare", {"rate_limit": {"requests_per_minute": 1}})
        assert [(await admin.gateway.ask(model="spare", key=USER)).status for _ in range(3)] == [200, 429, 429]
        await admin.put("models/spare", {"rate_limit": None})
        assert (await admin.gateway.ask(model="spare", key=USER)).status == 200


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"priority": "high"}, "priority"),
        ({"rate_limit": {"requests_per_minute": 0}}, "rate_limit.requests_per_minute"),
        ({"parameters": {"default_temperature": 3}}, "parameters.default_temperature"),
        ({"fallback_models": ["nobody"]}, "fallback_models"),
        ({"fallbacks": ["spare"]}, "fallbacks"),
    ],
)
async def test_a_change_of_a_model_that_cannot_be_changes_nothing(
    llm: Callable[..., Any], tmp_path: Any, asked: dict[str, Any], param: str
) -> None:
    async with llm(database(f"sqlite:///{tmp_path / 'a.db'}") + MODELS) as gateway:
        admin = Admin(gateway)
        before = await admin.get("models/m")
        answer = await admin.put("models/m", {"enabled": False, **asked})
        assert answer.error(400, "INVALID_REQUEST")["message"].startswith(f"{param}: ")
        assert (await admin.get("models/m")).json == before.json
        assert await admin.audit() == []


async def test_a_circle_of_fallbacks_is_spelled(admin: Admin) -> None:
    error = (await admin.put("models/spare", {"fallback_models": ["m"]})).error(400, "INVALID_REQUEST")
    assert error["message"] == "fallback_models: goes round in a circle: spare → m → spare"


async def test_a_model_that_there_is_not_is_not_found(admin: Admin) -> None:
    for path in ("models/nobody", "models/m%239", "models/m%00"):
        for answer in (await admin.get(path), await admin.put(path, {"priority": 1})):
            error = answer.error(404, "MODEL_NOT_FOUND")
            assert error["details"]["model"]
    assert await admin.audit() == []


async def test_a_name_that_is_not_a_models_own_tells_whose_it_is(llm: Callable[..., Any], tmp_path: Any) -> None:
    models = MODELS.replace("[[models]]", '[[models]]\naliases = ["other"]', 1)
    models += '[[models]]\nname = "wild/*"\nvendor = "mock"\nmodel = "*"\n'
    async with llm(database(f"sqlite:///{tmp_path / 'a.db'}") + models) as gateway:
        admin = Admin(gateway)
        for path, name in (("models/other", "m"), ("models/wild/x", "wild/*")):
            for answer in (await admin.get(path), await admin.put(path, {"priority": 1})):
                assert f"are served by {name!r}; configure that" in answer.error(400, "INVALID_REQUEST")["message"]
        assert (await admin.put("models/wild/*", {"priority": 9})).json["priority"] == 9


async def test_a_model_of_the_database_is_configured_like_any_other(opened: Callable[..., Any]) -> None:
    async with opened() as admin:
        directory = admin.gateway.gateway.services[DIRECTORY]
        await directory.put_model("me", "row", {"name": "r", "vendor": "mock"}, create=True)
        assert (await admin.put("models/r", {"priority": 6})).json["priority"] == 6
        assert (await admin.put("models/r%23db-row", {"enabled": False})).json["enabled"] is False
    async with opened() as admin:
        config = (await admin.get("models/r")).json
        assert (config["enabled"], config["priority"]) == (False, 6)


async def test_a_change_here_is_served_there_within_a_second(opened: Callable[..., Any]) -> None:
    async with opened() as here, opened() as there:

        async def status() -> int:
            return int((await there.gateway.ask(model="spare", key=USER)).status)

        assert await status() == 200
        off = await here.put("models/spare", {"enabled": False})
        await until(lambda: _is_off(there), True)
        assert await status() != 200
        assert (await there.get("models/spare")).headers["ETag"] == off.headers["ETag"]
        await there.put("models/spare", {"enabled": True}, If_Match=off.headers["ETag"])
        assert await status() == 200


async def _is_off(admin: Admin) -> bool:
    return not (await admin.get("models/spare")).json["enabled"]


# --- who may, and where


async def test_only_administrators_see_and_change_the_configuration(admin: Admin) -> None:
    for path in ("load-balancing", "models/m"):
        for key, status, code in ((USER, 403, "FORBIDDEN"), ("", 401, "UNAUTHORIZED")):
            (await admin.get(path, key=key)).error(status, code)
            (await admin.put(path, {}, key=key)).error(status, code)
        refused = await admin.gateway.request("DELETE", f"/api/llm/config/{path}", key=ADMIN)
        assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD, PUT")
    assert await admin.audit() == []


async def test_without_a_database_what_holds_is_shown_and_changes_say_what_is_missing(llm: Callable[..., Any]) -> None:
    async with llm(MODELS + "[plugins.rules]\n", {"rules": Follows}) as gateway:
        admin = Admin(gateway)
        assert (await admin.get("load-balancing")).json == PLAIN
        assert (await admin.get("models/m%231")).json == {"model_id": "m#1", **FIRST}
        for path, body in (("load-balancing", {"strategy": "priority"}), ("models/m", {"priority": 1})):
            error = (await admin.put(path, body)).error(503, "SERVICE_UNAVAILABLE")
            assert "enable [plugins.database]" in error["message"]
