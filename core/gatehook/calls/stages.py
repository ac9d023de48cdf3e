"""The concerns of a request, one small function each, over tuples of plugin objects frozen at start-up.

Each returns at once when no plugin has signed up for it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientPayloadError, hdrs, web
from aiohttp.http import HttpProcessingError

from gatehook.awaiting import awaited
from gatehook.calls.answers import Answers
from gatehook.calls.deadlines import Deadlines
from gatehook.calls.fitness import fitting
from gatehook.calls.transforms import Transforms
from gatehook.calls.usual import JSON, Usual, credential_in
from gatehook.codings import TooLong, codings, inflated
from gatehook.errors import (
    AuthenticationFailed,
    BodyTooLarge,
    GatewayError,
    InvalidRequest,
    ModelNotFound,
    PermissionDenied,
    RequestTimeout,
    Unavailable,
    UnsupportedMediaType,
    WrongResultError,
)
from gatehook.groups import Group
from gatehook.jsonio import MalformedJSON, check_depth
from gatehook.model import ANONYMOUS, Call, Chunk, Credential, Outcome, Principal, Target
from gatehook.protocols import (
    AttemptLimiter,
    Authenticator,
    Limiter,
    Observer,
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
    "Observers",
    "Permits",
    "admit_round",
    "authenticate",
    "authorize",
    "check_body",
    "check_type",
    "read_body",
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
    observers: "Observers"
    catalog: Catalog
    deadlines: Deadlines
    max_body: int
    read_timeout: float
    write_timeout: float
    heartbeat: float
    """Of silence in a stream; infinite for none."""
    passes_on: bool = field(init=False)
    """Whether no plugin changes requests and answers, judges or keeps them: most calls only pass through."""
    telling: Sequence[TellingLimiter] = field(init=False)
    """Those of the limiters that also tell how a caller stands."""

    def __post_init__(self) -> None:
        looked_into = self.transforms or self.own_tools is not None or self.tools.policies or self.answers.caches
        object.__setattr__(self, "passes_on", not looked_into)
        telling = tuple(one for one in self.limiters if isinstance(one, TellingLimiter))
        object.__setattr__(self, "telling", telling)


def authenticate(authenticators: Sequence[Authenticator], request: web.BaseRequest) -> Principal | Awaitable[Principal]:
    """Who is calling; anonymous if no authenticator is enabled. To be waited for only where one of them waits.

    Raises:
        AuthenticationFailed: no credential, a bad one, or one that nobody knows.
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
    """Wait for what one authenticator has given, then ask those after it."""
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
    if not isinstance(principal, Principal | None):  # False, for one, would be somebody
        raise WrongResultError(authenticator, "authenticate", principal, "a Principal or None")
    return principal


def _unknown(credential: Credential) -> AuthenticationFailed:
    if not credential.token:
        return AuthenticationFailed("no API key given; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
    return AuthenticationFailed("the API key is not valid")


async def read_body(request: web.Request, concerns: Concerns) -> bytes:
    """The request's body, once it has arrived.

    Raises:
        BodyTooLarge, InvalidRequest, RequestTimeout: too large, broken off, too slow.
        UnsupportedMediaType: it is encoded in a way that is not known here.
    """
    try:
        with concerns.deadlines.watch(concerns.read_timeout, _body_too_slow):
            body = await request.read()
        if hdrs.CONTENT_ENCODING in request.headers:
            return await _undone(request, body, concerns.max_body)
        return body
    except (web.HTTPRequestEntityTooLarge, TooLong):
        raise _too_large(concerns) from None
    except (web.RequestPayloadError, ConnectionError, ValueError) as error:
        raise InvalidRequest(f"the body cannot be read: {error}") from None


async def _undone(request: web.Request, body: bytes, most: int) -> bytes:
    """A body without the codings that aiohttp leaves: other names of those it knows, and several at once."""
    is_undone = request._message.compression is not None  # noqa: SLF001  # it tells nobody else
    encodings = codings(request.headers.getall(hdrs.CONTENT_ENCODING), undone=is_undone)
    if encodings is None and body.lstrip()[:1] != b"{":  # some say "utf-8"
        raise UnsupportedMediaType("the body's Content-Encoding is not known here; send it as it is, or as gzip")
    try:
        return await asyncio.to_thread(inflated, body, encodings, most) if encodings else body
    except (ClientPayloadError, HttpProcessingError) as error:
        raise InvalidRequest(f"the body cannot be read: its Content-Encoding cannot be undone: {error}") from None


def check_type(request: web.Request) -> None:
    """Check that the body is declared as JSON, or not at all.

    Raises:
        UnsupportedMediaType: it is not.
    """
    if isinstance(request, Usual) and request.is_json:
        return
    declared = request.headers.get(hdrs.CONTENT_TYPE, JSON)
    if declared != JSON and not (request.content_type == JSON or request.content_type.endswith("+json")):
        raise UnsupportedMediaType(f"Content-Type is {request.content_type!r}; send application/json")


def check_body(body: bytes, concerns: Concerns) -> None:
    """Check what can be told of a body before it is parsed.

    Raises:
        BodyTooLarge, InvalidRequest: too large, empty, too deep.
    """
    if len(body) > concerns.max_body:
        raise _too_large(concerns)
    if not body:
        raise InvalidRequest("the body is empty; send a JSON object")
    try:
        check_depth(body)
    except MalformedJSON as error:
        raise InvalidRequest(f"the body is {error}", code="invalid_json") from None


def _too_large(concerns: Concerns) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {concerns.max_body} bytes (server.max_body)")


def _body_too_slow() -> GatewayError:
    return RequestTimeout("the body did not arrive in time (server.read_timeout)")


def authorize(call: Call, catalog: Catalog) -> None:
    """Check that the model is this principal's to use: by the name that was asked for, or the one it is an alias of.

    Raises:
        PermissionDenied: it is not.
    """
    principal = call.principal
    if principal.models is not None and not principal.may_use(call.model, catalog.canonical(call.model)):
        raise PermissionDenied(
            f"this key may not use the model {call.model!r}", param="model", code="model_not_allowed"
        )


def route(routers: Sequence[Router], call: Call) -> Group | Awaitable[Sequence[Target]]:
    """The deployments to try, all of them fit for the call: mostly a group that is known to be, else to be waited for.

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
    """The same, waited for."""
    targets = route(routers, call)
    return targets if type(targets) is Group else await awaited(targets)


async def _routed(router: Router, given: Any, left: Iterator[Router], call: Call) -> Sequence[Target]:
    """Wait for what one router has given, then ask those after it."""
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


async def admit_round(limiters: Sequence[Limiter | AttemptLimiter], call: Call) -> None:
    """Ask the limiters that want to be asked before a model is called once more for a call.

    Raises:
        RateLimited: one refused.
    """
    call.size = None  # the request has grown by what came of the round before
    for limiter in limiters:
        if isinstance(limiter, RoundLimiter):
            await limiter.admit_round(call)


class Permits:
    """What the limiters reserved for one call, and for the attempt it is in."""

    __slots__ = ("_attempt", "_settlements", "held")

    def __init__(self, settlements: set[asyncio.Future[None]]) -> None:
        """`settlements` is where to keep what is still going on, so that a shutdown can wait for it."""
        self._settlements = settlements
        self.held: list[Settle] = []
        """What there is to settle: methods of permits.

        To look them up later, each on an object of another class, would take longer.
        """
        self._attempt: int | None = None
        """How many of them are not the attempt's alone; None before the first."""

    def admit(self, asks: Sequence[Ask], call: Call) -> Awaitable[None] | None:
        """Ask every limiter. Gives what is to be waited for, if one of them waits.

        Raises:
            RateLimited: one refused; what the others reserved is settled with the rest of the call.
        """
        held, left = self.held, iter(asks)
        for ask, limiter in left:
            permit = ask(call)
            if permit is not None:
                try:
                    held.append(permit.settle)
                except AttributeError:  # it is none yet
                    return self._admit_rest("admit", limiter, permit, left, call)
        return None

    def admit_attempt(self, asks: Sequence[Ask], call: Call, target: Target) -> Awaitable[None] | None:
        """Ask every limiter that looks at deployments; as `admit`.

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
                except AttributeError:  # it is none yet
                    return self._admit_rest("admit_attempt", limiter, permit, left, call, target)
        return None

    async def _admit_rest(
        self, method: str, limiter: object, given: Any, left: Iterator[Ask], *arguments: object
    ) -> None:
        """Wait for what one limiter has given, then ask those after it."""
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
        """Settle what was reserved for this attempt only: another deployment may follow."""
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
        """Settle every permit that is left, the last attempt's with the last of several rounds."""
        try:
            await self.round_over(last_round)
        finally:
            if (waits := self.settle(outcome)) is not None:
                await waits

    def settle(self, outcome: Outcome, held: list[Settle] | None = None) -> Awaitable[None] | None:
        """Settle every permit that is left, or these, in reverse. Gives what is to be waited for, if one of them waits.

        That goes on to the end, even when the client's leaving cancels who waits for it.
        """
        if held is None:
            held = self.held
        while held:
            settle = held.pop()
            try:
                waits = settle(outcome)
            except (Exception, SystemExit) as error:  # noqa: BLE001  # the others are settled all the same
                _unsettled(settle, error)
                continue
            if waits is not None:
                settling = asyncio.ensure_future(self._settle_rest(settle, waits, held, outcome))
                self._settlements.add(settling)
                settling.add_done_callback(self._settlements.discard)
                return asyncio.shield(settling)
        return None

    async def _settle_rest(self, settle: Settle, waits: Awaitable[None], held: list[Settle], outcome: Outcome) -> None:
        """Wait for one that is being settled, then settle those before it."""
        try:
            await waits
        except (Exception, SystemExit) as error:  # noqa: BLE001
            _unsettled(settle, error)
        if (rest := self.settle(outcome, held)) is not None:
            await rest


async def _waited(limiter: object, method: str, given: Awaitable[Permit | None] | Permit) -> Settle | None:
    """What settles the permit of a limiter that has to wait for it; None without one.

    Raises:
        WrongResultError: it is none.
    """
    permit = await given if isinstance(given, Awaitable) else given
    if permit is None:
        return None
    if not hasattr(permit, "settle"):  # False, for one, was meant to refuse
        raise WrongResultError(limiter, method, permit, "a Permit or None")
    return permit.settle


def _unsettled(settle: Settle, error: BaseException) -> None:
    permit = getattr(settle, "__self__", settle)
    log.error("a permit of %s could not be settled", type(permit).__name__, exc_info=error)


class Observers:
    """Calls every observer's overridden methods; what nobody overrides costs nothing, what raises is swallowed."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.all = observers
        self.failures = 0
        self._reported: set[str] = set()
        self._started = self._methods(observers, "started")
        self._attempt_failed = self._methods(observers, "attempt_failed")
        self._first_token = self._methods(observers, "first_token")
        self._finished = self._methods(observers, "finished")
        self._chunks = self._methods(observers, "chunk")
        self.chunk: Callable[[Call, Chunk], None] | None = self._chunk if self._chunks else None

    @staticmethod
    def _methods(observers: Sequence[Observer], name: str) -> tuple[Callable[..., None], ...]:
        base = getattr(Observer, name)
        return tuple(getattr(one, name) for one in observers if getattr(type(one), name) is not base)

    # What comes with every call, or chunk, calls for itself: to hand on arguments that are not counted takes longer.

    def started(self, call: Call) -> None:
        """See `Observer`, as for the others."""
        for method in self._started:
            try:
                method(call)
            except (Exception, SystemExit) as error:  # noqa: BLE001  # it may do anything, a call must not feel it
                self._failed(method, "started", error)

    def finished(self, call: Call, outcome: Outcome) -> None:
        """The call has ended."""
        for method in self._finished:
            try:
                method(call, outcome)
            except (Exception, SystemExit) as error:  # noqa: BLE001
                self._failed(method, "finished", error)

    def _chunk(self, call: Call, chunk: Chunk) -> None:
        for method in self._chunks:
            try:
                method(call, chunk)
            except (Exception, SystemExit) as error:  # noqa: BLE001
                self._failed(method, "chunk", error)

    def first_token(self, call: Call) -> None:
        """A stream has begun."""
        self._tell(self._first_token, "first_token", call)

    def attempt_failed(self, call: Call, target: Target, error: GatewayError) -> None:
        """A deployment has failed."""
        self._tell(self._attempt_failed, "attempt_failed", call, target, error)

    def _tell(self, methods: Sequence[Callable[..., None]], name: str, *arguments: object) -> None:
        for method in methods:
            try:
                method(*arguments)
            except (Exception, SystemExit) as error:  # noqa: BLE001
                self._failed(method, name, error)

    def _failed(self, method: Callable[..., None], moment: str, error: BaseException) -> None:
        self.failures += 1
        who = f"{type(getattr(method, '__self__', method)).__name__}.{moment}"
        if who not in self._reported:
            self._reported.add(who)
            log.error("observer %s failed; further failures of it are only counted", who, exc_info=error)
