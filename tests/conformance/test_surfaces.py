"""Surfaces of chats keep to the suite; and it bites: each fault is caught by the checks meant for it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import pytest
from aiohttp import web

from gatehook import (
    Call,
    Chunk,
    Completion,
    Document,
    Endpoint,
    Gateway,
    GatewayError,
    InvalidRequest,
    Section,
    Surface,
    Usage,
    decode,
    encode,
    hookimpl,
)
from gatehook.testing.conformance import SurfaceConformance


def events_of(body: bytes) -> list[Any]:
    events = [event[6:] for event in body.split(b"\n\n") if event.startswith(b"data: ")]
    return [json.loads(event) for event in events if event != b"[DONE]"]


class TestOpenAIAPI(SurfaceConformance):
    plugin = "openai_api"
    path = "/v1/chat/completions"

    def asks(self, model: str, prompt: str, *, stream: bool) -> Mapping[str, Any]:
        return {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": stream}

    def text(self, body: bytes, *, stream: bool) -> str:
        if not stream:
            return str(json.loads(body)["choices"][0]["message"]["content"])
        deltas = [choice["delta"] for event in events_of(body) for choice in event.get("choices", ())]
        return "".join(delta.get("content") or "" for delta in deltas)

    def error(self, body: bytes, *, stream: bool) -> str:
        last = events_of(body)[-1] if stream else json.loads(body)
        return str(last.get("error", {}).get("message", ""))


class TestMessagesAPI(SurfaceConformance):
    plugin = "messages_api"
    path = "/v1/messages"

    def asks(self, model: str, prompt: str, *, stream: bool) -> Mapping[str, Any]:
        said = [{"role": "user", "content": prompt}]
        return {"model": model, "max_tokens": 1000, "messages": said, "stream": stream}

    def text(self, body: bytes, *, stream: bool) -> str:
        if not stream:
            return "".join(block["text"] for block in json.loads(body)["content"])
        deltas = [event["delta"] for event in named_events(body) if event["type"] == "content_block_delta"]
        return "".join(delta["text"] for delta in deltas)

    def error(self, body: bytes, *, stream: bool) -> str:
        last = named_events(body)[-1] if stream else json.loads(body)
        return str(last.get("error", {}).get("message", ""))


def named_events(body: bytes) -> list[Any]:
    """The events of a stream whose names say again what their data do."""
    events = [block.split(b"\n") for block in body.split(b"\n\n") if block.startswith(b"event: ")]
    found = [json.loads(data.removeprefix(b"data: ")) for _, data in events]
    assert [name.removeprefix(b"event: ").decode() for name, _ in events] == [event["type"] for event in found]
    return found


class TestResponsesAPI(SurfaceConformance):
    plugin = "responses_api"
    path = "/v1/responses"

    def asks(self, model: str, prompt: str, *, stream: bool) -> Mapping[str, Any]:
        return {"model": model, "input": prompt, "stream": stream}

    def text(self, body: bytes, *, stream: bool) -> str:
        if stream:
            deltas = [json.loads(event.partition(b"data: ")[2]) for event in body.split(b"\n\n") if event]
            return "".join(one["delta"] for one in deltas if one["type"] == "response.output_text.delta")
        (message,) = json.loads(body)["output"]
        return "".join(part["text"] for part in message["content"])

    def error(self, body: bytes, *, stream: bool) -> str:
        if stream:
            last = json.loads(body.split(b"\n\n")[-2].partition(b"data: ")[2])
            return str(last["response"]["error"]["message"]) if last["type"] == "response.failed" else ""
        return str(json.loads(body).get("error", {}).get("message", ""))


# --- faults --------------------------------------------------------------------------------------------------------


class Sound:
    """A prompt in, a text out."""

    name = "specimen"
    canonical = False
    caught: ClassVar[set[str]] = set()

    def parse(self, call: Call, request: web.Request, body: bytes) -> None:
        try:
            asked = decode(body)
            model, prompt, stream = asked["model"], asked["prompt"], asked.get("stream") is True
        except (GatewayError, ValueError, TypeError, KeyError) as error:
            raise InvalidRequest(f"it is no request: {error!r}") from None
        if not (isinstance(model, str) and model and isinstance(prompt, str)):
            raise InvalidRequest("model and prompt are texts")
        call.model, call.stream = model, stream
        call.body = Document(
            {"model": model, "messages": [{"role": "user", "content": prompt}], **({"stream": True} if stream else {})}
        )

    def answer(self, call: Call, completion: Completion) -> bytes:
        return encode({"text": completion.data["choices"][0]["message"]["content"]})

    def event(self, call: Call, chunk: Chunk) -> bytes:
        text = "".join(choice["delta"].get("content") or "" for choice in chunk.data["choices"])
        return self.framed({"text": text}) if text else b""

    def end(self, call: Call, usage: Usage | None) -> bytes:
        return b""

    def error(self, call: Call, error: GatewayError) -> bytes:
        return encode({"error": error.message})

    def error_event(self, call: Call, error: GatewayError) -> bytes:
        return self.framed({"error": error.message})

    def framed(self, event: Any) -> bytes:
        return b"data: %b\n\n" % encode(event)


class SaysNothing(Sound):
    caught: ClassVar[set[str]] = {"plain answers", "odd texts", "many at once"}

    def answer(self, call: Call, completion: Completion) -> bytes:
        return encode({"text": ""})


class StreamsNothing(Sound):
    caught: ClassVar[set[str]] = {"streams", "odd texts", "many at once", "errors in a stream"}

    def event(self, call: Call, chunk: Chunk) -> bytes:
        return b""


class Unframed(Sound):
    caught: ClassVar[set[str]] = {"odd texts"}

    def framed(self, event: Any) -> bytes:
        return super().framed({name: text.replace("\n", " ") for name, text in event.items()})


class RemembersOne(Sound):
    """The last request, for all."""

    caught: ClassVar[set[str]] = {"many at once"}

    def __init__(self) -> None:
        self.prompt = ""

    def parse(self, call: Call, request: web.Request, body: bytes) -> None:
        super().parse(call, request, body)
        self.prompt = call.payload["messages"][0]["content"]

    def answer(self, call: Call, completion: Completion) -> bytes:
        return encode({"text": self.prompt})


class Wordless(Sound):
    caught: ClassVar[set[str]] = {"errors", "bad requests"}

    def error(self, call: Call, error: GatewayError) -> bytes:
        return encode({})


class EndsWell(Sound):
    caught: ClassVar[set[str]] = {"errors in a stream"}

    def error_event(self, call: Call, error: GatewayError) -> bytes:
        return b""


class Trusts(Sound):
    caught: ClassVar[set[str]] = {"bad requests"}

    def parse(self, call: Call, request: web.Request, body: bytes) -> None:
        asked = decode(body)
        asked["prompt"].strip()
        super().parse(call, request, body)


def suite_of(surface: type[Sound]) -> SurfaceConformance:
    class Plugin:
        class Settings(Section): ...

        def __init__(self, settings: Settings) -> None: ...

        @hookimpl
        def register_routes(self, gateway: Gateway) -> Iterable[Endpoint]:
            return [Endpoint("/specimen", "chat", surface())]

    class Suite(SurfaceConformance):
        plugin = "specimen"
        plugin_class = Plugin
        path = "/specimen"

        def asks(self, model: str, prompt: str, *, stream: bool) -> Mapping[str, Any]:
            return {"model": model, "prompt": prompt, "stream": stream}

        def text(self, body: bytes, *, stream: bool) -> str:
            return "".join(event.get("text", "") for event in (events_of(body) if stream else [json.loads(body)]))

        def error(self, body: bytes, *, stream: bool) -> str:
            return str((events_of(body)[-1] if stream else json.loads(body)).get("error", ""))

    return Suite()


async def test_what_is_sound_passes_every_check(failing: Any) -> None:
    assert await failing(suite_of(Sound)) == {}


@pytest.mark.parametrize("fault", Sound.__subclasses__())
async def test_a_fault_is_caught_by_the_checks_meant_for_it(fault: type[Sound], failing: Any) -> None:
    found = await failing(suite_of(fault))
    assert set(found) == fault.caught, found


def test_there_is_a_fault_for_every_check(capabilities: Any) -> None:
    caught = set().union(*(fault.caught for fault in Sound.__subclasses__()))
    assert caught == set(capabilities(SurfaceConformance))


_implements: type[Surface] = Sound
