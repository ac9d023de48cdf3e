"""The tables' history: made and changed at the start, by whoever comes first."""

import asyncio
import contextlib
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from gatehook import StartupError
from gatehook.accounts import User
from gatehook_plugins.database.migrating import history, upgrade
from gatehook_plugins.database.tables import METADATA


async def rows(node: Any, table: str) -> list[Any]:
    async with node.database.reading() as connection:
        return [row[0] for row in await connection.execute(text(f"SELECT n FROM {table} ORDER BY n"))]


async def test_the_revisions_make_the_tables_that_the_code_expects(one: Any) -> None:
    def differences(connection: Any) -> Any:
        context = MigrationContext.configure(connection, opts={"version_table": "alembic_version_database"})
        return compare_metadata(context, METADATA)

    async with one.database.reading() as connection:
        assert await connection.run_sync(differences) == []


async def test_processes_that_start_together_make_the_tables_once(node_at: Any, database_url: str) -> None:
    nodes = [node_at(database_url) for _ in range(5)]
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(node.gateway.lifespan()) for node in nodes))
        await nodes[0].directory.create_user("me", User("u"))
        for node in nodes:
            assert await node.directory.user("u")


async def test_tables_from_a_newer_version_are_left_alone(node_at: Any, database_url: str) -> None:
    async with node_at(database_url).database.opened():
        one = node_at(database_url)
        async with one.database.opened(), one.database.writing() as connection:
            await connection.execute(text("UPDATE alembic_version_database SET version_num = '9999'"))
    with pytest.raises(StartupError, match="revision 9999, which this version does not know: a newer one has been"):
        async with node_at(database_url).database.opened():
            pass


REVISION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = {numbers}
def upgrade():
    {steps}
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an importable package's revisions; the first is there."""
    versions = tmp_path / "other_tables" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "other_tables" / "__init__.py").touch()
    steps = "op.create_table('other', sa.Column('n', sa.BigInteger))"
    (versions / "r1.py").write_text(REVISION.format(numbers="'1', None", steps=steps))
    monkeypatch.syspath_prepend(tmp_path)
    yield versions
    sys.modules.pop("other_tables", None)


async def test_each_plugin_has_a_history_of_its_own_and_failing_changes_nothing(one: Any, package: Path) -> None:
    await one.database.migrate("other", "other_tables")
    await one.database.migrate("other", "other_tables")
    assert await rows(one, "other") == []

    steps = "op.execute('INSERT INTO other VALUES (1)'); op.execute('INSERT INTO nowhere VALUES (1)')"
    (package / "r2.py").write_text(REVISION.format(numbers="'2', '1'", steps=steps))
    with pytest.raises(StartupError, match="tables of plugin 'other' cannot be brought up to date"):
        await one.database.migrate("other", "other_tables")
    assert await rows(one, "other") == []

    steps = "with op.batch_alter_table('other') as table: table.alter_column('n', new_column_name='number')"
    (package / "r2.py").write_text(REVISION.format(numbers="'2', '1'", steps=steps))
    await one.database.migrate("other", "other_tables")
    async with one.database.reading() as connection:
        assert (await connection.execute(text("SELECT number FROM other"))).all() == []


async def test_one_line_tells_that_tables_were_made_or_changed_and_none_that_they_are_as_they_were(
    one: Any, package: Path, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "gatehook")
    caplog.clear()
    (package / "r2.py").write_text(REVISION.format(numbers="'2', '1'", steps="pass"))
    await one.database.migrate("other", "other_tables")
    (package / "r3.py").write_text(REVISION.format(numbers="'3', '2'", steps="pass"))
    await one.database.migrate("other", "other_tables")
    await one.database.migrate("other", "other_tables")
    told = [record.getMessage() for record in caplog.records if record.name.startswith("gatehook")]
    assert told == ["the tables of plugin 'other' are made", "the tables of plugin 'other' are brought up to date"]


async def test_a_commit_that_fails_is_not_told_as_tables_that_are_made(one: Any, package: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "gatehook")
    caplog.clear()
    tables = (
        "CREATE TABLE parent (n BIGINT PRIMARY KEY)",
        "CREATE TABLE child (n BIGINT REFERENCES parent (n) DEFERRABLE INITIALLY DEFERRED)",
        "INSERT INTO child VALUES (1)",
    )
    steps = "; ".join(f"op.execute({statement!r})" for statement in tables)
    (package / "r1.py").write_text(REVISION.format(numbers="'1', None", steps=steps))
    with pytest.raises(StartupError, match="tables of plugin 'other' cannot be brought up to date"):
        await one.database.migrate("other", "other_tables")
    assert [record.getMessage() for record in caplog.records if record.name.startswith("gatehook")] == []


async def test_migrating_leaves_the_logs_as_they_are(node_at: Any, tmp_path: Path) -> None:
    before = logging.root.level, list(logging.root.handlers)
    async with node_at(f"sqlite:///{tmp_path / 'a.db'}").database.opened():
        pass
    assert (logging.root.level, list(logging.root.handlers)) == before


def test_the_first_revision_can_be_undone(tmp_path: Path) -> None:
    from alembic.operations import Operations
    from sqlalchemy import create_engine, inspect

    scripts = history("gatehook_plugins.database.migrations")
    engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with engine.begin() as connection:
        upgrade(connection, "database", scripts)
        with Operations.context(MigrationContext.configure(connection)):
            for script in scripts.walk_revisions():
                script.module.downgrade()
        assert inspect(connection).get_table_names() == ["alembic_version_database"]
    engine.dispose()


def test_the_first_start_says_in_a_line_for_each_plugin_that_its_tables_are_made(tmp_path: Path) -> None:
    database = "[database]\nurl = 'sqlite:///a.db'\n[plugins.database]\n"
    (tmp_path / "settings.toml").write_text(f"[server]\nport = 0\n{database}")
    words = [sys.executable, "-m", "gatehook", "serve", "--config", str(tmp_path / "settings.toml")]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("Gatehook listens on "):
                process.send_signal(signal.SIGTERM)
    told = [line.split("]: ", 1)[1].strip() for line in said if " INFO " in line]
    assert told[0] == "the tables of plugin 'database' are made", said
    assert "alembic" not in "".join(said)
