"""The database as other plugins see it."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from gatehook import Database, StartupError, Unavailable
from gatehook_plugins.database.backend import Backend, reason
from gatehook_plugins.database.engines import AsyncConnection, AsyncEngine
from gatehook_plugins.database.glance import Glance
from gatehook_plugins.database.presence import Presence
from gatehook_plugins.database.recovery import Recovery
from gatehook_plugins.database.revisions import current_revision, head_revision
from gatehook_plugins.database.sharing import GroupCommit

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

__all__ = ["SqlDatabase"]

T = TypeVar("T")

log: Final = logging.getLogger("gatehook.database")

Begin = Callable[[AsyncConnection], Awaitable[object]]

_MOMENT: Final = 1.0
"""Seconds after which clients may try again."""


class _Lane:
    """An engine, to read or to write. Trouble with it is logged when it begins, when it changes, and when it ends.

    Not before `is_open`: what goes wrong until then is told by who opens it.
    """

    def __init__(self, engine: AsyncEngine, begin: Begin, what: str, where: str, recover: Callable[[], None]) -> None:
        """`recover` is called when something is wrong."""
        self._recover = recover
        self.engine = engine
        self.begin = begin
        self.trouble = ""
        self.is_open = False
        self._name = f"the database ({where})"
        self._what = what

    def failed(self, why: str) -> Unavailable:
        """Note why the database cannot be used; gives the error for clients."""
        if why != self.trouble and self.is_open:
            log.error("%s cannot be %s: %s", self._name, self._what, why)
        self.trouble = why
        self._recover()
        return _away()

    def worked(self) -> None:
        """Note that the database could be used."""
        if self.trouble:
            log.warning("%s can be %s again", self._name, self._what)
        self.trouble = ""


def _away() -> Unavailable:
    """The error for clients, whatever is wrong."""
    message = "the database is not available now; try again in a moment"
    return Unavailable(message, code="database_unavailable", retry_after=_MOMENT)


class _Lanes(NamedTuple):
    """Both ways into the database."""

    read: _Lane
    write: _Lane

    @property
    def trouble(self) -> str:
        """Why the database cannot be used, as far as that is known."""
        return self.read.trouble or self.write.trouble


class SqlDatabase:
    """Implements `gatehook.Database`: all trouble with the server or the file is `Unavailable`, until it is back."""

    def __init__(self, backend: Backend, timeout: float) -> None:
        """`timeout` is how long, in seconds, a connection is waited for, and as long again for a lock."""
        self._backend = backend
        self._patience = 2 * timeout + 1  # for a server that takes the connection and then says nothing
        self._lanes: _Lanes | None = None
        self._opening = asyncio.Lock()
        self._users = 0
        self._preparations: list[Callable[[], Awaitable[None]]] = []
        self._group_commit = GroupCommit(backend, self._connected)
        self._glance = Glance(backend, self._connection)
        self._presence = Presence(backend.where)
        self._recovery = Recovery(self._works)

    @property
    def works(self) -> bool:
        """See `Database.works`."""
        return not self._presence.gone and not any(lane.trouble for lane in self._lanes or ())

    @property
    def dialect(self) -> Literal["sqlite", "postgresql"]:
        """Which of the two it is, where that matters (upserts)."""
        return self._backend.dialect

    def before_use(self, prepare: Callable[[], Awaitable[None]]) -> None:
        """Have `prepare` run whenever the database has been opened, before anybody else uses it."""
        self._preparations.append(prepare)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Open it, and have it closed; may be nested.

        Raises:
            StartupError: it cannot be opened, or its tables cannot be made.
        """
        async with self._opening:
            if not self._users:
                await self._open()
            self._users += 1
        try:
            yield
        finally:
            async with self._opening:
                self._users -= 1
                if not self._users:
                    await self._close()

    async def inspect(self) -> None:
        """See `Database.inspect`.

        Raises:
            StartupError: it could not be opened.
        """
        if await asyncio.to_thread(self._backend.is_missing):
            return
        reading, _ = await asyncio.to_thread(self._backend.engines)
        try:
            async with reading.connect() as connection:
                await connection.run_sync(current_revision, "database")
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            why = self._backend.trouble(error) or reason(error)
            raise StartupError(f"[database] url: {self._backend.where} cannot be used: {why}") from None
        finally:
            await reading.dispose()

    async def _open(self) -> None:
        await asyncio.to_thread(self._backend.create)
        reading, writing = await asyncio.to_thread(self._backend.engines)  # loads the driver
        where = self._backend.where
        lanes = self._lanes = _Lanes(
            _Lane(reading, AsyncConnection.begin, "read", where, self._recovery.begin),
            _Lane(writing, self._backend.begin, "written to", where, self._recovery.begin),
        )
        try:
            async with self.reading():
                pass  # if it cannot be reached at all, that is what is told
            for prepare in self._preparations:
                await prepare()
            lanes.read.is_open = lanes.write.is_open = True
        except BaseException as error:
            await self._close()
            if isinstance(error, Unavailable):
                raise StartupError(f"[database] url: {where} cannot be used: {lanes.trouble}") from None
            raise

    async def _close(self) -> None:
        await self._recovery.close()
        await self._group_commit.close()
        await self._glance.close()
        for lane in self._lanes or ():
            await lane.engine.dispose()
        self._lanes = None

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection that only reads, and sees one state of the data.

        Raises:
            Unavailable: the database cannot be reached, or is locked for too long.
        """
        lane = self._opened_lanes().read
        async with self._transaction(lane, lane.begin) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed at the end, or, if that raises, rolled back. On SQLite there is one at a time.

        Raises:
            Unavailable: the database cannot be reached, is locked for too long, or its disk is full.
        """
        lane = self._opened_lanes().write
        async with self._transaction(lane, lane.begin) as connection:
            yield connection

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do short work in a transaction, which it may share with other work; see `Database.write`."""
        if self._backend.shares:
            return await self._group_commit.do(work)
        async with self.writing() as connection:
            return await work(connection)

    async def glance(self, query: str) -> Any:
        """The first value that a short query gives, had as cheaply as can be; None if it could not be had in that way.

        Await each before the next; see `Glance`.
        """
        return await self._glance.value(query)

    def _connection(self) -> Awaitable[AsyncConnection]:
        return self._opened_lanes().read.engine.connect()

    def _opened_lanes(self) -> _Lanes:
        if self._lanes is None:
            raise RuntimeError("the database is not open: use it within opened()")
        return self._lanes

    def _connected(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """As `writing`, but it is left to the caller to begin the transaction."""
        return self._transaction(self._opened_lanes().write, _nothing)

    @contextlib.asynccontextmanager
    async def _transaction(self, lane: _Lane, begin: Begin) -> AsyncIterator[AsyncConnection]:
        connection = await self._begin(lane, begin)
        try:
            yield connection
            if connection.in_transaction():
                await connection.commit()
        except Exception as error:
            why = self._backend.trouble(error)
            if why is None:
                if self._presence.is_doubtful(error) and not await self._is_there():
                    raise _away() from error
                raise
            if not connection.invalidated:
                await connection.invalidate(error)  # whatever it is, the next one begins anew
            raise lane.failed(why) from error
        else:
            lane.worked()
        finally:
            # Rolls back what is not committed; to the end, even if somebody gives up on us.
            await asyncio.shield(asyncio.ensure_future(connection.close()))

    async def _is_there(self) -> bool:
        """Whether this is still the database whose tables were made."""
        async with self._opened_lanes().read.engine.connect() as connection:
            is_there = await self._presence.look(connection)
        if not is_there:
            self._recovery.begin()
        return is_there

    async def _works(self) -> bool:
        """Read and write something.

        Raises:
            Unavailable: it cannot be.
        """
        name = f"gatehook_trial_{secrets.token_hex(8)}"
        async with self.writing() as connection:
            await connection.execute(text(f"CREATE TABLE {name} (n INTEGER)"))
            await connection.execute(text(f"DROP TABLE {name}"))
        async with self.reading() as connection:
            return await self._presence.look(connection)

    async def _begin(self, lane: _Lane, begin: Begin) -> AsyncConnection:
        """A connection, after `begin`. Whatever fails here is the database's fault: no statement has been run yet."""
        try:
            async with asyncio.timeout(self._patience):
                connection = await lane.engine.connect()
                try:
                    await begin(connection)
                except BaseException:
                    await asyncio.shield(asyncio.ensure_future(connection.close()))
                    raise
        except Exception as error:
            raise lane.failed(self._backend.trouble(error) or reason(error)) from error
        return connection

    async def migrate(self, name: str, package: str) -> None:
        """Bring the tables of plugin `name` up to date, by the alembic revisions in `package`.versions.

        Raises:
            StartupError: the tables are newer than the revisions, or a revision failed.
        """
        failed = f"the tables of plugin {name!r} cannot be brought up to date in {self._backend.where}"
        try:
            if await self._is_current(name, package):
                self._presence.made(name)
                return
            revisions = await asyncio.to_thread(_history, package)
            from gatehook_plugins.database.migrating import upgrade

            async with self.writing() as connection:
                await self._backend.lock(connection)
                became = await connection.run_sync(upgrade, name, revisions)
            if became:
                log.info("the tables of plugin %r are %s", name, became)
            self._presence.made(name)
        except Unavailable:
            raise StartupError(f"{failed}: {self._opened_lanes().trouble}") from None
        except SQLAlchemyError as error:
            raise StartupError(f"{failed}: {reason(error)}") from error

    async def _is_current(self, name: str, package: str) -> bool:
        """Whether there is plainly nothing to be done."""
        head = await asyncio.to_thread(head_revision, package)
        async with self.reading() as connection:
            return head is not None and await connection.run_sync(current_revision, name) == head


async def _nothing(connection: AsyncConnection) -> None: ...


def _history(package: str) -> "ScriptDirectory":
    """The revisions, by alembic, which is loaded for them. Blocks."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it logs every start; we log changes only
    from gatehook_plugins.database.migrating import history

    return history(package)


_implements: type[Database] = SqlDatabase
