"""What a model's options add to every request: a proxy's own key may be a header, or a value of the query."""

from typing import Any

import pytest
from sqlalchemy import text as sql
from sqlalchemy import update

from gatehook import InvalidRequest
from gatehook_plugins.database.tables import models

SECRET = "proxy-key-0123456789"
QUERY = {"key": SECRET, "ref": "env:NOT_SET", "api-version": "2024-10-21"}
OPTIONS = {"headers": {"x-key": SECRET, "x-ref": "env:NOT_SET"}, "query": QUERY, "text": "hi"}
TABLE = {"name": "m", "vendor": "mock", "options": OPTIONS}
SHOWN = {"headers": {"x-key": "…", "x-ref": "env:NOT_SET"}, "query": {**QUERY, "key": "…"}, "text": "hi"}


async def stored(one: Any) -> str:
    async with one.database.reading() as connection:
        return repr((await connection.execute(sql("SELECT * FROM models"))).all())


@pytest.mark.parametrize("place", ["headers", "query"])
async def test_they_are_sent_but_neither_shown_nor_kept_in_clear(one: Any, place: str) -> None:
    table = {**TABLE, "options": {place: {"x-key": SECRET}}}
    shown = await one.directory.put_model("me", "m1", table, create=True)
    assert shown["options"] == {place: {"x-key": "…"}}
    (target,) = one.gateway.catalog.group("m")
    assert target.options == {place: {"x-key": SECRET}}
    assert SECRET in target.secrets(), "what a vendor says of it is hidden"
    assert SECRET not in await stored(one)


async def test_other_changes_leave_them_as_they_are(one: Any) -> None:
    await one.directory.put_model("me", "m1", TABLE, create=True)
    shown = await one.directory.put_model("me", "m1", {"weight": 2}, create=False)
    assert shown["options"] == SHOWN
    assert [row["options"] for row in await one.directory.models()] == [SHOWN]
    await one.directory.put_model("me", "m1", {"options": {"headers": {"x-key": SECRET}}}, create=False)
    (target,) = one.gateway.catalog.group("m")
    assert target.options["headers"] == {"x-key": SECRET}


async def test_what_an_older_gateway_kept_in_clear_is_used_but_not_shown(one: Any) -> None:
    await one.directory.put_model("me", "m1", {"name": "m", "vendor": "mock"}, create=True)
    async with one.database.writing() as connection:
        old = {"name": "m", "vendor": "mock", "options": {"query": {"key": SECRET}}}
        await connection.execute(update(models).values(settings=old))
    one.directory._is_stale = True
    await one.directory.feed_catalog()
    assert [target.options for target in one.gateway.catalog.group("m")] == [{"query": {"key": SECRET}}]
    assert [row["options"] for row in await one.directory.models()] == [{"query": {"key": "…"}}]


@pytest.mark.parametrize("place", ["headers", "query"])
@pytest.mark.parametrize("value", ["…", "two\nlines", "half \ud800 a pair"])
async def test_what_cannot_be_sent_is_refused(one: Any, place: str, value: str) -> None:
    await one.directory.put_model("me", "m1", TABLE, create=True)
    before = await stored(one)
    with pytest.raises(InvalidRequest, match=rf"options\.{place}\.'x-key'") as caught:
        await one.directory.put_model("me", "m1", {"options": {place: {"x-key": value}}}, create=False)
    assert caught.value.param == "options"
    assert await stored(one) == before


async def test_a_sealed_text_of_another_model_or_secret_is_not_taken(one: Any, caplog: Any) -> None:
    for name in ("mine", "other"):
        await one.directory.put_model("me", name, {**TABLE, "name": name}, create=True)
    async with one.database.writing() as connection:
        await connection.execute(
            sql("UPDATE models SET settings = (SELECT settings FROM models WHERE id = 'mine') WHERE id = 'other'")
        )
    one.directory._is_stale = True
    await one.directory.feed_catalog()
    assert len(one.gateway.catalog.group("mine")) == 1
    assert "'other' of the database is left out: a value in its options cannot be decrypted" in caplog.text
