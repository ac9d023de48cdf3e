"""Counting in memory that the workers of one machine share: as exact as in one process, and a little slower."""

import contextlib
import tempfile
import time
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from gatehook_plugins.rate_limit.rules import Rule
from gatehook_plugins.rate_limit.store import BUSY, NEVER, SECOND, SLOTS, Decision, Gate, Grant, Store
from gatehook_plugins.rate_limit.table import Record, Table

__all__ = ["MachineStore"]

_RUNNING: Final = -1
"""What the first cell of a record is where running requests are counted."""
_SUM: Final = 1 + SLOTS
"""The cell of a window's record that holds the sum of its seconds."""
_NOTHING: Final = memoryview(array("q", bytes(8 * SLOTS)))


def _monotonic() -> int:
    return time.monotonic_ns() // 1000  # the same in all processes


class MachineStore:
    """Limits of all workers."""

    def __init__(self, clock: Callable[[], int] = _monotonic) -> None:
        """`clock` gives microseconds, the same ones to all, and never goes back."""
        self.clock: Final = clock
        self.worker = 0
        self.table: Table

    @contextlib.asynccontextmanager
    async def lifespan(self, folder: Path | None, worker: int) -> AsyncIterator[None]:
        """Open it, meanwhile; without a folder there is a private one."""
        with ExitStack() as stack:
            self.open(folder or Path(stack.enter_context(tempfile.TemporaryDirectory())), worker)
            stack.callback(self.table.close)
            yield

    def open(self, folder: Path, worker: int) -> None:
        """Share what is counted with all that have the same folder.

        `worker` is this process's number. What ran in another that had it before runs no more: that one is dead.
        """
        self.table = Table(folder, self._is_idle)
        self.worker = worker
        with self.table as table:
            for record in table.all():
                if record[0] == _RUNNING:
                    record[1 + worker] = 0

    def gate(self, rules: Sequence[Rule]) -> "_Gate":
        """See `Store`."""
        return _Gate(self, rules)

    def _is_idle(self, record: Record) -> bool:
        if record[0] != _RUNNING and record[0] <= self.clock() // SECOND - SLOTS:
            return True
        return not any(record[1:])


class _Gate:
    """Finds the records of a few limits in the table, and decides while it has the lock."""

    __slots__ = ("_names", "_rules", "_store")

    def __init__(self, store: MachineStore, rules: Sequence[Rule]) -> None:
        self._store = store
        self._rules = tuple(rules)
        self._names = [rule.name for rule in rules]

    def admit(self, tokens: int) -> Decision:
        """See `Gate`."""
        store = self._store
        with store.table as table:
            now = store.clock()
            slot = now // SECOND
            charges: list[tuple[Rule, _Gauge, int]] = []
            for rule, record in zip(self._rules, table.records(self._names), strict=True):
                gauge = _Running(record, store.worker) if rule.unit == "concurrent" else _Window(record, slot)
                charges.append((rule, gauge, rule.cost(tokens)))
            waits = [gauge.wait(cost, rule.most, now) for rule, gauge, cost in charges]
            if admitted := not any(waits):
                for _, gauge, cost in charges:
                    gauge.add(cost)
            left = [max(0, rule.most - gauge.used) for rule, gauge, _ in charges]
            resets = [gauge.reset(now) for _, gauge, _ in charges]
        if not admitted:
            return Decision(left, resets, waits)
        return Decision(left, resets, (), Grant(self, tokens, slot))

    def settle(self, grant: Grant, requests: int, tokens: int) -> None:
        """See `Gate`."""
        store = self._store
        with store.table as table:
            slot = store.clock() // SECOND
            for rule, record in zip(self._rules, table.records(self._names), strict=True):
                if rule.unit == "concurrent":
                    record[1 + store.worker] -= 1
                elif excess := tokens - grant.tokens if rule.unit == "tokens" else requests - 1:
                    _Window(record, slot).amend(grant.slot, excess)


class _Window:
    """What was used in each second of the window.

    A record's first cell tells the second that was looked at last; in a circle after it are that one and those before
    it, and then their sum, for the lock is held while it is looked up. What is left undone by a process that dies
    meanwhile is done by the next: the seconds are summed up anew in each of them.
    """

    __slots__ = ("_record", "_slot", "used")

    def __init__(self, record: Record, slot: int) -> None:
        """Drop the seconds that lie wholly before the window."""
        self._slot = slot
        self._record = record
        rolled = record[0]
        if rolled != slot:
            if rolled <= slot - SLOTS:
                record[1:_SUM] = _NOTHING
            else:
                for gone in range(rolled + 1, slot + 1):
                    record[1 + gone % SLOTS] = 0
            record[_SUM] = sum(record[1:_SUM])
            record[0] = slot
        self.used = record[_SUM]

    def wait(self, cost: int, most: int, now: int) -> int:
        """How long until `cost` fits in: until enough of the oldest seconds have gone."""
        over = self.used + cost - most
        if over <= 0:
            return 0
        for slot in range(self._slot - SLOTS + 1, self._slot + 1):
            over -= self._record[1 + slot % SLOTS]
            if over <= 0:
                return (slot + SLOTS) * SECOND - now
        return NEVER

    def add(self, cost: int) -> None:
        """Charge it to the current second."""
        self._record[1 + self._slot % SLOTS] += cost
        self.used = self._record[_SUM] = self.used + cost

    def amend(self, slot: int, excess: int) -> None:
        """Charge more, or (negative) less, to a second; nothing if it is out of the window already."""
        if slot > self._slot - SLOTS:
            self._record[1 + slot % SLOTS] += excess
            self._record[_SUM] += excess

    def reset(self, now: int) -> int:
        """How long until nothing is used any more."""
        for slot in range(self._slot, self._slot - SLOTS, -1):
            if self._record[1 + slot % SLOTS]:
                return (slot + SLOTS) * SECOND - now
        return 0


class _Running:
    """How many requests run now; a cell for each worker, as those of one that dies run no more."""

    __slots__ = ("_cells", "_worker", "used")

    def __init__(self, record: Record, worker: int) -> None:
        record[0] = _RUNNING
        self._cells, self._worker = record[1:], worker
        self.used = sum(self._cells)

    def wait(self, cost: int, most: int, now: int) -> int:
        """When one of them ends, nobody knows."""
        return 0 if self.used + cost <= most else BUSY if most > 0 else NEVER

    def add(self, cost: int) -> None:
        """One more."""
        self._cells[self._worker] += cost
        self.used += cost

    def reset(self, now: int) -> int:
        """Nothing that can be waited for."""
        return 0


_Gauge = _Window | _Running

_guards: tuple[type[Store], type[Gate]] = (MachineStore, _Gate)
