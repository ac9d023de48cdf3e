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

from gatehook.deadlines import Deadlines
from gatehook.errors import GatewayError, InvalidRequest, Retry, UpstreamError, UpstreamTimeout
from gatehook.model import Attempt, Call, Chunk, Completion, Target, Usage
from gatehook.parameters import sift
from gatehook.protocols import Vendor
from gatehook.settings import FailoverSettings

__all__ = ["Failover", "Stream"]

log = logging.getLogger("gatehook.failover")

T = TypeVar("T")

_FIRST_BACKOFF = 0.25
"""Seconds before the first retry at the same deployment, at most; doubles with each, with full jitter."""


class Stream:
    """A vendor's stream whose first content has arrived: batches of chunks, what was peeked at first.

    Raises `UpstreamError` from iteration when the stream ends without its terminal marker, `UpstreamTimeout` when the
    vendor falls silent. `usage` and `contents` (content events so far) are kept up as it is read.
    """

    def __init__(self, attempt: Attempt, source: AsyncGenerator[Sequence[Chunk], None], deadlines: Deadlines) -> None:
        self._attempt = attempt
        self._source = source
        self._deadlines = deadlines
        self._peeked: list[Sequence[Chunk]] = []
        self._watch = deadlines.watch()
        self._until = asyncio.get_running_loop().time() + attempt.target.timeout
        self._stall = UpstreamTimeout(f"{attempt.target.vendor}: silent for too long in the middle of the answer")
        self._stall_seconds = 0.0
        self.finished = False
        self.usage: Usage | None = None
        self.contents = 0

    async def begin(self, first_token_timeout: float, stall_timeout: float) -> None:
        """Read until the first content or the end of an empty answer; nothing is lost, it will be iterated over."""
        late = UpstreamTimeout(f"{self._attempt.target.vendor}: no content within {first_token_timeout:g} s")
        with self._watch.within(first_token_timeout, late, until=self._until):
            while not self.contents and not self.finished:
                batch = await self._next()
                if batch is None:
                    break
                self._peeked.append(batch)
        self._stall_seconds = stall_timeout

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Sequence[Chunk]:
        if self._peeked:
            return self._peeked.pop(0)
        with self._watch.within(self._stall_seconds, self._stall, until=self._until):
            batch = await self._next()
        if batch is None:
            raise StopAsyncIteration
        return batch

    async def _next(self) -> Sequence[Chunk] | None:
        try:
            batch = await self._source.__anext__()
        except StopAsyncIteration:
            if self.finished:
                return None
            raise UpstreamError(
                f"{self._attempt.target.vendor}: the stream ended before the answer was complete",
                code="upstream_truncated",
            ) from None
        except (GatewayError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise _plugin_failed(self._attempt, error) from error
        for chunk in batch:
            if chunk.content:
                self.contents += 1
            if chunk.finished:
                self.finished = True
            if chunk.usage is not None:
                self.usage = chunk.usage
        return batch

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
    ) -> None:
        self._settings = settings
        self._vendors = vendors
        self._deadlines = deadlines
        self._attempt_failed = attempt_failed

    async def complete(self, call: Call, targets: Sequence[Target]) -> Completion:
        """A whole answer from the first target that gives one.

        Raises:
            GatewayError: the last target's error, or the first that no other target can mend.
        """
        return await self._first_success(call, targets, self._complete)

    async def stream(self, call: Call, targets: Sequence[Target]) -> Stream:
        """A stream whose first content has arrived, from the first target that gets that far.

        Raises:
            GatewayError: as for `complete`.
        """
        return await self._first_success(call, targets, self._begin)

    async def _complete(self, vendor: Vendor, attempt: Attempt) -> Completion:
        timeout = attempt.target.timeout
        late = UpstreamTimeout(f"{attempt.target.vendor}: no answer within {timeout:g} s")
        with self._deadlines.watch().within(timeout, late):
            try:
                return await vendor.complete(attempt)
            except (GatewayError, asyncio.CancelledError):
                raise
            except Exception as error:
                raise _plugin_failed(attempt, error) from error

    async def _begin(self, vendor: Vendor, attempt: Attempt) -> Stream:
        source = cast("AsyncGenerator[Sequence[Chunk], None]", vendor.stream(attempt))
        stream = Stream(attempt, source, self._deadlines)
        try:
            await stream.begin(self._settings.first_token_timeout, self._settings.stall_timeout)
        except BaseException:
            # Also when cancelled: the client's leaving must not leave the upstream running.
            with contextlib.suppress(Exception):
                await stream.aclose()
            raise
        return stream

    async def _first_success(
        self, call: Call, targets: Sequence[Target], run: Callable[[Vendor, Attempt], Awaitable[T]]
    ) -> T:
        last: GatewayError | None = None
        for target in targets:
            tries = 0
            while True:
                try:
                    return await self._try(call, target, run)
                except GatewayError as error:
                    self._attempt_failed(call, target, error)
                    log.warning("%s %s at %s failed: %s", call.id, call.model, target.key, error.message)
                    # A parameter that this vendor cannot take says nothing about those that were really tried.
                    if last is None or not isinstance(error, InvalidRequest):
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
