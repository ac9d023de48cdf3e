"""The database itself: transactions, trouble and recovery."""

import asyncio
import contextlib
import logging
import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from gatehook import SecretStr, StartupError, Unavailable
from gatehook.accounts import User
from gatehook_plugins.database.address import backend_of


async def rows(node: Any, table: str = "thing") -> list[Any]:
    async with node.database.reading() as connection:
        return [row[0] for row in await connection.execute(text(f"SELECT n FROM {table} ORDER BY n"))]


@pytest.fixture
async def thing(one: Any) -> Any:
    """A gateway that serves, and a table `thing` with a column `n`."""
    async with one.database.writing() as connection:
        await connection.execute(text("CREATE TABLE thing (n BIGINT PRIMARY KEY)"))
    return one


async def add(node: Any, n: int) -> None:
    async with node.database.writing() as connection:
        await connection.execute(text("INSERT INTO thing VALUES (:n)"), {"n": n})


# --- transactions -----------------------------------------------------------------------------------------------------


async def test_what_is_written_is_there_and_what_failed_is_not(thing: Any) -> None:
    await add(thing, 1)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with thing.database.writing() as connection:
            await connection.execute(text("INSERT INTO thing VALUES (2)"))
            raise ZeroDivisionError
    assert await rows(thing) == [1]


async def test_a_cancelled_transaction_leaves_nothing_and_nothing_locked(thing: Any) -> None:
    begun = asyncio.Event()

    async def write() -> None:
        async with thing.database.writing() as connection:
            await connection.execute(text("INSERT INTO thing VALUES (1)"))
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    await add(thing, 2)
    assert await rows(thing) == [2]


async def test_cancelling_at_any_moment_breaks_nothing(thing: Any) -> None:
    for turn in range(60):
        task = asyncio.create_task(add(thing, turn))
        for _ in range(turn):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    await add(thing, 1000)
    assert (await rows(thing))[-1] == 1000


async def test_who_gives_up_in_the_middle_of_a_statement_leaves_no_lock(node_at: Any, tmp_path: Path) -> None:
    """Even while somebody keeps its error, and with it all that the statement held."""
    one = node_at(f"sqlite:///{tmp_path}/gatehook.db", timeout=2.0)
    long = "WITH RECURSIVE count(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM count LIMIT 100000) SELECT n FROM count"

    async def fill() -> None:
        async with one.database.writing() as connection:
            await connection.execute(text(f"INSERT INTO thing {long}"))

    async with one.database.opened():
        async with one.database.writing() as connection:
            await connection.execute(text("CREATE TABLE thing (n BIGINT PRIMARY KEY)"))
        given_up = []
        for turns in range(0, 100, 2):
            given_up.append(asyncio.create_task(fill()))
            for _ in range(turns):
                await asyncio.sleep(0)
            given_up[-1].cancel()
            await asyncio.wait(given_up)
            await add(one, -turns)
        assert await rows(one) == list(range(-98, 1, 2))


async def test_a_statement_s_own_fault_is_the_caller_s_to_handle(thing: Any) -> None:
    from sqlalchemy.exc import DBAPIError, IntegrityError

    await add(thing, 1)
    with pytest.raises(IntegrityError):
        await add(thing, 1)
    with pytest.raises(DBAPIError):
        await rows(thing, "nothing")
    await add(thing, 2)


async def test_a_reader_sees_one_state_and_cannot_write(thing: Any) -> None:
    from sqlalchemy.exc import DBAPIError

    await add(thing, 1)
    async with thing.database.reading() as connection:
        query = text("SELECT count(*) FROM thing")
        assert (await connection.execute(query)).scalar() == 1
        await add(thing, 2)
        assert (await connection.execute(query)).scalar() == 1
    assert await rows(thing) == [1, 2]
    with pytest.raises((DBAPIError, Unavailable)):
        async with thing.database.reading() as connection:
            await connection.execute(text("INSERT INTO thing VALUES (3)"))
    assert await rows(thing) == [1, 2]


async def test_many_writers_get_their_turns(thing: Any) -> None:
    async with thing.database.writing() as connection:
        await connection.execute(text("INSERT INTO thing VALUES (0)"))

    async def count() -> None:
        async with thing.database.writing() as connection:
            await connection.execute(text("UPDATE thing SET n = n + 1"))

    await asyncio.gather(*(count() for _ in range(40)))
    assert await rows(thing) == [40]


async def test_opening_may_be_nested(node_at: Any, database_url: str) -> None:
    one = node_at(database_url)
    for _ in range(2):
        async with one.database.opened():
            async with one.database.opened():
                assert await one.directory.users() == []
            assert await one.directory.users() == []
        with pytest.raises(RuntimeError, match="not open"):
            await one.directory.users()


# --- trouble ----------------------------------------------------------------------------------------------------------


def told(caplog: Any) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_locked_file_is_unavailable_until_the_lock_is_gone(
    serving_at: Any, tmp_path: Path, caplog: Any
) -> None:
    one = await serving_at(f"sqlite:///{tmp_path / 'a.db'}", timeout=0.1)
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                await one.directory.create_user("me", User("u"))
            assert caught.value.code == "database_unavailable"
            assert "a.db" not in caught.value.message
        assert await one.directory.users() == [], "readers do not mind"
        other.execute("COMMIT")
    await one.directory.create_user("me", User("u"))
    failed, back = told(caplog)
    assert failed == f"the database (SQLite file {tmp_path}/a.db) cannot be written to: database is locked"
    assert back.endswith("can be written to again")


async def test_a_full_disk_is_unavailable_until_there_is_room(serving_at: Any, tmp_path: Path, caplog: Any) -> None:
    one = await serving_at(f"sqlite:///{tmp_path / 'a.db'}")
    await one.directory.create_user("me", User("before"))

    async def limit(pages: str) -> None:
        async with one.database.writing() as connection:
            await connection.execute(text(f"PRAGMA max_page_count = {pages}"))

    await limit("1")  # no less than there are now
    made = 0
    with pytest.raises(Unavailable):  # noqa: PT012
        for made in range(1000):
            await one.directory.create_user("me", User(f"user-{made}", name="n" * 200))
    users = await one.directory.users(limit=1000)
    assert len(users) == made + 1, "all that was confirmed is there, and nothing else"
    assert len(await one.directory.audit(limit=1000)) == made + 1
    await one.directory.create_user("me", User("after"))  # on a new connection, without the limit
    assert "database or disk is full" in told(caplog)[0]


FULL = """
    import asyncio, resource, signal, sys
    from gatehook import Unavailable
    from gatehook.accounts import User
    from gatehook.services import DIRECTORY
    from gatehook.testing import built

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    async def main():
        gateway = built(sys.argv[1])
        async with gateway.lifespan():
            directory = gateway.services[DIRECTORY]
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
            made = 0
            try:
                while True:
                    await directory.create_user("me", User(f"user-{made}", name="n" * 200))
                    made += 1
            except Unavailable:
                pass
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            await directory.create_user("me", User("after"))
            assert len(await directory.users(limit=1000)) == made + 1, made
            assert made > 10

    asyncio.run(main())
"""


def test_a_file_that_may_not_grow_loses_nothing_and_grows_again(settings: Any, tmp_path: Path) -> None:
    words = [sys.executable, "-W", "error", "-c", textwrap.dedent(FULL), settings(f"sqlite:///{tmp_path / 'a.db'}")]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


async def test_a_restarted_server_is_used_again(
    serving_at: Any, own_postgres: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatehook_plugins.database.feed._PERIOD", 3600)  # no look is under way at a stop
    one = await serving_at(own_postgres.url("postgres"))
    user = await one.directory.create_user("me", User("u"))
    key, key_text = await one.directory.create_key("me", "u")
    await one.directory.refresh()  # else what has just been made would be told of later, and be forgotten once
    assert await one.directory.find(key_text) == (user, key)
    own_postgres.stop()
    own_postgres.start()
    await one.directory.create_user("me", User("next"))
    assert told(caplog) == [], "connections are tried before they are used"

    own_postgres.stop()
    with pytest.raises(Unavailable) as caught:
        await one.directory.create_user("me", User("lost"))
    assert caught.value.status == 503
    assert "postgres" not in caught.value.message
    assert await one.directory.find(key_text) == (user, key), "from memory"
    own_postgres.start()
    await one.directory.create_user("me", User("last"))
    assert await one.directory.find(key_text) == (user, key)
    assert [one.id for one in await one.directory.users()] == ["last", "next", "u"]
    assert f"PostgreSQL database postgres at {own_postgres.folder}" in caplog.text


async def test_a_transaction_cut_in_its_middle_is_unavailable(serving_at: Any, own_postgres: Any) -> None:
    one = await serving_at(own_postgres.url("postgres"))
    with pytest.raises(Unavailable):  # noqa: PT012
        async with one.database.writing() as connection:
            await connection.execute(text("CREATE TABLE thing (n BIGINT)"))
            own_postgres.stop()
            await connection.execute(text("INSERT INTO thing VALUES (1)"))
    own_postgres.start()
    async with one.database.writing() as connection:
        await connection.execute(text("CREATE TABLE thing (n BIGINT)"))


async def test_a_row_that_somebody_keeps_locked_is_unavailable(serving_at: Any, postgres_url: str) -> None:
    one, other = [await serving_at(postgres_url, timeout=2) for _ in range(2)]
    async with one.database.writing() as connection:
        await one.directory.note(connection, "me", "thing.change", "x", {})
        with pytest.raises(Unavailable):
            await other.directory.create_user("me", User("u"))
    await other.directory.create_user("me", User("u"))


async def test_more_work_than_connections_waits_and_then_is_unavailable(serving_at: Any, postgres_url: str) -> None:
    one = await serving_at(postgres_url, timeout=2)
    async with contextlib.AsyncExitStack() as stack:
        with pytest.raises(Unavailable):  # noqa: PT012
            for _ in range(20):
                await stack.enter_async_context(one.database.writing())
    assert await one.directory.users() == []


# --- what an operator is told -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://root:hunter2@host/db", "an unknown kind of database"),
        ("hunter2", "not the address of a database"),
        ("", "not the address"),
        ("sqlite://", "SQLite needs a file"),
        ("sqlite:///:memory:", "SQLite needs a file"),
        ("sqlite:///file:x?uri=true", "SQLite needs a file"),
        ("sqlite:///a.db?timeout=5", "not understood"),
        ("postgresql://user:hunter2@host", "names no database"),
    ],
)
def test_an_address_that_will_not_do_is_a_fault_that_repeats_nothing(node_at: Any, url: str, said: str) -> None:
    with pytest.raises(StartupError, match=said) as caught:
        node_at(url)
    assert "[database] url" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_postgresql_without_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch, node_at: Any) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(StartupError, match=r"pip install 'gatehook\[postgres\]'"):
        node_at("postgresql://host/db")


def test_a_relative_file_lies_beside_the_settings(tmp_path: Path) -> None:
    backend: Any = backend_of(SecretStr("sqlite+aiosqlite:///a/b.db"), tmp_path, pool_size=1, timeout=1)
    assert backend.file == tmp_path / "a" / "b.db"
    backend = backend_of(SecretStr("sqlite+aiosqlite:////a/b.db"), tmp_path, pool_size=1, timeout=1)
    assert backend.file == Path("/a/b.db")


async def test_the_file_is_its_owner_s_alone(serving_at: Any, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        one = await serving_at(f"sqlite:///{tmp_path / 'ä %#.db'}", secret="")
        await one.directory.create_user("me", User("u"))
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in os.scandir(tmp_path)}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("ä %#.db", "ä %#.db-wal", "ä %#.db-shm", "ä %#.db.secret", "ä %#.db.turn"), 0o600)


async def test_what_cannot_be_opened_is_told_by_its_place(node_at: Any, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("This is no database. " * 100)
    for name, said in (("none/a.db", "No such file"), ("text.db", "not a database"), (".", "directory")):
        with pytest.raises(StartupError, match=said) as caught:
            async with node_at(f"sqlite:///{tmp_path / name}").gateway.lifespan():
                pass
        assert str(tmp_path) in str(caught.value)


async def test_a_server_that_is_not_there_is_told_without_the_password(node_at: Any, caplog: Any) -> None:
    one = node_at("postgresql://anna:hunter2@127.0.0.1:1/db")
    with pytest.raises(StartupError, match=r"PostgreSQL database db at 127\.0\.0\.1:1 cannot be") as caught:
        async with one.gateway.lifespan():
            pass
    assert "hunter2" not in str(caught.value) + caplog.text
    assert "cannot be" not in caplog.text  # once is enough


async def test_what_a_server_refuses_is_told_in_its_own_words_alone(node_at: Any, postgres_url: str) -> None:
    url = postgres_url.replace("/t", "/not_t", 1)
    with pytest.raises(StartupError, match=r'cannot be used: database "not_t\d+" does not exist$'):
        async with node_at(url).database.opened():
            pass


async def test_a_server_that_says_nothing_is_given_up(node_at: Any) -> None:
    async def hush(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hush, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        one = node_at(f"postgresql://anna@127.0.0.1:{port}/db?ssl=disable", timeout=0.1)
        with pytest.raises(StartupError, match="in time"):
            async with one.gateway.lifespan():
                pass
