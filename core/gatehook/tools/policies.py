"""Tool policies at work: which tools a model is shown, and which of its calls go out."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from msgspec import Struct

from gatehook.errors import PermissionDenied, WrongResultError
from gatehook.jsonio import Document
from gatehook.model import Call, Completion, Entry, Question, ToolCall, Verdict
from gatehook.protocols import Confirmer, ToolPolicy
from gatehook.tools.calls import OLD_FORM, answers_of, calls_of, identified, may_call, own_words, pending_form
from gatehook.tools.gate import Gate

__all__ = ["ToolPolicies", "confirmation_of"]

_MOST_ROUNDS: Final = 8
"""A model may be told that its calls are wrong so often in one request, whatever policies say."""
_STRICTNESS: Final = ("allow", "confirm", "retry", "deny")
_UNTRIED: Final = "Not run: another call of this turn was wrong. Call it again if it is still needed."
_CONFIRMATION: Final = ("status", "session_id", "expires_at", "pending_tool_calls")
_STATUS: Final = "require_confirmation"


def confirmation_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """What an answer, or a chunk of one, asks about tool calls, for surfaces of another shape; {} if nothing."""
    if data.get("status") != _STATUS:
        return {}
    return {name: data[name] for name in _CONFIRMATION if name in data}


class Ruling(Struct, frozen=True):
    """What becomes of the calls of one turn: allowed, to be confirmed (the `pending`), or `said` to be wrong, by id."""

    kind: Literal["allow", "confirm", "retry"]
    pending: Sequence[ToolCall] = ()
    said: Mapping[str, str] = {}


_ALLOWED: Final = Ruling("allow")
_JUDGED: Final = "tools.judged"
"""Where a call keeps the verdicts on its last turn."""


class ToolPolicies:
    """The tool policies: which tools a model is shown, and which of its calls go out."""

    def __init__(self, policies: Sequence[ToolPolicy]) -> None:
        self.policies = tuple(policies)
        self._confirmer = next((one for one in policies if isinstance(one, Confirmer)), None)

    async def offer(self, call: Call) -> None:
        """Narrow the tools of the request to what every policy lets the model see.

        Raises:
            PermissionDenied: the request insists on a tool that may not be seen.
        """
        if not self.policies or call.operation != "chat" or not _offers(call):
            return
        payload = dict(call.payload)
        for name, beside in _TOOL_FIELDS.items():
            given = payload.get(name)
            if not given or not isinstance(given, list):
                continue
            offered = await self._offered(call, given, old=name == "functions")
            if offered != given:
                _check_choice(payload.get(beside[0]), offered, beside[0])
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

    async def judge(self, call: Call, completion: Completion) -> Completion | None:
        """Judge the tool calls of a whole answer.

        Returns:
            The answer as it may go out: as it is, or with the question whether its calls may be made in their place.
            None: the model is to be asked again; the call's body now says what was wrong with what it called.

        Raises:
            PermissionDenied: a call is denied, or needs a confirmation that no plugin can ask for.
            GatewayError: what a policy raises; nothing goes out.
        """
        if not self.policies or call.operation != "chat" or not may_call(completion):
            return completion
        choices = completion.data.get("choices") or ()
        messages = [identified(choice.get("message") or {}) for choice in choices]
        ruling = await self.ruling(call, messages)
        if ruling.kind == "allow":
            return completion
        if ruling.kind == "retry":
            self.tell(call, messages[0], ruling.said)
            return None
        asked = await self.ask(call, messages[0], ruling.pending)
        bare = {name: value for name, value in messages[0].items() if name not in ("tool_calls", OLD_FORM)}
        # Without calls it ends as an answer in words does: nobody shall look for any.
        (choice,) = ({**one, "message": bare, "finish_reason": "stop"} for one in choices)
        return Completion({**completion.data, "choices": [choice], **asked}, usage=completion.usage)

    async def judge_again(self, call: Call, entry: Entry) -> Entry | None:
        """Judge a cached answer: the policies may have changed since it was stored. None: as `judge`.

        Raises:
            GatewayError: see `judge`.
        """
        if entry.completion is not None:
            judged = await self.judge(call, entry.completion)
            if judged is None:
                return None
            return entry if judged is entry.completion else Entry(judged, at=entry.at, dropped=entry.dropped)
        if (gate := self.gate(call)) is None:
            return entry
        passed, rest = await gate.passed(entry.chunks), await gate.rest()
        if gate.wants_another_round:
            return None
        return Entry(chunks=[*passed, *rest], at=entry.at, dropped=entry.dropped) if call.asked else entry

    def gate(self, call: Call) -> Gate | None:
        """What a stream's chunks must pass; None if there is nothing to judge."""
        return Gate(self, call) if self.policies and call.operation == "chat" else None

    def can_go_on(self, call: Call) -> bool:
        """Whether a turn with calls can be kept, or answered: tools were offered, and there is one answer only."""
        return _offers(call) and call.payload.get("n") in (None, 1)

    async def ruling(self, call: Call, messages: Sequence[Mapping[str, Any]]) -> Ruling:
        """Ask every policy about every call of these messages, one for each choice.

        Raises:
            GatewayError: see `judge`.
        """
        verdicts = await self._verdicts(call, [one for message in messages for one in calls_of(message)])
        strictest = max((verdict.kind for _, verdict in verdicts), key=_STRICTNESS.index, default="allow")
        if strictest == "allow":
            return _ALLOWED
        can_go_on = len(messages) == 1 and self.can_go_on(call)
        called, verdict = next(one for one in verdicts if one[1].kind == strictest)
        if strictest == "deny":
            raise _denied(called, "is denied", verdict)
        if strictest == "retry":
            # Where the answer was rewritten, the model would be told what was kept from it.
            if not can_go_on or call.rounds >= _MOST_ROUNDS or call.rewriter is not None:
                raise _denied(called, "is wrong, and the model cannot be told", verdict)
            return Ruling(
                "retry", said={one.id: verdict.reason for one, verdict in verdicts if verdict.kind == "retry"}
            )
        if self._confirmer is None:
            raise _denied(called, "needs a confirmation, and no enabled plugin asks for one", verdict)
        if not can_go_on:
            raise _denied(called, "needs a confirmation, which is asked for in single answers (n = 1) only", verdict)
        return Ruling("confirm", [one for one, verdict in verdicts if verdict.kind == "confirm"])

    async def _verdicts(self, call: Call, called: Sequence[ToolCall]) -> Sequence[tuple[ToolCall, Verdict]]:
        """What becomes of each call of a turn. They are judged at the same time: a policy may have to wait for a disk.

        A turn that calls tools of the gateway's own is looked at twice, but judged once.
        """
        turn = (call.rounds, call.tool_rounds, [(one.name, one.arguments) for one in called])
        known: tuple[object, Sequence[Verdict]] | None = call.state.get(_JUDGED)
        if known is not None and known[0] == turn:
            return list(zip(called, known[1], strict=True))
        found = await asyncio.gather(*(self._tried(call, one) for one in called), return_exceptions=True)
        verdicts: list[Verdict] = []
        for one in found:
            if isinstance(one, BaseException):
                raise one
            verdicts.append(one)
        call.state[_JUDGED] = (turn, verdicts)
        return list(zip(called, verdicts, strict=True))

    async def _tried(self, call: Call, tool_call: ToolCall) -> Verdict | SystemExit:
        """Its verdict. A policy that wants to end the program ends one call: raised by a task, it would be the end."""
        try:
            return await self._verdict(call, tool_call)
        except SystemExit as error:
            return error

    async def _verdict(self, call: Call, tool_call: ToolCall) -> Verdict:
        """The strictest of all policies'."""
        verdicts = [await policy.judge(call, tool_call) for policy in self.policies]
        for policy, verdict in zip(self.policies, verdicts, strict=True):
            if not isinstance(verdict, Verdict) or verdict.kind not in _STRICTNESS:
                raise WrongResultError(policy, "judge", verdict, f"a Verdict of: {', '.join(_STRICTNESS)}")
        return max(verdicts, key=lambda verdict: _STRICTNESS.index(verdict.kind))

    async def ask(self, call: Call, message: Mapping[str, Any], pending: Sequence[ToolCall]) -> dict[str, Any]:
        """Have somebody asked about calls of the model's message; gives what the answer says of it.

        Raises:
            GatewayError: nobody can be asked now.
        """
        assert self._confirmer is not None, "ruling() has looked"  # noqa: S101
        fields = await self._confirmer.ask(call, Question(own_words(message, call.said), pending))
        call.asked = True
        return {"status": _STATUS, **fields, "pending_tool_calls": [pending_form(one) for one in pending]}

    @staticmethod
    def tell(call: Call, message: Mapping[str, Any], said: Mapping[str, str]) -> None:
        """Let the conversation go on with the model's message, and what is `said` to it of its calls, by their ids."""
        contents = {one.id: said.get(one.id, _UNTRIED) for one in calls_of(message)}
        call.rounds += 1
        told = [own_words(message, call.said), *answers_of(message, contents)]
        call.body = _with(call.body, told)
        if call.given is not None:
            call.given = _with(call.given, told)


def _with(body: Document, messages: Sequence[Mapping[str, Any]]) -> Document:
    return Document({**body.data, "messages": [*body.data["messages"], *messages]})


def _denied(called: ToolCall, what: str, verdict: Verdict) -> PermissionDenied:
    reason = f": {verdict.reason}" if verdict.reason else ""
    return PermissionDenied(f"the model's call of tool {called.name!r} {what}{reason}", code="tool_call_denied")


_TOOL_FIELDS = {"tools": ("tool_choice", "parallel_tool_calls"), "functions": ("function_call",)}
"""Where a request names tools, and what means nothing without them. `functions` is OpenAI's old form, still taken."""


def _offers(call: Call) -> bool:
    """Whether the request may offer tools; told without decoding what nobody has decoded yet."""
    return call.body.may_have(*_TOOL_FIELDS)


def _check_choice(choice: Any, offered: Sequence[Mapping[str, Any]], field: str) -> None:
    """A choice that can no longer be made is refused: leaving it out would change what was asked for."""
    function = choice.get("function", choice) if isinstance(choice, dict) else None
    named = function.get("name") if isinstance(function, dict) else None
    if named is not None and not any(one.get("function", one).get("name") == named for one in offered):
        raise PermissionDenied(f"{field}: the tool {named!r} may not be used", param=field, code="tool_not_allowed")
    if choice == "required" and not offered:
        raise PermissionDenied(f"{field}: none of the tools may be used", param=field, code="tool_not_allowed")
