"""The way out of a stream for tool calls: held back until they are whole and judged; words pass at once."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from gatehook.accounts import Usage
from gatehook.model import Call, Chunk, Frames
from gatehook.tools.calls import assembled, identified, may_call, without_calls

if TYPE_CHECKING:
    from gatehook.tools.policies import ToolPolicies

__all__ = ["Gate"]


class Gate:
    """What the chunks of one call's streams must pass: one stream, or several where the model is to try again."""

    def __init__(self, tools: "ToolPolicies", call: Call) -> None:
        self._tools = tools
        self._call = call
        self._remembers = tools.can_go_on(call)
        """Whether the whole message may be needed, to go on from it."""
        self._before: list[Sequence[Chunk]] = []
        self._tool_rounds = 0
        """In which round of the gateway's own tools that was."""
        self._held: list[Chunk] = []
        self._open: set[int] = set()
        """Choices with a call that more may be added to."""
        self._outcome: Literal["open", "asked", "again"] = "open"
        self._seam: _Seam | None = None
        """Joins this stream to the ones before it."""

    @property
    def wants_another_round(self) -> bool:
        """Whether the model is to be asked again: the call's body now says what was wrong with what it called."""
        return self._outcome == "again"

    def next_round(self, used: Callable[[], Usage | None]) -> None:
        """Another stream follows, whose chunks go on where those before ended; `used` tells what all take together."""
        self._seam = self._seam or _Seam(next(chunk.data for batch in self._before for chunk in batch), used)
        self._before, self._outcome = [], "open"

    async def passed(self, batch: Sequence[Chunk]) -> Sequence[Chunk]:
        """The chunks that may go out now.

        Raises:
            PermissionDenied: see `ToolPolicies.judge`.
        """
        if self._outcome != "open":  # nothing follows a question, and nothing of a turn that is to be made anew
            return [chunk for chunk in batch if chunk.usage_only] if self._outcome == "asked" else []
        if self._seam is not None:
            batch = self._seam.joined(batch)
        if not self._held and isinstance(batch, Frames) and not may_call(batch):
            self._note(batch)
            return batch
        out: list[Chunk] = []
        for chunk in batch:
            if self._outcome != "open":
                out += await self.passed([chunk])
                continue
            if self._calls(chunk) or self._held:
                self._held.append(chunk)
                if not self._open:
                    out += await self.rest()
            else:
                self._note([chunk])
                out.append(chunk)
        return out

    async def rest(self) -> Sequence[Chunk]:
        """What is held back, when its calls are whole: a choice ended, or the stream.

        Raises:
            PermissionDenied: see `ToolPolicies.judge`.
        """
        held, self._held = self._held, []
        self._open.clear()
        if not held:
            return ()
        calling = {index: identified(message) for index, message in assembled(held).items()}
        ruling = await self._tools.ruling(self._call, list(calling.values()))
        self._note(held)
        if ruling.kind == "allow":
            return held
        ((index, called),) = calling.items()
        said = assembled(chunk for batch in self._before for chunk in batch)[index]
        message = {**said, "tool_calls": called["tool_calls"]} if "tool_calls" in called else said
        if ruling.kind == "retry":
            self._tools.tell(self._call, message, ruling.said)
            self._outcome = "again"
            return without_calls(held, ends=False)
        asked = await self._tools.ask(self._call, message, ruling.pending)
        self._outcome = "asked"
        return _ended(without_calls(held, ends=True), held[-1], index, asked)

    def _note(self, batch: Sequence[Chunk]) -> None:
        if self._remembers:
            if self._tool_rounds != self._call.tool_rounds:  # what was said before stands in the conversation already
                self._tool_rounds = self._call.tool_rounds
                self._before.clear()
            self._before.append(batch)

    def _calls(self, chunk: Chunk) -> bool:
        """Whether there is a piece of a call in it; notes the choices that are calling, and those that end."""
        calls = False
        for choice in chunk.data.get("choices") or ():
            delta = choice.get("delta") or {}
            if delta.get("tool_calls") or delta.get("function_call"):
                calls = True
                self._open.add(choice.get("index", 0))
            if choice.get("finish_reason") is not None:
                self._open.discard(choice.get("index", 0))
        return calls


def _ended(left: list[Chunk], last: Chunk, index: int, fields: dict[str, Any]) -> list[Chunk]:
    """The chunks of a turn that ends with a question: its fields stand in the one that says that it ends."""
    for place, chunk in enumerate(left):
        if chunk.finished:
            left[place] = Chunk({**chunk.data, **fields}, content=True, finished=True, usage=chunk.usage)
            return left
    end = {"index": index, "delta": {}, "finish_reason": "stop"}
    return [*left, Chunk({**last.data, "choices": [end], **fields}, content=True, finished=True)]


class _Seam:
    """Makes the next stream of an answer go on with the first: the same id, no second role, all usage together."""

    def __init__(self, head: dict[str, Any], used: Callable[[], Usage | None]) -> None:
        self._head: dict[str, Any] = {name: head[name] for name in ("id", "created", "model") if name in head}
        self._used = used

    def joined(self, batch: Iterable[Chunk]) -> list[Chunk]:
        return [self._joined(chunk) for chunk in batch]

    def _joined(self, chunk: Chunk) -> Chunk:
        data: dict[str, Any] = {**chunk.data, **self._head}
        data["choices"] = [_without_role(choice) for choice in data.get("choices") or ()]
        usage = chunk.usage and self._used()
        if usage is not None and data.get("usage"):
            data["usage"] = usage.as_openai()
        return Chunk(data, content=chunk.content, finished=chunk.finished, usage=usage, usage_only=chunk.usage_only)


def _without_role(choice: dict[str, Any]) -> dict[str, Any]:
    delta: dict[str, Any] = choice.get("delta") or {}
    return {**choice, "delta": {name: value for name, value in delta.items() if name != "role"}}
