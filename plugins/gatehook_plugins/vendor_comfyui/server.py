"""One ComfyUI server, as this process talks to it."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

from msgspec import Struct

from gatehook import (
    Egress,
    GatewayError,
    MalformedJSON,
    Retry,
    Target,
    Upstream,
    UpstreamError,
    WebSocket,
    decode,
    encode,
)
from gatehook_plugins.vendor_comfyui.failures import from_answer
from gatehook_plugins.vendor_comfyui.listener import Listener

__all__ = ["Queue", "Server", "Submission"]

_HEARTBEAT: Final = 20.0
"""Seconds between pings on the socket; the server itself sends none."""
_FRESH: Final = 0.4
"""Seconds for which several runs share one answer about the queue, which is long: it holds all waiting workflows."""
_CANCEL_FOR: Final = 30.0
"""Seconds after which a run that cannot be stopped is left alone."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_NO_PICTURES: Final = frozenset({"application/json", "text/html"})
"""What a proxy, or a login, in front of the server answers with."""
_VIEW_PAUSES: Final = (0.1, 1.0)
"""Seconds before each further try to fetch a picture."""


class Queue(Struct, frozen=True):
    """The ids of the runs that run and wait, the latter in their order, as they were `at` (monotonic seconds)."""

    at: float
    running: frozenset[str]
    pending: Sequence[str]

    def position(self, name: str) -> int | None:
        """How many runs are before this one: 0 if it runs; None if it is not in the queue."""
        if name in self.running:
            return 0
        return len(self.running) + self.pending.index(name) if name in self.pending else None


class Submission(Struct, frozen=True):
    """What came of submitting a run; `said` is the server's answer, if it has read the workflow."""

    is_taken: bool
    said: bytes = b""
    failure: GatewayError | None = None


class Server:
    """Speaks ComfyUI's API. It never sends `Origin`, and never interrupts without naming a run."""

    def __init__(self, egress: Egress, target: Target, headers: Mapping[str, str]) -> None:
        """`target` is any deployment there; `headers` go with every request."""
        self.listener = Listener(self._socket)
        self._egress = egress
        self._target = target
        self._base = target.base_url
        self._headers = {"Content-Type": "application/json", **headers}
        self._queue: Queue | None = None
        self._looking = asyncio.Lock()
        self._is_closing = False
        self._chores: set[asyncio.Task[None]] = set()
        """Requests that nobody waits for: runs to be stopped or forgotten."""

    async def submit(self, name: str, prompt: Mapping[str, Any], client_id: str) -> Submission:
        """Put a run into the queue, under an id of our own.

        Raises:
            UpstreamError: the connection was cut, and it is not known whether the run is in the queue.
        """
        body = {"prompt": prompt, "prompt_id": name, "client_id": client_id}
        async with await self._request("POST", "/prompt", body) as upstream:
            if upstream.status in (200, 400):
                return Submission(upstream.status == 200, await upstream.read())
            return Submission(False, failure=await from_answer(self._target, upstream))

    async def queue(self, since: float) -> Queue:
        """The queue, as it was at `since` (monotonic seconds) or later.

        Raises:
            UpstreamError: the server does not answer.
        """
        async with self._looking:
            known = self._queue
            if known is not None and known.at >= max(since, time.monotonic() - _FRESH):
                return known
            at = time.monotonic()
            told = await self._get("/queue")
            try:
                pending = sorted(told["queue_pending"], key=lambda item: item[0])  # a heap, in no order
                running = frozenset(str(item[1]) for item in told["queue_running"])
                self._queue = Queue(at, running, [str(item[1]) for item in pending])
            except (LookupError, TypeError):
                raise self._strange() from None
            return self._queue

    async def history(self, name: str) -> Mapping[str, Any] | None:
        """The history entry of a run; None while it is not over, or if the server does not know it.

        Raises:
            UpstreamError: the server does not answer.
        """
        entry: Mapping[str, Any] | None = (await self._get(f"/history/{quote(name, safe='')}")).get(name)
        return entry

    async def view(self, image: Mapping[str, Any]) -> bytes:
        """A picture that was saved; tried several times, as it took long to make.

        Raises:
            UpstreamError: it is gone, or cannot be fetched.
        """
        place = {"filename": image["filename"], "subfolder": image.get("subfolder", ""), "type": image["type"]}
        for pause in _VIEW_PAUSES:
            try:
                return await self._viewed(f"/view?{urlencode(place)}")
            except UpstreamError as error:
                if error.code == "upstream_file_gone":
                    raise
            await asyncio.sleep(pause)
        return await self._viewed(f"/view?{urlencode(place)}")

    async def _viewed(self, path: str) -> bytes:
        async with await self._request("GET", path) as upstream:
            if upstream.status == 200:
                kind = upstream.headers.get("Content-Type", "").partition(";")[0].strip().lower()
                if (data := await upstream.read()) and kind not in _NO_PICTURES:
                    return data
                message = f"{self._target.vendor}: the server gives {kind if data else 'nothing'} in place of a picture"
                raise UpstreamError(message, code="upstream_malformed", retry=Retry.NEXT)
            if upstream.status == 404:
                message = f"{self._target.vendor}: a picture is gone from the server"
                raise UpstreamError(message, code="upstream_file_gone")
            raise await from_answer(self._target, upstream)

    async def remaining(self) -> int:
        """How many runs wait or run at the server.

        Raises:
            GatewayError: the server does not answer.
        """
        told = (await self._get("/prompt"))["exec_info"]["queue_remaining"]
        if self.listener.remaining is not None:
            self.listener.remaining = int(told)
        return int(told)

    async def node_kind(self, kind: str) -> Mapping[str, Any] | None:
        """What the server says of a class of nodes; None if it does not have that class.

        Raises:
            GatewayError: the server does not answer.
        """
        known: Mapping[str, Any] | None = (await self._get(f"/object_info/{quote(kind, safe='')}")).get(kind)
        return known

    def stop(self, name: str) -> None:
        """Stop a run, whether it waits or runs, without waiting for it."""
        self._do(self._stop(name))

    def clear(self, is_left: Callable[[str], bool]) -> None:
        """Stop all runs whose ids `is_left` accepts, without waiting for it."""
        self._do(self._clear(is_left))

    def forget(self, name: str) -> None:
        """Remove a run that is over from the history, which holds whole workflows in memory."""
        self._do(self._post("/history", {"delete": [name]}))

    async def close(self, patience: float) -> None:
        """Wait at most `patience` seconds for requests under way, then cancel them, and close the socket."""
        self._is_closing = True
        if self._chores:
            await asyncio.wait(self._chores, timeout=patience)
        for task in self._chores:
            task.cancel()
        await self.listener.close()

    async def _stop(self, name: str) -> None:
        """Ask until the run is gone: an interruption while it begins is lost, though always answered by 200.

        Interrupt only while this run is the one that runs: old servers stop whichever that is.
        """
        pause, end = _FIRST_PAUSE, time.monotonic() + _CANCEL_FOR
        while time.monotonic() < end:
            try:
                await self._post("/queue", {"delete": [name]})
                queue = await self.queue(time.monotonic())
                if queue.position(name) is None:
                    await self._post("/history", {"delete": [name]})
                    return
                if name in queue.running:
                    await self._post("/interrupt", {"prompt_id": name})
            except GatewayError:
                if self._is_closing:  # the server does not answer, and this process ends
                    return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _clear(self, is_left: Callable[[str], bool]) -> None:
        queue = await self.queue(time.monotonic())
        for name in filter(is_left, (*queue.running, *queue.pending)):
            self.stop(name)

    def _do(self, chore: Any) -> None:
        async def done() -> None:
            with contextlib.suppress(GatewayError):
                await chore

        task = asyncio.create_task(done())
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _post(self, path: str, body: Mapping[str, Any]) -> None:
        async with await self._request("POST", path, body) as upstream:
            if upstream.status != 200:
                raise await from_answer(self._target, upstream)
            await upstream.drain()

    async def _get(self, path: str) -> dict[str, Any]:
        async with await self._request("GET", path) as upstream:
            if upstream.status != 200:
                raise await from_answer(self._target, upstream)
            body = await upstream.read()
        try:
            told = decode(body)
        except MalformedJSON:
            told = None
        if not isinstance(told, dict):
            raise self._strange()
        return told

    def _strange(self) -> UpstreamError:
        message = f"{self._target.vendor}: what answers at base_url is not ComfyUI"
        return UpstreamError(message, code="upstream_misconfigured", retry=Retry.NEXT)

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Upstream:
        sent = None if body is None else _written(body)
        return await self._egress.request(self._target, method, self._base + path, headers=self._headers, body=sent)

    async def _socket(self, client_id: str) -> WebSocket:
        url = f"{self._base}/ws?clientId={client_id}"
        return await self._egress.websocket(self._target, url, headers=self._headers, heartbeat=_HEARTBEAT)


def _written(body: Mapping[str, Any]) -> bytes:
    try:
        return encode(body)
    except (OverflowError, UnicodeEncodeError):  # a number of more than 64 bits, a lone surrogate
        return json.dumps(body).encode()
