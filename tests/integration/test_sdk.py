"""The official OpenAI SDK in front of the gateway, every vendor behind it: the same for all of them."""

import asyncio
import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from gatehook.testing import Reply, StubUpstream, splits

House = Callable[..., Any]
Wire = Any

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "d",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
CALLS = [
    ("call_1", "get_weather", '{"city": "Köln"}'),
    ("call_2", "now", "{}"),
    ("call_3", "get_weather", '{"city":"B"}'),
]
USER: Any = {"role": "user", "content": "Hi"}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()


def called(calls: Any) -> list[tuple[str, str, Any]]:
    return [(call.id, call.function.name, json.loads(call.function.arguments)) for call in calls]


async def test_a_plain_answer(house: House, wire: Wire) -> None:
    async with StubUpstream(wire.text("Grüße 😀")) as stub, house(wire.deployment(stub)) as home:
        answer = await home.openai.chat.completions.create(model="m", messages=[USER], max_tokens=50)
        (request,) = stub.requests
    assert answer.model == "m"
    assert answer.object == "chat.completion"
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "Grüße 😀", "stop")
    assert not wire.is_stream(request)
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (11, 7, 18)
    assert usage.prompt_tokens_details.cached_tokens == 4


async def test_a_streamed_answer(house: House, wire: Wire) -> None:
    async with StubUpstream(wire.stream(["Grü", "ße ", "😀"])) as stub, house(wire.deployment(stub)) as home:
        chunks = [
            chunk
            async for chunk in await home.openai.chat.completions.create(
                model="m", messages=[USER], stream=True, stream_options={"include_usage": True}
            )
        ]
        (request,) = stub.requests
    assert wire.is_stream(request)
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    assert (chunks[0].model, chunks[0].object) == ("m", "chat.completion.chunk")
    assert chunks[0].choices[0].delta.role == "assistant"
    *content, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in content) == "Grüße 😀"
    assert [chunk.choices[0].finish_reason for chunk in content].count(None) == len(content) - 1
    assert content[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (11, 7, 18)
    assert all(chunk.usage is None for chunk in content)


async def test_a_stream_without_usage_asked_has_no_usage_event(house: House, wire: Wire) -> None:
    async with StubUpstream(wire.stream(["Hi"])) as stub, house(wire.deployment(stub)) as home:
        chunks = [c async for c in await home.openai.chat.completions.create(model="m", messages=[USER], stream=True)]
    assert all(len(chunk.choices) == 1 and chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("text", ["", "Let me see."])
@pytest.mark.parametrize("streamed", [False, True])
async def test_parallel_tool_calls_with_and_without_arguments(
    house: House, wire: Wire, streamed: bool, text: str
) -> None:
    reply = wire.calls_stream(CALLS, text) if streamed else wire.calls(CALLS, text)
    asked: dict[str, Any] = {"model": "m", "messages": [USER], "tools": TOOLS, "tool_choice": "auto"}
    async with StubUpstream(reply) as stub, house(wire.deployment(stub)) as home:
        if streamed:
            async with home.openai.chat.completions.stream(**asked) as stream:
                async for _ in stream:
                    pass
                answer = await stream.get_final_completion()
        else:
            answer = await home.openai.chat.completions.create(**asked)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert called(choice.message.tool_calls) == [(i, name, json.loads(args)) for i, name, args in CALLS]
    assert all(call.type == "function" for call in choice.message.tool_calls)
    assert (choice.message.content or "") == text


def unnamed(chunk: dict[str, Any]) -> dict[str, Any]:
    """A chunk without what is another's in each answer."""
    return {name: value for name, value in chunk.items() if name not in ("id", "created")}


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
async def test_a_stream_cut_at_any_byte_is_the_same_to_the_sdk(house: House, wire: Wire, ends: bytes) -> None:
    body = b"".join(wire.calls_stream(CALLS[:2], "Grüß 😀").body).replace(b"\n", ends)
    cuts = list(splits(body))
    async with StubUpstream(Reply.of_events(body)) as stub, house(wire.deployment(stub)) as home:

        async def said() -> Any:
            asked: Any = {"model": "m", "messages": [USER], "tools": TOOLS}
            async with home.openai.chat.completions.stream(**asked) as stream:
                async for _ in stream:
                    pass
                (choice,) = (await stream.get_final_completion()).choices
            return choice.finish_reason, choice.message.content, called(choice.message.tool_calls)

        async def sent() -> Any:
            asked: Any = {"model": "m", "messages": [USER], "tools": TOOLS, "stream": True}
            async with home.http.post(f"{home.url}/v1/chat/completions", json=asked) as answer:
                *events, done, end = (await answer.read()).split(b"\n\n")
            assert (done, end) == (b"data: [DONE]", b"")
            return [unnamed(json.loads(event.removeprefix(b"data: "))) for event in events]

        calls = [("call_1", "get_weather", {"city": "Köln"}), ("call_2", "now", {})]
        assert await said() == ("tool_calls", "Grüß 😀", calls)
        whole = await sent()  # what the SDK is sent, for it takes its time with each of a thousand streams
        stub.script(*(Reply.of_events(pieces) for pieces in cuts))
        for place in range(0, len(cuts), 8):
            told = await asyncio.gather(*(sent() for _ in cuts[place : place + 8]))
            assert all(one == whole for one in told), f"cut around byte {place}"
        assert await said() == ("tool_calls", "Grüß 😀", calls)


async def test_tool_results_make_the_round_trip(house: House, wire: Wire) -> None:
    async with StubUpstream(wire.calls(CALLS), wire.text("Sunny.")) as stub, house(wire.deployment(stub)) as home:
        create = home.openai.chat.completions.create
        first = await create(model="m", messages=[USER], tools=TOOLS)
        results: Any = [
            {"role": "tool", "tool_call_id": call.id, "content": f"result {number}"}
            for number, call in enumerate(first.choices[0].message.tool_calls)
        ]
        history: Any = [USER, first.choices[0].message.model_dump(exclude_none=True), *results]
        second = await create(model="m", messages=history, tools=TOOLS)
        request = stub.requests[1]
    assert second.choices[0].message.content == "Sunny."
    assert wire.results(request) == [("call_1", "result 0"), ("call_2", "result 1"), ("call_3", "result 2")]


class Person(BaseModel):
    name: str
    age: int


async def test_an_answer_is_parsed_into_a_model(house: House, wire: Wire) -> None:
    async with StubUpstream(wire.text('{"name":"Ada","age":36}')) as stub, house(wire.deployment(stub)) as home:
        answer = await home.openai.chat.completions.parse(model="m", messages=[USER], response_format=Person)
        (request,) = stub.requests
    assert answer.choices[0].message.parsed == Person(name="Ada", age=36)
    assert set(wire.schema(request)["properties"]) == {"name", "age"}


async def test_an_image_reaches_the_vendor_as_it_is(house: House, wire: Wire) -> None:
    image: Any = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    message: Any = {"role": "user", "content": [{"type": "text", "text": "What?"}, image]}
    async with StubUpstream(wire.text("A dot.")) as stub, house(wire.deployment(stub)) as home:
        await home.openai.chat.completions.create(model="m", messages=[message])
        (request,) = stub.requests
    assert wire.images(request) == [PNG]


@pytest.mark.parametrize("streamed", [False, True])
async def test_reasoning_comes_as_reasoning_content(house: House, wire: Wire, streamed: bool) -> None:
    reply = (
        wire.stream(["42"], reasoning=["Let me ", "think"]) if streamed else wire.text("42", reasoning="Let me think")
    )
    asked: dict[str, Any] = {"model": "m", "messages": [USER], "reasoning_effort": "low", "max_completion_tokens": 9000}
    async with StubUpstream(reply) as stub, house(wire.deployment(stub)) as home:
        if streamed:
            stream = await home.openai.chat.completions.create(**asked, stream=True)
            deltas = [chunk.choices[0].delta async for chunk in stream]
            told = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
            text = "".join(delta.content or "" for delta in deltas)
        else:
            message = (await home.openai.chat.completions.create(**asked)).choices[0].message
            told, text = message.reasoning_content, message.content
    assert (told, text) == ("Let me think", "42")


def test_the_synchronous_client_works_as_well(house: House, wire: Wire) -> None:
    def ask(url: str) -> tuple[Any, Any]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            plain = client.chat.completions.create(model="m", messages=[USER])
            streamed = list(client.chat.completions.create(model="m", messages=[USER], stream=True))
        return plain.choices[0].message.content, "".join(one.choices[0].delta.content or "" for one in streamed)

    async def run() -> tuple[Any, Any]:
        replies = (wire.text("plain"), wire.stream(["str", "eamed"]))
        async with StubUpstream(*replies) as stub, house(wire.deployment(stub)) as home:
            return await asyncio.to_thread(ask, home.url)

    assert asyncio.run(run()) == ("plain", "streamed")


ERRORS: list[tuple[int, str, Any, str | None]] = [
    (400, "temperature: must be lower", openai.BadRequestError, None),
    (401, "bad key", openai.InternalServerError, "upstream_credential_rejected"),
    (403, "not here", openai.InternalServerError, "upstream_credential_rejected"),
    (404, "no such model", openai.InternalServerError, "upstream_model_not_found"),
    (429, "slow down", openai.RateLimitError, "rate_limit_exceeded"),
    (500, "boom", openai.InternalServerError, "upstream_error"),
    (503, "busy", openai.InternalServerError, "upstream_overloaded"),
    (400, "prompt is too long: 300000 tokens", openai.BadRequestError, "context_length_exceeded"),
]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_vendors_error_is_the_sdks_exception(house: House, wire: Wire, streamed: bool) -> None:
    async with StubUpstream() as stub, house(wire.deployment(stub)) as home:
        for status, message, kind, code in ERRORS:
            stub.script(wire.error(status, message))
            with pytest.raises(kind) as raised:
                await home.openai.chat.completions.create(model="m", messages=[USER], stream=streamed)
            assert message in raised.value.message
            assert wire.name in raised.value.message
            assert code is None or raised.value.code == code
            assert raised.value.response.headers["X-Gatehook-Deployment"].startswith("m")
            assert raised.value.response.headers["X-Request-ID"].startswith("req_")


async def test_errors_of_the_gateway_itself_are_the_sdks_exceptions(house: House, openai_wire: Wire) -> None:
    keys = {"keys": ["0123456789abcdef-key"]}
    async with (
        StubUpstream(openai_wire.text("x")) as stub,
        house(openai_wire.deployment(stub), plugin_auth_keys=keys, key="0123456789abcdef-key") as home,
    ):
        client = home.openai
        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(model="nothing", messages=[USER])
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(model="m", messages=[])
        assert bad.value.param == "messages"
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").chat.completions.create(model="m", messages=[USER])
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("nothing")
        assert (await client.chat.completions.create(model="m", messages=[USER])).choices[0].message.content == "x"
        assert len(stub.requests) == 1


async def test_models_are_listed_and_retrieved(house: House, wire: Wire) -> None:
    async with StubUpstream() as stub, house(wire.deployment(stub, "org/m"), wire.deployment(stub, "n")) as home:
        assert [model.id async for model in home.openai.models.list()] == ["org/m", "n"]
        assert (await home.openai.models.retrieve("org/m")).owned_by == wire.name


async def test_text_completions_plain_and_streamed(house: House, wire: Wire) -> None:
    if wire.name == "openai":
        choice = {"index": 0, "text": "Once", "logprobs": None, "finish_reason": "stop"}
        whole = {"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "x", "choices": [choice]}
        half = {**whole, "choices": [{**choice, "finish_reason": None}]}
        end = {**whole, "choices": [{**choice, "text": ""}]}
        events = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in (half, end)) + b"data: [DONE]\n\n"
        replies = [Reply.of_json(whole), Reply.of_events(events)]
    else:
        replies = [wire.text("Once"), wire.stream(["On", "ce"])]
    async with StubUpstream(*replies) as stub, house(wire.deployment(stub)) as home:
        create = home.openai.completions.create
        answer = await create(model="m", prompt="Tell", max_tokens=5)
        assert (answer.choices[0].text, answer.choices[0].finish_reason, answer.model) == ("Once", "stop", "m")
        assert answer.object == "text_completion"
        chunks = [chunk async for chunk in await create(model="m", prompt="Tell", max_tokens=5, stream=True)]
        assert "".join(chunk.choices[0].text for chunk in chunks) == "Once"
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_embeddings_keep_order_in_both_encodings(house: House, wire: Wire, encoding: Any) -> None:
    vectors = [[0.5, -1.0], [0.25, 2.0]]
    if wire.name == "anthropic":
        async with StubUpstream() as stub, house(wire.deployment(stub)) as home:
            with pytest.raises(openai.BadRequestError) as refused:
                await home.openai.embeddings.create(model="m", input=["a", "b"], encoding_format=encoding)
            assert refused.value.code == "unsupported_operation"
        return
    if wire.name == "openai":
        packed = [base64.b64encode(struct.pack("<2f", *one)).decode() for one in vectors]
        given = packed if encoding == "base64" else vectors
        data = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(given)]
        reply = Reply.of_json(
            {"object": "list", "model": "x", "data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}}
        )
    else:
        reply = Reply.of_json({"embeddings": [{"values": one} for one in vectors]})
    async with StubUpstream(reply) as stub, house(wire.deployment(stub)) as home:
        # Without an encoding asked for, the SDK asks for base64 and unpacks it itself.
        answer = await (
            home.openai.embeddings.create(model="m", input=["a", "b"], encoding_format="float")
            if encoding == "float"
            else home.openai.embeddings.create(model="m", input=["a", "b"])
        )
    assert [one.embedding for one in answer.data] == vectors
    assert [one.index for one in answer.data] == [0, 1]
    assert answer.model == "m"


async def test_the_vendors_key_goes_to_the_vendor_only_and_the_clients_never(house: House, wire: Wire) -> None:
    async with StubUpstream(wire.text("Hi")) as stub, house(wire.deployment(stub), key="client-key-1234567890") as home:
        raw = await home.openai.chat.completions.with_raw_response.create(model="m", messages=[USER])
        (request,) = stub.requests
    sent = " ".join([*request.headers.values(), request.body.decode()])
    assert "upstream-secret-00112233445566778899" in sent
    assert "client-key" not in sent
    assert "upstream-secret" not in raw.text + " ".join(raw.headers.values())


async def test_fifty_calls_side_by_side_keep_their_answers_apart(house: House, wire: Wire) -> None:
    async with StubUpstream(wire.stream(["Hi"])) as stub, house(wire.deployment(stub)) as home:

        async def one() -> str:
            stream = await home.openai.chat.completions.create(model="m", messages=[USER], stream=True)
            chunks = [chunk async for chunk in stream]
            assert len({chunk.id for chunk in chunks}) == 1
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

        assert await asyncio.gather(*(one() for _ in range(50))) == ["Hi"] * 50
        assert len(stub.requests) == 50
