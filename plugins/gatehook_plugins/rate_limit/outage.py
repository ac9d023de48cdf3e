"""What becomes of limits while Redis is gone."""

from collections.abc import Awaitable, Sequence

from gatehook import awaited
from gatehook.redis_line import Gone
from gatehook_plugins.rate_limit.rules import Rule
from gatehook_plugins.rate_limit.store import Decision, Gate, Grant, Store, nobody_knows

__all__ = ["Closed", "Open", "Resilient"]


class Resilient:
    """Asks one store, and while that is gone another."""

    def __init__(self, store: Store, meanwhile: Store) -> None:
        """`store` may raise Gone; grants tell which of the two gave them, and are settled there."""
        self._store = store
        self._meanwhile = meanwhile

    def gate(self, rules: Sequence[Rule]) -> "_ResilientGate":
        """See `Store`."""
        return _ResilientGate(self._store.gate(rules), self._meanwhile.gate(rules))


class _ResilientGate:
    """The gates of both."""

    __slots__ = ("_gate", "_meanwhile")

    def __init__(self, gate: Gate, meanwhile: Gate) -> None:
        self._gate = gate
        self._meanwhile = meanwhile

    async def admit(self, tokens: int) -> Decision:
        """See `Gate`."""
        try:
            return await awaited(self._gate.admit(tokens))
        except Gone:
            return await awaited(self._meanwhile.admit(tokens))

    async def peek(self) -> Decision:
        """See `Gate`."""
        try:
            return await awaited(self._gate.peek())
        except Gone:
            return await awaited(self._meanwhile.peek())

    def settle(self, grant: Grant, requests: int, tokens: int) -> Awaitable[None] | None:
        """See `Gate`."""
        return grant.gate.settle(grant, requests, tokens)


class Open:
    """Limits nobody."""

    def gate(self, rules: Sequence[Rule]) -> "Open":
        """See `Store`."""
        return self

    def admit(self, tokens: int) -> Decision:
        """Yes, and nothing is counted."""
        return Decision((), ())

    def peek(self) -> Decision:
        """Nobody counts."""
        return Decision((), ())

    def settle(self, grant: Grant, requests: int, tokens: int) -> None:
        """There is nothing to settle."""


class Closed:
    """Lets nobody in."""

    def gate(self, rules: Sequence[Rule]) -> "Closed":
        """See `Store`."""
        return self

    def admit(self, tokens: int) -> Decision:
        """No.

        Raises:
            Unavailable: always.
        """
        raise nobody_knows()

    def peek(self) -> Decision:
        """As `admit`.

        Raises:
            Unavailable: always.
        """
        raise nobody_knows()

    def settle(self, grant: Grant, requests: int, tokens: int) -> None:
        """There is nothing to settle."""


_stores: tuple[type[Store], ...] = (Resilient, Open, Closed)
_gates: tuple[type[Gate], ...] = (_ResilientGate, Open, Closed)
