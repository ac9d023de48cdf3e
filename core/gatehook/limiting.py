"""What limiters are, and may be: the interfaces behind `register_limiters`."""

from collections.abc import Awaitable, Mapping
from typing import Protocol, runtime_checkable

from gatehook.model import Call, Outcome, Principal, Target

__all__ = ["AttemptLimiter", "Limiter", "Permit", "RoundLimiter", "TellingLimiter"]


@runtime_checkable
class Permit(Protocol):
    """What a limiter reserved for one call."""

    def settle(self, outcome: Outcome) -> Awaitable[None] | None:
        """Turn the reservation into the true figure. Called exactly once, also when the client left.

        An ``async def`` is run as a task of its own, to its end; one that never waits had better be plain.
        """
        ...


@runtime_checkable
class Limiter(Protocol):
    """Admits calls, or not."""

    def admit(self, call: Call) -> Awaitable[Permit | None] | Permit | None:
        """Reserve what this call may use; None if this limiter has nothing to say about it.

        Mostly an ``async def``. One that hardly ever waits may be plain, and give an awaitable when it has to.
        Nothing may stay reserved if it is cancelled.

        Raises:
            RateLimited: over the limit; nothing stays reserved.
        """
        ...


@runtime_checkable
class AttemptLimiter(Protocol):
    """What a limiter may also be, or be instead: one that looks at the deployment, before each attempt."""

    def admit_attempt(self, call: Call, target: Target) -> Awaitable[Permit | None] | Permit | None:
        """Reserve what an attempt may use; settled when it fails, or with the call if it answers.

        It may be plain as `Limiter.admit` may. Nothing may stay reserved if it is cancelled.

        Raises:
            RateLimited: with `retry=Retry.NEXT`, failover goes on to the next deployment.
        """
        ...


@runtime_checkable
class RoundLimiter(Protocol):
    """What a limiter may also be: one that is asked again when a call takes another round, after tools were run."""

    async def admit_round(self, call: Call) -> None:
        """Reserve what the model may use once more; the permit of the call is to settle it with all the rest.

        Nothing may stay reserved beyond that if it is cancelled.

        Raises:
            RateLimited: over the limit; the call ends.
        """
        ...


@runtime_checkable
class TellingLimiter(Protocol):
    """What a limiter may also be: one that tells how a caller stands, where it was not asked to admit a call."""

    async def standing(self, principal: Principal) -> Mapping[str, str]:
        """The headers that tell what is left, as `Limiter.admit` puts them into answers; {} for who has no limits.

        Asked for answers of plugins' own routes, and for calls that are refused before it was their limiter's turn.
        Nothing is charged or reserved.

        Raises:
            GatewayError: nobody knows at the moment; the answer goes out without.
        """
        ...
