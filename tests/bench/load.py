"""The load generator: raw HTTP/1.1 over asyncio protocols, every answer checked, no answer forgiven.

Closed loop: each connection sends its next request when the answer is complete. Open loop: requests start at a fixed
rate whatever happens to the earlier ones, and latency counts from the *planned* start, so a stall is seen by all the
requests it delayed. A wrong status, a short answer, a missing event or a lost connection ends the run with `LoadError`.
"""

import asyncio
import itertools
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import msgspec
import uvloop

PLAIN_MARK = b"How can I assist you today?"  # in the stub's completion
EVENT_MARK = b'" token"'  # once in each of the stub's content events
STREAM_END = b"data: [DONE]"
EVENTS = 64
TICK_SLACK = 20e-6  # the timer may tick this much before the planned start
PATIENCE = 30.0  # seconds without an end after which a sample is given up

Address = tuple[str, int]
Meter = Callable[[], float]  # CPU seconds used so far by the process being measured


class LoadError(Exception):
    """An answer that is not what was asked for."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to send, and how many content events its answer must have."""

    raw: bytes
    events: int = 0


@dataclass(slots=True)
class Sample:
    """What one measured stretch gave; times in seconds."""

    elapsed: float = 0.0
    cpu: float = 0.0
    latencies: list[float] = field(default_factory=list)
    first_bytes: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    """Between two reads of one stream; what came in one read counts as one."""

    @property
    def count(self) -> int:
        return len(self.latencies)


CHAT = "/v1/chat/completions"


def chat_request(
    authority: str, key: str, model: str, *, stream: bool, events: int = EVENTS, path: str = CHAT
) -> Request:
    """A chat request of about half a kilobyte; its answer has so many `events` if it is a `stream`."""
    body: dict[str, object] = {
        "model": model,
        "messages": [
            {
                "role": "system",
                "content": "You answer for the support desk. Be brief, cite the manual, invent nothing.",
            },
            {
                "role": "user",
                "content": "My unit shows error E42 after the firmware update from last week. I already tried a cold "
                "restart and reseating the filter. What should I check next, and is it safe to keep it running?",
            },
        ],
        "temperature": 0.7,
        "max_tokens": 256,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    data = msgspec.json.encode(body)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {key}\r\n"
        f"User-Agent: gatehook-bench\r\nAccept: */*\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return Request(head.encode() + data, events if stream else 0)


class Answer:
    """Reads one answer: `feed` says when it is complete, `check` whether it is right."""

    __slots__ = ("_buffer", "_length", "_pieces", "begun")

    def __init__(self) -> None:
        self._buffer = b""
        self._length: int | None = None  # of the body; -1 = chunked
        self._pieces: list[bytes] = []
        self.begun = False  # has a byte of the body come?

    def feed(self, data: bytes) -> bool:
        self._buffer += data
        if self._length is None:
            if (end := self._buffer.find(b"\r\n\r\n")) < 0:
                return False
            self._read_head(self._buffer[: end + 2])
            self._buffer = self._buffer[end + 4 :]
        self.begun = self.begun or bool(self._buffer)
        return self._read_chunks() if self._length == -1 else self._read_sized()

    def _read_head(self, head: bytes) -> None:
        if head[9:12] != b"200":
            raise LoadError(f"not 200: {head[:200]!r}")
        head = head.lower()
        if (at := head.find(b"\r\ncontent-length:")) >= 0:
            self._length = int(head[at + 17 : head.index(b"\r\n", at + 2)])
        elif b"\r\ntransfer-encoding: chunked\r\n" in head:
            self._length = -1
        else:
            raise LoadError(f"neither Content-Length nor chunked: {head[:200]!r}")

    def _read_sized(self) -> bool:
        assert self._length is not None
        if len(self._buffer) < self._length:
            return False
        self._pieces.append(self._buffer[: self._length])
        self._end_at(self._length)
        return True

    def _read_chunks(self) -> bool:
        buffer, at = self._buffer, 0
        while (eol := buffer.find(b"\r\n", at)) >= 0:
            size = int(buffer[at:eol], 16)
            end = eol + size + 4
            if len(buffer) < end:
                break
            if not size:
                self._end_at(end)
                return True
            self._pieces.append(buffer[eol + 2 : end - 2])
            at = end
        self._buffer = buffer[at:]
        return False

    def _end_at(self, end: int) -> None:
        if len(self._buffer) > end:
            raise LoadError(f"bytes after the end of the answer: {self._buffer[end : end + 80]!r}")

    def check(self, request: Request) -> None:
        body = b"".join(self._pieces)
        if not request.events:
            if PLAIN_MARK not in body or not body.endswith(b"}"):
                raise LoadError(f"not the completion: {body[:200]!r}")
        elif (seen := body.count(EVENT_MARK)) != request.events or not body.rstrip().endswith(STREAM_END):
            raise LoadError(f"stream with {seen} of {request.events} content events, ending in {body[-80:]!r}")


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request in flight at most."""

    def __init__(self, driver: "Driver") -> None:
        self._driver = driver
        self._transport: asyncio.Transport
        self._answer = Answer()
        self._request: Request
        self._started = 0.0
        self._first_byte = 0.0
        self._last_read = 0.0
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but ancestry

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closing:
            self._driver.fail(LoadError(f"connection lost: {exc or 'closed by the other side'}"))

    def close(self) -> None:
        self._closing = True
        self._transport.close()

    def send(self, request: Request, planned: float | None = None) -> None:
        """Send; latency counts from `planned`, which is now unless given."""
        self._request, self._answer, self._first_byte = request, Answer(), 0.0
        self._started = planned or time.perf_counter()
        self._transport.write(request.raw)

    def data_received(self, data: bytes) -> None:
        try:
            complete = self._answer.feed(data)
            if self._answer.begun:
                self._read_at(time.perf_counter())
            if complete:
                self._answer.check(self._request)
                self._driver.tally(time.perf_counter() - self._started, self._first_byte)
                self._driver.completed(self)
        except (LoadError, ValueError) as error:
            self._closing = True
            self._driver.fail(error if isinstance(error, LoadError) else LoadError(f"not HTTP: {error}"))

    def _read_at(self, now: float) -> None:
        """A part of the body has come."""
        if not self._first_byte:
            self._first_byte = now - self._started
        elif self._request.events:
            self._driver.gap(now - self._last_read)
        self._last_read = now


class Driver:
    """Decides when connections send; `ClosedLoop` and `OpenLoop` say how."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests: Iterator[Request] = itertools.cycle(requests)
        self._connections: list[Connection] = []
        self._sample = Sample()
        self._failure: Exception | None = None
        self._done: asyncio.Future[None] | None = None

    async def connect(self, address: Address, count: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            for _ in range(count):
                _, connection = await loop.create_connection(lambda: Connection(self), *address)
                self._connections.append(connection)
        except OSError as error:
            raise LoadError(f"no connection to {address[0]}:{address[1]}: {error}") from error

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def tally(self, latency: float, first_byte: float) -> None:
        self._sample.latencies.append(latency)
        self._sample.first_bytes.append(first_byte)

    def gap(self, seconds: float) -> None:
        self._sample.gaps.append(seconds)

    def fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._finish()

    def completed(self, connection: Connection) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    async def _measured(self, start: Callable[[], None], meter: Meter, limit: float) -> Sample:
        """Run from `start` until `_finish`, with the CPU used meanwhile."""
        self._sample, self._done = Sample(), asyncio.get_running_loop().create_future()
        cpu, began = meter(), time.perf_counter()
        start()
        try:
            await asyncio.wait_for(self._done, limit)
        except TimeoutError:
            self._failure = LoadError(f"{self._sample.count} answers, then none: gave up after {limit:.0f} s")
        if self._failure is not None:
            raise self._failure
        self._sample.elapsed, self._sample.cpu = time.perf_counter() - began, meter() - cpu
        return self._sample


class ClosedLoop(Driver):
    """Each connection sends again as soon as it has its answer, until the time or the quota is over."""

    def __init__(self, requests: Sequence[Request]) -> None:
        super().__init__(requests)
        self._busy = 0
        self._left = 0
        self._deadline = 0.0

    async def run(self, meter: Meter, seconds: float, *, quota: int = sys.maxsize, spread: float = 0.0) -> Sample:
        """Start the connections over `spread` seconds, stop sending at whichever limit comes first, and drain."""
        loop, self._left = asyncio.get_running_loop(), quota
        self._busy = len(self._connections)

        def start() -> None:
            self._deadline = time.perf_counter() + seconds
            for index, connection in enumerate(self._connections):
                if spread:
                    loop.call_later(spread * index / len(self._connections), self._next, connection)
                else:
                    self._next(connection)

        return await self._measured(start, meter, seconds + PATIENCE)

    def completed(self, connection: Connection) -> None:
        self._next(connection)

    def _next(self, connection: Connection) -> None:
        if self._left > 0 and time.perf_counter() < self._deadline:
            self._left -= 1
            connection.send(next(self._requests))
            return
        self._busy -= 1
        if not self._busy:
            self._finish()


class OpenLoop(Driver):
    """Requests start on a timetable, on whichever connection is free; without one they queue and their clock runs."""

    def __init__(self, requests: Sequence[Request]) -> None:
        super().__init__(requests)
        self._idle: list[Connection] = []
        self._plan: deque[float] = deque()
        self._late: deque[float] = deque()  # planned starts that found no connection

    async def run(self, meter: Meter, seconds: float, rate: float) -> Sample:
        """`rate` requests a second. The kernel's interval timer ticks: uvloop's own timers only know milliseconds."""
        loop, interval = asyncio.get_running_loop(), round(1e6 / rate) / 1e6
        self._idle = list(self._connections)

        def start() -> None:
            first = time.perf_counter() + interval
            self._plan.extend(first + index * interval for index in range(max(1, round(seconds * rate))))
            signal.setitimer(signal.ITIMER_REAL, interval, interval)

        loop.add_signal_handler(signal.SIGALRM, self._tick)
        try:
            return await self._measured(start, meter, seconds + PATIENCE)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            loop.remove_signal_handler(signal.SIGALRM)

    def _tick(self) -> None:
        due = time.perf_counter() + TICK_SLACK
        while self._plan and self._plan[0] <= due:
            planned = self._plan.popleft()
            if self._idle:
                self._idle.pop().send(next(self._requests), planned)
            else:
                self._late.append(planned)

    def completed(self, connection: Connection) -> None:
        if self._late:
            connection.send(next(self._requests), self._late.popleft())
            return
        self._idle.append(connection)
        if not self._plan and len(self._idle) == len(self._connections):
            self._finish()


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of load. With a `rate` the loop is open, without one it is closed."""

    connections: int
    seconds: float
    rate: float = 0.0
    quota: int = sys.maxsize
    spread: float = 0.0
    warm: float = 0.0


async def _drive(address: Address, requests: Sequence[Request], shape: Shape, meter: Meter) -> Sample:
    driver = OpenLoop(requests) if shape.rate else ClosedLoop(requests)
    try:
        await driver.connect(address, shape.connections)
        if isinstance(driver, OpenLoop):
            await driver.run(meter, shape.warm, shape.rate)
            return await driver.run(meter, shape.seconds, shape.rate)
        if shape.warm:
            await driver.run(meter, shape.warm, spread=shape.spread)
        return await driver.run(meter, shape.seconds, quota=shape.quota, spread=shape.spread)
    finally:
        driver.close()


def measure(address: Address, requests: Sequence[Request], shape: Shape, meter: Meter) -> Sample:
    """Put one load on one contestant; the requests are sent in turn, over and over."""
    loop = uvloop.new_event_loop()  # not uvloop.run: that takes 0.2 s to return from 80,000 requests
    task = loop.create_task(_drive(address, requests, shape, meter))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in handlers:  # an exception from a Python handler would end in a protocol's callback, and be lost
            loop.add_signal_handler(number, task.cancel)
        return loop.run_until_complete(task)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        loop.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)
