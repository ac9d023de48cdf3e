"""One WebSocket to a server, for all runs of this process: how far each run is, and how many wait there.

A socket that broke is replaced by one with another client id: with the same id, the server would drop the newer socket
when the older closes. Runs that were begun under the old id hear nothing any more, and poll instead (see `run`).
"""

import asyncio
import contextlib
import logging
import struct
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec

from gatehook import GatewayError, WebSocket
from gatehook_plugins.vendor_comfyui.progress import Meter

__all__ = ["Listener", "Run"]

log = logging.getLogger("gatehook.comfyui")

_FLAGS: Final = '{"type":"feature_flags","data":{"supports_preview_metadata":true}}'
"""Must be the first message, or it is ignored: with it, previews say to which run they belong."""
_REPEATED: Final = '"progress_state"'
"""The type of messages that repeat all nodes at each step: megabytes in large workflows, and nothing new in them."""
_PREVIEW, _PREVIEW_OF_RUN = 1, 4
_SETTLING: Final = 3.0
"""Seconds that a run waits for the socket before it begins without."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


class Event(msgspec.Struct):
    """One message."""

    type: str = ""
    data: dict[str, Any] = {}


_decode = msgspec.json.Decoder(Event).decode


class Run(Protocol):
    """What hears of one run."""

    meter: Meter

    def heard(self, *, over: bool = False, running: bool = False) -> None:
        """Note that the server has said something of the run; `over`: that it has ended; `running`: that it runs."""
        ...


class Listener:
    """Listens while there are runs. `close()` it at the end."""

    def __init__(self, connect: Callable[[str], Awaitable[WebSocket]]) -> None:
        """`connect` opens a socket under a client id."""
        self.runs: dict[str, Run] = {}
        self.remaining: int | None = None
        """How many runs wait or run at the server, of all its clients; None while no socket tells."""
        self._connect = connect
        self._client_id = ""
        self._shown = ""
        """The run that the server last said is executing: previews in the older form belong to it."""
        self._settled = asyncio.Event()
        """Set once a socket is open, or could not be opened."""
        self._task: asyncio.Task[None] | None = None

    async def client_id(self) -> str:
        """The client id under which a run is to be begun. If no socket can be opened, nothing will be heard of it."""
        if self._task is None or self._task.done():
            self._settled.clear()
            self._task = asyncio.create_task(self._listen())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLING):
                await self._settled.wait()
        return self._client_id

    async def close(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _listen(self) -> None:
        """Listen, and reconnect while there are runs."""
        pause = _FIRST_PAUSE
        while True:
            self._client_id = uuid.uuid4().hex
            try:
                async with await self._connect(self._client_id) as socket:
                    await socket.send(_FLAGS)
                    async for message in socket:
                        pause = _FIRST_PAUSE
                        self._settled.set()
                        self._hear(message)
            except GatewayError as error:
                log.info("the socket to the server failed: %s", error.message)
            self._settled.set()
            self.remaining = None
            if not self.runs:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _hear(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self._see(message)
        elif _REPEATED not in message[:40]:
            # Extensions of the server send what they like.
            with contextlib.suppress(msgspec.MsgspecError, LookupError, TypeError, ValueError, AttributeError):
                self._take(_decode(message))

    def _take(self, event: Event) -> None:
        data = event.data
        if event.type == "status":
            self.remaining = int(data["status"]["exec_info"]["queue_remaining"])
            return
        name = data.get("prompt_id")
        run = self.runs.get(name) if isinstance(name, str) else None
        if run is None or not isinstance(name, str):
            return
        match event.type:
            case "execution_start":
                run.heard(running=True)
            case "execution_cached":
                run.heard(running=True)
                run.meter.cached(data["nodes"])
            case "executing" if data["node"] is None:
                run.heard(over=True)
            case "executing":
                self._shown = name
                run.heard(running=True)
                run.meter.executing(str(data.get("display_node") or data["node"]))
            case "progress":
                run.heard(running=True)
                run.meter.step(str(data["node"]), float(data["value"]), float(data["max"]))
            case "execution_error" | "execution_interrupted":
                run.heard(over=True)

    def _see(self, message: bytes) -> None:
        """Take a preview; the older form does not say of which run it is."""
        with contextlib.suppress(struct.error, msgspec.MsgspecError, LookupError, TypeError, ValueError):
            kind, head = struct.unpack_from(">II", message)
            name, start = self._shown, 8
            if kind == _PREVIEW_OF_RUN:
                name, start = msgspec.json.decode(message[8 : 8 + head])["prompt_id"], 8 + head
            elif kind != _PREVIEW:
                return
            run = self.runs.get(name)
            if run is not None and run.meter.is_heard:
                run.meter.preview(message[start:])
