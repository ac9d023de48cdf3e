"""The headers of a model's options: a proxy's own key may be one."""

from typing import Any

import pytest
from sqlalchemy import text as sql

from gatehook import InvalidRequest

SECRET = "proxy-key-0123456789"
TABLE = {"name": "m", "vendor": "mock", "options": {"headers": {"x-key": SECRET, "x-ref": "env:NOT_SET"}, "text": "hi"}}
SHOWN = {"headers": {"x-key": "…", "x-ref": "env:NOT_SET"}, "text": "hi"}


async def stored(one: Any) -> str:
    async with one.database.reading() as connection:
        return repr((await connection.execute(sql("SELECT * FROM models"))).all())


async def test_headers_are_sent_but_neither_shown_nor_kept_in_clear(one: Any) -> None:
    table = {**TABLE, "options": {"headers": {"x-key": SECRET}}}
    shown = await one.directory.put_model("me", "m1", table, create=True)
    assert shown["options"] == {"headers": {"x-key": "…"}}
    (target,) = one.gateway.catalog.group("m")
    assert target.options == {"headers": {"x-key": SECRET}}
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


@pytest.mark.parametrize("value", ["…", "two\nlines", "half \ud800 a pair"])
async def test_what_cannot_be_a_header_is_refused(one: Any, value: str) -> None:
    await one.directory.put_model("me", "m1", TABLE, create=True)
    before = await stored(one)
    with pytest.raises(InvalidRequest, match="x-key") as caught:
        await one.directory.put_model("me", "m1", {"options": {"headers": {"x-key": value}}}, create=False)
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
    assert "'other' of the database is left out: a header in its options cannot be decrypted" in caplog.text
