"""The interfaces of limiters: the one that `register_limiters` asks for, and those that a limiter may have besides."""

from collections.abc import Awaitable, Mapping
from typing import Protocol, runtime_checkable

from gatehook.model import Call, Outcome, Principal, Target

__all__ = ["AttemptLimiter", "ChangeLimiter", "Limiter", "Permit", "RoundLimiter", "TellingLimiter"]


@runtime_checkable
class Permit(Protocol):
    """What a limiter reserved for one call."""

    def settle(self, outcome: Outcome) -> Awaitable[None] | None:
        """Replace the reservation by what was really used. Called exactly once, also when the client has left.

        An ``async def`` is run to its end in a task of its own; a method that never waits is better plain.
        """
        ...


@runtime_checkable
class Limiter(Protocol):
    """Admits calls, or not."""

    def admit(self, call: Call) -> Awaitable[Permit | None] | Permit | None:
        """Reserve what this call may use; None if this limiter has nothing to say about it.

        Usually an ``async def``; one that hardly ever waits may be plain, and return an awaitable when it has to.
        If it is cancelled, nothing may stay reserved.

        Raises:
            RateLimited: over the limit; nothing stays reserved.
        """
        ...


@runtime_checkable
class AttemptLimiter(Protocol):
    """What a limiter may also be, or be instead: one that is asked before each attempt, and knows the deployment."""

    def admit_attempt(self, call: Call, target: Target) -> Awaitable[Permit | None] | Permit | None:
        """Reserve what an attempt may use; settled when the attempt fails, or with the call if it answers.

        May be plain, as `Limiter.admit`. If it is cancelled, nothing may stay reserved.

        Raises:
            RateLimited: with `retry=Retry.NEXT`, failover goes on to the next deployment.
        """
        ...


@runtime_checkable
class ChangeLimiter(Protocol):
    """What a limiter may also be: one that is asked again when a call is no longer what it was when it was admitted.

    Transforms, tools of the gateway's own and tool policies change requests. An answer from a cache needs nothing.
    """

    async def admit_change(self, call: Call) -> None:
        """Reserve what the call may use as it is now, in place of what `admit` has reserved; its permit settles that.

        Nothing may stay reserved beyond that if it is cancelled.

        Raises:
            RateLimited: over the limit; the call ends.
        """
        ...


@runtime_checkable
class RoundLimiter(Protocol):
    """What a limiter may also be: one that is asked again before the model is called once more for the same call."""

    async def admit_round(self, call: Call) -> None:
        """Reserve what one more round may use; the call's permit settles it together with all the rest.

        `call.spent` has what the earlier rounds used. If it is cancelled, nothing may stay reserved that the permit
        does not settle.

        Raises:
            RateLimited: over the limit; the call ends.
        """
        ...


@runtime_checkable
class TellingLimiter(Protocol):
    """What a limiter may also be: one that can tell a caller's limits without being asked to admit a call."""

    async def standing(self, principal: Principal) -> Mapping[str, str]:
        """The headers that tell what is left, as `Limiter.admit` puts them into answers; {} for callers without limits.

        Asked for answers of plugins' own routes, and for calls that are refused before the limiters' turn. Charges and
        reserves nothing.

        Raises:
            GatewayError: it cannot be told at the moment; the answer goes out without these headers.
        """
        ...
