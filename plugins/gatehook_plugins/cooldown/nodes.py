"""Shares with the other nodes, through Redis, which deployments rest.

Nothing else is shared: failures that are no reason for a rest yet are each node's own. A task asks Redis twice a
second, and nothing else waits for it; while Redis is away each node goes by what it knows.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from gatehook import RedisSettings, meanwhile
from gatehook.redis_line import Gone, RedisLine
from gatehook_plugins.cooldown.book import Book
from gatehook_plugins.cooldown.condition import SKEW, Condition

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["Nodes"]

log: Final = logging.getLogger("gatehook.cooldown")

_PAUSE: Final = 0.5
"""Seconds between two exchanges."""
_KEPT: Final = 24 * 3600
"""Seconds that Redis keeps what nobody changes."""

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Condition)


class Nodes:
    """This node's part in sharing."""

    def __init__(self, settings: RedisSettings, book: Book, clock: Callable[[], float] = time.time) -> None:
        """Made ready; nothing is sent. `clock` gives epoch seconds.

        Raises:
            StartupError: the URL is none of Redis, or the package for it is not installed.
        """
        self._line = RedisLine(
            settings,
            log,
            gone="each node rests deployments by itself",
            back="rests of deployments are shared between nodes",
        )
        self._name = f"{settings.prefix}:cooldown"
        self._book = book
        self._clock = clock

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Share while this is open."""
        try:
            async with meanwhile(self._run()):
                yield
        finally:
            await self._line.close()

    async def claim(self, key: str, seconds: float) -> bool:
        """Whether this node is to check a deployment, and no other one for `seconds`; without Redis every node is."""
        name, milliseconds = f"{self._name}:check:{key}", max(1, int(seconds * 800))
        try:
            return bool(await self._line.ask(lambda client: client.set(name, b"1", nx=True, px=milliseconds)))
        except Gone:
            return True

    async def exchange(self) -> None:
        """Learn from the others, and tell what is newer here.

        Raises:
            Gone: Redis does not answer.
        """
        told: dict[Any, Any] = await self._line.ask(lambda client: cast("Awaitable[Any]", client.hgetall(self._name)))
        now = self._clock()
        theirs = {key.decode(): condition for key, text in told.items() if (condition := _read(text)) is not None}
        for key, condition in theirs.items():
            if _when(condition, now) > _when(self._book.get(key), now):
                self._book.change(key, functools.partial(_adopted, condition, now))
        news: dict[Any, Any] = {
            key: _encode(condition)
            for key, condition in self._book.all().items()
            if _when(condition, now) > _when(theirs.get(key), now)
        }
        if news:
            await self._line.ask(lambda client: self._tell(client, news))

    async def _tell(self, client: "Redis", news: dict[Any, Any]) -> None:
        await client.hset(self._name, mapping=news)
        await client.expire(self._name, _KEPT)

    async def _run(self) -> None:
        while True:
            try:
                await self.exchange()
            except Gone:
                pass  # told already
            except Exception:
                log.exception("rests could not be shared between nodes; trying again")
            await asyncio.sleep(_PAUSE)


def _read(text: bytes) -> Condition | None:
    try:
        return _decoder.decode(text)
    except msgspec.MsgspecError:  # of another version of this gateway
        return None


def _when(condition: Condition | None, now: float) -> float:
    """When it last changed; 0 for a time to come: the clock was put back, and what holds now must not wait for it."""
    return 0.0 if condition is None or condition.changed > now + SKEW else condition.changed


def _adopted(told: Condition, now: float, mine: Condition) -> Condition:
    """The other node's view of it, where that is newer; what only this node counts stays."""
    if _when(told, now) <= _when(mine, now):
        return mine
    return msgspec.structs.replace(told, tried_until=0.0, claimed=mine.claimed, all_rests=mine.all_rests)
