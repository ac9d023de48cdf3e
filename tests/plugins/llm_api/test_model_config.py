"""GET and PUT /config/models/{id}: what an administrator sets of a model while it is served, on both databases."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gatehook import DIRECTORY

USER = "ordinary-key-0123456789abcdef"
MOUNTS = ("/api/llm", "/api/v1/llm")
NULL_LIMIT = {"requests_per_minute": None, "tokens_per_minute": None}
NULL_PARAMETERS = {"default_temperature": None, "max_tokens": None}
FIRST = {"enabled": True, "priority": 2, "rate_limit": {"requests_per_minute": 60, "tokens_per_minute": None},
         "fallback_models": ["spare"], "parameters": NULL_PARAMETERS}  # fmt: skip
SECOND = {"enabled": True, "priority": 1, "rate_limit": NULL_LIMIT, "fallback_models": [],
          "parameters": NULL_PARAMETERS}  # fmt: skip


async def until(question: Callable[[], Any], wanted: Any) -> None:
    """Return as soon as the answer is the one wanted; it must be within a second.

    A second is a hundred questions: those in which a busy machine does something else are none.
    """
    for _ in range(100):
        if await question() == wanted:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("another gateway never learnt of it")


async def test_a_model_is_shown_as_it_holds_and_so_is_a_deployment(admin: Any) -> None:
    for mount in MOUNTS:
        answer = await admin.get("models/m", mount=mount)
        assert answer.json == {
            "model_id": "m",
            **SECOND,
            "deployments": [{"id": "m#1", **FIRST}, {"id": "m#2", **SECOND}],
        }
        assert answer.headers["ETag"] == '"0"'
        assert (await admin.get("models/m%231", mount=mount)).json == {"model_id": "m#1", **FIRST}
        assert (await admin.get("models/org/deep", mount=mount)).json["model_id"] == "org/deep"


async def test_the_contracts_own_change_of_a_model_holds_at_once(admin: Any) -> None:
    asked = {"enabled": True, "priority": 3, "rate_limit": {"requests_per_minute": 5, "tokens_per_minute": 10_000},
             "fallback_models": ["spare"], "parameters": {"default_temperature": 0.7, "max_tokens": 2000}}  # fmt: skip
    answer = await admin.put("models/m", asked)
    assert answer.status == 200
    assert answer.json == {"model_id": "m", **asked, "deployments": [{"id": "m#1", **asked}, {"id": "m#2", **asked}]}
    assert (await admin.get("models/m")).json == answer.json
    assert (await admin.audit())[0][1:] == ("config.change", "model:m", asked)
    answer = await admin.put("models/m%232", {"enabled": False, "rate_limit": {"tokens_per_minute": None}})
    assert (answer.json["enabled"], answer.json["rate_limit"]) == (False, asked["rate_limit"])
    model = (await admin.get("models/m")).json
    assert (model["enabled"], [one["enabled"] for one in model["deployments"]]) == (True, [True, False])
    taken_back = await admin.put("models/m", dict.fromkeys(asked))
    assert taken_back.json["deployments"] == [{"id": "m#1", **FIRST}, {"id": "m#2", **SECOND, "enabled": False}]


async def test_a_model_that_is_switched_off_is_not_called_and_its_fallback_is(admin: Any) -> None:
    gateway = admin.gateway
    assert (await gateway.ask(model="spare", key=USER)).status == 200
    await admin.put("models/spare", {"enabled": False})
    assert (await admin.get("models/spare")).json["enabled"] is False
    error = (await gateway.ask(model="spare", key=USER)).error(503, "MODEL_UNAVAILABLE")
    assert error["message"] == "the model 'spare' is switched off by an administrator"
    assert (error["details"]["reason"], error["details"]["model"]) == ("model_disabled", "spare")
    assert (await gateway.get("/api/llm/models/spare/status", key=USER)).json["status"] == "unavailable"
    await admin.put("models/m", {"enabled": False, "fallback_models": ["org/deep"]})
    assert (await gateway.ask(model="m", key=USER)).status == 200
    await admin.put("models/spare", {"enabled": None})
    assert (await gateway.ask(model="spare", key=USER)).status == 200


async def test_a_rate_limit_of_a_model_holds_for_the_next_call(opened: Callable[..., Any], models: str) -> None:
    async with opened(models + "[plugins.rate_limit]\n") as admin:
        assert [(await admin.gateway.ask(model="spare", key=USER)).status for _ in range(3)] == [200] * 3
        await admin.put("models/spare", {"rate_limit": {"requests_per_minute": 1}})
        assert [(await admin.gateway.ask(model="spare", key=USER)).status for _ in range(3)] == [200, 429, 429]
        await admin.put("models/spare", {"rate_limit": None})
        assert (await admin.gateway.ask(model="spare", key=USER)).status == 200


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"priority": "high"}, "priority"),
        ({"rate_limit": {"requests_per_minute": 0}}, "rate_limit.requests_per_minute"),
        ({"parameters": {"default_temperature": 3}}, "parameters.default_temperature"),
        ({"fallback_models": ["nobody"]}, "fallback_models"),
        ({"fallbacks": ["spare"]}, "fallbacks"),
    ],
)
async def test_a_change_of_a_model_that_cannot_be_changes_nothing(
    opened_on_sqlite: Callable[..., Any], asked: dict[str, Any], param: str
) -> None:
    async with opened_on_sqlite() as admin:
        before = await admin.get("models/m")
        answer = await admin.put("models/m", {"enabled": False, **asked})
        assert answer.error(400, "INVALID_REQUEST")["message"].startswith(f"{param}: ")
        assert (await admin.get("models/m")).json == before.json
        assert await admin.audit() == []


async def test_a_circle_of_fallbacks_is_spelled(admin: Any) -> None:
    error = (await admin.put("models/spare", {"fallback_models": ["m"]})).error(400, "INVALID_REQUEST")
    assert error["message"] == "fallback_models: goes round in a circle: spare → m → spare"


async def test_a_model_that_there_is_not_is_not_found(admin: Any) -> None:
    for path in ("models/nobody", "models/m%239", "models/m%00"):
        for answer in (await admin.get(path), await admin.put(path, {"priority": 1})):
            error = answer.error(404, "MODEL_NOT_FOUND")
            assert error["details"]["model"]
    assert await admin.audit() == []


async def test_a_name_that_is_not_a_models_own_tells_whose_it_is(
    opened_on_sqlite: Callable[..., Any], models: str
) -> None:
    models = models.replace("[[models]]", '[[models]]\naliases = ["other"]', 1)
    models += '[[models]]\nname = "wild/*"\nvendor = "mock"\nmodel = "*"\n'
    async with opened_on_sqlite(models) as admin:
        for path, name in (("models/other", "m"), ("models/wild/x", "wild/*")):
            for answer in (await admin.get(path), await admin.put(path, {"priority": 1})):
                assert f"are served by {name!r}; configure that" in answer.error(400, "INVALID_REQUEST")["message"]
        assert (await admin.put("models/wild/*", {"priority": 9})).json["priority"] == 9


async def test_a_model_of_the_database_is_configured_like_any_other(opened: Callable[..., Any]) -> None:
    async with opened() as admin:
        directory = admin.gateway.gateway.services[DIRECTORY]
        await directory.put_model("me", "row", {"name": "r", "vendor": "mock"}, create=True)
        assert (await admin.put("models/r", {"priority": 6})).json["priority"] == 6
        assert (await admin.put("models/r%23db-row", {"enabled": False})).json["enabled"] is False
    async with opened() as admin:
        config = (await admin.get("models/r")).json
        assert (config["enabled"], config["priority"]) == (False, 6)


async def test_a_change_here_is_served_there_within_a_second(opened: Callable[..., Any]) -> None:
    async with opened() as here, opened() as there:

        async def status() -> int:
            return int((await there.gateway.ask(model="spare", key=USER)).status)

        assert await status() == 200
        off = await here.put("models/spare", {"enabled": False})
        await until(lambda: _is_off(there), True)
        assert await status() != 200
        assert (await there.get("models/spare")).headers["ETag"] == off.headers["ETag"]
        await there.put("models/spare", {"enabled": True}, If_Match=off.headers["ETag"])
        assert await status() == 200


async def _is_off(admin: Any) -> bool:
    return not (await admin.get("models/spare")).json["enabled"]
