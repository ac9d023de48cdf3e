"""The engine's HTTP: OpenAI's endpoints on a Unix socket."""

import asyncio
import base64
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

import msgspec
from aiohttp import web

from gatehook_plugins.vendor_gguf.engine.answers import ChatShape, CompletionShape, Shape, usage_of
from gatehook_plugins.vendor_gguf.engine.embeddings import Embedder
from gatehook_plugins.vendor_gguf.engine.errors import EngineError, Invalid, TooLong
from gatehook_plugins.vendor_gguf.engine.jobs import Job, News
from gatehook_plugins.vendor_gguf.engine.llama import Model
from gatehook_plugins.vendor_gguf.engine.requests import ChatRequest, CompletionRequest, EmbeddingRequest, read
from gatehook_plugins.vendor_gguf.engine.scheduler import Scheduler, Status
from gatehook_plugins.vendor_gguf.engine.writer import Writer, prompts_of

__all__ = ["EmbeddingServer", "Endpoints", "TextServer", "application"]

_LARGEST: Final = 64 << 20
"""The most bytes of a body; the gateway in front has a limit of its own."""
_MOST_INPUTS: Final = 2048
_UNREAD: Final = 120.0
"""The most seconds for which the gateway may read nothing of an answer."""
_SHORT: Final = 1 << 15
"""Up to so many bytes are written without a timeout, if nothing else waits to be sent."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Endpoints(Protocol):
    """The paths that a model serves, and how busy it is."""

    def routes(self) -> dict[str, Handler]:
        """The handlers of POST requests, by path."""

    def status(self) -> Status:
        """How busy the engine is."""

    def progress(self) -> int | None:
        """How many steps were computed; None if there is nothing to do."""


def application(endpoints: Endpoints) -> web.Application:
    """The endpoints as an application."""

    async def status(_: web.Request) -> web.StreamResponse:
        return _json(endpoints.status())

    app = web.Application(client_max_size=_LARGEST, middlewares=[_errors])
    app.router.add_get("/status", status)
    for path, handler in endpoints.routes().items():
        app.router.add_post(path, handler)
    return app


class TextServer:
    """The endpoints of a model that writes text."""

    def __init__(
        self, model: Model, writer: Writer, scheduler: Scheduler, *, name: str, reasoning: tuple[str, str] | None
    ) -> None:
        """`name` is the model's, in answers to requests that name none."""
        self._model = model
        self._writer = writer
        self._scheduler = scheduler
        self._name = name
        self._reasoning = reasoning

    def routes(self) -> dict[str, Handler]:
        """See `Endpoints`."""
        return {
            "/v1/chat/completions": self._chat,
            "/v1/completions": self._completions,
            "/v1/embeddings": self._no_embeddings,
        }

    def status(self) -> Status:
        """See `Endpoints`."""
        return self._scheduler.status()

    def progress(self) -> int | None:
        """See `Endpoints`."""
        return self._scheduler.progress

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        request = read(await http.read(), ChatRequest)
        plan = await self._writer.chat(request)
        name, chances = request.model or self._name, bool(request.logprobs)
        shape = ChatShape(self._model, name, plan, self._reasoning, chances=chances)
        if request.stream:
            return await self._stream(http, plan.jobs, shape, with_usage=request.with_usage)
        return await self._whole(plan.jobs, shape)

    async def _completions(self, http: web.Request) -> web.StreamResponse:
        request = read(await http.read(), CompletionRequest)
        jobs = await self._writer.completions(request)
        chances = request.logprobs is not None
        name, echoes = request.model or self._name, self._writer.echoes(request)
        shape = CompletionShape(self._model, name, len(jobs), chances=chances, echoes=echoes)
        if request.stream:
            return await self._stream(http, jobs, shape, with_usage=request.with_usage)
        return await self._whole(jobs, shape)

    async def _no_embeddings(self, _: web.Request) -> web.StreamResponse:
        raise Invalid("this model writes text, and makes no embeddings; load it with embedding = true", param="model")

    async def _whole(self, jobs: Sequence[Job], shape: Shape) -> web.StreamResponse:
        mail, open_jobs = self._scheduler.submit(jobs), set(jobs)
        place = {job: at for at, job in enumerate(jobs)}
        try:
            while open_jobs:
                for job, news in await mail.take():
                    shape.add(place[job], _good(news))
                    if news.reason:
                        open_jobs.discard(job)
        finally:
            self._scheduler.cancel(open_jobs)
        return _json(shape.whole(jobs))

    async def _stream(
        self, http: web.Request, jobs: Sequence[Job], shape: Shape, *, with_usage: bool
    ) -> web.StreamResponse:
        mail, open_jobs = self._scheduler.submit(jobs), set(jobs)
        place = {job: at for at, job in enumerate(jobs)}
        response = _EventStream(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        transport = http.transport
        try:
            while open_jobs:
                events = [] if response.prepared else shape.first()
                for job, news in await mail.take():
                    events += shape.add(place[job], _good(news))
                    if news.reason:
                        open_jobs.discard(job)
                if not response.prepared:
                    await response.prepare(http)
                if not open_jobs and with_usage:
                    events.append(shape.event([], usage_of(jobs)))
                data = b"".join(map(_frame, events)) + (b"" if open_jobs else _DONE)
                send = response.write if open_jobs else response.write_eof
                if len(data) <= _SHORT and transport is not None and not transport.get_write_buffer_size():
                    await send(data)  # the buffer is empty, so this does not wait
                else:
                    async with asyncio.timeout(_UNREAD):
                        await send(data)
        except (ConnectionError, TimeoutError):  # the client has left
            pass
        except Exception as error:  # whatever it is, the client is told
            if not response.prepared:
                raise
            await response.write(_frame(_told(error).envelope()))
        finally:
            self._scheduler.cancel(open_jobs)
        return response


class EmbeddingServer:
    """The endpoints of a model that makes embeddings."""

    def __init__(self, model: Model, embedder: Embedder, *, name: str, length: int) -> None:
        """`length` is the most tokens that a text may have."""
        self._model = model
        self._embedder = embedder
        self._name = name
        self._length = length

    def routes(self) -> dict[str, Handler]:
        """See `Endpoints`."""
        paths = ("/v1/chat/completions", "/v1/completions")
        return {"/v1/embeddings": self._embeddings, **dict.fromkeys(paths, self._no_text)}

    def status(self) -> Status:
        """See `Endpoints`."""
        return Status(self._embedder.active, self._embedder.queued, 0, 0, 0.0)

    def progress(self) -> int | None:
        """See `Endpoints`."""
        return self._embedder.progress

    async def _no_text(self, _: web.Request) -> web.StreamResponse:
        raise Invalid("this model makes embeddings, and writes no text", param="model")

    async def _embeddings(self, http: web.Request) -> web.StreamResponse:
        request = read(await http.read(), EmbeddingRequest)
        if request.dimensions not in (None, self._model.width):
            message = f"dimensions: this model's embeddings have {self._model.width}, and cannot be shortened"
            raise Invalid(message, param="dimensions")
        prompts = await asyncio.to_thread(prompts_of, self._model, request.input, "input", self._length)
        if len(prompts) > _MOST_INPUTS:
            raise Invalid(f"input: {len(prompts)} texts are too many; {_MOST_INPUTS} may be", param="input")
        for at, prompt in enumerate(prompts):
            where = "input" if isinstance(request.input, str) else f"input[{at}]"
            if not prompt:
                raise Invalid(f"{where}: it is empty", param=where)
            if len(prompt) > self._length:
                raise TooLong(len(prompt), self._length, where)
        vectors = await self._embedder.embed(prompts)
        told = [
            {"object": "embedding", "index": at, "embedding": _embedding(vector, request.encoding_format)}
            for at, vector in enumerate(vectors)
        ]
        tokens = sum(map(len, prompts))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return _json({"object": "list", "data": told, "model": request.model or self._name, "usage": usage})


_DONE: Final = b"data: [DONE]\n\n"


class _EventStream(web.StreamResponse):
    """Sends its headers with the first events: each write wakes the gateway, which takes time from the computing."""

    _send_headers_immediately = False


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except EngineError as error:
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
        return _json(error.envelope(), error.status, headers)
    except web.HTTPException as error:
        fault = Invalid(error.text or error.reason)
        return _json(fault.envelope(), error.status)
    except Exception as error:  # noqa: BLE001
        return _json(_told(error).envelope(), 500)


def _told(error: Exception) -> EngineError:
    """An exception as an error of the engine; one that is unexpected is logged."""
    if isinstance(error, EngineError):
        return error
    traceback.print_exception(error, file=sys.stderr)
    return EngineError(f"the engine failed: {type(error).__name__}: {error}")


def _good(news: News) -> News:
    if news.failure is not None:
        raise news.failure
    return news


def _frame(event: Any) -> bytes:
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    body = msgspec.json.encode(value)
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def _embedding(vector: Any, encoding: str | None) -> str | list[float]:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers
