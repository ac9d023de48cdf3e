"""Where what was used is counted: the interfaces of it, and the values that go in and out. Times are microseconds."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from gatehook import Outcome, Permit, Unavailable
from gatehook_plugins.rate_limit.rules import Rule

__all__ = ["BUSY", "NEVER", "SECOND", "SLOTS", "Decision", "Gate", "Grant", "Store", "nobody_knows"]

SECOND: Final = 1_000_000
SLOTS: Final = 61
"""Whole seconds that count: the one that is going on, and the sixty that lie, also in part, in the window before it."""
BUSY: Final = 1 * SECOND
"""How long to wait for a running request to end: nobody knows."""
NEVER: Final = -1
"""The wait of a request that will not pass however long it waits."""


class Decision(Struct, frozen=True, gc=False):
    """Whether a request may go on, and what is left after that of each limit, in their order."""

    left: Sequence[int]
    """() if nobody counts."""
    resets: Sequence[int]
    """Until the whole limit is free again, if nothing more is asked; 0 for requests at the same time.

    () where `lines` tell it.
    """
    waits: Sequence[int] = ()
    """() if the request was admitted; else until it could pass each limit: 0 if it could now, `NEVER`."""
    grant: Grant | None = None
    """None if it was refused, or if nobody counts."""
    lines: str = ""
    """The headers for the caller, if the request was admitted and the gate has written them; else the rest tells."""

    @property
    def admitted(self) -> bool:
        """Whether no limit refused."""
        return not self.waits


class Grant(Struct, frozen=True, gc=False):
    """What an admitted request, or one attempt of it, has reserved, and where: the `Permit` of it."""

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
    """A few limits that are decided together, always the same ones: what one caller has to pass.

    What counts in memory answers at once; what has to ask somebody gives an awaitable.
    """

    def admit(self, tokens: int) -> Awaitable[Decision] | Decision:
        """Charge one request, and its tokens, to all of them or to none."""
        ...

    def peek(self) -> Awaitable[Decision] | Decision:
        """What is left of all of them; nothing is charged.

        Raises:
            Unavailable: nobody knows.
        """
        ...

    def settle(self, grant: Grant, requests: int, tokens: int) -> Awaitable[None] | None:
        """Correct what was charged to what was really used (`requests` is 1, or 0), and let the running request go.

        Once for each grant that it gave.
        """
        ...


class Store(Protocol):
    """Counts requests, tokens and running requests against limits."""

    def gate(self, rules: Sequence[Rule]) -> Gate:
        """What decides by these limits, to be kept for the next request; gates that share a limit share its count."""
        ...


def nobody_knows() -> Unavailable:
    """The error of a request whose limits cannot be looked up, and that may not pass without."""
    return Unavailable(
        "the rate limits cannot be checked at the moment; try again shortly",
        code="rate_limiter_unavailable",
        retry_after=1,
    )


_guard: type[Permit] = Grant
