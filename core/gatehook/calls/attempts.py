"""One attempt at one deployment: what the vendor gets, how long it may take, and when its answer has begun."""

import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, cast

from gatehook.accounts import Usage
from gatehook.calls.deadlines import Deadlines, Limit, Watch
from gatehook.config.settings import FailoverSettings
from gatehook.errors import GatewayError, InvalidRequest, Retry, UpstreamError, UpstreamTimeout, WrongResultError
from gatehook.failures import is_failure
from gatehook.model import Attempt, Call, Chunk, Completion, Frames, Target
from gatehook.parameters import left_open, sift
from gatehook.protocols import Vendor

__all__ = ["HEAD", "Attempts", "Stream"]

log = logging.getLogger("gatehook.failover")

HEAD: Final = ("id", "object", "created", "model", "system_fingerprint")
"""The fields that every chunk of a stream repeats."""


class Stream:
    """A vendor's stream whose first content has arrived: `begun` holds what was read so far, iteration gives the rest.

    Iteration raises `UpstreamError` when the stream ends without a finish reason, and limits each silence of the vendor
    by the watch of `watched`. `finished`, `usage` and `contents` (content events so far) are updated as it is read.
    """

    def __init__(self, attempt: Attempt, source: AsyncGenerator[Sequence[Chunk], None], stall_timeout: float) -> None:
        self._attempt = attempt
        self._source = source
        self._silence = Limit(stall_timeout, partial(_stalled, attempt.target))
        self._watch: Watch | None = None
        self.begun: list[Sequence[Chunk]] = []
        self.finished = False
        self.usage: Usage | None = None
        self.contents = 0

    async def begin(self, watch: Watch, timeout: float, *, prepares: bool = False) -> None:
        """Read until the first content, or the end of an answer without any.

        Args:
            watch: limits the wait.
            timeout: seconds until the first content.
            prepares: the first batch only says that the vendor is ready, and the seconds count from there.
        """
        target = self._attempt.target
        until = watch.now() + target.timeout
        self._silence = self._silence._replace(until=until)
        if prepares:
            watch.arm(target.timeout, partial(_unprepared, target))
            self.begun.append(await self.__anext__())
        watch.arm(timeout, partial(_without_content, target, timeout), until)
        while not self.contents and not self.finished:
            self.begun.append(await self.__anext__())

    @property
    def head(self) -> dict[str, Any]:
        """What every chunk of it repeats."""
        first = next((chunk.data for batch in self.begun for chunk in batch), {})
        return {name: first[name] for name in HEAD if name in first}

    def watched(self, watch: Watch) -> "Stream":
        """Iterate under this watch. Whatever the vendor sends ends its silence, a mere sign of life too."""
        self._watch = watch
        return self

    def relayed(self, watch: Watch, write: Callable[[bytes], bool]) -> "Stream":
        """Iterate under this watch over what the vendor does not pass on past it, by `Attempt.relay`.

        Args:
            watch: as for `watched`.
            write: writes to the client without waiting; False if it cannot.
        """
        silence = self._silence

        def relay(data: bytes, contents: int) -> bool:
            if not write(data):
                return False
            watch.limit = silence
            watch.heard = True
            self.contents += contents
            return True

        self._attempt.relay = relay
        return self.watched(watch)

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Sequence[Chunk]:
        watch = self._watch
        if watch is not None:
            watch.limit = self._silence
        try:
            batch = await self._source.__anext__()
        except StopAsyncIteration:
            if self.finished:
                raise
            raise UpstreamError(
                f"{self._attempt.target.vendor}: the stream ended before the answer was complete",
                code="upstream_truncated",
            ) from None
        except GatewayError:
            raise
        except BaseException as error:
            if not is_failure(error):
                raise
            raise _plugin_failed(self._attempt, error) from error
        if type(batch) is Frames:  # quicker than isinstance, which asks the abstract base class first
            self.contents += batch.contents
            if batch.finished:
                self.finished = True
            if batch.usage is not None:
                self.usage = batch.usage
            return batch
        try:
            for chunk in batch:
                self.contents += chunk.content
                self.finished = self.finished or chunk.finished
                self.usage = chunk.usage or self.usage
        except (AttributeError, TypeError):
            wrong = WrongResultError(self._source, "__anext__", batch, "a sequence of Chunks")
            raise _plugin_failed(self._attempt, wrong) from None
        return batch

    async def aclose(self) -> None:
        """Close the upstream, wherever the stream is."""
        self._attempt.relay = None  # which leads back here: all that was read would wait for the garbage collector
        await self._source.aclose()


class Attempts:
    """Makes attempts with the vendors of one gateway."""

    def __init__(self, settings: FailoverSettings, vendors: Mapping[str, Vendor], deadlines: Deadlines) -> None:
        self._settings = settings
        self._vendors = vendors
        self._deadlines = deadlines

    async def complete(self, call: Call, target: Target) -> Completion:
        """A whole answer.

        Raises:
            GatewayError: there is none, or none within the deployment's `timeout`.
        """
        vendor, attempt = self._prepared(call, target)
        with Watch(self._deadlines, target.timeout, partial(_late, target)):
            try:
                completion = await vendor.complete(attempt)
                if not isinstance(completion, Completion):
                    raise WrongResultError(vendor, "complete", completion, "a Completion")
            except GatewayError:
                raise
            except BaseException as error:
                if not is_failure(error):
                    raise
                raise _plugin_failed(attempt, error) from error
        if attempt.dropped or call.dropped:  # mostly not
            call.dropped = tuple(attempt.dropped)
        return completion

    async def stream(self, call: Call, target: Target) -> Stream:
        """A stream whose first content has arrived.

        Raises:
            GatewayError: it broke before that, or took longer than `first_token_timeout`.
        """
        vendor, attempt = self._prepared(call, target)
        source = cast("AsyncGenerator[Sequence[Chunk], None]", vendor.stream(attempt))
        stream = Stream(attempt, source, self._settings.stall_timeout)
        try:
            with self._deadlines.watch() as watch:
                prepares = getattr(vendor, "prepares", False)
                await stream.begin(watch, self._settings.first_token_timeout, prepares=prepares)
        except BaseException:
            # Also when cancelled: the client's leaving must not leave the upstream running.
            await _closed(stream)
            raise
        call.dropped = tuple(attempt.dropped)
        return stream

    def _prepared(self, call: Call, target: Target) -> tuple[Vendor, Attempt]:
        """The vendor, and the attempt to hand to it.

        Raises:
            InvalidRequest: no enabled plugin provides the vendor; it does not offer the operation; or its table refuses
                a parameter.
        """
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
        table = vendor.parameters.get(call.operation)
        if target.defaults and call.operation in ("chat", "completions"):
            attempt.defaults = left_open(call.payload, target.defaults, table)
        if table:
            attempt.sifted, attempt.dropped = sift(call.payload, table, vendor=target.vendor, strict=target.strict)
        if call.lost:
            _tell_lost(attempt, call.lost)
        if attempt.defaults:
            attempt.sifted = {**attempt.payload, **attempt.defaults}
        return vendor, attempt


async def _closed(stream: Stream) -> None:
    """Close a stream that has failed; what it fails of now as well is not told."""
    try:
        await stream.aclose()
    except BaseException as error:
        if not is_failure(error):
            raise


def _tell_lost(attempt: Attempt, lost: Sequence[str]) -> None:
    """Say what the surface has left out.

    Raises:
        InvalidRequest: the deployment is `strict`.
    """
    if attempt.target.strict:
        attempt.drop(lost[0])
    attempt.dropped = [*attempt.dropped, *lost]


def _stalled(target: Target) -> GatewayError:
    return UpstreamTimeout(f"{target.vendor}: silent for too long in the middle of the answer")


def _unprepared(target: Target) -> GatewayError:
    return UpstreamTimeout(f"{target.vendor}: not ready within {target.timeout:g} s")


def _without_content(target: Target, timeout: float) -> GatewayError:
    return UpstreamTimeout(f"{target.vendor}: no content within {timeout:g} s")


def _late(target: Target) -> GatewayError:
    return UpstreamTimeout(f"{target.vendor}: no answer within {target.timeout:g} s")


def _plugin_failed(attempt: Attempt, error: BaseException) -> UpstreamError:
    log.error("%s: vendor plugin %r failed", attempt.call.id, attempt.target.vendor, exc_info=error)
    return UpstreamError(
        f"{attempt.target.vendor}: the gateway could not handle the vendor's answer",
        code="vendor_plugin_error",
        retry=Retry.NEXT,
    )
