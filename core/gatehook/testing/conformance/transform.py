"""The suite for transforms: what has to be hidden is hidden, wherever a stream is cut, and nothing else is lost."""

import json
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any, ClassVar

from gatehook.accounts import Usage
from gatehook.app import Gateway
from gatehook.dialect.canonical import StreamBuilder, completion
from gatehook.jsonio import Document
from gatehook.model import Call, Chunk, Principal
from gatehook.protocols import Rewriter, Transform
from gatehook.testing.conformance.heard import Heard, from_completion, from_events
from gatehook.testing.conformance.suite import Suite, check, expect, not_offered

__all__ = ["TransformConformance"]

USAGE = Usage(11, 7)
ODD: Sequence[dict[str, Any]] = (
    {"role": "assistant", "content": None},
    {"role": "assistant", "content": ""},
    {"role": "assistant", "content": None, "refusal": "No."},
    {"role": "assistant", "content": None, "tool_calls": []},
    {"role": "assistant", "content": "\ud800"},
    {"role": "assistant", "content": None, "tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
)
"""Messages that models write at times."""


class TransformConformance(Suite):
    """Subclass it, and give texts that the transform changes with `settings`: a request, an answer, or both."""

    kind: ClassVar[str] = "transform"
    request: str = ""
    """What a user says that no vendor may read as it is; "" if requests are left alone."""
    hidden: Sequence[str] = ()
    """The words of it that no vendor may read."""
    answer: str = ""
    """What a model says that no client may read as it is; "" if answers are left alone."""
    masked: Sequence[str] = ()
    """The words of it that no client may read."""
    innocent: str = "The weather is fine today."
    """What is left as it is, in requests and answers."""

    def transform(self, gateway: Gateway) -> Transform:
        """The transform in question."""
        return self.own(gateway.pipeline.concerns.transforms, "transform")

    def call(self, text: str = "") -> Call:
        """A chat with this message of the user."""
        call = Call("chat", "openai", {}, principal=Principal("ann"), model="m")
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text or self.innocent}]
        call.body = Document({"model": "m", "messages": messages, "temperature": 0.5, "x_odd": [1, None]})
        return call

    @check("requests")
    async def test_a_vendor_reads_nothing_of_what_is_hidden_and_all_the_rest(self) -> None:
        if not self.request:
            not_offered("requests are left alone")
        async with self.running() as gateway:
            call = self.call(self.request)
            given = dict(call.payload)
            await self.transform(gateway).transform(call)
            sent = json.dumps(call.payload, ensure_ascii=False)
            shown = [word for word in self.hidden if word in sent]
            expect(not shown, f"the vendor is sent {shown}")
            others = [name for name in given if name != "messages" and call.payload.get(name) != given[name]]
            expect(not others, f"fields of the request that nobody meant are changed: {others}")
            expect(call.payload["messages"][0]["content"] == "Be brief.", "another message is changed")

    @check("nothing to change")
    async def test_what_holds_nothing_passes_as_it_is(self) -> None:
        async with self.running() as gateway:
            call = self.call()
            before = json.dumps(call.payload)
            rewriter = await self.transform(gateway).transform(call)
            expect(json.dumps(call.payload) == before, "a request that holds nothing is changed")
            for how, heard in (("plain", self._whole(call, rewriter, self.innocent)),
                               ("streamed", self._streamed(call, rewriter, [self.innocent]))):  # fmt: skip
                expect(heard.text == self.innocent, f"{how}: of {self.innocent!r}, the client hears {heard.text!r}")

    @check("answers")
    async def test_a_client_reads_nothing_of_what_is_masked(self) -> None:
        self._needs_an_answer()
        async with self.running() as gateway:
            for stream in (False, True):
                call = self.call(self.request)
                rewriter = await self.transform(gateway).transform(call)
                made = self._streamed if stream else self._whole
                self._hides("streamed" if stream else "plain", made(call, rewriter, self.answer))

    @check("split anywhere")
    async def test_a_stream_says_what_a_whole_answer_says_wherever_it_is_cut(self) -> None:
        async with self.running() as gateway:
            for text in filter(None, (self.answer, self.innocent)):
                whole = self._whole(*await self._asked(gateway), text)
                for pieces in _cuts(text):
                    heard = self._streamed(*await self._asked(gateway), pieces)
                    place = f"cut before {pieces[1]!r}" if len(pieces) == 2 else "letter by letter"
                    expect(
                        heard.said == whole.said, f"{place}: the client hears {heard.said}, of the whole {whole.said}"
                    )
                    expect(not heard.faults, f"{place}: {'; '.join(heard.faults)}")

    @check("usage")
    async def test_the_usage_stays(self) -> None:
        async with self.running() as gateway:
            for how, made in (("plain", self._whole), ("streamed", self._streamed)):
                told = made(*await self._asked(gateway), self.answer or self.innocent).usage or {}
                expect(told.get("total_tokens") == USAGE.total_tokens, f"{how}: the usage becomes {told}")

    @check("tool calls")
    async def test_arguments_of_tools_stay_json_and_hide_what_is_masked(self) -> None:
        arguments = json.dumps({"text": self.answer or self.innocent, "n": 1}, ensure_ascii=False)
        async with self.running() as gateway:
            call, rewriter = await self._asked(gateway)
            function = {"name": "note", "arguments": arguments}
            called = {"id": "call_1", "type": "function", "function": function}
            message = {"role": "assistant", "content": None, "tool_calls": [called]}
            whole = self._heard(call, rewriter, message, "tool_calls")
            self._hides("plain, arguments", whole)
            for pieces in _cuts(arguments):
                call, rewriter = await self._asked(gateway)
                stream = StreamBuilder(call)
                begun = [stream.tool_call("call_1", "note"), *map(stream.tool_arguments, pieces)]
                heard = _played(rewriter, [*begun, stream.finish("tool_calls"), stream.usage(USAGE)])
                expect(heard.said == whole.said and not heard.faults,
                       f"arguments in {len(pieces)} pieces: the client hears {heard.said} {heard.faults}")  # fmt: skip

    @check("many at once")
    async def test_calls_at_the_same_time_know_nothing_of_each_other(self) -> None:
        texts = [self.answer or self.innocent, self.innocent, (self.answer or self.innocent)[::-1]]
        async with self.running() as gateway:
            alone = [self._streamed(*await self._asked(gateway), list(text)).text for text in texts]
            asked = [await self._asked(gateway) for _ in texts]
            streams = [_chunks(call, list(text)) for (call, _), text in zip(asked, texts, strict=True)]
            out: list[list[Chunk]] = [[] for _ in texts]
            for turn in zip_longest(*streams):
                for (_, rewriter), chunk, said in zip(asked, turn, out, strict=True):
                    if chunk is not None:
                        said += [chunk] if rewriter is None else rewriter.chunks([chunk])
            for (_, rewriter), said in zip(asked, out, strict=True):
                said += () if rewriter is None else rewriter.rest()
            together = [from_events([chunk.data for chunk in said], "m").text for said in out]
            expect(together == alone, f"together, clients hear {together}, alone {alone}")

    @check("odd answers")
    async def test_whatever_a_model_writes_nothing_is_raised(self) -> None:
        async with self.running() as gateway:
            for message in ODD:
                call, rewriter = await self._asked(gateway)
                stream = StreamBuilder(call)
                chunks = [stream.delta(dict(message)), stream.finish("stop"), stream.usage(USAGE)]
                try:
                    if rewriter is not None:
                        rewriter.completion(completion(call, [_choice(message, "stop")], None))
                        for batch in ([], chunks[:1], chunks[1:]):
                            rewriter.chunks(batch)
                        rewriter.rest()
                except Exception as error:  # noqa: BLE001  # whatever it is
                    expect(False, f"{message} raises {error!r}")

    # --- what the client hears

    def _needs_an_answer(self) -> None:
        if not self.answer:
            not_offered("answers are left alone")

    async def _asked(self, gateway: Gateway) -> tuple[Call, Rewriter | None]:
        call = self.call(self.request)
        return call, await self.transform(gateway).transform(call)

    def _whole(self, call: Call, rewriter: Rewriter | None, text: str | Sequence[str]) -> Heard:
        return self._heard(call, rewriter, {"role": "assistant", "content": "".join(text)}, "stop")

    def _heard(self, call: Call, rewriter: Rewriter | None, message: dict[str, Any], finish: str) -> Heard:
        made = completion(call, [_choice(message, finish)], USAGE)
        return from_completion((made if rewriter is None else rewriter.completion(made)).data, "m")

    def _streamed(self, call: Call, rewriter: Rewriter | None, text: str | Sequence[str]) -> Heard:
        return _played(rewriter, _chunks(call, [text] if isinstance(text, str) else text))

    def _hides(self, how: str, heard: Heard) -> None:
        said = heard.text + "".join(call.arguments for call in heard.calls)
        shown = [word for word in self.masked if word in said]
        expect(not shown, f"{how}: the client reads {shown}")


def _choice(message: dict[str, Any], finish: str) -> dict[str, Any]:
    return {"index": 0, "message": message, "finish_reason": finish}


def _chunks(call: Call, pieces: Sequence[str]) -> Sequence[Chunk]:
    stream = StreamBuilder(call)
    return [*map(stream.text, pieces), stream.finish("stop"), stream.usage(USAGE)]


def _played(rewriter: Rewriter | None, chunks: Sequence[Chunk]) -> Heard:
    """What a client reads from a stream whose chunks arrive one by one."""
    if rewriter is not None:
        chunks = [*chain.from_iterable(rewriter.chunks([chunk]) for chunk in chunks), *rewriter.rest()]
    return from_events([chunk.data for chunk in chunks], "m")


def _cuts(text: str) -> Sequence[Sequence[str]]:
    """The text cut in two at every letter, then letter by letter."""
    return [*([text[:place], text[place:]] for place in range(1, len(text))), list(text)]
