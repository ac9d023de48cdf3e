"""The parts of the quota, put together: who has which caps, what they have used, and the task that asks for leases."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING

from gatehook import Caps, Database, Directory, Ledger, Principal, meanwhile
from gatehook_plugins.quota import store
from gatehook_plugins.quota.account import Account, Need, room
from gatehook_plugins.quota.books import Books
from gatehook_plugins.quota.broker import Broker
from gatehook_plugins.quota.refusal import reserved, used_up

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["QuotaService"]


class QuotaService:
    """The quota of one gateway, on the services it was given."""

    def __init__(
        self,
        database: Database,
        directory: Directory,
        ledger: Ledger,
        defaults: Caps,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`defaults` are the caps of callers without caps of their own; `now` gives epoch seconds."""
        self._database = database
        self._directory = directory
        self._ledger = ledger
        self._defaults = defaults
        self._now = now
        self.broker = Broker(database, lambda: ledger.owner, self._caps_now, now)
        self.books = Books(lambda: ledger.owner, self.broker.rewrite)
        ledger.book(self.books)
        directory.subscribe(self._changed)

    def caps(self, principal: Principal) -> Caps:
        """The caps that hold for a caller: the user's own, else the defaults."""
        own = None if principal.user is None else principal.user.caps
        return own or self._defaults

    async def used(self, user_id: str) -> Mapping[str, tuple[int, int]]:
        """Tokens and nano-dollars, by "all", "day" and "month"."""
        await self._ledger.flush()
        async with self._database.reading() as connection:
            amounts = await store.used(connection, user_id, int(self._now() * 1000))
        return {
            period: (amount.tokens, amount.nano)
            for period, amount in zip(("all", "day", "month"), amounts, strict=True)
        }

    async def reserve(self, connection: AsyncConnection, name: str, user_id: str, caps: Caps, need: Need) -> None:
        """Reserve what a later call may use, or, if something is left of that, add what is lacking.

        Raises:
            RateLimited: the caps do not allow it.
        """
        now = self._now()
        # As seen by no process (""), so that the leases of all count as taken.
        standing = (await store.standings(connection, "", [user_id], int(now * 1000), beside=name))[user_id]
        left = room(caps, standing)
        if not (need.is_bounded_by(left) or need.is_expected_in(left)):
            raise used_up(caps, standing, need, now) or reserved()
        await store.reserve(connection, name, user_id, need.most)

    async def cover(self, name: str, user_id: str, caps: Caps, need: Need) -> None:
        """See that a reservation suffices for a call that is made now.

        Raises:
            RateLimited: it does not, and the caps do not allow more. Unavailable: the database cannot be asked.
        """
        async with self._database.reading() as connection:
            if need.is_bounded_by(await store.reserved(connection, name)):
                return
        async with self._database.writing() as connection:
            await self.reserve(connection, name, user_id, caps, need)

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Make the tables, and ask for leases while it lasts. What is still leased at the end, the ledger's end frees.

        Raises:
            StartupError: the tables cannot be brought up to date.
        """
        await self._database.migrate("quota", "gatehook_plugins.quota.migrations")
        try:
            async with meanwhile(self.broker.run()):
                yield
        finally:
            self.broker.close()

    async def _caps_now(self, account: Account) -> Caps:
        """The caps as they are now, whatever they were when the request arrived."""
        user = await self._directory.user(account.user_id)
        return account.caps if user is None else user.caps or self._defaults

    def _changed(self, kind: str, user_id: str) -> None:
        if kind in ("user", ""):
            self.broker.caps_changed(user_id)
