"""Plugins that take long to load, to start or to stop: the log says which one the gateway is waiting for."""

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from gatehook.loader.origins import frames, place

__all__ = ["Turns", "WatchedLifespan"]

log = logging.getLogger("gatehook")

_PATIENCE = 10.0
"""Seconds until the first warning, and between two."""


class WatchedLifespan:
    """A plugin's lifespan. While it takes long to start or to stop, which may never end, the log says whose it is."""

    def __init__(self, who: str, manager: AbstractAsyncContextManager[None]) -> None:
        """`who` is the plugin as messages name it."""
        self._who = who
        self._manager = manager
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> None:
        with self._telling("start; the gateway waits for it"):
            await self._stack.enter_async_context(self._manager)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        with self._telling("stop"):
            return await self._stack.__aexit__(kind, error, trace)

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        async def tell() -> None:
            waited = 0.0
            while True:
                await asyncio.sleep(_PATIENCE)
                waited += _PATIENCE
                log.warning("%s takes more than %g s to %s", self._who, waited, what)

        telling = asyncio.create_task(tell())
        try:
            yield
        finally:
            telling.cancel()


class Turns:
    """Whose turn it is while plugins are loaded. While one takes long, which may never end, the log says which."""

    def __init__(self) -> None:
        self._turn: tuple[Callable[[], str], str, str] | None = None

    def take(self, who: Callable[[], str], what: str, package: str) -> None:
        """Note whose turn it is now.

        Args:
            who: gives the plugin as messages name it.
            what: what it has to do: "be imported".
            package: the one that its code is in.
        """
        self._turn = who, what, package

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch this thread from another one while this context is open."""
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ended, threading.get_ident()), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def _watch(self, ended: threading.Event, thread: int) -> None:
        seen, waited = None, 0.0
        while not ended.wait(_PATIENCE):
            waited = waited + _PATIENCE if self._turn is seen else 0.0
            seen = self._turn
            if seen is not None and waited:
                who, what, package = seen
                log.warning("%s takes more than %g s to %s; the gateway waits for it: it is at %s",
                            who(), waited, what, _whereabouts(thread, package))  # fmt: skip


def _whereabouts(thread: int, package: str) -> str:
    """Where a thread is: the innermost frame in the package, or the innermost of all if there is none."""
    stack = list(frames(sys._current_frames().get(thread)))  # noqa: SLF001  # there is no public way
    own = (frame for frame in stack if f"{frame.f_globals.get('__name__', '')}.".startswith(f"{package}."))
    frame = next(own, stack[0]) if stack else None
    return "a place nobody knows" if frame is None else place(frame.f_code, frame.f_lineno)
