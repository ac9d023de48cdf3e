"""What `gatehook check` finds out about a database, which it leaves as it is."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from gatehook import StartupError
from gatehook.commands.cli import main


async def said(node: Any) -> str:
    """Why it could not be opened; "" if it could."""
    try:
        await node.database.inspect()
    except StartupError as error:
        return str(error)
    return ""


async def test_a_database_that_can_be_used_is_left_as_it_is(
    node_at: Any, serving_at: Any, database_url: str, tmp_path: Path
) -> None:
    assert await said(node_at(database_url)) == ""
    assert await asyncio.to_thread(lambda: [*tmp_path.iterdir()]) == []
    one = await serving_at(database_url)
    assert await said(one) == await said(node_at(database_url)) == ""
    async with one.database.writing() as connection:
        await connection.execute(text("CREATE TABLE held (n INTEGER)"))
        assert await said(node_at(database_url)) == "", "also while somebody writes"


async def test_what_is_wrong_with_a_file_is_told(node_at: Any, tmp_path: Path) -> None:
    begins = f"[database] url: SQLite file {tmp_path}"
    assert await said(node_at(f"sqlite:///{tmp_path}/no/a.db")) == (
        f"{begins}/no/a.db cannot be made: there is no such folder"
    )
    (tmp_path / "a.db").write_text("some text that is no database, and long enough to be taken for a head of one" * 9)
    assert await said(node_at(f"sqlite:///{tmp_path}/a.db")) == f"{begins}/a.db cannot be used: file is not a database"


async def test_a_folder_that_cannot_be_written_to_is_told(
    node_at: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatehook_plugins.database.sqlite.os.access", lambda *asked: False)  # root may write everywhere
    told = await said(node_at(f"sqlite:///{tmp_path}/a.db"))
    assert told.endswith("cannot be made: nothing can be made in its folder")


async def test_a_server_that_is_away_is_told_without_its_password(node_at: Any, free_port: Any) -> None:
    port = free_port()
    told = await said(node_at(f"postgresql+asyncpg://u:hidden-word@127.0.0.1:{port}/x", timeout=1))
    assert told.startswith(f"[database] url: PostgreSQL database x at 127.0.0.1:{port} cannot be used: ")
    assert "hidden-word" not in told


def test_the_check_notes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f'[database]\nurl = "sqlite:///{tmp_path}/no/a.db"\n[plugins.database]\n')
    assert main(["check", "--config", str(file)]) == 0
    note, last = capsys.readouterr().out.splitlines()
    assert note == f"[database] url: SQLite file {tmp_path}/no/a.db cannot be made: there is no such folder"
    assert last.startswith(f"{file}: fine; ")
