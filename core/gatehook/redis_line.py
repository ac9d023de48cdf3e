"""A connection to Redis in whose outage few callers wait: each command has a deadline, and none is sent twice.

After a failure Redis is not asked for a second; then one caller finds out whether it is back, and others do not wait.
"""

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
    """Redis did not answer in time. If it was `asked`, it may have done what it was asked or not."""

    def __init__(self, reason: str, *, asked: bool = True) -> None:
        super().__init__(reason)
        self.asked = asked


class RedisLine:
    """Sends commands. Building it opens nothing: connections open, and open again, when they are needed.

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
        """Prepare connections; none is opened yet.

        Args:
            settings: with a `url`; no command takes longer than `timeout`, whatever it waits for.
            log: gets one line when Redis is gone, and one when it is back.
            gone: what happens while it is gone, for that line.
            back: what happens again when it is back, likewise.
            clock: gives seconds, for the pause after a failure.

        Raises:
            StartupError: it is not a URL of Redis, or the package for Redis is not installed.
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
        """What Redis answers to a command.

        Args:
            command: sends the command, given a client.
            abandoned: is run with the answer if it comes when the caller waits for it no longer.

        Raises:
            Gone: there was no answer in time; or Redis failed within the last second, and was not asked.
        """
        if self._gone:
            if self._clock() < self._ask_again:
                raise Gone("it failed a moment ago", asked=False)
            self._ask_again = self._clock() + _PAUSE  # this call finds out whether it is back; others do not wait
        # A task of its own, which only its socket's timeouts end: when a command is cancelled, redis-py may lose a
        # connection of its pool for good, and clients may leave at any moment.
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
        """Ask Redis for a sign of life: if it does not answer, that is logged at the start, not at the first use."""
        with contextlib.suppress(Gone):
            await self.ask(lambda client: client.ping())

    async def close(self) -> None:
        """End with no command under way and no connection open."""
        if self._commands:
            # One timeout each for a free connection, for opening it, and for the answer; what is left will not come.
            _, late = await asyncio.wait(self._commands, timeout=3 * self._timeout)
            for command in late:
                command.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        with contextlib.suppress(*self._failures):
            await self._client.aclose()

    def _keep(self, running: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """Keep a reference, for `close` to wait for it."""
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
            command.exception()  # or asyncio would log that nobody has retrieved it

    def _failed(self, reason: str) -> Gone:
        if not self._gone:
            self._log.warning("Redis is gone (%s); until it answers, %s", reason, self._words[0])
        self._gone, self._ask_again = True, self._clock() + _PAUSE
        return Gone(reason)
