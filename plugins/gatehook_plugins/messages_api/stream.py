"""One streamed answer as Anthropic's events (`anthropic.types.RawMessageStreamEvent`), chunk by chunk.

A message is a row of content blocks, of which one is open at a time: message_start, then for each block
content_block_start, deltas and content_block_stop, then message_delta with the stop reason and the counts, then
message_stop. OpenAI's tool calls may be told by turns, so what comes while one is incomplete waits for its end.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from gatehook import Call, Chunk, Usage, confirmation_of, decoded_answer, encode
from gatehook.sse import frame
from gatehook_plugins.messages_api.answer import (
    first_choice,
    head,
    reasoning_of,
    signed_of,
    stop_of,
    text_of,
    told_usage,
    usage_of,
)
from gatehook_plugins.messages_api.tool_calls import ToolCall

__all__ = ["Events"]

Kind = Literal["text", "thinking", "signed"]

_DELTAS: Final = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "signature": ("signature_delta", "signature"),
    "tool_use": ("input_json_delta", "partial_json"),
}
"""By what is told: the type of its deltas, and the field in them."""
_AFTER: Final = b"}}\n\n"


class Events:
    """The state of one stream. Its methods give the framed events that are to go out, or add them to `out`."""

    def __init__(self) -> None:
        self._begun = False
        self._index = -1
        """Of the block begun last."""
        self._open = ""
        """The type of the block that is open, "" if none is."""
        self._before = b""
        """What stands before the text in the deltas of an open block of text or thoughts."""
        self._calls: dict[int, ToolCall] = {}
        """The tool calls whose blocks have not ended, in their order; at most the first has begun."""
        self._ended: dict[int, ToolCall] = {}
        """Those whose blocks have."""
        self._waiting: list[tuple[Kind, Any]] = []
        """What came after a tool call that was incomplete."""
        self._refusal: list[str] = []
        self._end: Mapping[str, Any] = {}
        """The choice with the finish reason."""
        self._asked: dict[str, Any] = {}
        self._usage: Usage | None = None

    def take(self, call: Call, chunk: Chunk) -> bytes:
        """The events of one chunk of this call's.

        Raises:
            UpstreamError: it cannot be read, or a tool call is over whose arguments are no JSON object.
        """
        data = decoded_answer(call, chunk)
        if chunk.usage is not None:
            self._usage = chunk.usage
        elif told := data.get("usage"):  # of an event from a cache
            self._usage = told_usage(told)
        choice = first_choice(data)
        delta = choice.get("delta") or {}
        said = delta.get("content")
        text = said if isinstance(said, str) else text_of(said)
        out: list[bytes] = []
        if not self._begun:
            self._begin(call, out)
        if len(delta) > 1 or not text or text is not said:
            self._take_others(delta, out)
        if text:
            self._say("text", text, out)
        for fragment in delta.get("tool_calls") or ():
            self._take_call(fragment, out)
        if choice.get("finish_reason") is not None:
            self._end, self._asked = choice, confirmation_of(data)
            self._finish(out)
        return b"".join(out)

    def end(self, call: Call, usage: Usage | None) -> bytes:
        """What ends a whole answer; `usage` is what it took, None if the chunks have told it."""
        out: list[bytes] = []
        if not self._begun:
            self._begin(call, out)
        delta = stop_of(self._end, "".join(self._refusal), calls=bool(self._ended))
        counts = usage_of(usage or self._usage)
        out.append(_event("message_delta", delta=delta, usage=counts, **self._asked))
        out.append(_event("message_stop"))
        return b"".join(out)

    def _begin(self, call: Call, out: list[bytes]) -> None:
        self._begun = True
        nothing: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
        message = {**head(call), **nothing, "usage": usage_of(self._usage)}
        out.append(_event("message_start", message=message))

    def _take_others(self, delta: Mapping[str, Any], out: list[bytes]) -> None:
        """All but text and tool calls: thoughts come before both."""
        if thought := reasoning_of(delta):
            self._say("thinking", thought, out)
        for block in signed_of(delta):
            if block["type"] != "thinking" or block["signature"]:
                self._say("signed", block, out)
            elif not thought:  # the same piece once more
                self._say("thinking", block["thinking"], out)
        if refusal := delta.get("refusal"):
            self._refusal.append(refusal)

    def _say(self, kind: Kind, what: Any, out: list[bytes]) -> None:
        if self._calls and not self._end_whole_calls(out):
            self._waiting.append((kind, what))
            return
        if self._waiting:
            self._tell_waiting(out)
        self._tell(kind, what, out)

    def _tell_waiting(self, out: list[bytes]) -> None:
        waiting, self._waiting = self._waiting, []
        for kind, what in waiting:
            self._tell(kind, what, out)

    def _tell(self, kind: Kind, what: Any, out: list[bytes]) -> None:
        if kind == "signed":
            self._tell_signed(what, out)
        elif what:
            if self._open != kind:
                self._start({"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})}, out)
                self._before = _before(kind, self._index)
            out.append(self._before + encode(what) + _AFTER)

    def _tell_signed(self, block: Mapping[str, Any], out: list[bytes]) -> None:
        """A block of thoughts as their vendor wants it back; what it says was mostly told before, piece by piece."""
        if block["type"] != "thinking":
            self._start(block, out)
        else:
            if self._open != "thinking":
                self._tell("thinking", block["thinking"], out)
            if self._open != "thinking":  # it says nothing, and is signed all the same
                self._start({"type": "thinking", "thinking": "", "signature": ""}, out)
            out.append(_before("signature", self._index) + encode(block["signature"]) + _AFTER)
        self._stop(out)

    def _take_call(self, fragment: Mapping[str, Any], out: list[bytes]) -> None:
        number = fragment.get("index") or 0
        if (ended := self._ended.get(number)) is not None:
            ended.take(fragment)
            ended.check()  # nothing but white space can follow
            return
        call = self._calls.get(number)
        if call is None:
            call = self._calls[number] = ToolCall()
        call.take(fragment)
        self._end_whole_calls(out, but_last=True)
        self._tell_call(out)

    def _tell_call(self, out: list[bytes], *, all_of_it: bool = False) -> None:
        """Tell what has come of the first call; its block begins when it has a name, an id and arguments."""
        call = next(iter(self._calls.values()), None)
        if call is None or not (all_of_it or call.can_begin):
            return
        if not call.begun:
            call.begun = True
            self._start(call.block(), out)
        if pieces := call.pending():
            out.append(_before("tool_use", self._index) + encode(pieces) + _AFTER)

    def _end_whole_calls(self, out: list[bytes], *, but_last: bool = False) -> bool:
        """End the calls that are whole, up to the first that is not; True if none is left."""
        while len(self._calls) > but_last:
            number, call = next(iter(self._calls.items()))
            if not call.is_whole():
                return False
            self._end_call(number, out)
        return not self._calls

    def _end_call(self, number: int, out: list[bytes]) -> None:
        self._tell_call(out, all_of_it=True)
        self._ended[number] = self._calls.pop(number)
        self._stop(out)

    def _finish(self, out: list[bytes]) -> None:
        """End what is open, and tell what waits.

        Raises:
            UpstreamError: a call's arguments are no JSON object, though there was room for all of them.
        """
        is_cut = self._end.get("finish_reason") == "length"
        for number, call in [*self._calls.items()]:
            if not is_cut:
                call.check()
            self._end_call(number, out)
        self._tell_waiting(out)
        self._stop(out)

    def _start(self, block: Mapping[str, Any], out: list[bytes]) -> None:
        self._stop(out)
        self._index += 1
        self._open = str(block["type"])
        out.append(_event("content_block_start", index=self._index, content_block=block))

    def _stop(self, out: list[bytes]) -> None:
        if self._open:
            self._open = ""
            out.append(_event("content_block_stop", index=self._index))


def _before(told: str, index: int) -> bytes:
    """A delta up to its text: nearly every event of a stream is the one before with another text."""
    kind, field = _DELTAS[told]
    delta = f'{{"type":"content_block_delta","index":{index},"delta":{{"type":"{kind}","{field}":'
    return f"event: content_block_delta\ndata: {delta}".encode()


def _event(name: str, **fields: Any) -> bytes:
    return frame(encode({"type": name, **fields}), name)
