"""Asks the database for leases: one transaction at a time, for all users and requests that wait for one."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

from msgspec import Struct

from gatehook import Caps, Database, Unavailable, counted
from gatehook_plugins.quota import store
from gatehook_plugins.quota.account import Account, Amount, Decision, Need, Standing, decide
from gatehook_plugins.quota.refusal import reserved, used_up

__all__ = ["Broker"]

log = logging.getLogger("gatehook.quota")

_GROUP: Final = 200
"""Users of one transaction, at most."""
_LINGER_SECONDS: Final = 0.05
"""Seconds until the database is told that leases can be smaller: the next request may need them again."""
_IDLE_SECONDS: Final = 5.0
"""Seconds after which, or after twice that at most, a lease that nobody uses is given back."""
_MEMORY_SECONDS: Final = 1.0
"""Seconds for which users who have used up a cap are refused without asking the database again."""
_RENEWAL_SECONDS: Final = 300.0
"""Seconds between two renewals of leases, by which other processes see that this one lives."""
_LOST_SECONDS: Final = 3600.0
"""Seconds without a renewal after which a process is taken to be lost for good."""


class _Waiter(Struct, frozen=True, eq=False):
    """A request that waits to be admitted."""

    need: Need
    answer: asyncio.Future[None]


class _Entry(Struct, frozen=True, eq=False):
    """A user in a round, and the requests that wait for a decision."""

    account: Account
    waiting: list[_Waiter]


class _Known(Struct, frozen=True):
    """What the database said of a user, at an epoch second."""

    standing: Standing
    at: float

    def is_fresh(self, now: float) -> bool:
        """Whether it can be relied on: a moment old, and of the same day."""
        return 0 <= now - self.at < _MEMORY_SECONDS and now // 86_400 == self.at // 86_400


class _Seen(Struct, frozen=True):
    """When another process last renewed its leases, and since when (monotonic seconds) this is known here."""

    renewed: int
    since: float


class Broker:
    """The accounts of this process, and their leases."""

    def __init__(
        self,
        database: Database,
        owner: Callable[[], str],
        caps: Callable[[Account], Awaitable[Caps]],
        now: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        """`owner` names this process; `caps` gives a user's caps as they are now; clocks in seconds."""
        self._database = database
        self._owner = owner
        self._caps = caps
        self._now = now
        self._elapsed = elapsed
        self.accounts: dict[str, Account] = {}
        """By user."""
        self._waiting: dict[str, list[_Waiter]] = {}
        self._rewrites: dict[str, None] = {}
        """Users whose leases are to be written anew, in order of arrival; used as an ordered set."""
        self._wake, self._hurry = asyncio.Event(), asyncio.Event()
        self._known: dict[str, _Known] = {}
        self._seen: dict[str, _Seen] = {}
        self._is_closed = False

    def account(self, user_id: str) -> Account:
        """The account of a user, made if there is none."""
        account = self.accounts.get(user_id)
        if account is None:
            account = self.accounts[user_id] = Account(user_id)
        return account

    async def admit(self, account: Account, need: Need) -> None:
        """Reserve, asking the database if the lease does not suffice.

        Raises:
            RateLimited: a cap does not allow it. Unavailable: the database cannot be asked.
        """
        if account.reserve(need.most):
            return
        if self._is_closed:
            raise _unavailable()
        now, known = self._now(), self._known.get(account.user_id)
        if known is not None and known.is_fresh(now) and (error := used_up(account.caps, known.standing, need, now)):
            raise error
        waiter = _Waiter(need, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(account.user_id, []).append(waiter)
        self._wake.set()
        self._hurry.set()
        try:
            await waiter.answer
        except asyncio.CancelledError:
            # The client left. What was granted at the same moment has to be given back.
            if not waiter.answer.cancelled() and waiter.answer.exception() is None:
                self._withdraw(account, need)
            raise

    def rewrite(self, account: Account) -> None:
        """Have the lease of this account written anew: it can be smaller, or its caps have changed."""
        account.rewrite = True
        self._rewrites[account.user_id] = None
        self._wake.set()

    def caps_changed(self, user_id: str) -> None:
        """Look again at what a user ("" for all of them) has been granted."""
        for account in self.accounts.values() if not user_id else filter(None, [self.accounts.get(user_id)]):
            self.rewrite(account)

    async def run(self) -> None:
        """Ask the database when somebody waits; now and then, give back what nobody uses, and renew leases."""
        sweep, renewal = self._elapsed() + _IDLE_SECONDS, self._elapsed()
        while True:
            if await _set_within(self._wake, sweep - self._elapsed()):
                await _set_within(self._hurry, _LINGER_SECONDS)
            await self.round()
            if self._elapsed() >= sweep:
                sweep = self._elapsed() + _IDLE_SECONDS
                self.sweep()
            if self._elapsed() >= renewal:
                renewal = self._elapsed() + _RENEWAL_SECONDS
                await self._renew_if_possible()

    async def round(self) -> None:
        """One transaction for those who wait and cannot be served without."""
        self._wake.clear()
        self._hurry.clear()
        users = list(islice({**self._waiting, **self._rewrites}, _GROUP))
        batch = [self._entry(user) for user in users]
        if self._waiting:
            self._hurry.set()
        if self._waiting or self._rewrites:
            self._wake.set()
        batch = [entry for entry in batch if entry.waiting or entry.account.rewrite]
        if not batch:
            return
        try:
            answers = await self._ask(batch)
        except BaseException as error:
            self._failed(batch, error)
            if not isinstance(error, Exception):
                raise
        else:
            for entry, standing, decision in answers:
                self._answer(entry, standing, decision)

    def _entry(self, user: str) -> _Entry:
        """One user, with those of the waiting requests that the lease, as it is by now, does not suffice for."""
        self._rewrites.pop(user, None)
        entry = _Entry(self.account(user), [])
        for waiter in self._waiting.pop(user, ()):
            if waiter.answer.cancelled():
                continue
            if entry.account.reserve(waiter.need.most):
                waiter.answer.set_result(None)
            else:
                entry.waiting.append(waiter)
        return entry

    async def _ask(self, batch: Sequence[_Entry]) -> list[tuple[_Entry, Standing, Decision]]:
        for entry in batch:
            entry.account.rewrite = False
            entry.account.see(await self._caps(entry.account))
        answers: list[tuple[_Entry, Standing, Decision]] = []
        leases: dict[str, Amount] = {}
        async with self._database.writing() as connection:
            now = int(self._now() * 1000)  # not before the lock is held: midnight may pass
            standings = await store.standings(connection, self._owner(), [one.account.user_id for one in batch], now)
            for entry in batch:
                account = entry.account
                standing = standings[account.user_id]
                decision = decide(account.caps, standing, account, [waiter.need for waiter in entry.waiting])
                account.frozen = True
                answers.append((entry, standing, decision))
                leases[account.user_id] = decision.lease
            await store.write(connection, self._owner(), leases, now)
        return answers

    def _answer(self, entry: _Entry, standing: Standing, decision: Decision) -> None:
        """Carry out a decision, whose transaction is committed."""
        account, now = entry.account, self._now()
        account.frozen = False
        self._known[account.user_id] = _Known(standing, now)
        account.decided(decision, [waiter.need for waiter in entry.waiting])
        for waiter, admitted in zip(entry.waiting, decision.admitted, strict=True):
            if waiter.answer.cancelled():
                if admitted:
                    self._withdraw(account, waiter.need)
            elif admitted:
                waiter.answer.set_result(None)
            else:
                waiter.answer.set_exception(used_up(account.caps, standing, waiter.need, now) or reserved())
        if account.rewrite:
            self.rewrite(account)

    def _failed(self, batch: Sequence[_Entry], error: BaseException) -> None:
        """Turn away those who wait: it is not known whether the transaction was committed.

        Either way, the lease in the database is no smaller than what is used here.
        """
        if isinstance(error, Exception) and not isinstance(error, Unavailable):
            log.error("leases cannot be had", exc_info=error)
        for entry in batch:
            entry.account.frozen = False
            entry.account.rewrite = True  # at the next sweep: the database is given a rest
            _turn_away(entry.waiting)

    def _withdraw(self, account: Account, need: Need) -> None:
        account.settle(need.most, 0, 0)
        if account.rewrite:
            self.rewrite(account)

    def sweep(self) -> None:
        """Give back leases that nobody uses, and forget users who have nothing here. Not during a round."""
        for account in list(self.accounts.values()):
            if account.touched:
                account.touched = False
            elif account.is_empty and account.user_id not in self._waiting:
                del self.accounts[account.user_id]
                self._known.pop(account.user_id, None)
            elif account.is_lying_idle and not account.frozen:
                account.give_up()
            if account.rewrite:
                self.rewrite(account)

    async def _renew_if_possible(self) -> None:
        try:
            await self.renew()
        except Unavailable:
            pass  # the database has logged it
        except Exception:  # whatever it is, leases must be had all the same
            log.exception("leases cannot be renewed")

    async def renew(self) -> None:
        """Renew the leases of this process, and book those of processes that are lost as used.

        Raises:
            Unavailable: the database cannot be written to now.
        """
        now = int(self._now() * 1000)
        async with self._database.writing() as connection:
            await store.renew(connection, self._owner(), now)
            others = await store.others(connection, self._owner())
        for owner, renewed in self._lost(others):
            async with self._database.writing() as connection:
                booked = await store.book_lost(connection, owner, renewed, now)
            for user, lease in booked.items():
                log.warning(
                    "process %s is lost: what it might have used of user %r is booked: %s, %d nano-dollars",
                    owner, user, counted(lease.tokens, "token"), lease.nano,
                )  # fmt: skip

    def _lost(self, others: Mapping[str, int]) -> Iterable[tuple[str, int]]:
        """The processes of which nothing was heard for an hour; by this process's clock, as others may be wrong."""
        now = self._elapsed()
        known = self._seen
        self._seen = {
            owner: known[owner] if owner in known and known[owner].renewed == renewed else _Seen(renewed, now)
            for owner, renewed in others.items()
        }
        return [(owner, seen.renewed) for owner, seen in self._seen.items() if now - seen.since >= _LOST_SECONDS]

    def close(self) -> None:
        """Turn away those who wait now, and whoever comes later."""
        self._is_closed = True
        for waiting in self._waiting.values():
            _turn_away(waiting)
        self._waiting.clear()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(seconds, 0)):
            return await event.wait()
    return False


def _turn_away(waiting: Iterable[_Waiter]) -> None:
    for waiter in waiting:
        if not waiter.answer.done():
            waiter.answer.set_exception(_unavailable())


def _unavailable() -> Unavailable:
    return Unavailable(
        "what is left for this user cannot be looked up now; try again in a moment",
        code="quota_unavailable",
        retry_after=1,
    )
