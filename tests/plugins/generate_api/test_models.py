"""Models listed, loaded and unloaded, and the gateway's health: remote ones, and those of this machine."""

import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as read_text

from gatehook_plugins.generate_api.sizes import memory_of_machine, memory_of_process, shown

Api = Callable[..., AbstractAsyncContextManager[Any]]

REMOTE = '[[models]]\nname = "r"\nvendor = "mock"\n'
LOCAL = '[[models]]\nname = "m"\nvendor = "mock"\naliases = ["alias"]\n'
ADMIN = '[plugins.auth_keys]\nkeys = ["sk-0123456789abcdef"]\nadmin_keys = ["sk-admin-0123456789abcdef"]\n'
AS_ADMIN = {"Authorization": "Bearer sk-admin-0123456789abcdef"}


def test_sizes_are_as_people_read_them() -> None:
    assert [shown(one) for one in (0, 1023, 1024, 4_509_715_660, 2 << 30, 3 << 50)] == [
        "0B", "1023B", "1.0KB", "4.2GB", "2.0GB", "3072.0TB",
    ]  # fmt: skip
    assert (memory_of_process() or 0) > 1 << 20
    assert (memory_of_machine() or 0) > (memory_of_process() or 0)
    assert os.sysconf("SC_PAGE_SIZE")


async def test_remote_models_are_always_loaded_and_have_no_size(api: Api) -> None:
    async with api(REMOTE) as ask:
        known = {"name": "r", "format": None, "size": None, "loaded": True, "memory_usage": None}
        assert (await ask("GET", "/models")).json == {"models": [known]}
        assert (await ask("POST", "/models/r/load")).json == known
        assert (await ask("POST", "/models/r/load", {"prefer_gpu": True})).json == known
        (await ask("POST", "/models/r/load", {"quantization": "q4_0"})).error(400, "INVALID_REQUEST")
        (await ask("POST", "/models/r/unload")).error(400, "INVALID_REQUEST")
        (await ask("POST", "/models/none/load")).error(404, "MODEL_NOT_FOUND")
        health = (await ask("GET", "/health")).json
        assert set(health) == {"status", "model_loaded", "memory_usage", "active_connections"}
        assert health["model_loaded"] is True
        assert health["active_connections"] == 0


async def test_local_models_are_loaded_in_a_quantization_and_unloaded(api: Api, shelf: Any) -> None:
    async with api(LOCAL + REMOTE, local=True) as ask:
        listed = {one["name"]: one for one in (await ask("GET", "/models")).json["models"]}
        assert listed["m"]["format"] == "gguf"
        assert listed["m"]["size"] == "4.2GB"
        assert (listed["m"]["loaded"], listed["m"]["memory_usage"]) == (False, None)
        assert (await ask("GET", "/health")).json["model_loaded"] is False
        loaded = await ask("POST", "/models/alias/load", {"quantization": "q4_0", "prefer_gpu": False})
        assert (loaded.json["loaded"], loaded.json["memory_usage"]) == (True, "2.0GB")
        assert shelf.calls == [("m", "q4_0", False)]
        health = (await ask("GET", "/health")).json
        assert (health["model_loaded"], health["memory_usage"]) == (True, "2.0GB/8.0GB")
        error = (await ask("POST", "/models/m/load", {"quantization": "q9"})).error(400, "INVALID_REQUEST")
        assert error["details"]["param"] == "quantization"
        assert (await ask("POST", "/models/m/unload")).json["loaded"] is False


async def test_an_alias_of_a_local_model_is_as_much_on_this_machine(api: Api, shelf: Any) -> None:
    async with api(LOCAL + REMOTE, local=True) as ask:
        for loaded in (False, True):
            listed = {one.pop("name"): one for one in (await ask("GET", "/models")).json["models"]}
            assert listed["alias"] == listed["m"]
            assert (listed["alias"]["format"], listed["alias"]["loaded"]) == ("gguf", loaded)
            await ask("POST", "/models/m/load")


@pytest.mark.parametrize(
    "body", [b"{", {"quantization": 4}, {"quantization": ""}, {"quant": "q4_0"}, {"prefer_gpu": 1}]
)
async def test_a_load_that_is_wrong_is_refused(api: Api, shelf: Any, body: Any) -> None:
    async with api(LOCAL, local=True) as ask:
        (await ask("POST", "/models/m/load", body)).error(400, "INVALID_REQUEST")
        assert shelf.calls == []


async def test_only_an_admin_loads_and_unloads(api: Api) -> None:
    async with api(LOCAL, local=True, more=ADMIN) as ask:
        for what in ("load", "unload"):
            (await ask("POST", f"/models/m/{what}")).error(401, "UNAUTHORIZED")
            user = await ask("POST", f"/models/m/{what}", Authorization="Bearer sk-0123456789abcdef")
            user.error(403, "FORBIDDEN")
            assert (await ask("POST", f"/models/m/{what}", **AS_ADMIN)).status == 200


async def test_the_metrics_are_those_of_metrics_with_the_promised_names(api: Api) -> None:
    async with api(REMOTE) as ask:
        await ask("POST", "/generate", {"prompt": "x"})
        page = (await ask("GET", "//metrics")).body.decode()
        found = {family.name: family for family in read_text(page)}
        assert found["model_inference_seconds"].type == "histogram"
        assert {one.labels["model"] for one in found["model_inference_seconds"].samples} == {"r"}
        assert found["active_connections"].type == "gauge"
        assert found["active_connections"].samples[0].value == 0
        assert {"gateway_requests", "model_inference_seconds"} <= set(found)
        own = {family.name for family in read_text((await ask("GET", "/metrics")).body.decode())}
        assert own == set(found)


async def test_an_engine_that_no_plugin_provides_is_not_ready(api: Api) -> None:
    async with api(REMOTE + '[[models]]\nname = "w"\nvendor = "nowhere"\n') as ask:
        assert (await ask("POST", "/generate", {"prompt": "x", "model": "w"})).status == 400
        status = (await ask("GET", "//v1/system/status")).json
    assert {name: engine["status"] for name, engine in status["engines"].items()} == {
        "mock": "ready",
        "nowhere": "unavailable",
    }
    assert [model["status"] for model in status["models"]] == ["loaded", "unavailable"]
    assert status["loaded_models"] == 1


async def test_a_model_that_no_plugin_provides_is_neither_listed_nor_the_default(api: Api) -> None:
    async with api('[[models]]\nname = "w"\nvendor = "nowhere"\n' + REMOTE) as ask:
        assert [one["name"] for one in (await ask("GET", "/models")).json["models"]] == ["r"]
        assert (await ask("POST", "/generate", {"prompt": "x"})).status == 200


async def test_the_systems_status_tells_of_every_model_and_engine(api: Api, shelf: Any) -> None:
    async with api(LOCAL + REMOTE, local=True) as ask:
        await ask("POST", "/models/m/load")
        status = (await ask("GET", "//v1/system/status")).json
        assert status == {
            "initialized": True,
            "total_engines": 2,
            "registered_models": 2,
            "loaded_models": 2,
            "max_concurrent_models": 3,
            "models": [
                {
                    "name": "m",
                    "engine_type": "gguf",
                    "status": "loaded",
                    "loaded_at": "2023-11-14T22:13:20Z",
                    "memory_usage": 2 << 30,
                    "context_length": 8192,
                },
                {
                    "name": "r",
                    "engine_type": "mock",
                    "status": "loaded",
                    "loaded_at": None,
                    "memory_usage": None,
                    "context_length": None,
                },
            ],
            "engines": {
                "mock": {"status": "ready", "memory_usage": None},
                "gguf": {"status": "ready", "memory_usage": 2 << 30},
            },
        }
        health = (await ask("GET", "//health")).json
        assert health["engines"] == {"gguf": {"status": "ready", "loaded_models": 1}}
        shelf.away = True
        assert (await ask("GET", "//v1/system/status")).json["engines"]["gguf"]["status"] == "unavailable"
        health = (await ask("GET", "//health")).json
        assert health["engines"]["gguf"]["status"] == "unavailable"
        assert len(health["issues"]) == 1
    async with api(REMOTE) as ask:
        assert (await ask("GET", "//v1/system/status")).json["max_concurrent_models"] is None
