"""Counting in this process. A decision costs a microsecond; what is idle is forgotten."""

import time
from collections.abc import Callable, Sequence
from math import ceil
from typing import Final
from weakref import WeakValueDictionary

from gatehook_plugins.rate_limit.rules import Rule
from gatehook_plugins.rate_limit.store import BUSY, NEVER, SECOND, SLOTS, Decision, Gate, Grant, Store
from gatehook_plugins.rate_limit.told import Told, headers, lasting

__all__ = ["MemoryStore"]

_REST: Final = (SLOTS - 1) * SECOND
"""A second counts for so long after its end, in microseconds."""


class MemoryStore:
    """Counts for one process."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`clock` gives nanoseconds, as the system's does, and never goes back."""
        self.clock: Final = clock
        self._running: WeakValueDictionary[str, _Running] = WeakValueDictionary()
        """By rule name, kept alive by the gates, which grants hold: without any of these no request runs."""
        # Two generations: a window that was not asked for during a whole one is empty, and is dropped without a search.
        self._recent: dict[str, _Window] = {}
        self._older: dict[str, _Window] = {}
        self._next_generation = 0

    def gate(self, rules: Sequence[Rule]) -> "_Gate":
        """See `Store`."""
        return _Gate(self, rules)

    def generation(self, slot: int) -> int:
        """Go on to the generation of this second; gives the first second of the next one."""
        if slot >= self._next_generation:
            self._older, self._recent = self._recent, {}
            self._next_generation = slot + SLOTS
        return self._next_generation

    def gauge(self, rule: Rule) -> "_Gauge":
        """The gauge of a rule in this generation, the same for all gates."""
        name = rule.name
        if rule.unit == "concurrent":
            return self._running.setdefault(name, _Running())
        window = self._recent.get(name)
        if window is None:
            window = self._recent[name] = self._older.get(name) or _Window()
        return window


class _Gate:
    """Decides by a few limits, whose gauges it keeps at hand: nothing is looked up for a request."""

    __slots__ = (
        "_clock",
        "_ends",
        "_gauges",
        "_headers",
        "_next_generation",
        "_requests",
        "_rules",
        "_running",
        "_slot",
        "_store",
        "_tokens",
        "_told",
        "_turns",
    )

    def __init__(self, store: MemoryStore, rules: Sequence[Rule]) -> None:
        self._store = store
        self._clock = store.clock
        self._rules = tuple(rules)
        self._headers = headers(self._rules)
        self._told: Told | None = None
        """The headers of this second, where they can be written beforehand."""
        self._slot = self._next_generation = -1
        self._turns = 0
        """When the second after `_slot` begins, by the clock; as `_ends`."""
        self._ends = 0
        """When what is charged to `_slot` leaves the window, as the last."""
        self._gauges: tuple[tuple[_Gauge, int, bool], ...] = ()
        """For each limit its gauge, the most that may be used, and whether that is tokens."""
        self._requests: tuple[_Window, ...] = ()
        self._tokens: tuple[_Window, ...] = ()
        self._running: tuple[tuple[int, _Running], ...] = ()
        """With their places among all limits."""

    def admit(self, tokens: int) -> Decision:
        """See `Gate`."""
        clock = self._clock
        now = clock() // 1000
        if now >= self._turns:
            self._turn(now)
        left: list[int] = []
        for gauge, most, is_of_tokens in self._gauges:
            gauge.used = used = gauge.used + (tokens if is_of_tokens else 1)
            if used > most:
                return self._refuse(len(left) + 1, tokens, now)
            left.append(most - used)
        grant = Grant(self, tokens, self._slot)
        if self._told is None:
            return Decision(left, self._resets(now), (), grant)
        fill, main, of_tokens = self._told
        return Decision(left, (), (), grant, fill(left[main], left[of_tokens], lasting(-((now - self._ends) // 1000))))

    def _resets(self, now: int) -> list[int]:
        """The resets of all limits, right after something was charged to them."""
        resets = [self._ends - now] * len(self._rules)
        for place, _ in self._running:
            resets[place] = 0
        return resets

    def peek(self) -> Decision:
        """See `Gate`."""
        now = self._clock() // 1000
        if now >= self._turns:
            self._turn(now)
        return Decision(
            left=[max(0, most - gauge.used) for gauge, most, _ in self._gauges],
            resets=[gauge.reset(now) for gauge, _, _ in self._gauges],
        )

    def settle(self, grant: Grant, requests: int, tokens: int) -> None:
        """See `Gate`."""
        slot, excess = grant.slot, tokens - grant.tokens
        if excess > 0 and (now := self._clock() // 1000) >= self._turns:
            self._turn(now)  # the second of the admission may have left the window since
        for window in self._tokens:
            if slot == window.rolled:  # mostly it has begun in this very second
                window.used += excess
            else:
                window.amend(slot, excess)
        if not requests:
            for window in self._requests:
                window.amend(slot, -1)
        if self._running:
            for _, running in self._running:
                running.used -= 1

    def _turn(self, now: int) -> None:
        """Prepare for the requests of a new second."""
        slot = now // SECOND
        if slot >= self._next_generation:
            self._take(slot)
        for window in (*self._requests, *self._tokens):
            window.roll(slot)
        self._slot = slot
        self._turns = (slot + 1) * SECOND
        self._ends = self._turns + _REST
        self._told = self._headers.until(ceil(time.time() + (self._ends - now) / SECOND))

    def _take(self, slot: int) -> None:
        """Fetch the gauges of this second's generation."""
        self._next_generation = self._store.generation(slot)
        gauges = [(rule, self._store.gauge(rule)) for rule in self._rules]
        windows = [(rule, gauge) for rule, gauge in gauges if isinstance(gauge, _Window)]
        self._gauges = tuple((gauge, rule.most, rule.unit == "tokens") for rule, gauge in gauges)
        self._requests = tuple(window for rule, window in windows if rule.unit == "requests")
        self._tokens = tuple(window for rule, window in windows if rule.unit == "tokens")
        self._running = tuple((place, one) for place, (_, one) in enumerate(gauges) if isinstance(one, _Running))

    def _refuse(self, charged: int, tokens: int, now: int) -> Decision:
        """Undo the charges to the first `charged` limits; gives the refusal."""
        for gauge, _, is_of_tokens in self._gauges[:charged]:
            gauge.used -= tokens if is_of_tokens else 1
        return Decision(
            left=[max(0, most - gauge.used) for gauge, most, _ in self._gauges],
            resets=[gauge.reset(now) for gauge, _, _ in self._gauges],
            waits=[gauge.wait(tokens if by else 1, most, now) for gauge, most, by in self._gauges],
        )


class _Window:
    """What was used in each of the last seconds; at most `SLOTS` of them."""

    __slots__ = ("_before", "_earlier", "rolled", "used")

    def __init__(self) -> None:
        self.used = 0
        """The sum of all seconds. Adding to it charges the second `rolled`."""
        self.rolled = 0
        """The second that was begun last."""
        self._earlier: dict[int, int] = {}
        """What was used in each second before that one, in the order of time."""
        self._before = 0
        """The sum of `_earlier`: the rest of `used` belongs to the second `rolled`."""

    def roll(self, slot: int) -> None:
        """Begin a second, and drop those that have left the window; does nothing if it has begun."""
        if slot == self.rolled:
            return
        earlier, used = self._earlier, self.used
        earlier[self.rolled] = used - self._before
        while earlier and (first := next(iter(earlier))) <= slot - SLOTS:
            used -= earlier.pop(first)
        self.used = self._before = used
        self.rolled = slot

    def amend(self, slot: int, excess: int) -> None:
        """Add to a second (a negative excess takes off).

        If it has left the window, nothing can be taken off, and what is added counts from now on.
        """
        if slot in self._earlier:
            self._earlier[slot] += excess
            self._before += excess
            self.used += excess
        elif slot == self.rolled or excess > 0:
            self.used += excess

    def wait(self, cost: int, most: int, now: int) -> int:
        """Microseconds until `cost` fits: until enough of the oldest seconds have left the window."""
        over = self.used + cost - most
        if over <= 0:
            return 0
        for slot, amount in (*self._earlier.items(), (self.rolled, self.used - self._before)):
            over -= amount
            if over <= 0:
                return (slot + SLOTS) * SECOND - now
        return NEVER

    def reset(self, now: int) -> int:
        """Microseconds until all that was used has left the window."""
        if self.used > self._before:
            return (self.rolled + SLOTS) * SECOND - now
        last = next((slot for slot in reversed(self._earlier) if self._earlier[slot]), None)
        return 0 if last is None else (last + SLOTS) * SECOND - now


class _Running:
    """How many requests run now."""

    __slots__ = ("__weakref__", "used")

    def __init__(self) -> None:
        self.used = 0

    def wait(self, cost: int, most: int, now: int) -> int:
        """0, or a guess: nobody knows when a running request ends."""
        return 0 if self.used + cost <= most else BUSY if most > 0 else NEVER

    def reset(self, now: int) -> int:
        """0: nobody knows when they end."""
        return 0


_Gauge = _Window | _Running

_implements: tuple[type[Store], type[Gate]] = (MemoryStore, _Gate)
