"""The fault wall: a gateway whose two deployments misbehave on real sockets, and what must hold whatever they do.

At the end of every test: one outcome for each request, every permit settled once, no connection and no task left over,
and nothing of a broken answer was sent to anybody.
"""

import asyncio
import contextlib
import dataclasses
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from tests.certificates import Authority

from gatehook import Call, GatewayError, Observer, Outcome, Section, Target, hookimpl
from gatehook.testing import Reply, StubUpstream

Wire = Any
House = Callable[..., Any]

PARTIAL = "PARTIAL-"
"""Begins every piece of an answer that breaks."""


class Watcher(Observer):
    """Keeps what observers are told."""

    def __init__(self) -> None:
        self.failed: list[tuple[str, str]] = []
        self.outcomes: list[Outcome] = []

    def attempt_failed(self, call: Call, target: Target, error: GatewayError) -> None:
        self.failed.append((target.key, error.code or error.type))

    def finished(self, call: Call, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


class Ticket:
    """A permit that takes its time, as one in a database would."""

    def __init__(self, turnstile: "Turnstile") -> None:
        self._turnstile = turnstile

    async def settle(self, outcome: Outcome) -> None:
        await asyncio.sleep(0)
        self._turnstile.settled += 1


class Turnstile:
    """Counts permits, of calls and of attempts."""

    def __init__(self) -> None:
        self.given = 0
        self.settled = 0

    async def _give(self) -> Ticket:
        await asyncio.sleep(0)
        self.given += 1
        return Ticket(self)

    async def admit(self, call: Call) -> Ticket:
        return await self._give()

    async def admit_attempt(self, call: Call, target: Target) -> Ticket:
        return await self._give()


@dataclass
class Answer:
    """What a client got: of a stream the joined text and the error event, `cut` if the line ended before the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: bool

    @property
    def events(self) -> list[Any]:
        found = (event.removeprefix("data: ") for event in self.body.decode().split("\n\n"))
        return [json.loads(event) for event in found if event.startswith("{")]

    @property
    def text(self) -> str:
        if not self.headers["Content-Type"].startswith("text/event-stream"):
            return str(json.loads(self.body)["choices"][0]["message"]["content"])
        choices = (choice for event in self.events for choice in event.get("choices", ()))
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    @property
    def error(self) -> Any:
        """The error object; None if there is none."""
        return (self.events[-1] if self.events else {}).get("error")

    @property
    def finish(self) -> str | None:
        reasons = [choice["finish_reason"] for event in self.events for choice in event.get("choices", ())]
        return reasons[-1] if reasons else None


@dataclass
class Wall:
    """The gateway, its two deployments, and who watches."""

    home: Any
    first: StubUpstream
    second: StubUpstream
    streams: bool
    watcher: Watcher = field(default_factory=Watcher)
    turnstile: Turnstile = field(default_factory=Turnstile)
    asked: int = 0

    @property
    def calls(self) -> tuple[int, int]:
        """How often each deployment was called."""
        return len(self.first.requests), len(self.second.requests)

    async def play(self, *replies: Reply, **more: Any) -> tuple[Answer, tuple[int, int]]:
        """Ask while the first deployment gives these replies: the answer, and how often each was called for it."""
        self.first.script(*replies)
        before = self.calls
        answer = await self.ask(**more)
        return answer, (self.calls[0] - before[0], self.calls[1] - before[1])

    async def ask(self, **more: Any) -> Answer:
        self.asked += 1
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": self.streams, **more}
        async with self.home.http.post(f"{self.home.url}/v1/chat/completions", json=body) as answer:
            received, cut = b"", False
            try:
                async for piece in answer.content.iter_any():
                    received += piece
            except aiohttp.ClientPayloadError:
                cut = True
            return Answer(answer.status, answer.headers, received, cut)


OpenWall = Callable[..., AbstractAsyncContextManager[Wall]]
OVER_TLS = "openai-over-tls"


@pytest.fixture(params=["openai", "anthropic", "gemini", "openai-by-aiohttp-alone", OVER_TLS])
def wire(request: pytest.FixtureRequest, wires: Sequence[Wire], by_aiohttp_alone: Callable[[], None]) -> Wire:
    """Each vendor in turn; one of them again by aiohttp's ways alone, and again over TLS."""
    if request.param == "openai-by-aiohttp-alone":
        by_aiohttp_alone()
    return next(wire for wire in wires if request.param.startswith(wire.name))


@pytest.fixture
def tls(request: pytest.FixtureRequest, authority: Authority) -> ssl.SSLContext | None:
    """That of the deployments, where this is the turn of TLS."""
    way = request.node.callspec.params.get("wire") if hasattr(request.node, "callspec") else None
    return authority.server("127.0.0.1") if way == OVER_TLS else None


@pytest.fixture
def wall(
    house: House,
    settled: Callable[..., Any],
    tls: ssl.SSLContext | None,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> OpenWall:
    """Opens a wall before deployments that play these replies; `second` None: there is only one.

    With `fallback` the second is a model of its own. `patience` is with its silence, `attempt` how long one may take
    in all, in seconds.
    """
    monkeypatch.setattr("gatehook.calls.failover._FIRST_BACKOFF", 0.002)

    @contextlib.asynccontextmanager
    async def opened(
        wire: Wire,
        first: Sequence[Reply] = (),
        second: Sequence[Reply] | None = None,
        *,
        streams: bool = False,
        fallback: bool = False,
        other: Wire = None,
        plugins: Mapping[str, type] | None = None,
        patience: float = 5.0,
        attempt: float | None = None,
        **changes: Any,
    ) -> AsyncIterator[Wall]:
        watcher, turnstile = Watcher(), Turnstile()

        class Watch:
            Settings = Section

            def __init__(self, settings: Section) -> None:
                pass

            @hookimpl
            def register_observers(self) -> list[Observer]:
                return [watcher]

            @hookimpl
            def register_limiters(self) -> list[Turnstile]:
                return [turnstile]

        failover = {"retries": 1, "retry_after_cap": 1, "first_token_timeout": patience, "stall_timeout": patience}
        changes["egress"] = {"ca_certificates": authority.pem} | changes.get("egress", {})
        async with StubUpstream(*first, tls=tls) as one, StubUpstream(*(second or ()), tls=tls) as two:
            limit = attempt or (20 if streams else patience)
            models = [wire.deployment(one, timeout=limit, **({"fallbacks": ["n"]} if fallback else {}))]
            if second is not None:
                place = {"name": "n"} if fallback else {"priority": 2}
                models.append((other or wire).deployment(two, **place))
            changes["failover"] = failover | changes.get("failover", {})
            async with house(*models, plugins={"watch": Watch, **(plugins or {})}, plugin_watch={}, **changes) as home:
                wall = Wall(home, one, two, streams, watcher, turnstile)
                yield wall
                await settled(lambda: len(watcher.outcomes) == wall.asked)
            await settled(lambda: not (one.open or two.open) and turnstile.settled == turnstile.given)
        assert len(watcher.outcomes) == wall.asked, "one outcome for each call"
        assert turnstile.settled == turnstile.given, "every permit is settled once"
        assert turnstile.given == wall.asked + sum(wall.calls), "a permit for each call, and each attempt"
        assert (one.open, two.open) == (0, 0), "no connection is left over"
        for request in (*one.requests, *two.requests):
            assert PARTIAL.encode() not in request.body, "nothing of a broken answer is given to anybody"

    return opened


@dataclass(frozen=True)
class Dialect:
    """How one vendor says what is wrong."""

    wire: Wire
    errors: Mapping[str, tuple[int, Any]]
    """By kind: the status, and what stands under "error"."""

    def body(self, kind: str) -> Any:
        """An error as the body of an answer."""
        error = {"error": self.errors[kind][1]}
        return {"type": "error", **error} if self.wire.name == "anthropic" else error

    def answer(self, kind: str, status: int | None = None, **how: Any) -> Reply:
        """An error as an answer, by default with its own status."""
        return Reply.of_json(self.body(kind), status=status or self.errors[kind][0], **how)

    def event(self, kind: str) -> bytes:
        """An error as an event of a stream."""
        name = b"event: error\n" if self.wire.name == "anthropic" else b""
        return name + b"data: " + json.dumps(self.body(kind)).encode() + b"\n\n"

    def opening(self) -> list[bytes]:
        """The events before the first content."""
        return self._until(b"one-")

    def begun(self, **how: Any) -> Reply:
        """A stream up to its first content."""
        pieces = list(self.wire.stream([PARTIAL, "never-"]).body)
        return Reply.of_events(pieces[: len(self._until(b"one-")) + 1], **how)

    def _until(self, text: bytes) -> list[bytes]:
        pieces = list(self.wire.stream(["one-", "two-"]).body)
        return pieces[: next(number for number, piece in enumerate(pieces) if text in piece)]


def _openai(code: str, type_: str = "invalid_request_error", message: str = "no") -> Any:
    return {"message": message, "type": type_, "param": None, "code": code}


def _anthropic(kind: str, message: str = "no") -> Any:
    return {"type": kind, "message": message}


def _gemini(code: int, status: str, message: str = "no", *details: Any) -> Any:
    return {"code": code, "status": status, "message": message, "details": list(details)}


def _exceeded(quota: str) -> Any:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota}]}


ERRORS: Mapping[str, Mapping[str, tuple[int, Any]]] = {
    "openai": {
        "rate": (429, _openai("rate_limit_exceeded", "requests", "Rate limit reached for requests per min")),
        "quota": (429, _openai("insufficient_quota", "insufficient_quota", "You exceeded your current quota")),
        "key": (401, _openai("invalid_api_key", message="Incorrect API key provided")),
        "forbidden": (403, _openai("unsupported_country_region_territory", "permission_error")),
        "gone": (404, _openai("model_not_found", message="The model does not exist")),
        "long": (400, _openai("context_length_exceeded", message="maximum context length is 8192 tokens")),
        "filter": (400, _openai("content_filter", message="filtered by the content management policy")),
        "caller": (400, _openai("invalid_value", message="temperature is wrong")),
        "busy": (503, _openai("service_unavailable", "service_unavailable", "overloaded")),
        "broken": (500, _openai("server_error", "server_error", "oops")),
    },
    "anthropic": {
        "rate": (429, _anthropic("rate_limit_error", "This request would exceed your rate limit")),
        "quota": (400, _anthropic("invalid_request_error", "Your credit balance is too low to access the API")),
        "key": (401, _anthropic("authentication_error", "invalid x-api-key")),
        "forbidden": (403, _anthropic("permission_error")),
        "gone": (404, _anthropic("not_found_error", "model: claude-x")),
        "long": (400, _anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")),
        "filter": (400, _anthropic("invalid_request_error", "Output blocked by content filtering policy")),
        "caller": (400, _anthropic("invalid_request_error", "temperature: out of range")),
        "busy": (529, _anthropic("overloaded_error", "Overloaded")),
        "broken": (500, _anthropic("api_error", "Internal server error")),
    },
    "gemini": {
        "rate": (429, _gemini(429, "RESOURCE_EXHAUSTED", "quota", _exceeded("GenerateRequestsPerMinutePerProject"))),
        "quota": (429, _gemini(429, "RESOURCE_EXHAUSTED", "quota", _exceeded("GenerateRequestsPerDayPerProject"))),
        "key": (400, _gemini(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.")),
        "forbidden": (403, _gemini(403, "PERMISSION_DENIED")),
        "gone": (404, _gemini(404, "NOT_FOUND", "models/x is not found")),
        "long": (400, _gemini(400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number allowed")),
        "filter": (400, _gemini(400, "INVALID_ARGUMENT", "refused by the content policy")),
        "caller": (400, _gemini(400, "INVALID_ARGUMENT", "temperature is wrong")),
        "busy": (503, _gemini(503, "UNAVAILABLE", "The model is overloaded")),
        "broken": (500, _gemini(500, "INTERNAL", "An internal error has occurred")),
    },
}  # fmt: skip


@pytest.fixture
def dialect(wire: Wire) -> Dialect:
    """Each vendor in turn."""
    return Dialect(wire, ERRORS[wire.name])


@pytest.fixture
def other(wire: Wire, wires: Sequence[Wire]) -> Wire:
    """Another vendor."""
    return wires[(list(wires).index(wire) + 1) % len(wires)]


@pytest.fixture
def headed() -> Callable[..., Reply]:
    """Puts headers on a reply."""

    def with_headers(reply: Reply, **headers: str) -> Reply:
        named = {name.replace("_", "-").title(): value for name, value in headers.items()}
        return dataclasses.replace(reply, headers={**reply.headers, **named})

    return with_headers
