"""The suite for observers: they follow every call to its end, return at once, and neither change nor keep calls."""

import copy
import gc
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, ClassVar

from gatehook.accounts import Cost, Usage
from gatehook.app import Gateway
from gatehook.dialect.canonical import StreamBuilder
from gatehook.errors import UpstreamError
from gatehook.jsonio import Document
from gatehook.model import Call, Outcome, Principal, Target
from gatehook.protocols import Observer
from gatehook.testing.conformance.bench import logged
from gatehook.testing.conformance.suite import Suite, check, expect

__all__ = ["ObserverConformance"]

USAGE = Usage(11, 7)
OUTCOMES: Sequence[Outcome] = (
    Outcome("complete", 200, USAGE, duration=1.5, first_token=0.5, cost=Cost(1, 2)),
    Outcome("complete", 200),
    Outcome("cached", 200, Usage(0, 0), duration=0.001),
    Outcome("partial", 499, USAGE, duration=2.0, first_token=0.5),
    Outcome("partial", 200, None, "upstream_truncated", 2.0),
    Outcome("failed", 502, None, "upstream_error", 0.1),
    Outcome("rejected", 429, None, "rate_limit_exceeded"),
)
"""How calls end."""
_CALLS = 200
Moment = tuple[Any, ...]
"""The name of a method, and what it is given."""


class ObserverConformance(Suite):
    """Subclass it and name the `plugin`; `settings` holds what else the gateway needs."""

    kind: ClassVar[str] = "observer"
    budget: float = 0.001
    """Seconds that the observer may take for one call in all, as it holds up all others."""
    token: str = "canary.6b1f0c9a7e3d"  # noqa: S105  # of nobody
    """The credential that clients show."""

    def observer(self, gateway: Gateway) -> Observer:
        """The observer in question."""
        return self.own(gateway.pipeline.concerns.observers.all, "observer")

    def call(self, *, stream: bool = False) -> Call:
        """A chat's call."""
        headers = {"Authorization": f"Bearer {self.token}", "User-Agent": "conformance"}
        call = Call("chat", "openai", headers, principal=Principal("ann"), model="m", stream=stream)
        call.body = Document({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
        return call

    def target(self) -> Target:
        """A deployment of the call's model."""
        return Target(key="m#1", name="m", vendor="mock", model="m-1")

    def course(self, call: Call, outcome: Outcome, failures: int) -> Iterator[Moment]:
        """The methods that are called for one call, from beginning to end."""
        yield "started", call
        if outcome.status != "rejected":
            call.target = self.target()
        for _ in range(failures):
            yield "attempt_failed", call, self.target(), UpstreamError("mock: out of order")
        if call.stream and outcome.status in ("complete", "partial", "cached"):
            made = StreamBuilder(call)
            call.first_token = time.monotonic()
            yield "first_token", call
            yield from (("chunk", call, chunk) for chunk in (made.text("Hel"), made.text("lo"), made.finish("stop")))
        yield "finished", call, outcome

    def courses(self) -> Iterator[tuple[str, Call, Outcome, Sequence[Moment]]]:
        """Calls of every kind, each with a description, its outcome, and what an observer is told."""
        for outcome in OUTCOMES:
            for stream in (False, True):
                for failures in (0, 2):
                    call = self.call(stream=stream)
                    how = f"{'streamed' if stream else 'plain'}, {outcome.status}, {failures} attempts failed"
                    yield how, call, outcome, tuple(self.course(call, outcome, failures))

    def tell(self, observer: Observer, moment: Moment) -> None:
        """Call one method; what it raises ends the check."""
        name, *arguments = moment
        try:
            getattr(observer, name)(*arguments)
        except Exception as error:  # noqa: BLE001  # whatever it is
            expect(False, f"{name}() raises {error!r}")

    @check("every course")
    async def test_calls_of_every_kind_are_followed_to_their_end(self) -> None:
        async with self.running() as gateway:
            for _, _, _, course in self.courses():
                for moment in course:
                    self.tell(self.observer(gateway), moment)

    @check("many at once")
    async def test_calls_at_the_same_time_are_told_apart(self) -> None:
        async with self.running() as gateway:
            courses = [course for _, _, _, course in self.courses()]
            for turn in zip_longest(*courses):
                for moment in filter(None, turn):
                    self.tell(self.observer(gateway), moment)

    @check("no beginning")
    async def test_a_call_that_began_before_it_is_no_trouble(self) -> None:
        """After a reload, or where an observer's own `started` has failed."""
        async with self.running() as gateway:
            for _, _, _, course in self.courses():
                for moment in course[1:]:
                    self.tell(self.observer(gateway), moment)

    @check("nothing is changed")
    async def test_neither_the_call_nor_its_outcome_is_changed(self) -> None:
        async with self.running() as gateway:
            for how, call, outcome, course in self.courses():
                kept = copy.deepcopy((call.payload, dict(call.headers), call.model, call.answer_headers, repr(outcome)))
                for moment in course:
                    self.tell(self.observer(gateway), moment)
                now = (call.payload, dict(call.headers), call.model, call.answer_headers, repr(outcome))
                expect(now == kept, f"{how}: the call is changed from {kept} to {now}")

    @check("nothing is kept")
    async def test_of_calls_that_are_over_nothing_is_kept(self) -> None:
        async with self.running() as gateway:
            observer = self.observer(gateway)
            before = _calls_alive()
            for _ in range(_CALLS):
                for moment in self.course(self.call(stream=True), OUTCOMES[0], 1):
                    self.tell(observer, moment)
            del moment
            kept = _calls_alive() - before
        expect(kept < _CALLS // 4, f"after {_CALLS} calls have ended, {kept} of them are kept in memory")

    @check("secrets")
    async def test_the_client_s_credential_is_in_no_log(self) -> None:
        with logged() as log:
            async with self.running() as gateway:
                observer = self.observer(gateway)
                for _, _, _, course in self.courses():
                    for moment in course:
                        self.tell(observer, moment)
                shown = f"{observer!r} {getattr(observer, '__dict__', '')!r}"
        expect(self.token not in "\n".join(log.lines), "the client's credential is in the log")
        expect(self.token not in shown, "the client's credential is in the repr() of the observer or of what it keeps")

    @check("latency")
    async def test_it_returns_at_once(self) -> None:
        async with self.running() as gateway:
            observer, least = self.observer(gateway), float("inf")
            for _ in range(5):  # the quickest counts, as the machine may be busy with other things
                courses = [tuple(self.course(self.call(stream=True), OUTCOMES[0], 1)) for _ in range(20)]
                start = time.perf_counter()
                for course in courses:
                    for moment in course:
                        self.tell(observer, moment)
                least = min(least, (time.perf_counter() - start) / len(courses))
        expect(least <= self.budget, f"a call costs {least * 1000:.2f} ms, for which everybody waits")


def _calls_alive() -> int:
    gc.collect()
    return sum(type(one) is Call for one in gc.get_objects())  # some objects do things when asked isinstance()
