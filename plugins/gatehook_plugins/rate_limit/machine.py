"""Counting in memory that the workers of one machine share: as exact as in one process, and a little slower.

What a request used less than it had reserved is given back when the next one is decided, or a moment later: so most
requests take the lock once only. Until then other workers see a little less room than there is, never more.
"""

import asyncio
import contextlib
import tempfile
import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from operator import add, le, sub
from pathlib import Path
from typing import Final

from gatehook_plugins.rate_limit.lives import Lives
from gatehook_plugins.rate_limit.rules import Rule, unit_of
from gatehook_plugins.rate_limit.store import BUSY, NEVER, SECOND, SLOTS, Decision, Gate, Grant, Store, nobody_knows
from gatehook_plugins.rate_limit.table import Record, Table

__all__ = ["MachineStore"]

_RUNNING: Final = -1
"""The first cell of a record that counts running requests; a window's holds a second, which is not negative."""
_SUM: Final = 1 + SLOTS
"""The cell of a window's record that holds the sum of its seconds."""
_NOTHING: Final = memoryview(array("q", bytes(8 * SLOTS)))
_MOMENT: Final = 0.05
"""Seconds after which what is owed is charged, if no request was decided meanwhile."""


def _monotonic() -> int:
    return time.monotonic_ns() // 1000  # the same in all processes


class MachineStore:
    """Counts for all workers of a machine together."""

    def __init__(self, clock: Callable[[], int] = _monotonic) -> None:
        """`clock` gives microseconds, is the same for all workers, and never goes back."""
        self.clock: Final = clock
        self.worker = 0
        self.table: Table
        self._lives: Lives
        self._look_again = 0
        """When to look for dead workers the next time."""
        self.owed: dict[str, dict[int, int]] = {}
        """Amounts still to be charged, by the limit's name, and by the second or `_RUNNING`."""
        self._timer: asyncio.TimerHandle | None = None
        self._gauges: dict[str, _Gauge] = {}
        """The limits' records in the table, by name; looked up anew when the table's edition shows that they moved."""
        self._edition = 0

    @contextlib.asynccontextmanager
    async def lifespan(self, folder: Path | None, worker: int) -> AsyncIterator[None]:
        """Keep it open; without a folder, in a private one."""
        with ExitStack() as stack:
            self.open(folder or Path(stack.enter_context(tempfile.TemporaryDirectory())), worker)
            stack.callback(self.close)
            yield

    def open(self, folder: Path, worker: int) -> None:
        """Share the counts with all workers that have the same folder.

        `worker` is this process's number. Requests of a process that had it before no longer run: that one has ended.
        """
        self.table = Table(folder, self._is_idle)
        self.worker = worker
        with self.table as table:
            self._lives = Lives(folder, worker)
            for record in table.all():
                if record[0] == _RUNNING:
                    record[1 + worker] = 0

    def close(self) -> None:
        """Charge what is owed, and close the table."""
        if self._timer is not None:
            self._timer.cancel()
        self.pay(self.owed)
        self.table.close()
        self._lives.close()

    def gate(self, rules: Sequence[Rule]) -> "_Gate":
        """See `Store`."""
        return _Gate(self, rules)

    def owe(self, name: str, slot: int, amount: int) -> None:
        """Charge an amount soon: with the next request that this limit decides, or in a moment."""
        amounts = self.owed.setdefault(name, {})
        amounts[slot] = amounts.get(slot, 0) + amount
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_MOMENT, self._pay_late)

    def pay(self, names: Iterable[str]) -> None:
        """Charge what is owed to these limits now, unless the table cannot be had; then it stays owed."""
        if not (owing := [name for name in names if name in self.owed]):
            return
        with contextlib.suppress(OSError), self.table as table:
            slot = self.clock() // SECOND
            for name, gauge in zip(owing, self.gauges(table, owing), strict=True):
                gauge.used(slot, self.owed.pop(name))

    def gauges(self, table: Table, names: Sequence[str]) -> "Sequence[_Gauge]":
        """The gauges of these limits. The caller holds the lock."""
        known = self._gauges
        if table.edition == self._edition:
            try:
                return [known[name] for name in names]
            except KeyError:
                pass
        records = table.records(names)
        if table.edition != self._edition:  # the old memory is let go with the old gauges
            known.clear()
            self._edition = table.edition
        for name, record in zip(names, records, strict=True):
            known[name] = _Running(record, self.worker) if unit_of(name) == "concurrent" else _Window(record)
        return [known[name] for name in names]

    def bury(self, gauges: "Sequence[_Gauge]", now: int) -> bool:
        """Remove the running requests of dead workers; gives whether there were any. The caller holds the lock.

        Mostly a worker's successor does that, but one that was about to end has none. So dead workers are looked for
        when a request would be refused, at most once a second.
        """
        if now < self._look_again:
            return False
        self._look_again = now + SECOND
        found = [gauge.let_go(self._lives.has_ended) for gauge in gauges if isinstance(gauge, _Running)]
        return any(found)

    def _pay_late(self) -> None:
        self._timer = None
        self.pay(self.owed)
        if self.owed:
            self._timer = asyncio.get_running_loop().call_later(_MOMENT, self._pay_late)

    def _is_idle(self, record: Record) -> bool:
        if record[0] != _RUNNING and record[0] <= self.clock() // SECOND - SLOTS:
            return True
        return not any(record[1:])


class _Gate:
    """Decides by a few limits, whose records it finds in the table, while it holds the lock."""

    __slots__ = ("_most", "_names", "_rules", "_store")

    def __init__(self, store: MachineStore, rules: Sequence[Rule]) -> None:
        self._store = store
        self._rules = tuple(rules)
        self._names = [rule.name for rule in rules]
        self._most = [rule.most for rule in rules]

    def admit(self, tokens: int) -> Decision:
        """See `Gate`.

        Raises:
            Unavailable: a worker that is stopped has the lock, or the table has no room.
        """
        try:
            return self._decided(tokens, [rule.cost(tokens) for rule in self._rules])
        except OSError:
            raise nobody_knows() from None

    def _decided(self, tokens: int, costs: Sequence[int]) -> Decision:
        store, most, pop = self._store, self._most, self._store.owed.pop
        waits: Sequence[int] = ()
        again = False
        with store.table as table:
            now = store.clock()
            slot = now // SECOND
            gauges = store.gauges(table, self._names)
            used = [gauge.used(slot, pop(name, None)) for gauge, name in zip(gauges, self._names, strict=True)]
            after = list(map(add, used, costs))
            if all(map(le, after, most)):
                used = after
                for gauge, cost in zip(gauges, costs, strict=True):
                    gauge.charge(cost, slot)
            elif not (again := store.bury(gauges, now)):
                waits = [gauge.wait(then, limit, now) for gauge, then, limit in zip(gauges, after, most, strict=True)]
        if again:
            return self._decided(tokens, costs)
        # The figures for the headers may be read without the lock: they need not be those of the very moment.
        left = [max(0, room) for room in map(sub, most, used)]
        resets = [gauge.reset(now) for gauge in gauges]
        return Decision(left, resets, waits, None if waits else Grant(self, tokens, slot))

    def peek(self) -> Decision:
        """See `Gate`.

        Raises:
            Unavailable: a worker that is stopped has the lock, or the table has no room.
        """
        store, pop = self._store, self._store.owed.pop
        try:
            with store.table as table:
                now = store.clock()
                gauges = store.gauges(table, self._names)
                known = zip(gauges, self._names, strict=True)
                used = [gauge.used(now // SECOND, pop(name, None)) for gauge, name in known]
        except OSError:
            raise nobody_knows() from None
        return Decision([max(0, room) for room in map(sub, self._most, used)], [one.reset(now) for one in gauges])

    def settle(self, grant: Grant, requests: int, tokens: int) -> None:
        """See `Gate`."""
        store, is_urgent = self._store, False
        for rule in self._rules:
            if rule.unit == "concurrent":
                store.owe(rule.name, _RUNNING, -1)
                is_urgent = True
            elif excess := tokens - grant.tokens if rule.unit == "tokens" else requests - 1:
                store.owe(rule.name, grant.slot, excess)
                is_urgent = is_urgent or excess > 0
        if is_urgent:
            store.pay(self._names)


class _Window:
    """What was used in each second of the window, in a record of the table.

    The record's first cell is the second that was looked at last. A ring of `SLOTS` cells follows, one for that second
    and each before it, and then their sum, so that it need not be computed while the lock is held. It is computed anew
    in each second, which also corrects what a process left undone that died with the lock.
    """

    __slots__ = ("_record",)

    def __init__(self, record: Record) -> None:
        self._record = record

    def used(self, slot: int, owed: Mapping[int, int] | None) -> int:
        """The sum, after dropping the seconds that have left the window, and charging what is owed to the others.

        What is owed to one that has left counts from now on.
        """
        record = self._record
        if (rolled := record[0]) != slot:
            if rolled <= slot - SLOTS:
                record[1:_SUM] = _NOTHING
            else:
                for gone in range(rolled + 1, slot + 1):
                    record[1 + gone % SLOTS] = 0
            record[_SUM] = sum(record[1:_SUM])
            record[0] = slot
        if owed:
            for when, amount in owed.items():
                if when > slot - SLOTS:
                    self.charge(amount, when)
                elif amount > 0:
                    self.charge(amount, slot)
        return record[_SUM]

    def charge(self, amount: int, slot: int) -> None:
        """Add to a second of the window; a negative amount takes off."""
        record = self._record
        record[1 + slot % SLOTS] += amount
        record[_SUM] += amount

    def wait(self, wanted: int, most: int, now: int) -> int:
        """Microseconds until `wanted` is at most `most`: until enough of the oldest seconds have left the window."""
        over = wanted - most
        if over <= 0:
            return 0
        slot = self._record[0]
        for past in range(slot - SLOTS + 1, slot + 1):
            over -= self._record[1 + past % SLOTS]
            if over <= 0:
                return (past + SLOTS) * SECOND - now
        return NEVER

    def reset(self, now: int) -> int:
        """Microseconds until all that was used has left the window."""
        slot = self._record[0]
        for past in range(slot, slot - SLOTS, -1):
            if self._record[1 + past % SLOTS]:
                return (past + SLOTS) * SECOND - now
        return 0


class _Running:
    """How many requests run now: a cell for each worker, so that those of a dead one can be removed."""

    __slots__ = ("_cells", "_worker")

    def __init__(self, record: Record, worker: int) -> None:
        record[0] = _RUNNING
        self._cells, self._worker = record[1:], worker

    def used(self, slot: int, owed: Mapping[int, int] | None) -> int:
        """The requests of all workers, after charging what is owed."""
        if owed:
            self._cells[self._worker] += sum(owed.values())
        return sum(self._cells)

    def let_go(self, has_ended: Callable[[int], bool]) -> bool:
        """Remove the requests of workers that have ended; gives whether there were any."""
        gone = [number for number, running in enumerate(self._cells) if running and has_ended(number)]
        for number in gone:
            self._cells[number] = 0
        return bool(gone)

    def wait(self, wanted: int, most: int, now: int) -> int:
        """0, or a guess: nobody knows when a running request ends."""
        return 0 if wanted <= most else BUSY if most > 0 else NEVER

    def charge(self, amount: int, slot: int) -> None:
        """Add running requests of this worker."""
        self._cells[self._worker] += amount

    def reset(self, now: int) -> int:
        """0: nobody knows when they end."""
        return 0


_Gauge = _Window | _Running

_implements: tuple[type[Store], type[Gate]] = (MachineStore, _Gate)
