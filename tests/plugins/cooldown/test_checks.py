"""Checks that nobody asks for: over real sockets, in every vendor's dialect, and by one worker for all."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gatehook import HEALTH, GatewayError, Prober, Target
from gatehook.testing import Reply, StubUpstream, serving
from gatehook_plugins.cooldown.book import Book
from gatehook_plugins.cooldown.breaker import Breaker
from gatehook_plugins.cooldown.checks import Checks
from gatehook_plugins.cooldown.condition import Rules
from gatehook_plugins.cooldown.thresholds import Thresholds

LIST = Reply.of_json({"object": "list", "data": []})


@pytest.mark.parametrize(
    ("vendor", "path", "header"),
    [
        ("openai", "/v1/models", "Authorization"),
        ("anthropic", "/v1/models?limit=1", "x-api-key"),
        ("gemini", "/v1beta/models?pageSize=1", "x-goog-api-key"),
    ],
)
async def test_every_vendor_asks_what_costs_nothing_with_its_key(vendor: str, path: str, header: str) -> None:
    async with StubUpstream(LIST) as stub:
        base = stub.url + ("/v1" if vendor == "openai" else "")
        text = f'[plugins.vendor_{vendor}]\n[[models]]\nname = "m"\nvendor = "{vendor}"\nmodel = "x"\n'
        async with serving(text + f'base_url = "{base}"\napi_key = "sk-upstream-0123456789"\n') as served:
            prober, target = served.gateway.vendors[vendor], served.gateway.catalog.group("m")[0]
            assert isinstance(prober, Prober)
            await prober.probe(target)
            assert (stub.requests[0].method, stub.requests[0].path) == ("GET", path)
            named = {name.lower(): value for name, value in stub.requests[0].headers.items()}
            assert named[header.lower()].endswith("sk-upstream-0123456789")
            stub.script(Reply.of_json({"error": {"message": "no"}}, status=404))
            await prober.probe(target)
            for status, code in ((401, "upstream_credential_rejected"), (500, None), (503, "upstream_overloaded")):
                stub.script(Reply.of_json({"error": {"message": "no"}}, status=status))
                with pytest.raises(GatewayError) as caught:
                    await prober.probe(target)
                assert code in (None, caught.value.code)
            await stub.__aexit__(None, None, None)
            with pytest.raises(GatewayError):
                await prober.probe(target)


async def test_checks_find_out_who_is_away_and_who_is_back_without_a_users_request(
    settings: Callable[..., str], answer: Reply, wait: Any
) -> None:
    cooldown = "failure_threshold = 2\nrecovery_threshold = 2\nhealth_check_interval = 0.02"
    down = Reply.of_json({"error": {"message": "down"}}, status=503)
    async with (
        StubUpstream(down) as bad,
        StubUpstream(LIST) as good,
        serving(settings(bad, good, cooldown=cooldown)) as served,
    ):
        health = served.gateway.services[HEALTH]
        first, second = served.gateway.catalog.group("m")
        await wait(lambda: health.of(first).state == "unavailable")
        assert health.of(second).state == "healthy"
        assert {one.method for one in bad.requests} == {"GET"}
        bad.script(LIST)
        await wait(lambda: health.of(first).state == "healthy")
        assert health.of(first).last_check is not None


async def test_an_interval_that_is_set_live_begins_and_ends_the_checks(
    settings: Callable[..., str], tmp_path: Path, wait: Any
) -> None:
    more = (
        f'[plugins.database]\n[plugins.auth_keys]\nadmin_keys = ["k-0123456789012345678901"]\n'
        f'[database]\nurl = "sqlite+aiosqlite:///{tmp_path / "g.db"}"\n'
    )
    async with (
        StubUpstream(LIST) as stub,
        serving(settings(stub, more=more)) as served,
        aiohttp.ClientSession() as http,
    ):

        async def put(**changes: Any) -> Any:
            async with http.put(
                f"{served.url}/api/llm/config/load-balancing",
                json=changes,
                headers={"Authorization": "Bearer k-0123456789012345678901"},
            ) as response:
                return response.status, await response.json()

        assert not stub.requests
        status, said = await put(health_check_interval=0.01, failure_threshold=5, recovery_threshold=4)
        assert status == 200, said
        assert (said["health_check_interval"], said["failure_threshold"], said["recovery_threshold"]) == (0.01, 5, 4)
        await wait(lambda: len(stub.requests) >= 3)
        assert (await put(failure_threshold=0))[0] == 400
        status, said = await put(health_check_interval=0, failure_threshold=None)
        assert (said["health_check_interval"], said["failure_threshold"]) == (0, 3)
        assert not served.gateway.services[HEALTH].health_check_interval


class Counting:
    """A vendor that counts its checks, and fails as it is told."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: BaseException | None = None

    async def probe(self, target: Target) -> None:
        self.asked.append(target.key)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error


class Listed:
    """A catalog of two deployments."""

    def __init__(self) -> None:
        self.found = {"m": [Target(key=f"m#{number}", name="m", vendor="fake", model="x") for number in range(2)]}

    def groups(self) -> Any:
        return self.found

    def group(self, name: str) -> Any:
        return self.found[name]


async def test_workers_that_share_a_book_check_each_deployment_once(tmp_path: Path) -> None:
    vendor, catalog = Counting(), Listed()
    books = [Book(), Book(), Book()]
    with books[0].shared(tmp_path), books[1].shared(tmp_path), books[2].shared(tmp_path):
        rounds = []
        for book in books:
            thresholds = Thresholds(Rules(1, 1, 30, 60), 60)
            breaker = Breaker(book, thresholds)
            checks = Checks(catalog, {"fake": vendor}, breaker, book, thresholds)  # type: ignore[arg-type]
            rounds.append(checks.round(60))
        await asyncio.gather(*rounds)
        assert sorted(vendor.asked) == ["m#0", "m#1"]


@pytest.mark.parametrize("error", [RuntimeError("a bug"), SystemExit(3)], ids=repr)
async def test_a_vendors_plugin_that_fails_at_a_check_says_nothing_of_the_deployment(
    caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    vendor, catalog, book = Counting(), Listed(), Book()
    vendor.error = error
    thresholds = Thresholds(Rules(1, 1, 30, 60), 60)
    breaker = Breaker(book, thresholds)
    await Checks(catalog, {"fake": vendor}, breaker, book, thresholds).round(60)  # type: ignore[arg-type]
    assert "could not be checked" in caplog.text
    assert breaker.of(catalog.group("m")[0]).state == "healthy"
    assert json.dumps(sorted(vendor.asked)) == '["m#0", "m#1"]'


async def test_a_round_that_fails_is_not_the_last(wait: Any, caplog: pytest.LogCaptureFixture) -> None:
    vendor, catalog, book = Counting(), Listed(), Book()
    thresholds = Thresholds(Rules(1, 1, 30, 60), 0.01)

    async def claim(key: str, seconds: float) -> bool:
        if vendor.asked.count("failed") < 2:
            vendor.asked.append("failed")
            raise RuntimeError("a bug")
        return True

    checks = Checks(catalog, {"fake": vendor}, Breaker(book, thresholds), book, thresholds, claim)  # type: ignore[arg-type]
    async with checks.running():
        await wait(lambda: {"m#0", "m#1"} <= set(vendor.asked))
    assert "deployments could not be checked" in caplog.text


async def test_a_clock_that_was_put_back_takes_nobodys_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    vendor, catalog, book = Counting(), Listed(), Book()
    thresholds = Thresholds(Rules(1, 1, 30, 60), 60)
    checks = Checks(catalog, {"fake": vendor}, Breaker(book, thresholds), book, thresholds)  # type: ignore[arg-type]
    await checks.round(60)
    await checks.round(60)
    assert len(vendor.asked) == 2
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 86_400)
    await checks.round(60)
    assert len(vendor.asked) == 4


@pytest.mark.parametrize("vendor", ["openai", "anthropic", "gemini"])
async def test_what_a_status_says_is_not_lost_for_a_body_that_is_cut(vendor: str) -> None:
    cut = Reply(b'{"error": {"message": "no', status=401, end="cut")
    async with StubUpstream(cut) as stub:
        text = f'[plugins.vendor_{vendor}]\n[[models]]\nname = "m"\nvendor = "{vendor}"\nmodel = "x"\n'
        async with serving(text + f'base_url = "{stub.url}"\napi_key = "sk-upstream-0123456789"\n') as served:
            prober, target = served.gateway.vendors[vendor], served.gateway.catalog.group("m")[0]
            assert isinstance(prober, Prober)
            with pytest.raises(GatewayError) as caught:
                await prober.probe(target)
            assert caught.value.code == "upstream_credential_rejected"
