"""Between requests and the ledger: what a request used is held here until its row is in the balances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from gatehook import Caps, Outcome, Permit, Posting, UsageRow
from gatehook_plugins.quota import store
from gatehook_plugins.quota.account import NOTHING, Account, Amount
from gatehook_plugins.quota.prices import Rates
from gatehook_plugins.quota.store import MS_A_DAY

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Books", "QuotaPermit", "ReservedPermit"]

_Key = TypeVar("_Key")

_said = attrgetter("request_id", "at", "user_id", "prompt_tokens", "completion_tokens", "input_cost", "output_cost")
"""The fields of a row that matter here."""


class QuotaPermit(Struct, eq=False):
    """One admitted request: its bound is reserved until it ends, and what it used is held until that is booked."""

    request_id: str
    account: Account
    most: Amount
    """The most it can use, which is reserved."""
    rates: Rates | None
    """The rates that `most` was worked out by, if money matters."""
    books: Books
    """Told when it ends."""
    tokens: int = 0
    nano: int = 0
    """What is held for it once it has ended."""
    is_booked: bool = False
    """Whether its row is booked: perhaps before it is settled, as the ledger does not wait for other limiters."""

    def settle(self, outcome: Outcome) -> None:
        """Hold what was used, the same as the ledger enters; nothing if that is booked already."""
        usage, account = outcome.usage, self.account
        if usage is None or outcome.status == "cached" or self.is_booked:
            tokens = nano = 0
        else:
            cost = outcome.cost
            self.tokens = tokens = usage.prompt_tokens + usage.completion_tokens
            self.nano = nano = 0 if cost is None else cost.input + cost.output
        account.settle(self.most, tokens, nano)
        if account.rewrite or not tokens:
            self.books.ended(self)


class ReservedPermit:
    """One request whose need is reserved in the database; nothing of a lease is held for it."""

    __slots__ = ("caps", "most", "rates")

    def __init__(self, caps: Caps, most: Amount, rates: Rates | None) -> None:
        """It is within these caps. `rates` are those that the reservation suffices by, if money matters."""
        self.caps = caps
        self.most = most
        """The bound of all rounds so far."""
        self.rates = rates

    def settle(self, outcome: Outcome) -> None:
        """What was used is taken from the reservation when its row is booked."""


class _Sums(Struct):
    """The sums of some rows, in tokens and nano-dollars, by where they are to be booked."""

    here: dict[tuple[Account, int], list[int]] = {}
    """What was used by requests of this process, by account and day of the epoch."""
    elsewhere: dict[tuple[str, int], list[int]] = {}
    """What others used, or callers without caps, by user and day."""
    reserved: dict[str, list[int]] = {}
    """What calls used that were made on reservations, by the reservations' names."""
    permits: list[QuotaPermit] = []
    """The permits of the requests that were made by this process."""
    uneven: list[tuple[QuotaPermit, int, int]] = []
    """Permits for which something else is held than their rows say, each with what its row says."""


class Books:
    """The posting of the ledger's rows, and the requests of this process whose rows are still to come."""

    def __init__(self, owner: Callable[[], str], rewrite: Callable[[Account], None]) -> None:
        """`owner` is the ledger's name of this process; `rewrite` is told of leases that can be made smaller."""
        self._owner = owner
        self._rewrite = rewrite
        self.running: dict[str, QuotaPermit] = {}
        """Admitted, and not booked yet, by their requests' ids: whoever admits one puts it here."""
        self._read: tuple[Sequence[UsageRow], _Sums] | None = None
        """The rows that were posted last, which are those that `posted` is told of, if nothing went wrong."""

    def ended(self, permit: QuotaPermit) -> None:
        """Note that a request has ended: if it used nothing, its row does not matter; its lease may be too large."""
        if not (permit.tokens or permit.nano):
            self.running.pop(permit.request_id, None)
        if permit.account.rewrite:
            self._rewrite(permit.account)

    async def post(self, connection: AsyncConnection, rows: Sequence[UsageRow]) -> None:
        """Add rows to the balances of their users; what was used here goes out of the lease of this process."""
        sums = self._sums(rows)
        self._read = rows, sums
        taken: dict[str, list[int]] = {}
        for (account, _), (tokens, nano) in sums.here.items():
            _add(taken, account.user_id, tokens, nano)
        here = [((account.user_id, day), used) for (account, day), used in sums.here.items()]
        await store.add(connection, [*here, *sums.elsewhere.items()])
        await store.take(connection, self._owner(), taken)
        await store.take_reserved(connection, sums.reserved)

    def posted(self, rows: Sequence[UsageRow]) -> None:
        """The balances hold these rows now, and the lease no longer does."""
        if self._read is not None and self._read[0] is rows:
            sums, self._read = self._read[1], None
        else:
            sums = self._sums(rows)
        for permit in sums.permits:
            permit.is_booked = True
            self.running.pop(permit.request_id, None)
        for (account, _), (tokens, nano) in sums.here.items():
            account.booked(Amount(tokens, nano), Amount(tokens, nano))
        for permit, tokens, nano in sums.uneven:
            permit.account.booked(Amount(permit.tokens - tokens, permit.nano - nano), NOTHING)

    async def closed(self, connection: AsyncConnection, owner: str) -> None:
        """Free the leases of a process that has ended."""
        await store.free_leases(connection, owner)

    def _sums(self, rows: Sequence[UsageRow]) -> _Sums:
        sums, running = _Sums(), self.running.get
        here: Account | None = None
        used, midnight, until = [0, 0], 0, 0
        for request_id, at, user_id, prompt, completion, paid, paid_out in map(_said, rows):
            tokens, nano = prompt + completion, (paid or 0) + (paid_out or 0)
            if not midnight <= at < until:
                here, midnight = None, at - at % MS_A_DAY
                until = midnight + MS_A_DAY
            permit = running(request_id)
            if permit is not None:
                sums.permits.append(permit)
                if permit.account is not here:  # rows come in runs: of one day nearly always, of one user often
                    here = permit.account
                    used = sums.here.setdefault((here, midnight // MS_A_DAY), [0, 0])
                used[0] += tokens
                used[1] += nano
                if tokens != permit.tokens or nano != permit.nano:
                    sums.uneven.append((permit, tokens, nano))
                continue
            _add(sums.elsewhere, (user_id, midnight // MS_A_DAY), tokens, nano)
            if "." in request_id:  # made on a reservation
                _add(sums.reserved, request_id.partition(".")[0], tokens, nano)
        return sums


def _add(sums: dict[_Key, list[int]], key: _Key, tokens: int, nano: int) -> None:
    known = sums.setdefault(key, [0, 0])
    known[0] += tokens
    known[1] += nano


_implements: tuple[type[Posting], type[Permit], type[Permit]] = (Books, QuotaPermit, ReservedPermit)
