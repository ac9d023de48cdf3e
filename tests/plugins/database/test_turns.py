"""Processes that share an SQLite file write by turns: one that is busy cannot keep the others out."""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from gatehook import Unavailable

BUSY = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from sqlalchemy import text
    from gatehook import DATABASE
    from gatehook.testing import built

    async def main(settings):
        database = built(settings).services[DATABASE]

        async def write():
            while True:
                async with database.writing() as connection:
                    await connection.execute(text("UPDATE thing SET n = n + 1"))
                    await asyncio.sleep(0.02)

        async with database.opened():
            writers = [asyncio.create_task(write()) for _ in range(4)]
            print("busy", flush=True)
            await asyncio.wait(writers, return_when=asyncio.FIRST_COMPLETED)

    asyncio.run(main(Path(sys.argv[1]).read_text()))
    """
)


@pytest.fixture
async def node(serving_at: Any, tmp_path: Path) -> Any:
    """A gateway that serves, with little patience, and a table `thing` with one row."""
    one = await serving_at(f"sqlite+aiosqlite:///{tmp_path}/a.db", timeout=3.0)
    async with one.database.writing() as connection:
        await connection.execute(text("CREATE TABLE thing (n INTEGER)"))
        await connection.execute(text("INSERT INTO thing VALUES (0)"))
    return one


@pytest.fixture
async def busy(node: Any, settings: Callable[..., str], tmp_path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process of the gateway, which writes without a pause."""
    (tmp_path / "busy.toml").write_text(settings(f"sqlite+aiosqlite:///{tmp_path}/a.db"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", BUSY, str(tmp_path / "busy.toml"), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"busy\n"
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def write(node: Any) -> float:
    """Write once; gives the seconds it took."""
    begun = asyncio.get_running_loop().time()
    async with node.database.writing() as connection:
        await connection.execute(text("UPDATE thing SET n = n + 1"))
    return asyncio.get_running_loop().time() - begun


async def test_a_process_that_writes_without_a_pause_lets_the_others_write(node: Any, busy: Any) -> None:
    for _ in range(20):
        await write(node)  # each would have to meet the moment between two of its transactions


async def test_many_at_once_in_each_of_two_processes_all_write(node: Any, busy: Any) -> None:
    await asyncio.gather(*(write(node) for _ in range(16)))


async def test_another_program_s_transactions_are_waited_for(node: Any, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(write(node))
        await asyncio.wait([writing], timeout=0.3)
        assert not writing.done()
        other.execute("COMMIT")
        await writing


async def test_a_lock_that_nobody_gives_up_ends_in_a_503_that_says_when_to_come_again(
    node: Any, tmp_path: Path
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable) as refused:
            await write(node)
        assert (refused.value.status, refused.value.code) == (503, "database_unavailable")
        assert refused.value.retry_after
        other.execute("ROLLBACK")
    await write(node)


async def test_a_process_that_stands_still_in_its_turn_keeps_nobody_out(node: Any, tmp_path: Path) -> None:
    stopped = os.open(tmp_path / "a.db.turn", os.O_RDWR)
    try:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        await write(node)
    finally:
        os.close(stopped)


async def test_turns_are_taken_though_their_file_is_gone_or_cannot_be_made(node: Any, tmp_path: Path) -> None:
    (tmp_path / "a.db.turn").unlink()
    await write(node)
    (tmp_path / "a.db.turn").unlink()
    (tmp_path / "a.db.turn").mkdir()
    await write(node)


async def test_who_gives_up_in_the_queue_leaves_his_place(node: Any, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(write(node))
        await asyncio.wait([writing], timeout=0.1)
        writing.cancel()
        await asyncio.wait([writing])
        held = os.open(tmp_path / "a.db.turn", os.O_RDWR)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(held)
        other.execute("ROLLBACK")
    await write(node)
