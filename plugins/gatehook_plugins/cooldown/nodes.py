"""Tells the other nodes, through Redis, which deployments rest, and learns it from them.

Only that is shared: failures that are no reason for a rest yet are each node's own. Nothing waits for Redis but this
task, twice a second; while Redis is away each node goes by what it knows.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from redis import RedisError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gatehook import redact
from gatehook_plugins.cooldown.book import Book
from gatehook_plugins.cooldown.condition import Condition

__all__ = ["Nodes"]

log: Final = logging.getLogger("gatehook.cooldown")

_PAUSE: Final = 0.5
"""Seconds between two looks."""
_KEPT: Final = 24 * 3600
"""Seconds that Redis keeps what nobody changes."""

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Condition)


class Nodes:
    """This node's part of it. Building it opens nothing."""

    def __init__(self, url: str, timeout: float, prefix: str, book: Book) -> None:
        """`timeout` is in seconds, for each command.

        Raises:
            ValueError: the URL is none of Redis.
        """
        self._client: Redis = Redis.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
        )
        self._password = str(self._client.connection_pool.connection_kwargs.get("password") or "")
        self._name = f"{prefix}:cooldown"
        self._book = book
        self._is_away = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Share meanwhile."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            while not task.done():  # redis-py may take a cancellation for its own time limit, and go on
                task.cancel()
                await asyncio.wait([task], timeout=0.5)
            with contextlib.suppress(RedisError, OSError):
                await self._client.aclose()

    async def claim(self, key: str, seconds: float) -> bool:
        """Whether the check of a deployment is this node's for so long; without Redis it is everybody's."""
        try:
            taken = await self._client.set(f"{self._name}:check:{key}", b"1", nx=True, px=max(1, int(seconds * 800)))
        except (RedisError, OSError):
            return True
        return bool(taken)

    async def exchange(self) -> None:
        """Learn from the others, and tell what is newer here.

        Raises:
            RedisError, OSError: Redis does not answer.
        """
        told: dict[Any, Any] = await self._client.hgetall(self._name)
        theirs = {key.decode(): condition for key, text in told.items() if (condition := _read(text)) is not None}
        for key, condition in theirs.items():
            if condition.changed > _when(self._book.get(key)):
                self._book.change(key, functools.partial(_adopted, condition))
        news: dict[Any, Any] = {
            key: _encode(condition)
            for key, condition in self._book.all().items()
            if condition.changed > _when(theirs.get(key))
        }
        if news:
            await self._client.hset(self._name, mapping=news)
            await self._client.expire(self._name, _KEPT)

    async def _run(self) -> None:
        while True:
            try:
                await self.exchange()
            except (RedisError, OSError) as error:
                if not self._is_away:
                    reason = redact(f"{type(error).__name__}: {error}", [self._password])
                    log.warning("Redis is gone (%s); until it answers, each node rests deployments by itself", reason)
                self._is_away = True
            except Exception:
                log.exception("rests could not be shared between nodes; trying again")
            else:
                if self._is_away:
                    log.warning("Redis answers again; rests of deployments are shared between nodes")
                self._is_away = False
            await asyncio.sleep(_PAUSE)


def _read(text: bytes) -> Condition | None:
    try:
        return _decoder.decode(text)
    except msgspec.MsgspecError:  # of another version of this gateway
        return None


def _when(condition: Condition | None) -> float:
    return 0.0 if condition is None else condition.changed


def _adopted(told: Condition, mine: Condition) -> Condition:
    """The other node's view of it, where that is newer; what only this node counts stays."""
    if told.changed <= mine.changed:
        return mine
    return msgspec.structs.replace(told, tried_until=0.0, claimed=mine.claimed, all_rests=mine.all_rests)
