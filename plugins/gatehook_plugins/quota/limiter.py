"""Admits requests within the caps of their users."""

from collections.abc import Awaitable
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from gatehook import (
    AttemptLimiter,
    Call,
    Catalog,
    Estimate,
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
from gatehook_plugins.quota.account import Account
from gatehook_plugins.quota.books import QuotaPermit, ReservedPermit
from gatehook_plugins.quota.prices import Prices, Rates
from gatehook_plugins.quota.service import QuotaService

__all__ = ["QuotaLimiter"]

_STATE: Final = "quota"
_LONGEST_ID: Final = 256


class QuotaLimiter:
    """Reserves before a vendor is called. Callers without caps pass by."""

    def __init__(self, catalog: Catalog, service: QuotaService, *, allow_unpriced: bool) -> None:
        self._prices = Prices(catalog)
        self._service = service
        self._caps = service.caps
        self._broker = service.broker
        self._accounts = service.broker.accounts
        self._books = service.books
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
        budgeted, rates = account.is_budgeted, self._prices.of(call.model)
        if budgeted and rates.unpriced:
            self._check_priced(rates)
        size = call.size or estimate(call, rates.group)
        most = rates.most(size)
        if not account.reserve(most):
            return self._asked(call, account, rates, size)
        permit = call.state[_STATE] = self._books.begin(call.id, account, most, rates if budgeted else None)
        return permit

    async def _asked(self, call: Call, account: Account, rates: Rates, size: Estimate) -> Permit:
        """Reserve what the lease does not suffice for."""
        need, budgeted = rates.need(size), account.is_budgeted
        await self._broker.admit(account, need)
        permit = call.state[_STATE] = self._books.begin(call.id, account, need.most, rates if budgeted else None)
        return permit

    async def admit_round(self, call: Call) -> None:
        """Reserve what the model can use at most when it is called once more.

        Raises:
            RateLimited: a cap does not allow it. Unavailable: what is left cannot be looked up.
        """
        permit = call.state.get(_STATE)
        if not isinstance(permit, QuotaPermit):  # no caps, or reserved for at another place
            return
        rates = self._prices.of(call.model)
        need = rates.need(estimate(call, rates.group))
        if not permit.account.reserve(need.most):
            await self._broker.admit(permit.account, need)
        permit.most += need.most

    def reservation(self, name: str, call: Call) -> Reserve:
        """What reserves under `name` what a call may use that is made later; see `Quotas.reservation`."""
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
        """Admit what was reserved for; the ledger's row will be taken from the reservation."""
        caps = self._caps(call.principal)
        if not caps:
            return None
        rates = self._prices.of(call.model)
        if caps.has_budget:
            self._check_priced(rates)
        need = rates.need(estimate(call, rates.group))
        await self._service.cover(call.reservation, _recorded(call.principal.id), caps, need)
        permit = call.state[_STATE] = ReservedPermit(rates if caps.has_budget else None)
        return permit

    def _account(self, principal: Principal) -> Account | None:
        """That of a caller with caps, which holds by what they are now; None without any."""
        caps = self._caps(principal)
        if not caps:
            return None
        account = self._broker.account(_recorded(principal.id))
        account.user = principal.user
        account.see(caps)
        return account

    def _check_priced(self, rates: Rates) -> None:
        """See that it is known what a model costs, where money matters.

        Raises:
            PermissionDenied: it is not.
        """
        if rates.unpriced and not self._allow_unpriced:
            raise _unpriced(rates.unpriced, Retry.NEVER)

    def admit_attempt(self, call: Call, target: Target) -> Permit | None:
        """See that this deployment costs no more than what was reserved; nothing is reserved here.

        Raises:
            PermissionDenied: nobody knows what it costs. Unavailable: it has become dearer meanwhile.
        """
        permit: QuotaPermit | ReservedPermit | None = call.state.get(_STATE)
        if permit is None or permit.rates is None:
            return None
        if target.pricing is None:
            if not self._allow_unpriced:
                raise _unpriced(target.key, Retry.NEXT)
        elif not permit.rates.cover(target.pricing):
            raise Unavailable(
                f"deployment {target.key!r} costs more than was reserved for this request: its price has just changed, "
                "or the catalog does not have it; try again",
                code="price_changed",
            )
        return None


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


_guard: tuple[type[Limiter], type[AttemptLimiter], type[RoundLimiter]] = (QuotaLimiter, QuotaLimiter, QuotaLimiter)
