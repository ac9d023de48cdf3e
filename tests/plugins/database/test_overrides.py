"""What is set of models and deployments in place of their tables."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import Conflict, InvalidRequest, ModelNotFound, Target
from gatehook.accounts import Limits
from gatehook_plugins.database.config import merged
from gatehook_plugins.database.overrides import Overlay
from gatehook_plugins.database.settable import check_override

MODELS = """
[[models]]
name = "m"
vendor = "mock"
priority = 3
fallbacks = ["spare"]
rate_limit = { requests_per_minute = 6, concurrent_requests = 2 }
[[models]]
name = "m"
vendor = "mock"
model = "other"
[[models]]
name = "spare"
vendor = "mock"
[[models]]
name = "a/b"
vendor = "mock"
"""


def group(node: Any, name: str = "m") -> dict[str, Any]:
    return {target.key: target for target in node.gateway.catalog.group(name)}


async def test_what_is_set_of_a_model_holds_for_all_its_deployments(serving_at: Any, database_url: str) -> None:
    one = await serving_at(database_url, more=MODELS)
    await one.directory.put_model("me", "row", {"name": "m", "vendor": "mock", "model": "third"}, create=True)
    plain = group(one)
    changes = {
        "enabled": False,
        "priority": 7,
        "rate_limit": {"requests_per_minute": 60, "tokens_per_minute": 10_000},
        "fallback_models": ["a/b", "spare"],
        "parameters": {"default_temperature": 0.7, "max_tokens": 2000},
    }
    value, revision = await one.directory.put_override("me", "m", changes)
    assert value == changes
    assert one.directory.override("m") == (changes, revision)
    assert list(group(one)) == ["m#1", "m#2", "m#db-row"]
    for target in group(one).values():
        assert target.unavailable == "switched off by an administrator"
        assert (target.priority, target.fallbacks) == (7, ("a/b", "spare"))
        assert (target.rate_limit.requests_per_minute, target.rate_limit.tokens_per_minute) == (60, 10_000)
        assert target.defaults == {"temperature": 0.7, "max_tokens": 2000}
    assert group(one)["m#1"].rate_limit.concurrent_requests == 2
    assert group(one, "spare")["spare#1"].priority == 1
    await one.directory.put_override("me", "m", dict.fromkeys(changes))
    assert group(one) == plain
    assert one.directory.override("m")[0] == {}


async def test_what_is_set_of_one_deployment_goes_before(serving_at: Any, database_url: str) -> None:
    one = await serving_at(database_url, more=MODELS)
    limits = {"requests_per_minute": 5, "tokens_per_minute": 500}
    await one.directory.put_override("me", "m", {"enabled": False, "priority": 7, "rate_limit": limits})
    await one.directory.put_override("me", "m#2", {"enabled": True, "rate_limit": {"tokens_per_minute": 9}})
    first, second = group(one).values()
    assert (bool(first.unavailable), second.unavailable) == (True, "")
    assert (first.priority, second.priority) == (7, 7)
    assert (first.rate_limit, second.rate_limit) == (Limits(5, 500, 2), Limits(5, 9))
    await one.directory.put_override("me", "m", {"rate_limit": {"tokens_per_minute": None}})
    first, second = group(one).values()
    assert (first.rate_limit, second.rate_limit) == (Limits(5, None, 2), Limits(5, 9))


async def test_it_reaches_others_soon_and_outlives_a_restart(serving_at: Any, database_url: str, soon: Any) -> None:
    here, there = await serving_at(database_url, more=MODELS), await serving_at(database_url, more=MODELS)
    await here.directory.put_override("me", "m#1", {"enabled": False})
    assert group(here)["m#1"].unavailable

    async def is_there() -> bool:
        return bool(group(there)["m#1"].unavailable)

    assert await soon(is_there)
    await there.directory.put_override("me", "m#1", {"priority": 5})

    async def has_both() -> bool:
        return group(here)["m#1"].priority == 5 and bool(group(here)["m#1"].unavailable)

    assert await soon(has_both)
    restarted = await serving_at(database_url, more=MODELS)
    assert group(restarted) == group(here)


async def test_a_row_that_changes_keeps_what_is_set_of_it(one: Any, soon: Any) -> None:
    await one.directory.put_model("me", "row", {"name": "r", "vendor": "mock"}, create=True)
    await one.directory.put_override("me", "r#db-row", {"priority": 4})
    await one.directory.put_model("me", "row", {"weight": 3, "priority": 9}, create=False)
    assert [(target.weight, target.priority) for target in group(one, "r").values()] == [(3, 4)]
    await one.directory.put_override("me", "r#db-row", {"priority": None})
    assert [target.priority for target in group(one, "r").values()] == [9]


async def test_of_two_editors_of_one_revision_the_second_is_refused(serving_at: Any, database_url: str) -> None:
    one = await serving_at(database_url, more=MODELS)
    _, revision = await one.directory.put_override("me", "m", {"priority": 2}, revision=0)
    await one.directory.put_override("me", "spare", {"priority": 2}, revision=0)
    with pytest.raises(Conflict, match=f"model:m: .* at revision {revision}"):
        await one.directory.put_override("me", "m", {"priority": 9}, revision=0)
    await one.directory.put_override("me", "m", {"priority": 3}, revision=revision)
    assert group(one)["m#1"].priority == 3
    line = (await one.directory.audit())[0]
    assert (line.action, line.subject, line.detail) == ("config.change", "model:m", {"priority": 3})


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"enabled": 1}, "enabled"),
        ({"enabled": "no"}, "enabled"),
        ({"priority": 1.5}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": 10**7}, "priority"),
        ({"rate_limit": 5}, "rate_limit"),
        ({"rate_limit": {"requests_per_minute": 0}}, "rate_limit.requests_per_minute"),
        ({"rate_limit": {"tokens_per_minute": -1}}, "rate_limit.tokens_per_minute"),
        ({"rate_limit": {"rpm": 1}}, "rate_limit.rpm"),
        ({"fallback_models": "spare"}, "fallback_models"),
        ({"fallback_models": [5]}, "fallback_models[0]"),
        ({"fallback_models": ["spare"] * 101}, "fallback_models"),
        ({"fallback_models": ["nobody"]}, "fallback_models"),
        ({"fallback_models": ["spare", "spare"]}, "fallback_models"),
        ({"fallback_models": ["m"]}, "fallback_models"),
        ({"parameters": []}, "parameters"),
        ({"parameters": {"default_temperature": 2.1}}, "parameters.default_temperature"),
        ({"parameters": {"default_temperature": float("nan")}}, "parameters.default_temperature"),
        ({"parameters": {"default_temperature": -1}}, "parameters.default_temperature"),
        ({"parameters": {"max_tokens": 0}}, "parameters.max_tokens"),
        ({"parameters": {"max_tokens": 2.0}}, "parameters.max_tokens"),
        ({"parameters": {"temperature": 1}}, "parameters.temperature"),
        ({"prioriy": 1}, "prioriy"),
        ({"weight": 1}, "weight"),
        ("everything", "the body"),
    ],
)
async def test_what_cannot_be_is_refused_by_name_and_nothing_changes(
    serving_at: Any, tmp_path: Path, changes: Any, param: str
) -> None:
    one = await serving_at(f"sqlite:///{tmp_path / 'a.db'}", more=MODELS)
    before = group(one)
    if isinstance(changes, dict):
        changes = {"priority": 9, **changes}
    with pytest.raises(InvalidRequest) as caught:
        await one.directory.put_override("me", "m", changes)
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")
    assert group(one) == before
    assert await one.directory.audit() == []


async def test_models_that_there_are_not_are_not_found(serving_at: Any, tmp_path: Path) -> None:
    one = await serving_at(f"sqlite:///{tmp_path / 'a.db'}", more=MODELS)
    for name in ("n", "m#3", "", "x" * 500, "nul\0", "\ud800"):
        with pytest.raises(ModelNotFound, match="no model or deployment"):
            await one.directory.put_override("me", name, {"priority": 1})
    assert await one.directory.audit() == []


async def test_fallbacks_follow_the_chain_that_calls_would(serving_at: Any, database_url: str) -> None:
    one = await serving_at(database_url, more=MODELS)
    put = one.directory.put_override
    with pytest.raises(InvalidRequest, match="circle: spare → m → spare"):
        await put("me", "spare", {"fallback_models": ["m"]})
    with pytest.raises(InvalidRequest, match="no model is named 'sprae'; did you mean 'spare'"):
        await put("me", "a/b", {"fallback_models": ["sprae"]})
    await put("me", "a/b", {"fallback_models": ["m"]})
    with pytest.raises(InvalidRequest, match="circle: spare → a/b → m → spare"):
        await put("me", "spare#1", {"fallback_models": ["a/b"]})
    await put("me", "m", {"fallback_models": []})
    await put("me", "spare", {"fallback_models": ["m"]})
    with pytest.raises(InvalidRequest, match="circle: m → spare → m"):
        await put("me", "m", {"fallback_models": None})
    assert group(one)["m#1"].fallbacks == ()


async def test_rows_are_checked_against_what_is_set(serving_at: Any, database_url: str) -> None:
    one = await serving_at(database_url, more=MODELS)
    await one.directory.put_model("me", "r", {"name": "r", "vendor": "mock"}, create=True)
    await one.directory.put_override("me", "a/b", {"fallback_models": ["r"]})
    with pytest.raises(InvalidRequest, match="circle: r → a/b → r"):
        await one.directory.put_model("me", "r", {"fallbacks": ["a/b"]}, create=False)
    await one.directory.put_override("me", "a/b", {"fallback_models": None})
    await one.directory.put_model("me", "r", {"fallbacks": ["a/b"]}, create=False)


async def test_what_is_set_of_a_model_that_is_gone_waits_and_is_told_once(
    serving_at: Any, database_url: str, caplog: Any
) -> None:
    one = await serving_at(database_url, more=MODELS)
    await one.directory.put_override("me", "a/b", {"priority": 8})
    await one.directory.put_override("me", "m", {"priority": 8})
    await one.directory.put_model("me", "row", {"name": "r", "vendor": "mock"}, create=True)
    await one.directory.put_override("me", "r", {"priority": 8})
    caplog.clear()
    restarted = await serving_at(database_url, more=MODELS.replace('"a/b"', '"c"'))
    assert group(restarted)["m#1"].priority == 8
    assert group(restarted, "r")["r#db-row"].priority == 8
    await restarted.directory.delete_model("me", "row")
    for _ in range(3):
        await restarted.directory._feed.look()
    told = [record.getMessage() for record in caplog.records if "waits" in record.getMessage()]
    words = "no model or deployment is named {!r} now; what an administrator has set of it waits"
    assert told[0] == words.format("a/b")
    assert set(told[1:]) == {words.format("r")}
    await restarted.directory.put_model("me", "new", {"name": "r", "vendor": "mock"}, create=True)
    assert group(restarted, "r")["r#db-new"].priority == 8


async def test_what_another_version_has_set_and_this_one_does_not_know_is_told_and_passed_over(
    serving_at: Any, tmp_path: Path, caplog: Any
) -> None:
    one = await serving_at(f"sqlite:///{tmp_path / 'a.db'}", more=MODELS)
    await one.directory.put_config("me", "model:m", {"priority": 8, "colour": "blue"})
    await one.directory.put_config("me", "model:spare", {"priority": 8})
    for _ in range(3):
        await one.directory._feed.look()
    assert group(one)["m#1"].priority == 3
    assert group(one, "spare")["spare#1"].priority == 8
    (told,) = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
    assert told.startswith("what is set of the model 'm' is passed over: colour: unknown key; there are: enabled, ")
    assert (await one.directory.put_override("me", "m", {"enabled": False}))[0] == {"enabled": False}
    assert group(one)["m#1"].unavailable
    await one.directory.put_config("me", "model:spare", {"fallback_models": 5})
    await one.directory.put_override("me", "a/b", {"fallback_models": ["spare"]})


ALIASED = """
[[models]]
name = "m"
vendor = "mock"
aliases = ["other-m"]
[[models]]
name = "spare"
vendor = "mock"
[[models]]
name = "wild/*"
vendor = "mock"
model = "*"
"""


async def test_aliases_and_what_wildcards_serve_are_configured_where_they_belong(
    serving_at: Any, tmp_path: Path
) -> None:
    one = await serving_at(f"sqlite:///{tmp_path / 'a.db'}", more=ALIASED)
    for name, served in (("other-m", "m"), ("wild/x", "wild/\\*")):
        with pytest.raises(ModelNotFound, match=f"calls for that name are served by '{served}'"):
            await one.directory.put_override("me", name, {"priority": 4})
    await one.directory.put_override("me", "m", {"priority": 4})
    await one.directory.put_override("me", "wild/*", {"priority": 5, "fallback_models": ["wild/small"]})
    assert [target.priority for target in group(one, "other-m").values()] == [4]
    assert [(target.priority, target.fallbacks) for target in group(one, "wild/x").values()] == [(5, ("wild/small",))]
    await one.directory.put_override("me", "spare", {"fallback_models": ["other-m", "wild/x"]})
    with pytest.raises(InvalidRequest, match="circle: m → spare → m"):
        await one.directory.put_override("me", "m", {"fallback_models": ["spare"]})
    await one.directory.put_model("me", "row", {"name": "r", "vendor": "mock", "fallbacks": ["wild/x"]}, create=True)


NAMES = st.sampled_from(
    ["enabled", "priority", "rate_limit", "fallback_models", "parameters", "requests_per_minute", "tokens_per_minute",
     "default_temperature", "max_tokens", "other"]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers(-2, 10**16) | st.floats() | st.sampled_from(["", "spare", "\0"])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner), max_leaves=6)


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.dictionaries(NAMES, VALUES, max_size=4))
def test_whatever_is_asked_is_refused_or_can_be_laid_over_a_deployment(of_model: Any, of_one: Any) -> None:
    target = Target("m#1", "m", "mock", "m", rate_limit=Limits(5), fallbacks=("a",))
    with contextlib.suppress(InvalidRequest):
        check_override(of_model)
        check_override(of_one)
        overlay = Overlay({"m": merged({}, of_model), "m#1": merged({}, of_one)})
        now = overlay(target)
        assert overlay.beneath(now) == target
        assert isinstance(now.priority, int)
        assert all(isinstance(name, str) for name in now.fallbacks)
        assert all(
            limit is None or limit > 0
            for limit in (now.rate_limit.requests_per_minute, now.rate_limit.tokens_per_minute)
        )
        assert 0 <= now.defaults.get("temperature", 0) <= 2
