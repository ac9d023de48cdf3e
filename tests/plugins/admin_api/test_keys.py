"""Keys over HTTP: made once, shown once, good for calls, and bad when they have ended."""

import json
import time
from typing import Any

import openai


async def test_a_new_key_works_with_the_official_sdk_until_it_is_revoked(admin: Any) -> None:
    await admin.done("POST", "/admin/users", {"user_id": "alice"})
    made = await admin.done("POST", "/admin/users/alice/keys", {"name": "laptop"})
    transport = openai.DefaultAsyncHttpxClient(verify=False)
    async with openai.AsyncOpenAI(
        base_url=f"{admin.url}/v1", api_key=made["key"], max_retries=0, http_client=transport
    ) as client:
        answer = await client.chat.completions.create(model="mock", messages=[{"role": "user", "content": "Hi"}])
        assert answer.choices[0].message.content
        assert [model.id async for model in client.models.list()] == ["mock"]
    assert await admin.done("DELETE", f"/admin/keys/{made['key_id']}") == {"key_id": made["key_id"], "deleted": True}
    await admin.until(401, made["key"])
    await admin.refused(404, "DELETE", f"/admin/keys/{made['key_id']}")


async def test_the_key_is_told_once_and_only_its_beginning_is_kept(admin: Any) -> None:
    await admin.done("POST", "/admin/users", {"user_id": "alice"})
    status, headers, raw = await admin.raw("POST", "/admin/users/alice/keys", {"name": "laptop", "rpm_limit": 5})
    assert (status, headers["Cache-Control"]) == (201, "no-store")
    made = json.loads(raw)
    key = made.pop("key")
    assert key.startswith(made["prefix"])
    assert len(key) > 40
    assert (await admin.done("GET", "/admin/keys"))["data"] == [made]
    assert (await admin.done("GET", "/admin/users/alice/keys"))["data"] == [made]
    assert made == {
        "key_id": made["key_id"],
        "user_id": "alice",
        "prefix": key[: len(made["prefix"])],
        "name": "laptop",
        "admin": False,
        "disabled": False,
        "models": None,
        "rpm_limit": 5,
        "tpm_limit": None,
        "concurrent_limit": None,
        "expires_at": None,
        "created_at": made["created_at"],
    }


async def test_keys_are_listed_page_by_page_of_one_user_or_of_all(admin: Any) -> None:
    made: dict[str, set[str]] = {"alice": set(), "bob": set()}
    for user, ids in made.items():
        await admin.done("POST", "/admin/users", {"user_id": user})
        for _ in range(3):
            ids.add((await admin.done("POST", f"/admin/users/{user}/keys", {}))["key_id"])
    for query, expected in (("", made["alice"] | made["bob"]), ("&user_id=bob", made["bob"]), ("&user_id=eve", set())):
        seen: list[str] = []
        while True:
            after = f"&after={seen[-1]}" if seen else ""
            page = await admin.done("GET", f"/admin/keys?limit=2{query}{after}")
            seen += [key["key_id"] for key in page["data"]]
            if not page["has_more"]:
                break
        assert set(seen) == expected
        assert len(seen) == len(expected)


async def test_a_key_is_changed_field_by_field(admin: Any) -> None:
    await admin.done("POST", "/admin/users", {"user_id": "alice"})
    made = await admin.done("POST", "/admin/users/alice/keys", {})
    path, soon = f"/admin/keys/{made['key_id']}", int(time.time()) + 3600
    changes: dict[str, Any] = {
        "name": "n", "admin": True, "models": ["mock"], "rpm_limit": 1000, "tpm_limit": 2, "concurrent_limit": 3,
        "expires_at": soon, "disabled": True,
    }  # fmt: skip
    expected = {name: value for name, value in made.items() if name != "key"}
    for field, value in changes.items():
        expected[field] = value
        assert await admin.done("PATCH", path, {field: value}) == expected
    changed = await admin.done(
        "PATCH", path, {"expires_at": None, "models": None, "rpm_limit": None, "disabled": False}
    )
    assert [changed[name] for name in ("expires_at", "models", "rpm_limit", "disabled")] == [None, None, None, False]
    await admin.refused(404, "PATCH", "/admin/keys/nobody", {"name": "x"})


async def test_a_disabled_key_a_disabled_user_and_a_key_for_other_models_are_refused(admin: Any) -> None:
    await admin.done("POST", "/admin/users", {"user_id": "alice"})
    made = await admin.done("POST", "/admin/users/alice/keys", {})
    key, path = made["key"], f"/admin/keys/{made['key_id']}"
    for where in (path, "/admin/users/alice"):
        assert await admin.chat(key) == 200
        await admin.done("PATCH", where, {"disabled": True})
        await admin.until(401, key)
        await admin.done("PATCH", where, {"disabled": False})
        assert await admin.chat(key) == 200
        await admin.done("PATCH", where, {"models": ["another"]})
        assert await admin.chat(key) == 403
        await admin.done("PATCH", where, {"models": None})


async def test_an_expiry_is_given_in_seconds_as_a_moment_or_as_a_date(admin: Any) -> None:
    await admin.done("POST", "/admin/users", {"user_id": "alice"})
    keys, now = "/admin/users/alice/keys", time.time()
    made = await admin.done("POST", keys, {"expires_in": 60})
    assert abs(made["expires_at"] - now - 60) < 30
    assert (await admin.done("POST", keys, {"expires_at": int(now) + 99}))["expires_at"] == int(now) + 99
    assert (await admin.done("POST", keys, {"expires_at": "2999-12-31"}))["expires_at"] == 32503680000
    assert (await admin.done("POST", keys, {"expires_at": "2999-12-31T00:00:00Z"}))["expires_at"] == 32503593600
    for wrong in (
        {"expires_at": int(now) - 5}, {"expires_at": "2020-01-01"}, {"expires_at": "soon"}, {"expires_in": 0},
        {"expires_in": -1}, {"expires_in": 1.5}, {"expires_in": True}, {"expires_in": 5, "expires_at": int(now) + 9},
        {"expires_at": 1e300},
    ):  # fmt: skip
        error = await admin.refused(400, "POST", keys, wrong)
        assert error["param"] in ("expires_at", "expires_in")
    assert len((await admin.done("GET", keys))["data"]) == 4


async def test_a_rotated_key_ends_at_once_or_after_the_overlap(admin: Any) -> None:
    await admin.done("POST", "/admin/users", {"user_id": "alice"})
    first = await admin.done("POST", "/admin/users/alice/keys", {"name": "n", "rpm_limit": 100})
    status, second = await admin.call("POST", f"/admin/keys/{first['key_id']}/rotate", {"overlap_seconds": 600})
    assert (status, second["replaces"], second["name"], second["rpm_limit"]) == (201, first["key_id"], "n", 100)
    assert await admin.chat(first["key"]) == await admin.chat(second["key"]) == 200
    third = await admin.done("POST", f"/admin/keys/{second['key_id']}/rotate", {})
    await admin.until(401, second["key"])
    assert await admin.chat(third["key"]) == 200
    await admin.refused(404, "POST", "/admin/keys/nobody/rotate", {})
    for wrong in (-1, "1", True, None, 1e12):
        error = await admin.refused(400, "POST", f"/admin/keys/{third['key_id']}/rotate", {"overlap_seconds": wrong})
        assert error["param"] == "overlap_seconds"


async def test_where_nothing_need_be_said_no_body_is_needed(admin: Any) -> None:
    await admin.done("POST", "/admin/users", {"user_id": "alice"})
    status, made = await admin.call("POST", "/admin/users/alice/keys")
    assert (status, made["user_id"], made["name"], made["expires_at"]) == (201, "alice", "", None)
    status, turned = await admin.call("POST", f"/admin/keys/{made['key_id']}/rotate")
    assert (status, turned["replaces"]) == (201, made["key_id"])
    assert await admin.chat(turned["key"]) == 200
    for method, path in (("PATCH", f"/admin/keys/{turned['key_id']}"), ("POST", "/admin/users/quota")):
        assert "empty" in (await admin.refused(400, method, path, b""))["message"]


async def test_a_key_for_nobody_is_not_made(admin: Any) -> None:
    await admin.refused(404, "POST", "/admin/users/nobody/keys", {})
    assert (await admin.done("GET", "/admin/keys"))["data"] == []


async def test_what_one_gateway_changes_another_knows_within_a_second(open_admin: Any) -> None:
    async with open_admin() as here, open_admin() as there:
        await here.done("POST", "/admin/users", {"user_id": "alice"})
        made = await here.done("POST", "/admin/users/alice/keys", {})
        assert await there.chat(made["key"]) == 200
        await here.done("DELETE", f"/admin/keys/{made['key_id']}")
        await there.until(401, made["key"])
