"""A circuit breaker: gives deployments that fail a rest, tries whether they do better, and tells how all do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from gatehook import CATALOG, DIRECTORY, HEALTH, Limiter, Observer, Section, ServiceKey, hookimpl
from gatehook_plugins.cooldown.book import Book
from gatehook_plugins.cooldown.breaker import Breaker
from gatehook_plugins.cooldown.checks import Checks
from gatehook_plugins.cooldown.condition import Rules
from gatehook_plugins.cooldown.thresholds import Thresholds

if TYPE_CHECKING:
    from gatehook.app import Gateway
    from gatehook_plugins.cooldown.nodes import Nodes

__all__ = ["Cooldown"]


class Cooldown:
    """Passes over deployments that do not answer: in all workers, and with Redis on all nodes."""

    class Settings(Section):
        """[plugins.cooldown]."""

        failure_threshold: int = Field(default=3, ge=1, le=10_000, description="failures in a row, until a rest")
        recovery_threshold: int = Field(
            default=2, ge=1, le=10_000, description="answers in a row after a rest, until it is trusted again"
        )
        rest: float = Field(
            default=30.0, gt=0, le=86_400, description="seconds of the first rest; each that follows is twice as long"
        )
        longest_rest: float = Field(
            default=300.0, gt=0, le=86_400, description="seconds of the longest; also what a Retry-After is cut to"
        )
        health_check_interval: float = Field(
            default=0.0, ge=0, le=86_400, description="seconds between two checks of a deployment, 0 for none"
        )

        @model_validator(mode="after")
        def _in_order(self) -> Cooldown.Settings:
            if self.longest_rest < self.rest:
                raise ValueError("longest_rest must not be shorter than rest")
            return self

    requires = (CATALOG,)

    def __init__(self, settings: Settings) -> None:
        rules = Rules(settings.failure_threshold, settings.recovery_threshold, settings.rest, settings.longest_rest)
        self._thresholds = Thresholds(rules, settings.health_check_interval)
        self._book = Book()
        self._breaker = Breaker(self._book, self._thresholds)

    @hookimpl
    def register_services(self) -> Iterable[tuple[ServiceKey[Any], object]]:
        """How deployments do."""
        return [(HEALTH, self._breaker)]

    @hookimpl
    def register_limiters(self) -> Iterable[Limiter]:
        """What passes over deployments that rest."""
        return [self._breaker]

    @hookimpl
    def register_observers(self) -> Iterable[Observer]:
        """What learns of failures."""
        return [self._breaker]

    @hookimpl
    def register_lifespans(self, gateway: Gateway) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        """The book that workers and nodes share, and the checks.

        Raises:
            StartupError: a Redis is named, but its package is missing, or the address is wrong.
        """
        catalog = gateway.services[CATALOG]
        self._breaker.follow(catalog)
        if (directory := gateway.services.get(DIRECTORY)) is not None:
            self._thresholds.follow(directory)
        catalog.subscribe(
            lambda: self._book.keep({target.key for group in catalog.groups().values() for target in group})
        )
        nodes = self._nodes(gateway)

        @asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            claim = None if nodes is None else nodes.claim
            checks = Checks(catalog, gateway.vendors, self._breaker, self._book, self._thresholds, claim)
            async with AsyncExitStack() as stack:
                if gateway.shared is not None:
                    stack.enter_context(self._book.shared(gateway.shared))
                if nodes is not None:
                    await stack.enter_async_context(nodes.running())
                await stack.enter_async_context(checks.running())
                yield

        return [lifespan]

    def _nodes(self, gateway: Gateway) -> Nodes | None:
        redis = gateway.settings.redis
        if not redis.url.get_secret_value():
            return None
        from gatehook_plugins.cooldown.nodes import Nodes

        return Nodes(redis, self._book)
