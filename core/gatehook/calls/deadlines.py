"""Time limits for many calls by one coarse timer.

`asyncio.timeout` costs 3 µs and a heap entry each time it is armed, and a stream is armed once per read. Here arming
sets a number; one timer looks at all of them ten times a second while there are any.
"""

import asyncio
import math
from asyncio import current_task
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import NamedTuple, Self

__all__ = ["Deadlines", "Limit", "Watch"]

_TICK = 0.1
"""Seconds between two looks; a limit may take effect this much late, never early."""


class Limit(NamedTuple):
    """A limit that is armed many times: so many seconds, not beyond `until` (time.monotonic); then raise `error()`."""

    seconds: float
    error: Callable[[], Exception]
    until: float = math.inf


class Deadlines:
    """The watches of one gateway."""

    def __init__(self) -> None:
        self.watches: set[Watch] = set()
        """The watches whose blocks are running; only they add and remove themselves."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The running loop; kept, because asking for it is a system call on some versions of Python."""
        self.timer: asyncio.TimerHandle | None = None
        """Looks at the watches, as long as there are any."""

    def watch(self, seconds: float = math.inf, error: Callable[[], Exception] | None = None) -> "Watch":
        """A watch over the current task; armed at once if `seconds` and `error` are given."""
        return Watch(self, seconds, error)

    def begin(self) -> asyncio.AbstractEventLoop:
        """Start the timer, if it is not running; returns the running loop."""
        self.loop = loop = asyncio.get_running_loop()
        if self.timer is None:
            self.timer = loop.call_later(_TICK, self._look, loop)
        return loop

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = monotonic()
        for watch in [one for one in self.watches if one.is_over(now)]:
            watch.expire()
        self.timer = loop.call_later(_TICK, self._look, loop) if self.watches else None


class Watch:
    """Limits how long the current task may wait inside a ``with`` block; on expiry the block raises the armed error.

    It works like `asyncio.timeout`: the task is cancelled, and the cancellation turned into the error on the way out
    of the block. A cancellation from elsewhere (the client left) passes through untouched. Within one block it may be
    armed anew for every wait.
    """

    # Defaults in the class, as one watch is made for each request and most never set these.
    heard = False
    """To be set whenever something is sent to the client, which then needs no beat for a while."""
    limit: Limit | None = None
    """To be set once per streamed event: arms without asking the clock; the time counts from the timer's next look."""
    _beat: Callable[[], None] | None = None
    _beat_seconds = _beat_at = math.inf

    def __init__(
        self, deadlines: Deadlines, seconds: float = math.inf, error: Callable[[], Exception] | None = None
    ) -> None:
        """So many seconds from now the block raises what `error` makes, unless it is armed anew."""
        self._deadlines = deadlines
        self._error = error
        self._expired = False
        self._task: asyncio.Task[object] | None = None
        self.deadline = monotonic() + seconds

    def now(self) -> float:
        """The time on the clock of deadlines (time.monotonic)."""
        return monotonic()

    def arm(self, seconds: float, error: Callable[[], Exception], until: float = math.inf) -> Self:
        """Allow `seconds` from now, but not beyond `until`; then raise what `error` makes."""
        self.deadline = min(until, monotonic() + seconds)
        self._error = error
        self.limit = None
        return self

    def pause(self) -> None:
        """Set no limit until it is armed anew: what is waited for now has limits of its own."""
        self.deadline = math.inf
        self.limit = None

    def beat(self, beat: Callable[[], None] | None, seconds: float = math.inf) -> None:
        """Call `beat` whenever nothing was `heard` for so many seconds, also while paused; None stops that."""
        self._beat, self._beat_seconds = beat, seconds
        self.heard = True

    def is_over(self, now: float) -> bool:
        """Whether the limit is exceeded. Called by the timer; the first time after `limit` was set starts the count."""
        limit, self.limit = self.limit, None
        if limit is not None:
            self._error = limit.error
            self.deadline = min(now + limit.seconds, limit.until)
        if self.heard:
            self.heard = False
            self._beat_at = now + self._beat_seconds
        elif self._beat is not None and self._beat_at <= now < self.deadline:
            self._beat_at = now + self._beat_seconds
            self._beat()
        return self.deadline <= now

    def expire(self) -> None:
        """Cancel the task: the limit is exceeded."""
        self._deadlines.watches.discard(self)
        if self._task is not None and not self._expired:
            self._expired = True
            self._task.cancel()

    def __enter__(self) -> Self:
        deadlines = self._deadlines
        loop = deadlines.loop
        if loop is None or deadlines.timer is None:
            loop = deadlines.begin()
        self._task = task = current_task(loop)
        self._cancelling = task.cancelling()  # type: ignore[union-attr]  # coroutines run in tasks here
        deadlines.watches.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.watches.discard(self)
        self.deadline = math.inf
        self.limit = self._beat = None
        task, self._task = self._task, None
        if self._expired and task is not None:
            self._expired = False
            ours = task.uncancel() <= self._cancelling
            if ours and isinstance(error, asyncio.CancelledError) and self._error is not None:
                raise self._error() from None
