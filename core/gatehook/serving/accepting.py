"""Accepting the connections of a socket that several workers share: the worker with the fewest takes the next.

Otherwise the worker that wakes first would take them all; and as clients and proxies keep their connections, it would
stay busy while the others are idle.
"""

import asyncio
import errno
import logging
import mmap
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from gatehook.serving.listening import SocketFile

__all__ = ["WORKERS", "Acceptor", "Loads", "SharedSocket"]

log = logging.getLogger("gatehook")

_LEAD: Final = 4
"""How many connections more than another worker one may have before it lets that one go first."""
_TURN: Final = 0.002
"""Seconds in which another worker can take a connection, if it is not busy."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_RECOVERY: Final = 1.0
"""Seconds to wait when there are no file descriptors left, as connections may be closed meanwhile."""
WORKERS: Final = 128
"""Workers that can live at the same time, at most."""
_AWAY: Final = 1 << 62
"""The count of a worker that accepts no connections: more than any other's."""


class Loads:
    """How many connections each worker has, in memory that forked processes share."""

    def __init__(self) -> None:
        self._counts = memoryview(mmap.mmap(-1, 8 * WORKERS)).cast("q")
        for worker in range(WORKERS):
            self.leave(worker)

    def join(self, worker: int) -> None:
        """Note that a worker accepts connections, and has none yet."""
        self._counts[worker] = 0

    def leave(self, worker: int) -> None:
        """Note that a worker accepts no more."""
        self._counts[worker] = _AWAY

    def change(self, worker: int, by: int) -> None:
        """Note that a worker has so many connections more, or fewer."""
        self._counts[worker] += by

    def lead(self, worker: int) -> int:
        """How many connections a worker has more than the one with the fewest."""
        return self._counts[worker] - min(self._counts)


@dataclass(frozen=True, slots=True)
class SharedSocket:
    """A listening socket, and how many connections each of its workers has."""

    sock: socket.socket
    loads: Loads = field(default_factory=Loads)
    file: SocketFile | None = None
    """That of a Unix socket."""


class Acceptor:
    """Accepts a worker's connections."""

    def __init__(self, shared: SharedSocket, handlers: Callable[[], asyncio.Protocol], worker: int) -> None:
        """`handlers` makes the protocol of each connection, which has to call `left` at its end."""
        self._sock, self._loads, self._handlers, self._worker = shared.sock, shared.loads, handlers, worker
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._starting: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin to accept."""
        self._sock.setblocking(False)
        self._loads.join(self._worker)
        self._loop.add_reader(self._sock, self._on_readable)

    async def close(self) -> None:
        """Accept no more; open connections stay."""
        self._loads.leave(self._worker)
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()
        if self._starting:
            await asyncio.wait(self._starting)

    def left(self) -> None:
        """Note that a connection has ended."""
        self._loads.change(self._worker, -1)

    def _on_readable(self) -> None:
        if self._loads.lead(self._worker) < _LEAD:
            self._accept()
        else:
            self._wait(_TURN)

    def _wait(self, seconds: float) -> None:
        self._loop.remove_reader(self._sock)
        self._pause = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock, self._on_readable)
        for _ in range(_LEAD):  # those that nobody else has taken
            if not self._accept():
                break

    def _accept(self) -> bool:
        """Accept one connection; False if there was none."""
        try:
            connection, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):  # another took it, or the client gave up
            return False
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            log.error("connections cannot be accepted: %s", error.strerror)  # noqa: TRY400  # no fault of the code
            self._wait(_RECOVERY)
            return False
        self._loads.change(self._worker, 1)
        task = self._loop.create_task(self._start(connection))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        return True

    async def _start(self, connection: socket.socket) -> None:
        try:
            connection.setblocking(False)
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._handlers, connection)
        except OSError as error:  # it has gone already
            log.debug("a client broke off: %s", error)
            connection.close()
            self.left()
