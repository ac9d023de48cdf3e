"""How long a model's name may be is the same wherever it is written: in requests, in the settings, in the database."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientSession

from gatehook import LONGEST_MODEL_NAME, StartupError
from gatehook.testing import built, serving

ADMIN = "admin-key-0123456789abcdef"
LONGEST, LONGER = "n" * LONGEST_MODEL_NAME, "n" * (LONGEST_MODEL_NAME + 1)
SETTINGS = """
[database]
url = "{url}"
secret = "a secret of more than thirty-two letters, for tests"
[plugins.database]
[plugins.auth_keys]
admin_keys = ["{admin}"]
[plugins.ledger]
directory = "{folder}"
[plugins.admin_api]
[plugins.openai_api]
[plugins.images_api]
[plugins.responses_api]
[plugins.generate_api]
[plugins.llm_api]
[plugins.route_models]
[plugins.vendor_mock]
[[models]]
name = "{name}"
aliases = ["{alias}"]
vendor = "mock"
"""
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
REQUESTS = [
    ("/v1/chat/completions", CHAT),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/embeddings", {"input": "hi"}),
    ("/v1/images/generations", {"prompt": "hi"}),
    ("/api/v1/generate", {"prompt": "hi"}),
    ("/api/llm/generate", CHAT),
]


@dataclass
class Admin:
    """An administrator, and what is answered."""

    url: str
    http: ClientSession

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {ADMIN}"}
        async with self.http.request(method, self.url + path, json=body, headers=headers) as answer:
            return answer.status, json.loads(await answer.read())


@pytest.fixture
async def admin(database_url: str, tmp_path: Any) -> AsyncIterator[Admin]:
    alias = "a" * LONGEST_MODEL_NAME
    text = SETTINGS.format(url=database_url, admin=ADMIN, folder=tmp_path / "journal", name=LONGEST, alias=alias)
    async with serving(text) as served, ClientSession() as http:
        yield Admin(served.url, http)


async def test_requests_of_every_dialect_take_the_longest_and_no_longer_one(admin: Admin) -> None:
    for path, body in REQUESTS:
        assert (await admin.ask("POST", path, {**body, "model": LONGEST}))[0] == 200, path
        status, said = await admin.ask("POST", path, {**body, "model": LONGER})
        assert status == 400, path
        assert str(LONGEST_MODEL_NAME) in str(said), path
    assert (await admin.ask("POST", REQUESTS[0][0], {**CHAT, "model": "a" * LONGEST_MODEL_NAME}))[0] == 200
    for path in ("/admin/usage", "/api/llm/stats/usage"):
        _, used = await admin.ask("GET", f"{path}?model={LONGEST}")
        assert list(used["by_model"]) == [LONGEST], path
        assert (await admin.ask("GET", f"{path}?model={LONGER}"))[0] == 400


async def test_a_model_of_the_database_may_have_one_as_its_id_and_be_configured_by_it(admin: Admin) -> None:
    name, row = "d" * LONGEST_MODEL_NAME, "r" * LONGEST_MODEL_NAME
    for model_id, table in ((LONGER, {}), ("short", {"name": LONGER}), ("short", {"aliases": [LONGER]})):
        status, said = await admin.ask("POST", "/admin/models", {"model_id": model_id, "vendor": "mock", **table})
        assert (status, str(LONGEST_MODEL_NAME) in said["error"]["message"]) == (400, True), said
    assert (await admin.ask("POST", "/admin/models", {"model_id": row, "name": name, "vendor": "mock"}))[0] == 201
    assert (await admin.ask("GET", f"/admin/models/{row}"))[0] == 200
    for place in (name, f"{name}#db-{row}", LONGEST, f"{LONGEST}#1"):
        status, said = await admin.ask("PUT", f"/api/llm/config/models/{quote(place)}", {"priority": 7})
        assert (status, said.get("priority")) == (200, 7), said
    assert (await admin.ask("DELETE", f"/admin/models/{row}"))[0] == 200
    _, lines = await admin.ask("GET", "/admin/audit")
    assert f"model:{name}#db-{row}" in [line["subject"] for line in lines["data"]]


async def test_users_may_be_allowed_one_and_models_fall_back_to_one(admin: Admin) -> None:
    for models, status in (([LONGEST], 201), ([LONGER], 400)):
        assert (await admin.ask("POST", "/admin/users", {"user_id": "ann", "models": models}))[0] == status
    await admin.ask("POST", "/admin/models", {"model_id": "spare", "vendor": "mock"})
    path = "/api/llm/config/models/spare"
    assert (await admin.ask("PUT", path, {"fallback_models": [LONGEST]}))[0] == 200
    assert (await admin.ask("PUT", path, {"fallback_models": [LONGER]}))[0] == 400


@pytest.mark.parametrize("names", [(LONGER, "alias"), ("name", LONGER)])
def test_the_settings_say_where_one_is_too_long(names: tuple[str, str]) -> None:
    name, alias = names
    with pytest.raises(StartupError, match=f"must have {LONGEST_MODEL_NAME} characters at most"):
        built(f'[plugins.vendor_mock]\n[[models]]\nname = "{name}"\naliases = ["{alias}"]\nvendor = "mock"\n')
