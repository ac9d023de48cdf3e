"""Users and their quotas, over HTTP, on both databases."""

import asyncio
import time
from typing import Any

from yarl import URL

ALL: dict[str, Any] = {
    "name": "Alice",
    "admin": True,
    "disabled": True,
    "models": ["gpt-4o", "mock"],
    "rpm_limit": 60,
    "tpm_limit": 10_000,
    "concurrent_limit": 3,
    "token_quota": 1_000_000,
    "token_quota_per_day": 1000,
    "token_quota_per_month": 10_000,
    "budget": 100.5,
    "budget_per_day": 0.1,
    "budget_per_month": 12.000000001,
}
NOTHING: dict[str, Any] = {
    **dict.fromkeys(ALL),
    "name": "",
    "admin": False,
    "disabled": False,
}


def without_times(user: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in user.items() if name not in ("created_at", "updated_at")}


async def test_a_quota_creates_a_user_and_then_changes_only_what_it_names(admin: Any) -> None:
    asked = {"user_id": "alice", "rpm_limit": 60, "token_quota": 5000}
    answer = await admin.done("POST", "/admin/users/quota", asked)
    assert without_times(answer) == {**NOTHING, **asked}
    assert abs(answer["created_at"] - time.time()) < 60
    answer = await admin.done("POST", "/admin/users/quota", {"user_id": "alice", "token_quota": 7000})
    assert (answer["rpm_limit"], answer["token_quota"]) == (60, 7000)
    answer = await admin.done("POST", "/admin/users/quota", {"user_id": "alice", "rpm_limit": None, "budget": "1.5"})
    assert (answer["rpm_limit"], answer["token_quota"], answer["budget"]) == (None, 7000, 1.5)


async def test_every_field_of_a_user_is_kept_changed_and_taken_away(admin: Any) -> None:
    status, made = await admin.call("POST", "/admin/users", {"user_id": "alice", **ALL})
    assert (status, without_times(made)) == (201, {"user_id": "alice", **ALL})
    assert await admin.done("GET", "/admin/users/alice") == made
    for field, value in ALL.items():
        changed = await admin.done("PATCH", "/admin/users/alice", {field: NOTHING[field]})
        assert changed[field] == NOTHING[field]
        changed = await admin.done("PATCH", "/admin/users/alice", {field: value})
        assert without_times(changed) == {"user_id": "alice", **ALL}
    await admin.done("PATCH", "/admin/users/alice", NOTHING)
    assert without_times(await admin.done("GET", "/admin/users/alice")) == {"user_id": "alice", **NOTHING}


async def test_users_are_listed_page_by_page_and_deleted_with_their_keys(admin: Any) -> None:
    names = [f"user {n}" for n in range(5)]
    for name in names:
        await admin.done("POST", "/admin/users", {"user_id": name})
    seen: list[str] = []
    while True:
        page = await admin.done("GET", f"/admin/users?limit=2&after={seen[-1] if seen else ''}")
        seen += [user["user_id"] for user in page["data"]]
        if not page["has_more"]:
            break
    assert seen == names
    key = (await admin.done("POST", "/admin/users/user 1/keys", {}))["key"]
    assert await admin.chat(key) == 200
    assert await admin.done("DELETE", "/admin/users/user 1") == {"user_id": "user 1", "deleted": True}
    assert await admin.chat(key) == 401
    for method in ("GET", "DELETE"):
        assert "user 1" in (await admin.refused(404, method, "/admin/users/user 1"))["message"]
    await admin.refused(404, "GET", "/admin/users/user 1/keys")
    assert (await admin.done("GET", "/admin/keys"))["data"] == []


async def test_a_second_user_of_one_id_is_a_conflict_and_changes_nothing(admin: Any) -> None:
    made = await admin.done("POST", "/admin/users", {"user_id": "alice", "name": "first"})
    error = await admin.refused(409, "POST", "/admin/users", {"user_id": "alice", "name": "second"})
    assert "alice" in error["message"]
    assert await admin.done("GET", "/admin/users/alice") == made
    assert len((await admin.done("GET", "/admin/audit"))["data"]) == 1


async def test_of_many_creations_at_once_one_succeeds(admin: Any) -> None:
    answers = await asyncio.gather(
        *(admin.call("POST", "/admin/users", {"user_id": "alice", "name": str(n)}) for n in range(12))
    )
    statuses = sorted(status for status, _ in answers)
    assert statuses == [201] + [409] * 11
    (winner,) = [answer for status, answer in answers if status == 201]
    assert (await admin.done("GET", "/admin/users/alice"))["name"] == winner["name"]


async def test_changes_of_different_fields_at_once_are_all_kept(admin: Any) -> None:
    await admin.done("POST", "/admin/users", {"user_id": "alice"})
    fields = {name: value for name, value in ALL.items() if name != "disabled"}
    await asyncio.gather(
        *(admin.done("PATCH", "/admin/users/alice", {name: value}) for name, value in fields.items()),
        *(admin.done("POST", "/admin/users/quota", {"user_id": "bob", name: value}) for name, value in fields.items()),
    )
    for user in ("alice", "bob"):
        kept = without_times(await admin.done("GET", f"/admin/users/{user}"))
        assert kept == {"user_id": user, **ALL, "disabled": False}


async def test_somebody_called_quota_can_be_reached(admin: Any) -> None:
    await admin.done("POST", "/admin/users", {"user_id": "quota"})
    assert (await admin.done("GET", "/admin/users/quota"))["user_id"] == "quota"
    assert (await admin.done("PATCH", "/admin/users/quota", {"name": "Q"}))["name"] == "Q"
    assert (await admin.done("GET", "/admin/users/quota/quota"))["user_id"] == "quota"
    await admin.done("DELETE", "/admin/users/quota")
    await admin.refused(404, "GET", "/admin/users/quota")


async def test_ids_of_any_script_and_with_marks_work_in_addresses(admin: Any) -> None:
    for user_id in ("Ünïcödé@例え.jp", "a b?c#d%e", "x" * 128, "{brace}", "."):
        await admin.done("POST", "/admin/users", {"user_id": user_id})
        page = await admin.done("GET", "/admin/users?limit=500")
        assert user_id in [user["user_id"] for user in page["data"]]
    for user_id in ("Ünïcödé@例え.jp", "a b?c#d%e", "x" * 128, "{brace}"):
        path = str(URL("/admin/users") / user_id)
        assert (await admin.done("GET", path))["user_id"] == user_id


async def test_a_quota_shows_caps_and_null_where_nobody_counts(admin: Any) -> None:
    await admin.done("POST", "/admin/users", {"user_id": "alice", "token_quota": 100, "budget_per_day": 2.5})
    nothing = {"cap": None, "used": None, "remaining": None}
    assert await admin.done("GET", "/admin/users/alice/quota") == {
        "user_id": "alice",
        "rpm_limit": None,
        "tpm_limit": None,
        "concurrent_limit": None,
        "tokens": {"all": {**nothing, "cap": 100}, "day": nothing, "month": nothing},
        "budget": {"all": nothing, "day": {**nothing, "cap": 2.5}, "month": nothing},
    }
    await admin.refused(404, "GET", "/admin/users/bob/quota")


async def test_a_quota_shows_what_is_used_and_what_is_left(recording: Any) -> None:
    await recording.done("POST", "/admin/users", {"user_id": "alice", "token_quota": 100_000})
    key = (await recording.done("POST", "/admin/users/alice/keys", {}))["key"]
    assert await recording.chat(key) == 200
    used = (await recording.done("GET", "/admin/usage?user_id=alice"))["total_tokens"]
    assert used > 0
    # Only now: with a budget, a model without a price is refused.
    await recording.done("PATCH", "/admin/users/alice", {"budget_per_month": 1})
    quota = await recording.done("GET", "/admin/users/alice/quota")
    for period, cap in (("all", 100_000), ("day", None), ("month", None)):
        left = None if cap is None else cap - used
        assert quota["tokens"][period] == {"cap": cap, "used": used, "remaining": left}
    assert quota["budget"]["month"] == {"cap": 1, "used": 0, "remaining": 1}
    correction = {"user_id": "alice", "tokens": 200_000, "cost": 3, "reason": "test"}
    await recording.done("POST", "/admin/usage/corrections", correction)
    quota = await recording.done("GET", "/admin/users/alice/quota")
    assert quota["tokens"]["all"] == {"cap": 100_000, "used": used + 200_000, "remaining": 0}
    assert quota["budget"]["month"] == {"cap": 1, "used": 3, "remaining": 0}
