"""/v1/jobs: what became of one's jobs, and how to be rid of them."""

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from gatehook import PRINCIPAL, Conflict, InvalidRequest, NotFound, PermissionDenied, Principal, encode, read_query
from gatehook_plugins.jobs.bell import Bell
from gatehook_plugins.jobs.dispatcher import Dispatcher
from gatehook_plugins.jobs.reading import Reader
from gatehook_plugins.jobs.results import Results
from gatehook_plugins.jobs.store import Store
from gatehook_plugins.jobs.stored import user_id
from gatehook_plugins.jobs.tables import Status
from gatehook_plugins.jobs.views import view

__all__ = ["JobsApi", "own_job"]

_ID: Final = re.compile(r"job_[0-9a-f]{32}")
_EVERYBODY: Final = "*"


class PageQuery(Struct, forbid_unknown_fields=True):
    """The query of GET /v1/jobs."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    after: str | None = None
    status: Status | None = None
    user: str | None = None


class DeleteQuery(Struct, forbid_unknown_fields=True):
    """The query of DELETE /v1/jobs/ID."""

    purge: bool = False


class JobsApi:
    """The handlers."""

    def __init__(
        self,
        store: Store,
        reader: Reader,
        results: Results,
        dispatcher: Dispatcher,
        bell: Bell,
        tidy: Callable[[str], Awaitable[None]],
    ) -> None:
        """`tidy` stops what a dead process has left of a job."""
        self._store = store
        self._reader = reader
        self._results = results
        self._dispatcher = dispatcher
        self._bell = bell
        self._tidy = tidy

    async def list(self, request: web.Request) -> web.Response:
        """``{"object": "list", "data": [job, …], "has_more"}``, the newest first, without results.

        Raises:
            InvalidRequest: a parameter is wrong. PermissionDenied: somebody else's, and no admin asks.
        """
        asked, principal = read_query(request.query, PageQuery), request[PRINCIPAL]
        if asked.after is not None and not _ID.fullmatch(asked.after):
            raise InvalidRequest("after: expected the id of a job", param="after")
        rows = await self._reader.page(_whose(asked, principal), asked.status, asked.after, asked.limit + 1)
        page = [view(row) for row in rows[: asked.limit]]
        return _json({"object": "list", "data": page, "has_more": len(rows) > asked.limit})

    async def one(self, request: web.Request) -> web.Response:
        """A job, with its result.

        Raises:
            NotFound: there is none, or it is somebody else's.
        """
        job = await own_job(self._reader, request)
        result = await self._reader.result(job.id) if job.status == "succeeded" and job.file is None else None
        told = view(job) | {"result": None if result is None else msgspec.Raw(result)}
        if job.file is not None:
            told["result_url"] = self._results.url(job.file)
        return _json(told)

    async def delete(self, request: web.Request) -> web.Response:
        """Cancel a job: at once where it is queued (200), as soon as its process hears of it where it runs (202).

        With ``?purge=true``: delete one that has ended, and its result.

        Raises:
            NotFound: there is none, or it is somebody else's. Conflict: it has ended; or, to be purged, has not.
            InvalidRequest: a parameter is wrong.
        """
        purge = read_query(request.query, DeleteQuery).purge
        job = await own_job(self._reader, request)
        if purge:
            return await self._purge(job)
        status = await self._store.cancel(job.id)
        self._dispatcher.cancel(job.id)
        self._bell.ring(job.id)
        if status == "cancelled" and job.runs:  # queued again, as its process has died
            await self._tidy(job.id)
        return _json({"job_id": job.id, "status": status}, 202 if status == "running" else 200)

    async def _purge(self, job: Any) -> web.Response:
        if job.finished is None:
            raise Conflict("this job has not ended; cancel it first, with DELETE alone", code="job_not_ended")
        for file in await self._store.purge([job.id]):
            await self._results.delete(file)
        return _json({"job_id": job.id, "deleted": True})


async def own_job(reader: Reader, request: web.Request) -> Any:
    """The row of the job that the path names.

    Raises:
        NotFound: there is none that its caller may see. Which of the two is not told.
    """
    job_id, principal = request.match_info["id"], request[PRINCIPAL]
    job = await reader.job(job_id) if _ID.fullmatch(job_id) else None
    if job is None or not (principal.admin or job.user_id == user_id(principal.id)):
        raise NotFound(f"there is no job {job_id!r}", code="job_not_found")
    return job


def _whose(asked: PageQuery, principal: Principal) -> str | None:
    """Whose jobs are listed; None for everybody's."""
    own = user_id(principal.id)
    if asked.user is None or asked.user == own:
        return own
    if not principal.admin:
        raise PermissionDenied("user: only admins may list the jobs of others", param="user", code="admin_required")
    return None if asked.user == _EVERYBODY else user_id(asked.user)


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=encode(value), headers={"Content-Type": "application/json"})
