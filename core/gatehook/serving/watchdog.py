"""Finds the plugin that blocks the event loop, or that a call waits for without end.

It is found by its code: in the stack of the loop's thread while the loop stands still, and in the coroutines that calls
wait for. So nothing has to be wrapped, and requests are not slower.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

from gatehook.loader.metering import Steps
from gatehook.loader.origins import Owners, frames, place

__all__ = ["Watchdog"]

log = logging.getLogger("gatehook")

_LOOK = 30.0
"""Seconds between two looks at what calls wait for; a call that waits for the same at both is reported."""

_BOUNDED: Final = frozenset({"gatehook.calls.attempts", "gatehook.calls.delivery"})
"""Modules that set time limits: what waits within them is not reported."""


class Watchdog:
    """Watches the running loop from a thread of its own.

    Args:
        owners: tells which plugin a module belongs to.
        warning: seconds for which the loop may stand still before the log says so; 0 for never.
        limit: seconds after which this process is killed, so that its parent starts another; 0 for never.
    """

    def __init__(self, owners: Owners, warning: float, limit: float = 0.0) -> None:
        self._owners = owners
        self._warning = warning
        self._limit = limit
        shortest = min(filter(None, (warning, limit)), default=0.0)
        self._interval = shortest / 4
        self._beats = 0
        self._ended = threading.Event()
        self._waiting: dict[Any, str] = {}
        """The plugins' coroutines that calls waited for at the last look: "new", or "told" if they were reported."""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch this thread's running loop while this context is open."""
        loop = asyncio.get_running_loop()
        timers = {"look": loop.call_later(_LOOK, self._look_around, loop)}
        self._timers = timers
        thread = None
        if self._interval:
            self._beat(loop)
            thread = threading.Thread(target=self._watch, args=(threading.get_ident(),), daemon=True, name="watchdog")
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for timer in timers.values():
                timer.cancel()
            if thread is not None:
                thread.join()

    # --- a loop that stands still

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beats += 1
        self._timers["beat"] = loop.call_later(self._interval, self._beat, loop)

    def _watch(self, thread: int) -> None:
        """Add up the intervals in which the loop has not moved; while the process itself is stopped, none passes."""
        beats, still, told = 0, 0.0, False
        while not self._ended.wait(self._interval):
            if beats != self._beats:
                if told:
                    log.warning("the event loop moves again, after %.1f s", still)
                beats, still, told = self._beats, 0.0, False
                continue
            still += self._interval
            if self._warning and still >= self._warning and not told:
                told = True
                log.warning("the event loop stands still for %.1f s, and every request with it: %s",
                            still, self._holder(thread))  # fmt: skip
            if self._limit and still >= self._limit:
                log.critical("the event loop stands still for %.1f s; this worker gives up its place to a new one: %s",
                             still, self._holder(thread))  # fmt: skip
                os.kill(os.getpid(), signal.SIGKILL)

    def _holder(self, thread: int) -> str:
        """Where the loop's thread is: the innermost frame of a plugin, or the innermost of all if there is none."""
        stack = list(frames(sys._current_frames().get(thread)))  # noqa: SLF001  # there is no public way
        for frame in stack:
            if who := self._owners.of(frame.f_globals.get("__name__", "")):
                return f"{who} is at {place(frame.f_code, frame.f_lineno)}"
        return f"no plugin's code, but {place(stack[0].f_code, stack[0].f_lineno)}" if stack else "nobody knows where"

    # --- calls that wait without end

    def _look_around(self, loop: asyncio.AbstractEventLoop) -> None:
        """Log which plugins have kept a call waiting since the last look, once for each coroutine."""
        before, self._waiting = self._waiting, {}
        told: dict[str, int] = {}
        for task in asyncio.all_tasks(loop):
            found = self._waited_for(task)
            if found is None:
                continue
            coroutine, place = found
            self._waiting[coroutine] = "new"
            if coroutine in before:
                self._waiting[coroutine] = "told"
                if before[coroutine] == "new":
                    told[place] = told.get(place, 0) + 1
        for place, count in told.items():
            log.warning("%d call%s waiting for more than %.0f s: %s", count, " is" if count == 1 else "s are",
                        _LOOK, place)  # fmt: skip
        self._timers["look"] = loop.call_later(_LOOK, self._look_around, loop)

    def _waited_for(self, task: "asyncio.Task[Any]") -> tuple[Any, str] | None:
        """The innermost coroutine of a plugin that a call's task waits for, and where it is; None for any other."""
        found, is_call = None, False
        coroutine: Any = task.get_coro()
        while coroutine is not None:
            frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
            if frame is not None:
                module = frame.f_globals.get("__name__", "")
                is_call = is_call or module == "gatehook.calls.pipeline"
                if module in _BOUNDED:
                    return None
                if who := is_call and self._owners.of(module):
                    found = coroutine, f"{who} is at {place(frame.f_code, frame.f_lineno)}"
            inner = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
            coroutine = inner or _measured(coroutine) or getattr(coroutine, "gi_yieldfrom", None)
        return found


def _measured(generator: Any) -> Any:
    """What a generator of `metering.Steps` awaits, which drives its awaitable by hand; None for any other generator."""
    frame = getattr(generator, "gi_frame", None)
    steps = frame.f_locals.get("self") if frame is not None else None
    return steps.inner if isinstance(steps, Steps) else None
