"""Limits how many requests and tokens a minute, and how many requests at the same time, somebody may use."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gatehook import CATALOG, Limiter, Limits, ModelKey, Section, hookimpl
from gatehook_plugins.rate_limit.limiter import RateLimiter
from gatehook_plugins.rate_limit.memory import MemoryStore

if TYPE_CHECKING:
    from gatehook.app import Gateway
    from gatehook_plugins.rate_limit.store import Store

__all__ = ["RateLimit"]

log = logging.getLogger("gatehook.rate_limit")

Count = Annotated[int, Field(ge=0, le=10**15)]


class ModelLimits(BaseModel):
    """`[plugins.rate_limit.models."NAME"]`: limits of all callers of one model together."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    requests_per_minute: Count | None = Field(default=None, description="most requests in any 60 seconds")
    tokens_per_minute: Count | None = Field(default=None, description="most tokens in any 60 seconds")
    concurrent_requests: Count | None = Field(default=None, description="most requests at the same time")


class RateLimit:
    """Keeps callers, models and deployments within their limits: on one node, or with Redis on all of them together."""

    class Settings(Section):
        """[plugins.rate_limit]."""

        requests_per_minute: Count | None = Field(
            default=None, description="most requests in any 60 seconds, for each user without limits of its own"
        )
        tokens_per_minute: Count | None = Field(default=None, description="most tokens in any 60 seconds, likewise")
        concurrent_requests: Count | None = Field(default=None, description="most requests at the same time, likewise")
        on_failure: Literal["local", "open", "closed"] = Field(
            default="local",
            description="while Redis is gone: 'local', each node limits by itself; 'open', nothing is limited; "
            "'closed', limited requests are refused with 503",
        )
        models: dict[ModelKey, ModelLimits] = Field(default={}, description="limits of all callers of a model together")

    requires = (CATALOG,)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stores: list[Callable[[], AbstractAsyncContextManager[None]]] = []
        """The lifespans of the stores that have one."""

    @hookimpl
    def register_limiters(self, gateway: Gateway) -> Iterable[Limiter]:
        """One limiter, of calls and of attempts.

        Raises:
            StartupError: a Redis is named, but its package is missing, or the address is wrong.
        """
        store = self._local(gateway)
        if gateway.settings.redis.url.get_secret_value():
            store = self._share(gateway, store)
        models = {name: _limits(limits) for name, limits in self._settings.models.items()}
        return [RateLimiter(store, gateway.services[CATALOG], _limits(self._settings), models)]

    @hookimpl
    def register_lifespans(self) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        """The stores' lifespans: of the memory that workers share, and of the line to Redis, if they are used."""
        return [self._lifespan]

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for lifespan in self._stores:
                await stack.enter_async_context(lifespan())
            yield

    def _local(self, gateway: Gateway) -> Store:
        """The store that counts for this node: for all its workers, if there are several."""
        workers = gateway.settings.server.workers
        if workers == 1:
            return MemoryStore()
        from gatehook_plugins.rate_limit.machine import MachineStore

        store = MachineStore()

        @asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            async with store.lifespan(gateway.shared, gateway.worker):
                if gateway.worker == 0 and not gateway.settings.redis.url.get_secret_value():
                    log.info(
                        "rate limits are shared by the %d workers of this machine; "
                        "set [redis] url to share them between machines",
                        workers,
                    )
                yield

        self._stores.append(lifespan)
        return store

    def _share(self, gateway: Gateway, local: Store) -> Store:
        from gatehook.redis_line import RedisLine
        from gatehook_plugins.rate_limit.outage import Closed, Open, Resilient
        from gatehook_plugins.rate_limit.shared import RedisStore

        instead, told = {
            "local": (local, "each node limits by itself"),
            "open": (Open(), "nothing is limited"),
            "closed": (Closed(), "limited requests are refused"),
        }[self._settings.on_failure]
        redis = gateway.settings.redis
        store = RedisStore(RedisLine(redis, log, gone=told, back="limits are shared between nodes"), redis.prefix)
        self._stores.append(store.lifespan)
        return Resilient(store, instead)


def _limits(limits: RateLimit.Settings | ModelLimits) -> Limits:
    return Limits(limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent_requests)
