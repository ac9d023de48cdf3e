"""Admits requests within the caps of their users."""

from typing import Final

from gatehook import (
    AttemptLimiter,
    Call,
    Catalog,
    Limiter,
    PermissionDenied,
    Permit,
    Retry,
    RoundLimiter,
    Target,
    Unavailable,
    estimate,
)
from gatehook_plugins.quota.books import QuotaPermit
from gatehook_plugins.quota.prices import Prices
from gatehook_plugins.quota.service import QuotaService

__all__ = ["QuotaLimiter"]

_STATE: Final = "quota"
_LONGEST_ID: Final = 256


class QuotaLimiter:
    """Reserves before a vendor is called. Callers without caps pass by."""

    def __init__(self, catalog: Catalog, service: QuotaService, *, allow_unpriced: bool) -> None:
        self._catalog = catalog
        self._prices = Prices(catalog)
        self._caps = service.caps
        self._broker = service.broker
        self._books = service.books
        self._allow_unpriced = allow_unpriced

    async def admit(self, call: Call) -> Permit | None:
        """Reserve what the request can use at most.

        Raises:
            RateLimited: a cap does not allow it. PermissionDenied: nobody knows what the model costs.
            Unavailable: what is left cannot be looked up.
        """
        caps = self._caps(call.principal)
        if not caps:
            return None
        account = self._broker.account(_recorded(call.principal.id))
        if account.caps is not caps:
            account.see(caps)
        rates = self._prices.of(call.model)
        budgeted = account.is_budgeted
        if budgeted and rates.unpriced and not self._allow_unpriced:
            raise _unpriced(rates.unpriced, Retry.NEVER)
        need = rates.need(estimate(call, self._catalog.group(call.model)))
        if not account.reserve(need):
            await self._broker.admit(account, need)
        permit = QuotaPermit(call.id, account, need, rates if budgeted else None, self._books)
        self._books.begun(permit)
        call.state[_STATE] = permit
        return permit

    async def admit_round(self, call: Call) -> None:
        """Reserve what the model can use at most when it is called once more.

        Raises:
            RateLimited: a cap does not allow it. Unavailable: what is left cannot be looked up.
        """
        permit: QuotaPermit | None = call.state.get(_STATE)
        if permit is None:
            return
        need = self._prices.of(call.model).need(estimate(call, self._catalog.group(call.model)))
        if not permit.account.reserve(need):
            await self._broker.admit(permit.account, need)
        permit.need += need

    async def admit_attempt(self, call: Call, target: Target) -> Permit | None:
        """See that this deployment costs no more than what was reserved; nothing is reserved here.

        Raises:
            PermissionDenied: nobody knows what it costs. Unavailable: it has become dearer meanwhile.
        """
        permit: QuotaPermit | None = call.state.get(_STATE)
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
