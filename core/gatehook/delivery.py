"""Writing to the client: whole answers, streams, errors in the surface's own shape, and how it all ended."""

import contextlib
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiohttp import web

from gatehook.errors import GatewayError, Unavailable
from gatehook.failover import Stream
from gatehook.model import Call, Chunk, Completion, Entry, Outcome, Usage
from gatehook.protocols import Surface

if TYPE_CHECKING:
    from gatehook.pipeline import Pipeline

__all__ = ["Delivery"]

_STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would otherwise hold events back
}
_CLIENT_LEFT = 499
"""HTTP has no status for a client that left; nginx's is the one people know."""


class Delivery:
    """One call's answer. Exactly one of `answer`, `stream`, `replay` and `refuse` writes it."""

    __slots__ = (
        "_call",
        "_chunks",
        "_code",
        "_pipeline",
        "_request",
        "_response",
        "_status",
        "_stream",
        "_surface",
        "_usage",
    )

    def __init__(self, call: Call, surface: Surface, request: web.Request, pipeline: "Pipeline") -> None:
        self._call = call
        self._surface = surface
        self._request = request
        self._pipeline = pipeline
        self._response: web.StreamResponse | None = None
        self._stream: Stream | None = None
        self._usage: Usage | None = None
        self._status: tuple[str, int] = ("failed", 500)
        self._code = ""

    def answer(self, completion: Completion) -> web.Response:
        """A whole answer."""
        call = self._call
        self._status = ("complete", 200)
        self._usage = completion.usage or _estimate(call, len(completion.raw) // 4)
        headers = self._headers()
        headers["Content-Type"] = "application/json"
        return web.Response(body=self._surface.answer(call, completion), headers=headers)

    async def stream(self, stream: Stream, key: bytes | None) -> web.StreamResponse:
        """A stream whose first content has arrived; whatever happens, the upstream is closed at the end."""
        self._stream = stream
        call, surface = self._call, self._surface
        gate = self._pipeline.tools.gate(call)
        kept: list[Chunk] | None = [] if key is not None else None
        async with contextlib.aclosing(stream):
            first = await anext(stream)
            call.first_token = time.monotonic()
            response = await self._open()
            if response is None:
                return web.Response()
            self._pipeline.observers.first_token(call)
            batch: Sequence[Chunk] | None = first
            try:
                while batch is not None:
                    if kept is not None:
                        kept += batch
                    await self._write(response, self._framed(await gate.passed(batch) if gate else batch))
                    batch = await anext(stream, None)
                await self._write(response, surface.end(call, stream.usage))
            except ConnectionError:
                self.client_left()
                return response
        self._status = ("complete", 200)
        if kept is not None:
            await self._pipeline.answers.put(call, key, Entry(chunks=tuple(kept)))
        return response

    async def replay(self, entry: Entry) -> web.StreamResponse:
        """A cached answer, plain or as the stream it was."""
        self._usage = Usage()
        if entry.completion is not None:
            answer = self.answer(entry.completion)
            self._status, self._usage = ("cached", 200), Usage()
            return answer
        response = await self._open()
        if response is None:
            return web.Response()
        try:
            await self._write(response, self._framed(entry.chunks) + self._surface.end(self._call, None))
        except ConnectionError:
            self.client_left()
        else:
            self._status = ("cached", 200)
        return response

    async def refuse(self, error: GatewayError) -> web.StreamResponse:
        """An error: an HTTP status while that is still possible, afterwards the dialect's event and a cut line."""
        self._code = error.code or error.type
        if self._response is not None:
            self._status = ("partial", 200)
            await self._break_off(self._response, error)
            return self._response
        rejected = self._call.attempts == 0
        self._status = ("rejected" if rejected else "failed", error.status)
        headers = self._headers()
        headers["Content-Type"] = "application/json"
        if error.retry_after is not None:
            headers["Retry-After"] = str(math.ceil(error.retry_after))
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return web.Response(status=error.status, body=self._surface.error(error), headers=headers)

    def client_left(self) -> None:
        """The client closed its connection, or the gateway is shutting down."""
        self._status = ("partial" if self._response is not None else "failed", _CLIENT_LEFT)
        self._code = "client_left"

    def outcome(self) -> Outcome:
        """How it ended."""
        call = self._call
        status, http_status = self._status
        usage = self._usage
        if self._stream is not None:
            usage = self._stream.usage or _estimate(call, self._stream.contents)
        return Outcome(
            status=status,  # type: ignore[arg-type]  # one of the literals above
            http_status=http_status,
            usage=usage,
            code=self._code,
            duration=time.monotonic() - call.started,
            first_token=None if call.first_token is None else call.first_token - call.started,
        )

    def _headers(self) -> dict[str, str]:
        call = self._call
        headers = {"X-Request-ID": call.id, **call.answer_headers}
        if call.target is not None:
            headers["X-Gatehook-Deployment"] = _header_value(call.target.key)
        if call.dropped:
            headers["X-Gatehook-Dropped-Params"] = _header_value(", ".join(call.dropped))
        return headers

    async def _open(self) -> web.StreamResponse | None:
        """Commit to a 200; None if the client has left already."""
        headers = self._headers()
        headers.update(_STREAM_HEADERS)
        response = web.StreamResponse(headers=headers)
        try:
            await response.prepare(self._request)
        except ConnectionError:
            self.client_left()
            return None
        self._response = response
        return response

    def _framed(self, batch: Sequence[Chunk]) -> bytes:
        call, event, watch = self._call, self._surface.event, self._pipeline.observers.chunk
        framed: list[bytes] = []
        for chunk in batch:
            if chunk.usage_only and not call.include_usage:
                continue
            if watch is not None:
                watch(call, chunk)
            framed.append(event(call, chunk))
        return b"".join(framed)

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        """Write, waiting while the client's buffer is full; a client that does not read is let go."""
        if not data:
            return
        slow = Unavailable("the client does not read its answer")
        try:
            with self._pipeline.deadlines.watch().within(self._pipeline.write_timeout, slow):
                await response.write(data)
        except Unavailable:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client did not read its answer in time") from None

    async def _break_off(self, response: web.StreamResponse, error: GatewayError) -> None:
        """Send the error event and cut the line before the body's end: who overlooks the one sees the other."""
        response.force_close()
        with contextlib.suppress(ConnectionError):
            await self._write(response, self._surface.error_event(error))
        if self._request.transport is not None:
            self._request.transport.close()


def _estimate(call: Call, completion_tokens: int) -> Usage:
    """What was used, when the vendor tells nothing: four bytes a token in, one event a token out of a stream."""
    return Usage(len(call.body.raw) // 4, completion_tokens, estimated=True)


def _header_value(text: str) -> str:
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)
