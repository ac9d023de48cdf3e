"""Writing to the client: whole answers, streams, and errors in the surface's own shape."""

import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from aiohttp import web
from msgspec import Struct

from gatehook.accounts import Usage
from gatehook.awaiting import awaited
from gatehook.calls import ready
from gatehook.calls.answers import Lookup, Recording
from gatehook.calls.attempts import Stream
from gatehook.calls.bodies import is_cut
from gatehook.calls.deadlines import Watch
from gatehook.calls.record import Record
from gatehook.calls.stages import Concerns
from gatehook.calls.standing import standing, tells
from gatehook.calls.tool_stream import RoundsStream
from gatehook.errors import GatewayError, error_headers
from gatehook.jsonio import encode
from gatehook.model import ANONYMOUS, Call, Chunk, Completion, Entry, Frames
from gatehook.originals import TranslatedChunks, TranslatedCompletion
from gatehook.protocols import OwnHeaders, OwnHeartbeat, OwnStatus, Rewriter, Surface
from gatehook.sse import COMMENT
from gatehook.tools.gate import Gate

__all__ = ["Delivery"]

_STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would otherwise hold events back
}
_STREAM_LINES = ready.header_lines(_STREAM_HEADERS)
_JSON = "application/json"
_PIECE = 1 << 16
"""Bytes of a plain answer that are written at once; what is longer is written in pieces."""

_HEADER_LENGTH = 4000
"""Characters of a header's value; many clients and proxies refuse an answer with a header longer than 8 KB."""


class Delivery(Struct, eq=False):
    """One call's answer, written by `answer`, `stream`, `replay` or `refuse`."""

    _call: Call
    _surface: Surface
    _request: web.Request
    _concerns: Concerns
    _record: Record
    """Told how the call ends."""
    _response: web.StreamResponse | None = None
    _rewriter: Rewriter | None = None
    """The rewriter of the stream's last batch."""
    _as_told: bool = False
    """Whether the client gets the vendor's own events, of which the last ends the stream."""

    __repr__ = object.__repr__  # requests hold secrets

    def answer(self, completion: Completion) -> ready.Ready | Awaitable[web.StreamResponse]:
        """Write a whole answer; to be awaited if it is long, or the request not a usual one.

        Raises:
            ConnectionError: the client left, or does not read its answer.
        """
        body = self._original(completion) if type(completion) is TranslatedCompletion else b""
        body = body or self._surface.answer(self._call, completion)
        if len(body) > _PIECE or not ready.suits(self._request):
            return self._answered(body)
        response = ready.Ready(self._request, self._lines(), body)
        self._record.complete()
        return response

    def _original(self, completion: TranslatedCompletion) -> bytes:
        """The vendor's own answer, if the client can read it and nothing may have changed the answer; b"" otherwise."""
        call = self._call
        unheld = call.rewriter is None and not call.own_tools and self._concerns.tools.gate(call) is None
        return completion.original if unheld and completion.surface == call.surface else b""

    async def _answered(self, body: bytes) -> web.StreamResponse:
        response: web.StreamResponse
        if len(body) > _PIECE:
            response = await self._write_pieces(body, self._headers())
        else:
            response = web.Response(body=body, headers=self._headers(), content_type=_JSON)
        self._record.complete()
        return response

    async def accepted(self, job_id: str) -> web.StreamResponse:
        """Tell the client that the answer will be the result of this job."""
        headers = await self._early_headers()
        headers["Content-Type"] = _JSON
        self._record.accepted()
        body = encode({"status": "async_started", "job_id": job_id, "model": self._call.model})
        return web.Response(status=202, body=body, headers=headers)

    async def stream(
        self, stream: Stream | RoundsStream, key: Lookup | None, again: Callable[[], Awaitable[Stream | RoundsStream]]
    ) -> web.StreamResponse:
        """Write a stream whose first content has arrived; whatever happens, the upstream is closed at the end.

        Args:
            stream: the vendor's.
            key: what the answer may be stored under.
            again: opens the next stream, after the model was told that its tool calls are wrong.

        Raises:
            ConnectionError: the client left, or does not read its answer.
        """
        self._record.stream = stream
        call, concerns = self._call, self._concerns
        gate = concerns.tools.gate(call)
        kept = concerns.answers.recording(key)
        with concerns.deadlines.watch() as watch:
            async with contextlib.aclosing(stream):
                if stream.contents:
                    call.first_token = time.monotonic()
                response = await self._open()
                watch.beat(self._tell_alive, concerns.heartbeat)
                if stream.contents:
                    concerns.observers.first_token(call)
                await self._relay(stream, response, watch, gate, kept)
            while gate is not None and gate.wants_another_round:
                gate.next_round(self._record.streamed)
                async with contextlib.aclosing(await again()) as stream:
                    self._record.stream = stream
                    await self._relay(stream, response, watch, gate, None)
            if call.include_usage and stream.usage is None and not self._as_told:
                await self._tell_usage(stream, response, kept)
            watch.beat(None)  # nothing may come after the end
            watch.pause()
            await response.write_eof(b"" if self._as_told else self._surface.end(call, self._record.streamed()))
        self._record.complete()
        if kept is not None:
            await concerns.answers.put(call, key, kept.entry())
        return response

    async def _relay(
        self,
        stream: Stream | RoundsStream,
        response: web.StreamResponse,
        watch: Watch,
        gate: Gate | None,
        kept: Recording | None,
    ) -> None:
        """Pass one stream on, to its end."""
        watch.pause()  # time that a tool policy takes is not the vendor's silence
        unchanged = gate is None and self._call.rewriter is None
        untouched = unchanged and self._untouched
        unheld = unchanged and not self._call.own_tools  # after each run of these a rewriter may be chosen
        if unheld:
            begun = [self._unheld(batch, kept) for batch in stream.begun]
        else:
            begun = [await self._passed(batch, gate, kept) for batch in stream.begun]
        await self._write(response, b"".join(begun), watch)
        rest: AsyncIterator[Sequence[Chunk]] = stream.watched(watch)
        if untouched and kept is None and type(stream) is Stream and type(response) is ready.ReadyStream:
            rest = stream.relayed(watch, response.write_now)
        async for batch in rest:
            if untouched and kept is None and type(batch) is Frames:
                data = batch.data
            elif unheld:
                data = self._unheld(batch, kept)
            else:
                watch.pause()
                await self._write(response, await self._passed(batch, gate, kept), watch)
                continue
            if data:
                watch.pause()  # how long a client may take is for its connection to limit
                watch.heard = True
                await response.write(data)
        watch.pause()
        if gate is not None or self._call.rewriter is not None or self._rewriter is not None:
            await self._write(response, await self._rest(gate))

    async def _tell_usage(
        self, stream: Stream | RoundsStream, response: web.StreamResponse, kept: Recording | None
    ) -> None:
        """Tell a client that has asked for the usage what the gateway has counted, as the vendor has told nothing."""
        usage = self._record.streamed() or Usage()
        told = {**stream.head, "choices": [], "usage": {**usage.as_openai(), "estimated": True}}
        batch = [Chunk(told, usage=usage, usage_only=True)]
        if kept is not None:
            kept.add(batch)
        await self._write(response, self._framed(batch))

    async def replay(self, entry: Entry) -> web.StreamResponse:
        """Write a cached answer, plain or as the stream it was.

        Raises:
            ConnectionError: the client left, or does not read its answer.
        """
        response: web.StreamResponse
        if entry.completion is not None:
            answer = self.answer(entry.completion)
            response = answer if type(answer) is ready.Ready else await awaited(answer)
        else:
            response = await self._open()
            view = memoryview(self._framed(entry.chunks))
            for start in range(0, len(view), _PIECE):
                await response.write(bytes(view[start : start + _PIECE]))
            await response.write_eof(self._surface.end(self._call, None))
        self._record.cached()
        return response

    async def refuse(self, error: GatewayError) -> web.StreamResponse:
        """Tell an error: by an HTTP status while that is possible, later by the dialect's event and a cut line."""
        self._record.refused(error, begun=self._response is not None)
        if self._response is not None:
            await self._break_off(self._response, error)
            return self._response
        headers = self._headers() if self._call.attempts else await self._early_headers()
        headers |= {"Content-Type": _JSON, **error_headers(error)}
        if isinstance(self._surface, OwnHeaders):
            headers |= self._surface.error_headers(self._call)
        status = self._surface.status(error) if isinstance(self._surface, OwnStatus) else error.status
        return web.Response(status=status, body=self._surface.error(self._call, error), headers=headers)

    def is_lost(self, error: BaseException) -> bool:
        """Whether an error is the loss of the client's connection, and not of a plugin's own, to a store or so."""
        transport = self._request.transport
        if isinstance(error, ConnectionError):
            return transport is None or transport.is_closing()
        return is_cut(self._request, error)

    def client_left(self) -> web.StreamResponse:
        """The client closed its connection or does not read, or the gateway shuts down: nobody gets the answer."""
        self._record.client_left(begun=self._response is not None)
        if self._request.transport is not None:
            self._request.transport.abort()
        return self._response or web.Response(status=499)  # nobody sees it

    def _headers(self) -> dict[str, str]:
        call = self._call
        # Without `Server`, aiohttp would tell its own version and Python's.
        headers = {"Server": "gatehook", "X-Request-ID": call.id}
        for line in call.answer_lines.splitlines():
            name, _, value = line.partition(": ")
            headers[name] = value
        headers |= call.answer_headers
        if call.target is not None:
            headers["X-Gatehook-Deployment"] = _header_value(call.target.key)
        if call.dropped:
            headers["X-Gatehook-Dropped-Params"] = _dropped_value(call.dropped)
        return headers

    async def _early_headers(self) -> dict[str, str]:
        """The headers of an answer for which no vendor was called, and limiters perhaps not asked to admit the call."""
        headers, telling = self._headers(), self._concerns.telling
        principal = self._call.principal
        is_known = principal is not ANONYMOUS or not self._concerns.authenticators
        if telling and is_known and not tells(headers):
            headers |= await standing(telling, principal)
        return headers

    def _lines(self) -> str:
        """The headers as lines, for answers that are written as bytes.

        Raises:
            ValueError: a plugin's header would break out of its line.
        """
        call = self._call
        lines = f"Server: gatehook\r\nX-Request-ID: {call.id}\r\n{call.answer_lines}"
        if call.answer_headers:
            lines += ready.header_lines(call.answer_headers)
        if call.target is not None:
            lines += _deployment_line(call.target.key)
        if call.dropped:
            lines += f"X-Gatehook-Dropped-Params: {_dropped_value(call.dropped)}\r\n"
        return lines

    async def _open(self) -> web.StreamResponse:
        """Begin the answer: from here on its status is 200, and errors are events."""
        response: web.StreamResponse
        if ready.suits(self._request):
            response = ready.ReadyStream(self._request, self._lines() + _STREAM_LINES)
        else:
            response = web.StreamResponse(headers=self._headers() | _STREAM_HEADERS)
        await response.prepare(self._request)
        self._response = response
        return response

    async def _write_pieces(self, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
        """Write a large answer, so that a client that does not stay to its end is on record as such."""
        response = self._response = web.StreamResponse(headers=headers)
        response.content_type, response.content_length = _JSON, len(body)
        view = memoryview(body)
        await response.prepare(self._request)
        for start in range(0, len(body), _PIECE):
            await response.write(bytes(view[start : start + _PIECE]))
        await response.write_eof()
        return response

    def _unheld(self, batch: Sequence[Chunk], kept: Recording | None) -> bytes:
        """The batch where nothing changes it, recorded for the caches; in the vendor's own words if the client can."""
        if kept is not None:
            kept.add(batch)
        if type(batch) is not TranslatedChunks or batch.surface != self._call.surface:
            return self._framed(batch)
        self._as_told = True
        if (watch := self._concerns.observers.chunk) is not None:
            for chunk in batch:
                watch(self._call, chunk)
        return batch.original

    async def _passed(self, batch: Sequence[Chunk], gate: Gate | None, kept: Recording | None) -> bytes:
        """The batch as the client gets it, after transforms and tool policies; recorded for the caches before them."""
        if kept is not None:
            kept.add(batch)
        batch = self._rewritten(batch)
        return self._framed(batch if gate is None else await gate.passed(batch))

    def _rewritten(self, batch: Sequence[Chunk]) -> Sequence[Chunk]:
        """The batch after transforms, which may choose another rewriter after each run of the gateway's own tools."""
        rewriter, before = self._call.rewriter, self._rewriter
        if rewriter is not None:
            batch = rewriter.chunks(batch)
        if rewriter is not before:
            self._rewriter = rewriter
            batch = [*before.rest(), *batch] if before is not None else batch
        return batch

    async def _rest(self, gate: Gate | None) -> bytes:
        """What transforms and tool policies hold back at the end of a stream."""
        rest = self._rewritten(())
        if self._rewriter is not None:
            rest = [*rest, *self._rewriter.rest()]
            self._rewriter = None
        return self._framed(rest if gate is None else [*await gate.passed(rest), *await gate.rest()])

    @property
    def _untouched(self) -> bool:
        """Whether frames may go out as they are: to an OpenAI client, while no observer looks at every chunk."""
        return self._surface.canonical and self._concerns.observers.chunk is None

    def _framed(self, batch: Sequence[Chunk]) -> bytes:
        if self._untouched and type(batch) is Frames:
            return batch.data
        call, event, watch = self._call, self._surface.event, self._concerns.observers.chunk
        framed: list[bytes] = []
        for chunk in batch:
            if chunk.usage_only and not call.include_usage:
                continue
            if watch is not None:
                watch(call, chunk)
            framed.append(event(call, chunk))
        return b"".join(framed)

    def _tell_alive(self) -> None:
        """Send what readers of events ignore, a comment mostly, unless what was sent before is still unread."""
        response, transport = self._response, self._request.transport
        if response is None or transport is None or transport.is_closing() or transport.get_write_buffer_size():
            return
        sign = self._surface.heartbeat if isinstance(self._surface, OwnHeartbeat) else COMMENT
        with contextlib.suppress(StopIteration, ConnectionError):
            response.write(sign).send(None)  # a timer cannot await; with an empty buffer one step writes it

    async def _write(self, response: web.StreamResponse, data: bytes, watch: Watch | None = None) -> None:
        """Write, waiting while the client does not keep up: its connection limits for how long (`write_timeout`)."""
        if data:
            if watch is not None:
                watch.heard = True
            await response.write(data)

    async def _break_off(self, response: web.StreamResponse, error: GatewayError) -> None:
        """Send the error event, and cut the connection before the body's end for clients that overlook the event."""
        response.force_close()
        with contextlib.suppress(ConnectionError):
            await self._write(response, self._surface.error_event(self._call, error))
        if self._request.transport is not None:
            self._request.transport.close()


@functools.lru_cache(maxsize=1024)
def _deployment_line(key: str) -> str:
    return f"X-Gatehook-Deployment: {_header_value(key)}\r\n"


def _dropped_value(dropped: Sequence[str]) -> str:
    # Cut before it is looked up: clients write these names, and what is looked up is kept.
    return _header_value(", ".join(dropped)[: _HEADER_LENGTH + 1])


@functools.lru_cache(maxsize=1024)
def _header_value(text: str) -> str:
    if len(text) > _HEADER_LENGTH:
        text = text[:_HEADER_LENGTH] + "..."
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)
