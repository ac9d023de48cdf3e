"""Group commit: requests end at any time, and go into the database many at once, in the order in which they ended."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

from gatehook import Unavailable
from gatehook_plugins.ledger.booking import GROUP, Booker
from gatehook_plugins.ledger.journal import Journal, Place
from gatehook_plugins.ledger.records import Row
from gatehook_plugins.ledger.trouble import Trouble

__all__ = ["Flusher"]

log = logging.getLogger("gatehook.ledger")

MOST_WAITING: Final = 100_000
"""Rows in memory. Later ones are only in the journal, and read back from there."""
_READ_BACK: Final = 10_000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
"""Seconds until a failed group is tried again; doubled each time."""


class Flusher:
    """The rows of this process, from their end until they are in the database.

    A row waits in `_waiting`, or, when there are too many, in the journal from `_behind` on. A group that failed is
    tried again, without the rows that turn out to be there: the connection may have broken after the commit.
    """

    def __init__(self, booker: Booker, journal: Journal, interval: float, *, most_waiting: int = MOST_WAITING) -> None:
        """`interval` is the seconds for which a row may wait for others."""
        self._booker = booker
        self.journal = journal
        self._interval = interval
        self._most_waiting = most_waiting
        self._waiting = journal.waiting
        self._behind: Place | None = None
        self._few = self._most_at_rest = min(GROUP - 1, most_waiting)
        """While fewer rows wait than this, one more neither fills a group nor has to be left behind."""
        self._left = self._settled = 0
        """Numbers of rows: those left behind, and those in the database or given up."""
        self._flushes: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._again = self._is_over = False
        self._wake, self._hurry = asyncio.Event(), asyncio.Event()
        self._away = Trouble(
            "the ledger cannot write to the database, and keeps everything in its journal",
            "the ledger writes to the database again",
        )

    def enter(self, row: Row) -> None:
        """Take a row. It is in the journal afterwards; if that cannot be written, in memory only."""
        waiting = self._waiting
        if waiting and len(waiting) < self._few:
            self.journal.enter(row)
        else:
            self._enter_and_tell(row)

    async def flush(self) -> None:
        """Wait until all rows taken so far are in the database.

        Raises:
            Unavailable: it cannot be written to now.
        """
        ended = self._settled + len(self._waiting) + self._left
        if self._settled == ended:
            return
        if self._is_over:
            raise _away()
        flushed = asyncio.get_running_loop().create_future()
        self._flushes.append((ended, flushed))
        self._wake.set()
        self._hurry.set()
        await flushed

    async def run(self) -> None:
        """Write groups until this is cancelled; then whoever waits for a flush is refused."""
        try:
            await self._write_on_and_on()
        finally:
            self._is_over = True
            self._refuse_flushes()

    async def _write_on_and_on(self) -> None:
        pause, failures = self._interval, 0
        while True:
            await self._wake.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            self._wake.clear()
            self._hurry.clear()
            try:
                await self._write_groups()
            except Exception as error:  # noqa: BLE001  # whatever it is, the rows must get there in the end
                self._failed(error)
                pause = min(_FIRST_PAUSE * 2**failures, _LONGEST_PAUSE)
                failures = min(failures + 1, 10)
            else:
                self._away.end()
                pause, failures = self._interval, 0

    def _enter_and_tell(self, row: Row) -> None:
        """Take a row when somebody may have to be woken, or too many wait."""
        waiting = self._waiting
        if self._behind is not None or len(waiting) >= self._most_waiting:
            self._leave_behind(row)
            return
        self.journal.enter(row)
        if len(waiting) == 1:
            self._wake.set()  # else it is set, or will be when the groups that are being written leave some
        if len(waiting) >= GROUP and not self._away.lasts:
            self._hurry.set()

    def _leave_behind(self, row: Row) -> None:
        """Keep a row in the journal only, for now, as too many wait in memory."""
        place = self.journal.end
        try:
            self.journal.leave(row)
        except OSError:
            if row.outcome != "rejected" or len(self._waiting) < self._most_waiting:
                self.journal.keep(row)  # else it used nothing, and there is no room anywhere
                self._wake.set()
        else:
            self._left += 1
            self._read_on_from(self._behind or place)

    def _read_on_from(self, place: Place | None) -> None:
        """Note where the rows begin that are in the journal only; None if there are none any more."""
        self._behind = place
        self._few = self._most_at_rest if place is None else 0

    async def _write_groups(self) -> None:
        """Write what waits; a last group that is not full may wait for more, unless somebody waits for it."""
        while self._waiting or self._behind is not None:
            if self._behind is not None and len(self._waiting) <= self._most_waiting // 2:
                await self._catch_up(self._behind)
            if rows := self._waiting[:GROUP]:
                await self._write_group(rows)
            if len(self._waiting) < GROUP and self._behind is None and not self._flushes:
                break
        if self._waiting:
            self._wake.set()
        else:
            self._settled += self._left  # those that cannot be read back
            self._left = 0
            self._answer_flushes()

    async def _catch_up(self, place: Place) -> None:
        try:
            found, after = await asyncio.to_thread(self.journal.read, place, self.journal.end, _READ_BACK)
        except OSError as error:
            log.error("rows cannot be read back from the journal, and stay there: %s", error)  # noqa: TRY400
            self._read_on_from(None)
            return
        self.journal.take_back(found)
        self._left -= len(found)
        self._read_on_from(None if after == self.journal.end else after)

    async def _write_group(self, rows: Sequence[Row]) -> None:
        try:
            await self._booker.book(rows, again=self._again)
        except Unavailable:
            self._again = True
            raise
        except Exception as error:  # noqa: BLE001
            self._again = True
            await self._write_singly(rows, error)
        else:
            self._settle(rows)
        self._again = False

    async def _write_singly(self, rows: Sequence[Row], error: Exception) -> None:
        """Find the rows that the database, or a posting, does not take. If it takes none, it is not the rows' fault."""
        refused: list[Row] = []
        for row in rows:
            try:
                await self._booker.book([row], again=True)
            except Unavailable:
                raise
            except Exception as reason:  # noqa: BLE001
                refused.append(row)
                error = reason
            else:
                self._settle([row], len(refused))
        if len(refused) == len(rows):
            raise error
        for row in refused:
            log.error("%s cannot be entered, and stays in the journal: %r", row, error)
        self.journal.refused(len(refused))
        self._settled += len(refused)
        self._answer_flushes()

    def _settle(self, rows: Sequence[Row], place: int = 0) -> None:
        """Note that these rows, which wait from `place` on, are in the database."""
        self.journal.booked(len(rows), place)
        self._settled += len(rows)
        self._booker.posted(rows)
        self._answer_flushes()

    def _answer_flushes(self) -> None:
        while self._flushes and self._flushes[0][0] <= self._settled:
            _, flushed = self._flushes.popleft()
            if not flushed.done():
                flushed.set_result(None)

    def _failed(self, error: Exception) -> None:
        self._away.begin(error)
        self._wake.set()
        self._refuse_flushes()

    def _refuse_flushes(self) -> None:
        while self._flushes:
            _, flushed = self._flushes.popleft()
            if not flushed.done():
                flushed.set_exception(_away())


def _away() -> Unavailable:
    return Unavailable("the ledger cannot write to the database now; nothing is lost")
