"""Crash recovery: what a process that died has left in its journal is entered into the database by another one."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from gatehook import counted
from gatehook_plugins.ledger.booking import GROUP, Booker
from gatehook_plugins.ledger.journal import Estate
from gatehook_plugins.ledger.recorder import crashed
from gatehook_plugins.ledger.records import Intent, Record, Row
from gatehook_plugins.ledger.trouble import Trouble

__all__ = ["Adopter"]

log = logging.getLogger("gatehook.ledger")

ADOPTION_SECONDS = 5.0
"""Seconds between two looks for journals that nobody holds any more."""
_BEGIN_SECONDS = 0.02


class Adopter:
    """Looks for journals of dead processes, again and again. It may be broken off anywhere, and do everything twice."""

    def __init__(self, booker: Booker, directory: Path, book: str) -> None:
        self._booker = booker
        self._directory = directory
        self._name = book
        self._foreign: set[str] = set()
        self._trouble = Trouble(
            "journals of processes that have died cannot be entered into the database yet",
            "the journals of processes that have died are entered into the database",
        )

    async def run(self, may_begin: Callable[[], bool]) -> None:
        """Adopt, until this is cancelled; not before `may_begin` says that all postings are ready."""
        while True:
            if not may_begin():
                await asyncio.sleep(_BEGIN_SECONDS)
                continue
            try:
                await self.adopt()
            except Exception as error:  # noqa: BLE001  # whatever it is, the journals are still there next time
                self._trouble.begin(error)
            else:
                self._trouble.end()
            await asyncio.sleep(ADOPTION_SECONDS)

    async def adopt(self) -> None:
        """Enter every journal that can be; one that cannot does not hold up the others.

        Raises:
            Exception: the first error, after all have been tried.
        """
        errors: list[Exception] = []
        for estate in Estate.claimed(self._directory):
            try:
                if self._is_foreign(estate):
                    continue
                rows, lost = await self._enter(estate)
                await self._booker.closed(estate.owner)
                await asyncio.to_thread(estate.remove)
                log.info("took over a journal: %s entered, of them %d cut off", counted(rows, "row"), lost)
            except Exception as error:  # noqa: BLE001
                errors.append(error)
            finally:
                estate.close()
        if errors:
            raise errors[0]

    def _is_foreign(self, estate: Estate) -> bool:
        """Whether it belongs to another database, which is logged once."""
        if estate.book in (self._name, ""):
            return False
        if estate.owner not in self._foreign:
            self._foreign.add(estate.owner)
            log.warning(
                "%s: journal %s is of another database than [database] url, and is left alone; start a gateway with "
                "that one, or delete it",
                self._directory,
                estate.owner,
            )
        return True

    async def _enter(self, estate: Estate) -> tuple[int, int]:
        """Enter a journal; gives how many rows that were, and how many of them are of requests that never ended."""
        under_way: dict[str, Intent] = {}
        records, entered = estate.records(), 0
        while group := await asyncio.to_thread(_group, records, under_way):
            entered += await self._book(group)
        lost = 0
        ends = (crashed(intent) for intent in under_way.values())
        while group := list(islice(ends, GROUP)):
            lost += await self._book(group)
        return entered + lost, lost

    async def _book(self, rows: list[Row]) -> int:
        fresh = await self._booker.book(rows, again=True)
        if fresh:
            self._booker.posted(fresh)
        return len(fresh)


def _group(records: Iterator[Record], under_way: dict[str, Intent]) -> list[Row]:
    """The next rows, at most `GROUP`; `under_way` is brought up to date with all records on the way."""
    rows: list[Row] = []
    for record in records:
        if isinstance(record, Intent):
            under_way[record.request_id] = record
        elif isinstance(record, Row):
            under_way.pop(record.request_id, None)
            rows.append(record)
            if len(rows) == GROUP:
                break
    return rows
