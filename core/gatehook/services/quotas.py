"""What users have used of their caps, and reservations for calls that are made later."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias

from gatehook.model import Call
from gatehook.services.registry import ServiceKey

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["QUOTAS", "Quotas", "Reserve"]

Reserve: TypeAlias = "Callable[[AsyncConnection], Awaitable[None]]"


class Quotas(Protocol):
    """What users have used of their caps."""

    async def used(self, user_id: str) -> Mapping[str, tuple[int, int]]:
        """Tokens and nano-dollars by period: "all", "day" and "month" (the current, UTC). Flushes the ledger first.

        Raises:
            Unavailable: the database cannot be asked now.
        """
        ...

    def reservation(self, name: str, call: Call) -> Reserve:
        """A function that reserves, in the caller's own transaction, what a call may use that is made later.

        The call is then made with `call.reservation` set to `name`, several times if need be: what the ledger books of
        it is taken from the reservation, and what is lacking is added. No other call of the same user can use what is
        reserved, and no crash loses it.

        Args:
            name: the reservation's; without a dot.
            call: as it will be made.

        Returns:
            To be called with a connection, within `Database.writing()` or `Database.write()`. It raises RateLimited if
            a cap does not allow the call, and PermissionDenied if the model has no price.
        """
        ...

    async def release(self, connection: AsyncConnection, name: str) -> None:
        """Give back what is left of a reservation, if there is one. The ledger has to be flushed before."""
        ...


QUOTAS: ServiceKey[Quotas] = ServiceKey("quotas", provider="quota")
