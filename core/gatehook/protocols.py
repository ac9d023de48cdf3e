"""What plugins return from their hooks: small interfaces, called directly while serving.

`None` means "not mine"; an exception means "mine, and refused". Methods marked async may wait; the others run on the
event loop and must return at once. The interfaces of limiters are in `limiting`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from aiohttp import web
from msgspec import Struct

from gatehook.accounts import Usage
from gatehook.errors import GatewayError
from gatehook.limiting import AttemptLimiter, ChangeLimiter, Limiter, Permit, RoundLimiter, TellingLimiter
from gatehook.model import (
    Attempt,
    Call,
    Chunk,
    Completion,
    Credential,
    Entry,
    Operation,
    Outcome,
    Principal,
    Question,
    Target,
    ToolCall,
    Verdict,
)
from gatehook.parameters import Parameter

__all__ = [
    "AttemptLimiter",
    "Authenticator",
    "Bounded",
    "Busy",
    "Cache",
    "ChangeLimiter",
    "Command",
    "Confirmer",
    "Endpoint",
    "ErrorWriter",
    "Inspector",
    "Limiter",
    "Observer",
    "OwnHeaders",
    "OwnHeartbeat",
    "OwnStatus",
    "Permit",
    "Prober",
    "Rewriter",
    "RoundLimiter",
    "Route",
    "Router",
    "Scoped",
    "Selective",
    "Surface",
    "TellingLimiter",
    "Tidier",
    "Tool",
    "ToolPolicy",
    "ToolSource",
    "Transform",
    "Vendor",
]


@runtime_checkable
class Authenticator(Protocol):
    """Tells who a client is."""

    def authenticate(self, credential: Credential) -> Awaitable[Principal | None] | Principal | None:
        """The principal, or None if this is not a credential of mine.

        Usually an ``async def``; one that hardly ever waits may be plain, and return an awaitable when it has to.

        Raises:
            AuthenticationFailed: it is mine, and it is bad; no other authenticator is asked.
        """
        ...


@runtime_checkable
class Router(Protocol):
    """Chooses deployments."""

    def route(self, call: Call) -> Awaitable[Sequence[Target] | None] | Sequence[Target] | None:
        """The deployments to try, best first, fallbacks included; None if this router does not know the model.

        Usually an ``async def``; one that never waits may be plain. Quickest is to return the same `Group` each time,
        if its deployments can serve every call.
        """
        ...


@runtime_checkable
class Vendor(Protocol):
    """Speaks one upstream dialect.

    `name` is what `vendor = "…"` in settings refers to (lower case), `operations` what it can do, `parameters` its
    table of dispositions per operation: what each OpenAI parameter becomes. An operation without a table gets the
    request as the client sent it, unknown fields included.

    A vendor that has to get ready first (to load a model) may say so with ``prepares = True``: then the first batch of
    each stream is empty and says that it is ready, and `failover.first_token_timeout` counts from there.
    """

    @property
    def name(self) -> str:
        """The vendor's name in settings."""
        ...

    @property
    def operations(self) -> frozenset[Operation]:
        """What it can be asked for."""
        ...

    @property
    def parameters(self) -> Mapping[Operation, Mapping[str, Parameter]]:
        """The disposition of every parameter, per operation."""
        ...

    async def complete(self, attempt: Attempt) -> Completion:
        """Make one plain call.

        Raises:
            GatewayError: see `gatehook.upstream_error`; its `retry` decides what failover does.
        """
        ...

    def stream(self, attempt: Attempt) -> AsyncIterator[Sequence[Chunk]]:
        """Make one streamed call: an async generator of batches, each the chunks that arrived together.

        The gateway writes each batch to the client at once and never asks for the next before that is done. Ending
        without a chunk that is `finished` counts as a broken stream. Closing the generator must close the upstream.
        """
        ...


@runtime_checkable
class Prober(Protocol):
    """What a vendor may also be: one that can tell whether a deployment answers, without making anybody pay."""

    async def probe(self, target: Target) -> None:
        """Ask it something that costs nothing.

        Raises:
            GatewayError: it does not answer, or refuses the key.
        """
        ...


@runtime_checkable
class Inspector(Protocol):
    """What a vendor may also be: one that `gatehook check` asks about a deployment whose server is up."""

    async def inspect(self, target: Target) -> Sequence[str]:
        """Faults of the deployment that only its server can tell; () if it has what is wanted.

        Raises:
            GatewayError: it cannot be asked now, which is no fault.
        """
        ...


@runtime_checkable
class Busy(Protocol):
    """What a vendor may also be: one that knows how busy a deployment is, with calls of any client."""

    def waiting(self, target: Target) -> int:
        """Calls that run or wait there, as last heard, also those of other clients; 0 if nothing is known."""
        ...


@runtime_checkable
class Tidier(Protocol):
    """What a vendor may also be: one whose servers go on with a call when the process that made it has died."""

    async def tidy(self, name: str) -> None:
        """Stop what servers still do for a job that is not run again, without waiting for them.

        Args:
            name: the job's; its calls have ids of this name, a dot, and the number of the try.
        """
        ...


@runtime_checkable
class Cache(Protocol):
    """Keeps answers. Failures are logged and never fail a call."""

    async def get(self, key: bytes, call: Call) -> Entry | None:
        """The stored answer; `key` is 32 bytes made by the kernel from everything that changes the answer."""
        ...

    async def put(self, key: bytes, call: Call, entry: Entry) -> None:
        """Store a complete answer."""
        ...


@runtime_checkable
class Scoped(Protocol):
    """What a cache may also be: one that says who shares answers. In any other cache each user has their own."""

    def scope(self, principal: Principal) -> str:
        """The same text for all who may get each other's answers."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """What a cache may also be: one that keeps no large answers, so that streams are not collected beyond its bound."""

    @property
    def max_entry(self) -> int:
        """The most bytes of one answer."""
        ...


@runtime_checkable
class ToolPolicy(Protocol):
    """Decides which tools a model may see and which calls may go out."""

    async def offer(self, call: Call, tools: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The tools, in OpenAI's shape, that the model may be shown."""
        ...

    async def judge(self, call: Call, tool_call: ToolCall) -> Verdict:
        """What to do with a call the model suggested; a whole call, also when it was streamed in pieces."""
        ...


@runtime_checkable
class Confirmer(Protocol):
    """What a tool policy may also be: one that has somebody decide about calls with the verdict `confirm`."""

    async def ask(self, call: Call, question: Question) -> Mapping[str, Any]:
        """Keep what is needed to go on once somebody has decided.

        The client's answer then has no tool calls, but `status`, `pending_tool_calls` and the fields returned here
        (`session_id`).

        Raises:
            GatewayError: nobody can be asked now; the client is told, and no call goes out.
        """
        ...


@runtime_checkable
class Rewriter(Protocol):
    """Changes the answer to one call. If it raises, the call fails: what it should have hidden does not go out."""

    def completion(self, completion: Completion) -> Completion:
        """A whole answer as the client shall get it; its usage stays as it is.

        It also gets each turn that calls the gateway's own tools, within streams too: they see what a client's would.
        """
        ...

    def chunks(self, batch: Sequence[Chunk]) -> Sequence[Chunk]:
        """What may go out now; the rest may be held back, but not beyond the end of its choice."""
        ...

    def rest(self) -> Sequence[Chunk]:
        """What is still held back when the stream has ended."""
        ...


@runtime_checkable
class Transform(Protocol):
    """Changes requests before a vendor gets them, and their answers before clients do."""

    async def transform(self, call: Call) -> Rewriter | None:
        """Change the request, by assigning `call.body`; returns what shall change its answer, if anything.

        After the gateway's own tools were run it is called again, as if the client had run them itself: with the
        client's messages as they came, the model's as the client gets them, and the tools' results.

        Raises:
            GatewayError: the request is refused.
        """
        ...


@runtime_checkable
class Tool(Protocol):
    """A tool that the gateway itself runs when a model calls it; clients only see what the model makes of it."""

    @property
    def name(self) -> str:
        """Its name for the model: letters, digits, "_" and "-", at most 64."""
        ...

    @property
    def description(self) -> str:
        """What it does, for the model."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The JSON Schema of its arguments, of type "object"; they are checked against it before it is run."""
        ...

    async def run(self, call: Call, arguments: Mapping[str, Any]) -> str:
        """Run it, for the caller of `call`; returns what the model is told.

        Raises:
            GatewayError: it failed; the model is told the message.
        """
        ...


@runtime_checkable
class Selective(Protocol):
    """What a tool may also be: one that is not for every call."""

    def suits(self, call: Call) -> bool:
        """Whether this call's model is told of it. Asked once per call."""
        ...


@runtime_checkable
class ToolSource(Protocol):
    """Knows tools that come and go while the gateway serves.

    Their schemas are somebody else's: of a `pattern` in them only what is certain to be cheap is tried.
    """

    def tools(self, call: Call) -> Sequence[Tool]:
        """The tools that this call's model is told of. Asked once per call; a tool that has gone may still be run."""
        ...


class Observer:
    """Watches calls go by: subclass and override what you need; what is not overridden costs nothing.

    All methods are sync and must not block. Exceptions are counted, logged once per observer and method, and swallowed.
    """

    def started(self, call: Call) -> None:
        """A request arrived; nothing is known of it but its headers."""

    def attempt_failed(self, call: Call, target: Target, error: GatewayError) -> None:
        """One try of one deployment failed; another may follow."""

    def first_token(self, call: Call) -> None:
        """The first content of a stream is about to be sent."""

    def chunk(self, call: Call, chunk: Chunk) -> None:
        """One streamed event is about to be sent."""

    def finished(self, call: Call, outcome: Outcome) -> None:
        """The call is over; called exactly once."""


@runtime_checkable
class Surface(Protocol):
    """A dialect spoken with clients: reads requests into the canonical form and writes answers out of it."""

    @property
    def name(self) -> str:
        """For metrics and logs."""
        ...

    @property
    def canonical(self) -> bool:
        """Whether `event` does nothing but frame a chunk's own bytes, as OpenAI's dialect does."""
        ...

    def parse(self, call: Call, request: web.Request, body: bytes) -> None:
        """Fill `call.body`, `call.model`, `call.stream` and `call.include_usage`.

        Raises:
            InvalidRequest: naming the field.
        """
        ...

    def answer(self, call: Call, completion: Completion) -> bytes:
        """The body of a plain answer (application/json)."""
        ...

    def event(self, call: Call, chunk: Chunk) -> bytes:
        """One framed stream event (text/event-stream)."""
        ...

    def end(self, call: Call, usage: Usage | None) -> bytes:
        """What ends a stream that was complete."""
        ...

    def error(self, call: Call, error: GatewayError) -> bytes:
        """The body of an error answer (application/json); nothing but the id of the call may be known."""
        ...

    def error_event(self, call: Call, error: GatewayError) -> bytes:
        """The framed event that ends a stream that broke after its headers were sent."""
        ...


@runtime_checkable
class OwnStatus(Protocol):
    """What a surface may also be: one whose contract knows fewer HTTP statuses than the gateway."""

    def status(self, error: GatewayError) -> int:
        """The status of an error answer."""
        ...


@runtime_checkable
class OwnHeaders(Protocol):
    """What a surface may also be: one whose contract knows headers of errors that the gateway does not."""

    def error_headers(self, call: Call) -> Mapping[str, str]:
        """Further headers of an error answer; as for `Surface.error`, nothing but the call's id may be known."""
        ...


@runtime_checkable
class OwnHeartbeat(Protocol):
    """What a surface may also be: one whose contract has a sign of life of its own."""

    @property
    def heartbeat(self) -> bytes:
        """The framed event that is sent in silence, in place of a comment (`server.heartbeat`)."""
        ...


class Endpoint(Struct, frozen=True):
    """A path where a surface takes inference calls (POST); the kernel's pipeline does the rest.

    `takes` is the msgspec type that bodies must fit, for /openapi.json. `repeats` says that the surface's `parse` looks
    at the body alone, and fills nothing of the call but `body`, `model`, `stream`, `include_usage`, `max_tokens` and
    `choices`: then a body that was answered from a cache is not parsed again when the same bytes come once more.
    `instead_of` names paths that clients may ask for in its place: where nobody serves them, their 404 names this one.
    """

    path: str
    operation: Operation
    surface: Surface
    takes: type | None = None
    repeats: bool = False
    instead_of: tuple[str, ...] = ()
    method: ClassVar[str] = "POST"


ErrorWriter = Callable[[GatewayError], bytes | web.Response]
"""Writes the body of an error answer, or makes the whole answer."""


class Route(Struct, frozen=True):
    """Any other path. `auth=False`, which opens it to everybody, must be explicit; "admin" asks for an admin principal.

    `errors` writes the body (application/json) of an error answer, or makes the whole answer; None is OpenAI's shape.
    `errors_for` gives them for a request, at a path where clients of several dialects ask.
    """

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    auth: Literal["user", "admin", False] = "user"
    errors: ErrorWriter | None = None
    errors_for: Callable[[web.Request], ErrorWriter | None] | None = None


class Command(Struct, frozen=True):
    """A command of the `gatehook` program: `run(arguments)` gets the words after its name, returns the exit status."""

    name: str
    help: str
    run: Callable[[Sequence[str]], int]
