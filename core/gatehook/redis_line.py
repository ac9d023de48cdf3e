"""A line to Redis: every call has a deadline, none is repeated, and an outage costs one caller a second, not each."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from gatehook.config.sections import RedisSettings
from gatehook.errors import StartupError, redact

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["Gone", "RedisLine"]

_CONNECTIONS: Final = 32
_PAUSE: Final = 1.0
"""Seconds after a failure in which Redis is not asked."""


class Gone(Exception):
    """Redis did not answer in time. What it was asked may have been done or not; nothing was if it was not `asked`."""

    def __init__(self, reason: str, *, asked: bool = True) -> None:
        super().__init__(reason)
        self.asked = asked


class RedisLine:
    """Sends commands. Building it opens nothing; a connection that is closed opens again when it is needed.

    `open` and `close` it around its use.
    """

    def __init__(
        self,
        settings: RedisSettings,
        log: logging.Logger,
        *,
        gone: str,
        back: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Made ready; nothing is sent.

        Args:
            settings: whose `url` is set; no call takes longer than `timeout`, whatever it waits for.
            log: is told, once, when Redis is gone, and when it is back.
            gone: what happens meanwhile, in words.
            back: what happens again then.
            clock: seconds; for the pause after a failure.

        Raises:
            StartupError: the URL is none of Redis, or the package for it is not installed.
        """
        try:
            from redis import RedisError
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "redis":
                raise
            raise StartupError(
                "[redis] url is set, but the package is not installed: pip install 'gatehook[redis]', or set url = ''"
            ) from None
        timeout = settings.timeout
        url = settings.url.get_secret_value()
        try:
            if "://" not in url:  # redis-py would go to this machine
                raise ValueError
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=_CONNECTIONS,
                timeout=timeout,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                # redis-py would send a command again whose answer was lost, and so do it twice.
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:  # whose words may repeat the address, with its password
            raise StartupError(
                "[redis] url: expected redis://HOST:PORT/N, rediss://HOST:PORT/N or unix:///PATH"
            ) from None
        self._client: Redis = Redis.from_pool(pool)
        self._failures = (RedisError, OSError)
        self._password = str(pool.connection_kwargs.get("password") or "")
        self._timeout = timeout
        self._log = log
        self._words = gone, back
        self._clock = clock
        self._gone = False
        self._ask_again = 0.0
        self._commands: set[asyncio.Future[Any]] = set()

    async def ask(
        self,
        command: "Callable[[Redis], Awaitable[Any]]",
        *,
        abandoned: Callable[[Any], Coroutine[Any, Any, None]] | None = None,
    ) -> Any:
        """What Redis answers.

        Args:
            command: asks it, given a client.
            abandoned: is run with the answer if that comes when nobody waits for it any more.

        Raises:
            Gone: there was no answer in time; or there was none within the last second, and Redis was not asked.
        """
        if self._gone:
            if self._clock() < self._ask_again:
                raise Gone("it failed a moment ago", asked=False)
            self._ask_again = self._clock() + _PAUSE  # this call finds out; others do not wait for it
        # A task of its own, which ends by its socket's timeouts: redis-py may lose a connection of its pool for good
        # when a command is cancelled, and clients leave at any moment.
        running = self._keep(asyncio.ensure_future(command(self._client)))
        try:
            async with asyncio.timeout(self._timeout):
                answer = await asyncio.shield(running)
        except (asyncio.CancelledError, TimeoutError) as left:
            if abandoned is not None:
                self._keep(asyncio.ensure_future(self._follow_up(running, abandoned)))
            if isinstance(left, asyncio.CancelledError):
                raise
            raise self._failed(f"no answer within {self._timeout:g} s") from None
        except self._failures as error:
            raise self._failed(f"{type(error).__name__}: {redact(str(error), [self._password])}") from None
        if self._gone:
            self._gone = False
            self._log.warning("Redis answers again; %s", self._words[1])
        return answer

    async def open(self) -> None:
        """See whether Redis answers: if not, that is logged at the start, and not when it is first needed."""
        with contextlib.suppress(Gone):
            await self.ask(lambda client: client.ping())

    async def close(self) -> None:
        """End with no command under way and no connection open."""
        if self._commands:
            # For a connection, for it to open, for the answer: then what is left will not come.
            _, late = await asyncio.wait(self._commands, timeout=3 * self._timeout)
            for command in late:
                command.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        with contextlib.suppress(*self._failures):
            await self._client.aclose()

    def _keep(self, running: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """Have `close` wait for it."""
        self._commands.add(running)
        running.add_done_callback(self._ended)
        return running

    async def _follow_up(
        self, running: asyncio.Future[Any], abandoned: Callable[[Any], Coroutine[Any, Any, None]]
    ) -> None:
        with contextlib.suppress(*self._failures):
            await abandoned(await running)

    def _ended(self, command: asyncio.Future[Any]) -> None:
        self._commands.discard(command)
        if not command.cancelled():
            command.exception()  # looked at, should nobody wait for it any more

    def _failed(self, reason: str) -> Gone:
        if not self._gone:
            self._log.warning("Redis is gone (%s); until it answers, %s", reason, self._words[0])
        self._gone, self._ask_again = True, self._clock() + _PAUSE
        return Gone(reason)
