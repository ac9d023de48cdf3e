"""The line to Redis: every call has a deadline, none is repeated, and an outage costs one caller a second, not each."""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from redis import RedisError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from gatehook import redact

__all__ = ["Gone", "Link", "Script", "script"]

log = logging.getLogger("gatehook.rate_limit")

T = TypeVar("T")

_CONNECTIONS: Final = 32
_PAUSE: Final = 1.0
"""Seconds after a failure in which Redis is not asked."""


class Gone(Exception):
    """Redis did not answer in time. What it was asked may have been done or not; nothing was if it was not `asked`."""

    def __init__(self, reason: str, *, asked: bool = True) -> None:
        super().__init__(reason)
        self.asked = asked


class Script:
    """A Lua script, and the name that Redis knows it by."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def script(name: str) -> Script:
    """`NAME.lua` of this package, behind what all scripts share."""
    folder = Path(__file__).parent
    return Script("\n".join((folder / f"{one}.lua").read_text("utf-8") for one in ("windows", name)))


class Link:
    """Runs scripts. Building it opens nothing; a connection that is closed opens again when it is needed."""

    def __init__(self, url: str, timeout: float, meanwhile: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Made ready; nothing is sent.

        Args:
            url: redis://, rediss:// or unix://.
            timeout: seconds that a call may take, whatever it waits for.
            meanwhile: what happens while Redis is gone, for the log.
            clock: seconds; for the pause after a failure.

        Raises:
            ValueError: the URL is none of Redis.
        """
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # redis-py would send a script again whose answer was lost, and so charge twice.
            retry=Retry(NoBackoff(), 0),
        )
        self._client: Redis = Redis.from_pool(pool)
        self._password = str(pool.connection_kwargs.get("password") or "")
        self._timeout = timeout
        self._meanwhile = meanwhile
        self._clock = clock
        self._gone = False
        self._ask_again = 0.0
        self._commands: set[asyncio.Task[Any]] = set()

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        arguments: Sequence[str | int],
        *,
        abandoned: Callable[[Any], Coroutine[Any, Any, None]] | None = None,
    ) -> Any:
        """What the script answers.

        Args:
            script: of this package.
            keys: that it works on.
            arguments: its others.
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
        command = self._keep(self._evaluate(script, keys, arguments))
        try:
            async with asyncio.timeout(self._timeout):
                answer = await asyncio.shield(command)
        except (asyncio.CancelledError, TimeoutError) as left:
            if abandoned is not None:
                self._keep(self._follow_up(command, abandoned))
            if isinstance(left, asyncio.CancelledError):
                raise
            raise self._failed(f"no answer within {self._timeout:g} s") from None
        except (RedisError, OSError) as error:
            raise self._failed(f"{type(error).__name__}: {redact(str(error), [self._password])}") from None
        self._answered()
        return answer

    async def close(self) -> None:
        """Wait for what is under way, and close all connections."""
        if self._commands:
            await asyncio.wait(self._commands, timeout=self._timeout)
        with contextlib.suppress(RedisError, OSError):
            await self._client.aclose()

    def _keep(self, doing: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(doing)
        self._commands.add(task)
        task.add_done_callback(self._ended)
        return task

    @staticmethod
    async def _follow_up(command: asyncio.Task[Any], abandoned: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        with contextlib.suppress(RedisError, OSError):
            await abandoned(await command)

    async def _evaluate(self, script: Script, keys: Sequence[bytes], arguments: Sequence[str | int]) -> Any:
        try:
            return await self._client.evalsha(script.sha, len(keys), *keys, *arguments)
        except NoScriptError:  # a server that was started since; nothing has been done yet
            return await self._client.eval(script.text, len(keys), *keys, *arguments)

    def _ended(self, command: asyncio.Task[Any]) -> None:
        self._commands.discard(command)
        if not command.cancelled():
            command.exception()  # looked at, should nobody wait for it any more

    def _failed(self, reason: str) -> Gone:
        if not self._gone:
            log.warning("Redis is gone (%s); until it answers, %s", reason, self._meanwhile)
        self._gone, self._ask_again = True, self._clock() + _PAUSE
        return Gone(reason)

    def _answered(self) -> None:
        if self._gone:
            log.warning("Redis answers again; limits are shared between nodes")
        self._gone = False
