"""Group commit: short work that comes at the same time shares a transaction, so that the disk is waited for once.

SQLite lets one transaction write at a time. If each piece of work had its own, those of a crowd would stand in line
until the last ones gave up.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy.engine import Connection

from gatehook_plugins.database.backend import Backend
from gatehook_plugins.database.engines import AsyncConnection, AsyncEngine

__all__ = ["GroupCommit", "Work"]

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]
_Outcome = tuple[Any, Exception | None]

_MOST: Final = 64
"""Pieces of work in one transaction."""
_LONG_ENOUGH: Final = 0.05
"""Seconds after which a transaction takes no more: other processes want to write, too."""


class _Piece:
    """Work that is not done yet."""

    def __init__(self, work: Work[Any]) -> None:
        self.work = work
        self.outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        """Cancelled, if nobody waits for it any more."""


class _OnItsThread(AsyncConnection):
    """A connection for work that runs on the connection's own thread: no method waits, and no greenlet is needed."""

    @property
    def sync(self) -> Connection:
        """The connection itself."""
        assert self.sync_connection is not None, "it is open"  # noqa: S101
        return self.sync_connection

    async def execute(self, *args: Any, **options: Any) -> Any:
        return self.sync.execute(*args, **options)

    async def scalar(self, *args: Any, **options: Any) -> Any:
        return self.sync.scalar(*args, **options)

    async def scalars(self, *args: Any, **options: Any) -> Any:
        return self.sync.scalars(*args, **options)

    async def exec_driver_sql(self, *args: Any, **options: Any) -> Any:
        return self.sync.exec_driver_sql(*args, **options)


class GroupCommit:
    """Does the short work of one process, in groups."""

    def __init__(self, backend: Backend, writing: Callable[[], AbstractAsyncContextManager[AsyncConnection]]) -> None:
        """`writing` is as `Database.writing`, but the transaction has yet to be begun."""
        self._backend = backend
        self._writing = writing
        self._waiting = deque[_Piece]()
        self._task: asyncio.Task[None] | None = None

    async def do(self, work: Work[T]) -> T:
        """Do `work` in the next transaction; gives its result, or raises its error, once that is committed."""
        piece = _Piece(work)
        self._waiting.append(piece)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._do_all())
        result: T = await piece.outcome
        return result

    async def close(self) -> None:
        """See what was begun to its end."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _do_all(self) -> None:
        """Work until nothing waits; in a task of its own, so that a caller who gives up takes no other's work along."""
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
            if group := [piece for piece in group if not piece.outcome.done()]:
                await self._do(group)

    async def _do(self, group: Sequence[_Piece]) -> None:
        outcomes: Sequence[_Outcome]
        try:
            async with self._writing() as connection:
                outcomes = await self._backend.within(connection, partial(self._done, connection.engine, group))
                self._tell(group, outcomes)  # it is committed: nobody need wait for the connection to be given back
        except Exception as error:  # noqa: BLE001  # it is raised where it belongs
            self._tell(group, [(None, error)] * len(group))
            return
        self._waiting.extendleft(reversed(group[len(outcomes) :]))

    @staticmethod
    def _tell(group: Sequence[_Piece], outcomes: Sequence[_Outcome]) -> None:
        for piece, (result, error) in zip(group, outcomes, strict=False):
            if piece.outcome.done():
                continue
            if error is None:
                piece.outcome.set_result(result)
            else:
                piece.outcome.set_exception(error)

    def _done(self, engine: AsyncEngine, group: Sequence[_Piece], connection: Connection) -> list[_Outcome]:
        """The outcome of each piece that there was time for, after the commit. Runs on the connection's thread."""
        outcomes, here = list[_Outcome](), _OnItsThread(engine, connection)
        self._backend.begin_within(connection)
        end = time.monotonic() + _LONG_ENOUGH
        for piece in group:
            if len(group) == 1:
                outcomes.append((_at_once(piece.work(here)), None))
            else:
                outcomes.append(self._in_savepoint(connection, here, piece))
            if time.monotonic() > end:
                break
        connection.commit()
        return outcomes

    def _in_savepoint(self, connection: Connection, here: _OnItsThread, piece: _Piece) -> _Outcome:
        """Do it as one of several: if it fails it leaves no trace, and the others stand."""
        savepoint = connection.begin_nested()
        try:
            result = _at_once(piece.work(here))
        except Exception as error:
            if self._backend.trouble(error) is not None:
                raise  # nobody's work can be written: the savepoint may be gone, and the transaction with it
            savepoint.rollback()
            return None, error
        savepoint.commit()
        return result, None


def _at_once(work: Awaitable[T]) -> T:
    """The result of a coroutine that never waits."""
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    steps.close()
    raise RuntimeError("work that is to be written may wait for nothing but its connection")
