"""The suite for limiters bites: each of these limiters has one fault, and is caught by the checks meant for it."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pytest

from gatehook import (
    Call,
    Gateway,
    InvalidRequest,
    Limiter,
    Outcome,
    Permit,
    Principal,
    RateLimited,
    Section,
    hookimpl,
)
from gatehook.testing.conformance import LimiterConformance

MOST = 3


class Sound:
    """So many calls of one principal at the same time, asked of a store that takes a moment."""

    caught: ClassVar[set[str]] = set()

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()

    async def admit(self, call: Call) -> Permit | None:
        who = self.counted_as(call)
        if self.running[who] >= MOST:
            raise self.refusal()
        self.running[who] += 1
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled(who)
            raise
        return Slot(self, who)

    def counted_as(self, call: Call) -> str:
        return call.principal.id

    def refusal(self) -> Exception:
        return RateLimited("too many at once", retry_after=1)

    def cancelled(self, who: str) -> None:
        self.running[who] -= 1

    def settled(self, who: str, outcome: Outcome) -> None:
        self.running[who] -= 1


class Slot:
    def __init__(self, limiter: Sound, who: str) -> None:
        self._limiter, self._who = limiter, who

    async def settle(self, outcome: Outcome) -> None:
        self._limiter.settled(self._who, outcome)


ROOM = {"all or nothing", "settled once", "cancelled calls", "any course of events"}
EVERY = {"the limit holds", "the limit holds at once", "principals apart", *ROOM}


class OneTooMany(Sound):
    caught = EVERY

    async def admit(self, call: Call) -> Permit | None:
        if self.running[call.principal.id] == MOST:
            self.running[call.principal.id] += 1
            return Slot(self, call.principal.id)
        return await super().admit(call)


class Unlimited(Sound):
    caught = EVERY

    async def admit(self, call: Call) -> Permit | None:
        return None


class LooksBeforeItWaits(Sound):
    caught: ClassVar[set[str]] = {"the limit holds at once", "any course of events"}

    async def admit(self, call: Call) -> Permit | None:
        if self.running[call.principal.id] >= MOST:
            raise self.refusal()
        await asyncio.sleep(0)
        self.running[call.principal.id] += 1
        return Slot(self, call.principal.id)


class AllAreOne(Sound):
    caught: ClassVar[set[str]] = {"principals apart"}

    def counted_as(self, call: Call) -> str:
        return "everybody"


class CountsRefusals(Sound):
    caught: ClassVar[set[str]] = {"all or nothing", "settled once", "any course of events"}

    async def admit(self, call: Call) -> Permit | None:
        try:
            return await super().admit(call)
        except RateLimited:
            self.running[call.principal.id] += 1
            raise


class RefusesOddly(Sound):
    caught = EVERY

    def refusal(self) -> Exception:
        return InvalidRequest("too many at once")


class RaisesAnything(Sound):
    caught = EVERY

    def refusal(self) -> Exception:
        return KeyError("limit")


class ForgetsRejections(Sound):
    caught: ClassVar[set[str]] = ROOM

    def settled(self, who: str, outcome: Outcome) -> None:
        self.running[who] -= outcome.status != "rejected"


class GivesBackTwice(Sound):
    caught: ClassVar[set[str]] = {"settled once", "any course of events"}

    def settled(self, who: str, outcome: Outcome) -> None:
        self.running[who] -= 2 if outcome.status == "partial" else 1


class KeepsCancelled(Sound):
    caught: ClassVar[set[str]] = {"cancelled calls", "any course of events"}

    def cancelled(self, who: str) -> None:
        """Nothing is given back."""


class Telling(Sound):
    """Tells what is left, with calls and without."""

    async def admit(self, call: Call) -> Permit | None:
        call.answer_headers |= self.told(call.principal.id)
        return await super().admit(call)

    async def standing(self, principal: Principal) -> Mapping[str, str]:
        return self.told(principal.id)

    def told(self, who: str) -> dict[str, str]:
        return {"X-RateLimit-Remaining": str(MOST - self.running[who])}


class ChargesForTelling(Telling):
    caught: ClassVar[set[str]] = {"telling"}

    async def standing(self, principal: Principal) -> Mapping[str, str]:
        self.running[principal.id] += self.running[principal.id] < MOST
        return self.told(principal.id)


class RefusesToTell(Telling):
    caught: ClassVar[set[str]] = {"telling"}

    async def standing(self, principal: Principal) -> Mapping[str, str]:
        if self.running[principal.id] >= MOST:
            raise self.refusal()
        return self.told(principal.id)


class TellsSomethingElse(Telling):
    caught: ClassVar[set[str]] = {"telling"}

    async def standing(self, principal: Principal) -> Mapping[str, str]:
        return {"RateLimit": str(MOST - self.running[principal.id])}


class TellsNumbers(Telling):
    caught: ClassVar[set[str]] = {"telling"}

    async def standing(self, principal: Principal) -> Any:
        return {"X-RateLimit-Remaining": MOST - self.running[principal.id]}


class BreaksItsLine(Telling):
    caught: ClassVar[set[str]] = {"telling"}

    def told(self, who: str) -> dict[str, str]:
        return {"X-RateLimit-Remaining": "1\r\nX-Evil: 1"}


def suite_of(limiter: type[Sound]) -> LimiterConformance:
    class Plugin:
        class Settings(Section): ...

        def __init__(self, settings: Settings) -> None: ...

        @hookimpl
        def register_limiters(self, gateway: Gateway) -> Iterable[Limiter]:
            return [limiter()]

    class Suite(LimiterConformance):
        plugin = "specimen"
        plugin_class = Plugin
        limit = MOST
        examples = 100
        patience = 0.05

    return Suite()


FAULTS = [
    OneTooMany, Unlimited, LooksBeforeItWaits, AllAreOne, CountsRefusals, RefusesOddly, RaisesAnything,
    ForgetsRejections, GivesBackTwice, KeepsCancelled, ChargesForTelling, RefusesToTell, TellsSomethingElse,
    TellsNumbers, BreaksItsLine,
]  # fmt: skip


@pytest.mark.parametrize("limiter", [Sound, Telling])
async def test_a_sound_limiter_passes_every_check(limiter: Any, failing: Any) -> None:
    assert await failing(suite_of(limiter)) == {}


@pytest.mark.parametrize("limiter", FAULTS)
async def test_a_fault_is_caught_by_the_checks_meant_for_it(limiter: Any, failing: Any) -> None:
    found = await failing(suite_of(limiter))
    assert set(found) == limiter.caught, found


def test_there_is_a_fault_for_every_check(capabilities: Any) -> None:
    assert set().union(*(limiter.caught for limiter in FAULTS)) == set(capabilities(LimiterConformance))
