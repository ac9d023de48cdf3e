"""Counting in this process. A decision costs microseconds; what is idle is forgotten."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from gatehook_plugins.rate_limit.rules import Rule
from gatehook_plugins.rate_limit.store import BUSY, NEVER, SECOND, SLOTS, Decision, Grant, Reading, Store

__all__ = ["MemoryStore"]


def _monotonic() -> int:
    return time.monotonic_ns() // 1000


class MemoryStore:
    """Limits of one process. `clock` gives microseconds and never goes back."""

    immediate: Final = True

    def __init__(self, clock: Callable[[], int] = _monotonic) -> None:
        self._clock = clock
        self._running: dict[str, _Running] = {}
        # Two generations: what nobody asked for during a whole one is out of the window, and goes without a search.
        self._recent: dict[str, _Window] = {}
        self._older: dict[str, _Window] = {}
        self._next_generation = 0

    async def admit(self, rules: Sequence[Rule], tokens: int) -> Decision:
        """See `Store`."""
        now = self._clock()
        slot = now // SECOND
        if slot >= self._next_generation:
            self._older, self._recent = self._recent, {}
            self._next_generation = slot + SLOTS
        readings: list[Reading] = []
        reset = (slot + SLOTS) * SECOND - now  # what is charged to this second is the last to go
        for rule in rules:
            window = self._recent.get(rule.name)
            # Mostly it was looked at in this second already, and is as it should be.
            gauge = window if window is not None and window.rolled == slot else self._gauge(rule, slot)
            cost = tokens if rule.unit == "tokens" else 1
            left = rule.most - gauge.used - cost
            if left < 0:
                await self.settle(Grant(self, rules[: len(readings)], tokens, slot), 0, 0)  # as if nobody had asked
                return Decision(False, [self._refused(rule, tokens, now) for rule in rules])
            if isinstance(gauge, _Window):
                gauge.add(slot, cost)
                readings.append(Reading(rule, left, 0, reset))
            else:
                gauge.used += 1
                self._running[rule.name] = gauge
                readings.append(Reading(rule, left, 0, 0))
        return Decision(True, readings, Grant(self, rules, tokens, slot))

    async def settle(self, grant: Grant, requests: int, tokens: int) -> None:
        """See `Store`."""
        for rule in grant.rules:
            if rule.unit == "concurrent":
                running = self._running[rule.name]
                running.used -= 1
                if not running.used:
                    del self._running[rule.name]
                continue
            excess = tokens - grant.tokens if rule.unit == "tokens" else requests - 1
            if excess:
                window = self._recent.get(rule.name) or self._older.get(rule.name)
                if window is not None:
                    window.amend(grant.slot, excess)

    def _refused(self, rule: Rule, tokens: int, now: int) -> Reading:
        gauge, cost = self._gauge(rule, now // SECOND), tokens if rule.unit == "tokens" else 1
        wait = 0 if gauge.used + cost <= rule.most else gauge.wait(cost, rule.most, now)
        return Reading(rule, max(0, rule.most - gauge.used), wait, gauge.reset(now))

    def _gauge(self, rule: Rule, slot: int) -> "_Gauge":
        name = rule.name
        if rule.unit == "concurrent":
            return self._running.get(name) or _Running()
        window = self._recent.get(name)
        if window is None:
            window = self._recent[name] = self._older.get(name) or _Window()
        if window.rolled != slot:
            window.roll(slot)
        return window


class _Window:
    """What was used in each of the last seconds; at most `SLOTS` of them."""

    __slots__ = ("_slots", "rolled", "used")

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}  # in the order of time
        self.used = 0
        self.rolled = 0
        """The second in which it was last looked at."""

    def roll(self, slot: int) -> None:
        """Drop the seconds that lie wholly before the window."""
        self.rolled, slots = slot, self._slots
        while slots and (first := next(iter(slots))) <= slot - SLOTS:
            self.used -= slots.pop(first)

    def wait(self, cost: int, most: int, now: int) -> int:
        """How long until `cost`, which does not fit in, will: until enough of the oldest seconds have gone."""
        over = self.used + cost - most
        for slot, amount in self._slots.items():
            over -= amount
            if over <= 0:
                return (slot + SLOTS) * SECOND - now
        return NEVER

    def add(self, slot: int, cost: int) -> None:
        """Charge it to the current second."""
        self._slots[slot] = self._slots.get(slot, 0) + cost
        self.used += cost

    def amend(self, slot: int, excess: int) -> None:
        """Charge more, or (negative) less, to a second; nothing if it is out of the window already."""
        amount = self._slots.get(slot)
        if amount is None:
            return
        self.used += excess
        if amount + excess:
            self._slots[slot] = amount + excess
        else:
            del self._slots[slot]

    def reset(self, now: int) -> int:
        """How long until nothing is used any more."""
        return (next(reversed(self._slots)) + SLOTS) * SECOND - now if self._slots else 0


class _Running:
    """How many requests run now."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0

    def wait(self, cost: int, most: int, now: int) -> int:
        """When one of them ends, nobody knows."""
        return BUSY if most > 0 else NEVER

    def reset(self, now: int) -> int:
        """Nothing that can be waited for."""
        return 0


_Gauge = _Window | _Running

_guard: type[Store] = MemoryStore
