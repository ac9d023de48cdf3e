"""What limits do while Redis cannot be reached: `Resilient` asks another store, which may be `Open` or `Closed`."""

from collections.abc import Awaitable, Sequence

from gatehook import awaited
from gatehook.redis_line import Gone
from gatehook_plugins.rate_limit.rules import Rule
from gatehook_plugins.rate_limit.store import Decision, Gate, Grant, Store, nobody_knows

__all__ = ["Closed", "Open", "Resilient"]


class Resilient:
    """Asks one store, and another while that cannot be reached."""

    def __init__(self, store: Store, meanwhile: Store) -> None:
        """`store` may raise Gone, and `meanwhile` is asked then. A grant is settled where it was given."""
        self._store = store
        self._meanwhile = meanwhile

    def gate(self, rules: Sequence[Rule]) -> "_ResilientGate":
        """See `Store`."""
        return _ResilientGate(self._store.gate(rules), self._meanwhile.gate(rules))


class _ResilientGate:
    """The gates of both stores."""

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
    """Admits everybody, and counts nothing."""

    def gate(self, rules: Sequence[Rule]) -> "Open":
        """See `Store`."""
        return self

    def admit(self, tokens: int) -> Decision:
        """Admit the request, without a grant."""
        return Decision((), ())

    def peek(self) -> Decision:
        """Nothing is left to tell, as nothing is counted."""
        return Decision((), ())

    def settle(self, grant: Grant, requests: int, tokens: int) -> None:
        """There is nothing to settle."""


class Closed:
    """Refuses everybody, as what is left of their limits is not known."""

    def gate(self, rules: Sequence[Rule]) -> "Closed":
        """See `Store`."""
        return self

    def admit(self, tokens: int) -> Decision:
        """Refuse the request.

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
