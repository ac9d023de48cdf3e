"""Identical requests at the same time: one calls the vendor, the others wait for its answer.

Where a call ends without an answer to pass on (it failed, or its client left), one of those that wait makes its own;
if that comes to nothing too, two of them do, then four: never all at once, and nobody waits for a long queue. Nobody is
told of the error of another's call.
"""

import asyncio
from typing import Final

from gatehook import Call, Entry, Observer, Outcome

__all__ = ["Sharing"]


class _Flight:
    """The calls for one answer: those that are made, and those that wait."""

    __slots__ = ("leaders", "next", "since", "waiting")

    def __init__(self) -> None:
        self.leaders: set[str] = set()
        """Ids of the calls that are made."""
        self.waiting: dict[asyncio.Future[Entry | None], Call] = {}
        """In the order in which they came."""
        self.since = 0.0
        """When the last leader began, by the loop's clock."""
        self.next = 1
        """How many of those that wait take over when all leaders have failed."""


class Sharing(Observer):
    """The flights of one process."""

    def __init__(self, patience: float) -> None:
        """`patience`: seconds without an answer after which one of those that wait makes a call as well."""
        self._patience: Final = patience
        self._flights: dict[bytes, _Flight] = {}
        self._led: dict[str, tuple[bytes, _Flight]] = {}
        """By the id of the call that leads."""

    async def join(self, key: bytes, call: Call) -> Entry | None:
        """The answer of another call; None if this one is to be made: then `land` or `finished` ends the waiting."""
        now = asyncio.get_running_loop().time
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            self._lead(key, flight, call, now())
            return None
        if _wants_no_waiting(call):
            return None
        waiter: asyncio.Future[Entry | None] = asyncio.get_running_loop().create_future()
        flight.waiting[waiter] = call
        try:
            while (left := flight.since + self._patience - now()) > 0:
                await asyncio.wait([waiter], timeout=left)
                if waiter.done():
                    return waiter.result()
        finally:
            flight.waiting.pop(waiter, None)
        self._lead(key, flight, call, now())
        return None

    def land(self, key: bytes, entry: Entry) -> None:
        """There is an answer: give it to all who wait."""
        if (flight := self._flights.pop(key, None)) is not None:
            for waiter in flight.waiting:
                if not waiter.done():
                    waiter.set_result(entry)

    def finished(self, call: Call, outcome: Outcome) -> None:
        """If this call led, and nobody leads any more, others take over."""
        key, flight = self._led.pop(call.id, (b"", None))
        if flight is None:
            return
        flight.leaders.discard(call.id)
        if flight.leaders or self._flights.get(key) is not flight:
            return
        heirs = [waiter for waiter in flight.waiting if not waiter.done()][: flight.next]
        flight.next *= 2
        if not heirs:
            del self._flights[key]
        for waiter in heirs:
            self._lead(key, flight, flight.waiting.pop(waiter), waiter.get_loop().time())
            waiter.set_result(None)

    def _lead(self, key: bytes, flight: _Flight, call: Call, now: float) -> None:
        flight.leaders.add(call.id)
        flight.since = now
        self._led[call.id] = key, flight


def _wants_no_waiting(call: Call) -> bool:
    """Whether the client wants what is stored, or nothing."""
    return "only-if-cached" in call.headers.get("Cache-Control", "").lower()
