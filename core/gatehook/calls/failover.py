"""Which deployment next, when to try one again, and when to give up.

A request may move to another deployment only until the first content event has been seen; that event is awaited before
the client is answered at all, so a failure before it is still an HTTP status and not a broken stream. An answer that
broke off is never continued by another deployment.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import TypeVar, cast

from gatehook.calls.attempts import Attempts, Stream
from gatehook.calls.deadlines import Deadlines
from gatehook.calls.stages import Ask, Permits
from gatehook.config.settings import FailoverSettings
from gatehook.errors import GatewayError, InvalidRequest, Retry, UpstreamTimeout
from gatehook.model import Call, Completion, Salvage, Target
from gatehook.protocols import Vendor

__all__ = ["Failover"]

log = logging.getLogger("gatehook.failover")

T = TypeVar("T")

_FIRST_BACKOFF = 0.25
"""Seconds before the first retry at the same deployment, at most; doubles with each retry, with full jitter."""


class Failover:
    """Tries a call's targets in order, until one answers or nothing more is to be tried."""

    def __init__(
        self,
        settings: FailoverSettings,
        vendors: Mapping[str, Vendor],
        deadlines: Deadlines,
        attempt_failed: Callable[[Call, Target, GatewayError], None],
        admits: Sequence[Ask] = (),
        canonical: Callable[[str], str] = str,
    ) -> None:
        """`admits` are the limiters' `admit_attempt`; `canonical` gives the name of the model behind an alias."""
        self._settings = settings
        self._attempts = Attempts(settings, vendors, deadlines)
        self._admits = tuple(admits)
        self._attempt_failed = attempt_failed
        self._canonical = canonical

    def complete(self, call: Call, targets: Sequence[Target], permits: Permits) -> Awaitable[Completion]:
        """A whole answer from the first target that gives one.

        Raises:
            GatewayError: see `Course.verdict`.
        """
        return self._first_success(call, targets, permits, self._attempts.complete)

    def stream(self, call: Call, targets: Sequence[Target], permits: Permits) -> Awaitable[Stream]:
        """A stream whose first content has arrived, from the first target that gets that far.

        Raises:
            GatewayError: see `Course.verdict`.
        """
        return self._first_success(call, targets, permits, self._attempts.stream)

    async def _first_success(
        self,
        call: Call,
        targets: Sequence[Target],
        permits: Permits,
        run: Callable[[Call, Target], Awaitable[T]],
    ) -> T:
        begun, before, course = monotonic(), call.attempts, None
        target = targets[0]
        while True:
            tried = call.attempts
            try:
                if self._admits and (waits := permits.admit_attempt(self._admits, call, target)) is not None:
                    await waits
                call.attempts += 1
                call.target = target
                name, asked = target.name, call.model
                # A fallback answers under its own name; by an alias, or a wildcard, it is still the model asked for.
                call.served = asked if name == asked or name == self._canonical(asked) else name
                return await run(call, target)
            except GatewayError as error:
                served = call.served
                if self._admits:
                    await permits.attempt_failed(error)
                self._tell(call, target, error, tried=call.attempts > tried)
                course = course or Course(self._settings, call, targets, before, begun, monotonic)
                wait = course.after(error, tried=call.attempts > tried)
                course.keep(target, served)
            if wait is None:
                return cast("T", await course.rest())
            if wait:
                await asyncio.sleep(wait)
            target = course.target

    def _tell(self, call: Call, target: Target, error: GatewayError, *, tried: bool) -> None:
        """Tell of an attempt that failed, or was not even made."""
        call.served = ""
        if tried:
            self._attempt_failed(call, target, error)
            # The client is told itself what is wrong with its request: the operator need not be warned.
            level = logging.DEBUG if isinstance(error, InvalidRequest) else logging.WARNING
            log.log(level, "%s %s at %s failed: %s", call.id, call.model, target.key, error.message)
        else:
            log.debug("%s %s passes over %s: %s", call.id, call.model, target.key, error.message)


class Course:
    """The way of one call after its first failure: what has been tried, and what may be tried next."""

    __slots__ = (
        "_attempts",
        "_call",
        "_clock",
        "_filled",
        "_part",
        "_place",
        "_settings",
        "_targets",
        "_tries",
        "_until",
        "_verdict",
    )

    def __init__(
        self,
        settings: FailoverSettings,
        call: Call,
        targets: Sequence[Target],
        attempts: int,
        begun: float,
        clock: Callable[[], float],
    ) -> None:
        """Take over a call at its first failure.

        Args:
            settings: the limits of failover.
            call: the call.
            targets: in their order, at least one; the call has just failed at the first.
            attempts: how many it had made before these, in earlier rounds.
            begun: when the first of these attempts began, by `clock`.
            clock: gives seconds.
        """
        self._settings = settings
        self._call = call
        self._targets = targets
        self._place = 0
        self._tries = 0
        """Retries at this target."""
        self._attempts = attempts + settings.max_attempts
        self._clock = clock
        self._until = begun + settings.budget
        self._filled: Target | None = None
        """The target with the largest context window of those that were too small."""
        self._verdict: GatewayError | None = None
        self._part: tuple[Salvage, Target, str] | None = None

    @property
    def target(self) -> Target:
        """The deployment to try now."""
        return self._targets[self._place]

    @property
    def verdict(self) -> GatewayError:
        """The error for the client: the last one that says something about the model that was asked for."""
        assert self._verdict is not None, "asked for before anything failed"  # noqa: S101
        return self._verdict

    def keep(self, target: Target, served: str) -> None:
        """Keep the part of a plain answer that a failed attempt has left, if it is the largest so far.

        Args:
            target: the deployment that failed.
            served: the model's name under which it would have answered.
        """
        part, self._call.salvage = self._call.salvage, None
        if part is not None and not self._call.stream and (self._part is None or part.extent > self._part[0].extent):
            self._part = part, target, served

    async def rest(self) -> Completion:
        """What the client gets now that no more is tried: a part of a plain answer, if there is one.

        Raises:
            GatewayError: `verdict`; there is none, or it cannot be given.
        """
        if self._part is None:
            raise self._given_out()
        call = self._call
        part, target, call.served = self._part
        try:
            answer = await part.make()
        except GatewayError:
            raise self._given_out() from None
        call.target, call.dropped, call.cut_short = target, part.dropped, True
        log.warning("%s %s gets the part of its answer that %s has made", call.id, call.model, target.key)
        return answer

    def _given_out(self) -> GatewayError:
        """The verdict, which is not kept: raised, it leads to this course, and all of the call would be garbage."""
        verdict, self._verdict = self.verdict, None
        return verdict

    def after(self, error: GatewayError, *, tried: bool) -> float | None:
        """Seconds to wait before `target` is tried; None if nothing more is to be tried.

        Args:
            error: how the current target failed.
            tried: whether the vendor was called, and not passed over for a limit of the gateway's own.
        """
        stops = error.retry is Retry.NEVER and not self._at_fallback
        # A limit of our own, or a request that this vendor cannot take, says nothing about those that were really
        # tried: a fallback that refuses the request must not make the failure of the model look like the caller's.
        tells = tried and not isinstance(error, InvalidRequest)
        if stops or self._verdict is None or tells or self._is_sooner(error, self._verdict):
            self._verdict = error
        if stops:
            return None
        now = self._clock()
        wait = self._wait(error, self._until - now)
        if wait is not None:
            self._tries += 1
        elif not self._moved_on(error):
            return None
        return None if self._is_spent(now) else wait or 0.0

    def _is_sooner(self, error: GatewayError, verdict: GatewayError) -> bool:
        """Whether, if no vendor was called at all, this error lets the client come back earlier, or at all."""
        if verdict.final and not self._call.attempts:
            return not error.final
        if self._call.attempts or error.retry_after is None or verdict.retry_after is None:
            return False
        return error.retry_after < verdict.retry_after

    @property
    def _at_fallback(self) -> bool:
        return self.target.name != self._targets[0].name

    def _wait(self, error: GatewayError, left: float) -> float | None:
        """Seconds until the same deployment is tried again, None to leave it.

        Args:
            error: its last one.
            left: seconds in which an attempt may begin.
        """
        settings = self._settings
        if error.retry is not Retry.SAME or self._tries >= settings.retries:
            return None
        if isinstance(error, UpstreamTimeout):
            # A whole time limit has passed already; another deployment is the better bet.
            return None
        wait = random.uniform(0, _FIRST_BACKOFF * 2**self._tries)  # noqa: S311  # jitter, not a secret
        if error.retry_after is not None:
            if error.retry_after > settings.retry_after_cap:
                return None
            wait = max(wait, error.retry_after)  # the longer one: a Retry-After of 0 must not defeat the backoff
        return wait if wait <= left else None

    def _moved_on(self, error: GatewayError) -> bool:
        """Go on to the next deployment that may do better; False if there is none."""
        if error.code == "context_length_exceeded" and (self._filled is None or _is_roomier(self.target, self._filled)):
            self._filled = self.target
        self._tries = 0
        for place in range(self._place + 1, len(self._targets)):
            if self._filled is None or _is_roomier(self._targets[place], self._filled):
                self._place = place
                return True
        return False

    def _is_spent(self, now: float) -> bool:
        """Whether the request has used up its attempts or its time."""
        if self._call.attempts >= self._attempts:
            reason = f"after {self._call.attempts} attempts (failover.max_attempts)"
        elif now >= self._until:
            reason = f"after more than {self._settings.budget:g} s (failover.budget)"
        else:
            return False
        log.warning("%s %s is given up %s", self._call.id, self._call.model, reason)
        return True


def _is_roomier(target: Target, full: Target) -> bool:
    """Whether a prompt that was too long for `full` may find room at `target`."""
    if target.context_window and full.context_window:
        return target.context_window > full.context_window
    place, full_place = ((one.vendor, one.base_url, one.model) for one in (target, full))
    return place != full_place
