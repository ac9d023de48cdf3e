"""Health checks: asks deployments from time to time whether they answer, so that no user's request has to find out."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Final

from msgspec.structs import replace

from gatehook import Catalog, GatewayError, Prober, Target, UpstreamTimeout, meanwhile
from gatehook_plugins.cooldown.book import Book
from gatehook_plugins.cooldown.breaker import Breaker
from gatehook_plugins.cooldown.condition import Condition
from gatehook_plugins.cooldown.thresholds import Thresholds

__all__ = ["Checks", "Claim"]

log: Final = logging.getLogger("gatehook.cooldown")

_TIMEOUT: Final = 10.0
"""Seconds that a deployment has for its answer."""
_AT_ONCE: Final = 8
"""Deployments that are asked at the same time."""

Claim = Callable[[str, float], Awaitable[bool]]
"""Whether the check of this key, for so many seconds, is this node's to make."""


class Checks:
    """The checks of one process. Workers that share a book check each deployment once among them."""

    def __init__(
        self,
        catalog: Catalog,
        vendors: Mapping[str, object],
        breaker: Breaker,
        book: Book,
        thresholds: Thresholds,
        claim: Claim | None = None,
    ) -> None:
        """`vendors` by their names; those that are no `Prober` are not asked. `claim` asks the other nodes."""
        self._catalog = catalog
        self._vendors = vendors
        self._breaker = breaker
        self._book = book
        self._thresholds = thresholds
        self._claim = claim
        self._changed = asyncio.Event()
        thresholds.subscribe(self._changed.set)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Check while this is open."""
        async with meanwhile(self._run()):
            yield

    async def _run(self) -> None:
        while True:
            interval = self._thresholds.health_check_interval
            self._changed.clear()
            if interval:
                try:
                    await self.round(interval)
                except Exception:
                    log.exception("deployments could not be checked; trying again")
            with contextlib.suppress(TimeoutError):
                # Not all processes at the same moment; each a little early, so that no check comes too late.
                async with asyncio.timeout(interval * random.uniform(0.8, 1.0) if interval else None):  # noqa: S311
                    await self._changed.wait()

    async def round(self, interval: float) -> None:
        """Check every deployment that nobody has checked for so many seconds."""
        enough = asyncio.Semaphore(_AT_ONCE)

        async def check(target: Target, vendor: Prober) -> None:
            async with enough:
                if self._is_mine(target, interval) and (not self._claim or await self._claim(target.key, interval)):
                    await self._check(target, vendor)

        async with asyncio.TaskGroup() as group:
            for target in self._deployments():
                vendor = self._vendors.get(target.vendor)
                if isinstance(vendor, Prober):
                    group.create_task(check(target, vendor))

    def _deployments(self) -> Iterable[Target]:
        found = {target.key: target for group in self._catalog.groups().values() for target in group}
        return [target for target in found.values() if not target.unavailable]

    def _is_mine(self, target: Target, interval: float) -> bool:
        """Whether a check is due, and no other worker has taken it upon itself."""
        now = time.time()

        def step(one: Condition) -> Condition:
            is_taken = 0 <= now - one.claimed < 0.8 * interval  # a clock that was put back takes nobody's turn
            return one if is_taken else replace(one, claimed=now)

        before, after = self._book.change(target.key, step)
        return after is not before

    async def _check(self, target: Target, vendor: Prober) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                await vendor.probe(target)
        except GatewayError as error:
            self._breaker.failed(target, error, checked=True)
        except TimeoutError:
            late = UpstreamTimeout(f"{target.vendor}: no answer to a check in {_TIMEOUT:g} s")
            self._breaker.failed(target, late, checked=True)
        except (Exception, SystemExit):  # the latter would end the program: this is a task of its own
            log.exception("deployment %s could not be checked: its vendor's plugin failed", target.key)
        else:
            self._breaker.checked_well(target)
