"""What users have used of their caps, and what is kept for calls that are made later."""

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
        """Tokens and nano-dollars by period: "all", "day" and "month" (those of now, UTC). Flushes the ledger first.

        Raises:
            Unavailable: the database cannot be asked now.
        """
        ...

    def reservation(self, name: str, call: Call) -> Reserve:
        """What reserves what a call may use that is made later, in a transaction of somebody else's.

        The call is made with `call.reservation` set to `name`, as often as need be: what the ledger books of it is
        taken from the reservation, and what is lacking is added. Nothing else of its caller's can use what is
        reserved, and no crash loses it.

        Args:
            name: of the reservation; without a dot.
            call: as it will be made.

        Returns:
            To be given a connection within `Database.writing()` or `Database.write()`, which raises RateLimited: a cap
            does not allow it; PermissionDenied: nobody knows what the model costs.
        """
        ...

    async def release(self, connection: AsyncConnection, name: str) -> None:
        """Give back what is left of a reservation, if there is one. Flush the ledger before."""
        ...


QUOTAS: ServiceKey[Quotas] = ServiceKey("quotas", provider="quota")
