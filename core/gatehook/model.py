"""The values that travel through the gateway. The canonical form of every body is OpenAI's."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import SecretStr

from gatehook.jsonio import Document

__all__ = [
    "ANONYMOUS",
    "Attempt",
    "Call",
    "Chunk",
    "Completion",
    "Credential",
    "Entry",
    "Operation",
    "Outcome",
    "Principal",
    "Target",
    "ToolCall",
    "Usage",
    "Verdict",
]

Operation = Literal["chat", "completions", "embeddings"]


@dataclass(frozen=True, slots=True)
class Credential:
    """What a client showed: the token of ``Authorization: Bearer`` or ``X-API-Key`` ("" if none), and all headers."""

    token: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling. `models` is None for "all", otherwise the public names this principal may use."""

    id: str
    name: str = ""
    admin: bool = False
    models: frozenset[str] | None = None

    def may_use(self, model: str) -> bool:
        """Whether this principal may call the model with this public name."""
        return self.models is None or model in self.models


ANONYMOUS = Principal(id="anonymous", admin=False)
EMPTY = Document({})


@dataclass(frozen=True, slots=True)
class Target:
    """One deployment of a model: what a router picks and a vendor calls.

    `name` is the public name clients ask for, `model` what the vendor calls it, `key` unique among all deployments
    ("gpt-4o#1"). `timeout` is in seconds and covers one attempt from dialling to its last byte.
    """

    key: str
    name: str
    vendor: str
    model: str
    base_url: str = ""
    api_key: SecretStr | None = None
    weight: float = 1.0
    priority: int = 1
    timeout: float = 600.0
    fallbacks: tuple[str, ...] = ()
    max_tokens: int | None = None
    strict: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    unavailable: str = ""
    """Why this deployment cannot be called at all ("its key $OPENAI_API_KEY is not set"); "" when it can."""

    def secret(self) -> str:
        """The vendor key in clear ("" if none); only for the request that carries it."""
        return self.api_key.get_secret_value() if self.api_key else ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer, OpenAI's way: cached tokens are part of the prompt, reasoning part of the completion."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    """True when the vendor reported nothing and the gateway counted for itself."""

    @property
    def total_tokens(self) -> int:
        """Prompt plus completion; vendors' own totals are not trusted."""
        return self.prompt_tokens + self.completion_tokens

    def as_openai(self) -> dict[str, Any]:
        """The `usage` object of an OpenAI answer."""
        details: dict[str, Any] = {"cached_tokens": self.cached_tokens}
        if self.cache_write_tokens:
            details["cache_write_tokens"] = self.cache_write_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "prompt_tokens_details": details,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


class Completion(Document):
    """A whole answer in OpenAI's shape, under the public model name. `usage` is None if the vendor told nothing."""

    __slots__ = ("usage",)

    def __init__(
        self, data: dict[str, Any] | None = None, raw: bytes | None = None, *, usage: Usage | None = None
    ) -> None:
        super().__init__(data, raw)
        self.usage = usage


class Chunk(Document):
    """One event of a streamed answer: an OpenAI chunk object, under the public model name.

    `content` says that it carries something a person or program was waiting for (text, reasoning, a refusal, a tool
    call, audio); `finished` that it carries a finish_reason; `usage_only` that it is the extra usage event with empty
    choices, which is kept from clients that did not ask for it.
    """

    __slots__ = ("content", "finished", "usage", "usage_only")

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        raw: bytes | None = None,
        *,
        content: bool = False,
        finished: bool = False,
        usage: Usage | None = None,
        usage_only: bool = False,
    ) -> None:
        super().__init__(data, raw)
        self.content = content
        self.finished = finished
        self.usage = usage
        self.usage_only = usage_only


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole function call suggested by a model; `arguments` is the JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a tool policy says of a tool call. The strictest of all verdicts wins: deny, then confirm, then allow."""

    kind: Literal["allow", "confirm", "deny"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a cache keeps: a whole answer, or every chunk of a stream that ended well."""

    completion: Completion | None = None
    chunks: Sequence[Chunk] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended; given to observers and permits exactly once.

    `status`: complete; partial (the client left or the upstream broke after content was sent); failed (nothing useful
    was sent); rejected (refused before any vendor was called); cached. `code` is the error's code, "" if none.
    Durations are in seconds; `first_token` is None when there was none.
    """

    status: Literal["complete", "partial", "failed", "rejected", "cached"]
    http_status: int
    usage: Usage | None = None
    code: str = ""
    duration: float = 0.0
    first_token: float | None = None


class _Ids:
    """Request ids from pooled randomness: one system call in 256, not one per request."""

    __slots__ = ("_pool", "_position")

    def __init__(self) -> None:
        self._pool = ""
        self._position = 0

    def next(self) -> str:
        if self._position >= len(self._pool):
            self._pool = os.urandom(16 * 256).hex()
            self._position = 0
        start = self._position
        self._position = start + 32
        return self._pool[start : start + 32]


_ids = _Ids()
os.register_at_fork(after_in_child=_ids.__init__)  # type: ignore[misc]  # two workers must not share a pool


@dataclass(slots=True, eq=False)
class Call:
    """One request of one client, from its first byte to its settlement."""

    operation: Operation
    surface: str
    headers: Mapping[str, str] = field(repr=False)
    remote: str = ""
    id: str = field(default_factory=lambda: "req_" + _ids.next())
    started: float = field(default_factory=time.monotonic)
    principal: Principal = ANONYMOUS
    model: str = ""
    stream: bool = False
    include_usage: bool = False
    """Whether the client asked for the usage event at the end of a stream."""
    body: Document = field(default=EMPTY, repr=False)
    target: Target | None = None
    """The deployment being tried, and in the end the one that answered."""
    attempts: int = 0
    dropped: tuple[str, ...] = ()
    """Parameters that the answering vendor has no place for; named in a response header."""
    first_token: float | None = None
    """time.monotonic() of the first content, None before."""
    answer_headers: dict[str, str] = field(default_factory=dict)
    """Headers any stage adds to the answer (rate limits, cache marks)."""
    state: dict[str, Any] = field(default_factory=dict)
    """Room for plugins to keep something for this call; use your plugin's name as the key."""

    @property
    def payload(self) -> dict[str, Any]:
        """The request as a dict in OpenAI's shape. Read-only: to change it, assign a new Document to `body`."""
        return self.body.data


@dataclass(slots=True, eq=False)
class Attempt:
    """One try of one deployment: all that a vendor is handed.

    `drop()` names something that the translation has to leave out; a response header tells the client.
    """

    call: Call
    target: Target
    sifted: Mapping[str, Any] | None = field(default=None, repr=False)
    """The request without the parameters the vendor's table drops; None if the vendor has no table."""
    dropped: list[str] = field(default_factory=list)

    @property
    def payload(self) -> Mapping[str, Any]:
        """The request in OpenAI's shape, as far as this vendor's table lets it through."""
        return self.call.payload if self.sifted is None else self.sifted

    def drop(self, name: str) -> None:
        """Tell the client that `name` has no counterpart at this vendor."""
        if name not in self.dropped:
            self.dropped.append(name)
