"""kill -9 of everything, again and again: each job that was taken is run to exactly one end."""

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import sqlalchemy as sa
from aiohttp import ClientError, ClientSession

from gatehook import DATABASE
from gatehook.testing import built
from gatehook_plugins.jobs.tables import ENDED, bodies, events, jobs

SETTINGS = """
[server]
port = {port}
workers = 2
[database]
url = "{url}"
secret = "a secret of more than thirty-two letters, for tests"
[plugins.database]
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.health]
[plugins.jobs]
lease = 1
poll = 0.1
per_user = 16
max_attempts = 50
[[models]]
name = "m"
vendor = "mock"
options = {{ text = "done", first_delay = 0.02 }}
"""
JOBS = 160
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "async": True}


@contextlib.asynccontextmanager
async def server(settings: Path, url: str, session: ClientSession) -> AsyncIterator[None]:
    """A parent and its two workers; at the end all of them are killed, as a power cut would."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gatehook", "serve", "--config", str(settings),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(ClientError):
                    async with session.get(f"{url}/health/live") as answer:
                        if answer.status == 200:
                            break
                assert process.returncode is None, "it does not start"
                await asyncio.sleep(0.02)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def submit(session: ClientSession, url: str, times: int, taken: list[str]) -> None:
    """Submit so many jobs, a few at once; note the ids of those that were acknowledged."""
    enough = asyncio.Semaphore(16)

    async def one() -> None:
        async with enough:
            with contextlib.suppress(ClientError):
                async with session.post(f"{url}/v1/chat/completions", json=BODY) as answer:
                    if answer.status == 202:
                        taken.append((await answer.json())["job_id"])

    await asyncio.gather(*(one() for _ in range(times)))


async def test_jobs_survive_the_death_of_every_process_and_end_once(
    tmp_path: Path, database_url: str, free_port: Callable[[], int]
) -> None:
    port = free_port()
    settings, url = tmp_path / "settings.toml", f"http://127.0.0.1:{port}"
    settings.write_text(SETTINGS.format(port=port, url=database_url), "utf-8")
    gateway = built(settings.read_text("utf-8"))
    database = gateway.services[DATABASE]
    taken: list[str] = []
    async with ClientSession() as session, database.opened():

        async def ended() -> int:
            async with database.reading() as connection:
                found = sa.select(sa.func.count()).select_from(jobs).where(jobs.c.status.in_(ENDED))
                return int((await connection.execute(found)).scalar_one())

        async def some(count: int) -> None:
            while await ended() < count:  # noqa: ASYNC110  # other processes end them
                await asyncio.sleep(0.02)

        async with server(settings, url, session):
            await submit(session, url, JOBS // 2, taken)
            assert len(taken) == JOBS // 2
        async with server(settings, url, session):
            dying = asyncio.create_task(submit(session, url, JOBS // 2, taken))
            await some(JOBS // 4)
        await dying  # killed in the middle of submissions and of jobs: what was acknowledged counts
        async with server(settings, url, session), asyncio.timeout(40):
            async with database.reading() as connection:
                there = (await connection.execute(sa.select(sa.func.count()).select_from(jobs))).scalar_one()
            assert there >= len(taken)
            await some(there)
        async with database.reading() as connection:
            status = {row.id: row.status for row in await connection.execute(sa.select(jobs))}
            ends = Counter(await connection.scalars(sa.select(events.c.job_id).where(events.c.kind.in_(ENDED))))
            kept = Counter((await connection.execute(sa.select(bodies.c.kind))).scalars())
    assert set(taken) <= set(status)
    assert set(status.values()) == {"succeeded"}
    assert ends == dict.fromkeys(status, 1)
    assert kept == {"result": len(status)}
