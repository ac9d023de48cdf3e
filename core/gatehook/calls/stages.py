"""The concerns of a request, one small function each, over tuples of plugin objects frozen at start-up.

Each returns at once when no plugin has registered for it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from msgspec import Struct

from gatehook.awaiting import awaited
from gatehook.calls.answers import Answers
from gatehook.calls.deadlines import Deadlines
from gatehook.calls.fitness import fitting
from gatehook.calls.observers import Observers
from gatehook.calls.transforms import Transforms
from gatehook.calls.usual import Usual, credential_in
from gatehook.errors import (
    AuthenticationFailed,
    GatewayError,
    ModelNotFound,
    PermissionDenied,
    Unavailable,
    WrongResultError,
)
from gatehook.estimates import look_again
from gatehook.failures import FAILURES, is_failure
from gatehook.groups import Group
from gatehook.model import ANONYMOUS, Call, Credential, Outcome, Principal, Target
from gatehook.protocols import (
    AttemptLimiter,
    Authenticator,
    ChangeLimiter,
    Limiter,
    Permit,
    RoundLimiter,
    Router,
    TellingLimiter,
)
from gatehook.services import Catalog
from gatehook.tools.own import OwnTools
from gatehook.tools.policies import ToolPolicies

__all__ = [
    "Ask",
    "Concerns",
    "Permits",
    "admit_change",
    "admit_round",
    "authenticate",
    "authorize",
    "route",
    "routed",
]

log = logging.getLogger("gatehook")

Ask = tuple[Callable[..., Any], object]
"""A limiter's `admit` or `admit_attempt`, and the limiter."""
Settle = Callable[[Outcome], Awaitable[None] | None]
"""A permit's `settle`."""


@dataclass(frozen=True, slots=True)
class Concerns:
    """What a call passes through, collected from the plugins and frozen. Sizes are in bytes, times in seconds."""

    authenticators: Sequence[Authenticator]
    limiters: Sequence[Limiter | AttemptLimiter]
    admits: Sequence[Ask]
    """Their `admit`."""
    routers: Sequence[Router]
    tools: ToolPolicies
    own_tools: OwnTools | None
    """None if there are none."""
    transforms: Transforms
    answers: Answers
    observers: Observers
    catalog: Catalog
    deadlines: Deadlines
    max_body: int
    read_timeout: float
    heartbeat: float
    """Seconds of silence in a stream before a sign of life; infinite for none."""
    passes_on: bool = field(init=False)
    """Whether calls only pass through: no plugin transforms or stores answers, offers tools, or judges tool calls."""
    changing: Sequence[ChangeLimiter] = field(init=False)
    """The limiters that are asked again about a request that has changed."""
    telling: Sequence[TellingLimiter] = field(init=False)
    """The limiters that also tell a caller's limits."""

    def __post_init__(self) -> None:
        looked_into = self.transforms or self.own_tools is not None or self.tools.policies or self.answers.caches
        object.__setattr__(self, "passes_on", not looked_into)
        object.__setattr__(self, "changing", tuple(one for one in self.limiters if isinstance(one, ChangeLimiter)))
        telling = tuple(one for one in self.limiters if isinstance(one, TellingLimiter))
        object.__setattr__(self, "telling", telling)


def authenticate(authenticators: Sequence[Authenticator], request: web.BaseRequest) -> Principal | Awaitable[Principal]:
    """Who is calling; anonymous if no authenticator is enabled. To be awaited only if one of them has to wait.

    Raises:
        AuthenticationFailed: no credential, a bad one, or one that no authenticator knows.
    """
    if not authenticators:
        return ANONYMOUS
    credential = request.credential if isinstance(request, Usual) else credential_in(request.headers)
    left = iter(authenticators)
    for authenticator in left:
        principal = authenticator.authenticate(credential)
        if type(principal) is Principal:
            return principal
        if principal is not None:
            return _authenticated(authenticator, principal, left, credential)
    raise _unknown(credential)


async def _authenticated(
    authenticator: Authenticator, given: Any, left: Iterator[Authenticator], credential: Credential
) -> Principal:
    """Await what one authenticator has returned, then ask those after it."""
    principal = await _identified(authenticator, given)
    for another in left:
        if principal is not None:
            break
        principal = await _identified(another, another.authenticate(credential))
    if principal is None:
        raise _unknown(credential)
    return principal


async def _identified(authenticator: Authenticator, given: Any) -> Principal | None:
    principal = await awaited(given)
    if not isinstance(principal, Principal | None):  # otherwise anything, even False, would pass for a principal
        raise WrongResultError(authenticator, "authenticate", principal, "a Principal or None")
    return principal


def _unknown(credential: Credential) -> AuthenticationFailed:
    if not credential.token:
        return AuthenticationFailed("no API key given; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
    return AuthenticationFailed("the API key is not valid")


def authorize(call: Call, catalog: Catalog) -> None:
    """Check that this principal may use the model, by the name it asked for or by the model's own.

    Raises:
        PermissionDenied: it may not.
    """
    principal = call.principal
    if principal.models is not None and not principal.may_use(call.model, catalog.canonical(call.model)):
        raise PermissionDenied(
            f"this key may not use the model {call.model!r}", param="model", code="model_not_allowed"
        )


def route(routers: Sequence[Router], call: Call) -> Group | Awaitable[Sequence[Target]]:
    """The deployments to try, all fit for the call; to be awaited unless a router has a group that is fit for all.

    Raises:
        ModelNotFound: no router knows the model. Unavailable: there is no router at all.
        InvalidRequest: no deployment can serve this request.
    """
    left = iter(routers)
    for router in left:
        targets = router.route(call)
        if type(targets) is Group and targets and targets.is_fit_for_all:
            return targets
        if targets is not None:
            return _routed(router, targets, left, call)
    raise _unrouted(routers, call)


async def routed(routers: Sequence[Router], call: Call) -> Sequence[Target]:
    """The same, awaited."""
    targets = route(routers, call)
    return targets if type(targets) is Group else await awaited(targets)


async def _routed(router: Router, given: Any, left: Iterator[Router], call: Call) -> Sequence[Target]:
    """Await what one router has returned, then ask those after it."""
    targets = await _chosen(router, given)
    for another in left:
        if targets:
            break
        targets = await _chosen(another, another.route(call))
    if not targets:
        raise _unrouted([router], call)
    return targets if type(targets) is Group and targets.is_fit_for_all else fitting(call, targets)


async def _chosen(router: Router, given: Any) -> Sequence[Target]:
    targets = await awaited(given)
    if targets and not (isinstance(targets, Sequence) and isinstance(targets[0], Target)):
        raise WrongResultError(router, "route", targets, "a sequence of Targets or None")
    return targets or ()


def _unrouted(routers: Sequence[Router], call: Call) -> GatewayError:
    if not routers:
        return Unavailable("no routing plugin is enabled; enable one, e.g. [plugins.route_models]", code="no_router")
    return ModelNotFound(f"the model {call.model!r} does not exist; GET /v1/models lists those that do", param="model")


async def admit_change(limiters: Sequence[ChangeLimiter], call: Call) -> None:
    """Ask the limiters about a request that is not what they have admitted.

    Raises:
        RateLimited: one refused.
    """
    look_again(call)
    for limiter in limiters:
        await limiter.admit_change(call)


async def admit_round(limiters: Sequence[Limiter | AttemptLimiter], call: Call) -> None:
    """Ask the limiters that are asked again before a model is called once more for the same call.

    Raises:
        RateLimited: one refused.
    """
    look_again(call)  # the request has grown by what came of the round before
    for limiter in limiters:
        if isinstance(limiter, RoundLimiter):
            await limiter.admit_round(call)


class Permits(Struct, eq=False):
    """What the limiters have reserved for one call, and for its current attempt."""

    _settlements: set[asyncio.Future[None]]
    """Where settlements that take time are kept, so that a shutdown can wait for them."""
    held: list[Settle] = []
    """The `settle` of each permit that is still to be settled.

    The methods are kept, as looking them up later, on objects of several classes, would take longer.
    """
    _attempt: int | None = None
    """Where the current attempt's own permits begin among them; None before the first attempt."""

    def admit(self, asks: Sequence[Ask], call: Call) -> Awaitable[None] | None:
        """Ask every limiter; returns what is to be awaited, if one of them has to wait.

        Raises:
            RateLimited: one refused; what the others reserved is settled with the rest of the call.
        """
        held, left = self.held, iter(asks)
        for ask, limiter in left:
            permit = ask(call)
            if permit is not None:
                try:
                    held.append(permit.settle)
                except AttributeError:  # not a permit yet, but an awaitable
                    return self._admit_rest("admit", limiter, permit, left, call)
        return None

    def admit_attempt(self, asks: Sequence[Ask], call: Call, target: Target) -> Awaitable[None] | None:
        """Ask every limiter that looks at deployments, as `admit` does.

        Raises:
            RateLimited: one refused; `attempt_failed` is still owed.
        """
        held, left = self.held, iter(asks)
        self._attempt = len(held)
        for ask, limiter in left:
            permit = ask(call, target)
            if permit is not None:
                try:
                    held.append(permit.settle)
                except AttributeError:  # not a permit yet, but an awaitable
                    return self._admit_rest("admit_attempt", limiter, permit, left, call, target)
        return None

    async def _admit_rest(
        self, method: str, limiter: object, given: Any, left: Iterator[Ask], *arguments: object
    ) -> None:
        """Await what one limiter has returned, then ask those after it."""
        await self._hold(limiter, method, given)
        for ask, limiter in left:
            permit = ask(*arguments)
            if permit is not None:
                await self._hold(limiter, method, permit)

    async def _hold(self, limiter: object, method: str, given: Any) -> None:
        settle = getattr(given, "settle", None) or await _waited(limiter, method, given)
        if settle is not None:
            self.held.append(settle)

    async def attempt_failed(self, error: GatewayError) -> None:
        """Settle what was reserved for this attempt only: it has failed, and another deployment may follow."""
        held, self.held[self._attempt :] = self.held[self._attempt :], []
        if held:
            outcome = Outcome("failed", error.status, code=error.code or error.type)
            if (waits := self.settle(outcome, held)) is not None:
                await waits

    async def round_over(self, outcome: Outcome) -> None:
        """Settle what was reserved for this attempt only: it has answered, and the vendor is called once more."""
        if self._attempt is not None:
            held, self.held[self._attempt :] = self.held[self._attempt :], []
            if (waits := self.settle(outcome, held)) is not None:
                await waits

    async def settle_rounds(self, outcome: Outcome, last_round: Outcome) -> None:
        """Settle every permit that is left: the last attempt's by the last round, all others by the whole call."""
        try:
            await self.round_over(last_round)
        finally:
            if (waits := self.settle(outcome)) is not None:
                await waits

    def settle(self, outcome: Outcome, held: list[Settle] | None = None) -> Awaitable[None] | None:
        """Settle every permit that is left, or these, in reverse; returns what is to be awaited, if one has to wait.

        What is awaited goes on to its end even if the task that awaits it is cancelled, as when the client leaves.
        """
        if held is None:
            held = self.held
        while held:
            settle = held.pop()
            try:
                waits = settle(outcome)
            except FAILURES as error:  # the others are settled all the same
                _unsettled(settle, error)
                continue
            if waits is not None:
                settling = asyncio.ensure_future(self._settle_rest(settle, waits, held, outcome))
                self._settlements.add(settling)
                settling.add_done_callback(self._settlements.discard)
                return asyncio.shield(settling)
        return None

    async def _settle_rest(self, settle: Settle, waits: Awaitable[None], held: list[Settle], outcome: Outcome) -> None:
        """Await one that is being settled, then settle those before it."""
        try:
            await waits
        except BaseException as error:
            if not is_failure(error):
                raise
            _unsettled(settle, error)
        finally:
            if (rest := self.settle(outcome, held)) is not None:
                await rest


async def _waited(limiter: object, method: str, given: Awaitable[Permit | None] | Permit) -> Settle | None:
    """The `settle` of a limiter's permit, awaited if need be; None if it gave none.

    Raises:
        WrongResultError: it gave something that is not a permit.
    """
    permit = await given if isinstance(given, Awaitable) else given
    if permit is None:
        return None
    if not hasattr(permit, "settle"):  # perhaps False, which was meant to refuse
        raise WrongResultError(limiter, method, permit, "a Permit or None")
    return permit.settle


def _unsettled(settle: Settle, error: BaseException) -> None:
    permit = getattr(settle, "__self__", settle)
    log.error("a permit of %s could not be settled", type(permit).__name__, exc_info=error)
