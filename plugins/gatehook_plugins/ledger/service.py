"""The ledger as other plugins see it."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import NoReturn

from sqlalchemy import select

from gatehook import (
    DATABASE,
    DIRECTORY,
    LONGEST_MODEL_NAME,
    Database,
    InvalidRequest,
    ModelUsage,
    Performance,
    Posting,
    Services,
    StartupError,
    Unavailable,
    UsageRow,
)
from gatehook_plugins.ledger import queries
from gatehook_plugins.ledger.adoption import Adopter
from gatehook_plugins.ledger.booking import Booker
from gatehook_plugins.ledger.flusher import Flusher
from gatehook_plugins.ledger.journal import Journal
from gatehook_plugins.ledger.records import Intent, Row
from gatehook_plugins.ledger.table import book

__all__ = ["GroupLedger"]

log = logging.getLogger("gatehook.ledger")

MOST_CORRECTED = 10**15
"""Tokens, or nano-dollars."""


class GroupLedger:
    """Implements `gatehook.services.Ledger`."""

    def __init__(self, services: Services) -> None:
        """Args: `services`, of which the database and the directory are looked up when they are needed."""
        self._services = services
        self._booker = Booker(services)
        self._owner = ""
        self._flusher: Flusher | None = None
        # During the lifespan these are the journal's and the flusher's own methods: one Python call less per request.
        self.intend: Callable[[Intent], None] = _not_running
        """Writes down that a request is about to be made; OSError if that cannot be written."""
        self.enter: Callable[[Row], None] = _not_running
        """Takes the row of a request that has ended."""

    @property
    def owner(self) -> str:
        """This process, once the ledger's lifespan has begun; "" before."""
        return self._owner

    def book(self, posting: Posting) -> None:
        """Have every row booked by this posting too. To be called before the ledger's lifespan begins."""
        self._booker.add(posting)

    @contextlib.asynccontextmanager
    async def lifespan(
        self, directory: Path, flush_interval: float, is_serving: Callable[[], bool]
    ) -> AsyncIterator[None]:
        """Keep the journal in `directory`, and write groups of rows, at most `flush_interval` seconds old.

        Journals of processes that have died are entered too, as soon and as long as the gateway serves.

        Raises:
            StartupError: the table or the journal cannot be made.
        """
        await self.migrate()
        async with self._database.reading() as connection:
            name = (await connection.scalars(select(book.c.name))).one()
        try:
            journal = await asyncio.to_thread(Journal, directory, name)
        except OSError as error:
            raise StartupError(
                f"the journal cannot be kept in {directory} ({error.strerror or error}); let it be written to, or set "
                "[plugins.ledger] directory to another one"
            ) from error
        self._owner, self._flusher = journal.owner, Flusher(self._booker, journal, flush_interval)
        self.intend, self.enter = journal.intend, self._flusher.enter
        tasks = [
            asyncio.create_task(self._flusher.run()),
            asyncio.create_task(Adopter(self._booker, directory, name).run(is_serving)),
        ]
        try:
            yield
        finally:
            await self._end(journal, self._flusher, tasks)

    async def migrate(self) -> None:
        """Bring the table up to date.

        Raises:
            StartupError: it is newer than this version.
        """
        await self._database.migrate("ledger", "gatehook_plugins.ledger.migrations")

    async def flush(self) -> None:
        """Wait until every request that has ended is in the database.

        Raises:
            Unavailable: the database cannot be written to now; nothing is lost.
        """
        if self._flusher is not None:
            await self._flusher.flush()

    async def correct(
        self, actor: str, user_id: str, *, model: str = "", tokens: int = 0, cost: int = 0, reason: str
    ) -> UsageRow:
        """Add or (negative) take back usage by hand; audited.

        Args:
            actor: who makes the correction.
            user_id: whose usage it is.
            model: of which model, "" for none in particular.
            tokens: counted as the prompt's.
            cost: in nano-dollars.
            reason: for the audit.

        Raises:
            InvalidRequest: nothing to correct, absurd amounts, or texts that cannot be kept. Unavailable: the database
                is away; should that have happened at the last moment, the rows tell whether it was done.
        """
        _check_text("user_id", user_id, 1, 256)
        _check_text("model", model, 0, LONGEST_MODEL_NAME)
        _check_text("reason", reason, 0, 2000)
        for param, amount in (("tokens", tokens), ("cost", cost)):
            if abs(amount) > MOST_CORRECTED:
                raise InvalidRequest(f"{param}: a correction by more than {MOST_CORRECTED:,}", param=param)
        if not (tokens or cost):
            raise InvalidRequest("nothing to correct: tokens and cost are both 0", param="tokens")
        row = _correction(user_id, model, tokens, cost)
        detail = {"request_id": row.request_id, "model": model, "tokens": tokens, "cost": cost, "reason": reason}
        await self.flush()  # so that rows come before their correction
        async with self._database.writing() as connection:
            await self._booker.write(connection, [row])
            await self._services[DIRECTORY].note(connection, actor, "usage.correct", user_id, detail)
        self._booker.posted([row])
        return row

    async def usage(
        self, start: int, end: int, *, user_id: str | None = None, model: str | None = None
    ) -> Sequence[ModelUsage]:
        """What was used of each model from `start` until before `end` (epoch ms), refused requests left out."""
        await self.flush()
        async with self._database.reading() as connection:
            return await queries.by_model(connection, start, end, user_id, model)

    async def totals(
        self, by: queries.By, start: int, end: int, *, user_id: str | None = None, model: str | None = None
    ) -> Sequence[queries.Total]:
        """The same of each model, user or day, and how many requests failed."""
        await self.flush()
        async with self._database.reading() as connection:
            return await queries.totals(connection, by, start, end, user_id, model)

    async def performance(
        self, start: int, end: int, *, user_id: str | None = None, model: str | None = None
    ) -> Performance:
        """How requests went from `start` until before `end` (epoch ms)."""
        await self.flush()
        async with self._database.reading() as connection:
            return await queries.performance(connection, start, end, user_id, model)

    async def rows(
        self, *, user_id: str | None = None, model: str | None = None, before: int | None = None, limit: int = 100
    ) -> Sequence[UsageRow]:
        """Single rows, the newest first, those that ended before `before` (epoch ms); at most 1,000."""
        await self.flush()
        async with self._database.reading() as connection:
            return await queries.rows(connection, user_id, model, before, limit)

    @property
    def _database(self) -> Database:
        return self._services[DATABASE]

    async def _end(self, journal: Journal, flusher: Flusher, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Write what is left and delete the journal; if that cannot be, leave it to the next start."""
        try:
            await flusher.flush()
        except Unavailable:
            log.warning("the database is away: what it lacks stays in the journal, for the next start")
        self._flusher = None
        self.intend = self.enter = _not_running
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            settled = journal.is_settled
            if settled and not journal.is_untouched:
                await self._booker.closed(journal.owner)
        except Unavailable:
            settled = False
        except Exception:
            log.exception("the journal's end could not be booked; the next start does that")
            settled = False
        if settled:
            journal.remove()
        else:
            journal.close()


def _not_running(record: object) -> NoReturn:
    raise RuntimeError("the ledger's lifespan has not begun, or is over")


def _check_text(param: str, text: str, least: int, most: int) -> None:
    if not least <= len(text) <= most:
        raise InvalidRequest(f"{param}: expected {least} to {most} letters", param=param)
    if not text.isprintable():
        raise InvalidRequest(f"{param}: holds letters that cannot be printed", param=param)


def _correction(user_id: str, model: str, tokens: int, cost: int) -> UsageRow:
    return UsageRow(
        f"cor_{secrets.token_hex(16)}",
        int(time.time() * 1000),
        user_id,
        key_id="",
        operation="",
        surface="",
        model=model,
        deployment="",
        vendor="",
        outcome="correction",
        http_status=0,
        code="",
        provenance="operator",
        prompt_tokens=tokens,
        input_cost=cost,
        output_cost=0,
    )
