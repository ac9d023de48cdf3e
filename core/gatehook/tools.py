"""Tool policies at work: which tools a model is shown, and which of its calls go out."""

from collections.abc import Mapping, Sequence
from typing import Any

from gatehook.errors import PermissionDenied
from gatehook.jsonio import Document, encode
from gatehook.model import Call, Chunk, Completion, Entry, ToolCall
from gatehook.protocols import ToolPolicy

__all__ = ["Gate", "Tools"]


class Tools:
    """The tool policies: which tools a model is shown, and which of its calls go out."""

    def __init__(self, policies: Sequence[ToolPolicy]) -> None:
        self.policies = tuple(policies)

    async def offer(self, call: Call) -> None:
        """Narrow the tools of the request to what every policy lets the model see.

        Raises:
            PermissionDenied: the request insists on a tool that may not be seen.
        """
        if not self.policies or call.operation != "chat":
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


def _check_choice(choice: Any, offered: Sequence[Mapping[str, Any]], field: str) -> None:
    """A choice that can no longer be made is refused: leaving it out would change what was asked for."""
    function = choice.get("function", choice) if isinstance(choice, dict) else None
    named = function.get("name") if isinstance(function, dict) else None
    if named is not None and not any(one.get("function", one).get("name") == named for one in offered):
        raise PermissionDenied(f"{field}: the tool {named!r} may not be used", param=field, code="tool_not_allowed")
    if choice == "required" and not offered:
        raise PermissionDenied(f"{field}: none of the tools may be used", param=field, code="tool_not_allowed")


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
