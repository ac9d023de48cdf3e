"""What is configured while the gateway runs: kept, known everywhere soon, and never lost between two editors."""

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text as sql

from gatehook import Conflict, InvalidRequest, Unavailable
from gatehook_plugins.database.config import merged
from gatehook_plugins.database.tables import LONGEST_CONFIG_NAME

NAME = "load-balancing"


async def test_nothing_is_set_at_first(one: Any) -> None:
    assert one.directory.config(NAME) == ({}, 0)


async def test_what_is_set_is_known_at_once_here_and_soon_elsewhere(two: Any, soon: Any) -> None:
    here, there = two
    found: list[Any] = []
    for node in two:
        node.directory.subscribe(lambda kind, name, node=node: found.append((kind, name, node.directory.config(NAME))))
    value, revision = await here.directory.put_config("me", NAME, {"strategy": "priority"})
    assert value == {"strategy": "priority"}
    assert here.directory.config(NAME) == (value, revision)
    assert found == [("config", NAME, (value, revision))], "who is told finds it new"
    found.clear()

    async def is_told() -> bool:
        return len(found) == 2

    assert await soon(is_told)
    assert found == [("config", NAME, (value, revision))] * 2
    assert there.directory.config(NAME) == (value, revision)


async def test_it_outlives_a_restart_and_who_starts_is_told(serving_at: Any, node_at: Any, database_url: str) -> None:
    first = node_at(database_url)
    async with first.gateway.lifespan():
        kept = await first.directory.put_config("me", NAME, {"weights": {"m": 0.4}})
    second = node_at(database_url)
    found: list[Any] = []
    second.directory.subscribe(lambda kind, name: found.append((kind, name, second.directory.config(NAME))))
    async with second.gateway.lifespan():
        assert found == [("", "", kept)]


async def test_of_two_editors_of_one_revision_the_second_is_refused(two: Any) -> None:
    here, there = two
    _, revision = await here.directory.put_config("me", NAME, {"strategy": "priority"}, revision=0)
    done = await asyncio.gather(
        *(node.directory.put_config("me", NAME, {"by": n}, revision=revision) for n, node in enumerate(two * 4)),
        return_exceptions=True,
    )
    (value, newest), *none = [one for one in done if not isinstance(one, BaseException)]
    assert none == []
    for error in (one for one in done if isinstance(one, BaseException)):
        assert isinstance(error, Conflict)
        assert f"it is at revision {newest}; read it again" in str(error)
    with pytest.raises(Conflict):
        await there.directory.merge_config("me", NAME, {"by": 99}, revision=0)
    assert len(await here.directory.audit()) == 2
    node = two[value["by"] % 2]
    assert node.directory.config(NAME) == (value, newest)


async def test_a_revision_never_comes_again_and_names_its_line_in_the_audit(one: Any) -> None:
    directory = one.directory
    revisions = [(await directory.put_config("me", name, {"n": n}))[1] for n, name in enumerate(("a", "b", "a", "a"))]
    assert revisions == sorted(set(revisions))
    assert [line.id for line in await directory.audit()] == revisions[::-1]
    (line, *_) = await directory.audit()
    assert (line.actor, line.action, line.subject, line.detail) == ("me", "config.change", "a", {"n": 3})


async def test_editors_of_different_keys_lose_nothing(two: Any) -> None:
    asked = [(node, {"weights": {f"m{n}": n}, f"key{n}": n}) for n in range(12) for node in [two[n % 2]]]
    await asyncio.gather(*(node.directory.merge_config("me", NAME, changes) for node, changes in asked))
    value, _ = await two[0].directory.merge_config("me", NAME, {"key0": None, "weights": {"m0": None}})
    assert value == {"weights": {f"m{n}": n for n in range(1, 12)}} | {f"key{n}": n for n in range(1, 12)}
    (line, *_) = await two[1].directory.audit(limit=1)
    assert line.detail == {"key0": None, "weights": value["weights"]}, "what was taken out is told too"


EDITOR = """
import asyncio, sys
from gatehook.services import DIRECTORY
from gatehook.testing import built

async def edit(text, who):
    gateway = built(text)
    async with gateway.lifespan():
        for n in range(20):
            await gateway.services[DIRECTORY].merge_config(who, "load-balancing", {"weights": {f"{who}{n}": n}})

asyncio.run(edit(sys.argv[1], sys.argv[2]))
"""


async def test_editors_in_processes_of_their_own_lose_nothing(one: Any, settings: Any, database_url: str) -> None:
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-W", "error", "-c", EDITOR, settings(database_url), who)
        for who in ("a", "b")
    ]
    assert [await process.wait() for process in processes] == [0, 0]
    value, _ = await one.directory.merge_config("me", NAME, {})
    assert value == {"weights": {f"{who}{n}": n for n in range(20) for who in ("a", "b")}}
    assert len(await one.directory.audit()) == 41


async def test_a_check_that_refuses_leaves_everything_as_it_was(one: Any) -> None:
    kept = await one.directory.put_config("me", NAME, {"a": 1})
    seen: list[Any] = []

    def refuse(value: Any) -> None:
        seen.append(value)
        raise InvalidRequest("not so")

    with pytest.raises(InvalidRequest, match="not so"):
        await one.directory.merge_config("me", NAME, {"b": 2}, check=refuse)
    assert seen == [{"a": 1, "b": 2}]
    await unchanged(one, kept)


async def unchanged(one: Any, kept: Any) -> None:
    """In memory, in the database, and in the audit."""
    assert one.directory.config(NAME) == kept
    assert (await one.directory.audit())[0].id == kept[1]
    await one.directory.read_config(afresh=True)
    assert one.directory.config(NAME) == kept


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (NAME, {"a": float("nan")}),
        (NAME, {"a": float("inf")}),
        (NAME, {"a": {1, 2}}),
        (NAME, {"a": "x" * (1 << 16)}),
        ("", {}),
        ("n" * (LONGEST_CONFIG_NAME + 1), {}),
        ("bell\a", {}),
        (5, {}),
    ],
)
async def test_what_cannot_be_kept_is_refused(serving_at: Any, tmp_path: Path, name: Any, value: Any) -> None:
    one = await serving_at(f"sqlite:///{tmp_path / 'a.db'}")
    kept = await one.directory.put_config("me", NAME, {"a": 1})
    for put in (one.directory.put_config, one.directory.merge_config):
        with pytest.raises(InvalidRequest):
            await put("me", name, value)
    await unchanged(one, kept)


async def test_any_text_may_be_in_a_value(one: Any) -> None:
    value = {"nul\0": "\0", "half": "\ud800", "wide": "Grüße 😀", "deep": [{"a": [None, True, 1.5]}]}
    kept = await one.directory.put_config("me", NAME, value)
    assert kept[0] == value
    await unchanged(one, kept)


async def test_nobody_changes_what_is_kept_by_changing_what_was_given(one: Any) -> None:
    value: dict[str, Any] = {"weights": {"m": 1}}
    await one.directory.put_config("me", NAME, value)
    value["weights"]["m"] = 2
    assert one.directory.config(NAME)[0] == {"weights": {"m": 1}}


async def test_an_older_state_never_takes_the_place_of_a_newer_one(one: Any) -> None:
    kept = await one.directory.put_config("me", NAME, {"a": 1})
    one.directory._learn({NAME: ({"a": 0}, kept[1] - 1), "other": ({"b": 1}, 1)})
    assert one.directory.config(NAME) == kept
    assert one.directory.config("other") == ({"b": 1}, 1)


async def test_a_restored_backup_is_taken_as_it_is(one: Any, soon: Any) -> None:
    kept = await one.directory.put_config("me", NAME, {"a": 1})
    await one.directory.put_config("me", NAME, {"a": 2})
    await one.directory.put_config("me", "other", {"b": 1})
    await one.directory._feed.look()
    async with one.database.writing() as connection:
        await connection.execute(sql("DELETE FROM config WHERE name = 'other'"))
        for statement in (
            f"UPDATE config SET value = '{json.dumps(kept[0])}', revision = {kept[1]}",
            f"DELETE FROM audit WHERE id > {kept[1]}",
            f"UPDATE revision SET number = {kept[1]}",
        ):
            await connection.execute(sql(statement))

    async def is_back() -> bool:
        return bool(one.directory.config(NAME) == kept) and one.directory.config("other") == ({}, 0)

    assert await soon(is_back)


async def test_while_the_database_is_away_what_is_set_holds_and_changes_are_refused(
    own_postgres: Any, serving_at: Any, soon: Any
) -> None:
    here = await serving_at(own_postgres.url("postgres"))
    there = await serving_at(own_postgres.url("postgres"))
    kept = await here.directory.put_config("me", NAME, {"a": 1})

    async def is_known() -> bool:
        return bool(there.directory.config(NAME) == kept)

    assert await soon(is_known)
    own_postgres.stop()
    with pytest.raises(Unavailable):
        await here.directory.put_config("me", NAME, {"a": 2})
    with pytest.raises(Unavailable):
        await there.directory._feed.look()
    assert [node.directory.config(NAME) for node in (here, there)] == [kept, kept]
    own_postgres.start()

    async def is_back() -> bool:
        with contextlib.suppress(Unavailable):
            await here.directory.merge_config("me", NAME, {"b": 2})
            return True
        return False

    assert await soon(is_back, 10)

    async def has_both() -> bool:
        return bool(there.directory.config(NAME)[0] == {"a": 1, "b": 2})

    assert await soon(has_both, 10)


async def test_a_look_that_fails_midway_is_made_up_for_by_the_next(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = two
    monkeypatch.setattr("gatehook_plugins.database.feed._PERIOD", 3600)
    feed, found = there.directory._feed, []
    await feed.look()
    there.directory.subscribe(lambda *change: found.append(change))
    before = feed._before

    async def fails(changes: Any) -> None:
        raise Unavailable("away")

    kept = await here.directory.put_config("me", NAME, {"a": 1})
    feed._before = fails
    with pytest.raises(Unavailable):
        await feed.look()
    assert ("config", NAME) not in found
    feed._before = before
    await feed.look()
    assert found[0] == ("config", NAME)
    assert there.directory.config(NAME) == kept


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "x"]),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


def patched(target: Any, patch: Any) -> Any:
    """MergePatch of RFC 7396, section 2, word by word."""
    if not isinstance(patch, dict):
        return patch
    if not isinstance(target, dict):
        target = {}
    target = dict(target)
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = patched(target.get(name), value)
    return target


def without_empty(value: Any) -> Any:
    """Objects in objects that hold nothing left out, from within."""
    if not isinstance(value, dict):
        return value
    return {name: kept for name, one in value.items() if (kept := without_empty(one)) != {}}


@given(OBJECTS, OBJECTS)
def test_merging_is_that_of_rfc_7396_but_for_what_is_empty(old: Any, changes: Any) -> None:
    old = without_empty(patched({}, old))
    assert merged(old, changes) == without_empty(patched(old, changes))


async def test_a_damaged_value_keeps_nobody_out(one: Any, caplog: Any) -> None:
    kept = await one.directory.put_config("me", NAME, {"a": 1})
    await one.directory._feed.look()
    async with one.database.writing() as connection:
        if one.database.dialect == "postgresql":
            await connection.execute(sql("ALTER TABLE config ALTER COLUMN value TYPE text"))
        await connection.execute(sql("UPDATE config SET value = '{'"))
        await one.directory.note(connection, "me", "config.change", NAME, {})
    await one.directory._feed.look()
    assert one.directory.config(NAME) == kept
    assert "the configuration in the database cannot be read" in caplog.text
    assert not one.directory._memory.is_away


# --- a database from before -------------------------------------------------------------------------------------------


async def test_a_database_of_the_version_before_keeps_its_models(
    node_at: Any, serving_at: Any, database_url: str
) -> None:
    before = node_at(database_url)
    async with before.gateway.lifespan():
        await before.directory.put_model("me", "m1", {"name": "m", "vendor": "mock"}, create=True)
        async with before.database.writing() as connection:
            for statement in (
                "DROP TABLE config",
                "ALTER TABLE models DROP COLUMN revision",
                "UPDATE alembic_version_database SET version_num = '0001'",
            ):
                await connection.execute(sql(statement))
        async with before.database.writing() as connection:  # a change that the version before makes
            await connection.execute(sql("UPDATE models SET updated = updated + 1"))
    now = await serving_at(database_url)
    (model,) = await now.directory.models()
    assert model["revision"] == 0
    changed = await now.directory.put_model("me", "m1", {"weight": 2}, create=False, revision=0)
    assert changed["revision"] == 2
    with pytest.raises(Conflict, match="m1: somebody else"):
        await now.directory.delete_model("me", "m1", revision=0)
