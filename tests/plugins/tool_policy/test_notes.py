"""Decisions without a question are in the audit, each of them; and the bounds of what waits and of who watches."""

import asyncio
import contextlib
import json
import logging
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gatehook import DIRECTORY
from gatehook_plugins.tool_policy import notes
from gatehook_plugins.tool_policy.sessions import arguments_digest

OpenHouse = Any
Vendor = Any
Keys = Any

DENY = 'invalid = "refuse"\nrules = [{ tool = "delete_*", verdict = "deny" }]'
RETRY = 'invalid = "retry"\nretries = 1'


async def noted(at: Any) -> Counter[tuple[str, str, str, str]]:
    """What the audit tells of decisions without a question: user, action, tool and digest, each as often as made."""
    told = Counter[tuple[str, str, str, str]]()
    for line in await at.gateway.services[DIRECTORY].audit(limit=500):
        if line.action in ("tool.allow", "tool.refuse", "tool.return"):
            told[line.actor, line.action, line.subject, line.detail["arguments"]] += line.detail["times"]
    return told


async def test_every_decision_of_a_rule_or_for_its_arguments_is_in_the_audit(house: OpenHouse, vendor: Vendor) -> None:
    secret = {"city": "a secret place"}
    denied, allowed = vendor.plain(vendor.call("delete_city", secret)), vendor.plain(vendor.call("get_weather", secret))
    invalid = vendor.plain(vendor.call("get_weather", {"town": "x"}))
    async with house(denied, denied, denied, invalid, allowed, vendor.plain(text="ok"), policy=DENY) as at:
        for status in (403, 403, 403, 502, 200, 200):
            assert (await at.chat()).status == status
    async with house(policy=DENY) as again:
        told, lines = await noted(again), await again.audit()
    digest, other = arguments_digest(json.dumps(secret)), arguments_digest(json.dumps({"town": "x"}))
    assert {one[1:]: times for one, times in told.items()} == {
        ("tool.refuse", "delete_city", digest): 3,
        ("tool.refuse", "get_weather", other): 1,
        ("tool.allow", "get_weather", digest): 1,
    }
    assert {detail["model"] for _, _, _, detail in lines} == {"m"}
    assert "secret" not in str(lines)


async def test_what_streams_call_and_what_is_told_to_the_model_is_in_the_audit_too(
    house: OpenHouse, vendor: Vendor
) -> None:
    wrong, right = vendor.call("get_weather", {"town": "x"}), vendor.call("get_weather")
    async with house(vendor.streamed(wrong), vendor.streamed(right), policy=RETRY) as at:
        assert (await at.chat(stream=True)).status == 200
    async with house(policy=RETRY) as again:
        told = await noted(again)
    assert {(action, digest): times for (_, action, _, digest), times in told.items()} == {
        ("tool.return", arguments_digest(wrong["function"]["arguments"])): 1,
        ("tool.allow", arguments_digest(right["function"]["arguments"])): 1,
    }


async def test_many_different_calls_are_all_in_the_audit(sqlite_house: OpenHouse, vendor: Vendor) -> None:
    calls = [vendor.call(f"delete_{number}", id=f"call_{number}") for number in range(250)]
    async with sqlite_house(vendor.plain(*calls), policy=DENY) as at:
        assert (await at.chat()).status == 403
    async with sqlite_house(policy=DENY) as again:
        assert sum((await noted(again)).values()) == 250


async def test_while_the_database_is_locked_calls_go_on_and_their_lines_come_later(
    sqlite_house: OpenHouse, vendor: Vendor, tmp_path: Path
) -> None:
    async with sqlite_house(vendor.plain(vendor.call("get_weather"))) as at:
        with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with asyncio.timeout(3):
                assert (await at.chat()).status == 200
            other.execute("ROLLBACK")
    async with sqlite_house() as again:
        assert sum((await noted(again)).values()) == 1


async def test_when_no_more_can_be_kept_no_tool_is_called_without_a_line(
    sqlite_house: OpenHouse, vendor: Vendor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(notes, "_MOST", 2)
    calls = [vendor.plain(vendor.call("get_weather", {"city": f"city {number}"})) for number in range(4)]
    async with sqlite_house(*calls) as at:
        with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            answers = [await at.chat() for _ in range(3)]
            other.execute("ROLLBACK")
    assert [one.status for one in answers] == [200, 200, 503]
    assert answers[2].error["code"] == "audit_unavailable"
    assert answers[2].headers["Retry-After"] == "1"
    async with sqlite_house() as again:
        assert sum((await noted(again)).values()) == 2


async def test_what_cannot_be_written_in_the_end_is_in_the_log(
    sqlite_house: OpenHouse, vendor: Vendor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        async with sqlite_house(vendor.plain(vendor.call("get_weather"))) as at:
            other.execute("BEGIN IMMEDIATE")
            assert (await at.chat()).status == 200
        other.execute("ROLLBACK")
    lost = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    digest = arguments_digest(json.dumps({"city": "Rome"}))
    assert any("not in the audit: tool 'get_weather' of model 'm'" in one and digest in one for one in lost)


async def test_no_more_sessions_wait_than_may_however_many_are_asked_at_once(house: OpenHouse, vendor: Vendor) -> None:
    policy = 'max_pending = 3\nrules = [{ tool = "delete_*", verdict = "confirm" }]'
    async with house(vendor.plain(vendor.call("delete_city")), policy=policy) as at:
        answers = await asyncio.gather(*(at.chat() for _ in range(12)))
        assert sorted(one.status for one in answers) == [200] * 3 + [429] * 9
        assert len(await at.pending()) == 3


async def test_a_user_may_watch_only_so_often_at_a_time(sqlite_house: OpenHouse, keys: Keys) -> None:
    async with sqlite_house() as at, contextlib.AsyncExitStack() as feeds:
        url, headers = f"{at.url}/v1/tools/pending/events", {"Authorization": f"Bearer {keys.alice}"}
        for _ in range(16):
            assert (await feeds.enter_async_context(at.http.get(url, headers=headers))).status == 200
        too_many = await at.request("GET", "/v1/tools/pending/events")
        assert (too_many.status, too_many.error["code"]) == (429, "too_many_watchers")
        async with at.http.get(url, headers={"Authorization": f"Bearer {keys.bob}"}) as other:
            assert other.status == 200
