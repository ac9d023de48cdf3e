"""The suite for vendors bites: each of these vendors has one fault, and is caught by the checks meant for it."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from gatehook import (
    Attempt,
    Chunk,
    Completion,
    Egress,
    Gateway,
    MalformedJSON,
    Operation,
    Parameter,
    Section,
    StreamBuilder,
    Upstream,
    UpstreamError,
    Usage,
    Vendor,
    completion,
    decode,
    dropped,
    encode,
    hookimpl,
    mapped,
    refused,
    upstream_error,
)
from gatehook.legacy import as_chat, chunk_from_chat, completions_table, from_chat
from gatehook.sse import Reader
from gatehook.testing import Reply
from gatehook.testing.conformance import Failure, Said, Script, VendorConformance

CHAT = {
    "model": mapped("model"),
    "messages": mapped("turns"),
    "stream": mapped("live"),
    "stream_options": mapped("always"),
    "temperature": mapped("heat"),
    "max_tokens": mapped("limit"),
    "tools": mapped("tools"),
    "user": dropped("no counterpart"),
    "n": refused("one answer at a time", unless=(1,)),
}


class Specimen:
    """A vendor without a fault. Those that have one override what is wrong with them."""

    caught: ClassVar[set[str]] = set()
    """The checks that must find what is wrong with it."""
    name = "specimen"
    operations: frozenset[Operation] = frozenset({"chat", "completions", "embeddings"})
    parameters: Mapping[Operation, Mapping[str, Parameter]] = {
        "chat": CHAT,
        "completions": completions_table(CHAT),
        "embeddings": {"model": mapped("model"), "input": mapped("inputs"), "encoding_format": mapped("floats only")},
    }

    def __init__(self, egress: Egress) -> None:
        self.egress = egress

    async def complete(self, attempt: Attempt) -> Completion:
        async with await self.send(attempt) as upstream:
            try:
                answer = decode(await upstream.read())
            except MalformedJSON:
                raise UpstreamError("specimen: the answer is not JSON") from None
        if attempt.call.operation == "embeddings":
            return self.embedded(attempt, answer)
        whole = completion(attempt.call, [self.choice(answer)], self.usage(answer))
        return self.legacy(attempt, whole) if attempt.call.operation == "completions" else whole

    def choice(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer["text"]}
        if answer["calls"]:
            message["tool_calls"] = [self.tool_call(call) for call in answer["calls"]]
        return {"index": 0, "message": message, "finish_reason": self.reason(answer["why"])}

    def tool_call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": call["arguments"]},
        }

    def reason(self, why: Any) -> Any:
        return why

    def usage(self, answer: Mapping[str, Any]) -> Usage:
        return Usage(answer["in"], answer["out"])

    def legacy(self, attempt: Attempt, whole: Completion) -> Completion:
        return from_chat(attempt.call, whole)

    def embedded(self, attempt: Attempt, answer: Mapping[str, Any]) -> Completion:
        data = [{"index": place, "embedding": vector} for place, vector in enumerate(answer["vectors"])]
        return Completion({"object": "list", "model": attempt.call.public_name, "data": data}, usage=Usage(1))

    async def stream(self, attempt: Attempt) -> AsyncIterator[Sequence[Chunk]]:
        builder = StreamBuilder(attempt.call)
        async with await self.send(attempt) as upstream:
            async for event in self.events(upstream):
                if fault := event.get("fault"):
                    if self.heeds(fault):
                        raise self.failed(attempt, 500, fault, None)
                    event = {"why": "stop", "in": 1, "out": 1}
                chunks = list(self.chunks(builder, event))
                if attempt.call.operation == "completions":
                    chunks = [chunk_from_chat(attempt.call, chunk) for chunk in chunks]
                yield chunks
            for chunk in self.rest(builder):
                yield [chunk]

    def heeds(self, fault: str) -> bool:
        return True

    def rest(self, builder: StreamBuilder) -> Iterable[Chunk]:
        return ()

    async def events(self, upstream: Upstream) -> AsyncIterator[Any]:
        reader = Reader()
        async for data in self.pieces(upstream):
            for _, event in reader.feed(data):
                yield decode(event)

    def pieces(self, upstream: Upstream) -> AsyncIterator[bytes]:
        return upstream.chunks()

    def chunks(self, builder: StreamBuilder, event: Mapping[str, Any]) -> Iterable[Chunk]:
        if "text" in event:
            yield builder.text(event["text"])
        if "call" in event:
            call = self.tool_call(event["call"])
            yield builder.tool_call(call["id"], call["function"]["name"], call["function"]["arguments"])
        if "why" in event:
            yield builder.finish(self.reason(event["why"]))
            yield self.told(builder, self.usage(event))

    def told(self, builder: StreamBuilder, usage: Usage) -> Chunk:
        return builder.usage(usage)

    async def send(self, attempt: Attempt) -> Upstream:
        body = encode(self.body(attempt))
        headers = {"Content-Type": "application/json", "X-Key": attempt.target.secret()}
        url = attempt.target.base_url
        upstream = await self.egress.request(attempt.target, "POST", url, headers=headers, body=body)
        if upstream.status == 200:
            return upstream
        async with upstream:
            said = (await upstream.read_error()).decode("utf-8", "replace")
        raise self.failed(attempt, upstream.status, said, upstream.retry_after)

    def body(self, attempt: Attempt) -> dict[str, Any]:
        asked = attempt.payload
        if attempt.call.operation == "embeddings":
            return {"inputs": asked["input"]}
        asked = as_chat(asked) if attempt.call.operation == "completions" else asked
        return {
            "turns": self.turns(asked["messages"]),
            "live": attempt.call.stream,
            "heat": asked.get("temperature"),
            "limit": asked.get("max_tokens"),
            "tools": asked.get("tools"),
        }

    def turns(self, messages: Any) -> Any:
        return messages

    def failed(self, attempt: Attempt, status: int, said: str, retry_after: float | None) -> Exception:
        secrets = attempt.target.secrets()
        return upstream_error("specimen", status, said, retry_after=retry_after, secrets=secrets)


def frame(event: Any) -> bytes:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


class SpecimenScript(Script):
    def plain(self, said: Said) -> Reply:
        calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in said.calls]
        answer = {"text": "".join(said.text), "calls": calls, "why": said.finish, "vectors": said.vectors}
        return Reply.of_json({**answer, "in": said.usage.prompt_tokens, "out": said.usage.completion_tokens})

    def stream(self, said: Said) -> Reply:
        end = {"why": said.finish, "in": said.usage.prompt_tokens, "out": said.usage.completion_tokens}
        return Reply.of_events([*self.spoken(said), frame(end)])

    def spoken(self, said: Said) -> list[bytes]:
        calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in said.calls]
        return [*(frame({"text": text}) for text in said.text), *(frame({"call": call}) for call in calls)]

    def failure(self, failure: Failure) -> Reply:
        return Reply(failure.message.encode(), status=failure.status, headers=failure.headers)

    def failing_stream(self, said: Said, failure: Failure) -> Reply:
        return Reply.of_events([*self.spoken(said), frame({"fault": failure.message})])


def suite_of(vendor: type[Specimen]) -> VendorConformance:
    """The suite with a plugin that has this vendor."""

    class Plugin:
        class Settings(Section): ...

        def __init__(self, settings: Settings) -> None: ...

        @hookimpl
        def register_vendors(self, gateway: Gateway) -> Iterable[Vendor]:
            return [vendor(gateway.egress)]

    class Suite(VendorConformance):
        plugin = "specimen"
        plugin_class = Plugin
        script = SpecimenScript()
        patience = 0.5

    return Suite()


# --- the faults ----------------------------------------------------------------------------------------------------


class OddChoice(Specimen):
    caught: ClassVar[set[str]] = {"plain answers", "tools", "parallel tools"}

    def choice(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        return {**super().choice(answer), "index": 1}


class UsageForEverybody(Specimen):
    caught: ClassVar[set[str]] = {"streams"}

    def told(self, builder: StreamBuilder, usage: Usage) -> Chunk:
        return Chunk(builder.usage(usage).data, usage=usage)


class SwappedCounts(Specimen):
    caught: ClassVar[set[str]] = {"usage"}

    def usage(self, answer: Mapping[str, Any]) -> Usage:
        return Usage(answer["out"], answer["in"])


class AlwaysStops(Specimen):
    caught: ClassVar[set[str]] = {"finish reasons"}

    def reason(self, why: Any) -> Any:
        return "stop" if why == "length" else why


class EncodedTwice(Specimen):
    caught: ClassVar[set[str]] = {"tools", "parallel tools"}

    def tool_call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        return super().tool_call({**call, "arguments": json.dumps(call["arguments"])})


class ArgumentsAsTheyAre(Specimen):
    """Not as a text."""

    caught: ClassVar[set[str]] = {"tools", "parallel tools"}

    def tool_call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        return super().tool_call({**call, "arguments": json.loads(call["arguments"])})


class OneIdForAll(Specimen):
    caught: ClassVar[set[str]] = {"parallel tools"}

    def tool_call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        return super().tool_call({**call, "id": "call"})


class ForgetsResults(Specimen):
    caught: ClassVar[set[str]] = {"tool results"}

    def turns(self, messages: Any) -> Any:
        return [message for message in messages if message["role"] != "tool"]


class NoTextCompletion(Specimen):
    caught: ClassVar[set[str]] = {"text completions"}

    def legacy(self, attempt: Attempt, whole: Completion) -> Completion:
        return whole


class ShuffledVectors(Specimen):
    caught: ClassVar[set[str]] = {"embeddings"}

    def embedded(self, attempt: Attempt, answer: Mapping[str, Any]) -> Completion:
        return super().embedded(attempt, {"vectors": answer["vectors"][::-1]})


class AllErrorsAlike(Specimen):
    caught: ClassVar[set[str]] = {"errors by class"}

    def failed(self, attempt: Attempt, status: int, said: str, retry_after: float | None) -> Exception:
        return UpstreamError(str(super().failed(attempt, status, said, retry_after)))


class DeafToFaults(Specimen):
    caught: ClassVar[set[str]] = {"errors in a stream"}

    def heeds(self, fault: str) -> bool:
        return False


class ShowsTheKey(Specimen):
    caught: ClassVar[set[str]] = {"secrets"}

    def failed(self, attempt: Attempt, status: int, said: str, retry_after: float | None) -> Exception:
        return upstream_error("specimen", status, said, retry_after=retry_after)


class KeepsTheKeyAbout(Specimen):
    caught: ClassVar[set[str]] = {"secrets"}

    async def send(self, attempt: Attempt) -> Upstream:
        self.last = attempt.target.secret()
        return await super().send(attempt)


class KeepsTheLine(Specimen):
    caught: ClassVar[set[str]] = {"cancellation"}

    async def stream(self, attempt: Attempt) -> AsyncIterator[Sequence[Chunk]]:
        builder = StreamBuilder(attempt.call)
        self.kept = upstream = await self.send(attempt)  # nobody closes it
        async for event in self.events(upstream):
            if "fault" in event:
                raise self.failed(attempt, 500, event["fault"], None)
            chunks = list(self.chunks(builder, event))
            legacy = attempt.call.operation == "completions"
            yield [chunk_from_chat(attempt.call, chunk) for chunk in chunks] if legacy else chunks


class MistakesTheTime(Specimen):
    caught: ClassVar[set[str]] = {"slow upstreams"}

    async def complete(self, attempt: Attempt) -> Completion:
        try:
            return await super().complete(attempt)
        except asyncio.CancelledError:
            raise UpstreamError("specimen: something happened") from None


class EndsAnyhow(Specimen):
    caught: ClassVar[set[str]] = {"cut upstreams"}

    def chunks(self, builder: StreamBuilder, event: Mapping[str, Any]) -> Iterable[Chunk]:
        self.ended = "why" in event
        return super().chunks(builder, event)

    def rest(self, builder: StreamBuilder) -> Iterable[Chunk]:
        return () if self.ended else [builder.finish("stop")]


class CutsCharacters(Specimen):
    caught: ClassVar[set[str]] = {"split anywhere"}

    async def pieces(self, upstream: Upstream) -> AsyncIterator[bytes]:
        async for data in upstream.chunks():
            yield data.decode("utf-8", "replace").encode()


class ReadsAhead(Specimen):
    caught: ClassVar[set[str]] = {"back-pressure"}

    async def pieces(self, upstream: Upstream) -> AsyncGenerator[bytes, None]:
        queue: asyncio.Queue[bytes | Exception] = asyncio.Queue()

        async def pump() -> None:
            try:
                while data := await upstream.receive():
                    queue.put_nowait(data)
                queue.put_nowait(b"")
            except UpstreamError as error:
                queue.put_nowait(error)

        pumping = asyncio.create_task(pump())
        try:
            while data := await queue.get():
                if isinstance(data, Exception):
                    raise data
                yield data
        finally:
            pumping.cancel()


class ColdAtHeart(Specimen):
    caught: ClassVar[set[str]] = {"parameters"}

    def body(self, attempt: Attempt) -> dict[str, Any]:
        return {**super().body(attempt), "heat": None}


class TellsTheUser(Specimen):
    caught: ClassVar[set[str]] = {"parameters"}

    def body(self, attempt: Attempt) -> dict[str, Any]:
        return {**super().body(attempt), "user": attempt.call.payload.get("user")}


class Slow(Specimen):
    caught: ClassVar[set[str]] = {"latency"}

    async def complete(self, attempt: Attempt) -> Completion:
        await asyncio.sleep(0.05)
        return await super().complete(attempt)


FAULTS = [
    OddChoice, UsageForEverybody, SwappedCounts, AlwaysStops, EncodedTwice, ArgumentsAsTheyAre, OneIdForAll,
    ForgetsResults, NoTextCompletion, ShuffledVectors, AllErrorsAlike, DeafToFaults, ShowsTheKey, KeepsTheKeyAbout,
    KeepsTheLine, MistakesTheTime, EndsAnyhow, CutsCharacters, ReadsAhead, ColdAtHeart, TellsTheUser, Slow,
]  # fmt: skip
LONG = {"slow upstreams", "cut upstreams", "split anywhere", "back-pressure", "cancellation", "latency"}


async def test_a_sound_vendor_passes_every_check(failing: Any) -> None:
    assert await failing(suite_of(Specimen)) == {}


@pytest.mark.parametrize("vendor", FAULTS)
async def test_a_fault_is_caught_by_the_checks_meant_for_it(vendor: Any, failing: Any) -> None:
    found = await failing(suite_of(vendor), without=LONG - vendor.caught)
    assert set(found) == vendor.caught, found
    told = "the arguments of a tool call are a dict, not JSON as a text"
    assert (told in found.get("tools", "")) == (vendor is ArgumentsAsTheyAre)


def test_there_is_a_fault_for_every_check(capabilities: Any) -> None:
    assert set().union(*(vendor.caught for vendor in FAULTS)) == set(capabilities(VendorConformance))
