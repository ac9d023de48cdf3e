"""Where requests meet the ledger: what a request used is held here until its row is in the balances."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from gatehook import Outcome, Permit, Posting, UsageRow
from gatehook_plugins.quota import store
from gatehook_plugins.quota.account import MOST, Account, Amount
from gatehook_plugins.quota.prices import Rates
from gatehook_plugins.quota.store import MS_A_DAY

__all__ = ["Books", "QuotaPermit", "ReservedPermit"]


class QuotaPermit(Struct, eq=False):
    """One admitted request: its bound is reserved until it ends, and what it used is held until that is booked."""

    request_id: str
    account: Account
    most: Amount
    """Its bound."""
    rates: Rates | None
    """Those that the bound was told by, if money matters."""
    books: "Books"
    """Who is told when it ends."""
    tokens: int = 0
    nano: int = 0
    """What it used, once it has ended."""
    is_booked: bool = False
    """Whether its row is. That may be before it has ended: a limiter may take its time, the ledger not."""
    row_tokens: int = 0
    row_nano: int = 0
    """What its row says, once that is posted."""

    immediate: ClassVar[bool] = True

    async def settle(self, outcome: Outcome) -> None:
        """Hold what was used, the same as the ledger enters; nothing if that is booked already."""
        usage, cost = outcome.usage, outcome.cost
        if usage is not None and outcome.status != "cached" and not self.is_booked:
            tokens = usage.prompt_tokens + usage.completion_tokens
            nano = 0 if cost is None else cost.input + cost.output
            if not (0 <= tokens <= MOST and 0 <= nano <= MOST):  # no vendor can make it less than nothing
                tokens, nano = max(0, min(tokens, MOST)), max(0, min(nano, MOST))
            self.tokens, self.nano = tokens, nano
        self.books.ended(self)


class ReservedPermit:
    """One request whose need is reserved in the database; nothing of a lease is held for it."""

    __slots__ = ("rates",)

    immediate = True

    def __init__(self, rates: Rates | None) -> None:
        """`rates` are those that the reservation suffices by, if money matters."""
        self.rates = rates

    async def settle(self, outcome: Outcome) -> None:
        """What was used is taken from the reservation when its row is booked."""


class Books:
    """The posting of the ledger's rows, and the requests of this process whose rows are still to come."""

    def __init__(self, owner: Callable[[], str], rewrite: Callable[[Account], None]) -> None:
        """`owner` is the ledger's name of this process; `rewrite` is told of leases that can be made smaller."""
        self._owner = owner
        self._rewrite = rewrite
        self._open: dict[str, QuotaPermit] = {}

    def begin(self, request_id: str, account: Account, most: Amount, rates: Rates | None) -> QuotaPermit:
        """A request was admitted."""
        permit = self._open[request_id] = QuotaPermit(request_id, account, most, rates, self)
        return permit

    def ended(self, permit: QuotaPermit) -> None:
        """A request has ended. If it used nothing, no row of it will matter here."""
        account, tokens, nano = permit.account, permit.tokens, permit.nano
        if not (tokens or nano or permit.is_booked):
            del self._open[permit.request_id]
        account.settle(permit.most, tokens, nano)
        if account.rewrite:
            self._rewrite(account)

    async def post(self, connection: AsyncConnection, rows: Sequence[UsageRow]) -> None:
        """Add rows to the balances of their users; what was used here goes out of the lease of this process."""
        here: dict[tuple[str, int], list[int]] = {}
        elsewhere: dict[tuple[str, int], list[int]] = {}
        reserved: dict[str, list[int]] = {}
        for row in rows:
            tokens = row.prompt_tokens + row.completion_tokens
            nano = (row.input_cost or 0) + (row.output_cost or 0)
            if not (-MOST <= tokens <= MOST and -MOST <= nano <= MOST):
                tokens, nano = max(-MOST, min(tokens, MOST)), max(-MOST, min(nano, MOST))
            permit, used = self._open.get(row.request_id), elsewhere
            if permit is not None:
                permit.row_tokens, permit.row_nano = tokens, nano
                used = here
            elif "." in row.request_id:  # made on a reservation
                _add(reserved, row.request_id.partition(".")[0], tokens, nano)
            day = row.user_id, row.at // MS_A_DAY
            sums = used.get(day)
            if sums is None:
                used[day] = [tokens, nano]
            else:
                sums[0] += tokens
                sums[1] += nano
        taken: dict[str, list[int]] = {}
        for (user, _), (tokens, nano) in here.items():
            _add(taken, user, tokens, nano)
        await store.add(connection, [*here.items(), *elsewhere.items()])
        await store.take(connection, self._owner(), taken)
        await store.take_reserved(connection, reserved)

    def posted(self, rows: Sequence[UsageRow]) -> None:
        """The balances hold these rows now, and the lease no longer does."""
        booked: dict[Account, list[int]] = {}
        for row in rows:
            permit = self._open.pop(row.request_id, None)
            if permit is not None:
                permit.is_booked = True
                sums = booked.get(permit.account)
                if sums is None:
                    booked[permit.account] = [permit.tokens, permit.nano, permit.row_tokens, permit.row_nano]
                else:
                    sums[0] += permit.tokens
                    sums[1] += permit.nano
                    sums[2] += permit.row_tokens
                    sums[3] += permit.row_nano
        for account, (tokens, nano, row_tokens, row_nano) in booked.items():
            account.booked(Amount(tokens, nano), Amount(row_tokens, row_nano))

    async def closed(self, connection: AsyncConnection, owner: str) -> None:
        """What a process that has ended still held is free."""
        await store.free_leases(connection, owner)


def _add(sums: dict[str, list[int]], name: str, tokens: int, nano: int) -> None:
    known = sums.setdefault(name, [0, 0])
    known[0] += tokens
    known[1] += nano


_guard: tuple[type[Posting], type[Permit], type[Permit]] = (Books, QuotaPermit, ReservedPermit)
