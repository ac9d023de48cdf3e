"""How fast jobs are taken and picked up, and that 1,000 of them survive kill -9 of every process.

python tests/bench/jobs.py [JOBS] [DATABASE_URL]; by default 1,000 jobs in a new SQLite file.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import sqlalchemy as sa
from aiohttp import ClientError, ClientSession

from gatehook import DATABASE
from gatehook.testing import built
from gatehook_plugins.jobs.tables import ENDED, events, jobs

SETTINGS = """
[server]
port = {port}
workers = 2
[database]
url = "{url}"
secret = "a secret of more than thirty-two letters, for the bench"
[plugins.database]
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.health]
[plugins.jobs]
lease = 2
per_user = 16
max_queued = 100000
max_attempts = 50
[[models]]
name = "m"
vendor = "mock"
options = {{ text = "done" }}
"""
BODY = {"model": "m", "messages": [{"role": "user", "content": "How do I boil an egg?"}], "async": True}
AT_ONCE = 16
SAMPLES = 200


@contextlib.asynccontextmanager
async def server(settings: Path, url: str, session: ClientSession) -> AsyncIterator[None]:
    """A parent and two workers, killed at the end; what they log is kept beside the settings."""
    with _log(settings).open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gatehook", "serve", "--config", str(settings), start_new_session=True,
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        while True:
            with contextlib.suppress(ClientError):
                async with session.get(f"{url}/health/live") as answer:
                    if answer.status == 200:
                        break
            await asyncio.sleep(0.02)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _log(settings: Path) -> Path:
    return settings.with_name("gateway.log")


async def submit(session: ClientSession, url: str) -> str:
    """One job; gives its id.

    Raises:
        RuntimeError: it was not taken; tells all that was answered.
    """
    begun = time.perf_counter()
    async with session.post(f"{url}/v1/chat/completions", json=BODY) as answer:
        told = await answer.text()
        if answer.status != 202:
            took = time.perf_counter() - begun
            raise RuntimeError(f"a submission was answered after {took:.2f} s: {answer.status} {told} {answer.headers}")
        return str(json.loads(told)["job_id"])


async def latencies(session: ClientSession, url: str) -> tuple[list[float], list[str]]:
    """Milliseconds of submissions to an idle gateway, one after another; and the jobs."""
    took, ids = [], []
    for _ in range(SAMPLES):
        begun = time.perf_counter()
        ids.append(await submit(session, url))
        took.append((time.perf_counter() - begun) * 1000)
        await asyncio.sleep(0.02)
    return took, ids


def disk(folder: Path) -> list[float]:
    """Milliseconds that the disk alone takes for a page that must not be lost, as often as jobs are submitted."""
    took, file = [], os.open(folder / "page", os.O_RDWR | os.O_CREAT)
    for number in range(SAMPLES // 2):
        time.sleep(0.02)
        os.pwrite(file, b"x" * 4096, number * 4096)
        begun = time.perf_counter()
        os.fdatasync(file)
        took.append((time.perf_counter() - begun) * 1000)
    os.close(file)
    return took


def told(what: str, figures: Sequence[float]) -> None:
    """Print the median and the 99th percentile."""
    cuts = statistics.quantiles(figures, n=100)
    print(
        f"{what:28} p50 {statistics.median(figures):7.2f} ms   p99 {cuts[98]:7.2f} ms   longest {max(figures):7.2f} ms"
    )


async def main(count: int, database_url: str, folder: Path) -> None:
    """Measure and print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings, url = folder / "settings.toml", f"http://127.0.0.1:{port}"
    settings.write_text(SETTINGS.format(port=port, url=database_url), "utf-8")
    told("the disk alone", disk(folder))
    database = built(settings.read_text("utf-8")).services[DATABASE]
    async with ClientSession() as session, database.opened():

        async def ended() -> int:
            found = sa.select(sa.func.count()).select_from(jobs).where(jobs.c.status.in_(ENDED))
            async with database.reading() as connection:
                return int((await connection.execute(found)).scalar_one())

        async with server(settings, url, session):
            took, ids = await latencies(session, url)
            while await ended() < SAMPLES:  # noqa: ASYNC110  # other processes end them
                await asyncio.sleep(0.1)
            found = sa.select(events.c.kind, events.c.at, events.c.job_id).where(events.c.job_id.in_(ids))
            async with database.reading() as connection:
                at = {(kind, job_id): moment for kind, moment, job_id in await connection.execute(found)}
            told("submission, idle", took)
            told("pick-up, idle", [float(at["running", one] - at["queued", one]) for one in ids])
            enough, begun = asyncio.Semaphore(AT_ONCE), time.perf_counter()

            async def one() -> float:
                async with enough:
                    asked = time.perf_counter()
                    await submit(session, url)
                    return (time.perf_counter() - asked) * 1000

            took = await asyncio.gather(*(one() for _ in range(count)))
            print(f"{count} jobs submitted, {AT_ONCE} at a time: {count / (time.perf_counter() - begun):.0f}/s")
            told(f"submission, {AT_ONCE} at a time", took)
        rounds, begun = 1, time.perf_counter()
        while (done := await ended()) < count + SAMPLES:
            async with server(settings, url, session):
                target = min(done + count // 4, count + SAMPLES)
                while await ended() < target:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                rounds += 1
        took_all = time.perf_counter() - begun
        async with database.reading() as connection:
            status = Counter((await connection.execute(sa.select(jobs.c.status))).scalars())
            ends = Counter(await connection.scalars(sa.select(events.c.job_id).where(events.c.kind.in_(ENDED))))
        print(f"everything killed {rounds} times; all ended {took_all:.1f} s after the first kill: {dict(status)}")
        assert len(ends) == count + SAMPLES
        assert set(ends.values()) == {1}, "a job has ended twice"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        number = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
        address = sys.argv[2] if len(sys.argv) > 2 else f"sqlite+aiosqlite:///{made}/bench.db"
        try:
            asyncio.run(main(number, address, Path(made)))
        except Exception:
            print(*_log(Path(made, "settings.toml")).read_text("utf-8").splitlines()[-40:], sep="\n")
            raise
