"""A stream of OpenAI's dialect: events go through as the bytes they came in, renamed, watched and counted.

Events that are like the one before in all but their piece of text are passed on by that likeness (`template`), those
that arrived together as one piece of bytes; the others are decoded. An event is rebuilt only where it breaks an
invariant that clients rely on: one id and `created` for the whole stream, a role in the first delta and no other (the
official SDK joins them), tool calls that are counted from 0 and told their id and name once (`calls`, `names`), a
finish reason at the end alone, which is "tool_calls" for a choice with tool calls, and for who asked for it the usage
once, in an event of its own.
"""

import contextlib
import time
from collections.abc import Sequence
from itertools import compress
from typing import Any

import msgspec

from gatehook import Attempt, Chunk, Frames, GatewayError, MalformedJSON, Usage, decode, encode
from gatehook.sse import Reader, events, frame
from gatehook_plugins.vendor_openai import failure
from gatehook_plugins.vendor_openai.calls import Numbers
from gatehook_plugins.vendor_openai.ends import finish_reason
from gatehook_plugins.vendor_openai.heads import own_id
from gatehook_plugins.vendor_openai.names import Names, tells_calls
from gatehook_plugins.vendor_openai.peek import Event, EventChoice, read_event, usage_of
from gatehook_plugins.vendor_openai.splice import with_model
from gatehook_plugins.vendor_openai.template import Template

__all__ = ["StreamReader", "chunks_of"]

_LESSONS = 16
"""How often a template is learnt in one stream; if none fits after that, events are just decoded."""


def chunks_of(data: bytes) -> Sequence[Chunk]:
    """The events of `Frames.data`, one by one."""
    chunks: list[Chunk] = []
    for _, raw in events(data):
        try:
            event = read_event(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError):  # lone surrogates
            event = msgspec.convert(decode(raw), Event)
        choices = event.choices or ()
        usage = usage_of(event.usage)
        chunks.append(
            Chunk(
                raw=raw,
                content=any(choice.has_content() for choice in choices),
                finished=any(choice.finish_reason for choice in choices),
                usage=usage,
                usage_only=usage is not None and not choices,
            )
        )
    return chunks


class StreamReader:
    """Turns the events of one stream into frames for the client."""

    def __init__(self, attempt: Attempt) -> None:
        call = attempt.call
        self._attempt = attempt
        self._target = attempt.target
        self._public = call.public_name
        self._chat = call.operation == "chat"
        self._object = "chat.completion.chunk" if self._chat else "text_completion"
        self._wants_usage = call.include_usage
        self._head: tuple[str | None, Any] = (None, None)
        self._template: Template | None = None
        self._lessons = _LESSONS
        self._open: set[int] = set()
        self._closed: set[int] = set()
        self._ended_again: set[int] = set()
        """Choices whose finish reason the current event repeats."""
        self._with_tools: set[int] = set()
        self._roleless: set[int] = set()
        self._role_again: set[int] = set()
        """Choices whose role the current event repeats."""
        self._numbers: Numbers | None = None
        """Numbers the tool calls, if there are any."""
        self._names = Names()
        self._reader = Reader()
        self._usage: Usage | None = None
        self._usage_told: dict[str, Any] = {}
        """The usage in the vendor's words."""
        self._counted = False
        """Whether the last event was the first to tell a usage: then nothing of the answer is still to come."""
        self._usage_sent = False
        self._contents = 0
        self._finished = False
        self.complete = False
        """Whether every choice that was begun has been finished."""
        self.done = False
        """Whether [DONE] has come; what follows it is of no interest."""
        self.failure: GatewayError | None = None
        """What went wrong after the frames that were given last, which are good all the same."""

    def read(self, data: bytes) -> Frames:
        """The frames of the events that `data` completes; `failure` is set if one was bad, or told an error.

        Raises:
            EventTooLarge: the event being read is over the reader's limit.
        """
        template = self._template
        if (
            template is not None
            and not self._reader.parts
            and not self._names.held
            and (framed := template.single(data)) is not None
        ):
            return Frames(framed, chunks_of, contents=1)  # the reader has no part in it: one whole event, as is usual
        return self._read(self._reader.take(data))

    def pass_on(self, data: bytes) -> bool:
        """Relay events that only add a text, if `data` is nothing else; False if they are to be read."""
        relay, template = self._attempt.relay, self._template
        if relay is None or template is None or self._reader.parts or self._names.held:
            return False
        if (framed := template.single(data)) is not None:
            return relay(framed, 1)
        run = template.run(data, 0)
        return run is not None and run.end == len(data) and relay(run.framed, run.contents)

    def _read(self, whole: bytes) -> Frames:
        """The frames of complete events with LF line ends."""
        self._contents, self._finished = 0, False
        before = self._usage
        out: list[bytes] = []
        place = 0
        try:
            while place < len(whole) and not self.done:
                run = self._template.run(whole, place) if self._template and not self._names.held else None
                if run is not None:
                    out.append(run.framed)
                    self._contents += run.contents
                    place = run.end
                else:
                    end = whole.find(b"\n\n", place)
                    self._one(whole[place:end], out)
                    place = end + 2
        except GatewayError as error:
            self.failure = error
        usage = self._usage if self._usage is not before else None
        return Frames(b"".join(out), chunks_of, contents=self._contents, finished=self._finished, usage=usage)

    def rest(self) -> Frames:
        """The frames of what came without a final empty line: half an event does not spoil a complete answer."""
        frames = self._read(self._reader.rest())
        if self.failure is not None and self.failure.code == failure.MALFORMED and self.complete:
            self.failure = None
        return frames

    def end(self) -> Frames:
        """What is still owed when the upstream has ended.

        Raises:
            UpstreamError: a choice was begun and never finished: the answer was cut.
        """
        out: list[bytes] = []
        if not self.complete:
            # Some servers tell no finish reasons. A server that was interrupted tells neither a usage at the end nor
            # [DONE]: with both, the answer is whole.
            if self._closed or not (self.done and self._counted and self._open):
                raise failure.malformed(self._target, "the stream ended before the answer was complete")
            self._finish(out)
        if self._usage is not None and self._wants_usage and not self._usage_sent:
            # It came with the last content; clients look for it in an event of its own.
            known = self._usage
            usage = {"prompt_tokens": known.prompt_tokens, "completion_tokens": known.completion_tokens}
            usage["total_tokens"] = known.total_tokens
            usage |= {name: value for name, value in self._usage_told.items() if value is not None}
            out.append(frame(encode({**self._told_head(), "choices": [], "usage": usage})))
        return Frames(b"".join(out), chunks_of, finished=self._finished)

    def _finish(self, out: list[bytes]) -> None:
        """Finish every choice, in an event as the server should have sent it."""
        choices: list[dict[str, Any]] = []
        for index in sorted(self._open):
            reason = finish_reason(self._attempt, self._usage, with_calls=index in self._with_tools)
            empty: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
            choices.append({"index": index, **empty, "logprobs": None, "finish_reason": reason})
        self._take(encode({**self._told_head(), "choices": choices}), b"", out)

    def _told_head(self) -> dict[str, Any]:
        """What every event begins with."""
        return {"id": self._head[0], "object": self._object, "created": self._head[1], "model": self._public}

    def _one(self, block: bytes, out: list[bytes]) -> None:
        """Read one event by itself."""
        if block == b"data: [DONE]":
            self.done = True
        elif block.startswith(b"data: {") and block.find(b"\n") < 0:
            self._take(block[6:], block, out)
        elif block.startswith(b"error: {"):  # llama.cpp's server, where it fails in the middle
            raise self._in_band(block[7:])
        else:
            for name, data in events(block):
                if data.strip() == b"[DONE]":
                    self.done = True
                elif name == b"error" or (data and not data.lstrip().startswith(b"{")):
                    raise self._in_band(data)
                elif data:
                    self._take(data, block, out)

    def _take(self, data: bytes, block: bytes, out: list[bytes]) -> None:
        """Take one event in, pass it on, and learn from it what the next ones may look like."""
        event, raw = self._decoded(data)
        ordinary = self._lessons > 0 and self._is_ordinary(event)
        before = self._contents
        try:
            if not ordinary and (error := self._failure_in(event)):
                self._pass_rest(event, raw, out)
                raise error
            kept = self._taken(event, raw)
        except MalformedJSON:  # of a field that is not looked at otherwise: a number of thousands of digits
            raise failure.malformed(self._target, "an event of the stream is not valid JSON") from None
        if kept is None:
            return
        if self._with_tools:
            try:
                ordinary = self._pass_calls(event, kept, self._contents - before, out) and ordinary
            except msgspec.ValidationError as error:
                raise failure.malformed(self._target, f"an event has malformed tool calls: {error}") from None
        else:
            out.append(frame(kept))
        if ordinary:
            self._lessons -= 1
            self._template = Template.learned(block, out[-1]) or self._template

    def _failure_in(self, event: Event) -> GatewayError | None:
        """The failure that an event tells, if it does."""
        if event.error:
            return failure.from_body(self._target, event.error)
        for choice in event.choices or ():
            if choice.error:
                return failure.from_body(self._target, choice.error)
            if choice.finish_reason in failure.BROKEN_OFF:
                return failure.broken_off(self._target, choice.finish_reason)
        return None

    def _pass_rest(self, event: Event, raw: bytes, out: list[bytes]) -> None:
        """Pass on and count what an event that tells a failure brings besides: the last of the answer, the usage.

        Not if it is the first event of all: another deployment may still give the whole answer.
        """
        if not self._open or (event.usage is None and not any(one.has_content() for one in event.choices or ())):
            return
        value = decode(raw)
        value.pop("error", None)
        for choice in value.get("choices") or ():
            choice.pop("error", None)
            choice["finish_reason"] = None
        with contextlib.suppress(GatewayError):  # what is wrong with it, too, matters less than the failure it tells
            self._take(encode(value), b"", out)

    def _pass_calls(self, event: Event, kept: bytes, contents: int, out: list[bytes]) -> bool:
        """Pass on an event of a stream with tool calls; gives whether it begins no call, but goes on with one.

        Args:
            event: any event.
            kept: the same as JSON.
            contents: how many contents it was counted for.
            out: the frames that go out, to which it is added, after events that were held back until now.
        """
        self._numbers = self._numbers or Numbers()
        kept = self._numbers.mended(event, kept)
        self._contents -= contents
        for one, counts in self._names.passed(event, kept, contents):
            out.append(frame(one))
            self._contents += counts
        if not tells_calls(event):
            return True
        self._template = None  # what looks like the last call's arguments may be those of another from now on
        return False

    def _decoded(self, data: bytes) -> tuple[Event, bytes]:
        try:
            if not data.isascii():
                data.decode()  # `read_event` skips unknown fields, which go to the client: they must be UTF-8, too
            return read_event(data), data
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
        try:  # lone surrogates, which msgspec cannot hold, go through as escapes
            value = decode(data)
            return msgspec.convert(value, Event), encode(value)
        except (MalformedJSON, msgspec.ValidationError, UnicodeEncodeError, RecursionError):
            raise failure.malformed(self._target, "an event of the stream is malformed") from None

    def _in_band(self, data: bytes) -> Exception:
        try:
            error = decode(data)
        except MalformedJSON:
            return failure.malformed(self._target, "an event of the stream is not valid JSON")
        if isinstance(error, dict):
            return failure.from_body(self._target, error.get("error", error))
        return failure.malformed(self._target, "an event of the stream is not a JSON object")

    def _is_ordinary(self, event: Event) -> bool:
        """Whether an event only adds to a choice already begun, as by far the most do."""
        choices = event.choices
        if choices is None or len(choices) != 1 or event.usage is not None or event.error:
            return False
        choice = choices[0]
        tools = choice.delta is not None and choice.delta.tool_calls is not None
        return (
            not choice.finish_reason
            and choice.index in self._open
            and choice.index not in self._roleless
            and not choice.error
            and (not tools or choice.index in self._with_tools)
            and (event.id, event.created) == self._head
        )

    def _taken(self, event: Event, raw: bytes) -> bytes | None:
        """Take note of one event; gives what the client gets of it, None if nothing."""
        if event.choices is None:
            if error := failure.bare(raw):
                raise failure.from_body(self._target, error)
            if event.usage is None:
                return None  # a heartbeat of the server's own
        self._counted = False
        choices = event.choices or []
        mends = self._mends_head(event) or event.choices is None
        for choice in choices:
            self._contents += choice.has_content()
            mends = self._follow(choice) or mends
            self.complete = bool(self._closed) and not self._open - self._closed
        if event.usage is not None:
            usage = usage_of(event.usage)
            if usage is not None:
                self._counted, self._template = self._usage is None, None
                self._usage, self._usage_told = usage, event.usage
            if choices:
                mends = mends or self._wants_usage
            else:
                if usage is None or not self._wants_usage or not self.complete or self._usage_sent:
                    return None  # of a usage that comes before an end, the last is told after it
                self._usage_sent = True
        if mends:
            return self._mended(event, raw)
        return raw if event.model == self._public else with_model(raw, event.model, self._public)

    def _mends_head(self, event: Event) -> bool:
        """Fix the stream's id and `created` at its first event; gives whether this event has others."""
        if self._head[0] is None:
            created = event.created if isinstance(event.created, int) and event.created else int(time.time())
            self._head = (event.id or own_id(self._attempt.call), created)
        return (event.id, event.created) != self._head

    def _follow(self, choice: EventChoice) -> bool:
        """Keep track of one choice; gives whether the event must be mended because of it."""
        index, delta = choice.index, choice.delta
        if index not in self._open:
            self._open.add(index)
            if self._chat and (delta is None or not delta.role):
                self._roleless.add(index)
        elif delta is not None and delta.role:
            self._role_again.add(index)
        if delta is not None and delta.tool_calls:
            self._with_tools.add(index)
        if choice.finish_reason:
            if index in self._closed:
                self._ended_again.add(index)
                return True
            self._closed.add(index)
            self._finished = True
        elif choice.finish_reason is not None:  # some servers write "" until the end, which others take for it
            return True
        if index in self._roleless or index in self._role_again:
            return True
        return choice.finish_reason == "stop" and index in self._with_tools

    def _mended(self, event: Event, raw: bytes) -> bytes | None:
        """The event mended, as JSON; None if nothing is left of it. Choices that are dropped leave `event`, too."""
        value = decode(raw)
        value["id"], value["created"] = self._head
        value["model"] = self._public
        value["object"] = self._object  # Azure's first is "", Perplexity's last "chat.completion.done"
        value["choices"] = value.get("choices") or []
        if self._wants_usage and value["choices"] and value.get("usage"):
            value["usage"] = None
        for choice in value["choices"]:
            index = choice.get("index", 0)
            if choice.get("finish_reason") == "stop" and index in self._with_tools:
                choice["finish_reason"] = "tool_calls"
            choice["finish_reason"] = choice.get("finish_reason") or None
            if index in self._roleless:
                self._roleless.discard(index)
                choice["delta"] = {**(choice.get("delta") or {}), "role": "assistant"}
            elif index in self._role_again:
                del choice["delta"]["role"]
        self._role_again.clear()
        if self._ended_again:
            new = [self._is_new(choice) for choice in value["choices"]]
            value["choices"] = list(compress(value["choices"], new))
            event.choices = list(compress(event.choices or (), new))
            self._ended_again.clear()
            if not value["choices"]:
                return None
        return encode(value)

    def _is_new(self, choice: dict[str, Any]) -> bool:
        """Whether a choice tells more than a finish reason that it repeats, which is taken out."""
        if choice.get("index", 0) not in self._ended_again:
            return True
        choice["finish_reason"] = None
        return bool(choice.get("delta") or choice.get("text"))
