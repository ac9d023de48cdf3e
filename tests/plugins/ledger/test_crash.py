"""kill -9 under load, again and again: what was answered is in the ledger, once."""

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout
from sqlalchemy import select

from gatehook.accounts import UsageRow
from gatehook.services import DATABASE
from gatehook.testing import serving
from gatehook_plugins.database import DatabasePlugin
from gatehook_plugins.ledger import LedgerPlugin
from gatehook_plugins.ledger.table import from_record, usage

PROGRAM = """
import asyncio, sys
from gatehook.testing import serving
from gatehook_plugins.database import DatabasePlugin
from gatehook_plugins.ledger import LedgerPlugin

async def main():
    plugins = {"database": DatabasePlugin, "ledger": LedgerPlugin}
    async with serving(sys.argv[1], plugins=plugins) as served:
        print(served.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
SETTINGS = """
[database]
url = "{url}"
secret = "a secret of more than thirty-two letters, for tests"
[plugins.database]
[plugins.ledger]
directory = "{directory}"
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[[models]]
name = "m"
vendor = "mock"
pricing = {{ input_per_1k_tokens = 1, output_per_1k_tokens = 2 }}
options = {{ text = "one two", first_delay = 0.002, usage = {{ prompt_tokens = 100, completion_tokens = 50 }} }}
"""
ROUNDS = 3
CLIENTS = 16


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


async def ask(session: ClientSession, url: str, answered: dict[str, bool]) -> None:
    """Ask until the server is dead; note each answer that came to its end, by its id, and whether it was streamed."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    draw = random.Random()
    while True:
        stream = draw.random() < 0.3
        try:
            async with session.post(f"{url}/v1/chat/completions", json=body | {"stream": stream}) as answer:
                text = await answer.text()
        except (ClientError, OSError):
            return
        if answer.status == 200 and (not stream or "[DONE]" in text):
            answered[answer.headers["X-Request-ID"]] = stream


async def entered(settings: str, directory: Path) -> Mapping[str, UsageRow]:
    """All rows, when whatever the dead have left is entered."""
    async with serving(settings, plugins={"database": DatabasePlugin, "ledger": LedgerPlugin}) as served:
        async with asyncio.timeout(30):
            while len(list(directory.glob("*.lock"))) > 1:  # noqa: ASYNC110, ASYNC240  # nothing tells
                await asyncio.sleep(0.02)
        async with served.gateway.services[DATABASE].reading() as connection:
            found = (await connection.execute(select(usage))).mappings().all()
    rows = {row.request_id: row for row in map(from_record, found)}
    assert len(found) == len(rows), "no request has two rows"
    return rows


async def test_what_was_answered_is_entered_once(database_url: str, tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    settings = SETTINGS.format(url=database_url, directory=directory)
    answered: dict[str, bool] = {}
    draw = random.Random()
    for _ in range(ROUNDS):
        async with process(settings) as (url, server), ClientSession(timeout=ClientTimeout(20)) as session:
            clients = [asyncio.create_task(ask(session, url, answered)) for _ in range(CLIENTS)]
            enough = len(answered) + 20
            async with asyncio.timeout(20):
                while len(answered) < enough:  # noqa: ASYNC110  # it is what the clients count
                    await asyncio.sleep(0.01)
            await asyncio.sleep(draw.uniform(0, 0.3))
            server.send_signal(signal.SIGKILL)
            await asyncio.gather(*clients)
    assert len(answered) > 50
    rows = await entered(settings, directory)
    assert set(answered) <= set(rows)
    for request_id, row in rows.items():
        if row.outcome == "complete":
            assert (row.prompt_tokens, row.completion_tokens, row.cost) == (100, 50, 200_000_000)
        else:
            assert (row.code, row.completion_tokens) == ("gateway_crashed", 0)
            # The end of a stream is on its way before the request is over: killed there, only its prompt is known.
            assert answered.get(request_id, True)
    lost = sum(row.outcome != "complete" for row in rows.values())
    assert lost <= ROUNDS * CLIENTS
