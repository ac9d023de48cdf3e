"""Time limits for many calls by one coarse timer.

`asyncio.timeout` costs 3 µs and a heap entry each time it is armed, and a stream is armed once per read. Here arming
sets a number; one timer looks at all of them ten times a second while any are armed.
"""

import asyncio
import math
from types import TracebackType
from typing import Self

from gatehook.errors import GatewayError

__all__ = ["Deadlines", "Watch"]

_TICK = 0.1
"""Seconds between looks; a limit is met up to this much late, never early."""


class Deadlines:
    """The watches of one gateway."""

    def __init__(self) -> None:
        self._watches: set[Watch] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> "Watch":
        """A watch over the current task."""
        return Watch(self)

    def add(self, watch: "Watch") -> None:
        """Begin to look at a watch."""
        self._watches.add(watch)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK, self._look)

    def remove(self, watch: "Watch") -> None:
        """Look at it no more."""
        self._watches.discard(watch)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for watch in [one for one in self._watches if one.deadline <= now]:
            watch.expire()
        self._timer = loop.call_later(_TICK, self._look) if self._watches else None


class Watch:
    """Limits how long the current task may wait inside a ``with`` block; on expiry the block raises the armed error.

    It works like `asyncio.timeout`: the task is cancelled, and the cancellation turned into the error on the way out.
    A cancellation from elsewhere (the client left) passes through untouched.
    """

    __slots__ = ("_cancelling", "_deadlines", "_error", "_expired", "_loop", "_task", "deadline")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._loop = asyncio.get_running_loop()
        self.deadline = math.inf
        self._error: GatewayError | None = None
        self._expired = False
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0

    def within(self, seconds: float, error: GatewayError, *, until: float = math.inf) -> Self:
        """Arm: from now `seconds`, but not beyond the loop time `until`; then raise `error`."""
        self.deadline = min(self._loop.time() + seconds, until)
        self._error = error
        return self

    def expire(self) -> None:
        """The time is over."""
        self._deadlines.remove(self)
        if self._task is not None and not self._expired:
            self._expired = True
            self._task.cancel()

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # coroutines run in tasks here
        self._task = task
        self._cancelling = task.cancelling()
        self._expired = False
        self._deadlines.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.remove(self)
        self.deadline = math.inf
        task, self._task = self._task, None
        if not self._expired or task is None:
            return
        ours = task.uncancel() <= self._cancelling
        if ours and isinstance(error, asyncio.CancelledError) and self._error is not None:
            raise self._error from None
