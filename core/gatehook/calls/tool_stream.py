"""A stream over all rounds: the model's text passes at once, its calls of own tools are held back and run.

To its reader it is one stream: one id, one role, one finish reason, and the usage of all rounds.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from gatehook.accounts import Usage
from gatehook.calls.attempts import HEAD, Stream
from gatehook.calls.deadlines import Watch
from gatehook.calls.tool_loop import ToolLoop
from gatehook.model import Chunk, Frames
from gatehook.tools.calls import GAP, PartialMessage

__all__ = ["RoundsStream"]


class RoundsStream:
    """Has the interface of `gatehook.calls.attempts.Stream`; its counts are those of the current round."""

    def __init__(self, loop: ToolLoop, first: Stream) -> None:
        """`first` is the first round's stream."""
        self._loop = loop
        self._first = self._stream = first
        self._watch: Watch | None = None
        self._batches = self._rounds()
        self.begun: Sequence[Sequence[Chunk]] = ()

    @property
    def head(self) -> dict[str, Any]:
        """What every chunk repeats."""
        return self._first.head

    @property
    def usage(self) -> Usage | None:
        """What the vendor has told so far."""
        return self._stream.usage

    @property
    def contents(self) -> int:
        """Content events so far, also those of tool calls that the client does not see."""
        return self._stream.contents

    @property
    def finished(self) -> bool:
        """Whether the current round has told its end."""
        return self._stream.finished

    def watched(self, watch: Watch) -> "RoundsStream":
        """Iterate under this watch."""
        self._watch = watch
        return self

    def __aiter__(self) -> "RoundsStream":
        return self

    async def __anext__(self) -> Sequence[Chunk]:
        return await anext(self._batches)

    async def aclose(self) -> None:
        """Close the upstream, wherever the stream is."""
        await self._batches.aclose()
        await self._stream.aclose()

    async def _rounds(self) -> AsyncGenerator[Sequence[Chunk], None]:
        loop, shown = self._loop, _Shown(self._loop)
        while True:
            stream = self._stream
            async with aclosing(stream):
                for batch in stream.begun:
                    yield shown.passed(batch)
                async for batch in stream if self._watch is None else stream.watched(self._watch):
                    yield shown.passed(batch)
            if not shown.goes_on:
                return
            if self._watch is not None:
                self._watch.pause()  # tools have time limits of their own
            if not await loop.went_on(shown.message.whole()):
                yield shown.put_off()
                return
            self._stream = await loop.stream()
            loop.record.stream = self
            shown.next_round()


class _Shown:
    """What the client sees of the stream, round after round.

    As long as no tool is called, frames of the first round pass as they are; they are parsed only when a call comes.
    """

    def __init__(self, loop: ToolLoop) -> None:
        self._loop = loop
        self.message = PartialMessage()
        self.goes_on = False
        """Whether another round follows the one that has just ended."""
        self._unread: list[Frames] = []
        """Frames that have passed without being parsed."""
        self._ending: list[Chunk] = []
        """The last chunks of a round that another one follows; held back."""
        self._first: Mapping[str, Any] = {}
        """The first chunk of the first round."""
        self._head: Mapping[str, Any] = {}
        """The fields of it that chunks have to repeat from the second round on; empty in the first."""
        self._role = False
        """Whether the role was sent."""
        self._said = False
        """Whether any text was sent."""
        self._gap = ""
        """What separates the next text from that of an earlier round."""
        self._listed: Counter[str] = Counter()
        """How many objects each list had in earlier rounds, as the numbers of further ones go on from there."""

    def next_round(self) -> None:
        """Begin another answer of the model."""
        whole = self.message.whole().items()
        self._listed.update({name: len(value) for name, value in whole if isinstance(value, list)})
        self.message = PartialMessage()
        self.goes_on = False
        self._ending = []
        self._head = {name: self._first[name] for name in HEAD if name in self._first}
        self._gap = GAP if self._said else ""

    def passed(self, batch: Sequence[Chunk]) -> Sequence[Chunk]:
        """What the client may see of a batch."""
        if isinstance(batch, Frames) and not self._head and not self.message.calls:
            if b'"tool_calls"' not in batch.data:
                self._unread.append(batch)
                return batch
            unread, self._unread = self._unread, []
            for chunk in (chunk for frames in unread for chunk in frames):
                self._passed(chunk)
        return [shown for chunk in batch for shown in self._passed(chunk)]

    def _passed(self, chunk: Chunk) -> list[Chunk]:
        data = chunk.data
        self._first = self._first or data
        choices = data.get("choices") or ()
        if not choices:
            if self.goes_on:
                self._ending.append(chunk)
                return []
            return [self._made(chunk, data)]
        choice = choices[0]
        delta = choice.get("delta") or {}
        reason = choice.get("finish_reason")
        self.message.add(delta)
        if reason is not None:
            self.goes_on = self._loop.goes_on(self.message.calls, reason)
        shown = self._visible(delta)
        if not self.message.calls:
            if not self._head and shown == delta:
                return [chunk]
            return [self._made(chunk, {**data, "choices": [{**choice, "delta": shown}]})]
        made = []
        ends = reason is not None and not self.goes_on
        if ends and (left := self._loop.of_client(self.message.calls)):
            shown["tool_calls"] = [{**one, "index": place} for place, one in enumerate(left)]
        if any(shown.values()):
            bare = {**data, "choices": [{**choice, "delta": shown, "finish_reason": None}]}
            bare.pop("usage", None)
            made.append(self._made(Chunk(bare, content=True), bare))
        if reason is not None:
            end = self._made(chunk, {**data, "choices": [{**choice, "delta": {}}]})
            (made if ends else self._ending).append(end)
        return made

    def put_off(self) -> list[Chunk]:
        """The calls of the last round, which are not run after all, and the round's end."""
        calls = [{**one, "index": place} for place, one in enumerate(self.message.calls)]
        first = self._ending[0]
        choice = {"index": 0, "delta": {"tool_calls": calls}, "finish_reason": None}
        data = {**first.data, "choices": [choice]}
        data.pop("usage", None)
        return [Chunk(data, content=True), *(self._made(chunk, chunk.data) for chunk in self._ending)]

    def _visible(self, delta: Mapping[str, Any]) -> dict[str, Any]:
        """A delta without its tool calls, and without the role if that was sent before."""
        shown = {name: self._numbered(name, value) for name, value in delta.items() if name != "tool_calls"}
        if self._role:
            shown.pop("role", None)
        self._role = self._role or "role" in shown
        if text := shown.get("content"):
            shown["content"] = self._gap + text
            self._said, self._gap = True, ""
        return shown

    def _numbered(self, name: str, value: Any) -> Any:
        """A list whose objects have numbers, with those that they have in the stream of all rounds."""
        before = self._listed[name]
        if not before or not isinstance(value, list):
            return value
        return [
            {**one, "index": before + one["index"]} if isinstance(one, dict) and type(one.get("index")) is int else one
            for one in value
        ]

    def _made(self, chunk: Chunk, data: dict[str, Any]) -> Chunk:
        """A chunk with other data; from the second round on with the first one's head and the usage of all rounds."""
        if not self._head:
            return chunk if data is chunk.data else _with(chunk, data, chunk.usage)
        usage = chunk.usage and self._loop.record.streamed()
        if usage is not None and data.get("usage"):
            data = {**data, "usage": usage.as_openai()}
        return _with(chunk, {**data, **self._head}, usage)


def _with(chunk: Chunk, data: dict[str, Any], usage: Usage | None) -> Chunk:
    """The chunk with other data and usage."""
    return Chunk(data, content=chunk.content, finished=chunk.finished, usage=usage, usage_only=chunk.usage_only)
