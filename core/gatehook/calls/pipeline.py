"""The life of a request, in order, on one screen: `Pipeline.serve`, and `run` for calls without a connection.

What each step does is in `stages` (the concerns), `failover` (the vendor) and `delivery` (the client); a `record` keeps
how the call ends.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable
from dataclasses import dataclass, field

from aiohttp import web

from gatehook.accounts import Usage
from gatehook.awaiting import awaited
from gatehook.calls.answers import Lookup
from gatehook.calls.attempts import Stream
from gatehook.calls.bodies import check_body, check_type, read_body
from gatehook.calls.delivery import Delivery
from gatehook.calls.failover import Failover
from gatehook.calls.ready import Ready
from gatehook.calls.record import Record
from gatehook.calls.stages import (
    Concerns,
    Permits,
    admit_change,
    admit_round,
    authenticate,
    authorize,
    route,
    routed,
)
from gatehook.calls.tool_loop import ToolLoop, after_said
from gatehook.calls.tool_stream import RoundsStream
from gatehook.calls.transforms import rewritten
from gatehook.errors import GatewayError, InvalidRequest
from gatehook.failures import is_failure
from gatehook.groups import Group
from gatehook.model import Call, Completion, Entry, Outcome, Principal
from gatehook.protocols import Endpoint
from gatehook.services.jobs import JobQueue

__all__ = ["Pipeline"]

log = logging.getLogger("gatehook")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Takes calls through the concerns of one gateway."""

    concerns: Concerns
    failover: Failover
    settlements: set[asyncio.Future[None]] = field(default_factory=set)
    """Permits of finished calls that are still being settled; a shutdown waits for them."""
    jobs: JobQueue | None = None
    """Takes the calls whose clients do not wait for the answer."""

    async def serve(
        self, endpoint: Endpoint, request: web.Request, body: bytes | None = None, *, parsed: Call | None = None
    ) -> web.StreamResponse:
        """Answer one inference call of a client; errors become the surface's own, never an exception.

        Args:
            endpoint: the path that is called.
            request: the client's.
            body: the request's, if all of it has arrived.
            parsed: the call, if a plugin's own route has made it of the request already; its principal is known.
        """
        call = parsed or Call(endpoint.operation, endpoint.surface.name, request.headers, request.remote or "")
        concerns, permits, record = self.concerns, Permits(self.settlements), Record(call)
        text, repeated = b"", True
        delivery = Delivery(call, endpoint.surface, request, concerns, record)
        try:
            concerns.observers.started(call)
            if parsed is None:
                who = authenticate(concerns.authenticators, request)
                call.principal = who if type(who) is Principal else await awaited(who)
                check_type(request)
                text = await read_body(request, concerns) if body is None else body
                repeated = self._read(endpoint, call, request, text)
            if call.deferred:
                return await delivery.accepted(await self._submitted(call))
            authorize(call, concerns.catalog)
            if (waits := permits.admit(concerns.admits, call)) is not None:
                await waits
            if concerns.passes_on and not call.stream:
                way = route(concerns.routers, call)
                targets = way if type(way) is Group else await awaited(way)
                completion = await self.failover.complete(call, targets, permits)
                record.spent(completion)
                answer = delivery.answer(completion)
                return answer if type(answer) is Ready else await awaited(answer)
            key, entry = await self._looked_up(call)
            if entry is not None:
                if not (repeated or concerns.transforms):
                    concerns.answers.repeats.remember(endpoint, call, text)
                return await delivery.replay(entry)
            if call.stream:
                again = functools.partial(self._streamed_again, call, permits, record)
                return await delivery.stream(await self._streamed(call, permits, record), key, again)
            return await awaited(delivery.answer(await self._completed(call, key, permits, record)))
        except BaseException as error:  # noqa: BLE001  # what ends more than this call is raised again
            return await self._failed(call, delivery, error)
        finally:
            if (waits := self._ended(call, permits, record)) is not None:
                await waits

    async def run(self, call: Call) -> Completion:
        """Make a plain call that has no connection of its own, such as one of a batch; it is counted like any other.

        Args:
            call: parsed, its principal known.

        Raises:
            GatewayError: what its client is to be told.
        """
        permits, record = Permits(self.settlements), Record(call)
        try:
            self.concerns.observers.started(call)
            authorize(call, self.concerns.catalog)
            if (waits := permits.admit(self.concerns.admits, call)) is not None:
                await waits
            key, entry = await self._looked_up(call)
            if entry is not None and entry.completion is not None:
                record.cached()
                return entry.completion
            completion = await self._completed(call, key, permits, record)
            record.complete()
            return completion
        except GatewayError as error:
            record.refused(error)
            raise
        except BaseException as error:
            if not is_failure(error):
                if isinstance(error, asyncio.CancelledError):
                    record.client_left()
                raise
            log.exception("%s: internal error", call.id)
            fault = _internal(call)
            record.refused(fault)
            raise fault from None
        finally:
            if (waits := self._ended(call, permits, record)) is not None:
                await waits

    async def _failed(self, call: Call, delivery: Delivery, error: BaseException) -> web.StreamResponse:
        """Tell the client what went wrong, if it is still there. What ends more than this call is raised again."""
        if isinstance(error, GatewayError):
            return await delivery.refuse(error)
        if delivery.is_lost(error):
            return delivery.client_left()
        if not is_failure(error):
            if isinstance(error, asyncio.CancelledError):
                delivery.client_left()
            raise error
        log.error("%s: internal error", call.id, exc_info=error)
        return await delivery.refuse(_internal(call))

    def _read(self, endpoint: Endpoint, call: Call, request: web.Request, body: bytes) -> bool:
        """Parse the request; True if that was not needed, as the same bytes were answered from a cache lately."""
        concerns = self.concerns
        if not concerns.passes_on and concerns.answers.repeats.recall(endpoint, call, body):
            return True
        check_body(body, concerns)
        endpoint.surface.parse(call, request, body)
        return False

    async def _looked_up(self, call: Call) -> tuple[Lookup | None, Entry | None]:
        """Let plugins change the request; returns what its answer may be stored under, and the stored answer if any."""
        concerns = self.concerns
        if concerns.passes_on:
            return None, None
        admitted = call.body
        if concerns.transforms:
            await concerns.transforms.request(call)
        if concerns.own_tools is not None:
            concerns.own_tools.offer(call)
        if concerns.tools.policies:
            await concerns.tools.offer(call)
        key, entry = concerns.answers.key(call), None
        if key is not None:
            entry = await concerns.answers.get(call, key)
            if entry is not None:
                if call.rewriter is not None:
                    entry = rewritten(call, entry)
                entry = await concerns.tools.judge_again(call, entry) if concerns.tools.policies else entry
                if entry is None:  # its calls are wrong by now: the model is told so, and what it says is not stored
                    key = None
            concerns.answers.mark(call, entry)
        if entry is None and call.body is not admitted:
            await admit_change(concerns.changing, call)
        return key, entry

    async def _submitted(self, call: Call) -> str:
        """Queue a call as a job; returns the job's id. Limits count the call when it is made.

        Raises:
            InvalidRequest: no plugin keeps jobs, or the call is for a stream.
            GatewayError: see `JobQueue.submit`.
        """
        if self.jobs is None:
            raise InvalidRequest(
                "async: this gateway keeps no jobs; enable [plugins.jobs], or leave async out",
                param="async",
                code="jobs_disabled",
            )
        if call.stream:
            raise InvalidRequest(
                "stream: the answer of a job cannot be streamed; leave out stream, or async", param="stream"
            )
        authorize(call, self.concerns.catalog)
        return await self.jobs.submit(call, await routed(self.concerns.routers, call))

    async def _completed(self, call: Call, key: Lookup | None, permits: Permits, record: Record) -> Completion:
        """A whole answer of a vendor, as the client gets it."""
        concerns = self.concerns
        completion = await self._answered(call, permits, record)
        answer = _told(call, completion)
        judged = await self._judged(call, answer, permits, record) if concerns.tools.policies else answer
        if key is not None and judged is answer:
            await concerns.answers.put(call, key, Entry(completion=completion))
        return judged

    async def _answered(self, call: Call, permits: Permits, record: Record) -> Completion:
        """One whole answer; where the gateway's own tools are run, the one after the last run."""
        if call.own_tools:
            return await self._loop(call, permits, record).complete()
        completion = await self.failover.complete(call, await routed(self.concerns.routers, call), permits)
        record.spent(completion)
        return completion

    async def _streamed(self, call: Call, permits: Permits, record: Record) -> Stream | RoundsStream:
        """The same as a stream, whose first content has arrived."""
        stream = await self.failover.stream(call, await routed(self.concerns.routers, call), permits)
        return RoundsStream(self._loop(call, permits, record), stream) if call.own_tools else stream

    async def _judged(self, call: Call, completion: Completion, permits: Permits, record: Record) -> Completion:
        """The answer as the tool policies let it out, after as many rounds as the model needs for correct calls."""
        judged = await self.concerns.tools.judge(call, completion)
        while judged is None:
            await self._round_over(call, permits, record)
            completion = _told(call, await self._answered(call, permits, record))
            judged = await self.concerns.tools.judge(call, _in_all(completion, record.streamed()))
        return judged

    async def _streamed_again(self, call: Call, permits: Permits, record: Record) -> Stream | RoundsStream:
        """The next stream of the same answer."""
        await self._round_over(call, permits, record)
        return await self._streamed(call, permits, record)

    async def _round_over(self, call: Call, permits: Permits, record: Record) -> None:
        """Close a round: the vendor has answered, and will be called once more."""
        await permits.round_over(record.outcome_of_round(over=True))
        record.next_round()
        await admit_round(self.concerns.limiters, call)

    def _loop(self, call: Call, permits: Permits, record: Record) -> ToolLoop:
        return ToolLoop(call, self.concerns, self.failover, permits, record)

    def _ended(self, call: Call, permits: Permits, record: Record) -> Awaitable[None] | None:
        """Settle the permits, and tell the observers; returns what is to be awaited, if anything."""
        outcome = record.outcome()
        waits: Awaitable[None] | None = None
        try:
            if permits.held:
                if call.tool_rounds or call.rounds:
                    waits = permits.settle_rounds(outcome, record.outcome_of_round())
                else:
                    waits = permits.settle(outcome)
        except BaseException:  # a limiter may be interrupted in its own code
            self.concerns.observers.finished(call, outcome)
            raise
        if waits is not None:
            return self._settled(waits, call, outcome)
        self.concerns.observers.finished(call, outcome)
        return None

    async def _settled(self, waits: Awaitable[None], call: Call, outcome: Outcome) -> None:
        try:
            await waits
        finally:
            self.concerns.observers.finished(call, outcome)


def _internal(call: Call) -> GatewayError:
    return GatewayError(f"internal error; the gateway's log tells more under {call.id}")


def _told(call: Call, completion: Completion) -> Completion:
    """A vendor's answer as the client gets it: rewritten, and preceded by what was said before tools were run."""
    answer = completion if call.rewriter is None else call.rewriter.completion(completion)
    return after_said(call.said, answer) if call.said else answer


def _in_all(completion: Completion, usage: Usage | None) -> Completion:
    """The last of several answers, with the usage of all of them."""
    return completion if usage is None else Completion({**completion.data, "usage": usage.as_openai()}, usage=usage)
