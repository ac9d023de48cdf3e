"""The official OpenAI SDK and its Responses API in front of the gateway, every vendor behind it."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from gatehook.testing import Reply, StubUpstream

House = Callable[..., Any]
Wire = Any

TOOLS: Any = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "d",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": False,
    },
    {"type": "function", "name": "now", "parameters": None, "strict": None},
]
CALLS = [
    ("call_1", "get_weather", '{"city": "Köln"}'),
    ("call_2", "now", "{}"),
    ("call_3", "get_weather", '{"city":"B"}'),
]
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()


@pytest.fixture
def opened(house: House) -> House:
    """Opens a gateway that serves this API, too."""
    return lambda *models, **more: house(*models, plugin_responses_api={}, **more)


async def final(home: Any, **asked: Any) -> Any:
    """The response that the SDK puts together from a stream."""
    async with home.openai.responses.stream(model="m", **asked) as stream:
        async for _ in stream:
            pass
        return await stream.get_final_response()


async def answers(home: Any, stub: StubUpstream, plain: Reply, streamed: Reply, **asked: Any) -> list[Any]:
    """The same answer twice: plain, and put together from a stream."""
    stub.script(plain, streamed)
    return [await home.openai.responses.create(model="m", **asked), await final(home, **asked)]


def bare(value: Any) -> Any:
    """Without what is another's in each answer, and what the SDK's own parser adds."""
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude={"parsed", "parsed_arguments"})
    if isinstance(value, dict):
        own = ("id", "created_at", "completed_at", "parsed", "parsed_arguments")
        return {name: bare(one) for name, one in value.items() if name not in own}
    return [bare(one) for one in value] if isinstance(value, list) else value


async def test_a_text(opened: House, wire: Wire) -> None:
    async with StubUpstream() as stub, opened(wire.deployment(stub)) as home:
        plain, streamed = await answers(
            home, stub, wire.text("Grüße 😀"), wire.stream(["Grü", "ße ", "😀"]), input="Hi", max_output_tokens=50
        )
        assert [wire.is_stream(request) for request in stub.requests] == [False, True]
    assert bare(plain) == bare(streamed)
    assert (plain.output_text, plain.model, plain.status) == ("Grüße 😀", "m", "completed")
    usage = plain.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (11, 7, 18)
    assert usage.input_tokens_details.cached_tokens == 4


@pytest.mark.parametrize("text", ["", "Let me see."])
async def test_parallel_calls_and_their_results(opened: House, wire: Wire, text: str) -> None:
    asked: dict[str, Any] = {"input": "Hi", "tools": TOOLS, "tool_choice": "auto"}
    async with StubUpstream() as stub, opened(wire.deployment(stub)) as home:
        plain, streamed = await answers(home, stub, wire.calls(CALLS, text), wire.calls_stream(CALLS, text), **asked)
        for response in (plain, streamed):
            assert response.output_text == text
            called = [item for item in response.output if item.type == "function_call"]
            assert [(one.call_id, one.name, json.loads(one.arguments)) for one in called] == [
                (key, name, json.loads(arguments)) for key, name, arguments in CALLS
            ]
            history: Any = [{"role": "user", "content": "Hi"}]
            history += response.output
            history += [
                {"type": "function_call_output", "call_id": one.call_id, "output": f"result {number}"}
                for number, one in enumerate(called)
            ]
            stub.script(wire.text("Sunny."))
            second = await home.openai.responses.create(model="m", input=history, tools=TOOLS)
            assert second.output_text == "Sunny."
            assert wire.results(stub.requests[-1]) == [
                ("call_1", "result 0"), ("call_2", "result 1"), ("call_3", "result 2")
            ]  # fmt: skip


async def test_reasoning_comes_before_the_message(opened: House, wire: Wire) -> None:
    asked: dict[str, Any] = {"input": "Hi", "reasoning": {"effort": "low"}, "max_output_tokens": 9000}
    replies = wire.text("42", reasoning="Let me think"), wire.stream(["42"], reasoning=["Let me ", "think"])
    async with StubUpstream() as stub, opened(wire.deployment(stub)) as home:
        plain, streamed = await answers(home, stub, *replies, **asked)
    assert bare(plain) == bare(streamed)
    thought, said = plain.output
    assert [part.text for part in thought.summary] == ["Let me think"]
    assert said.content[0].text == "42"


class Person(BaseModel):
    name: str
    age: int


async def test_an_answer_is_parsed_into_a_model(opened: House, wire: Wire) -> None:
    async with StubUpstream(wire.text('{"name":"Ada","age":36}')) as stub, opened(wire.deployment(stub)) as home:
        answer = await home.openai.responses.parse(model="m", input="Who?", text_format=Person)
        (request,) = stub.requests
    assert answer.output_parsed == Person(name="Ada", age=36)
    assert set(wire.schema(request)["properties"]) == {"name", "age"}


async def test_a_stream_is_parsed_into_a_model(opened: House, wire: Wire) -> None:
    reply = wire.stream(['{"name":', '"Ada","age":36}'])
    async with StubUpstream(reply) as stub, opened(wire.deployment(stub)) as home:
        answer = await final(home, input="Who?", text_format=Person)
    assert answer.output_parsed == Person(name="Ada", age=36)


async def test_an_image_reaches_the_vendor_as_it_is(opened: House, wire: Wire) -> None:
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"}
    message: Any = {"role": "user", "content": [{"type": "input_text", "text": "What?"}, image]}
    async with StubUpstream(wire.text("A dot.")) as stub, opened(wire.deployment(stub)) as home:
        await home.openai.responses.create(model="m", input=[message])
        (request,) = stub.requests
    assert wire.images(request) == [PNG]


def test_the_synchronous_client_works_as_well(opened: House, wire: Wire) -> None:
    def ask(url: str) -> tuple[Any, Any]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            plain = client.responses.create(model="m", input="Hi")
            with client.responses.stream(model="m", input="Hi") as stream:
                return plain.output_text, stream.get_final_response().output_text

    async def run() -> tuple[Any, Any]:
        replies = (wire.text("plain"), wire.stream(["str", "eamed"]))
        async with StubUpstream(*replies) as stub, opened(wire.deployment(stub)) as home:
            return await asyncio.to_thread(ask, home.url)

    assert asyncio.run(run()) == ("plain", "streamed")


ERRORS: list[tuple[int, str, Any, str | None]] = [
    (400, "temperature: must be lower", openai.BadRequestError, None),
    (401, "bad key", openai.InternalServerError, "upstream_credential_rejected"),
    (404, "no such model", openai.InternalServerError, "upstream_model_not_found"),
    (429, "slow down", openai.RateLimitError, "rate_limit_exceeded"),
    (500, "boom", openai.InternalServerError, "upstream_error"),
    (400, "prompt is too long: 300000 tokens", openai.BadRequestError, "context_length_exceeded"),
]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_vendors_error_is_the_sdks_exception(opened: House, wire: Wire, streamed: bool) -> None:
    async with StubUpstream() as stub, opened(wire.deployment(stub)) as home:
        for status, message, kind, code in ERRORS:
            stub.script(wire.error(status, message, headers={"Retry-After": "7"} if status == 429 else {}))
            with pytest.raises(kind) as raised:
                await home.openai.responses.create(model="m", input="Hi", stream=streamed)
            assert message in raised.value.message
            assert code is None or raised.value.code == code
            assert status != 429 or raised.value.response.headers["Retry-After"] == "7"


async def test_errors_of_the_gateway_itself_are_the_sdks_exceptions(opened: House, openai_wire: Wire) -> None:
    keys = {"keys": ["0123456789abcdef-key"]}
    async with (
        StubUpstream(openai_wire.text("x")) as stub,
        opened(openai_wire.deployment(stub), plugin_auth_keys=keys, key="0123456789abcdef-key") as home,
    ):
        responses = home.openai.responses
        with pytest.raises(openai.NotFoundError) as missing:
            await responses.create(model="nothing", input="Hi")
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError, match="whole conversation") as bad:
            await responses.create(model="m", input="Hi", previous_response_id="resp_1")
        assert bad.value.param == "previous_response_id"
        with pytest.raises(openai.AuthenticationError):
            await home.openai.with_options(api_key="wrong").responses.create(model="m", input="Hi")
        assert stub.requests == []


@pytest.mark.parametrize("streamed", [False, True])
async def test_signed_reasoning_makes_the_round_trip_with_a_tool(opened: House, wires: Any, streamed: bool) -> None:
    wire = next(one for one in wires if one.name == "anthropic")
    blocks = [
        {"type": "thinking", "thinking": "I have to look.", "signature": "sig=="},
        {"type": "redacted_thinking", "data": "sealed=="},
    ]
    use = {"type": "tool_use", "id": "call_1", "name": "now", "input": {}}
    plain = wire._plain([*blocks, use], "tool_use")
    parts = [
        ({"type": "thinking", "thinking": "", "signature": ""}, [
            {"type": "thinking_delta", "thinking": "I have to look."},
            {"type": "signature_delta", "signature": "sig=="},
        ]),
        (blocks[1], []),
        (use, []),
    ]  # fmt: skip
    asked: dict[str, Any] = {"tools": TOOLS, "reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"]}
    async with (
        StubUpstream(wire._events(parts, "tool_use") if streamed else plain) as stub,
        opened(wire.deployment(stub)) as home,
    ):
        if streamed:
            response = await final(home, input="Hi", **asked)
        else:
            response = await home.openai.responses.create(model="m", input="Hi", **asked)
        assert [item.type for item in response.output] == ["reasoning", "function_call"]
        result: Any = {"type": "function_call_output", "call_id": "call_1", "output": "noon"}
        history: Any = [{"role": "user", "content": "Hi"}, *response.output, result]
        stub.script(wire.text("Noon."))
        second = await home.openai.responses.with_raw_response.create(model="m", input=history, **asked)
        assert second.parse().output_text == "Noon."
        assert "X-Gatehook-Dropped-Params" not in second.headers
        request = stub.requests[-1]
    assert request.json["messages"][1] == {"role": "assistant", "content": [*blocks, use]}


@pytest.mark.parametrize("streamed", [False, True])
async def test_proofs_of_a_call_make_the_round_trip(opened: House, wires: Any, streamed: bool) -> None:
    wire = next(one for one in wires if one.name == "gemini")
    part = {"functionCall": {"id": "call_1", "name": "now", "args": {}}, "thoughtSignature": "c2ln"}
    body = wire._body([part], "STOP")
    reply = Reply.of_events([b"data: %b\n\n" % json.dumps(body).encode()]) if streamed else Reply.of_json(body)
    asked: dict[str, Any] = {"tools": TOOLS}
    async with StubUpstream(reply) as stub, opened(wire.deployment(stub)) as home:
        if streamed:
            response = await final(home, input="Hi", **asked)
        else:
            response = await home.openai.responses.create(model="m", input="Hi", **asked)
        result: Any = {"type": "function_call_output", "call_id": response.output[-1].call_id, "output": "noon"}
        stub.script(wire.text("Noon."))
        await home.openai.responses.create(model="m", input=[*response.output, result], **asked)
        contents = stub.requests[-1].json["contents"]
    sent = [one for content in contents for one in content["parts"] if "functionCall" in one]
    assert [one["thoughtSignature"] for one in sent] == ["c2ln"]
