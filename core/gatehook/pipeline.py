"""The life of a request, in order, on one screen: `Pipeline.serve`.

What each step does is in `stages` (the concerns), `failover` (the vendor) and `delivery` (the client).
"""

import asyncio
import logging
from dataclasses import dataclass, field

from aiohttp import web

from gatehook.delivery import Delivery
from gatehook.errors import GatewayError
from gatehook.failover import Failover
from gatehook.fitness import fitting
from gatehook.model import Call, Entry
from gatehook.protocols import Endpoint
from gatehook.stages import Concerns, Permits, authenticate, authorize, read_body, route

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
        concerns, permits = self.concerns, Permits(self.settlements)
        delivery = Delivery(call, endpoint.surface, request, concerns)
        try:
            concerns.observers.started(call)
            call.principal = await authenticate(concerns.authenticators, request)
            endpoint.surface.parse(call, request, await read_body(request, concerns))
            authorize(call, concerns.catalog)
            await permits.admit(concerns.limiters, call)
            await concerns.tools.offer(call)

            key = concerns.answers.key(call)
            if (entry := await concerns.answers.get(call, key)) is not None:
                await concerns.tools.judge_again(call, entry)
                return await delivery.replay(entry)

            targets = fitting(call, await route(concerns.routers, call))
            if call.stream:
                return await delivery.stream(await self.failover.stream(call, targets, permits), key)

            completion = await self.failover.complete(call, targets, permits)
            delivery.spent(completion)
            await concerns.tools.judge(call, completion)
            await concerns.answers.put(call, key, Entry(completion=completion))
            return await delivery.answer(completion)
        except GatewayError as error:
            return await delivery.refuse(error)
        except asyncio.CancelledError:
            delivery.client_left()
            raise
        except Exception as error:
            if delivery.is_lost(error):
                return delivery.client_left()
            log.exception("%s: internal error", call.id)
            return await delivery.refuse(GatewayError(f"internal error; the gateway's log tells more under {call.id}"))
        finally:
            outcome = delivery.outcome()
            try:
                await permits.settle(outcome)
            finally:
                concerns.observers.finished(call, outcome)
