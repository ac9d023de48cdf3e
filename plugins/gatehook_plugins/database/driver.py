"""SQLite for SQLAlchemy's async engines: each connection has a thread of its own, which does one thing after another.

Crossing from thread to thread costs more than most statements do. So a statement is sent there once and comes back with
all its rows; and work that runs there as a whole (`Connection.within`) crosses once, however many statements it has.
"""

import asyncio
import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL, AdaptedConnection
from sqlalchemy.pool import AsyncAdaptedQueuePool, Pool
from sqlalchemy.util import await_only

__all__ = ["DRIVER", "Connection", "Dialect"]

T = TypeVar("T")

DRIVER: Final = "sqlite+gatehook"
"""What SQLAlchemy's URLs begin with."""

# For each None that is bound Python's module looks for a way to adapt it: an adapter that gives None back is found at
# once, while finding out that there is none takes longer than to bind all the other values of a row.
sqlite3.register_adapter(type(None), dict[None, None]().get)


class _Worker:
    """A thread, and the work that it still has to do, in order."""

    def __init__(self) -> None:
        self._waiting = SimpleQueue[Callable[[], object] | None]()
        self._thread = threading.Thread(target=self._run, name="sqlite", daemon=True)
        self._thread.start()
        self._unfinished = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being done, not even what nobody waits for any more."""
        return not self._unfinished

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on this thread."""
        return threading.get_ident() == self._thread.ident

    async def do(self, work: Callable[[], T]) -> T:
        """The result of `work`, done on the thread. Whoever gives up waiting does not stop it."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        self._unfinished += 1
        self._waiting.put(partial(self._do, work, outcome, loop))
        return await outcome

    def finish(self, last: Callable[[], object]) -> None:
        """Do `last`, for which nobody waits, then end the thread."""
        self._waiting.put(last)
        self._waiting.put(None)

    def _run(self) -> None:
        while (work := self._waiting.get()) is not None:
            with contextlib.suppress(sqlite3.Error):  # of the last one: nobody waits for it
                work()
            del work  # and all that it holds, while there is nothing to do

    def _do(self, work: Callable[[], T], outcome: "asyncio.Future[T]", loop: asyncio.AbstractEventLoop) -> None:
        """Do it, and tell the loop how it ended. Runs on the thread."""
        try:
            told = partial(self._tell, outcome, outcome.set_result, work())
        except BaseException as error:  # noqa: BLE001  # it is raised where it belongs
            told = partial(self._tell, outcome, outcome.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(told)

    def _tell(self, outcome: "asyncio.Future[Any]", tell: Callable[[Any], None], what: Any) -> None:
        self._unfinished -= 1
        if not outcome.done():
            tell(what)


class Connection(AdaptedConnection):
    """A connection as SQLAlchemy knows one (PEP 249); `_connection` is Python's own."""

    __slots__ = ("_worker",)

    def __init__(self, *args: Any, **options: Any) -> None:
        """As `sqlite3.connect`. Raises what that raises."""
        self._worker = _Worker()
        self._connection: Any = None
        try:
            self._do(partial(self._open, *args, **options))
        except BaseException:  # also of who gives up while it is being opened
            self.terminate()
            raise

    def _open(self, *args: Any, **options: Any) -> None:
        self._connection = sqlite3.connect(*args, **options)

    def _shut(self) -> None:
        if self._connection is not None:
            self._connection.close()

    async def within(self, work: Callable[[], T]) -> T:
        """Do work with this connection on the connection's thread, as a whole.

        Whoever gives up waiting has to see that it ends before anything else is done with the connection.
        """
        return await self._worker.do(work)

    async def value(self, query: str) -> Any:
        """The first value that a query gives. Whoever gives up waiting has to close the connection."""
        _, rows = await self._worker.do(partial(self._execute, lambda cursor: cursor.execute(query)))
        return rows[0][0]

    def cursor(self, server_side: bool = False) -> "_Cursor":
        """A cursor for one statement."""
        return _Cursor(self)

    def create_function(self, *args: Any, **options: Any) -> None:
        """As sqlite3 does."""
        self._do(partial(self._connection.create_function, *args, **options))

    def commit(self) -> None:
        """End the transaction, if there is one."""
        self._do(self._connection.commit)

    def rollback(self) -> None:
        """Undo the transaction, if there is one."""
        if self._connection.in_transaction or not self._worker.is_idle:
            self._do(self._connection.rollback)

    def close(self) -> None:
        """Close it, and wait for that."""
        try:
            self._do(self._connection.close)
        finally:
            self._worker.finish(_nothing)

    def terminate(self) -> None:
        """Close it, when its thread gets there."""
        self._worker.finish(self._shut)

    def execute(self, run: Callable[[sqlite3.Cursor], object]) -> tuple[sqlite3.Cursor, Sequence[Any]]:
        """Run a statement; gives its cursor, and all its rows."""
        return self._do(partial(self._execute, run))

    def _execute(self, run: Callable[[sqlite3.Cursor], object]) -> tuple[sqlite3.Cursor, Sequence[Any]]:
        cursor = self._connection.cursor()
        run(cursor)
        return cursor, cursor.fetchall() if cursor.description else ()

    def _do(self, work: Callable[[], T]) -> T:
        """The result of `work`, done on the connection's thread; elsewhere, runs in a greenlet of SQLAlchemy's."""
        return work() if self._worker.is_current else await_only(self._worker.do(work))


def _nothing() -> None: ...


class _Cursor:
    """A cursor as SQLAlchemy knows one (PEP 249): its rows are all there when the statement has been executed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows = deque[Any]()
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    def execute(self, statement: str, values: Any = ()) -> None:
        """Execute it once."""
        self._execute(lambda cursor: cursor.execute(statement, values or ()))

    def executemany(self, statement: str, values: Any) -> None:
        """Execute it for each of these."""
        self._execute(lambda cursor: cursor.executemany(statement, values))

    def _execute(self, run: Callable[[sqlite3.Cursor], object]) -> None:
        cursor, rows = self._connection.execute(run)
        self._rows.extend(rows)
        self.description, self.rowcount, self.lastrowid = cursor.description, cursor.rowcount, cursor.lastrowid

    def fetchone(self) -> Any:
        """The next row; None after the last."""
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> Sequence[Any]:
        """The next `size` rows, or as many as there are."""
        return [self._rows.popleft() for _ in range(min(size or self.arraysize, len(self._rows)))]

    def fetchall(self) -> Sequence[Any]:
        """All rows that are left."""
        rows = list(self._rows)
        self._rows.clear()
        return rows

    def __iter__(self) -> Iterator[Any]:
        while self._rows:
            yield self._rows.popleft()

    def close(self) -> None:
        """Drop what is left."""
        self._rows.clear()

    async def _async_soft_close(self) -> None:
        """SQLAlchemy asks for it: nothing is open."""


class _Driver:
    """What PEP 249 calls the module of a driver."""

    paramstyle = "qmark"
    sqlite_version = sqlite3.sqlite_version
    sqlite_version_info = sqlite3.sqlite_version_info
    Binary = sqlite3.Binary
    Error = sqlite3.Error
    DatabaseError = sqlite3.DatabaseError
    IntegrityError = sqlite3.IntegrityError
    InterfaceError = sqlite3.InterfaceError
    NotSupportedError = sqlite3.NotSupportedError
    OperationalError = sqlite3.OperationalError
    ProgrammingError = sqlite3.ProgrammingError
    connect = Connection


class Dialect(SQLiteDialect_pysqlite):
    """SQLAlchemy's own for SQLite, on this driver."""

    driver = "gatehook"
    is_async = True
    has_terminate = True
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        """The driver."""
        return _Driver()

    @classmethod
    def get_pool_class(cls, url: URL) -> type[Pool]:
        """The pool whose queue waits without blocking the loop."""
        return AsyncAdaptedQueuePool

    def get_driver_connection(self, connection: Any) -> Any:
        """Python's own connection."""
        return connection.driver_connection

    def do_terminate(self, dbapi_connection: Any) -> None:
        """Close a connection that nobody can wait for."""
        dbapi_connection.terminate()


registry.register("sqlite.gatehook", __name__, "Dialect")
