"""The life of a request, in order, on one screen: `Pipeline.serve`, and `run` for calls without a connection.

What each step does is in `stages` (the concerns), `failover` (the vendor) and `delivery` (the client); what became of
it is kept in a `record`.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiohttp import web

from gatehook.answers import Lookup
from gatehook.delivery import Delivery
from gatehook.errors import GatewayError
from gatehook.failover import Failover
from gatehook.fitness import fitting
from gatehook.model import Call, Completion, Entry, Target
from gatehook.protocols import Endpoint
from gatehook.record import Record
from gatehook.stages import Concerns, Permits, authenticate, authorize, read_body, route
from gatehook.tool_loop import ToolLoop
from gatehook.tool_stream import RoundsStream

__all__ = ["Pipeline"]

log = logging.getLogger("gatehook")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Takes calls through the concerns of one gateway."""

    concerns: Concerns
    failover: Failover
    settlements: set[asyncio.Future[None]] = field(default_factory=set)
    """What calls that are over still owe their limiters; a shutdown waits for it."""

    async def serve(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Answer one inference call of a client; errors become the surface's own, never an exception."""
        call = Call(endpoint.operation, endpoint.surface.name, request.headers, request.remote or "")
        concerns, permits, record = self.concerns, Permits(self.settlements), Record(call)
        delivery = Delivery(call, endpoint.surface, request, concerns, record)
        try:
            concerns.observers.started(call)
            call.principal = await authenticate(concerns.authenticators, request)
            endpoint.surface.parse(call, request, await read_body(request, concerns))
            key, entry = await self._admitted(call, permits)
            if entry is not None:
                return await delivery.replay(entry)
            if call.stream:
                stream = await self.failover.stream(call, await self._targets(call), permits)
                if call.own_tools:
                    rounds = RoundsStream(self._loop(call, permits, record), stream)
                    return await delivery.stream(rounds, key)
                return await delivery.stream(stream, key)
            return await delivery.answer(await self._completed(call, key, permits, record))
        except GatewayError as error:
            return await delivery.refuse(error)
        except asyncio.CancelledError:
            delivery.client_left()
            raise
        except Exception as error:
            if delivery.is_lost(error):
                return delivery.client_left()
            log.exception("%s: internal error", call.id)
            return await delivery.refuse(_internal(call))
        finally:
            await self._ended(call, permits, record)

    async def run(self, call: Call) -> Completion:
        """Make a plain call that has no connection of its own: one of a batch. What it is counted as, it is counted.

        Args:
            call: parsed, its principal known.

        Raises:
            GatewayError: what its client is to be told.
        """
        permits, record = Permits(self.settlements), Record(call)
        try:
            self.concerns.observers.started(call)
            key, entry = await self._admitted(call, permits)
            if entry is not None and entry.completion is not None:
                record.cached()
                return entry.completion
            completion = await self._completed(call, key, permits, record)
            record.complete()
            return completion
        except GatewayError as error:
            record.refused(error)
            raise
        except asyncio.CancelledError:
            record.client_left()
            raise
        except Exception:
            log.exception("%s: internal error", call.id)
            fault = _internal(call)
            record.refused(fault)
            raise fault from None
        finally:
            await self._ended(call, permits, record)

    async def _admitted(self, call: Call, permits: Permits) -> tuple[Lookup | None, Entry | None]:
        """Let the call in; gives under what its answer may be stored, and the answer if one is."""
        concerns = self.concerns
        authorize(call, concerns.catalog)
        await permits.admit(concerns.limiters, call)
        if concerns.own_tools is not None:
            concerns.own_tools.offer(call)
        await concerns.tools.offer(call)
        key = concerns.answers.key(call)
        entry = await concerns.answers.get(call, key)
        if entry is not None:
            await concerns.tools.judge_again(call, entry)
        return key, entry

    async def _targets(self, call: Call) -> Sequence[Target]:
        return fitting(call, await route(self.concerns.routers, call))

    async def _completed(self, call: Call, key: Lookup | None, permits: Permits, record: Record) -> Completion:
        """A whole answer of a vendor, as it may go out."""
        concerns = self.concerns
        if call.own_tools:
            completion = await self._loop(call, permits, record).complete()
        else:
            completion = await self.failover.complete(call, await self._targets(call), permits)
            record.spent(completion)
        await concerns.tools.judge(call, completion)
        await concerns.answers.put(call, key, Entry(completion=completion))
        return completion

    def _loop(self, call: Call, permits: Permits, record: Record) -> ToolLoop:
        return ToolLoop(call, self.concerns, self.failover, permits, record)

    async def _ended(self, call: Call, permits: Permits, record: Record) -> None:
        """Settle, and tell everybody who watches."""
        outcome = record.outcome()
        try:
            await permits.settle(outcome, record.outcome_of_round() if call.tool_rounds else None)
        finally:
            self.concerns.observers.finished(call, outcome)


def _internal(call: Call) -> GatewayError:
    return GatewayError(f"internal error; the gateway's log tells more under {call.id}")
