"""Admits requests within the caps of their users."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from gatehook import (
    AttemptLimiter,
    Call,
    Catalog,
    ChangeLimiter,
    Limiter,
    PermissionDenied,
    Permit,
    Principal,
    Reserve,
    Retry,
    RoundLimiter,
    Target,
    Unavailable,
    estimate,
)
from gatehook_plugins.quota.account import NOTHING, Account, Amount, Need
from gatehook_plugins.quota.books import QuotaPermit, ReservedPermit
from gatehook_plugins.quota.prices import Prices, Rates
from gatehook_plugins.quota.service import QuotaService

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["QuotaLimiter"]

_STATE: Final = "quota"
_LONGEST_ID: Final = 256


class QuotaLimiter:
    """Reserves what a call may use before a vendor is called. Callers without caps are let through."""

    def __init__(self, catalog: Catalog, service: QuotaService, *, allow_unpriced: bool) -> None:
        self._prices = Prices(catalog)
        self._known = self._prices.known
        self._service = service
        self._caps = service.caps
        self._broker = service.broker
        self._accounts = service.broker.accounts
        self._books = service.books
        self._running = service.books.running
        self._allow_unpriced = allow_unpriced

    def admit(self, call: Call) -> Awaitable[Permit | None] | Permit | None:
        """Reserve what the request can use at most. Waits only where the lease at hand does not suffice.

        Raises:
            RateLimited: a cap does not allow it. PermissionDenied: nobody knows what the model costs.
            Unavailable: what is left cannot be looked up.
        """
        if call.reservation:
            return self._covered(call)
        principal = call.principal
        account = self._accounts.get(principal.id)
        if account is None or account.user is not principal.user:  # whoever changes a user makes a new one
            account = self._account(principal)
            if account is None:
                return None
        model, budgeted = call.model, account.is_budgeted
        rates = self._known.get(model) or self._prices.of(model)
        if budgeted and rates.unpriced:
            self._check_priced(rates)
        size = call.size
        if size is None or size.targets is not rates.group:  # another limiter may have left the fallbacks out
            size = estimate(call, rates.group)
        most = rates.most(size)
        permit = QuotaPermit(call.id, account, most, rates if budgeted else None, self._books)
        if not account.reserve(most):
            return self._asked(call, permit, rates.need(size))
        self._running[call.id] = call.state[_STATE] = permit
        return permit

    async def _asked(self, call: Call, permit: QuotaPermit, need: Need) -> Permit:
        """Reserve by way of the broker, where the lease does not suffice."""
        await self._broker.admit(permit.account, need)
        self._running[call.id] = call.state[_STATE] = permit
        return permit

    async def admit_change(self, call: Call) -> None:
        """Reserve what the request can use as it is now, in place of what it could when it was admitted.

        Raises:
            RateLimited: a cap does not allow it. Unavailable: what is left cannot be looked up.
        """
        permit: QuotaPermit | ReservedPermit | None = call.state.get(_STATE)
        if permit is None:  # no caps
            return
        need = self._need_now(call, permit)
        if isinstance(permit, ReservedPermit):
            await self._service.cover(call.reservation, _recorded(call.principal.id), permit.caps, need)
        elif not permit.account.exchange(permit.most, need.most):
            permit.most = NOTHING
            await self._broker.admit(permit.account, need)
        permit.most = need.most

    async def admit_round(self, call: Call) -> None:
        """Reserve what the model can use at most when it is called once more, beside what it has used before.

        Raises:
            RateLimited: a cap does not allow it. Unavailable: what is left cannot be looked up.
        """
        permit: QuotaPermit | ReservedPermit | None = call.state.get(_STATE)
        if permit is None:  # no caps
            return
        need = self._need_now(call, permit)
        used = _used(call, permit.most)
        if isinstance(permit, ReservedPermit):
            permit.most = used
            await self._cover_round(call, permit, need)
            return
        permit.account.settle(permit.most, used.tokens, used.nano)
        permit.most = used
        if not permit.account.reserve(need.most):
            await self._broker.admit(permit.account, need)
        permit.most += need.most

    def _need_now(self, call: Call, permit: QuotaPermit | ReservedPermit) -> Need:
        """What a call that is admitted needs as it is now, at the prices of now, which its deployments may have."""
        rates = self._prices.of(call.model)
        if permit.rates is not None:
            permit.rates = rates
        return rates.need(estimate(call, rates.group))

    async def _cover_round(self, call: Call, permit: ReservedPermit, need: Need) -> None:
        """See that the reservation suffices for one round more: nothing is taken from it before the call has ended."""
        in_all = Need(permit.most + need.most, permit.most + need.expected)
        await self._service.cover(call.reservation, _recorded(call.principal.id), permit.caps, in_all)
        permit.most = in_all.most

    def reservation(self, name: str, call: Call) -> Reserve:
        """A function that reserves, under `name`, what a call may use that is made later; see `Quotas.reservation`."""
        caps = self._caps(call.principal)
        if not caps:
            return _nothing
        rates = self._prices.of(call.model)
        need = rates.need(estimate(call, rates.group))

        async def reserve(connection: AsyncConnection) -> None:
            if caps.has_budget:
                self._check_priced(rates)
            await self._service.reserve(connection, name, _recorded(call.principal.id), caps, need)

        return reserve

    async def _covered(self, call: Call) -> Permit | None:
        """Admit a call that has a reservation; what its row says will be taken from that."""
        caps = self._caps(call.principal)
        if not caps:
            return None
        rates = self._prices.of(call.model)
        if caps.has_budget:
            self._check_priced(rates)
        need = rates.need(estimate(call, rates.group))
        await self._service.cover(call.reservation, _recorded(call.principal.id), caps, need)
        permit = call.state[_STATE] = ReservedPermit(caps, need.most, rates if caps.has_budget else None)
        return permit

    def _account(self, principal: Principal) -> Account | None:
        """The account of a caller, with the caps as they are now; None for a caller without caps."""
        caps = self._caps(principal)
        if not caps:
            return None
        account = self._broker.account(_recorded(principal.id))
        account.user = principal.user
        account.see(caps)
        return account

    def _check_priced(self, rates: Rates) -> None:
        """Check that it is known what a model costs; to be called where money matters.

        Raises:
            PermissionDenied: it is not known.
        """
        if rates.unpriced and not self._allow_unpriced:
            raise _unpriced(rates.unpriced, Retry.NEVER)

    def admit_attempt(self, call: Call, target: Target) -> Permit | None:
        """Check that this deployment costs no more than what was reserved; nothing is reserved here.

        Raises:
            PermissionDenied: nobody knows what it costs. Unavailable: it has become dearer meanwhile.
        """
        permit: QuotaPermit | ReservedPermit | None = call.state.get(_STATE)
        if permit is not None:
            rates = permit.rates
            if rates is not None and target.pricing not in rates.pricings:
                self._check_cost(target, rates)
        return None

    def _check_cost(self, target: Target, rates: Rates) -> None:
        """Check that a deployment costs no more than these rates, whose prices are not its own.

        Raises:
            PermissionDenied: nobody knows what it costs. Unavailable: it is dearer.
        """
        if target.pricing is None:
            if not self._allow_unpriced:
                raise _unpriced(target.key, Retry.NEXT)
        elif not rates.cover(target.pricing):
            raise Unavailable(
                f"deployment {target.key!r} costs more than was reserved for this request: its price has just changed, "
                "or the catalog does not have it; try again",
                code="price_changed",
            )


def _used(call: Call, bound: Amount) -> Amount:
    """What the rounds that are over took: their bound, where nobody knows better."""
    usage, cost = call.spent or (None, None)
    return bound if usage is None else Amount(usage.total_tokens, 0 if cost is None else cost.total)


async def _nothing(connection: AsyncConnection) -> None: ...


def _recorded(text: str) -> str:
    """A caller's id as it stands in the ledger's rows, by which balances go."""
    if len(text) <= _LONGEST_ID and text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_LONGEST_ID])


def _unpriced(key: str, retry: Retry) -> PermissionDenied:
    return PermissionDenied(
        f"deployment {key!r} has no price, and this user has a budget: it cannot be told what a request costs; "
        "give the model `pricing`, or set allow_unpriced = true in [plugins.quota]",
        param="model",
        code="unpriced_model",
        retry=retry,
    )


_implements: tuple[type[Limiter], type[AttemptLimiter], type[ChangeLimiter], type[RoundLimiter]] = (
    QuotaLimiter,
    QuotaLimiter,
    QuotaLimiter,
    QuotaLimiter,
)
