"""GET /v1/jobs/ID/events: what happens to a job, as server-sent events, from any event on."""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from gatehook import Document, InvalidRequest, Unavailable, encode, limit_headers
from gatehook.sse import frame
from gatehook_plugins.jobs.bell import Bell
from gatehook_plugins.jobs.progress import preview_uri
from gatehook_plugins.jobs.reading import Reader
from gatehook_plugins.jobs.routes import own_job
from gatehook_plugins.jobs.tables import ENDED

__all__ = ["Feed"]

_HEADER: Final = "Last-Event-ID"
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
    "Server": "gatehook",
}


class Feed:
    """The handler. Times are in seconds."""

    def __init__(
        self,
        reader: Reader,
        bell: Bell,
        *,
        poll: float,
        heartbeat: float,
        is_open: Callable[[], bool],
    ) -> None:
        """`heartbeat` is how long it may be silent; when no longer `is_open`, clients are to come again."""
        self._reader = reader
        self._bell = bell
        self._poll = poll
        self._heartbeat = heartbeat
        self._is_open = is_open

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """All events after `Last-Event-ID`, as they come, to the one that tells how the job ended.

        Raises:
            NotFound: there is no such job. InvalidRequest: `Last-Event-ID` is no event's number.
        """
        job = await own_job(self._reader, request)
        after = request.headers.get(_HEADER, "0").strip()
        if not _NUMBER.fullmatch(after):
            raise InvalidRequest(f"{_HEADER}: expected the id of an event of this job", param=_HEADER)
        response = web.StreamResponse(headers={**_HEADERS, **await limit_headers(request)})
        if request.method == "HEAD":
            return response
        with self._bell.heard(job.id) as news:
            await response.prepare(request)
            with contextlib.suppress(ConnectionError, Unavailable):
                if await self._write(request, response, int(after), news):
                    await response.write_eof()
                    return response
        response.force_close()
        if request.transport is not None:
            request.transport.close()
        return response

    async def _write(self, request: web.Request, response: web.StreamResponse, after: int, news: asyncio.Event) -> bool:
        """Write events until the last; False: the stream is broken off, and the client may come again."""
        heard, job_id = time.monotonic(), request.match_info["id"]
        while self._is_open() and request.transport is not None and not request.transport.is_closing():
            news.clear()
            found = await self._reader.events(job_id, after)
            for event in found:
                await response.write(_framed(event))
                heard, after = time.monotonic(), event.number
                if event.kind in ENDED:
                    return True
            if found:
                continue
            if await self._is_over(job_id, after):
                return True
            if time.monotonic() - heard >= self._heartbeat:
                await response.write(b": keep-alive\n\n")
                heard = time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await news.wait()
        return False

    async def _is_over(self, job_id: str, after: int) -> bool:
        """Whether the client has the last event already, or the job is gone."""
        job = await self._reader.job(job_id)
        return job is None or (job.finished is not None and after >= job.events)


def _framed(event: Any) -> bytes:
    data = event.data.encode()
    if event.preview is not None:
        data = encode({**Document(raw=data).data, "preview": preview_uri(event.preview)})
    return b"id: %d\n%b" % (event.number, frame(data, event.kind))
