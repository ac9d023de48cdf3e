"""Anthropic's official SDK in front of the gateway, every vendor behind it: the same for all of them."""

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import anthropic
import pytest

from gatehook import Call, Observer, Outcome, Section, hookimpl
from gatehook.testing import Reply, StubUpstream, splits

House = Callable[..., Any]
Wire = Any
Settled = Callable[..., Any]

USER: Any = {"role": "user", "content": "Hi"}
TOOLS: Any = [
    {
        "name": "get_weather",
        "description": "d",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
    {"name": "now", "input_schema": {"type": "object", "properties": {}}},
]
CALLS = [
    ("call_1", "get_weather", '{"city": "Köln"}'),
    ("call_2", "now", "{}"),
    ("call_3", "get_weather", '{"city":"B"}'),
]
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()


@contextlib.asynccontextmanager
async def front(
    house: House, wire: Wire, *replies: Reply, **changes: Any
) -> AsyncIterator[tuple[anthropic.AsyncAnthropic, StubUpstream]]:
    """The SDK's client of a gateway in front of a stub of the vendor's."""
    async with (
        StubUpstream(*replies) as stub,
        house(wire.deployment(stub), plugin_messages_api={}, **changes) as home,
        client_of(home) as client,
    ):
        yield client, stub


@contextlib.asynccontextmanager
async def client_of(home: Any) -> AsyncIterator[anthropic.AsyncAnthropic]:
    transport = anthropic.DefaultAsyncHttpxClient(verify=False)  # loading certificates takes longer than most tests
    async with anthropic.AsyncAnthropic(
        base_url=home.url, api_key=home.key, max_retries=0, timeout=20, http_client=transport
    ) as client:
        yield client


async def said(client: anthropic.AsyncAnthropic, *, streamed: bool, **asked: Any) -> Any:
    """The answer, made of a stream's events by the SDK if it is streamed."""
    asked = {"model": "m", "max_tokens": 50, "messages": [USER], **asked}
    if not streamed:
        return await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        return await stream.get_final_message()


def shown(message: Any) -> Any:
    """A message without what is another's in each answer."""
    return message.to_dict() | {"id": ""}


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer(house: House, wire: Wire, streamed: bool) -> None:
    reply = wire.stream(["Grü", "ße ", "😀"]) if streamed else wire.text("Grüße 😀")
    async with front(house, wire, reply) as (client, stub):
        answer = await said(client, streamed=streamed)
        (request,) = stub.requests
    assert wire.is_stream(request) is streamed
    assert answer.id.startswith("msg_")
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "m")
    assert [(block.type, block.text) for block in answer.content] == [("text", "Grüße 😀")]
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    usage = answer.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (7, 4, 7)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("text", ["", "Let me see."])
async def test_tool_calls_and_their_results(house: House, wire: Wire, streamed: bool, text: str) -> None:
    first = wire.calls_stream(CALLS, text) if streamed else wire.calls(CALLS, text)
    second = wire.stream(["Sunny."]) if streamed else wire.text("Sunny.")
    async with front(house, wire, first, second) as (client, stub):
        answer = await said(client, streamed=streamed, tools=TOOLS, tool_choice={"type": "auto"})
        uses = [block for block in answer.content if block.type == "tool_use"]
        results = [
            {"type": "tool_result", "tool_use_id": use.id, "content": f"result {number}"}
            for number, use in enumerate(uses)
        ]
        history = [USER, {"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
        last = await said(client, streamed=streamed, tools=TOOLS, messages=history)
    assert answer.stop_reason == "tool_use"
    assert [(use.id, use.name, use.input) for use in uses] == [(i, name, json.loads(args)) for i, name, args in CALLS]
    assert [block.text for block in answer.content if block.type == "text"] == ([text] if text else [])
    assert [block.type for block in answer.content][-3:] == ["tool_use"] * 3
    told = [(f"call_{number + 1}", f"result {number}") for number in range(3)]
    assert wire.results(stub.requests[1]) == told
    assert last.content[0].text == "Sunny."


async def test_a_stream_comes_to_the_plain_answer(house: House, wire: Wire) -> None:
    thoughts = {"reasoning": "I think."}
    replies = [wire.text("Yes.", **thoughts), wire.stream(["Ye", "s."], reasoning=["I ", "think."])]
    replies += [wire.calls(CALLS[:1], "Look:"), wire.calls_stream(CALLS[:1], "Look:")]
    async with front(house, wire, *replies) as (one, _):
        for _ in range(2):
            plain, streamed = [shown(await said(one, streamed=how, tools=TOOLS)) for how in (False, True)]
            for block in streamed["content"]:
                block.pop("parsed_output", None)
            assert streamed == plain


@pytest.mark.parametrize("streamed", [False, True])
async def test_thoughts_come_first(house: House, wire: Wire, streamed: bool) -> None:
    reply = wire.stream(["Yes."], reasoning=["I ", "think."]) if streamed else wire.text("Yes.", reasoning="I think.")
    async with front(house, wire, reply) as (client, _):
        answer = await said(client, streamed=streamed)
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert answer.content[0].thinking == "I think."
    assert answer.content[0].signature == ("sig" if wire.name == "anthropic" else "")


async def test_pictures_reach_the_model(house: House, wire: Wire) -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    message = {"role": "user", "content": [picture, {"type": "text", "text": "what is it?"}]}
    async with front(house, wire, wire.text("A cat.")) as (client, stub):
        await said(client, streamed=False, messages=[message])
    assert wire.images(stub.requests[0]) == [PNG]


async def test_a_schema_reaches_the_model(house: House, wire: Wire) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
    async with front(house, wire, wire.text('{"a": "b"}')) as (client, stub):
        await said(client, streamed=False, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert wire.schema(stub.requests[0]) == schema


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (401, anthropic.InternalServerError, "api_error"),
        (413, anthropic.ContentTooLargeError, "request_too_large"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (503, anthropic.OverloadedError, "overloaded_error"),
        (504, anthropic.GatewayTimeoutError, "timeout_error"),
    ],
)
async def test_errors_are_the_sdk_s(
    house: House, wire: Wire, status: int, kind: type[anthropic.APIStatusError], told: str, streamed: bool
) -> None:
    reply = wire.error(status, "no luck today", headers={"Retry-After": "7"})
    async with front(house, wire, reply) as (client, _):
        with pytest.raises(kind) as caught:
            await said(client, streamed=streamed)
    error = caught.value
    assert "no luck today" in error.message
    body: Any = error.body
    assert (body["type"], body["error"]["type"]) == ("error", told)
    assert error.request_id == body["request_id"] == error.response.headers["X-Request-ID"]
    if status in (429, 503):
        assert error.response.headers["Retry-After"] == "7"


async def test_a_stream_that_arrives_in_other_pieces_is_the_same(house: House, wire: Wire) -> None:
    body = b"".join(wire.calls_stream(CALLS[:2], "Grüß 😀").body)
    cuts = list(splits(body))[::5]
    asked: Any = {"model": "m", "max_tokens": 50, "messages": [USER], "tools": TOOLS, "stream": True}
    async with (
        StubUpstream(Reply.of_events(body)) as stub,
        house(wire.deployment(stub), plugin_messages_api={}) as home,
    ):

        async def sent() -> bytes:
            async with home.http.post(f"{home.url}/v1/messages", json=asked) as answer:
                return re.sub(rb'"msg_\w+"', b'"msg"', await answer.read())

        whole = await sent()
        assert events_of(whole)[-1]["type"] == "message_stop"
        stub.script(*(Reply.of_events(pieces) for pieces in cuts))
        for place in range(0, len(cuts), 8):
            told = await asyncio.gather(*(sent() for _ in cuts[place : place + 8]))
            assert all(events_of(one) == events_of(whole) for one in told), f"cut around byte {place * 5}"


def events_of(body: bytes) -> list[Any]:
    """The events, with neighbouring pieces of one block joined: how many there are is the vendor's and the line's."""
    found: list[Any] = []
    for block in body.split(b"\n\n")[:-1]:
        event = json.loads(block.partition(b"data: ")[2])
        delta = event.get("delta", {})
        if (
            found
            and event["type"] == found[-1]["type"] == "content_block_delta"
            and event["index"] == found[-1]["index"]
        ):
            for name in ("text", "partial_json"):
                if name in delta:
                    found[-1]["delta"][name] += delta[name]
        else:
            found.append(event)
    return found


async def test_a_stream_that_breaks_off_is_an_error_to_the_sdk(house: House, wire: Wire) -> None:
    body = b"".join(wire.stream(["Hel", "lo"]).body)
    cut = body[: body.index(b"lo")]
    reply = Reply.of_events([cut], end="cut")
    async with front(house, wire, reply) as (client, _):
        texts = []
        with pytest.raises(anthropic.APIStatusError) as caught:
            async with client.messages.stream(model="m", max_tokens=50, messages=[USER]) as stream:
                texts = [text async for text in stream.text_stream]
    told: Any = caught.value.body
    assert (told["type"], told["error"]["type"]) == ("error", "api_error")
    assert "".join(texts) in "Hel"


class Outcomes(Observer):
    """How calls ended."""

    def __init__(self) -> None:
        self.found: list[tuple[Call, Outcome]] = []

    def finished(self, call: Call, outcome: Outcome) -> None:
        self.found.append((call, outcome))


def watching(outcomes: Outcomes) -> type:
    class Watch:
        Settings = Section

        def __init__(self, settings: Section) -> None: ...

        @hookimpl
        def register_observers(self) -> list[Observer]:
            return [outcomes]

    return Watch


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_is_told_is_what_is_accounted(house: House, wire: Wire, streamed: bool, settled: Settled) -> None:
    outcomes = Outcomes()
    reply = wire.stream(["Hi"]) if streamed else wire.text("Hi")
    changes: Any = {"plugin_watch": {}, "plugins": {"watch": watching(outcomes)}}
    async with front(house, wire, reply, **changes) as (client, _):
        told = (await said(client, streamed=streamed)).usage
        await settled(lambda: outcomes.found)
    ((call, outcome),) = outcomes.found
    assert (call.surface, outcome.status, outcome.http_status) == ("messages", "complete", 200)
    used = outcome.usage
    assert used is not None
    assert used.prompt_tokens == told.input_tokens + told.cache_read_input_tokens + told.cache_creation_input_tokens
    assert (used.completion_tokens, used.cached_tokens) == (told.output_tokens, told.cache_read_input_tokens)


async def test_a_client_that_leaves_ends_the_call(house: House, openai_wire: Wire, settled: Settled) -> None:
    outcomes = Outcomes()
    head = b"".join(openai_wire.stream(["Hello"]).body[:2])
    reply = Reply.of_events([head], end="silence")
    changes: Any = {"plugin_watch": {}, "plugins": {"watch": watching(outcomes)}}
    async with front(house, openai_wire, reply, **changes) as (client, _):
        async with asyncio.timeout(20), client.messages.stream(model="m", max_tokens=50, messages=[USER]) as stream:
            async for text in stream.text_stream:
                assert text == "Hello"
                break
        await settled(lambda: outcomes.found)
    ((_, outcome),) = outcomes.found
    assert (outcome.status, outcome.code) == ("partial", "client_left")
