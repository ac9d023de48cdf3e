"""What follows a decision: the approved calls go to the client, or the model hears of the refusals and goes on.

Each call of the model's message is answered here, or is the client's to make. If some are the client's, it gets them,
with the messages to go on from; if none is left, the model's next turn follows at once.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from gatehook import Call, Chunk, Completion, StreamBuilder, ToolCall, Usage, completion
from gatehook.sse import DONE, frame
from gatehook_plugins.tool_policy.sessions import Decision, Kept, Session

__all__ = ["Turn", "as_events", "next_request", "own_calls", "to_client", "turn_after"]

_OLD_FORM: Final = "function_call"
"""The field of OpenAI's old form, one call a message; in a session it goes by this id."""
_FORCED: Final = ("tool_choice", _OLD_FORM)
_STREAM: Final = ("stream", "stream_options")


class Turn(Struct, frozen=True):
    """The model's turn after a decision: its `message`, what it is `told` of some calls, and the ids that are left."""

    message: Mapping[str, Any]
    told: Sequence[Mapping[str, Any]]
    left: Collection[str]


def turn_after(session: Session, kept: Kept, decision: Decision) -> Turn:
    """The turn with edited arguments in place. What was not approved is told to the model as refused.

    Args:
        session: what was asked.
        kept: the model's message, what came before it, and what came of calls that the gateway has made itself.
        decision: what somebody has decided.
    """
    refusal = "The user did not allow this call, and it was not made."
    if decision.reason:
        refusal += f" They said: {decision.reason}"
    contents = {**{one.id: refusal for one in session.calls if one.id not in decision.approved}, **kept.made}
    message, told, left = dict(kept.message), [], []
    if calls := [_edited(one, decision.approved) for one in kept.message.get("tool_calls") or ()]:
        message["tool_calls"] = calls
    for call in calls:
        if call["id"] in contents:
            told.append({"role": "tool", "tool_call_id": call["id"], "content": contents[call["id"]]})
        else:
            left.append(call["id"])
    if old := kept.message.get(_OLD_FORM):
        message[_OLD_FORM] = {**old, "arguments": decision.approved.get(_OLD_FORM, old.get("arguments"))}
        if _OLD_FORM in contents:
            told.append({"role": "function", "name": old.get("name"), "content": contents[_OLD_FORM]})
        else:
            left.append(_OLD_FORM)
    return Turn(message, told, left)


def own_calls(session: Session, kept: Kept, decision: Decision) -> list[ToolCall]:
    """The calls of the gateway's own tools that may be made: approved, or allowed without a question."""
    refused = {one.id for one in session.calls if one.id not in decision.approved}
    found = []
    for call in kept.message.get("tool_calls") or ():
        function = call.get("function") or {}
        if function.get("name") in kept.own_names and call["id"] not in refused:
            arguments = decision.approved.get(call["id"], function.get("arguments") or "")
            found.append(ToolCall(call["id"], function["name"], arguments))
    return found


def next_request(kept: Kept, turn: Turn, *, stream: bool) -> dict[str, Any]:
    """The request for the model's next turn, without a `tool_choice` that forced the call: it has been made."""
    body = {name: value for name, value in kept.body.items() if stream or name not in _STREAM}
    for name in _FORCED:
        if body.get(name) not in (None, "auto", "none"):
            del body[name]
    if stream:
        body["stream"] = True
    return {**body, "messages": [*body["messages"], turn.message, *turn.told]}


def to_client(call: Call, session: Session, turn: Turn) -> Completion:
    """The calls that are the client's to make, as an answer of the model; it has cost nothing."""
    message = {name: value for name, value in turn.message.items() if name not in ("tool_calls", _OLD_FORM)}
    reason = "tool_calls"
    if left := [one for one in turn.message.get("tool_calls") or () if one["id"] in turn.left]:
        message["tool_calls"] = left
    if _OLD_FORM in turn.left:
        message[_OLD_FORM], reason = turn.message[_OLD_FORM], _OLD_FORM
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    extra = {"session_id": session.id, "append_messages": [turn.message, *turn.told]}
    return completion(call, [choice], Usage(), extra=extra)


def as_events(call: Call, answer: Completion) -> bytes:
    """The same answer as a stream."""
    builder = StreamBuilder(call)
    (choice,) = answer.data["choices"]
    delta = {name: value for name, value in choice["message"].items() if name != "role" and value is not None}
    if calls := delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": place, **one} for place, one in enumerate(calls)]
    chunks = [builder.delta(delta)]  # built first, as it carries the role
    extra = {name: answer.data[name] for name in ("session_id", "append_messages")}
    chunks.append(Chunk({**builder.finish(choice["finish_reason"]).data, **extra}))
    if call.include_usage:
        chunks.append(builder.usage(Usage()))
    return b"".join(frame(chunk.raw) for chunk in chunks) + DONE


def _edited(call: Mapping[str, Any], approved: Mapping[str, str]) -> dict[str, Any]:
    """A call with the arguments that were approved."""
    if call["id"] not in approved:
        return dict(call)
    kind, field = ("custom", "input") if "custom" in call else ("function", "arguments")
    return {**call, kind: {**call[kind], field: approved[call["id"]]}}
