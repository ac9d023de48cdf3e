"""Counting in Redis, for all nodes together: one script decides all limits of a request, by the server's clock."""

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final

from gatehook import meanwhile
from gatehook.redis_line import Gone, RedisLine
from gatehook_plugins.rate_limit.rules import Rule
from gatehook_plugins.rate_limit.script import Script, script
from gatehook_plugins.rate_limit.store import Decision, Gate, Grant, Store

__all__ = ["RedisStore"]

log = logging.getLogger("gatehook.rate_limit")

_ADMIT, _PEEK, _SETTLE, _RENEW = script("admit"), script("peek"), script("settle"), script("renew")
_LEASE: Final = 30_000_000
"""Microseconds for which a running request counts without being renewed, as after the death of its node."""
_BEAT: Final = 5.0
"""Seconds from one renewal to the next."""
_AT_ONCE: Final = 500
"""The most running requests that one run of the script renews."""


class RedisStore:
    """Limits that all nodes share.

    Running requests are held by leases, which a task renews; those of a node that died end by themselves.
    """

    def __init__(self, line: RedisLine, prefix: str, clock: Callable[[], int] | None = None) -> None:
        """Nothing is sent yet.

        Args:
            line: the line to Redis.
            prefix: what the names of all keys begin with.
            clock: microseconds since the epoch; None for the server's.
        """
        self._line = line
        self._prefix = f"{prefix}:rl:{{limits}}:"  # the braces keep all keys in one slot of a cluster
        self._clock = clock
        self._numbers = itertools.count()
        self._node = ""
        self._held: dict[str, tuple[bytes, ...]] = {}
        """Requests that run, by holder: the keys that they count in."""
        self._ended: dict[str, tuple[bytes, ...]] = {}
        """Requests that do not run, but may count in Redis all the same."""
        self._beating = False

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Renew leases; at the end, no request of this node counts any more, and no connection is open."""
        self._node = secrets.token_hex(8)  # not before: workers that are forked must differ
        try:
            await self._line.open()
            async with meanwhile(self._renew()):
                yield
        finally:
            self._ended |= self._held
            self._held = {}
            with contextlib.suppress(Gone):
                await self.beat()
            await self._line.close()

    def gate(self, rules: Sequence[Rule]) -> "_Gate":
        """See `Store`."""
        return _Gate(self, rules)

    async def admit(self, gate: "_Gate", tokens: int) -> Decision:
        """See `Gate`.

        Raises:
            Gone: Redis did not answer in time.
        """
        holder = f"{self._node}:{next(self._numbers)}"
        arguments: list[str | int] = [self._now(), _LEASE, holder]
        for rule in gate.rules:
            arguments += (rule.unit, rule.most, rule.cost(tokens))

        async def take_back(answer: Sequence[int]) -> None:
            slot, admitted, *_ = answer
            if admitted:
                await self.settle(gate, Grant(gate, tokens, slot, holder=holder), requests=0, tokens=0)

        try:
            slot, admitted, *gauges = await self._line.ask(
                lambda client: _ADMIT.run(client, gate.keys, arguments), abandoned=take_back
            )
        except BaseException as error:  # also when the client leaves: the script may have run
            if gate.running and not (isinstance(error, Gone) and not error.asked):
                self._ended[holder] = gate.running
            raise
        left = [max(0, rule.most - used) for rule, used in zip(gate.rules, gauges[::3], strict=True)]
        if not admitted:
            return Decision(left, gauges[2::3], gauges[1::3])
        if gate.running:
            self._held[holder] = gate.running
        return Decision(left, gauges[2::3], (), Grant(gate, tokens, slot, holder=holder))

    async def peek(self, gate: "_Gate") -> Decision:
        """See `Gate`.

        Raises:
            Gone: Redis did not answer in time.
        """
        gauges = await self._run(_PEEK, gate.keys, [self._now(), *(rule.unit for rule in gate.rules)])
        left = [max(0, rule.most - used) for rule, used in zip(gate.rules, gauges[::2], strict=True)]
        return Decision(left, gauges[1::2])

    async def settle(self, gate: "_Gate", grant: Grant, requests: int, tokens: int) -> None:
        """See `Gate`. If Redis is gone, tokens stay as they were charged; the running request is let go later."""
        keys: list[bytes] = []
        arguments: list[str | int] = [self._now(), grant.slot, grant.holder]
        for rule, key in zip(gate.rules, gate.keys, strict=True):
            excess = tokens - grant.tokens if rule.unit == "tokens" else requests - 1
            if excess or rule.unit == "concurrent":
                keys.append(key)
                arguments += (rule.unit, excess)
        if not keys:
            return
        running = self._held.pop(grant.holder, ())
        if running and self._beating:  # the renewal that is under way may count it once more
            self._ended[grant.holder] = running
        try:
            await self._run(_SETTLE, keys, arguments)
        except BaseException as error:
            if running:
                self._ended[grant.holder] = running
            if not isinstance(error, Gone):
                raise

    async def beat(self) -> None:
        """Renew the leases of all that runs, and let go what has ended.

        Raises:
            Gone: Redis did not answer in time; nothing is forgotten.
        """
        ended, self._ended = self._ended, {}
        holders = [(holder, key, 1) for holder, keys in self._held.items() for key in keys]
        holders += [(holder, key, 0) for holder, keys in ended.items() for key in keys]
        self._beating = True
        try:
            for start in range(0, len(holders), _AT_ONCE):
                part = holders[start : start + _AT_ONCE]
                arguments: list[str | int] = [self._now(), _LEASE]
                for holder, _, runs in part:
                    arguments += (holder, runs)
                await self._run(_RENEW, [key for _, key, _ in part], arguments)
        except BaseException:
            self._ended |= ended
            raise
        finally:
            self._beating = False

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_BEAT)
            try:
                await self.beat()
            except Gone:
                continue  # the line has logged it
            except Exception:
                log.exception("leases could not be renewed; trying again")

    async def _run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[str | int]) -> Any:
        return await self._line.ask(lambda client: script.run(client, keys, arguments))

    def key(self, rule: Rule) -> bytes:
        """The key that a limit is counted under."""
        return (self._prefix + rule.name).encode("utf-8", "surrogatepass")  # an id may be any text

    def _now(self) -> str | int:
        return "" if self._clock is None else self._clock()


class _Gate:
    """A few limits, and the keys that they are counted under."""

    __slots__ = ("_store", "keys", "rules", "running")

    def __init__(self, store: RedisStore, rules: Sequence[Rule]) -> None:
        self._store = store
        self.rules = tuple(rules)
        self.keys = [store.key(rule) for rule in rules]
        self.running = tuple(store.key(rule) for rule in rules if rule.unit == "concurrent")

    def admit(self, tokens: int) -> Coroutine[Any, Any, Decision]:
        """See `RedisStore.admit`."""
        return self._store.admit(self, tokens)

    def peek(self) -> Coroutine[Any, Any, Decision]:
        """See `RedisStore.peek`."""
        return self._store.peek(self)

    def settle(self, grant: Grant, requests: int, tokens: int) -> Coroutine[Any, Any, None]:
        """See `RedisStore.settle`."""
        return self._store.settle(self, grant, requests, tokens)


_implements: tuple[type[Store], type[Gate]] = (RedisStore, _Gate)
