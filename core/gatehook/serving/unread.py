"""Clients that leave what they get unread: after `server.write_timeout` their connection is cut, whatever is on it."""

import asyncio
import contextlib
import fcntl
import math
import sys
import termios
from typing import Any, Final, cast

from aiohttp import web

__all__ = ["UnreadLimit"]

_UNSENT: Final = 1
"""Bytes left to send with which whoever writes has to wait, and the time counts (0: TLS would wait for nothing)."""


class UnreadLimit(web.RequestHandler):
    """A connection that is cut when its client reads nothing of what there is to read for so many seconds.

    That cancels what runs for the client, as if it had left. A cut may come up to as many seconds late, never early.
    """

    __slots__ = ("_unread_timer", "_write_timeout")

    def __init__(self, *args: Any, write_timeout: float = math.inf, **options: Any) -> None:
        super().__init__(*args, **options)
        self._write_timeout = write_timeout
        self._unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have all that is unsent told."""
        super().connection_made(transport)
        cast("asyncio.Transport", transport).set_write_buffer_limits(_UNSENT)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count no more."""
        self._stop()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Count from now on: the client does not keep up."""
        super().pause_writing()
        if self.transport is not None:
            self._count(self.transport)

    def resume_writing(self) -> None:
        """Count no more: everything is sent."""
        self._stop()
        super().resume_writing()

    def _count(self, transport: asyncio.Transport) -> None:
        # The transport is handed on: aiohttp forgets it when it closes a connection, of which this is what is left.
        self._unread_timer = self._loop.call_later(self._write_timeout, self._look, transport, _unread(transport))

    def _look(self, transport: asyncio.Transport, before: int) -> None:
        if _unread(transport) < before:
            self._count(transport)
        else:
            transport.abort()

    def _stop(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None


def _unread(transport: asyncio.Transport) -> int:
    """Bytes that the client has not taken yet.

    Those in the system's buffer count, where it tells (Linux): of megabytes in there a slow client reads for minutes
    before the system asks for more.
    """
    unread, of_system = transport.get_write_buffer_size(), bytes(4)
    with contextlib.suppress(OSError):
        of_system = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, of_system)
    return unread + int.from_bytes(of_system, sys.byteorder)
