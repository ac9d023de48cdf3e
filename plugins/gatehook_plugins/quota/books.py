"""Where requests meet the ledger: what a request used is held here until its row is in the balances."""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from gatehook import Outcome, Permit, Posting, UsageRow
from gatehook_plugins.quota import store
from gatehook_plugins.quota.account import NOTHING, Account, Amount, Need
from gatehook_plugins.quota.prices import Rates

__all__ = ["Books", "QuotaPermit", "ReservedPermit"]

_MOST = 10**15
"""A row that says more is not believed: balances count to 9 * 10**18."""


class QuotaPermit:
    """One admitted request: its bound is reserved until it ends, and what it used is held until that is booked."""

    __slots__ = ("_books", "account", "has_ended", "nano", "need", "rates", "request_id", "tokens")

    immediate = True

    def __init__(self, request_id: str, account: Account, need: Need, rates: Rates | None, books: "Books") -> None:
        """`rates` are those that `need` was told by, if money matters; `books` are told what was used."""
        self.request_id = request_id
        self.account = account
        self.need = need
        self.rates = rates
        self.has_ended = False
        self.tokens = self.nano = 0
        """What it used, once it has ended."""
        self._books = books

    async def settle(self, outcome: Outcome) -> None:
        """Hold what was used, the same as the ledger enters."""
        usage = outcome.usage
        if usage is not None and outcome.status != "cached":
            cost = outcome.cost
            tokens = usage.prompt_tokens + usage.completion_tokens
            nano = 0 if cost is None else cost.input + cost.output
            if not (0 <= tokens <= _MOST and 0 <= nano <= _MOST):  # no vendor can make it less than nothing
                tokens, nano = max(0, min(tokens, _MOST)), max(0, min(nano, _MOST))
            self.tokens, self.nano = tokens, nano
        self.has_ended = True
        self._books.ended(self)


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
        self._early: set[str] = set()
        """Requests whose row was booked before they were settled: a limiter may take its time, the ledger not."""

    def begun(self, permit: QuotaPermit) -> None:
        """A request was admitted."""
        self._open[permit.request_id] = permit

    def ended(self, permit: QuotaPermit) -> None:
        """A request has ended. If it used nothing, no row of it will matter here."""
        account = permit.account
        if permit.request_id in self._early:
            self._early.discard(permit.request_id)
            del self._open[permit.request_id]
            account.settle(permit.need, 0, 0)
        else:
            if not (permit.tokens or permit.nano):
                del self._open[permit.request_id]
            account.settle(permit.need, permit.tokens, permit.nano)
        if account.rewrite:
            self._rewrite(account)

    async def post(self, connection: AsyncConnection, rows: Sequence[UsageRow]) -> None:
        """Add rows to the balances of their users; what was used here goes out of the lease of this process."""
        used: dict[tuple[str, store.Periods], _Sum] = {}
        taken: dict[str, _Sum] = {}
        reserved: dict[str, _Sum] = {}
        for row in rows:
            day = row.user_id, store.periods(row.at)
            if (total := used.get(day)) is None:
                total = used[day] = _Sum()
            total.enter(row)
            if row.request_id in self._open:
                if (total := taken.get(row.user_id)) is None:
                    total = taken[row.user_id] = _Sum()
                total.enter(row)
            elif "." in row.request_id:  # made on a reservation
                reserved.setdefault(row.request_id.partition(".")[0], _Sum()).enter(row)
        await store.add(connection, _by_period(used))
        await store.take(connection, self._owner(), {user: total.amount for user, total in taken.items()})
        await store.take_reserved(connection, {name: total.amount.positive() for name, total in reserved.items()})

    def posted(self, rows: Sequence[UsageRow]) -> None:
        """The balances hold these rows now, and the lease no longer does."""
        booked: dict[Account, tuple[_Sum, _Sum]] = {}
        for row in rows:
            permit = self._open.get(row.request_id)
            if permit is None:
                continue
            if permit.has_ended:
                del self._open[row.request_id]
            else:
                self._early.add(row.request_id)
            if (sums := booked.get(permit.account)) is None:
                sums = booked[permit.account] = _Sum(), _Sum()
            sums[0].add(permit.tokens, permit.nano)
            sums[1].enter(row)
        for account, (used, entered) in booked.items():
            account.booked(used.amount, entered.amount)

    async def closed(self, connection: AsyncConnection, owner: str) -> None:
        """What a process that has ended still held is free."""
        await store.free_leases(connection, owner)


class _Sum:
    """Amounts of many rows."""

    __slots__ = ("nano", "tokens")

    def __init__(self) -> None:
        self.tokens = self.nano = 0

    def add(self, tokens: int, nano: int) -> None:
        self.tokens += tokens
        self.nano += nano

    def enter(self, row: UsageRow) -> None:
        """Add what a row says, as far as it is believed."""
        tokens, nano = row.tokens, row.cost
        if not (-_MOST <= tokens <= _MOST and -_MOST <= nano <= _MOST):
            tokens, nano = max(-_MOST, min(tokens, _MOST)), max(-_MOST, min(nano, _MOST))
        self.tokens += tokens
        self.nano += nano

    @property
    def amount(self) -> Amount:
        return Amount(self.tokens, self.nano)


def _by_period(used: Mapping[tuple[str, store.Periods], _Sum]) -> dict[tuple[str, str], Amount]:
    summed: dict[tuple[str, str], Amount] = {}
    for (user, periods), total in used.items():
        if amount := total.amount:
            for name in periods.names:
                summed[user, name] = summed.get((user, name), NOTHING) + amount
    return summed


_guard: tuple[type[Posting], type[Permit], type[Permit]] = (Books, QuotaPermit, ReservedPermit)
