"""What becomes of limits while Redis is gone."""

from collections.abc import Sequence
from typing import Final

from gatehook import Unavailable
from gatehook.redis_line import Gone
from gatehook_plugins.rate_limit.rules import Rule
from gatehook_plugins.rate_limit.store import Decision, Grant, Store

__all__ = ["Closed", "Open", "Resilient"]


class Resilient:
    """Asks one store, and while that is gone another."""

    immediate: Final = False

    def __init__(self, store: Store, meanwhile: Store) -> None:
        """`store` may raise Gone; grants tell which of the two gave them, and are settled there."""
        self._store = store
        self._meanwhile = meanwhile

    async def admit(self, rules: Sequence[Rule], tokens: int) -> Decision:
        """See `Store`."""
        try:
            return await self._store.admit(rules, tokens)
        except Gone:
            return await self._meanwhile.admit(rules, tokens)

    async def settle(self, grant: Grant, requests: int, tokens: int) -> None:
        """See `Store`."""
        await grant.store.settle(grant, requests, tokens)


class Open:
    """Limits nobody."""

    immediate: Final = True

    async def admit(self, rules: Sequence[Rule], tokens: int) -> Decision:
        """Yes, and nothing is counted."""
        return Decision(True, ())

    async def settle(self, grant: Grant, requests: int, tokens: int) -> None:
        """There is nothing to settle."""


class Closed:
    """Lets nobody in."""

    immediate: Final = True

    async def admit(self, rules: Sequence[Rule], tokens: int) -> Decision:
        """No.

        Raises:
            Unavailable: always.
        """
        raise Unavailable(
            "the rate limits cannot be checked at the moment; try again shortly",
            code="rate_limiter_unavailable",
            retry_after=1,
        )

    async def settle(self, grant: Grant, requests: int, tokens: int) -> None:
        """There is nothing to settle."""


_guards: tuple[type[Store], ...] = (Resilient, Open, Closed)
