"""Usage, its corrections, and the audit."""

import asyncio
import json
import logging
from typing import Any

import pytest


async def test_usage_is_told_in_all_and_by_model(recording: Any) -> None:
    pricing = {"input_per_1k_tokens": 1, "output_per_1k_tokens": 2}
    await recording.done("POST", "/admin/models", {"model_id": "priced", "vendor_type": "mock", "pricing": pricing})
    for user in ("alice", "bob"):
        await recording.done("POST", "/admin/users", {"user_id": user})
        key = (await recording.done("POST", f"/admin/users/{user}/keys", {}))["key"]
        for model in ("mock", "priced"):
            assert await recording.chat(key, model) == 200
    whole = await recording.done("GET", "/admin/usage")
    assert (whole["total_requests"], set(whole["by_model"])) == (4, {"mock", "priced"})
    assert whole["total_tokens"] == whole["prompt_tokens"] + whole["completion_tokens"] > 0
    priced = whole["by_model"]["priced"]
    assert priced["requests"] == 2
    assert priced["cost"] == pytest.approx((priced["prompt_tokens"] + 2 * priced["completion_tokens"]) / 1000)
    assert whole["total_cost"] == priced["cost"]
    assert whole["by_model"]["mock"]["cost"] is None  # it has no price
    unpriced = await recording.done("GET", "/admin/usage?model=mock&by=total")
    assert (unpriced["total_requests"], unpriced["total_cost"]) == (2, None)
    one = await recording.done("GET", "/admin/usage?user_id=alice&model=priced&by=total")
    assert (one["total_requests"], one["user_id"], one["model"]) == (1, "alice", "priced")
    assert "by_model" not in one
    assert (await recording.done("GET", "/admin/usage?user_id=nobody"))["total_requests"] == 0
    assert (await recording.done("GET", "/admin/usage?end_date=2020-01-01"))["total_requests"] == 0


async def test_single_requests_are_told_page_by_page(recording: Any) -> None:
    await recording.done("POST", "/admin/users", {"user_id": "alice"})
    made = await recording.done("POST", "/admin/users/alice/keys", {})
    await asyncio.gather(*(recording.chat(made["key"]) for _ in range(7)))
    assert await recording.chat(made["key"], "nobody") == 404
    seen: list[Any] = []
    query = "limit=2"
    while True:
        page = await recording.done("GET", f"/admin/usage/requests?{query}")
        seen += page["data"]
        if not page["has_more"]:
            break
        query = f"limit=2&before={page['next_before']}"
    assert len({row["request_id"] for row in seen}) == len(seen) == 8
    assert [row["at"] for row in seen] == sorted((row["at"] for row in seen), reverse=True)
    assert {row["user_id"] for row in seen} == {"alice"}
    assert {row["key_id"] for row in seen} == {made["key_id"]}
    assert sorted(row["outcome"] for row in seen) == ["complete"] * 7 + ["rejected"]
    assert {row["total_cost"] for row in seen if row["outcome"] == "complete"} == {None}  # nobody said what it costs
    other = await recording.done("GET", "/admin/usage/requests?user_id=bob")
    assert (other["data"], other["has_more"], other["next_before"]) == ([], False, None)
    assert len((await recording.done("GET", "/admin/usage/requests?model=mock"))["data"]) == 7


async def test_a_correction_counts_and_is_audited(recording: Any) -> None:
    await recording.done("POST", "/admin/users", {"user_id": "alice"})
    correction = {"user_id": "alice", "model": "mock", "tokens": 500, "cost": "1.25", "reason": "an outage"}
    status, row = await recording.call("POST", "/admin/usage/corrections", correction)
    assert (status, row["outcome"], row["provenance"]) == (201, "correction", "operator")
    assert (row["total_tokens"], row["total_cost"]) == (500, 1.25)
    back = {"user_id": "alice", "model": "mock", "tokens": -200, "cost": -0.25, "reason": "half of it"}
    await recording.done("POST", "/admin/usage/corrections", back)
    usage = await recording.done("GET", "/admin/usage?user_id=alice")
    assert (usage["total_tokens"], usage["total_cost"]) == (300, 1)
    lines = (await recording.done("GET", "/admin/audit?limit=2"))["data"]
    assert all("alice" in json.dumps(line) for line in lines)
    assert ["an outage" in json.dumps(line) for line in lines] == [False, True]


async def test_wrong_corrections_are_refused_and_leave_nothing(recording: Any) -> None:
    await recording.done("POST", "/admin/users", {"user_id": "alice"})
    good: dict[str, Any] = {"user_id": "alice", "model": "mock", "tokens": 1, "reason": "r"}
    wrong: list[tuple[dict[str, Any], str | None]] = [
        ({"reason": None}, "reason"), ({"reason": "  "}, "reason"), ({"reason": "x" * 2000}, "reason"),
        ({"tokens": 1.5}, "tokens"), ({"tokens": True}, "tokens"), ({"tokens": 10**16}, "tokens"),
        ({"tokens": "1"}, "tokens"), ({"cost": "much"}, "cost"), ({"cost": 1_000_001}, "cost"),
        ({"cost": -1_000_001}, "cost"), ({"cost": "NaN"}, "cost"),
        ({"cost": 1e-10}, "cost"), ({"user_id": 5}, "user_id"), ({"user_id": ""}, "user_id"), ({"tokns": 5}, "tokns"),
        ({"model": "a\x00b"}, "model"), ({"user_id": "a\ud800"}, None),
    ]  # fmt: skip
    for change, param in wrong:
        error = await recording.refused(400, "POST", "/admin/usage/corrections", {**good, **change})
        assert error["param"] == param, (change, error)
    await recording.refused(400, "POST", "/admin/usage/corrections", {"user_id": "alice", "tokens": 1})
    await recording.refused(400, "POST", "/admin/usage/corrections", {"user_id": "alice", "reason": "nothing at all"})
    await recording.refused(404, "POST", "/admin/usage/corrections", {**good, "user_id": "nobody"})
    assert (await recording.done("GET", "/admin/usage?user_id=alice"))["total_requests"] == 0
    assert len((await recording.done("GET", "/admin/audit"))["data"]) == 1


async def test_somebody_without_a_row_of_his_own_can_be_corrected_once_he_used_something(recording: Any) -> None:
    assert await recording.chat(recording.ordinary) == 200
    (row,) = (await recording.done("GET", "/admin/usage/requests"))["data"]
    correction = {"user_id": row["user_id"], "tokens": -1, "reason": "r"}
    assert (await recording.done("POST", "/admin/usage/corrections", correction))["user_id"] == row["user_id"]


WRONG_QUESTIONS = (
    ("start_date=yesterday", "start_date"), ("end_date=2026-02-30", "end_date"),
    ("start_date=2026-02-02&end_date=2026-02-01", "start_date"), ("start_date=2999-01-01", "start_date"),
    ("by=colour", "by"), ("user_id=", "user_id"), ("user_id=a%00b", "user_id"), ("model=" + "x" * 300, "model"),
    ("usr_id=x", "usr_id"), ("start_date=", "start_date"),
    ("start_date=2026-01-01&start_date=2026-01-02", "start_date"),
)  # fmt: skip


async def test_wrong_questions_about_usage_are_refused_by_their_field(admin: Any) -> None:
    for query, param in WRONG_QUESTIONS:
        assert (await admin.refused(400, "GET", f"/admin/usage?{query}"))["param"] == param, query


async def test_without_a_ledger_the_answer_says_what_to_enable(admin: Any) -> None:
    for path in ("/admin/usage", "/admin/usage/requests"):
        assert "[plugins.ledger]" in (await admin.refused(404, "GET", path))["message"]
    body = {"user_id": "alice", "tokens": 1, "reason": "r"}
    assert "[plugins.ledger]" in (await admin.refused(404, "POST", "/admin/usage/corrections", body))["message"]


SENTINEL = "sk-sentinel-0123456789abcdef"


async def test_everything_is_audited_and_no_secret_is_told(admin: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[bytes] = []

    async def done(method: str, path: str, body: Any = None) -> Any:
        status, _, raw = await admin.raw(method, path, body)
        assert status < 300, raw
        answer = json.loads(raw)
        key = answer.pop("key", "no key")
        secrets.append(key)
        told.append(json.dumps(answer).encode())
        return answer

    secrets = [SENTINEL, admin.key]
    await done("POST", "/admin/users", {"user_id": "alice"})
    await done("PATCH", "/admin/users/alice", {"rpm_limit": 5})
    await done("POST", "/admin/users/quota", {"user_id": "bob", "budget": 5})
    key = await done("POST", "/admin/users/alice/keys", {"name": "laptop"})
    await done("PATCH", f"/admin/keys/{key['key_id']}", {"name": "desk"})
    key = await done("POST", f"/admin/keys/{key['key_id']}/rotate", {"overlap_seconds": 60})
    await done("DELETE", f"/admin/keys/{key['key_id']}")
    await done("POST", "/admin/models", {"model_id": "m", "vendor_type": "mock", "api_key": SENTINEL})
    await done("PATCH", "/admin/models/m", {"api_key": SENTINEL + "2"})
    await done("PUT", "/admin/models/m", {"vendor_type": "mock", "api_key": SENTINEL + "3"})
    await done("PUT", "/admin/models/m/fallbacks", {"fallbacks": ["mock"]})
    await done("DELETE", "/admin/models/m")
    await done("DELETE", "/admin/users/bob")
    for path in ("/admin/users", "/admin/keys", "/admin/models", "/admin/models/mock"):
        await done("GET", path)
    lines = (await done("GET", "/admin/audit"))["data"]
    assert [(line["action"], line["subject"]) for line in reversed(lines)] == [
        ("user.create", "alice"), ("user.change", "alice"), ("user.create", "bob"),
        ("key.create", lines[-4]["subject"]),
        ("key.change", lines[-4]["subject"]), ("key.rotate", lines[-6]["subject"]), ("key.revoke", key["key_id"]),
        ("model.create", "m"), ("model.change", "m"), ("model.change", "m"), ("model.change", "m"),
        ("model.delete", "m"), ("user.delete", "bob"),
    ]  # fmt: skip
    assert len({line["actor"] for line in lines}) == 1
    assert lines[0]["actor"].startswith("key-")
    everything = b"\n".join(told).decode() + "\n".join(caplog.handler.format(record) for record in caplog.records)
    for secret in secrets:
        assert secret == "no key" or secret not in everything


async def test_the_audit_is_read_page_by_page_and_names_who_did_it_with_which_key(admin: Any) -> None:
    await admin.done("POST", "/admin/users", {"user_id": "boss", "admin": True})
    key = await admin.done("POST", "/admin/users/boss/keys", {})
    for n in range(5):
        await admin.done("POST", "/admin/users", {"user_id": f"u{n}"}, key=key["key"])
    seen: list[Any] = []
    query = ""
    while True:
        page = await admin.done("GET", f"/admin/audit?limit=3{query}")
        seen += page["data"]
        if not page["has_more"]:
            break
        query = f"&before={seen[-1]['id']}"
    assert [line["subject"] for line in seen[:5]] == ["u4", "u3", "u2", "u1", "u0"]
    assert {line["actor"] for line in seen[:5]} == {f"boss/{key['key_id']}"}
    assert len({line["id"] for line in seen}) == len(seen) == 7
