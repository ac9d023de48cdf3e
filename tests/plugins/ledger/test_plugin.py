"""The ledger within a gateway: one row per request, whatever becomes of the request, the client or the database."""

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pytest
from aiohttp import ClientError, ClientSession
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehook import (
    Authenticator,
    Cache,
    Call,
    Credential,
    Entry,
    Gateway,
    InvalidRequest,
    Observer,
    Principal,
    Section,
    StartupError,
    Unavailable,
    hookimpl,
)
from gatehook.accounts import UsageRow
from gatehook.services import DIRECTORY, LEDGER, Ledger
from gatehook.testing import Reply, StubUpstream, serving
from gatehook_plugins.database import DatabasePlugin
from gatehook_plugins.ledger import LedgerPlugin

SETTINGS = """
[database]
url = "{url}"
timeout = 1
secret = "a secret of more than thirty-two letters, for tests"
[plugins.database]
[plugins.ledger]
directory = "{directory}"
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.vendor_openai]
[[models]]
name = "m"
vendor = "mock"
pricing = {{ input_per_1k_tokens = 1, output_per_1k_tokens = 2 }}
options = {{ text = "one two three", usage = {{ prompt_tokens = 100, completion_tokens = 50 }} }}
[[models]]
name = "slow"
vendor = "mock"
options = {{ text = "one two three four five six", delay = 0.2, report_usage = false }}
[[models]]
name = "broken"
vendor = "mock"
pricing = {{ input_per_1k_tokens = 1, output_per_1k_tokens = 2 }}
options = {{ fault = {{ kind = "status", status = 400 }} }}
[[models]]
name = "falls"
vendor = "mock"
fallbacks = ["m"]
options = {{ fault = {{ kind = "reset" }} }}
[failover]
retries = 0
"""


class Client:
    """A gateway, and somebody who asks."""

    def __init__(self, url: str, gateway: Gateway, session: ClientSession) -> None:
        self.gateway = gateway
        self.ledger: Ledger = gateway.services[LEDGER]
        self.url = url
        self._session = session

    async def ask(self, model: str = "m", *, headers: Mapping[str, str] | None = None, **more: Any) -> tuple[int, Any]:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
        async with self._session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as answer:
            text = await answer.text()
            return answer.status, text if more.get("stream") else json.loads(text)

    async def leave_midway(self) -> None:
        body = {"model": "slow", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with self._session.post(f"{self.url}/v1/chat/completions", json=body) as answer:
            await answer.content.readany()
            answer.close()

    async def rows(self, count: int) -> Sequence[UsageRow]:
        async with asyncio.timeout(20):
            while len(found := await self.ledger.rows()) < count:  # noqa: ASYNC110  # a client may be gone sooner
                await asyncio.sleep(0.01)
        assert len(found) == count
        return found


Serve = Callable[..., AbstractAsyncContextManager[Client]]


class Server(Protocol):
    def url(self, database: str) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def serve_on(directory: Path) -> Serve:
    @asynccontextmanager
    async def start(url: str, more: str = "", **plugins: type) -> AsyncIterator[Client]:
        settings = SETTINGS.format(url=url, directory=directory) + more
        classes = {"database": DatabasePlugin, "ledger": LedgerPlugin, **plugins}
        async with serving(settings, plugins=classes) as served, ClientSession() as session:
            yield Client(served.url, served.gateway, session)

    return start


@pytest.fixture
async def client(serve_on: Serve, database_url: str) -> AsyncIterator[Client]:
    async with serve_on(database_url) as made:
        yield made


def files(directory: Path) -> list[str]:
    return sorted(path.suffix for path in directory.iterdir())


async def test_a_plain_answer(client: Client) -> None:
    assert (await client.ask())[0] == 200
    (row,) = await client.rows(1)
    assert (row.user_id, row.model, row.deployment, row.vendor, row.outcome) == (
        "anonymous", "m", "m#1", "mock", "complete",
    )  # fmt: skip
    assert (row.prompt_tokens, row.completion_tokens, row.provenance) == (100, 50, "vendor")
    assert (row.input_cost, row.output_cost) == (100_000_000, 100_000_000)
    assert abs(row.at - time.time() * 1000) < 60_000
    assert row.first_token is None


async def test_a_stream(client: Client) -> None:
    status, text = await client.ask(stream=True)
    assert status == 200
    assert "[DONE]" in text
    (row,) = await client.rows(1)
    assert (row.outcome, row.prompt_tokens, row.completion_tokens) == ("complete", 100, 50)
    assert row.first_token is not None
    assert row.first_token <= row.latency


async def test_a_client_that_leaves_in_the_middle_pays_for_what_came(client: Client) -> None:
    await client.leave_midway()
    (row,) = await client.rows(1)
    assert (row.outcome, row.http_status, row.code, row.provenance) == ("partial", 499, "client_left", "estimated")
    assert row.prompt_tokens > 0
    assert 0 < row.completion_tokens < 7
    assert row.input_cost is None


async def test_a_fallback_is_one_row_of_the_deployment_that_answered(client: Client) -> None:
    assert (await client.ask("falls"))[0] == 200
    (row,) = await client.rows(1)
    assert (row.model, row.deployment, row.outcome, row.attempts) == ("m", "m#1", "complete", 2)


async def test_an_error_costs_nothing(client: Client) -> None:
    assert (await client.ask("broken"))[0] == 400
    (row,) = await client.rows(1)
    assert (row.outcome, row.http_status, row.tokens, row.cost, row.provenance) == ("failed", 400, 0, 0, "none")


async def test_a_refusal_is_recorded_but_is_no_usage(client: Client) -> None:
    assert (await client.ask("nothing"))[0] == 404
    assert (await client.ask())[0] == 200
    refused = (await client.rows(2))[1]
    assert (refused.outcome, refused.code, refused.attempts) == ("rejected", "model_not_found", 0)
    used = await client.ledger.usage(0, 1 << 60)
    assert [(one.model, one.requests) for one in used] == [("m", 1)]


class Door:
    """Lets ann in."""

    class Settings(Section): ...

    def __init__(self, settings: Settings) -> None: ...

    async def authenticate(self, credential: Credential) -> Principal | None:
        return Principal("ann", key_id="k") if credential.token == "ann" else None

    @hookimpl
    def register_authenticators(self, gateway: Gateway) -> Iterable[Authenticator]:
        return [self]


async def test_somebody_without_a_key_leaves_no_trace(serve_on: Serve, database_url: str, directory: Path) -> None:
    async with serve_on(database_url, "[plugins.door]\n", door=Door) as client:
        assert (await client.ask())[0] == 401
        assert (await client.ask(headers={"Authorization": "Bearer ann"}))[0] == 200
        (row,) = await client.rows(1)
        assert (row.user_id, row.key_id) == ("ann", "k")


class Shelf:
    """Keeps every answer."""

    class Settings(Section): ...

    def __init__(self, settings: Settings) -> None:
        self._kept: dict[bytes, Entry] = {}

    async def get(self, key: bytes, call: Call) -> Entry | None:
        return self._kept.get(key)

    async def put(self, key: bytes, call: Call, entry: Entry) -> None:
        self._kept[key] = entry

    @hookimpl
    def register_caches(self, gateway: Gateway) -> Iterable[Cache]:
        return [self]


async def test_a_cached_answer_costs_nothing(serve_on: Serve, database_url: str) -> None:
    async with serve_on(database_url, "[plugins.shelf]\n", shelf=Shelf) as client:
        assert (await client.ask())[0] == (await client.ask())[0] == 200
        cached, complete = await client.rows(2)
        assert (cached.outcome, cached.tokens, cached.cost, cached.provenance) == ("cached", 0, 0, "none")
        assert complete.cost == 200_000_000


async def test_many_at_once(client: Client) -> None:
    answers = await asyncio.gather(*(client.ask(stream=bool(number % 2)) for number in range(60)))
    assert {status for status, _ in answers} == {200}
    rows = await client.rows(60)
    assert len({row.request_id for row in rows}) == 60
    (used,) = await client.ledger.usage(0, 1 << 60)
    assert (used.requests, used.prompt_tokens, used.completion_tokens) == (60, 6000, 3000)
    assert used.cost == 60 * 200_000_000


async def test_without_a_journal_nothing_is_asked_of_a_vendor(
    serve_on: Serve,
    database_url: str,
    full_disk: Callable[[], AbstractContextManager[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    message = {"role": "assistant", "content": "hello"}
    said = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    async with StubUpstream(Reply.of_json(said)) as stub:
        more = f'[[models]]\nname = "real"\nvendor = "openai"\nbase_url = "{stub.url}"\n'
        async with serve_on(database_url, more) as client:
            journal: Any = client.ledger._flusher.journal  # type: ignore[attr-defined]
            journal._segment._room.seek(0, os.SEEK_END)  # the next line begins a segment
            with full_disk():
                for _ in range(3):
                    status, answer = await client.ask("real")
                    assert (status, answer["error"]["code"]) == (503, "ledger_unavailable")
            assert (await client.ask("real"))[0] == 200
            assert [row.outcome for row in await client.rows(4)] == ["complete", "rejected", "rejected", "rejected"]
        assert len(stub.requests) == 1
    assert caplog.text.count("the ledger's journal cannot be written") == 1


class Books:
    """Books what the ledger writes; its own tables are there only while it runs."""

    class Settings(Section): ...

    told: ClassVar[list[str]] = []

    def __init__(self, settings: Settings) -> None:
        self.told.clear()

    async def post(self, connection: AsyncConnection, rows: Sequence[UsageRow]) -> None:
        self.told.append(f"post {len(rows)}")

    def posted(self, rows: Sequence[UsageRow]) -> None:
        self.told.append(f"posted {len(rows)}")

    async def closed(self, connection: AsyncConnection, owner: str) -> None:
        self.told.append(f"closed {owner}")

    @hookimpl
    def register_observers(self, gateway: Gateway) -> Iterable[Observer]:
        gateway.services[LEDGER].book(self)
        return []


class Fails:
    """Cannot start."""

    class Settings(Section): ...

    requires = (LEDGER,)

    def __init__(self, settings: Settings) -> None: ...

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        raise StartupError("not today")
        yield

    @hookimpl
    def register_lifespans(self, gateway: Gateway) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        return [self.lifespan]


async def test_a_graceful_end_leaves_nothing_behind(serve_on: Serve, database_url: str, directory: Path) -> None:
    async with serve_on(database_url, "[plugins.books]\n", books=Books) as client:
        await client.ask()
        assert files(directory) == [".journal", ".lock"]
        assert re.fullmatch("[0-9a-f]{16}", client.ledger.owner)
    assert files(directory) == []
    assert Books.told == ["post 1", "posted 1", f"closed {client.ledger.owner}"]


async def test_a_start_that_fails_leaves_nothing_behind(
    serve_on: Serve, database_url: str, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StartupError, match="not today"):
        async with serve_on(database_url, "[plugins.books]\n[plugins.fails]\n", books=Books, fails=Fails):
            pass
    assert files(directory) == []
    assert Books.told == [], "nothing was asked of it"
    assert "booked" not in caplog.text


async def test_requests_under_way_at_the_end_have_their_row(
    serve_on: Serve, database_url: str, directory: Path
) -> None:
    async with ClientSession() as session:
        async with serve_on(database_url, "[server]\nport = 0\nshutdown_grace = 0\n") as client:
            stays = Client(client.url, client.gateway, session)
            asking = asyncio.create_task(stays.ask("slow", stream=True))
            async with asyncio.timeout(10):
                while not client.ledger._flusher.journal._under_way:  # type: ignore[attr-defined]  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        with pytest.raises(ClientError):
            await asking
    assert files(directory) == []
    async with serve_on(database_url) as client:
        (row,) = await client.rows(1)
        assert (row.model, row.code) == ("slow", "client_left")


async def test_postgresql_may_go_and_come_back(serve_on: Serve, own_postgres: Server, directory: Path) -> None:
    url = own_postgres.url("postgres")
    async with serve_on(url) as client:
        await client.ask()
        await client.rows(1)
        own_postgres.stop()
        for _ in range(5):
            assert (await client.ask())[0] == 200
        with pytest.raises(Unavailable):
            await client.ledger.rows()
        own_postgres.start()
        async with asyncio.timeout(20):
            while True:
                try:
                    assert len(await client.ledger.rows()) == 6
                    break
                except Unavailable:
                    await asyncio.sleep(0.01)
        await client.ask()
        await client.rows(7)
        own_postgres.stop()
        await client.ask()
    assert files(directory) == [".journal", ".lock"], "kept for the next start"
    own_postgres.start()
    async with serve_on(url) as client:
        await client.rows(8)
        async with asyncio.timeout(20):
            while len(files(directory)) > 2:  # noqa: ASYNC110  # the other's go after their rows came
                await asyncio.sleep(0.01)
    assert files(directory) == []


async def test_a_correction_counts_and_is_audited(client: Client) -> None:
    await client.ask()
    row = await client.ledger.correct("root", "anonymous", model="m", tokens=-30, cost=-50_000_000, reason="outage")
    assert row.request_id.startswith("cor_")
    assert (row.outcome, row.provenance, row.prompt_tokens, row.cost) == ("correction", "operator", -30, -50_000_000)
    assert (await client.rows(2))[0] == row
    (used,) = await client.ledger.usage(0, 1 << 60)
    assert (used.requests, used.prompt_tokens, used.cost) == (1, 70, 150_000_000)
    assert (await client.ledger.performance(0, 1 << 60)).requests == 1
    change = (await client.gateway.services[DIRECTORY].audit(limit=1))[0]
    assert (change.actor, change.action, change.subject) == ("root", "usage.correct", "anonymous")
    assert change.detail["reason"] == "outage"
    assert change.detail["tokens"] == -30


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"tokens": 10**15 + 1},
        {"cost": -(10**15) - 1},
        {"tokens": 1, "user_id": ""},
        {"tokens": 1, "user_id": "a\0"},
        {"tokens": 1, "model": "m" * 300},
        {"tokens": 1, "reason": "\ud83d"},
    ],
)
async def test_an_absurd_correction_is_refused(serve_on: Serve, tmp_path: Path, wrong: dict[str, Any]) -> None:
    async with serve_on(f"sqlite+aiosqlite:///{tmp_path}/x.db") as client:
        with pytest.raises(InvalidRequest):
            await client.ledger.correct("root", **({"user_id": "ann", "reason": ""} | wrong))
        assert await client.ledger.rows() == []
        assert [one.action for one in await client.gateway.services[DIRECTORY].audit()] == []


async def test_a_journal_that_cannot_be_made_is_told_at_the_start(serve_on: Serve, tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("in the way")
    with pytest.raises(Exception, match=r"plugin 'ledger': the journal cannot be kept .* \[plugins.ledger\] directory"):
        async with serve_on(f"sqlite+aiosqlite:///{tmp_path}/x.db"):
            pass
