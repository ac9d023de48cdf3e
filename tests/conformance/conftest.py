"""Runs checks of a suite as functions; and a server for the suite for vendors of pictures."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

import pytest
from aiohttp import web

from gatehook.testing import Recorded
from gatehook.testing.conformance import Failure, ImageServer, Plan, half
from gatehook.testing.conformance.suite import NOT_OFFERED, Suite, capabilities, checks


async def failing_checks(suite: Suite, *, without: Collection[str] = ()) -> dict[str, str]:
    """The capabilities whose checks fail, and what they say."""
    found: dict[str, str] = {}
    for method, capability in checks(type(suite)).items():
        if capability in without:
            continue
        try:
            await getattr(suite, method)()
        except pytest.skip.Exception as skipped:
            if not str(skipped.msg).startswith(NOT_OFFERED):
                raise
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  # whatever a faulty plugin does
            found[capability] = str(error)
    return found


@pytest.fixture(name="failing")
def failing_fixture() -> Callable[..., Awaitable[dict[str, str]]]:
    """Runs all checks of a suite: what fails."""
    return failing_checks


@pytest.fixture(name="capabilities")
def capabilities_fixture() -> Callable[[type[Suite]], list[str]]:
    """All that a suite checks."""
    return capabilities


class PictureJobs(ImageServer):
    """POST /jobs, GET and DELETE /jobs/NAME, GET /pictures/NAME. A job is over at the second look."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, dict[str, Any]] = {}
        self.looks: dict[str, int] = {}
        self.pictures: dict[str, bytes] = {}

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application(middlewares=[self.noted])
        app.router.add_post("/jobs", self.take)
        app.router.add_get("/jobs/{name}", self.look)
        app.router.add_delete("/jobs/{name}", self.give_up)
        app.router.add_get("/pictures/{name}", self.show)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await runner.cleanup()

    @web.middleware
    async def noted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(Recorded(request.method, request.path_qs, dict(request.headers), await request.read()))
        if self.plan.fate == "dead" and self.jobs:
            request.transport.close()  # type: ignore[union-attr]
        if self.plan.fate == "nonsense":
            return web.Response(text="<html>What do you mean?</html>", content_type="text/html")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def take(self, request: web.Request) -> web.Response:
        asked = await request.json()
        name = str(len(self.jobs))
        job = await self.begin(asked["words"])
        if self.plan.fate == "refused":
            assert self.plan.failure is not None
            await self.end(job)
            told = self.plan.failure
            return web.Response(text=told.message, status=told.status, headers=told.headers)
        self.known[name] = {**asked, "job": job}
        return web.json_response({"job": name})

    async def look(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        known, job = self.known[name], self.known[name]["job"]
        self.looks[name] = self.looks.get(name, 0) + 1
        slow = 60 if self.plan.fate == "slow" else 2
        if self.plan.fate == "held" or self.looks[name] < slow:
            return web.json_response({"done": min(self.looks[name] / slow, 0.9)})
        await self.end(job)
        match self.plan:
            case Plan("failed", Failure() as failure):
                return web.json_response({"done": 1.0, "failed": failure.message})
            case Plan("empty"):
                return web.json_response({"done": 1.0, "pictures": []})
        names = [f"{name}-{number}" for number in range(known["count"])]
        self.pictures |= {one: self.paint(job, known["size"]) for one in names}
        return web.json_response({"done": 1.0, "pictures": names})

    async def give_up(self, request: web.Request) -> web.Response:
        await self.end(self.known[request.match_info["name"]]["job"], "stopped")
        return web.Response()

    async def show(self, request: web.Request) -> web.StreamResponse:
        whole = web.Response(body=self.pictures[request.match_info["name"]], content_type="image/png")
        return await half(request, whole) if self.plan.fate == "cut" else whole


@pytest.fixture
def picture_jobs() -> type[ImageServer]:
    """A stand-in that is spoken to by several requests for one picture."""
    return PictureJobs
