"""The interfaces of what counts usage against limits, and the values that go in and out. Times are in microseconds."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from gatehook import Outcome, Permit, Unavailable
from gatehook_plugins.rate_limit.rules import Rule

__all__ = ["BUSY", "NEVER", "SECOND", "SLOTS", "Decision", "Gate", "Grant", "Store", "nobody_knows"]

SECOND: Final = 1_000_000
SLOTS: Final = 61
"""The seconds of a window: the one that is going on, and the sixty that reach into the minute before now."""
BUSY: Final = 1 * SECOND
"""The wait for a running request to end: a guess, as nobody knows."""
NEVER: Final = -1
"""The wait of a request that will not pass however long it waits."""


class Decision(Struct, frozen=True, gc=False):
    """Whether a request may go on, and what is left after it. Sequences have an entry for each limit, in order."""

    left: Sequence[int]
    """How much is left; () if nothing is counted."""
    resets: Sequence[int]
    """The time until the whole limit is free again, if nothing more is asked; 0 for requests at the same time.

    () if `lines` tell it.
    """
    waits: Sequence[int] = ()
    """() if the request was admitted; else the time until it could pass the limit: 0 if it could now, or `NEVER`."""
    grant: Grant | None = None
    """None if the request was refused, or if nothing is counted."""
    lines: str = ""
    """The headers for the caller, if the gate has written them for a request that was admitted; else ""."""

    @property
    def admitted(self) -> bool:
        """Whether no limit refused."""
        return not self.waits


class Grant(Struct, frozen=True, gc=False):
    """The permit of an admitted request, or of one attempt of it: what it has reserved, and where."""

    gate: Gate
    tokens: int
    slot: int
    """The second of the admission, by the store's clock."""
    holder: str = ""
    """Names this request among those that run at the same time."""

    def settle(self, outcome: Outcome) -> Awaitable[None] | None:
        """Charge the tokens that were used. The request itself stays counted, unless no vendor was ever tried."""
        usage = outcome.usage
        tokens = 0 if usage is None else usage.prompt_tokens + usage.completion_tokens
        return self.gate.settle(self, 0 if outcome.status == "rejected" else 1, tokens)


class Gate(Protocol):
    """A few limits that are decided together, always the same ones: those that one caller has to pass.

    A gate that counts in memory answers at once; one that has to ask a server gives an awaitable.
    """

    def admit(self, tokens: int) -> Awaitable[Decision] | Decision:
        """Charge one request, and its tokens, to all limits or to none."""
        ...

    def peek(self) -> Awaitable[Decision] | Decision:
        """What is left of all limits; nothing is charged.

        Raises:
            Unavailable: the limits cannot be looked up.
        """
        ...

    def settle(self, grant: Grant, requests: int, tokens: int) -> Awaitable[None] | None:
        """Correct what was charged to what was really used (`requests` is 1 or 0), and end the running request.

        It is called once for each grant that this gate gave.
        """
        ...


class Store(Protocol):
    """Counts requests, tokens and running requests against limits."""

    def gate(self, rules: Sequence[Rule]) -> Gate:
        """The gate of these limits, to be kept for the next request; gates that share a limit share its count."""
        ...


def nobody_knows() -> Unavailable:
    """The error of a request whose limits cannot be looked up, and that may not pass without."""
    return Unavailable(
        "the rate limits cannot be checked at the moment; try again shortly",
        code="rate_limiter_unavailable",
        retry_after=1,
    )


_implements: type[Permit] = Grant
