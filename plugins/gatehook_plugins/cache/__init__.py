"""Keeps answers, and gives them to those who ask the very same again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from gatehook import CATALOG, ByteSize, Cache, ModelKey, Observer, Section, StartupError, hookimpl
from gatehook_plugins.cache.lifetimes import Lifetimes
from gatehook_plugins.cache.memory import MemoryStore
from gatehook_plugins.cache.responses import ResponseCache
from gatehook_plugins.cache.sharing import Sharing

if TYPE_CHECKING:
    from gatehook.app import Gateway
    from gatehook_plugins.cache.store import Store

__all__ = ["CachePlugin"]

Lifetime = Annotated[float, Field(ge=0, le=10**8, allow_inf_nan=False)]


class CachePlugin:
    """The response cache: in the memory of each process, or in a Redis that all share."""

    class Settings(Section):
        """[plugins.cache]."""

        backend: Literal["memory", "redis"] = Field(
            default="memory", description="where answers are kept: 'memory' of each process, or the [redis] of all"
        )
        ttl: Lifetime = Field(default=3600.0, description="seconds for which an answer is good; 0: never kept")
        models: dict[ModelKey, Lifetime] = Field(default={}, description="the same for single models, by name")
        max_bytes: ByteSize = Field(default=64 << 20, description="memory for answers: bytes, or '64MB'; of a process")
        max_entry: ByteSize = Field(default=1 << 20, description="largest answer that is kept: bytes, or '1MB'")
        scope: Literal["user", "key", "all"] = Field(
            default="user", description="who gets the same answers: each user's own, each key's own, or everybody"
        )
        share: bool = Field(
            default=False, description="identical requests at the same time wait for one call of a vendor"
        )
        share_wait: float = Field(
            default=30.0, gt=0, allow_inf_nan=False, description="seconds they wait until one of them calls as well"
        )

        @model_validator(mode="after")
        def _fits(self) -> Self:
            if self.max_entry > self.max_bytes:
                raise ValueError("max_entry is more than max_bytes, so the largest answers would find no room")
            return self

    requires = (CATALOG,)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sharing = Sharing(settings.share_wait) if settings.share else None
        self._lifespans: list[Callable[[], AbstractAsyncContextManager[None]]] = []

    @hookimpl
    def register_caches(self, gateway: Gateway) -> Iterable[Cache]:
        """One cache.

        Raises:
            StartupError: it is to be in Redis, but none is named, its package is missing, or the address is wrong.
        """
        settings = self._settings
        store = MemoryStore(settings.max_bytes) if settings.backend == "memory" else self._redis(gateway)
        lifetimes = Lifetimes(gateway.services[CATALOG], settings.ttl, settings.models)
        return [ResponseCache(store, lifetimes, settings.scope, settings.max_entry, self._sharing)]

    @hookimpl
    def register_observers(self) -> Iterable[Observer]:
        """With `share`, what is told of calls that end, as others may wait for their answers."""
        return [] if self._sharing is None else [self._sharing]

    @hookimpl
    def register_lifespans(self) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        """The connection to Redis, where there is one."""
        return self._lifespans

    def _redis(self, gateway: Gateway) -> Store:
        from gatehook_plugins.cache.redis_store import RedisStore

        redis = gateway.settings.redis
        if not redis.url.get_secret_value():
            raise StartupError(
                "[plugins.cache] backend is 'redis', but [redis] url is empty; name one, or use 'memory'"
            )
        store = RedisStore(redis)
        self._lifespans.append(store.lifespan)
        return store
