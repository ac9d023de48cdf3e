"""Tool policies at work: which tools a model is shown, and which of its calls go out."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from msgspec import Struct

from gatehook.errors import PermissionDenied, WrongResultError
from gatehook.failures import is_failure
from gatehook.jsonio import Document
from gatehook.model import Call, Completion, Entry, Question, ToolCall, Verdict
from gatehook.protocols import Confirmer, ToolPolicy
from gatehook.tools.calls import OLD_FORM, answers_of, calls_of, identified, may_call, own_words, pending_form
from gatehook.tools.gate import Gate

__all__ = ["ToolPolicies", "confirmation_of"]

_MOST_ROUNDS: Final = 8
"""How often, in one request, a model may be told that its calls are wrong, whatever policies say."""
_STRICTNESS: Final = ("allow", "confirm", "retry", "deny")
_UNTRIED: Final = "Not run: another call of this turn was wrong. Call it again if it is still needed."
_CONFIRMATION: Final = ("status", "session_id", "expires_at", "pending_tool_calls")
_STATUS: Final = "require_confirmation"


def confirmation_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields by which an answer, or a chunk, asks for a decision about tool calls; {} if it does not.

    For surfaces whose answers have another shape than OpenAI's.
    """
    if data.get("status") != _STATUS:
        return {}
    return {name: data[name] for name in _CONFIRMATION if name in data}


class Ruling(Struct, frozen=True):
    """What becomes of a turn's calls: they go out, the `pending` ones wait, or the model is told what is wrong.

    `said` holds what the model is told, by the ids of the calls.
    """

    kind: Literal["allow", "confirm", "retry"]
    pending: Sequence[ToolCall] = ()
    said: Mapping[str, str] = {}


_ALLOWED: Final = Ruling("allow")
_JUDGED: Final = "tools.judged"
"""The key in `call.state` of the verdicts on its last turn."""


class ToolPolicies:
    """The tool policies: which tools a model is shown, and which of its calls go out."""

    def __init__(self, policies: Sequence[ToolPolicy]) -> None:
        self.policies = tuple(policies)
        self._confirmer = next((one for one in policies if isinstance(one, Confirmer)), None)

    async def offer(self, call: Call) -> None:
        """Narrow the tools of the request to what every policy lets the model see.

        Raises:
            PermissionDenied: the request demands a tool that the model may not see.
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
        """What the policies leave of `given`; `old`: functions, which are shown to them as tools."""
        tools: Sequence[Any] = [{"type": "function", "function": one} for one in given] if old else given
        for policy in self.policies:
            tools = await policy.offer(call, tools)
        return [one["function"] for one in tools] if old else list(tools)

    async def judge(self, call: Call, completion: Completion) -> Completion | None:
        """Judge the tool calls of a whole answer.

        Returns:
            The answer as it may go out: unchanged, or with a question in place of its calls.
            None: the model is to be asked again; the call's body now tells it what was wrong with its calls.

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
        # Without calls it ends like an answer in text, or clients would look for calls.
        (choice,) = ({**one, "message": bare, "finish_reason": "stop"} for one in choices)
        return Completion({**completion.data, "choices": [choice], **asked}, usage=completion.usage)

    async def judge_again(self, call: Call, entry: Entry) -> Entry | None:
        """Judge a cached answer, as policies may have changed since it was stored; None: as for `judge`.

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
        """Whether the conversation can continue from a turn with calls: tools were offered, for a single answer."""
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
            # Nor where the answer was rewritten: its own message would tell the model what transforms hide from it.
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
        """The verdict on each call of a turn. They are judged concurrently, as a policy may have to wait for a disk.

        A turn that calls the gateway's own tools is ruled upon twice, but judged once.
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

    async def _tried(self, call: Call, tool_call: ToolCall) -> Verdict | BaseException:
        """Its verdict, or what a policy raises, which is to end this call: in a task a SystemExit ends the program."""
        try:
            return await self._verdict(call, tool_call)
        except BaseException as error:
            if not is_failure(error):
                raise
            return error

    async def _verdict(self, call: Call, tool_call: ToolCall) -> Verdict:
        """The strictest verdict of all policies."""
        verdicts = [await policy.judge(call, tool_call) for policy in self.policies]
        for policy, verdict in zip(self.policies, verdicts, strict=True):
            if not isinstance(verdict, Verdict) or verdict.kind not in _STRICTNESS:
                raise WrongResultError(policy, "judge", verdict, f"a Verdict of: {', '.join(_STRICTNESS)}")
        return max(verdicts, key=lambda verdict: _STRICTNESS.index(verdict.kind))

    async def ask(self, call: Call, message: Mapping[str, Any], pending: Sequence[ToolCall]) -> dict[str, Any]:
        """Have somebody decide about calls of the model's message; returns the fields that tell the client so.

        Raises:
            GatewayError: nobody can be asked now.
        """
        assert self._confirmer is not None, "ruling() has looked"  # noqa: S101
        fields = await self._confirmer.ask(call, Question(own_words(message, call.said), pending))
        call.asked = True
        return {"status": _STATUS, **fields, "pending_tool_calls": [pending_form(one) for one in pending]}

    @staticmethod
    def tell(call: Call, message: Mapping[str, Any], said: Mapping[str, str]) -> None:
        """Add the model's message to the request, and for each of its calls what is `said` of it, by its id."""
        contents = {one.id: said.get(one.id, _UNTRIED) for one in calls_of(message)}
        call.rounds += 1
        told = [own_words(message, call.said), *answers_of(message, contents)]
        call.appended += len(told)
        call.body = _with(call.body, told)
        if call.given is not None:
            call.given = _with(call.given, told)


def _with(body: Document, messages: Sequence[Mapping[str, Any]]) -> Document:
    return Document({**body.data, "messages": [*body.data["messages"], *messages]})


def _denied(called: ToolCall, what: str, verdict: Verdict) -> PermissionDenied:
    reason = f": {verdict.reason}" if verdict.reason else ""
    return PermissionDenied(f"the model's call of tool {called.name!r} {what}{reason}", code="tool_call_denied")


_TOOL_FIELDS = {"tools": ("tool_choice", "parallel_tool_calls"), "functions": ("function_call",)}
"""The fields that name tools, each with those that mean nothing without it. `functions` is OpenAI's old form."""


def _offers(call: Call) -> bool:
    """Whether the request may offer tools; found out without decoding it."""
    return call.body.may_have(*_TOOL_FIELDS)


def _check_choice(choice: Any, offered: Sequence[Mapping[str, Any]], field: str) -> None:
    """Refuse a `tool_choice` that can no longer be kept: leaving it out would change what was asked for."""
    function = choice.get("function", choice) if isinstance(choice, dict) else None
    named = function.get("name") if isinstance(function, dict) else None
    if named is not None and not any(one.get("function", one).get("name") == named for one in offered):
        raise PermissionDenied(f"{field}: the tool {named!r} may not be used", param=field, code="tool_not_allowed")
    if choice == "required" and not offered:
        raise PermissionDenied(f"{field}: none of the tools may be used", param=field, code="tool_not_allowed")
