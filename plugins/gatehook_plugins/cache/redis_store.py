"""Answers in Redis, for all processes and machines. Nobody waits for it longer than its timeout."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Final

from redis import RedisError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gatehook import redact
from gatehook_plugins.cache.store import Store

__all__ = ["RedisStore"]

log = logging.getLogger("gatehook.cache")

_CONNECTIONS: Final = 32
_WRITES: Final = 16
"""Answers that may be on their way to Redis; what comes on top is not kept, and leaves connections for reading."""
_PAUSE: Final = 1.0
"""Seconds after a failure in which Redis is not asked."""


class RedisStore:
    """A Redis that is slow or gone is a cache without answers: told once, then again when it is back."""

    def __init__(self, url: str, prefix: str, timeout: float) -> None:
        """Made ready; nothing is sent.

        Args:
            url: redis://, rediss:// or unix://.
            prefix: what the names of all keys begin with.
            timeout: seconds that a command may take, whatever it waits for.

        Raises:
            ValueError: the URL is none of Redis.
        """
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
        self._client: Redis = Redis.from_pool(pool)
        self._password = str(pool.connection_kwargs.get("password") or "")
        self._prefix = f"{prefix}:cache:1:".encode()
        self._timeout = timeout
        self._gone = False
        self._ask_again = 0.0
        self._commands: set[asyncio.Future[Any]] = set()
        self._writes: set[asyncio.Future[Any]] = set()

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """End with no command under way and no connection open."""
        try:
            yield
        finally:
            if running := self._commands | self._writes:
                # For a connection, for it to open, for the answer: then what is left will not come.
                _, late = await asyncio.wait(running, timeout=3 * self._timeout)
                for command in late:
                    command.cancel()
                await asyncio.gather(*late, return_exceptions=True)
            with contextlib.suppress(RedisError, OSError):
                await self._client.aclose()

    async def get(self, key: bytes) -> bytes | None:
        """See `Store`."""
        if self._is_away():
            return None
        data: bytes | None = await self._answer(self._client.get(self._name(key)))
        return data

    def put(self, key: bytes, data: bytes, seconds: float) -> None:
        """See `Store`."""
        if len(self._writes) < _WRITES and not self._is_away():
            writing = asyncio.ensure_future(self._write(self._name(key), data, max(1, int(seconds * 1000))))
            self._writes.add(writing)
            writing.add_done_callback(self._writes.discard)

    async def _write(self, name: bytes, data: bytes, milliseconds: int) -> None:
        await self._answer(self._client.set(name, data, px=milliseconds))

    async def _answer(self, command: Awaitable[Any]) -> Any:
        """What Redis answers; None if it does not."""
        # In a task of its own, which ends by its socket's timeouts: redis-py may lose a connection of its pool for
        # good when a command is cancelled, and clients leave at any moment.
        running = asyncio.ensure_future(command)
        self._commands.add(running)
        running.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(self._timeout):
                answer = await asyncio.shield(running)
        except TimeoutError:
            self._failed(f"no answer within {self._timeout:g} s")
            return None
        except (RedisError, OSError) as error:
            self._failed(f"{type(error).__name__}: {redact(str(error), [self._password])}")
            return None
        if self._gone:
            self._gone = False
            log.warning("Redis answers again; answers are cached")
        return answer

    def _ended(self, command: asyncio.Future[Any]) -> None:
        self._commands.discard(command)
        if not command.cancelled():
            command.exception()  # looked at, should nobody wait for it any more

    def _name(self, key: bytes) -> bytes:
        return self._prefix + key.hex().encode()

    def _is_away(self) -> bool:
        """Whether it is not worth asking; once a second somebody finds out."""
        if not self._gone:
            return False
        now = time.monotonic()
        if now < self._ask_again:
            return True
        self._ask_again = now + _PAUSE
        return False

    def _failed(self, reason: str) -> None:
        if not self._gone:
            log.warning("Redis is gone (%s); until it answers, no answers are cached", reason)
        self._gone, self._ask_again = True, time.monotonic() + _PAUSE


_guard: type[Store] = RedisStore
