"""The values that travel through the gateway. The canonical form of every body is OpenAI's."""

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import TYPE_CHECKING, Any, Literal, final, overload

from msgspec import Struct, field
from pydantic import SecretStr

from gatehook.accounts import Cost, Key, Limits, Pricing, Usage, User, covers
from gatehook.errors import InvalidRequest, Retry
from gatehook.ids import next_id
from gatehook.jsonio import Document, MalformedJSON
from gatehook.names import message_number

if TYPE_CHECKING:
    from gatehook.estimates import Estimate
    from gatehook.protocols import Rewriter

__all__ = [
    "ANONYMOUS",
    "Attempt",
    "Call",
    "Chunk",
    "Completion",
    "Credential",
    "Entry",
    "Frames",
    "Operation",
    "Outcome",
    "Principal",
    "Progress",
    "Question",
    "Salvage",
    "Target",
    "ToolCall",
    "Verdict",
    "Vitality",
]

Operation = str
"""What kind of call it is. "chat", "completions", "embeddings" and "images" are OpenAI's; an endpoint and a vendor may
agree on another, such as "rerank"."""


class Credential(Struct, frozen=True):
    """What a client showed: the token of ``Authorization: Bearer`` or ``X-API-Key`` ("" if none), and all headers.

    A connection mostly shows the same object again and again. So `marks` is where an authenticator may keep what it
    computes from the token (a digest), under a key of its own; never whether the token is valid, which may change.
    """

    token: str
    headers: Mapping[str, str]
    marks: dict[object, bytes] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "Credential(…)"  # all of it is secret


class Principal(Struct, frozen=True):
    """Who is calling. `models` is None for "all", otherwise the public names this principal may use.

    A name that ends in `*` allows all names with that beginning.

    `id` is what limits, budgets and the ledger go by: the user's, where there are users. `user` and `key` are what the
    directory knows of them; `key_id` names the key also where it does not come from the directory.
    """

    id: str
    name: str = ""
    admin: bool = False
    models: frozenset[str] | None = None
    key_id: str = ""
    user: User | None = None
    key: Key | None = None

    @property
    def actor(self) -> str:
        """What the audit calls whoever makes a change: the user, and the key ("alice/KEY_ID")."""
        return f"{self.id}/{self.key_id}" if self.key_id and self.key_id != self.id else self.id

    def may_use(self, *names: str) -> bool:
        """Whether this principal may call a model that has these names; it is enough to be allowed one of them."""
        allowed = self.models
        return allowed is None or any(name in allowed or covers(allowed, name) for name in names)


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
    context_window: int | None = None
    """Tokens of a request and its answer together, None if not known."""
    pricing: Pricing | None = None
    rate_limit: Limits = dataclass_field(default_factory=Limits)
    capabilities: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    """Other names by which clients may ask for its model."""
    strict: bool = False
    options: Mapping[str, Any] = dataclass_field(default_factory=dict, repr=False)
    defaults: Mapping[str, Any] = dataclass_field(default_factory=dict)
    """Parameters, by OpenAI's names, for requests that do not give them: `temperature`, `max_tokens`."""
    unavailable: str = ""
    """Why this deployment cannot be called at all ("its key $OPENAI_API_KEY is not set"); "" when it can."""
    switched_off: bool = False
    """Whether it is unavailable because an administrator wants it so."""
    hidden: tuple[str, ...] = dataclass_field(default=(), repr=False)
    """Secrets among the options, in clear."""

    def secret(self) -> str:
        """The vendor key in clear ("" if none); only for the request that carries it."""
        return self.api_key.get_secret_value() if self.api_key else ""

    def secrets(self) -> tuple[str, ...]:
        """Everything that no message may show."""
        return (self.secret(), *self.hidden)


class Vitality(Struct, frozen=True):
    """The health of a deployment: healthy, degraded (it has failed lately), or unavailable (it is given a rest)."""

    state: Literal["healthy", "degraded", "unavailable"] = "healthy"
    failures: int = 0
    """In a row, up to now."""
    retry_after: float = 0.0
    """Seconds until it is tried again, if it is given a rest."""
    last_check: float | None = None
    """Epoch seconds of the last call or check that showed how it does; None if there was none."""
    rests: int = 0
    """How many rests it was given in all."""


class Completion(Document):
    """A whole answer in OpenAI's shape, under the public model name. `usage` is None if the vendor told nothing."""

    __slots__ = ("usage",)

    def __init__(
        self, data: dict[str, Any] | None = None, raw: bytes | None = None, *, usage: Usage | None = None
    ) -> None:
        if raw is None and data is None:  # `Document.__init__` without the call to it: one is made for each answer
            raise TypeError("a completion needs data, raw bytes, or both")
        self._data = data
        self._raw = raw
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


@final
class Frames(Sequence[Chunk]):
    """A batch whose events are already framed for an OpenAI client; it is taken apart only if somebody looks.

    Vendors of OpenAI's own dialect yield these: the events that arrived together stay one piece of bytes on the way to
    the client's socket. `contents` counts its events with content, `usage` is the last that it tells. Events that the
    client did not ask for must not be in it.
    """

    __slots__ = ("_chunks", "_split", "contents", "data", "finished", "usage")

    def __init__(
        self,
        data: bytes,
        split: Callable[[bytes], Sequence[Chunk]],
        *,
        contents: int = 0,
        finished: bool = False,
        usage: Usage | None = None,
    ) -> None:
        """`split` makes the chunks of `data`."""
        self.data = data
        self.contents = contents
        self.finished = finished
        self.usage = usage
        self._split = split
        self._chunks: Sequence[Chunk] | None = None

    def joined(self, rest: Iterable["Frames"]) -> "Frames":
        """These and the following frames of the same stream as one."""
        frames = [self, *rest]
        usage = next((one.usage for one in reversed(frames) if one.usage is not None), None)
        return Frames(
            b"".join([one.data for one in frames]),
            self._split,
            contents=sum(one.contents for one in frames),
            finished=any(one.finished for one in frames),
            usage=usage,
        )

    @property
    def chunks(self) -> Sequence[Chunk]:
        """The events one by one."""
        if self._chunks is None:
            self._chunks = self._split(self.data)
        return self._chunks

    def __len__(self) -> int:
        return len(self.chunks)

    @overload
    def __getitem__(self, place: int) -> Chunk: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Chunk]: ...
    def __getitem__(self, place: int | slice) -> Chunk | Sequence[Chunk]:
        return self.chunks[place]

    def __iter__(self) -> Iterator[Chunk]:
        return iter(self.chunks)


class ToolCall(Struct, frozen=True):
    """A whole function call suggested by a model; `arguments` is the JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class Verdict(Struct, frozen=True):
    """What a tool policy says of a tool call. The strictest wins: deny, then retry, then confirm, then allow.

    With `retry` the call is not made: the model is told the `reason` in place of the tool's result, and answers again.
    """

    kind: Literal["allow", "confirm", "retry", "deny"]
    reason: str = ""


class Question(Struct, frozen=True):
    """Tool calls that somebody has to decide about, and the model's message that makes them.

    Each call in the message has an id; besides the `pending` ones there may be calls that are allowed.
    """

    message: Mapping[str, Any]
    pending: Sequence[ToolCall]


class Entry(Struct, frozen=True):
    """What a cache keeps: a whole answer, or every chunk of a stream that ended well."""

    completion: Completion | None = None
    chunks: Sequence[Chunk] = ()
    at: float = 0.0
    """When it was made, in epoch seconds; set by the gateway when it is stored, and given back by a cache."""
    dropped: tuple[str, ...] = ()
    """Parameters that the vendor had no place for; set and given back likewise."""


class Salvage(Struct, frozen=True):
    """A part of a plain answer that could not be finished: some of several pictures, say.

    A vendor sets `call.salvage` to it as the work goes on, and to None when all is done. If neither this attempt nor
    another one gives a whole answer, the client gets the largest part there is instead of an error, and pays for that.
    """

    extent: int
    """How large the part is, to compare it with others; more than 0."""
    make: Callable[[], Awaitable[Completion]]
    """Makes an answer of it."""
    dropped: tuple[str, ...] = ()
    """The parameters that it does not fulfil (`n`); named in a response header."""


class Outcome(Struct, frozen=True):
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
    cost: Cost | None = None
    """What the usage costs; None without usage, or where nobody knows a price."""


class Progress(Struct, frozen=True):
    """How far a long call has come: `fraction` from 0 to 1, and in words or a picture what it is doing."""

    fraction: float
    message: str = ""
    """For people: "step 12 of 20", "waiting"."""
    queue_position: int | None = None
    """How many calls are before it in its vendor's queue; None once it runs, or if that is not known."""
    preview: bytes = b""
    """A small picture of what there is so far; its first bytes tell its format."""


class Call(Struct, eq=False):
    """One request of one client, from its first byte to its settlement."""

    operation: Operation
    surface: str
    headers: Mapping[str, str]
    remote: str = ""
    id: str = field(default_factory=next_id)
    started: float = field(default_factory=time.monotonic)
    principal: Principal = ANONYMOUS
    model: str = ""
    stream: bool = False
    include_usage: bool = False
    """Whether the client asked for the usage event at the end of a stream."""
    max_tokens: int | None = None
    """How many tokens each answer may have, as the client said; set by surfaces that set `choices`."""
    choices: int | None = None
    """How many answers are to be made; None if the surface does not say, and the body has to be read for it."""
    body: Document = EMPTY
    size: "Estimate | None" = None
    """How many tokens it will use, as last estimated; set when `estimate` is first asked."""
    target: Target | None = None
    """The deployment being tried, and in the end the one that answered."""
    served: str = ""
    """The public name of the model that answers: the one asked for, or a fallback's; "" while none does."""
    attempts: int = 0
    rounds: int = 0
    """How often the model was told that its tool calls are wrong, and answered again."""
    spent: tuple[Usage | None, Cost | None] | None = None
    """What the earlier rounds used together, and what that costs, as far as it is known; None in the first round."""
    said: str = ""
    """What the model said in earlier rounds, as the client sees it; the client's answer begins with it."""
    asked: bool = False
    """Whether the answer asks for a decision about tool calls."""
    dropped: tuple[str, ...] = ()
    """Parameters that the answering vendor has no place for; named in a response header."""
    first_token: float | None = None
    """time.monotonic() of the first content, None before."""
    answer_headers: dict[str, str] = field(default_factory=dict)
    """Headers that any stage adds to the answer."""
    answer_lines: str = ""
    """More such headers as ready lines, each ended by CRLF: quicker for those that nearly every answer has.

    They go out unchecked, so nothing that a client or a vendor has written may be in them.
    """
    deferred: bool = False
    """Whether the client asked for a job (`"async": true`) instead of waiting for the answer."""
    reservation: str = ""
    """The name of the reservation that was made when it was deferred, for limiters to use; "" for none.

    A call that is made on a reservation has an id of that name, a dot, and the number of the try, counted from 1.
    """
    rewriter: "Rewriter | None" = None
    """What changes the answer; chosen by the transforms."""
    keep_files: float | None = None
    """Seconds for which files of its answer are kept and their URLs valid; None: as the file store's settings say."""
    files: tuple[str, ...] = ()
    """The ids of the files that its answer names."""
    given: Document | None = None
    """The request as it was before the transforms changed it; None if there are no transforms."""
    progress: Callable[[Progress], None] | None = None
    """Called by vendors of long calls with how far the call has come; None if nobody wants to know."""
    salvage: "Salvage | None" = None
    """What the vendor has made so far in the current attempt, to be given to the client if it fails."""
    cut_short: bool = False
    """Whether the answer is only such a part."""
    extended: bool = False
    """Whether the request came in another dialect, and its body has that dialect's fields: see `plain_chat`."""
    lost: tuple[str, ...] = ()
    """Parts of the request that its surface had to leave out, as nobody could be told them."""
    own_tools: Mapping[str, Any] = {}
    """The gateway's own tools (`Tool`, by name) that were added to the request."""
    tool_rounds: int = 0
    """How many times such tools were run and the model called again."""
    appended: int = 0
    """How many of the last messages are none of the client's: the gateway has added them, to go on after tool calls."""
    state: dict[str, Any] = field(default_factory=dict)
    """Room for plugins to keep something for this call; use your plugin's name as the key."""

    def __repr__(self) -> str:
        return f"Call({self.id}, {self.operation}, {self.model!r})"  # headers hold secrets, bodies what people say

    @property
    def public_name(self) -> str:
        """The model's name in the answer."""
        return self.served or self.model

    @property
    def payload(self) -> dict[str, Any]:
        """The request as a dict in OpenAI's shape. Read-only: to change it, assign a new Document to `body`.

        Raises:
            InvalidRequest: a field that the surface did not look at cannot be decoded (a number of a million digits).
        """
        try:
            return self.body.data
        except MalformedJSON as error:
            raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None


_MOST_NOTED = 1000
"""Names that are kept of what an attempt had to leave out: more than a header holds."""


class Attempt(Struct, eq=False):
    """One try of one deployment: all that a vendor is handed.

    `drop()` names something that the translation has to leave out; a response header tells the client.
    """

    call: Call
    target: Target
    sifted: Mapping[str, Any] | None = None
    """The request without the parameters that the vendor's table drops, with `defaults`; None if nothing changes."""
    defaults: Mapping[str, Any] = {}
    """Parameters that the request leaves open and the deployment sets; `payload` has them already."""
    dropped: list[str] = field(default_factory=list)
    relay: Callable[[bytes, int], bool] | None = None
    """Where nothing looks into the answer: writes events, framed for an OpenAI client, past what the vendor yields.

    They must only add to what was begun: so many of them have content, none tells a usage or an end. False, and
    nothing is written, if the client cannot take them now: then they are to be yielded.
    """

    @property
    def payload(self) -> Mapping[str, Any]:
        """The request in OpenAI's shape, as far as this vendor's table lets it through."""
        return self.call.payload if self.sifted is None else self.sifted

    @property
    def single_call(self) -> bool:
        """Whether the client takes one tool call at a time; also where the vendor's table drops that wish."""
        return self.call.payload.get("parallel_tool_calls") is False

    def __repr__(self) -> str:
        return f"Attempt({self.call!r}, {self.target.key!r})"

    def drop(self, name: str) -> None:
        """Say that `name`, a part of the request, has no counterpart at this vendor; a header tells the client.

        Raises:
            InvalidRequest: the deployment is `strict`: nothing may be lost.
        """
        if (own := self.call.appended) and message_number(name) >= max(0, len(self.payload["messages"]) - own):
            return  # the client has not sent it
        if self.target.strict:
            raise InvalidRequest(
                f"{name}: would be lost at vendor {self.target.vendor!r}",
                param=name,
                code="unsupported_parameter",
                retry=Retry.NEXT,
            )
        self.note(name)

    def note(self, name: str) -> None:
        """Say, in the same header, that something of the vendor's answer had to be left out or changed."""
        if len(self.dropped) < _MOST_NOTED and name not in self.dropped:
            self.dropped.append(name)
