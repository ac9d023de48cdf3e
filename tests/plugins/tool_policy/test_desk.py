"""Sessions over time: they expire, are bounded and bound to what was asked, and release nothing without a store."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from gatehook import (
    DATABASE,
    DIRECTORY,
    Call,
    Conflict,
    Document,
    NotFound,
    Principal,
    Question,
    RateLimited,
    StartupError,
    ToolCall,
)
from gatehook.testing import built
from gatehook_plugins.tool_policy.desk import Desk
from gatehook_plugins.tool_policy.sessions import Decision, Session
from gatehook_plugins.tool_policy.store import SESSIONS

House = Any
OpenHouse = Any
Vendor = Any
Keys = Any

ALICE = Principal("alice")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def desk_at(url: str, clock: Clock) -> AsyncIterator[tuple[Desk, Any, Any]]:
    gateway = built(f'[database]\nurl = "{url}"\nsecret = "{"pepper" * 8}"\n[plugins.database]\n')
    database, directory = gateway.services[DATABASE], gateway.services[DIRECTORY]
    desk = Desk(database, directory, lifetime=60, retention=300, most=2, largest=10_000, now=clock)
    async with gateway.lifespan(), database.opened():
        await database.migrate("tool_policy", "gatehook_plugins.tool_policy.migrations")
        yield desk, database, directory


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def desk(database_url: str, clock: Clock) -> AsyncIterator[tuple[Desk, Any, Any]]:
    async with desk_at(database_url, clock) as made:
        yield made


def call_of(principal: Principal = ALICE, text: str = "hi") -> Call:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return Call("chat", "test", {}, model="m", principal=principal, body=Document(body))


def question(arguments: str = '{"a": 1}') -> Question:
    function = {"name": "f", "arguments": arguments}
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": function}]}
    return Question(message, [ToolCall("c", "f", arguments)])


async def actions(directory: Any) -> list[tuple[str, str]]:
    return [(line.action, line.actor) for line in reversed(await directory.audit())]


async def test_what_nobody_decides_about_in_time_is_denied_and_told(desk: Any, clock: Clock) -> None:
    at, database, directory = desk
    session = (await at.keep(call_of(), question()))["session_id"]
    clock.now += 61
    with pytest.raises(Conflict) as late:
        await at.session(session, ALICE)
    assert late.value.code == "session_expired"
    assert await at.waiting(ALICE, 10) == []
    await at.expire()
    await at.expire()
    assert await actions(directory) == [("tool.ask", "alice"), ("tool.expire", "gateway")]
    with pytest.raises(Conflict) as late:
        await at.session(session, ALICE)
    assert late.value.code == "session_expired"
    async with database.reading() as connection:
        (row,) = await connection.execute(sa.select(SESSIONS))
    assert (row.status, row.kept, row.calls) == ("expired", b"", b"[]")


async def test_a_decision_that_comes_too_late_does_not_count(desk: Any, clock: Clock) -> None:
    at, _, directory = desk
    session = await at.session((await at.keep(call_of(), question()))["session_id"], ALICE)
    clock.now += 61
    with pytest.raises(Conflict) as late:
        await at.decide("alice", session, Decision({"c": "{}"}))
    assert late.value.code == "session_expired"
    assert [action for action, _ in await actions(directory)] == ["tool.ask"]


async def test_what_is_decided_is_remembered_for_a_while_and_then_forgotten(desk: Any, clock: Clock) -> None:
    at, database, _ = desk
    session = await at.session((await at.keep(call_of(), question()))["session_id"], ALICE)
    await at.decide("alice", session, Decision({}))
    clock.now += 299
    await at.expire()
    with pytest.raises(Conflict) as again:
        await at.session(session.id, ALICE)
    assert again.value.code == "already_resolved"
    async with database.reading() as connection:
        (row,) = await connection.execute(sa.select(SESSIONS))
    assert (row.kept, row.calls) == (b"", b"[]")  # what was said is gone with the decision
    clock.now += 2
    await at.expire()
    with pytest.raises(NotFound):
        await at.session(session.id, ALICE)


async def halted(at: Desk) -> Session:
    """A session that is decided, and whose next turn could not begin."""
    session = await at.session((await at.keep(call_of(), question()))["session_id"], ALICE)
    await at.decide("alice", session, Decision({"c": "{}"}))
    await at.halt(session, msgspec.structs.replace(session.conversation(), decision=Decision({"c": "{}"})))
    return await at.session(session.id, ALICE)


async def test_what_is_halted_is_kept_for_a_while_whatever_is_forgotten_and_then_over(desk: Any, clock: Clock) -> None:
    at, database, directory = desk
    first = await at.session((await at.keep(call_of(), question()))["session_id"], ALICE)
    await at.decide("alice", first, Decision({}))
    clock.now += 301
    await at.expire()  # it is forgotten while its turn goes on
    await at.halt(first, msgspec.structs.replace(first.conversation(), decision=Decision({})))
    session = await at.session(first.id, ALICE)
    clock.now += 59
    await at.expire()
    assert (await at.session(session.id, ALICE)).conversation().decision == Decision({})
    clock.now += 2
    for _ in range(2):
        with pytest.raises(Conflict) as late:
            await at.resume(session, session.conversation(), Decision({}))
        assert late.value.code == "session_expired"
        with pytest.raises(Conflict):
            await at.session(session.id, ALICE)
        await at.expire()
    async with database.reading() as connection:
        (row,) = await connection.execute(sa.select(SESSIONS))
    assert (row.status, row.kept, row.calls) == ("decided", b"", b"[]")
    assert [action for action, _ in await actions(directory)] == ["tool.ask", "tool.deny"]


async def test_what_is_halted_is_taken_up_once(desk: Any, clock: Clock) -> None:
    at, *_ = desk
    session = await halted(at)
    kept = session.conversation()
    with pytest.raises(Conflict):
        await at.resume(session, kept, Decision({}))
    results = await asyncio.gather(
        *(at.resume(session, kept, Decision({"c": "{}"})) for _ in range(3)), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in results) == ["Conflict", "Conflict", "NoneType"]
    with pytest.raises(Conflict):
        await at.decide("bob", session, Decision({}))


async def test_what_is_halted_counts_as_waiting_and_is_not_to_be_decided(desk: Any, clock: Clock) -> None:
    at, *_ = desk
    await halted(at)
    await at.keep(call_of(), question())
    with pytest.raises(RateLimited) as full:
        await at.keep(call_of(), question())
    assert full.value.code == "too_many_pending"
    assert len(await at.waiting(ALICE, 10)) == 1


async def test_a_user_may_have_so_many_waiting_and_others_as_many(desk: Any, clock: Clock) -> None:
    at, *_ = desk
    for _ in range(2):
        await at.keep(call_of(), question())
    with pytest.raises(Exception, match="2 tool calls wait for a confirmation already"):
        await at.keep(call_of(), question())
    await at.keep(call_of(Principal("bob")), question())
    clock.now += 61
    await at.keep(call_of(), question())


async def test_what_is_too_large_is_not_kept_and_not_released(desk: Any) -> None:
    at, _, directory = desk
    with pytest.raises(Exception, match="max_conversation is 10000"):
        await at.keep(call_of(text="x" * 10_000), question())
    assert await actions(directory) == []


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": "bob"},
        {"model": "dearer"},
        {"expires": 9_000_000_000_000},
        {"calls": b'[{"id":"c","name":"f","arguments":"{}"}]'},
        {"kept": b'{"body":{"model":"m","messages":[]},"message":{}}'},
    ],
    ids=["user", "model", "time", "arguments", "conversation"],
)
async def test_a_session_that_was_tampered_with_releases_nothing(desk: Any, change: dict[str, Any]) -> None:
    at, database, _ = desk
    session = (await at.keep(call_of(), question()))["session_id"]
    async with database.writing() as connection:
        await connection.execute(SESSIONS.update().values(**change))
    with pytest.raises(Exception, match="tampered with"):
        await at.session(session, Principal("root", admin=True))


async def test_texts_that_are_no_unicode_are_kept_as_they_are(desk: Any) -> None:
    at, *_ = desk
    made = await at.keep(call_of(text="\ud83d"), question('{"a": "\ud83d"}'))
    session = await at.session(made["session_id"], ALICE)
    assert session.calls[0].arguments == '{"a": "\ud83d"}'
    assert session.conversation().body["messages"][0]["content"] == "\ud83d"


async def test_names_that_no_database_takes_are_told_as_far_as_they_can_be(desk: Any) -> None:
    at, _, directory = desk
    odd = ToolCall("c\x00", "f\ud83d\x00", "{}")
    await at.keep(call_of(), Question({"role": "assistant", "tool_calls": []}, [odd]))
    (line,) = await directory.audit()
    assert [(one["id"], one["name"]) for one in line.detail["calls"]] == [("c?", "f??")]


async def test_two_desks_of_one_database_decide_once(database_url: str, clock: Clock) -> None:
    async with desk_at(database_url, clock) as (one, _, directory), desk_at(database_url, clock) as (other, *_):
        for _ in range(5):
            session = await one.session((await one.keep(call_of(), question()))["session_id"], ALICE)
            results = await asyncio.gather(
                one.decide("alice", session, Decision({"c": "{}"})),
                other.decide("bob", session, Decision({})),
                one.decide("eve", session, Decision({})),
                return_exceptions=True,
            )
            assert sorted(type(one).__name__ for one in results) == ["Conflict", "Conflict", "NoneType"]
        decided = [action for action, _ in await actions(directory) if action != "tool.ask"]
        assert len(decided) == 5


@pytest.mark.parametrize("stream", [False, True])
async def test_without_the_store_nothing_is_released(
    own_postgres: Any, vendor: Vendor, settings_text: Callable[..., str], stream: bool, opened_house: Any
) -> None:
    make = vendor.streamed if stream else vendor.plain
    rules = 'rules = [{ tool = "delete_*", verdict = "confirm" }]'
    async with opened_house(
        make(vendor.call("delete_city")), policy=rules, database=own_postgres.url("postgres")
    ) as at:
        answer = await at.chat(stream=stream)
        session = (answer.events[-2] if stream else answer.json)["session_id"]
        own_postgres.stop()
        answer = await at.chat(stream=stream)
        error = answer.events[-1]["error"] if stream else answer.error
        assert error["code"] == "database_unavailable"
        assert answer.status == (200 if stream else 503)
        assert b"delete_city" not in answer.body
        refused = await at.confirm(session, "call_1")
        assert (refused.status, refused.error["code"]) == (503, "database_unavailable")
        own_postgres.start()
        for _ in range(50):
            if (released := await at.confirm(session, "call_1")).status != 503:
                break
        assert released.status == 200


def test_rules_that_ask_need_the_database(settings_text: Callable[..., str]) -> None:
    with pytest.raises(StartupError, match=r"enable \[plugins.database\]"):
        built('[plugins.tool_policy]\nrules = [{ tool = "rm", verdict = "confirm" }]')
    with pytest.raises(StartupError, match=r"enable \[plugins.database\]"):
        built('[plugins.tool_policy]\ndefault = "confirm"')


async def test_without_a_database_the_rules_hold_and_nothing_is_asked(bare_house: OpenHouse, vendor: Vendor) -> None:
    deny = 'rules = [{ tool = "delete_*", verdict = "deny", reason = "never" }]'
    async with bare_house(vendor.plain(vendor.call("delete_city")), policy=deny) as at:
        answer = await at.chat()
        assert (await at.request("GET", "/v1/tools/pending")).status == 404
    assert (answer.status, answer.error["code"]) == (403, "tool_call_denied")
    assert answer.error["message"].endswith("is denied: never")
    assert [one["function"]["name"] for one in at.stub.requests[0].json["tools"]] == ["get_weather", "rename_city"]


async def test_a_choice_of_a_denied_tool_is_refused(bare_house: OpenHouse) -> None:
    async with bare_house(policy='rules = [{ tool = "delete_*", verdict = "deny" }]') as at:
        answer = await at.chat(tool_choice={"type": "function", "function": {"name": "delete_city"}})
        assert at.stub.requests == []
    assert (answer.status, answer.error["code"]) == (403, "tool_not_allowed")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('default = "maybe"', "default"),
        ('rules = [{ tool = "x" }]', "verdict"),
        ('rules = [{ tol = "x", verdict = "deny" }]', "tol"),
        ("retries = 9", "retries"),
        ("expires_after = 0", "expires_after"),
        ('invalid = "ignore"', "invalid"),
    ],
)
def test_settings_that_cannot_be_are_told(table: str, words: str) -> None:
    with pytest.raises(StartupError, match=words):
        built(f"[plugins.tool_policy]\n{table}\n")
