"""The life of a request, in order, on one screen: `Pipeline.serve`.

What each step does is in `stages` (the concerns), `failover` (the vendor) and `delivery` (the client).
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiohttp import web

from gatehook.deadlines import Deadlines
from gatehook.delivery import Delivery
from gatehook.errors import GatewayError
from gatehook.failover import Failover
from gatehook.model import Call, Entry
from gatehook.protocols import Authenticator, Endpoint, Limiter, Router
from gatehook.stages import Answers, Observers, Permits, authenticate, authorize, read_body, route
from gatehook.tools import Tools

__all__ = ["Pipeline"]

log = logging.getLogger("gatehook")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One gateway's concerns, collected from its plugins and frozen."""

    authenticators: Sequence[Authenticator]
    limiters: Sequence[Limiter]
    routers: Sequence[Router]
    tools: Tools
    answers: Answers
    observers: Observers
    failover: Failover
    deadlines: Deadlines
    max_body: int
    write_timeout: float
    settlements: set[asyncio.Future[None]] = field(default_factory=set)
    """What calls that are over still owe their limiters; a shutdown waits for it."""

    async def serve(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Answer one inference call of a client; errors become the surface's own, never an exception."""
        call = Call(endpoint.operation, endpoint.surface.name, request.headers, request.remote or "")
        permits = Permits()
        delivery = Delivery(call, endpoint.surface, request, self)
        try:
            self.observers.started(call)
            call.principal = await authenticate(self.authenticators, request)
            endpoint.surface.parse(call, request, await read_body(request, self.max_body))
            authorize(call)
            await permits.admit(self.limiters, call)
            await self.tools.offer(call)

            key = self.answers.key(call)
            if (entry := await self.answers.get(call, key)) is not None:
                await self.tools.judge_again(call, entry)
                return await delivery.replay(entry)

            targets = await route(self.routers, call)
            if call.stream:
                return await delivery.stream(await self.failover.stream(call, targets), key)

            completion = await self.failover.complete(call, targets)
            delivery.spent(completion)
            await self.tools.judge(call, completion)
            await self.answers.put(call, key, Entry(completion=completion))
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
                await permits.settle(outcome, self.settlements)
            finally:
                self.observers.finished(call, outcome)
