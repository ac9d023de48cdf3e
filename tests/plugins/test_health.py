import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gatehook import CATALOG, DATABASE, Route, Services, Target
from gatehook.catalog import LiveCatalog
from gatehook_plugins.health import Health


def target(key: str, unavailable: str = "") -> Target:
    return Target(key=key, name=key.partition("#")[0], vendor="mock", model="m", unavailable=unavailable)


class Served:
    """A gateway's health, and the gateway's state, which a test may change."""

    def __init__(self, *targets: Target, **settings: Any) -> None:
        services = Services()
        services.provide(CATALOG, LiveCatalog(targets), "test")
        self.database = SimpleNamespace(works=True)
        services.provide(DATABASE, cast("Any", self.database), "test")
        self.gateway = SimpleNamespace(services=services, serving=True, draining=False)
        self.routes = [
            route
            for route in Health(Health.Settings(**settings)).register_routes(cast("Any", self.gateway))
            if isinstance(route, Route)
        ]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[TestClient[web.Request, web.Application]]:
        app = web.Application()
        for route in self.routes:
            app.router.add_route(route.method, route.path, route.handler)
        async with TestClient(TestServer(app)) as client:
            yield client

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.client() as client, client.get(path) as answer:
            assert answer.content_type == "application/json"
            assert answer.headers["Cache-Control"] == "no-store"
            return answer.status, await answer.json()


def test_probes_need_no_key() -> None:
    assert {(route.method, route.path, route.auth) for route in Served().routes} == {
        ("GET", "/health", False),
        ("GET", "/health/live", False),
        ("GET", "/health/ready", False),
    }


async def test_the_full_report_has_every_field() -> None:
    status, body = await Served(target("a#1"), target("a#2"), target("b#1")).get("/health")
    assert status == 200
    when = dt.datetime.fromisoformat(body.pop("timestamp"))
    assert when.utcoffset() == dt.timedelta(0)
    assert abs(dt.datetime.now(dt.UTC) - when) < dt.timedelta(seconds=30)
    assert body == {
        "status": "healthy",
        "service": "gatehook",
        "manager_initialized": True,
        "engines": {},
        "models": 2,
        "issues": [],
    }


async def test_before_start_up_is_over_nothing_is_initialized() -> None:
    served = Served()
    served.gateway.serving = False
    assert (await served.get("/health"))[1]["manager_initialized"] is False


async def test_a_model_that_cannot_be_called_is_an_issue_without_names_of_variables() -> None:
    served = Served(target("a#1", "its api_key refers to $MY_SECRET, which is not set"), target("a#2"), target("b#1"))
    status, body = await served.get("/health")
    assert (status, body["status"]) == (200, "healthy")
    (issue,) = body["issues"]
    assert "'a'" in issue
    assert "1 of 2 deployments" in issue
    assert "API key" in issue
    assert "MY_SECRET" not in issue


async def test_a_model_that_an_administrator_has_switched_off_is_told_as_such() -> None:
    off, keyless = target("a#1", "switched off"), target("a#2", "no key")
    status, body = await Served(replace(off, switched_off=True), keyless, target("a#3")).get("/health")
    assert (status, body["status"]) == (200, "healthy")
    keys, switched = body["issues"]
    assert "1 of 3 deployments cannot be called, for want of an API key" in keys
    assert switched == "Model 'a': an administrator has switched off 1 of 3 deployments."


async def test_a_shutdown_is_an_issue() -> None:
    served = Served()
    served.gateway.draining = True
    assert "shutting down" in (await served.get("/health"))[1]["issues"][0]


async def test_the_simple_style_says_one_word() -> None:
    served = Served(target("a#1", "no key"), style="simple")
    assert await served.get("/health") == (200, {"status": "ok", "service": "gatehook"})


async def test_a_database_that_cannot_be_used_is_told_and_nobody_is_sent_here() -> None:
    served = Served()
    served.database.works = False
    status, body = await served.get("/health")
    assert (status, body["status"]) == (200, "degraded")
    assert body["issues"] == ["The database cannot be read or written to; the gateway's log tells why."]
    assert await served.get("/health/ready") == (503, {"status": "database_unavailable"})
    assert await served.get("/health/live") == (200, {"status": "ok"})


async def test_who_does_without_the_database_is_ready_without_it() -> None:
    served = Served(needs_database=False)
    served.database.works = False
    assert await served.get("/health/ready") == (200, {"status": "ok"})


@pytest.mark.parametrize("style", ["full", "simple"])
@pytest.mark.parametrize(
    ("serving", "draining", "ready"),
    [
        (True, False, (200, {"status": "ok"})),
        (False, False, (503, {"status": "starting"})),
        (True, True, (503, {"status": "draining"})),
        (False, True, (503, {"status": "draining"})),
    ],
)
async def test_ready_follows_the_gateway_and_live_is_always_ok(
    style: str, serving: bool, draining: bool, ready: tuple[int, Any]
) -> None:
    served = Served(style=style)
    served.gateway.serving, served.gateway.draining = serving, draining
    assert await served.get("/health/ready") == ready
    assert await served.get("/health/live") == (200, {"status": "ok"})
