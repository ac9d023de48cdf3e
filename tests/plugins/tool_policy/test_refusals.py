"""Refusals in the audit, bounded; and the bounds of what waits and of who watches."""

import asyncio
import contextlib
import json
from typing import Any

from gatehook import DIRECTORY
from gatehook_plugins.tool_policy.sessions import arguments_digest

OpenHouse = Any
Vendor = Any
Keys = Any

DENY = 'invalid = "refuse"\nrules = [{ tool = "delete_*", verdict = "deny" }]'


async def test_calls_refused_by_a_rule_or_for_their_arguments_are_in_the_audit_once_however_often(
    house: OpenHouse, vendor: Vendor
) -> None:
    denied = vendor.plain(vendor.call("delete_city", {"city": "a secret place"}))
    replies = denied, denied, denied, vendor.plain(vendor.call("get_weather", {"town": "x"})), vendor.plain(text="ok")
    async with house(*replies, policy=DENY) as at:
        tools = [{"type": "function", "function": {"name": name}} for name in ("get_weather", "other")]
        tools[0]["function"]["parameters"] = {"type": "object", "required": ["city"]}  # type: ignore[index]
        for _ in range(3):
            assert (await at.chat(tools=tools)).status == 403
        assert (await at.chat(tools=tools)).error["code"] == "tool_call_invalid"
        assert (await at.chat(tools=tools)).status == 200
    async with house(policy=DENY) as again:
        lines = [line for line in await again.audit() if line[1] == "tool.refuse"]
    told = [(subject, detail["decision"], detail["times"]) for _, _, subject, detail in lines]
    assert told == [("delete_city", "denied", 3), ("get_weather", "invalid", 1)]
    digest = arguments_digest(json.dumps({"city": "a secret place"}))
    assert (lines[0][3]["model"], lines[0][3]["arguments"]) == ("m", digest)
    assert "secret" not in str(lines)


async def test_ever_new_names_do_not_flood_the_audit(sqlite_house: OpenHouse, vendor: Vendor) -> None:
    calls = [vendor.call(f"delete_{number}", id=f"call_{number}") for number in range(150)]
    async with sqlite_house(vendor.plain(*calls), policy=DENY) as at:
        assert (await at.chat()).status == 403
    async with sqlite_house(policy=DENY) as again:
        lines = await again.gateway.services[DIRECTORY].audit(limit=500)
    newest, *others = [line for line in lines if line.action == "tool.refuse"]
    assert (newest.actor, newest.subject, newest.detail) == ("gateway", "*", {"times": 50})
    assert len(others) == 100


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
