"""Decisions without a question are in the audit, each of them; and the bounds of what waits and of who watches."""

import asyncio
import contextlib
import json
import logging
import sqlite3
from collections import Counter
from collections.abc import Sequence
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
            told[line.actor, line.action, line.subject, line.detail["arguments"]] += 1
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


async def test_a_decision_is_on_disk_before_its_answer_and_each_is_a_line(
    sqlite_house: OpenHouse, vendor: Vendor, tmp_path: Path
) -> None:
    replies = [vendor.plain(vendor.call("get_weather")), vendor.streamed(vendor.call("get_weather"))]
    async with sqlite_house(*replies) as at:
        for number, stream in enumerate((None, True), 1):
            assert (await at.chat(stream=stream)).status == 200
            with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as other:
                (lines,) = other.execute("SELECT count(*) FROM audit WHERE action = 'tool.allow'").fetchone()
            assert lines == number


async def test_decisions_that_come_together_share_transactions(
    sqlite_house: OpenHouse, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    write = notes.Notes._write

    async def counted(self: notes.Notes, lines: Sequence[Any]) -> None:
        groups.append(len(lines))
        await write(self, lines)

    monkeypatch.setattr(notes.Notes, "_write", counted)
    calls = [vendor.call("get_weather", {"city": f"city {number}"}, id=f"call_{number}") for number in range(150)]
    async with sqlite_house(vendor.plain(*calls)) as at:
        assert (await at.chat()).status == 200
        assert sum((await noted(at)).values()) == 150
    assert groups == [100, 50]


async def test_a_turn_with_an_own_tool_and_a_question_is_judged_once(house: OpenHouse, vendor: Vendor) -> None:
    both = vendor.plain(vendor.call("own_time", {}, id="call_1"), vendor.call("own_stop", {}, id="call_2"))
    own = "".join(
        f'[plugins.http_tools.tools.own_{name}]\ndescription = "does it"\nurl = "http://127.0.0.1:9/"\n'
        for name in ("time", "stop")
    )
    policy = 'rules = [{ tool = "own_stop", verdict = "confirm" }]'
    async with house(both, policy=policy, more=own) as at:
        assert (await at.chat()).json["status"] == "require_confirmation"
        assert [tool for _, _, tool, _ in await noted(at)] == ["own_time"]
        assert sum((await noted(at)).values()) == 1


@pytest.mark.parametrize("stream", [None, True])
async def test_while_the_audit_cannot_be_written_no_tool_is_called(
    sqlite_house: OpenHouse, vendor: Vendor, tmp_path: Path, caplog: pytest.LogCaptureFixture, stream: bool | None
) -> None:
    called = vendor.call("get_weather")
    reply = vendor.streamed(called) if stream else vendor.plain(called)
    async with sqlite_house(reply, vendor.plain(text="hi"), vendor.plain(called), timeout=0.3) as at:
        with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            refused = await at.chat(stream=stream)
            assert (await at.chat()).status == 200, "what calls no tool needs no audit"
            other.execute("ROLLBACK")
        assert (await at.chat()).status == 200
        assert sum((await noted(at)).values()) == 1
    error = refused.events[-1]["error"] if refused.status == 200 else refused.error
    assert error["code"] == "audit_unavailable"
    assert b"get_weather" not in refused.body
    assert in_log(caplog)


async def test_an_operator_may_have_tools_called_without_the_audit(
    sqlite_house: OpenHouse, vendor: Vendor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = 'on_failure = "open"'
    async with sqlite_house(vendor.plain(vendor.call("get_weather")), policy=policy, timeout=0.3) as at:
        with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            answer = await at.chat()
            other.execute("ROLLBACK")
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["tool_calls"]
    assert in_log(caplog)


def in_log(caplog: pytest.LogCaptureFixture) -> bool:
    """Whether the log tells of the decision that the audit does not know."""
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    digest = arguments_digest(json.dumps({"city": "Rome"}))
    return any("not in the audit: tool 'get_weather' of model 'm'" in one and digest in one for one in told)


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
