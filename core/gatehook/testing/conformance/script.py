"""How an upstream speaks: what a vendor's author writes once, for all checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gatehook.accounts import Usage
from gatehook.model import Operation, ToolCall
from gatehook.testing import Reply

__all__ = ["FAILURES", "Act", "Failure", "FailureKind", "Said", "Script"]


@dataclass(frozen=True, slots=True)
class Said:
    """What the model behind the upstream says: text, or tool calls, but not both."""

    text: Sequence[str] = ()
    """The text, in the pieces in which it is streamed."""
    calls: Sequence[ToolCall] = ()
    finish: Literal["stop", "length", "content_filter", "tool_calls"] = "stop"
    """Why it ended, in OpenAI's words."""
    usage: Usage = Usage(11, 7)  # noqa: RUF009  # frozen
    operation: Operation = "chat"
    vectors: Sequence[Sequence[float]] = ()
    """Embeddings, one for each input."""


FailureKind = Literal[
    "credential",
    "permission",
    "model",
    "timeout",
    "rate_limit",
    "invalid",
    "context_length",
    "content_policy",
    "internal",
    "unavailable",
    "overloaded",
]


@dataclass(frozen=True, slots=True)
class Failure:
    """What goes wrong at the upstream; `retry_after` is in seconds, for the header of that name."""

    kind: FailureKind
    status: int
    message: str
    retry_after: int | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def worded(self, message: str) -> "Failure":
        """The same in other words."""
        return replace(self, message=message)


FAILURES: Mapping[Failure, tuple[int, str | None]] = {
    Failure("credential", 401, "who are you"): (502, "upstream_credential_rejected"),
    Failure("permission", 403, "not for you"): (502, "upstream_credential_rejected"),
    Failure("model", 404, "no such model"): (502, "upstream_model_not_found"),
    Failure("timeout", 408, "it took too long"): (504, "upstream_timeout"),
    Failure("rate_limit", 429, "not so fast", retry_after=7): (429, "rate_limit_exceeded"),
    Failure("invalid", 400, "the temperature is out of range"): (400, None),
    Failure("context_length", 400, "the prompt is longer than the maximum context length"): (
        400,
        "context_length_exceeded",
    ),
    Failure("content_policy", 400, "blocked by our content policy"): (400, "content_filter"),
    Failure("internal", 500, "something broke"): (502, "upstream_error"),
    Failure("unavailable", 503, "down for a while"): (503, "upstream_overloaded"),
    Failure("overloaded", 529, "too many at once"): (503, "upstream_overloaded"),
}
"""For each failure, what the gateway's client must be told: the status, and the code (None: the vendor's own)."""

Act = Reply | Mapping[str, Any]
"""An upstream's answer; or, for a vendor without an upstream, the `options` of a deployment that answers so."""


class Script:
    """How the upstream of one dialect answers. Subclass it; for what the dialect does not have, return None.

    Upstreams are servers on real sockets; the author writes their bytes, by the vendor's own documentation.
    """

    def base_url(self, url: str) -> str:
        """The `base_url` of a deployment at the server with this address, ``http://127.0.0.1:PORT``."""
        return url

    def plain(self, said: Said) -> Act | None:
        """A whole answer, also to text completions (`said.operation`) and embeddings if the vendor offers them."""
        raise NotImplementedError(f"{type(self).__name__}.plain() must say how the upstream answers")

    def stream(self, said: Said) -> Act | None:
        """A streamed answer: `Reply.body` is a sequence, each item one event as it is framed on the wire."""
        return None

    def failure(self, failure: Failure) -> Act | None:
        """An error answer, with the message in it; by default what OpenAI and many others send."""
        error = {"message": failure.message, "type": failure.kind, "code": None}
        return Reply.of_json({"error": error}, status=failure.status, headers=failure.headers)

    def failing_stream(self, said: Said, failure: Failure) -> Act | None:
        """A stream that says the text and then, instead of its end, an error; None if the dialect has no such event."""
        return None

    def asks(self, said: Said) -> Mapping[str, Any]:
        """For a real engine, which has no script: fields of the request that make it say just this."""
        return {}
