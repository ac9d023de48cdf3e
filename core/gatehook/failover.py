"""Attempts: which deployment next, when to try again, and when an answer has begun.

A request may move to another deployment only until the first content event has been seen; that event is awaited before
the client is answered at all, so a failure before it is still an HTTP status and not a broken stream.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import TypeVar, cast

from gatehook.deadlines import Deadlines, Limit, Watch
from gatehook.errors import GatewayError, InvalidRequest, Retry, UpstreamError, UpstreamTimeout
from gatehook.model import Attempt, Call, Chunk, Completion, Frames, Target, Usage
from gatehook.parameters import sift
from gatehook.protocols import AttemptLimiter, Vendor
from gatehook.settings import FailoverSettings
from gatehook.stages import Permits

__all__ = ["Failover", "Stream"]

log = logging.getLogger("gatehook.failover")

T = TypeVar("T")

_FIRST_BACKOFF = 0.25
"""Seconds before the first retry at the same deployment, at most; doubles with each, with full jitter."""


class Stream:
    """A vendor's stream whose first content has arrived: `begun` holds what was read so far, iteration gives the rest.

    Iteration raises `UpstreamError` when the stream ends without its terminal marker, and arms `watch` for the silence
    a vendor may keep. `finished`, `usage` and `contents` (content events so far) are kept up as it is read.
    """

    def __init__(self, attempt: Attempt, source: AsyncGenerator[Sequence[Chunk], None], stall_timeout: float) -> None:
        self._attempt = attempt
        self._source = source
        self._silence = Limit(stall_timeout, self._stalled)
        self._watch: Watch | None = None
        self.begun: list[Sequence[Chunk]] = []
        self.finished = False
        self.usage: Usage | None = None
        self.contents = 0

    async def begin(self, watch: Watch, timeout: float) -> None:
        """Read until the first content, or the end of an answer without any."""

        def late() -> GatewayError:
            return UpstreamTimeout(f"{self._attempt.target.vendor}: no content within {timeout:g} s")

        until = watch.now() + self._attempt.target.timeout
        self._silence = Limit(self._silence.seconds, self._stalled, until)
        watch.arm(timeout, late, until)
        while not self.contents and not self.finished:
            self.begun.append(await self.__anext__())

    def watched(self, watch: Watch) -> "Stream":
        """Iterate under this watch."""
        self._watch = watch
        return self

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Sequence[Chunk]:
        if self._watch is not None:
            self._watch.again(self._silence)
        try:
            batch = await self._source.__anext__()
        except StopAsyncIteration:
            if self.finished:
                raise
            raise UpstreamError(
                f"{self._attempt.target.vendor}: the stream ended before the answer was complete",
                code="upstream_truncated",
            ) from None
        except (GatewayError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise _plugin_failed(self._attempt, error) from error
        if isinstance(batch, Frames):
            self.contents += batch.contents
            self.finished = self.finished or batch.finished
            self.usage = batch.usage or self.usage
            return batch
        for chunk in batch:
            self.contents += chunk.content
            self.finished = self.finished or chunk.finished
            self.usage = chunk.usage or self.usage
        return batch

    def _stalled(self) -> GatewayError:
        return UpstreamTimeout(f"{self._attempt.target.vendor}: silent for too long in the middle of the answer")

    async def aclose(self) -> None:
        """Close the upstream, wherever the stream is."""
        await self._source.aclose()


class Failover:
    """Runs a call against its targets, in order, until one answers or all have failed."""

    def __init__(
        self,
        settings: FailoverSettings,
        vendors: Mapping[str, Vendor],
        deadlines: Deadlines,
        attempt_failed: Callable[[Call, Target, GatewayError], None],
        limiters: Sequence[AttemptLimiter] = (),
    ) -> None:
        self._settings = settings
        self._vendors = vendors
        self._limiters = tuple(limiters)
        self._deadlines = deadlines
        self._attempt_failed = attempt_failed

    async def complete(self, call: Call, targets: Sequence[Target], permits: Permits) -> Completion:
        """A whole answer from the first target that gives one.

        Raises:
            GatewayError: the last target's error, or the first that no other target can mend.
        """
        return await self._first_success(call, targets, permits, self._complete)

    async def stream(self, call: Call, targets: Sequence[Target], permits: Permits) -> Stream:
        """A stream whose first content has arrived, from the first target that gets that far.

        Raises:
            GatewayError: as for `complete`.
        """
        return await self._first_success(call, targets, permits, self._begin)

    async def _complete(self, vendor: Vendor, attempt: Attempt) -> Completion:
        timeout = attempt.target.timeout

        def late() -> GatewayError:
            return UpstreamTimeout(f"{attempt.target.vendor}: no answer within {timeout:g} s")

        with self._deadlines.watch().arm(timeout, late):
            try:
                return await vendor.complete(attempt)
            except (GatewayError, asyncio.CancelledError):
                raise
            except Exception as error:
                raise _plugin_failed(attempt, error) from error

    async def _begin(self, vendor: Vendor, attempt: Attempt) -> Stream:
        source = cast("AsyncGenerator[Sequence[Chunk], None]", vendor.stream(attempt))
        stream = Stream(attempt, source, self._settings.stall_timeout)
        try:
            with self._deadlines.watch() as watch:
                await stream.begin(watch, self._settings.first_token_timeout)
        except BaseException:
            # Also when cancelled: the client's leaving must not leave the upstream running.
            with contextlib.suppress(Exception):
                await stream.aclose()
            raise
        return stream

    async def _first_success(
        self,
        call: Call,
        targets: Sequence[Target],
        permits: Permits,
        run: Callable[[Vendor, Attempt], Awaitable[T]],
    ) -> T:
        last: GatewayError | None = None
        for target in targets:
            tries = 0
            while True:
                before = call.attempts
                try:
                    return await self._admitted(call, target, permits, run)
                except GatewayError as error:
                    passed_over = call.attempts == before
                    if passed_over:
                        log.info("%s %s passes over %s: %s", call.id, call.model, target.key, error.message)
                    else:
                        self._attempt_failed(call, target, error)
                        log.warning("%s %s at %s failed: %s", call.id, call.model, target.key, error.message)
                    # A limit of our own, or a parameter that this vendor cannot take, says nothing about those that
                    # were really tried.
                    if last is None or not (passed_over or isinstance(error, InvalidRequest)):
                        last = error
                    if error.retry is Retry.NEVER:
                        raise
                    wait = self._wait(error, tries)
                    if wait is None:
                        break
                tries += 1
                await asyncio.sleep(wait)
        assert last is not None, "a router gave no targets"  # noqa: S101  # the pipeline refuses an empty list
        raise last

    async def _admitted(
        self, call: Call, target: Target, permits: Permits, run: Callable[[Vendor, Attempt], Awaitable[T]]
    ) -> T:
        if not self._limiters:
            return await self._try(call, target, run)
        try:
            await permits.admit_attempt(self._limiters, call, target)
            return await self._try(call, target, run)
        except GatewayError as error:
            await permits.attempt_failed(error)
            raise

    async def _try(self, call: Call, target: Target, run: Callable[[Vendor, Attempt], Awaitable[T]]) -> T:
        call.attempts += 1
        call.target = target
        vendor = self._vendors.get(target.vendor)
        if vendor is None:
            raise InvalidRequest(
                f"model {target.name!r} is configured with vendor {target.vendor!r}, which no enabled plugin provides",
                param="model",
                code="unknown_vendor",
                retry=Retry.NEXT,
            )
        if call.operation not in vendor.operations:
            raise InvalidRequest(
                f"vendor {target.vendor!r} does not offer {call.operation}",
                param="model",
                code="unsupported_operation",
                retry=Retry.NEXT,
            )
        attempt = Attempt(call, target)
        if table := vendor.parameters.get(call.operation):
            attempt.sifted, attempt.dropped = sift(call.payload, table, vendor=target.vendor, strict=target.strict)
        result = await run(vendor, attempt)
        call.dropped = tuple(attempt.dropped)
        return result

    def _wait(self, error: GatewayError, tries: int) -> float | None:
        """Seconds until the same deployment is tried again, None to leave it."""
        settings = self._settings
        if error.retry is not Retry.SAME or tries >= settings.retries:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= settings.retry_after_cap else None
        if isinstance(error, UpstreamTimeout):
            # It has cost a whole time limit already; another deployment is the better bet.
            return None
        return random.uniform(0, _FIRST_BACKOFF * 2**tries)  # noqa: S311  # jitter, not a secret


def _plugin_failed(attempt: Attempt, error: Exception) -> UpstreamError:
    log.error("%s: vendor plugin %r failed", attempt.call.id, attempt.target.vendor, exc_info=error)
    return UpstreamError(
        f"{attempt.target.vendor}: the gateway could not handle the vendor's answer",
        code="vendor_plugin_error",
        retry=Retry.NEXT,
    )
