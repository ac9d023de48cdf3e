"""A stand-in for a server that makes pictures: what a vendor's author writes once, for all checks.

The protocols of such servers differ: one request and its answer, jobs that are polled, WebSockets, files that are
fetched. So the suite assumes none of them: the author writes the whole server; the suite sets its `plan`, which says
what becomes of the pictures that are asked for, and looks at what the server has recorded.
"""

import asyncio
import hashlib
import json
import re
import struct
import zlib
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from aiohttp import web

from gatehook.testing import Recorded, Reply
from gatehook.testing.conformance.script import Failure

__all__ = ["Fate", "ImageServer", "Job", "Plan", "PostedImages", "half", "painted", "size_of"]

_A_WHILE = 0.3
"""Seconds that a slow server takes."""

Fate = Literal["made", "slow", "held", "refused", "failed", "dead", "cut", "nonsense", "empty"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of a job, that is, of what a server is asked for.

    made: it gives its pictures. slow: the same, after some tenths of a second. held: it begins, and nothing more is
    heard of it. refused: it is not accepted, because of `failure`. failed: it is accepted, and fails because of
    `failure`. dead: when it begins, the server goes away with all its connections. cut: the connection ends in the
    middle of a picture. nonsense: the server sends something that is not its dialect. empty: it succeeds without a
    picture.
    """

    fate: Fate = "made"
    failure: Failure | None = None


@dataclass(eq=False)
class Job:
    """One thing that the server was asked for."""

    prompt: str
    pictures: list[bytes] = field(default_factory=list)
    """What was made for it."""
    ended: Literal["", "done", "stopped"] = ""
    """How it ended: by itself, well or not; or because it was not wanted any more. "" while it runs."""


class ImageServer:
    """Subclass it. One instance serves one check, in which the gateway may ask it for many things at once."""

    plays: ClassVar[Collection[Fate]] = frozenset(get_args(Fate))
    """The plans that it can play; checks with others are reported as not offered."""

    def __init__(self) -> None:
        self.url = ""
        """Its address, ``http://127.0.0.1:PORT``; set by `serving()`."""
        self.plan = Plan()
        """The plan for jobs that begin from now on."""
        self.jobs: list[Job] = []
        """All jobs, in the order of `begin()`."""
        self.requests: list[Recorded] = []
        """All requests that it got, for checks of secrets and parameters; to be recorded by the author."""
        self._changed = asyncio.Condition()

    def serving(self) -> AbstractAsyncContextManager[object]:
        """Listen on a free port of this machine, and set `url`."""
        raise NotImplementedError(f"{type(self).__name__}.serving() must listen, and set `url`")

    def options(self) -> Mapping[str, Any]:
        """The `options` of a deployment there, beside those of the suite."""
        return {}

    def refuses(self, failure: Failure) -> bool:
        """Whether the dialect has such a refusal; if not, it is not tried."""
        return True

    def values(self, request: Recorded) -> list[Any]:
        """All single values in a request; by default those in a JSON body, at any depth."""
        try:
            return list(_leaves(json.loads(request.body)))
        except ValueError:
            return []

    async def begin(self, prompt: str) -> Job:
        """Record that a job has begun. To be called by the author, whatever becomes of the job."""
        self.jobs.append(Job(prompt))
        await self._tell()
        return self.jobs[-1]

    def paint(self, job: Job, size: str = "") -> bytes:
        """A picture for a job, different from all others, in the size that was asked for, or "64x64"."""
        width, height = map(int, (size or "64x64").split("x"))
        job.pictures.append(painted(f"{self.jobs.index(job)} {len(job.pictures)}", width, height))
        return job.pictures[-1]

    async def end(self, job: Job, how: Literal["done", "stopped"] = "done") -> None:
        """Record how a job has ended. To be called by the author; the first call counts."""
        job.ended = job.ended or how
        await self._tell()

    async def begun(self, count: int = 1) -> None:
        """Wait until so many jobs have begun."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.jobs) >= count)

    async def rested(self) -> None:
        """Wait until no job is running."""
        async with self._changed:
            await self._changed.wait_for(lambda: all(job.ended for job in self.jobs))

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class PostedImages(ImageServer):
    """For dialects in which a request is answered with its pictures; the author only writes how to read and answer."""

    def read(self, request: Recorded) -> tuple[str, int, str]:
        """What a request asks for: the prompt, how many, and the size ("" if it does not say)."""
        raise NotImplementedError(f"{type(self).__name__}.read() must say what a request asks for")

    def answer(self, pictures: Sequence[bytes]) -> Reply:
        """The answer with these pictures."""
        raise NotImplementedError(f"{type(self).__name__}.answer() must say how the server answers")

    def failure(self, failure: Failure) -> Reply:
        """An error answer, with the message in it; by default what OpenAI and many others send."""
        error = {"message": failure.message, "type": failure.kind, "code": None}
        return Reply.of_json({"error": error}, status=failure.status, headers=failure.headers)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listen while this context is open."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = Recorded(request.method, request.path_qs, headers, await request.read())
        self.requests.append(asked)
        prompt, count, size = self.read(asked)
        job = await self.begin(prompt)
        try:
            return await self._played(request, job, count, size)
        except asyncio.CancelledError:  # the line was closed
            await self.end(job, "stopped")
            raise
        finally:
            await self.end(job)

    async def _played(self, request: web.Request, job: Job, count: int, size: str) -> web.StreamResponse:
        """Answer a job as planned."""
        match self.plan:
            case Plan("refused" | "failed", Failure() as failure):
                return _response(self.failure(failure))
            case Plan("held"):
                await asyncio.Event().wait()
            case Plan("dead"):
                _hang_up(request)
            case Plan("nonsense"):
                return web.Response(text="<html>What do you mean?</html>", content_type="text/html")
            case Plan("empty"):
                return _response(self.answer([]))
            case Plan("slow"):
                await asyncio.sleep(_A_WHILE)
        whole = _response(self.answer([self.paint(job, size) for _ in range(count)]))
        return await half(request, whole) if self.plan.fate == "cut" else whole


def _response(reply: Reply) -> web.Response:
    body = reply.body if isinstance(reply.body, bytes) else b"".join(reply.body)
    return web.Response(body=body, status=reply.status, headers=reply.headers, content_type=reply.content_type)


async def half(request: web.Request, whole: web.Response) -> web.StreamResponse:
    """Send half of an answer, and cut the connection in the middle of the body."""
    assert isinstance(whole.body, bytes)
    begun = web.StreamResponse(status=whole.status, headers=whole.headers)
    begun.content_length = len(whole.body)
    await begun.prepare(request)
    await begun.write(whole.body[: len(whole.body) // 2])
    _hang_up(request)
    return begun


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


def _leaves(value: Any) -> Iterator[Any]:
    """All values within a JSON value that are neither lists nor objects."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)
    else:
        yield value


def painted(text: str, width: int = 64, height: int = 64) -> bytes:
    """A picture (PNG) of one colour, which depends on the text."""
    digest = hashlib.sha256(text.encode()).digest()
    rows = bytes((width + 7) // 8 + 1) * height
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 3, 0, 0, 0)),
        (b"PLTE", digest[:3]),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def size_of(png: bytes) -> str:
    """The size of a picture (PNG), as in "64x64"; "" if it is not one, or incomplete."""
    match = re.match(rb"\x89PNG\r\n\x1a\n....IHDR(.{8})", png, re.DOTALL)
    if match is None or not png.endswith(_chunk(b"IEND", b"")):
        return ""
    width, height = struct.unpack(">II", match[1])
    return f"{width}x{height}"
