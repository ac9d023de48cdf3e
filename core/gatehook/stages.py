"""The concerns of a request, one small function each, over tuples of plugin objects frozen at start-up.

Each returns at once when no plugin has signed up for it.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import hdrs, web
from multidict import istr

from gatehook.errors import (
    AuthenticationFailed,
    BodyTooLarge,
    InvalidRequest,
    ModelNotFound,
    PermissionDenied,
    UnsupportedMediaType,
)
from gatehook.jsonio import Document, MalformedJSON, check_depth, encode
from gatehook.model import ANONYMOUS, Call, Chunk, Completion, Credential, Entry, Outcome, Principal, Target, ToolCall
from gatehook.protocols import Authenticator, Cache, Limiter, Observer, Permit, Router, ToolPolicy

__all__ = ["Answers", "Gate", "Observers", "Permits", "Tools", "authenticate", "authorize", "read_body", "route"]

log = logging.getLogger("gatehook")

_API_KEY = istr("X-API-Key")
_JSON = "application/json"


async def authenticate(authenticators: Sequence[Authenticator], request: web.BaseRequest) -> Principal:
    """Who is calling; anonymous if no authenticator is enabled.

    Raises:
        AuthenticationFailed: no credential, a bad one, or one that nobody knows.
    """
    if not authenticators:
        return ANONYMOUS
    credential = _credential(request)
    for authenticator in authenticators:
        principal = await authenticator.authenticate(credential)
        if principal is not None:
            return principal
    if not credential.token:
        raise AuthenticationFailed("no API key given; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
    raise AuthenticationFailed("the API key is not valid")


def _credential(request: web.BaseRequest) -> Credential:
    headers = request.headers
    scheme, _, token = headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme != "Bearer" and scheme.lower() != "bearer":
        token = ""
    return Credential(token.strip() or headers.get(_API_KEY, "").strip(), headers)


async def read_body(request: web.Request, limit: int) -> bytes:
    """The request's JSON text.

    Raises:
        UnsupportedMediaType, BodyTooLarge, InvalidRequest: not JSON by its declaration, too large, too deep.
    """
    declared = request.headers.get(hdrs.CONTENT_TYPE, _JSON)
    if declared != _JSON and not (request.content_type == _JSON or request.content_type.endswith("+json")):
        raise UnsupportedMediaType(f"Content-Type is {request.content_type!r}; send application/json")
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise BodyTooLarge(f"the body is larger than {limit} bytes (server.max_body)") from None
    except (web.RequestPayloadError, ConnectionError, ValueError) as error:
        raise InvalidRequest(f"the body cannot be read: {error}") from None
    if not body:
        raise InvalidRequest("the body is empty; send a JSON object")
    try:
        check_depth(body)
    except MalformedJSON as error:
        raise InvalidRequest(f"the body is {error}") from None
    return body


def authorize(call: Call) -> None:
    """Check that the model is this principal's to use.

    Raises:
        PermissionDenied: it is not.
    """
    if not call.principal.may_use(call.model):
        raise PermissionDenied(
            f"this key may not use the model {call.model!r}", param="model", code="model_not_allowed"
        )


async def route(routers: Sequence[Router], call: Call) -> Sequence[Target]:
    """The deployments to try.

    Raises:
        ModelNotFound: no router knows the model.
    """
    for router in routers:
        targets = await router.route(call)
        if targets:
            return targets
    raise ModelNotFound(f"the model {call.model!r} does not exist; GET /v1/models lists those that do", param="model")


class Permits:
    """What the limiters reserved for one call."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: list[Permit] = []

    async def admit(self, limiters: Sequence[Limiter], call: Call) -> None:
        """Ask every limiter.

        Raises:
            RateLimited: one refused; what the others reserved is settled with the rest of the call.
        """
        for limiter in limiters:
            permit = await limiter.admit(call)
            if permit is not None:
                self._held.append(permit)

    async def settle(self, outcome: Outcome) -> None:
        """Settle every permit once, in reverse; to the end, even when the client's leaving cancels the caller."""
        if not self._held:
            return
        held, self._held = self._held, []
        settling = asyncio.ensure_future(self._settle(held, outcome))
        _settling.add(settling)  # the loop alone would not keep it from being collected
        settling.add_done_callback(_settling.discard)
        await asyncio.shield(settling)

    @staticmethod
    async def _settle(held: list[Permit], outcome: Outcome) -> None:
        for permit in reversed(held):
            try:
                await permit.settle(outcome)
            except Exception:
                log.exception("a permit of %s could not be settled", type(permit).__name__)


_settling: set[asyncio.Future[None]] = set()


class Answers:
    """The response caches."""

    def __init__(self, caches: Sequence[Cache]) -> None:
        self._caches = tuple(caches)

    def key(self, call: Call) -> bytes | None:
        """32 bytes from everything that changes the answer and from whose it is; None if nothing caches."""
        if not self._caches:
            return None
        parts = (call.principal.id, call.operation, call.model, call.stream, call.include_usage, _sorted(call.payload))
        return hashlib.sha256(encode(parts)).digest()

    async def get(self, call: Call, key: bytes | None) -> Entry | None:
        """The first hit."""
        if key is None:
            return None
        for cache in self._caches:
            try:
                entry = await cache.get(key)
            except Exception:
                log.exception("%s: reading the cache %s failed", call.id, type(cache).__name__)
                continue
            if entry is not None:
                call.answer_headers["X-Cache"] = "hit"
                return entry
        call.answer_headers["X-Cache"] = "miss"
        return None

    async def put(self, call: Call, key: bytes | None, entry: Entry) -> None:
        """Store a complete answer everywhere."""
        if key is None:
            return
        for cache in self._caches:
            try:
                await cache.put(key, call, entry)
            except Exception:
                log.exception("%s: writing the cache %s failed", call.id, type(cache).__name__)


def _sorted(value: Any) -> Any:
    """The same JSON value whatever the order of its keys."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(one) for one in value] if isinstance(value, list) else value


class Tools:
    """The tool policies: which tools a model is shown, and which of its calls go out."""

    def __init__(self, policies: Sequence[ToolPolicy]) -> None:
        self.policies = tuple(policies)

    async def offer(self, call: Call) -> None:
        """Narrow the tools of the request to what every policy lets the model see."""
        if not self.policies or call.operation != "chat":
            return
        payload = dict(call.payload)
        for name, beside in _TOOL_FIELDS.items():
            given = payload.get(name)
            if not given or not isinstance(given, list):
                continue
            offered = await self._offered(call, given, old=name == "functions")
            if not offered:
                for field in (name, *beside):
                    payload.pop(field, None)
                call.body = Document(payload)
            elif offered != given:
                payload[name] = offered
                call.body = Document(payload)

    async def _offered(self, call: Call, given: list[Any], *, old: bool) -> list[Any]:
        """What the policies leave of `given`; `old` functions are shown to them as tools."""
        tools: Sequence[Any] = [{"type": "function", "function": one} for one in given] if old else given
        for policy in self.policies:
            tools = await policy.offer(call, tools)
        return [one["function"] for one in tools] if old else list(tools)

    async def judge(self, call: Call, completion: Completion) -> None:
        """Judge the tool calls of a whole answer.

        Raises:
            PermissionDenied: a call is denied, or needs a confirmation that no plugin can ask for.
        """
        if self.policies and call.operation == "chat":
            for choice in completion.data.get("choices") or ():
                message = choice.get("message") or {}
                for tool_call in message.get("tool_calls") or ():
                    await self.judge_one(call, _tool_call(tool_call))
                if function := message.get("function_call"):
                    await self.judge_one(call, _tool_call({"function": function}))

    async def judge_again(self, call: Call, entry: Entry) -> None:
        """Judge a cached answer: the policies may have changed since it was stored.

        Raises:
            PermissionDenied: see `judge`.
        """
        if entry.completion is not None:
            await self.judge(call, entry.completion)
        elif (gate := self.gate(call)) is not None:
            await gate.passed(entry.chunks)
            await gate.rest()

    def gate(self, call: Call) -> "Gate | None":
        """What a stream's chunks must pass; None if there is nothing to judge."""
        return Gate(self, call) if self.policies and call.operation == "chat" else None

    async def judge_one(self, call: Call, tool_call: ToolCall) -> None:
        """Ask every policy about one call.

        Raises:
            PermissionDenied: see `judge`.
        """
        verdicts = [await policy.judge(call, tool_call) for policy in self.policies]
        strictest = max(verdicts, key=lambda verdict: ("allow", "confirm", "deny").index(verdict.kind))
        if strictest.kind != "allow":
            what = (
                "is denied" if strictest.kind == "deny" else "needs a confirmation, and no enabled plugin asks for one"
            )
            reason = f": {strictest.reason}" if strictest.reason else ""
            raise PermissionDenied(
                f"the model's call of tool {tool_call.name!r} {what}{reason}", code="tool_call_denied"
            )


_TOOL_FIELDS = {"tools": ("tool_choice", "parallel_tool_calls"), "functions": ("function_call",)}
"""Where a request names tools, and what means nothing without them. `functions` is OpenAI's old form, still taken."""


class Gate:
    """Holds a stream's tool calls back until they are whole and judged; text before them passes at once."""

    def __init__(self, tools: Tools, call: Call) -> None:
        self._tools = tools
        self._call = call
        self._held: list[Chunk] = []
        self._calls: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._open: set[int] = set()
        """Choices with a call that more may be added to."""

    async def passed(self, batch: Sequence[Chunk]) -> Sequence[Chunk]:
        """The chunks that may go out now.

        Raises:
            PermissionDenied: see `Tools.judge`.
        """
        out: list[Chunk] = []
        for chunk in batch:
            for choice in chunk.data.get("choices") or ():
                self._take(choice.get("index", 0), choice)
            if self._calls:
                self._held.append(chunk)
                if not self._open:
                    out += await self.rest()
            else:
                out.append(chunk)
        return out

    async def rest(self) -> Sequence[Chunk]:
        """What is held back, when its calls are whole: a choice ended, or the stream.

        Raises:
            PermissionDenied: see `Tools.judge`.
        """
        for tool_call in self._calls.values():
            await self._tools.judge_one(self._call, _tool_call(tool_call))
        held, self._held = self._held, []
        self._calls.clear()
        return held

    def _take(self, choice: int, data: dict[str, Any]) -> None:
        """Note the fragments of tool calls in one choice of a chunk, and whether the choice ends."""
        delta = data.get("delta") or {}
        for fragment in delta.get("tool_calls") or ():
            self._add((choice, fragment.get("index")), fragment.get("id") or "", fragment)
        if function := delta.get("function_call"):
            self._add((choice, "function_call"), "", {"function": function})
        if data.get("finish_reason") is not None:
            self._open.discard(choice)

    def _add(self, place: tuple[Any, ...], id: str, fragment: dict[str, Any]) -> None:
        self._open.add(place[0])
        known = self._calls.get(place)
        if known is not None and id and known["id"] not in ("", id):
            # Some servers number no calls, or all of them 0: another id is another call.
            self._calls[(*place, known["id"])] = self._calls.pop(place)
        call = self._calls.setdefault(place, {"id": "", "function": {"name": "", "arguments": ""}})
        part = _tool_call(fragment)
        call["id"] = id or call["id"]
        call["function"]["name"] += part.name
        call["function"]["arguments"] += part.arguments


def _tool_call(data: dict[str, Any]) -> ToolCall:
    """A function's call, or a custom tool's, whose input is any text."""
    call = data.get("function") or data.get("custom") or {}
    arguments = call.get("arguments") or call.get("input") or ""
    if not isinstance(arguments, str):  # some servers give an object instead of its JSON text
        arguments = encode(arguments).decode()
    return ToolCall(data.get("id") or "", call.get("name") or "", arguments)


class Observers:
    """Calls every observer's overridden methods; what nobody overrides costs nothing, what raises is swallowed."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.failures = 0
        self._reported: set[str] = set()
        self.started = self._moment(observers, "started")
        self.attempt_failed = self._moment(observers, "attempt_failed")
        self.first_token = self._moment(observers, "first_token")
        self.finished = self._moment(observers, "finished")
        self.chunk: Callable[..., None] | None = (
            self._moment(observers, "chunk") if self._methods(observers, "chunk") else None
        )

    @staticmethod
    def _methods(observers: Sequence[Observer], name: str) -> tuple[Callable[..., None], ...]:
        base = getattr(Observer, name)
        return tuple(getattr(one, name) for one in observers if getattr(type(one), name) is not base)

    def _moment(self, observers: Sequence[Observer], name: str) -> Callable[..., None]:
        methods = self._methods(observers, name)

        def tell(*arguments: Any) -> None:
            for method in methods:
                try:
                    method(*arguments)
                except Exception as error:  # noqa: BLE001  # an observer may do anything, a call must not feel it
                    self._failed(method, name, error)

        return tell

    def _failed(self, method: Callable[..., None], moment: str, error: Exception) -> None:
        self.failures += 1
        who = f"{type(getattr(method, '__self__', method)).__name__}.{moment}"
        if who not in self._reported:
            self._reported.add(who)
            log.error("observer %s failed; further failures of it are only counted", who, exc_info=error)
