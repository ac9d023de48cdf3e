"""A whole gateway with quotas; and one that is killed under load, again and again."""

import asyncio
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout
from pydantic import ValidationError
from sqlalchemy import select

from gatehook import DATABASE, LEDGER, QUOTAS, Caps, StartupError
from gatehook.testing import built, serving
from gatehook_plugins.quota import Quota
from gatehook_plugins.quota.account import Amount
from gatehook_plugins.quota.store import BALANCES, LEASES

SETTINGS = """
[database]
url = "{url}"
secret = "a secret of more than thirty-two letters, for tests"
[plugins.database]
[plugins.ledger]
directory = "{directory}"
[plugins.quota]
budget_per_month = {budget}
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[[models]]
name = "m"
vendor = "mock"
pricing = {{ input_per_1k_tokens = 1, output_per_1k_tokens = 2 }}
options = {{ text = "one two", first_delay = 0.002, usage = {{ prompt_tokens = 10, completion_tokens = 20 }} }}
[[models]]
name = "unpriced"
vendor = "mock"
"""
PROGRAM = """
import asyncio, sys
from gatehook.testing import serving

async def main():
    async with serving(sys.argv[1]) as served:
        print(served.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
COST = 50_000_000
"""Nano-dollars of one answer: ten tokens in, twenty out."""
BODY = {"model": "m", "messages": [{"role": "user", "content": "x" * 40}], "max_tokens": 20}


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Any:
    def with_budget(dollars: float) -> str:
        return SETTINGS.format(url=database_url, directory=tmp_path / "journal", budget=dollars)

    return with_budget


async def ask(session: ClientSession, url: str, **body: Any) -> tuple[int, dict[str, Any], Any]:
    async with session.post(f"{url}/v1/chat/completions", json=BODY | body) as answer:
        return answer.status, await answer.json(), answer.headers


async def test_a_budget_that_is_used_up_is_told_as_openai_does(settings: Any) -> None:
    async with serving(settings(0.2)) as served, ClientSession() as session:
        statuses = [(await ask(session, served.url))[0] for _ in range(3)]
        assert statuses == [200, 200, 200]
        await served.gateway.services[LEDGER].flush()
        await ask(session, served.url)
        await served.gateway.services[LEDGER].flush()
        status, said, headers = await ask(session, served.url)
        assert status == 429
        assert said["error"]["code"] == "insufficient_quota"
        assert said["error"]["type"] == "rate_limit_error"
        assert "budget" in said["error"]["message"]
        assert "$0.20 a month" in said["error"]["message"]
        assert "it starts anew on 20" in said["error"]["message"]
        assert int(headers["Retry-After"]) > 0
        used = await served.gateway.services[QUOTAS].used("anonymous")
        assert used["all"][0] == used["month"][0] == used["all"][1] // (COST // 30)
        assert 3 * COST <= used["month"][1] <= 4 * COST


async def test_a_model_without_a_price_is_refused(settings: Any) -> None:
    async with serving(settings(10)) as served, ClientSession() as session:
        status, said, _ = await ask(session, served.url, model="unpriced")
        assert (status, said["error"]["code"]) == (403, "unpriced_model")
        status, said, _ = await ask(session, served.url, model="nobody's")
        assert (status, said["error"]["code"]) == (404, "model_not_found")
        assert (await served.gateway.services[QUOTAS].used("anonymous"))["all"] == (0, 0)


async def test_nothing_is_leased_when_the_gateway_has_ended(settings: Any) -> None:
    async with serving(settings(10)) as served, ClientSession() as session:
        assert (await ask(session, served.url))[0] == 200
        gateway = served.gateway
    async with gateway.services[DATABASE].opened(), gateway.services[DATABASE].reading() as connection:
        assert (await connection.execute(select(LEASES))).all() == []
        balances = (await connection.execute(select(BALANCES.c.nano))).scalars().all()
    assert balances == [COST] * 3


def test_it_needs_a_database_and_a_ledger() -> None:
    with pytest.raises(StartupError, match=r"(?s)plugins\.database.*plugins\.ledger"):
        built("[plugins.quota]\n")


def test_the_settings_are_caps() -> None:
    settings = Quota.Settings.model_validate({"tokens": 5, "budget_per_day": 0.1, "budget": "12.5"})
    assert settings.caps == Caps(tokens=5, budget=12_500_000_000, budget_per_day=100_000_000)
    assert not Quota.Settings().caps


@pytest.mark.parametrize("wrong", [{"tokens": -1}, {"budget": -0.1}, {"budget": "nan"}, {"budget": 1e30}, {"token": 1}])
def test_wrong_caps_are_faults(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Quota.Settings(**wrong)


@asynccontextmanager
async def process(settings: str) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    made = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert made.stdout is not None
    try:
        url = (await made.stdout.readline()).decode().strip()
        if not url:
            pytest.fail((await made.communicate())[1].decode())
        yield url, made
    finally:
        if made.returncode is None:
            made.kill()
        await made.communicate()


async def client(session: ClientSession, url: str, seen: Counter[str]) -> None:
    """Ask until the server is dead, or says that the budget is used up."""
    while True:
        try:
            status, said, _ = await ask(session, url)
        except (ClientError, OSError):
            return
        code = "answered" if status == 200 else said["error"]["code"]
        seen[code] += 1
        if code == "insufficient_quota":
            return
        if code != "answered":
            await asyncio.sleep(0.02)


async def test_kill_9_under_load_takes_nobody_past_the_budget(settings: Any, tmp_path: Path) -> None:
    affordable = 150
    text = settings(affordable * COST / 10**9)
    seen: Counter[str] = Counter()
    draw = random.Random()
    for turn in range(3):
        async with (
            process(text) as (url, server),
            process(text) as (other, _),
            ClientSession(timeout=ClientTimeout(20)) as session,
        ):
            clients = [asyncio.create_task(client(session, one, seen)) for one in [url, other] * 8]
            if turn < 2:
                await asyncio.sleep(draw.uniform(0.05, 0.3))
                server.send_signal(signal.SIGKILL)
                await asyncio.sleep(0.05)
            else:
                await asyncio.gather(*clients)
            for one in clients:
                one.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
    assert set(seen) <= {"answered", "quota_reserved", "insufficient_quota"}
    assert seen["insufficient_quota"]
    async with serving(text) as served:
        async with asyncio.timeout(30):
            while len(list((tmp_path / "journal").glob("*.lock"))) > 1:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.02)
        (entered,) = await served.gateway.services[LEDGER].usage(0, 10**14)  # not by rows: refusals are among them
        used = await served.gateway.services[QUOTAS].used("anonymous")
    assert entered.cost is not None
    total = Amount(entered.prompt_tokens + entered.completion_tokens, entered.cost)
    assert used["month"] == (total.tokens, total.nano), "booked is what the ledger has"
    assert affordable * COST - 10 * COST < total.nano <= affordable * COST
    assert seen["answered"] <= affordable
