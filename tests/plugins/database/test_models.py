"""Models as rows: checked on writing, and deployments in every process soon after."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text as sql

from gatehook import InvalidRequest, NotFound
from gatehook.errors import Conflict
from gatehook_plugins.database.fallbacks import circle

VENDOR_KEY = "sk-vendor-0123456789abcdef"
SETTLED = """
[[models]]
name = "settled"
vendor = "mock"
fallbacks = ["spare"]
[[models]]
name = "spare"
vendor = "mock"
"""


def targets(node: Any, name: str) -> Any:
    return [(target.key, target.model, target.secret()) for target in node.gateway.catalog.group(name)]


async def test_a_model_is_a_deployment_at_once_here_and_soon_elsewhere(two: Any, soon: Any) -> None:
    here, there = two
    table = {
        "name": "gpt-4o",
        "vendor": "Mock",
        "model": "up",
        "api_key": VENDOR_KEY,
        "pricing": {"input_per_1k_tokens": 0.0025, "output_per_1k_tokens": "0.01"},
        "rate_limit": {"requests_per_minute": 6},
    }
    shown = await here.directory.put_model("me", "m1", table, create=True)
    named = {name: value for name, value in table.items() if name != "api_key"}
    assert shown == {"id": "m1", "has_api_key": True, "revision": 1} | named
    assert targets(here, "gpt-4o") == [("gpt-4o#db-m1", "up", VENDOR_KEY)]
    (target,) = here.gateway.catalog.group("gpt-4o")
    assert (target.vendor, target.rate_limit.requests_per_minute) == ("mock", 6)
    assert (target.pricing.input, target.pricing.output) == (2_500_000, 10_000_000)

    async def is_there() -> bool:
        return bool(targets(there, "gpt-4o") == targets(here, "gpt-4o"))

    assert await soon(is_there)
    await here.directory.put_model("me", "m1", {"enabled": False}, create=False)

    async def is_gone() -> bool:
        return not targets(there, "gpt-4o")

    assert await soon(is_gone)


async def test_a_restart_finds_the_models_again(serving_at: Any, node_at: Any, database_url: str) -> None:
    async with node_at(database_url).gateway.lifespan():
        pass
    first = node_at(database_url)
    async with first.gateway.lifespan():
        await first.directory.put_model("me", "m1", {"name": "m", "vendor": "mock", "api_key": VENDOR_KEY}, create=True)
    assert targets(await serving_at(database_url), "m") == [("m#db-m1", "m", VENDOR_KEY)]


async def test_a_change_touches_only_what_it_names_and_none_takes_out(one: Any) -> None:
    directory = one.directory
    await directory.put_model("me", "m1", {"name": "m", "vendor": "mock", "api_key": "k", "priority": 2}, create=True)
    shown = await directory.put_model("me", "m1", {"weight": 3, "priority": None}, create=False)
    assert shown == {"id": "m1", "name": "m", "vendor": "mock", "weight": 3, "has_api_key": True, "revision": 2}
    assert [dict(model) for model in await directory.models()] == [shown]
    (target,) = one.gateway.catalog.group("m")
    assert (target.priority, target.weight, target.secret()) == (1, 3.0, "k")
    shown = await directory.put_model("me", "m1", {"api_key": None}, create=False)
    assert not shown["has_api_key"]
    assert one.gateway.catalog.group("m")[0].api_key is None
    await directory.delete_model("me", "m1")
    assert not one.gateway.catalog.group("m")
    assert await directory.models() == []


async def test_there_is_one_or_there_is_none(one: Any) -> None:
    table = {"name": "m", "vendor": "mock"}
    await one.directory.put_model("me", "m1", table, create=True)
    with pytest.raises(Conflict, match="'m1' already"):
        await one.directory.put_model("me", "m1", table, create=True)
    with pytest.raises(NotFound, match="no model 'm2'"):
        await one.directory.put_model("me", "m2", table, create=False)
    with pytest.raises(NotFound, match="no model 'm2'"):
        await one.directory.delete_model("me", "m2")
    assert len(await one.directory.audit()) == 1


@pytest.mark.parametrize(
    ("table", "param"),
    [
        ({"vendor": "mock"}, "name"),
        ({"name": "", "vendor": "mock"}, "name"),
        ({"name": 5, "vendor": "mock"}, "name"),
        ({"wieght": 1}, "wieght"),
        ({"_env_file": "/etc/passwd"}, "_env_file"),
        ({"limits": {"_env_file": "/etc/passwd"}}, "limits._env_file"),
        ({"limits": {"max_tokens": -1}}, "limits.max_tokens"),
        ({"limits": {"other": 1}}, "limits.other"),
        ({"pricing": {"input_per_1k_tokens": -1, "output_per_1k_tokens": 1}}, "pricing.input_per_1k_tokens"),
        ({"timeout": float("inf")}, None),
        ({"weight": "heavy"}, "weight"),
        ({"weight": True}, "weight"),
        ({"rate_limit": {"requests_per_minute": True}}, "rate_limit.requests_per_minute"),
        ({"base_url": "https://user:hunter2@host"}, "base_url"),
        ({"api_key": 5}, "api_key"),
        ({"api_key": "two\nlines"}, "api_key"),
        ({"options": {"a": {1, 2}}}, None),
        ({"options": {"a": "x" * 70_000}}, None),
        ({"fallbacks": ["nobody"]}, "fallbacks"),
        ({"fallbacks": ["m"]}, "fallbacks"),
        ({"id": "x"}, "id"),
    ],
)
async def test_what_cannot_be_is_refused_by_name_and_nothing_is_written(
    serving_at: Any, tmp_path: Path, table: Any, param: str
) -> None:
    one = await serving_at(f"sqlite:///{tmp_path / 'a.db'}")
    whole = table if "vendor" in table else {"name": "m", "vendor": "mock", **table}
    with pytest.raises(InvalidRequest) as caught:
        await one.directory.put_model("me", "m1", whole, create=True)
    assert caught.value.param == param
    assert "hunter2" not in caught.value.message
    assert await one.directory.models() == []
    assert await one.directory.audit() == []


async def test_an_unknown_key_tells_the_nearest(one: Any) -> None:
    with pytest.raises(InvalidRequest, match="wieght: unknown key; did you mean 'weight'"):
        await one.directory.put_model("me", "m1", {"wieght": 1}, create=True)


async def test_fallbacks_go_to_known_models_and_never_in_acircle(serving_at: Any, database_url: str) -> None:
    one = await serving_at(database_url, more=SETTLED)
    put = one.directory.put_model
    await put("me", "a", {"name": "a", "vendor": "mock", "fallbacks": ["settled"]}, create=True)
    await put("me", "b", {"name": "b", "vendor": "mock", "fallbacks": ["a"]}, create=True)
    with pytest.raises(InvalidRequest, match="goes round in a circle: a → b → a"):
        await put("me", "a", {"fallbacks": ["settled", "b"]}, create=False)
    with pytest.raises(InvalidRequest, match="circle: spare → settled → spare"):
        await put("me", "c", {"name": "spare", "vendor": "mock", "fallbacks": ["settled"]}, create=True)
    with pytest.raises(InvalidRequest, match="no model is named 'setled'; did you mean 'settled'"):
        await put("me", "a", {"fallbacks": ["setled"]}, create=False)
    await put("me", "c", {"name": "settled", "vendor": "mock"}, create=True)
    assert [target.key for target in one.gateway.catalog.group("settled")] == ["settled#1", "settled#db-c"]


def test_a_chain_of_thousands_of_fallbacks_is_followed() -> None:
    after = {str(n): [str(n + 1)] for n in range(5000)}
    assert circle("0", after) == []
    assert len(circle("0", after | {"5000": ["0"]})) == 5002


async def test_references_are_looked_up_where_the_gateway_runs(one: Any) -> None:
    file = one.gateway.settings.path.with_name("vendor.key")
    file.parent.mkdir(exist_ok=True)
    file.write_text(VENDOR_KEY)
    table = {"name": "m", "vendor": "mock", "api_key": "file:vendor.key", "options": {"a": ["file:vendor.key"]}}
    await one.directory.put_model("me", "m1", table, create=True)
    (target,) = one.gateway.catalog.group("m")
    assert (target.secret(), target.options, target.hidden) == (VENDOR_KEY, {"a": [VENDOR_KEY]}, (VENDOR_KEY,))
    file.unlink()
    await one.directory.put_model("me", "m1", {"weight": 2}, create=False)
    (target,) = one.gateway.catalog.group("m")
    assert target.unavailable.startswith("its api_key refers to the file vendor.key, which cannot be read")


async def test_a_row_that_is_no_longer_sound_is_told_once_and_left_out(one: Any, caplog: Any) -> None:
    for name in ("good", "bad", "foul"):
        await one.directory.put_model("me", name, {"name": name, "vendor": "mock", "api_key": VENDOR_KEY}, create=True)
    async with one.database.writing() as connection:
        await connection.execute(sql("""UPDATE models SET settings = '{"name": "bad"}' WHERE id = 'bad'"""))
        await connection.execute(sql("UPDATE models SET api_key = 'AAAA' WHERE id = 'foul'"))
    for _ in range(2):
        one.directory._is_stale = True
        await one.directory.feed_catalog()
    assert list(one.gateway.catalog.groups()) == ["good"]
    told = sorted(record.getMessage() for record in caplog.records)
    assert told == [
        "the model 'bad' of the database is left out: vendor: Field required",
        "the model 'foul' of the database is left out: its api_key cannot be decrypted",
    ]


async def test_a_catalog_that_fails_takes_no_keys_along(one: Any, caplog: Any, soon: Any) -> None:
    def fails() -> None:
        raise ZeroDivisionError

    one.gateway.catalog.subscribe(fails)
    await one.directory.put_model("me", "m1", {"name": "m", "vendor": "mock"}, create=True)
    await one.directory._feed.look()
    assert not one.directory._memory.is_away
    assert caplog.text.count("the models of the database cannot be served") <= 2
