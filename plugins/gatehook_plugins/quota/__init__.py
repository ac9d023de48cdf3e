"""Caps what each user may use: tokens and money, in all, a day and a month."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field

from gatehook import (
    CATALOG,
    DATABASE,
    DIRECTORY,
    LEDGER,
    QUOTAS,
    Call,
    Caps,
    Limiter,
    Quotas,
    Reserve,
    Section,
    ServiceKey,
    hookimpl,
    nano,
)
from gatehook_plugins.quota import store
from gatehook_plugins.quota.limiter import QuotaLimiter
from gatehook_plugins.quota.service import QuotaService

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from gatehook.app import Gateway

__all__ = ["Quota"]

Tokens = Annotated[int, Field(ge=0, le=10**15)]


def _written(value: object) -> object:
    """A float as the text of its digits, so that dollars are read exactly as they were written."""
    return str(value) if isinstance(value, float) else value


Dollars = Annotated[Decimal, Field(ge=0, lt=10**9, allow_inf_nan=False), BeforeValidator(_written)]


class Quota:
    """Reserves what a request can use before a vendor is called, and books what it used.

    The caps are those of the user, or, for callers who have none of their own, those of the settings.
    """

    class Settings(Section):
        """[plugins.quota]."""

        tokens: Tokens | None = Field(default=None, description="tokens in all, for callers without caps of their own")
        tokens_per_day: Tokens | None = Field(default=None, description="the same in a day of UTC")
        tokens_per_month: Tokens | None = Field(default=None, description="the same in a month of UTC")
        budget: Dollars | None = Field(
            default=None, description="dollars in all, for callers without caps of their own"
        )
        budget_per_day: Dollars | None = Field(default=None, description="the same in a day of UTC")
        budget_per_month: Dollars | None = Field(default=None, description="the same in a month of UTC")
        allow_unpriced: bool = Field(
            default=False,
            description="whether callers with a budget may use models without a price, which then cost nothing",
        )

        @property
        def caps(self) -> Caps:
            """The caps of callers without caps of their own."""
            budgets = (self.budget, self.budget_per_day, self.budget_per_month)
            money = (None if dollars is None else nano(dollars) for dollars in budgets)
            return Caps(self.tokens, self.tokens_per_day, self.tokens_per_month, *money)

    requires = (CATALOG, DATABASE, DIRECTORY, LEDGER)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._service: QuotaService | None = None
        self._limiter: QuotaLimiter | None = None

    @hookimpl
    def register_services(self) -> Iterable[tuple[ServiceKey[Quotas], Quotas]]:
        """What users have used."""
        return [(QUOTAS, self)]

    @hookimpl
    def register_limiters(self, gateway: Gateway) -> Iterable[Limiter]:
        """One limiter over all users."""
        services, settings = gateway.services, self._settings
        service = QuotaService(services[DATABASE], services[DIRECTORY], services[LEDGER], settings.caps)
        self._service = service
        self._limiter = QuotaLimiter(services[CATALOG], service, allow_unpriced=settings.allow_unpriced)
        return [self._limiter]

    @hookimpl
    def register_lifespans(self) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        """The tables, and the task that asks for leases."""
        return [self._lifespan]

    async def used(self, user_id: str) -> Mapping[str, tuple[int, int]]:
        """Tokens and nano-dollars that a user has used, by "all", "day" and "month" (those of now, UTC).

        Raises:
            Unavailable: the database cannot be asked now.
        """
        return await self._bound.used(user_id)

    def reservation(self, name: str, call: Call) -> Reserve:
        """See `Quotas.reservation`."""
        assert self._limiter is not None, "register_limiters has not run"  # noqa: S101
        return self._limiter.reservation(name, call)

    async def release(self, connection: AsyncConnection, name: str) -> None:
        """See `Quotas.release`."""
        await store.release(connection, name)

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        async with self._bound.lifespan():
            yield

    @property
    def _bound(self) -> QuotaService:
        assert self._service is not None, "register_limiters has not run"  # noqa: S101  # it runs before anything serves
        return self._service
