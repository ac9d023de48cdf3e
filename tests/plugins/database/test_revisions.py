"""Tables that are as new as the revisions are left alone, and alembic with them."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from gatehook import StartupError
from gatehook_plugins.database import service
from gatehook_plugins.database.migrating import history
from gatehook_plugins.database.revisions import head_revision

PACKAGES = [f"gatehook_plugins.{name}.migrations" for name in ("database", "jobs", "ledger", "quota", "tool_policy")]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of revisions of a package `own_tables`."""
    versions = tmp_path / "own_tables" / "versions"
    versions.mkdir(parents=True)
    for folder in (versions, versions.parent):
        (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield versions
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_tables"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", PACKAGES)
def test_the_newest_revision_is_the_one_that_alembic_finds(name: str) -> None:
    assert head_revision(name) == history(name).get_current_head() is not None


@pytest.mark.parametrize(
    ("revisions", "found"),
    [
        (["revision = '1'\ndown_revision = None"], "1"),
        (["revision: str = '1'\ndown_revision: str | None = None", 'revision = "2"  # next\ndown_revision = "1"'], "2"),
        (["revision = '1'\ndown_revision = None", "revision = '2'\ndown_revision = None"], None),
        (["revision = '1'\ndown_revision = None", "revision = '2'\ndown_revision = ('1', '0')"], None),
        (["revision, down_revision = '1', None"], None),
        (["revision = '1'"], None),
        ([], None),
    ],
)
def test_whatever_is_not_plain_is_left_to_alembic(package: Path, revisions: list[str], found: str | None) -> None:
    for number, said in enumerate(revisions):
        (package / f"r{number}.py").write_text(f'"""A step."""\n\n{said}\n\n\ndef upgrade(): ...\n')
    assert head_revision("own_tables") == found


async def test_a_second_start_needs_no_alembic(
    node_at: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node_at(database_url).database.opened():
        pass
    monkeypatch.setattr(service, "_history", None)  # whoever calls it falls over it
    async with node_at(database_url).database.opened():
        pass


async def test_tables_from_a_newer_version_are_refused_all_the_same(node_at: Any, database_url: str) -> None:
    one = node_at(database_url)
    async with one.database.opened(), one.database.writing() as connection:
        await connection.execute(text("UPDATE alembic_version_database SET version_num = '9999'"))
    with pytest.raises(StartupError, match="at revision 9999, which this version does not know"):
        async with node_at(database_url).database.opened():
            raise AssertionError
