"""Rules set while the gateway runs: for everybody within a second, kept, audited, and never lost to a race."""

import asyncio
import contextlib
import socket
import time
from typing import Any

import aiohttp
import pytest

House = Any
OpenHouse = Any
Vendor = Any
Keys = Any

DENY = {"tool": "get_*", "verdict": "deny"}


async def test_rules_hold_in_every_process_within_a_second_and_over_a_restart(
    house: OpenHouse, vendor: Vendor, keys: Keys
) -> None:
    def offered(at: House) -> list[str]:
        return [one["function"]["name"] for one in at.stub.requests[-1].json.get("tools", [])]

    async with house() as one, house() as other:
        await other.chat()
        assert "get_weather" in offered(other)
        put = await one.request("PUT", "/admin/tools/policy", {"rules": [DENY]}, key=keys.admin)
        assert put.status == 200
        await one.chat()
        assert "get_weather" not in offered(one)
        asked = 0
        while "get_weather" in offered(other):
            assert (asked := asked + 1) < 100, "not within a second, of those in which the machine is ours"
            await asyncio.sleep(0.01)
            await other.chat()
        (line,) = [line for line in await one.audit() if line[1] == "config.change"]
        assert line[2] == "tool-policy"
    async with house() as again:
        await again.chat()
        assert "get_weather" not in offered(again)


async def test_what_is_set_is_shown_beside_the_settings(sqlite_house: OpenHouse, keys: Keys) -> None:
    async with sqlite_house() as at:
        fresh = await at.request("GET", "/admin/tools/policy", key=keys.admin)
        assert (fresh.headers["ETag"], fresh.json["default"], fresh.json["rules"]) == ('"0"', None, [])
        (rule,) = fresh.json["settings"]["rules"]
        assert (rule["tool"], rule["verdict"], fresh.json["settings"]["default"]) == ("delete_*", "confirm", "allow")
        body = {"default": "deny", "rules": [DENY]}
        put = await at.request("PUT", "/admin/tools/policy", body, key=keys.admin)
        got = await at.request("GET", "/admin/tools/policy", key=keys.admin)
    assert put.json == got.json
    assert got.json["rules"] == [{"tool": "get_*", "user": "*", "model": "*", "verdict": "deny", "reason": ""}]
    assert (got.json["default"], got.headers["ETag"]) == ("deny", put.headers["ETag"])


async def test_a_change_of_an_older_revision_is_refused(sqlite_house: OpenHouse, keys: Keys) -> None:
    async with sqlite_house() as at:

        async def put(**headers: str) -> Any:
            return await at.request("PUT", "/admin/tools/policy", {"rules": [DENY]}, key=keys.admin, **headers)

        first = await put(If_Match='"0"')
        stale = await put(If_Match='"0"')
        second = await put(If_Match=first.headers["ETag"])
    assert (first.status, stale.status, second.status) == (200, 412, 200)
    assert stale.error["code"] == "revision_conflict"


WRONG: list[tuple[Any, str | None]] = [
    ({"rules": [{"tool": "x"}]}, "rules[0].verdict"),
    ({"rules": [{"tool": "x", "verdict": "perhaps"}]}, "rules[0].verdict"),
    ({"rules": [{"tol": "x", "verdict": "deny"}]}, "rules[0].tol"),
    ({"rules": [{"tool": "x" * 201, "verdict": "deny"}]}, "rules[0].tool"),
    ({"rules": [DENY] * 501}, "rules"),
    ({"rules": {}}, "rules"),
    ({"default": "perhaps"}, "default"),
    ({"rule": []}, "rule"),
    ([], None),
]


async def test_rules_that_cannot_be_are_told_by_their_place(sqlite_house: OpenHouse, keys: Keys) -> None:
    async with sqlite_house() as at:
        for body, param in WRONG:
            answer = await at.request("PUT", "/admin/tools/policy", body, key=keys.admin)
            assert (answer.status, answer.error["param"]) == (400, param), body
        assert (await at.request("GET", "/admin/tools/policy", key=keys.admin)).headers["ETag"] == '"0"'


async def test_only_admins_see_and_set_the_policy(sqlite_house: OpenHouse) -> None:
    async with sqlite_house() as at:
        for method in ("GET", "PUT"):
            answer = await at.request(method, "/admin/tools/policy", {} if method == "PUT" else None)
            assert (answer.status, answer.error["code"]) == (403, "admin_required")


async def test_an_admin_who_confirms_acts_for_the_user_who_asked(
    sqlite_house: OpenHouse, vendor: Vendor, keys: Keys, tmp_path: Any
) -> None:
    """Whoever decides, the model's next turn is the user's: it is in the ledger as theirs."""
    from gatehook import LEDGER

    ledger_on = f'[plugins.ledger]\ndirectory = "{tmp_path / "journal"}"\nflush_interval = 0.01\n'
    replies = vendor.plain(vendor.call("delete_city")), vendor.plain(text="well")
    async with sqlite_house(*replies, more=ledger_on) as at:
        session = await at.asked()
        assert (await at.deny(session, key=keys.admin)).status == 200
        await at.gateway.services[LEDGER].flush()
        rows = await at.gateway.services[LEDGER].rows()
    assert len(rows) == 2
    assert len({row.user_id for row in rows}) == 1


async def read(response: Any) -> tuple[str, Any]:
    """The next event that is no comment."""
    import json

    while True:
        block = (await response.content.readuntil(b"\n\n")).decode()
        if not block.startswith(":"):
            name, data = block.strip().split("\n")
            return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


async def test_the_feed_tells_what_comes_and_goes_in_any_process(house: OpenHouse, vendor: Vendor, keys: Keys) -> None:
    async with (
        house(vendor.plain(vendor.call("delete_city"))) as one,
        house() as other,
        contextlib.AsyncExitStack() as open_feeds,
    ):
        first = await one.asked()
        feeds = []
        for at, key in ((one, keys.alice), (other, keys.admin), (one, keys.bob)):
            url, headers = f"{at.url}/v1/tools/pending/events", {"Authorization": f"Bearer {key}"}
            feeds.append(await open_feeds.enter_async_context(at.http.get(url, headers=headers)))
        alice, admin, bob = feeds
        assert alice.headers["Content-Type"].startswith("text/event-stream")
        async with asyncio.timeout(10):
            for feed in (alice, admin):
                name, told = await read(feed)
                assert (name, told["session_id"]) == ("pending", first)
                assert told["pending_tool_calls"] == [vendor.call("delete_city")]
            second = await one.asked()
            for feed in (alice, admin):
                assert (await read(feed))[1]["session_id"] == second
            await other.confirm(first, "call_1")
            for feed in (alice, admin):
                assert await read(feed) == ("resolved", {"session_id": first})
            theirs = await one.asked(key=keys.bob)
            assert (await read(bob))[1]["session_id"] == theirs  # the first it hears: nothing of alice's
            assert (await read(admin))[1]["session_id"] == theirs


async def test_who_only_asks_for_the_feed_s_head_gets_that(sqlite_house: OpenHouse) -> None:
    async with sqlite_house() as at, asyncio.timeout(5):
        answer = await at.request("HEAD", "/v1/tools/pending/events")
    assert (answer.status, answer.body) == (200, b"")


async def test_a_watcher_does_not_hold_up_a_shutdown(sqlite_house: OpenHouse, keys: Keys) -> None:
    # Its own session: the house's would be closed, and with it the feed, before the gateway stops.
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {keys.alice}"}) as http:
        async with sqlite_house() as at:
            feed = await http.get(f"{at.url}/v1/tools/pending/events")
            begun = time.monotonic()
            assert await feed.content.readuntil(b"\n\n") == b": keep-alive\n\n"
        assert await feed.content.read() == b""  # an end, not a cut line
        assert time.monotonic() - begun < 10
        feed.close()


async def test_a_watcher_that_does_not_read_is_let_go(
    sqlite_house: OpenHouse, vendor: Vendor, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatehook_plugins.tool_policy.desk._MOST_WATCHERS", 1)
    large = vendor.plain(vendor.call("delete_city", {"city": "x" * 2_000_000}))
    more = "[server]\nwrite_timeout = 0.3"
    async with sqlite_house(large, more=more) as at, asyncio.timeout(20):
        for _ in range(8):
            await at.asked()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        host, port = at.url.removeprefix("http://").split(":")
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        asked = f"GET /v1/tools/pending/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {keys.alice}\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(sock, asked.encode())
        assert await asyncio.get_running_loop().sock_recv(sock, 12) == b"HTTP/1.1 200"
        url, headers = f"{at.url}/v1/tools/pending/events", {"Authorization": f"Bearer {keys.alice}"}
        status = 429
        while status == 429:  # as long as the other one watches
            async with at.http.get(url, headers=headers) as feed:
                status = feed.status
        assert status == 200
        sock.close()
