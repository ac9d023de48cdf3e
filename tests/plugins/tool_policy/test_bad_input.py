"""Requests that cannot be: what each is refused with, and that nothing is released by it."""

from typing import Any

import pytest

House = Any
OpenHouse = Any
Vendor = Any
Keys = Any


BODIES: list[tuple[Any, str | None, str | None]] = [
    (b"", None, None),
    (b"{", None, "invalid_json"),
    (b"[]", None, None),
    ({}, "session_id", None),
    ({"session_id": 7, "approved_ids": []}, "session_id", None),
    ({"session_id": "", "approved_ids": []}, "session_id", None),
    ({"session_id": "a\u0000b", "approved_ids": []}, "session_id", None),
    ({"session_id": "sess_x"}, "approved_ids", None),
    ({"session_id": "sess_x", "approved_ids": [7]}, "approved_ids[0]", None),
    ({"session_id": "sess_x", "approved_ids": [], "argument": {}}, "argument", None),
    ({"session_id": "sess_x", "approved_ids": [], "arguments": {"a": 7}}, "arguments[...]", None),
    ({"session_id": "sess_x", "approved_ids": [], "stream": "yes"}, "stream", None),
    ({"session_id": "sess_x", "approved_ids": [], "reason": "x" * 1001}, "reason", None),
]


async def test_bodies_that_cannot_be_are_told_by_their_field(sqlite_house: OpenHouse) -> None:
    async with sqlite_house() as at:
        for body, param, code in BODIES:
            answer = await at.request("POST", "/v1/tools/confirm", body)
            assert (answer.status, answer.error["param"], answer.error["code"]) == (400, param, code), body


DECISIONS: list[tuple[dict[str, Any], str, str]] = [
    (
        {"approved_ids": ["call_9"]},
        "approved_ids",
        "no call 'call_9' waits in this session; there are: call_1, call_2",
    ),
    ({"approved_ids": ["call_3"]}, "approved_ids", "no call 'call_3' waits"),
    ({"approved_ids": ["call_1", "call_1"]}, "approved_ids", "named twice"),
    (
        {"approved_ids": ["call_1"], "arguments": {"call_2": {"city": "Oslo"}}},
        "arguments",
        "not among approved_ids",
    ),
    ({"approved_ids": ["call_1"], "arguments": {"call_1": {"town": "Oslo"}}}, "arguments", "required property"),
    ({"approved_ids": ["call_1"], "arguments": {"call_1": "{"}}, "arguments", "not valid JSON"),
]


async def test_decisions_that_cannot_be_leave_the_session_open(sqlite_house: OpenHouse, vendor: Vendor) -> None:
    calls = [vendor.call("delete_city", id="call_1"), vendor.call("delete_city", id="call_2")]
    async with sqlite_house(vendor.plain(*calls, vendor.call("get_weather", id="call_3"))) as at:
        session = await at.asked()
        for fields, param, words in DECISIONS:
            answer = await at.request("POST", "/v1/tools/confirm", {"session_id": session, **fields})
            assert (answer.status, answer.error["param"]) == (400, param)
            assert words in answer.error["message"]
        assert len(await at.pending()) == 1
        assert [action for _, action, _, _ in await at.audit()] == ["tool.allow", "tool.ask"]


async def test_unknown_and_foreign_sessions_are_the_same_404(house: OpenHouse, vendor: Vendor, keys: Keys) -> None:
    async with house(vendor.plain(vendor.call("delete_city"))) as at:
        session = await at.asked()
        answers = [await at.confirm(name, "call_1", key=keys.bob) for name in (session, "sess_unknown", "x" * 256)]
        answers += [await at.deny(name, key=keys.bob) for name in (session, "sess_unknown")]
        assert await at.pending(keys.bob) == []
        assert len(await at.pending(keys.admin)) == 1
        assert (await at.confirm(session, "call_1", key=keys.admin)).status == 200
        answers.append(await at.confirm(session, "call_1", key=keys.bob))
    assert {(one.status, one.body) for one in answers} == {(404, answers[0].body)}
    assert answers[0].error["code"] == "session_not_found"


async def test_without_a_key_nothing_is_shown_or_decided(sqlite_house: OpenHouse) -> None:
    async with sqlite_house() as at:
        for method, path in (
            ("POST", "/v1/tools/confirm"), ("POST", "/v1/tools/deny"), ("GET", "/v1/tools/pending"),
            ("GET", "/v1/tools/pending/events"), ("GET", "/admin/tools/policy"), ("PUT", "/admin/tools/policy"),
        ):  # fmt: skip
            assert (await at.request(method, path, {} if method != "GET" else None, key="nobody")).status == 401


async def test_the_list_is_bounded(sqlite_house: OpenHouse, vendor: Vendor) -> None:
    async with sqlite_house(vendor.plain(vendor.call("delete_city"))) as at:
        sessions = [await at.asked() for _ in range(2)]
        answer = await at.request("GET", "/v1/tools/pending?limit=1")
        assert [one["session_id"] for one in answer.json["data"]] == sessions[:1]
        assert answer.json["has_more"]
        for query in ("limit=0", "limit=501", "limit=x", "after=1"):
            assert (await at.request("GET", f"/v1/tools/pending?{query}")).status == 400


async def test_a_tool_that_is_denied_meanwhile_cannot_be_approved_any_more(
    house: OpenHouse, vendor: Vendor, keys: Keys
) -> None:
    async with house(vendor.plain(vendor.call("delete_city")), vendor.plain(text="well")) as at:
        session = await at.asked()
        rule = {"tool": "delete_*", "verdict": "deny", "reason": "not today"}
        put = await at.request("PUT", "/admin/tools/policy", {"rules": [rule]}, key=keys.admin)
        assert put.status == 200, put.body
        answer = await at.confirm(session, "call_1")
        assert (answer.status, answer.error["code"]) == (403, "tool_call_denied")
        assert answer.error["message"].endswith(": not today")
        assert (await at.deny(session)).status == 200


async def test_a_schema_that_leads_out_is_refused_before_the_vendor_is_paid(
    sqlite_house: OpenHouse, vendor: Vendor
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"$ref": "http://169.254.169.254/"}}}
    async with sqlite_house() as at:
        answer = await at.chat(tools=[tool])
        assert at.stub.requests == []
    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, "tools", "invalid_schema")


@pytest.mark.parametrize("stream", [False, True])
async def test_of_several_answers_none_can_be_asked_about(
    sqlite_house: OpenHouse, vendor: Vendor, stream: bool
) -> None:
    reply = (vendor.streamed if stream else vendor.plain)(vendor.call("delete_city"))
    async with sqlite_house(reply) as at:
        answer = await at.chat(n=2, stream=stream)
        assert await at.pending() == []
    error = answer.events[-1]["error"] if stream else answer.error
    assert error["code"] == "tool_call_denied"
    assert "single answers (n = 1) only" in error["message"]
