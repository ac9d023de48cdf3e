"""Gateways that keep jobs, on a real database, with a vendor whose answers the test decides."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from gatehook import (
    Attempt,
    Chunk,
    Completion,
    Gateway,
    Operation,
    Parameter,
    Progress,
    Section,
    Usage,
    Vendor,
    completion,
    hookimpl,
)
from gatehook.testing import serving

SETTINGS = """
[server]
port = 0
shutdown_grace = {grace}
[database]
url = "{url}"
secret = "a secret of more than thirty-two letters, for tests"
[egress]
allow_private_urls = {private}
[failover]
retries = 0
[plugins.database]
[plugins.openai_api]
[plugins.route_models]
[plugins.stage]
[plugins.jobs]
poll = {poll}
backoff = 0.05
lease = {lease}
{jobs}
{more}
[[models]]
name = "m"
vendor = "stage"
pricing = {{ input_per_1k_tokens = 1, output_per_1k_tokens = 1 }}
[[models]]
name = "other"
vendor = "stage"
"""


class Play:
    """One call that has come to the vendor; it waits until the test answers it."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.answer: asyncio.Future[str | Exception] = asyncio.get_running_loop().create_future()

    @property
    def text(self) -> str:
        """What the user said."""
        return str(self.attempt.payload["messages"][-1]["content"])

    def progress(self, fraction: float, **more: Any) -> None:
        """Tell how far it is."""
        assert self.attempt.call.progress is not None
        self.attempt.call.progress(Progress(fraction, **more))


class Stage:
    """The vendor: what is said to it is answered at once, unless the test wants to answer itself."""

    name = "stage"
    operations: frozenset[Operation] = frozenset({"chat", "embeddings"})
    parameters: Mapping[Operation, Mapping[str, Parameter]] = {}

    def __init__(self) -> None:
        self.held = False
        self.plays: asyncio.Queue[Play] = asyncio.Queue()
        self.calls: list[Attempt] = []
        self.script: list[str | Exception] = []
        """Answers for those that are not held; then each is told what it said."""
        self.running = self.most = 0
        self.delay = 0.0
        """Seconds that an answer takes which is not held."""

    async def complete(self, attempt: Attempt) -> Completion:
        self.calls.append(attempt)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            play = Play(attempt)
            if self.held:
                self.plays.put_nowait(play)
                answer = await play.answer
            else:
                await asyncio.sleep(self.delay)
                answer = self.script.pop(0) if self.script else "ok"
        finally:
            self.running -= 1
        if isinstance(answer, Exception):
            raise answer
        choice = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
        return completion(attempt.call, [choice], Usage(10, 10))

    async def stream(self, attempt: Attempt) -> AsyncIterator[Sequence[Chunk]]:
        raise AssertionError("no job is streamed")
        yield []


class House:
    """A serving gateway, and a client of it."""

    def __init__(self, url: str, gateway: Gateway, session: ClientSession, stage: Stage) -> None:
        self.url = url
        self.gateway = gateway
        self.session = session
        self.stage = stage

    async def ask(self, method: str, path: str, body: Any = None, key: str = "", **headers: str) -> tuple[int, Any]:
        """The status, and the body decoded."""
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            said["Authorization"] = f"Bearer {key}"
        async with self.session.request(method, self.url + path, json=body, headers=said) as answer:
            return answer.status, json.loads(await answer.read())

    async def submit(self, text: str = "hi", *, model: str = "m", key: str = "", **headers: str) -> str:
        """Queue a chat; gives the job's id."""
        body = {"model": model, "max_tokens": 10, "messages": [{"role": "user", "content": text}], "async": True}
        status, said = await self.ask("POST", "/v1/chat/completions", body, key, **headers)
        assert (status, said["status"], said["model"]) == (202, "async_started", model), said
        return str(said["job_id"])

    async def job(self, job_id: str, key: str = "") -> Any:
        """What is told of a job."""
        status, said = await self.ask("GET", f"/v1/jobs/{job_id}", key=key)
        assert status == 200, said
        return said

    async def ended(self, job_id: str, key: str = "") -> Any:
        """A job when it has ended: the feed of its events says when."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with self.session.get(f"{self.url}/v1/jobs/{job_id}/events", headers=headers) as answer:
            assert answer.status == 200
            await answer.read()
        return await self.job(job_id, key)


OpenHouse = Callable[..., AbstractAsyncContextManager[House]]


@pytest.fixture
def house(database_url: str) -> OpenHouse:
    """Opens a gateway on the test's database, of either kind; several may be open at once."""
    return opening(database_url)


@pytest.fixture
def lite(tmp_path: Path) -> OpenHouse:
    """The same on SQLite, for what has nothing to do with the kind."""
    return opening(f"sqlite+aiosqlite:///{tmp_path / 'gatehook.db'}")


def opening(database_url: str) -> OpenHouse:
    @contextlib.asynccontextmanager
    async def opened(
        *,
        jobs: str = "",
        more: str = "",
        grace: float = 0.2,
        lease: float = 3,
        poll: float = 0.05,
        private: bool = True,
        stage: Stage | None = None,
        plugins: Mapping[str, type] | None = None,
    ) -> AsyncIterator[House]:
        vendor = stage or Stage()

        class StagePlugin:
            class Settings(Section): ...

            def __init__(self, settings: Settings) -> None: ...

            @hookimpl
            def register_vendors(self) -> Iterable[Vendor]:
                return [vendor]

        text = SETTINGS.format(
            url=database_url, jobs=jobs, more=more, grace=grace, lease=lease, poll=poll, private=str(private).lower()
        )
        async with (
            serving(text, plugins={"stage": StagePlugin, **(plugins or {})}) as served,
            ClientSession() as session,
        ):
            yield House(served.url, served.gateway, session, vendor)

    return opened
