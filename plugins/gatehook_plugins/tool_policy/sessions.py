"""Sessions: tool calls that wait for a decision, with all that is needed to go on once there is one."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from gatehook import Call, Caller, Question, ToolCall, decode, encode

__all__ = ["Decision", "Kept", "Session", "Status", "arguments_digest", "halted_session", "new_session", "printable"]

Status = Literal["pending", "decided", "halted", "expired"]
"""`halted` is one that is decided, but the turn that follows could not begin: it may be asked for again."""


class Decision(Struct, frozen=True):
    """What somebody has decided: the `approved` calls' ids, with the arguments they may be made with."""

    approved: Mapping[str, str]
    reason: str = ""


class Kept(Struct, frozen=True):
    """The conversation as it stood: the request, and the model's message with all its calls."""

    body: dict[str, Any]
    message: dict[str, Any]
    caller: Caller
    """Whose limits and budget the next turn is made with, and what it may use."""
    own: list[dict[str, Any]] = []
    """The gateway's own tools that were added to the request: they are not in `body`, but may be called."""
    decision: Decision | None = None
    """What was decided, if that is so: what follows is all that is left to be done."""
    made: dict[str, str] = {}
    """What came of the calls that the gateway has made by this decision, by their ids: nothing is made twice."""
    extended: bool = False
    """As of the `Call` that asked."""

    @property
    def own_names(self) -> set[str]:
        """What those are called."""
        return {tool["function"]["name"] for tool in self.own}


class Session(Struct, frozen=True):
    """One question. Times are epoch milliseconds. Only `calls` wait: others in the message are allowed already."""

    id: str
    user_id: str
    model: str
    status: Status
    created: int
    expires: int
    calls: Sequence[ToolCall]
    kept: bytes = b""
    """A `Kept`, as JSON; empty once there is a decision."""
    digest: str = ""
    """Of all the fields that were asked about, so that a change of one in the database is noticed."""

    def is_sound(self) -> bool:
        """Whether it is what was asked about: this user, model, conversation, and these arguments."""
        return secrets.compare_digest(self.digest, _digest(self))

    def conversation(self) -> Kept:
        """What was kept."""
        return msgspec.convert(decode(self.kept), Kept)

    def shown(self) -> dict[str, Any]:
        """As people see it; times are epoch seconds."""
        return {
            "session_id": self.id,
            "user_id": self.user_id,
            "model": self.model,
            "created_at": self.created // 1000,
            "expires_at": self.expires // 1000,
            "pending_tool_calls": [
                {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}}
                for one in self.calls
            ],
        }


def new_session(call: Call, question: Question, now: int, lifetime: int) -> Session:
    """A session that begins `now` (epoch ms) and expires `lifetime` ms later."""
    principal = call.principal
    body, own = _parted(call)
    kept = Kept(body, dict(question.message), Caller.of(principal), own, extended=call.extended)
    session = Session(
        id="sess_" + secrets.token_urlsafe(24),
        user_id=principal.id,
        model=call.model,
        status="pending",
        created=now,
        expires=now + lifetime,
        calls=tuple(question.pending),
        kept=_written(kept),
    )
    return msgspec.structs.replace(session, digest=_digest(session))


def halted_session(session: Session, kept: Kept, expires: int) -> Session:
    """A session that is decided, with what has come of that; what follows may be asked for until it `expires`."""
    halted = msgspec.structs.replace(session, status="halted", expires=expires, kept=_written(kept))
    return msgspec.structs.replace(halted, digest=_digest(halted))


def arguments_digest(arguments: str) -> str:
    """What stands for arguments in the audit, as they may hold secrets."""
    return "sha256:" + hashlib.sha256(arguments.encode("utf-8", "surrogatepass")).hexdigest()


def printable(text: str) -> str:
    """A name that a model made up, as every database takes it."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])


def _written(kept: Kept) -> bytes:
    parts = {"caller": kept.caller, "decision": kept.decision}
    fields = {name: one and msgspec.structs.asdict(one) for name, one in parts.items()}
    return encode({**msgspec.structs.asdict(kept), **fields})


def _parted(call: Call) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The client's request, as it was before transforms and with the client's tools only; and the gateway's own tools.

    The next request passes the transforms again, and gets the gateway's tools again.
    """
    payload = call.payload if call.given is None else call.given.data
    own = [tool for tool in call.payload.get("tools") or () if _name(tool) in call.own_tools]
    tools = payload.get("tools") or []
    left = [tool for tool in tools if tool not in own]
    if len(left) == len(tools):
        return payload, own
    without = {name: value for name, value in payload.items() if name != "tools"}
    return ({**without, "tools": left} if left else without), own


def _name(tool: Mapping[str, Any]) -> Any:
    return (tool.get("function") or {}).get("name")


def _digest(session: Session) -> str:
    bound: Mapping[str, Any] = {
        "id": session.id,
        "user": session.user_id,
        "model": session.model,
        "expires": session.expires,
        "calls": [(one.id, one.name, one.arguments) for one in session.calls],
    }
    return hashlib.sha256(encode(bound) + session.kept).hexdigest()
