"""The suite for limiters: never more than the limit, never less, whatever happens to the calls."""

import asyncio
import uuid
from collections.abc import Sequence
from typing import ClassVar

from gatehook.accounts import Usage
from gatehook.app import Gateway
from gatehook.awaiting import awaited
from gatehook.calls.ready import header_lines
from gatehook.errors import GatewayError, RateLimited
from gatehook.jsonio import Document
from gatehook.model import Call, Outcome, Principal
from gatehook.protocols import Limiter, Permit, TellingLimiter
from gatehook.testing.conformance.limiter_machine import explore
from gatehook.testing.conformance.suite import Suite, check, eventually, expect, not_offered

__all__ = ["LimiterConformance"]

ENDINGS: Sequence[Outcome] = (
    Outcome("complete", 200, Usage(0, 0)),
    Outcome("partial", 499, Usage(0, 0, estimated=True)),
    Outcome("failed", 502, code="upstream_error"),
    Outcome("rejected", 429, code="rate_limit_exceeded"),
    Outcome("cached", 200),
)
_STORM = 20


class LimiterConformance(Suite):
    """Subclass it; with `settings`, a principal must have room for `limit` calls at the same time."""

    kind: ClassVar[str] = "limiter"
    limit: int = 3
    """How many calls of one principal are admitted while none of them ends."""
    frees: bool = True
    """Whether a call that has ended, and used nothing, makes room for another: true for limits on concurrent calls,
    tokens and money; false for limits on how many calls are made."""
    patience: float = 1.0
    """Seconds in which the reservation of a cancelled call has to be given back."""
    examples: int = 25
    """How many sequences of events are tried."""

    def newcomer(self) -> str:
        """A principal that nobody has seen yet."""
        return f"person-{uuid.uuid4().hex}"

    def limiter(self, gateway: Gateway) -> Limiter:
        """The limiter in question."""
        return self.own([one for one in gateway.pipeline.concerns.limiters if isinstance(one, Limiter)], "limiter")

    def call(self, who: str) -> Call:
        """A call of one principal, as limiters get it; all of them need the same."""
        call = Call("chat", "openai", {}, principal=Principal(who, key_id=who), model="m")
        call.body = Document({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10})
        return call

    async def admitted(self, limiter: Limiter, who: str) -> Permit | None:
        """The permit of one more call; None if it was refused.

        Raises:
            Failed: refused with something else than `RateLimited`, or admitted without a permit.
        """
        try:
            permit = await awaited(limiter.admit(self.call(who)))
        except RateLimited as error:
            expect(error.status == 429, f"a refusal has the status {error.status}")
            expect(error.message, "a refusal has no message")
            expect(error.retry_after is None or error.retry_after > 0, f"retry_after is {error.retry_after}")
            return None
        except GatewayError as error:
            expect(False, f"refused with {type(error).__name__} ({error.message}) instead of RateLimited")
        except Exception as error:  # noqa: BLE001  # whatever it is
            expect(False, f"admit() raises {error!r}; a call is refused by RateLimited")
        expect(permit is not None, "admit() gives None: nothing is limited; see `settings` and `call()`")
        return permit

    async def filled(self, limiter: Limiter, who: str) -> list[Permit]:
        """The permits of as many calls as there is room for."""
        permits: list[Permit] = []
        while len(permits) <= self.limit and (permit := await self.admitted(limiter, who)) is not None:
            permits.append(permit)
        return permits

    async def ends(self, permits: Sequence[Permit], outcome: Outcome = ENDINGS[0]) -> None:
        """End these calls."""
        for permit in permits:
            await awaited(permit.settle(outcome))

    async def has_room(self, limiter: Limiter, who: str, most: int) -> bool:
        """Whether there is room for exactly so many calls."""
        permits = await self.filled(limiter, who)
        await self.ends(permits)
        return len(permits) == most

    @check("the limit holds")
    async def test_as_many_as_the_limit_allows_are_admitted_and_no_more(self) -> None:
        async with self.running() as gateway:
            limiter = self.limiter(gateway)
            permits = await self.filled(limiter, self.newcomer())
            expect(len(permits) == self.limit, f"{len(permits)} calls are admitted, not {self.limit}")

    @check("the limit holds at once")
    async def test_calls_that_come_together_do_not_slip_through(self) -> None:
        async with self.running() as gateway:
            limiter, who = self.limiter(gateway), self.newcomer()
            found = await asyncio.gather(*(self.admitted(limiter, who) for _ in range(self.limit * 5)))
            count = sum(permit is not None for permit in found)
            expect(count == self.limit, f"of {len(found)} at once, {count} are admitted, not {self.limit}")

    @check("principals apart")
    async def test_one_principal_does_not_use_up_what_another_may(self) -> None:
        async with self.running() as gateway:
            limiter = self.limiter(gateway)
            for _ in range(2):
                permits = await self.filled(limiter, self.newcomer())
                expect(len(permits) == self.limit, f"another principal has room for {len(permits)}, not {self.limit}")

    @check("all or nothing")
    async def test_a_refused_call_reserves_nothing(self) -> None:
        """Neither one that this limiter refuses, nor one that it admits and another limiter then refuses."""
        self._require_frees()
        async with self.running() as gateway:
            limiter, who = self.limiter(gateway), self.newcomer()
            first, *rest = await self.filled(limiter, who)
            for _ in range(_STORM):
                expect(await self.admitted(limiter, who) is None, "a call over the limit is admitted, asked again")
            await self.ends([first])
            again = await self.filled(limiter, who)
            expect(len(again) == 1, f"{_STORM} calls were refused and one ended: there is room for {len(again)}, not 1")
            await self.ends([*rest, *again], ENDINGS[3])
            await eventually(
                lambda: self.has_room(limiter, who, self.limit),
                "what was rejected elsewhere stays reserved",
                self.patience,
            )

    @check("settled once")
    async def test_each_way_to_end_makes_room_for_exactly_one(self) -> None:
        self._require_frees()
        async with self.running() as gateway:
            limiter, who = self.limiter(gateway), self.newcomer()
            for outcome in (*ENDINGS, *ENDINGS):
                permits = await self.filled(limiter, who)
                expect(
                    len(permits) == self.limit,
                    f"before a {outcome.status!r} call ends there is room for {len(permits)}, not {self.limit}",
                )
                await self.ends(permits, outcome)

    @check("cancelled calls")
    async def test_a_call_that_is_cancelled_while_it_is_admitted_leaves_nothing_reserved(self) -> None:
        self._require_frees()
        async with self.running() as gateway:
            limiter, who = self.limiter(gateway), self.newcomer()
            for wait in (0.0, 0.0, 0.0, 0.0002, 0.0005, 0.001, 0.002, 0.004):
                for steps in range(5):
                    await self.cancelled(limiter, who, steps, wait)
            await eventually(
                lambda: self.has_room(limiter, who, self.limit),
                f"calls were cancelled while they were admitted; {self.patience:g} s later something is still reserved",
                self.patience,
            )

    async def cancelled(self, limiter: Limiter, who: str, steps: int, wait: float = 0.0) -> None:
        """Make a call whose client leaves after so many turns of the event loop, and seconds."""

        async def asked() -> Permit | None:
            return await awaited(limiter.admit(self.call(who)))

        asking = asyncio.ensure_future(asked())
        for _ in range(steps):
            await asyncio.sleep(0)
        if wait:
            await asyncio.sleep(wait)
        asking.cancel()
        await asyncio.wait([asking])
        if not asking.cancelled() and asking.exception() is None and (permit := asking.result()) is not None:
            await awaited(permit.settle(ENDINGS[3]))

    @check("telling")
    async def test_who_asks_how_it_stands_is_told_what_calls_are_told_and_charged_nothing(self) -> None:
        async with self.running() as gateway:
            limiter, who = self.limiter(gateway), self.newcomer()
            if not isinstance(limiter, TellingLimiter):
                not_offered("it does not tell how callers stand")
            for _ in range(_STORM):
                told = await self.standing(limiter, who)
            call = self.call(who)
            first = await awaited(limiter.admit(call))
            with_call = {line.partition(":")[0] for line in call.answer_lines.splitlines()} | call.answer_headers.keys()
            expect(told == with_call, f"it tells {sorted(told)}, and with a call {sorted(with_call)}")
            permits = await self.filled(limiter, who)
            expect(
                len(permits) == self.limit - 1,
                f"asked {_STORM} times how it stands, there is room for {len(permits) + 1} calls, not {self.limit}",
            )
            expect(await self.standing(limiter, who) == told, "with nothing left, it tells something else")
            await self.ends([*permits, *([] if first is None else [first])])

    async def standing(self, limiter: TellingLimiter, who: str) -> set[str]:
        """The names of the headers that tell how a principal stands.

        Raises:
            Failed: it cannot be told, or they are no headers.
        """
        try:
            told = await limiter.standing(self.call(who).principal)
            header_lines(told)
        except (GatewayError, AttributeError, TypeError, ValueError) as error:
            expect(False, f"it cannot be told how a caller stands: {error!r}")
        expect(all(isinstance(value, str) for value in told.values()), f"a header's value is no text: {told}")
        return set(told)

    @check("any course of events")
    async def test_the_limit_holds_whatever_happens_in_whatever_order(self) -> None:
        self._require_frees()
        async with self.running() as gateway:
            await explore(self, self.limiter(gateway), self.examples)

    def _require_frees(self) -> None:
        if not self.frees:
            not_offered("what has ended still counts")
