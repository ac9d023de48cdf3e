"""Tool calls in streams: they are held back until they are complete and judged, while text passes at once."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from gatehook.accounts import Usage
from gatehook.model import Call, Chunk, Frames
from gatehook.tools.calls import assembled, identified, may_call, without_calls

if TYPE_CHECKING:
    from gatehook.tools.policies import ToolPolicies

__all__ = ["Gate"]


class Gate:
    """What the chunks of a call must pass: of one stream, or of several if the model is told to try again."""

    def __init__(self, tools: "ToolPolicies", call: Call) -> None:
        self._tools = tools
        self._call = call
        self._remembers = tools.can_go_on(call)
        """Whether the whole message may be needed later, to continue the conversation from it."""
        self._before: list[Sequence[Chunk]] = []
        """What has passed of the current message, if it may be needed."""
        self._tool_rounds = 0
        """The round of the gateway's own tools in which that was said."""
        self._held: list[Chunk] = []
        """What is held back: tool calls, and what came after them."""
        self._open: set[int] = set()
        """The choices with a call that is not complete yet."""
        self._outcome: Literal["open", "asked", "again"] = "open"
        """Whether the answer goes on, has ended with a question, or is to be made again."""
        self._seam: _Seam | None = None
        """Joins this stream to the ones before it."""

    @property
    def wants_another_round(self) -> bool:
        """Whether the model is to be asked again; the call's body now tells it what was wrong with its calls."""
        return self._outcome == "again"

    def next_round(self, used: Callable[[], Usage | None]) -> None:
        """Begin another stream that continues those before it; `used` gives the usage of all together."""
        self._seam = self._seam or _Seam(next(chunk.data for batch in self._before for chunk in batch), used)
        self._before, self._outcome = [], "open"

    async def passed(self, batch: Sequence[Chunk]) -> Sequence[Chunk]:
        """The chunks that may go out now.

        Raises:
            PermissionDenied: see `ToolPolicies.judge`.
        """
        if self._outcome != "open":  # only usage follows a question, and nothing of a turn that is made again
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
        """What is held back, judged: to be called when its calls are complete, as their choice or the stream has ended.

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
            if self._tool_rounds != self._call.tool_rounds:  # what was said before is in the conversation already
                self._tool_rounds = self._call.tool_rounds
                self._before.clear()
            self._before.append(batch)

    def _calls(self, chunk: Chunk) -> bool:
        """Whether a chunk has a piece of a tool call; keeps track of the choices with incomplete calls."""
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
    """The chunks of a turn that ends with a question, whose fields are put into the chunk with the finish reason."""
    for place, chunk in enumerate(left):
        if chunk.finished:
            left[place] = Chunk({**chunk.data, **fields}, content=True, finished=True, usage=chunk.usage)
            return left
    end = {"index": index, "delta": {}, "finish_reason": "stop"}
    return [*left, Chunk({**last.data, "choices": [end], **fields}, content=True, finished=True)]


class _Seam:
    """Makes later streams continue the first: with its id and model, without a second role, with the usage of all."""

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
