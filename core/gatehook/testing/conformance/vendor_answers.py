"""What a vendor gives when all goes well."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from gatehook.testing.conformance.bench import MODEL, Answer, Bench
from gatehook.testing.conformance.heard import Heard
from gatehook.testing.conformance.script import Act, Said
from gatehook.testing.conformance.suite import check, expect, not_offered
from gatehook.testing.conformance.vendor import CALLS, TOOLS, VendorSuite

__all__ = ["VendorAnswers"]

VECTORS = ([0.25, -0.5, 1.0], [0.5, 0.0, -1.0])


class VendorAnswers(VendorSuite):
    """Answers of every kind arrive as OpenAI's API promises them."""

    @check("plain answers")
    async def test_a_plain_answer(self) -> None:
        async with self.bench(self.plain(self.said())) as bench:
            self._same(self.said(), await self._asked(bench, self.said()))

    @check("streams")
    async def test_a_stream(self) -> None:
        async with self.bench(self.stream(self.said())) as bench:
            answer = await self._asked(bench, self.said(), stream=True)
            self._same(self.said(), answer)
            extra = [event for event in answer.events if not event.get("choices")]
            expect(not extra, f"events without a choice, which nobody asked for: {extra}")

    @check("usage")
    async def test_usage_is_told(self) -> None:
        said = self.said()
        asked: dict[str, Any] = {"stream_options": {"include_usage": True}, "stream": True}
        for act, body in ((self.script.plain(said), {}), (self.script.stream(said), asked)):
            if act is not None:
                async with self.bench(act) as bench:
                    heard = (await self._asked(bench, said, **body)).heard
                    self._usage("streamed" if body else "plain", said, heard)

    def _usage(self, how: str, said: Said, heard: Heard) -> None:
        usage = heard.usage or {}
        told = usage.get("prompt_tokens"), usage.get("completion_tokens"), usage.get("total_tokens")
        counts = said.usage.prompt_tokens, said.usage.completion_tokens, said.usage.total_tokens
        if self.is_real:  # it counts for itself
            counts = (told[0] or 1, told[1] or 1, sum(one or 1 for one in told[:2]))
        expect(told == counts, f"{how}: usage is {told}, the upstream said {counts} (prompt, completion, total)")

    @check("finish reasons")
    async def test_why_an_answer_ended(self) -> None:
        tried = 0
        for reason in ("stop", "length", "content_filter"):
            said = self.said(finish=reason)
            for act, stream in ((self.script.plain(said), None), (self.script.stream(said), True)):
                if act is not None:
                    tried += 1
                    async with self.bench(act) as bench:
                        self._says(said, await self._asked(bench, said, stream=stream))
        if not tried:
            self.lacks("finish reasons")

    @check("tools")
    async def test_a_tool_call(self) -> None:
        await self._calls(1)

    @check("parallel tools")
    async def test_several_tool_calls_in_one_answer(self) -> None:
        await self._calls(2)

    async def _calls(self, count: int) -> None:
        said = Said(calls=CALLS[:count], finish="tool_calls")
        acts = [(self.script.plain(said), None), (self.script.stream(said), True)]
        if not any(act is not None for act, _ in acts):
            self.lacks("tool calls")
        for act, stream in acts:
            if act is not None:
                async with self.bench(act) as bench:
                    self._same(said, await self._asked(bench, said, stream=stream, tools=TOOLS))

    @check("tool results")
    async def test_what_a_tool_gave_reaches_the_upstream(self) -> None:
        if self.script.plain(Said(calls=CALLS, finish="tool_calls")) is None:
            self.lacks("tool calls")
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in CALLS
        ]
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": f"result-of-{call.id}-{number * 7919}"}
            for number, call in enumerate(CALLS, 1)
        ]
        question = {"role": "user", "content": "How is the weather?"}
        messages = [question, {"role": "assistant", "content": None, "tool_calls": calls}, *results]
        act = self.plain(self.said())
        async with self.bench(act) as bench:
            self._says(self.said(), await self._asked(bench, self.said(), messages=messages, tools=TOOLS))
            self.reply(act)
            sent = bench.stub.requests[-1].body.decode("utf-8", "replace")
            lost = [one["content"] for one in results if one["content"] not in sent]
            expect(not lost, f"results of tools do not reach the upstream: {', '.join(lost)}")
            order = [sent.index(one["content"]) for one in results]
            expect(order == sorted(order), "results of tools reach the upstream in another order")

    @check("text completions")
    async def test_a_text_completion(self) -> None:
        said = self.said(operation="completions")
        for act, stream in self._of("completions", said):
            async with self.bench(act) as bench:
                body: dict[str, Any] = {"messages": None, "prompt": self.prompt, "stream": stream}
                answer = await self._asked(bench, said, "completions", **body)
                expect(answer.ended_well, f"a text completion ended with {answer.status} {answer.body[-300:]!r}")
                parts = answer.events if answer.is_stream else [answer.json]
                kinds = {(part.get("object"), part.get("model")) for part in parts}
                expect(kinds == {("text_completion", MODEL)}, f"object and model are {kinds}")
                text = "".join(choice["text"] for part in parts for choice in part["choices"])
                expect(text == "".join(said.text), f"the text is {text!r}, the upstream said {''.join(said.text)!r}")

    @check("embeddings")
    async def test_embeddings(self) -> None:
        said = Said(operation="embeddings", vectors=VECTORS)
        for act, _ in self._of("embeddings", said):
            async with self.bench(act) as bench:
                answer = await self._asked(bench, said, "embeddings", messages=None, input=["one", "two"])
                told = [one.get("embedding") for one in answer.json.get("data", ())]
                expect(answer.status == 200, f"embeddings ended with {answer.status} {answer.body[-300:]!r}")
                expect(answer.json.get("model") == MODEL, f'"model" is {answer.json.get("model")!r}')
                if isinstance(act, dict):  # made up by the vendor
                    expect(len(told) == len(VECTORS), f"{len(told)} embeddings for {len(VECTORS)} inputs")
                else:
                    expect(told == list(VECTORS), f"the embeddings are {told}, the upstream said {VECTORS}")

    def _of(self, operation: str, said: Said) -> Iterator[tuple[Act, bool | None]]:
        """The upstream's answers to an operation, if the vendor claims to offer it."""
        if operation not in self.claimed.operations:
            not_offered(f"{operation} are not among the vendor's operations")
        yield self.plain(said), None
        if operation != "embeddings" and (act := self.script.stream(said)) is not None:
            yield act, True

    async def _asked(self, bench: Bench, said: Said, path: str = "chat/completions", **body: Any) -> Answer:
        """The answer to a request that has the model say this."""
        return await bench.ask(path, **{**body, **self.script.asks(said)})

    def _same(self, said: Said, answer: Answer) -> None:
        """Check that the client reads what the model said, by all rules of OpenAI's API."""
        heard = self._says(said, answer)
        expect(not heard.faults, f"{'streamed' if answer.is_stream else 'plain'}: {'; '.join(heard.faults)}")

    def _says(self, said: Said, answer: Answer) -> Heard:
        """Check that the client reads what the model said; returns what it reads."""
        how = "streamed" if answer.is_stream else "plain"
        expect(answer.ended_well, f"{how}: ended with {answer.status} {answer.body[-300:]!r}")
        heard = answer.heard
        calls: Sequence[tuple[str, object]] = [(call.name, json.loads(call.arguments)) for call in said.calls]
        wanted = "".join(said.text), calls, said.finish
        expect(heard.said == wanted, f"{how}: the client hears {heard.said}, the model said {wanted}")
        return heard
