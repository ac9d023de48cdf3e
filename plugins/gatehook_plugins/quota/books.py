"""Where requests meet the ledger: what a request used is held here until its row is in the balances."""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from gatehook import Call, Outcome, Permit, Posting, UsageRow
from gatehook_plugins.quota import store
from gatehook_plugins.quota.account import NOTHING, Account, Amount, Need
from gatehook_plugins.quota.prices import Rates

__all__ = ["Books", "QuotaPermit"]

_MOST = 10**15
"""A row that says more is not believed: balances count to 9 * 10**18."""


class QuotaPermit:
    """One admitted request: its bound is reserved until it ends, and what it used is held until that is booked."""

    __slots__ = ("_ended", "account", "call", "need", "rates", "used")

    immediate = True

    def __init__(self, call: Call, account: Account, need: Need, rates: Rates | None, books: "Books") -> None:
        """`rates` are those that `need` was told by, if money matters; `books` are told what was used."""
        self.call = call
        self.account = account
        self.need = need
        self.rates = rates
        self.used: Amount | None = None
        """None while it runs."""
        self._ended = books.ended

    async def settle(self, outcome: Outcome) -> None:
        """Hold what was used, the same as the ledger enters."""
        self._ended(self, _used(outcome))


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
        self._open[permit.call.id] = permit

    def ended(self, permit: QuotaPermit, used: Amount) -> None:
        """A request has ended. If it used nothing, no row of it will matter here."""
        if permit.call.id in self._early:
            self._early.discard(permit.call.id)
            del self._open[permit.call.id]
            used = NOTHING
        elif not used:
            del self._open[permit.call.id]
        permit.used = used
        permit.account.settle(permit.need, used)
        if permit.account.rewrite:
            self._rewrite(permit.account)

    async def post(self, connection: AsyncConnection, rows: Sequence[UsageRow]) -> None:
        """Add rows to the balances of their users; what was used here goes out of the lease of this process."""
        by_day: dict[tuple[str, store.Periods], list[Amount]] = {}
        taken: dict[str, list[Amount]] = {}
        for row in rows:
            if amount := _amount(row):
                by_day.setdefault((row.user_id, store.periods(row.at)), []).append(amount)
                if row.request_id in self._open:
                    taken.setdefault(row.user_id, []).append(amount)
        await store.add(connection, _by_period({key: _sum(amounts) for key, amounts in by_day.items()}))
        await store.take(connection, self._owner(), {user: _sum(amounts) for user, amounts in taken.items()})

    def posted(self, rows: Sequence[UsageRow]) -> None:
        """The balances hold these rows now, and the lease no longer does."""
        for row in rows:
            permit = self._open.get(row.request_id)
            if permit is None:
                continue
            if permit.used is None:
                self._early.add(row.request_id)
            else:
                del self._open[row.request_id]
            permit.account.booked(permit.used or NOTHING, _amount(row))

    async def closed(self, connection: AsyncConnection, owner: str) -> None:
        """What a process that has ended still held is free."""
        await store.free_leases(connection, owner)


def _amount(row: UsageRow) -> Amount:
    tokens, cost = row.tokens, row.cost
    if -_MOST <= tokens <= _MOST and -_MOST <= cost <= _MOST:  # nearly always
        return Amount(tokens, cost)
    return Amount(max(-_MOST, min(tokens, _MOST)), max(-_MOST, min(cost, _MOST)))


def _used(outcome: Outcome) -> Amount:
    """No vendor can make it less than nothing."""
    usage = outcome.usage
    if usage is None or outcome.status == "cached":
        return NOTHING
    tokens = usage.prompt_tokens + usage.completion_tokens
    cost = 0 if outcome.cost is None else outcome.cost.input + outcome.cost.output
    if 0 <= tokens <= _MOST and 0 <= cost <= _MOST:  # nearly always
        return Amount(tokens, cost)
    return Amount(tokens, cost).positive().up_to(Amount(_MOST, _MOST))


def _sum(amounts: Sequence[Amount]) -> Amount:
    return Amount(sum(one.tokens for one in amounts), sum(one.nano for one in amounts))


def _by_period(amounts: Mapping[tuple[str, store.Periods], Amount]) -> dict[tuple[str, str], Amount]:
    summed: dict[tuple[str, str], Amount] = {}
    for (user, periods), amount in amounts.items():
        for name in periods.names:
            summed[user, name] = summed.get((user, name), NOTHING) + amount
    return summed


_guard: tuple[type[Posting], type[Permit]] = (Books, QuotaPermit)
