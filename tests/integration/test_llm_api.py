"""The multi-LLM API in front of each vendor's wire format."""

import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from gatehook.testing import Reply, StubUpstream
from gatehook_plugins.llm_api import LlmApi

House = Callable[..., Any]
Wire = Any

PRICES = {"input_per_1k_tokens": 0.003, "output_per_1k_tokens": 0.015, "cached_input_per_1k_tokens": 0.0003}
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
COST = {"input_cost": 0.0000222, "output_cost": 0.000105, "total_cost": 0.0001272}
"""4 of the 11 tokens came out of the vendor's cache: (7 x 3 000 + 4 x 300 + 7 x 15 000) nano-dollars, by hand."""
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}


def body(**parameters: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "parameters": parameters}


def events(raw: bytes) -> list[Any]:
    found = [block.removeprefix("data: ") for block in raw.decode().split("\n\n") if block]
    return [one if one == "[DONE]" else json.loads(one) for one in found]


async def stream_to_the_cut(gateway: Any) -> tuple[bytes, str]:
    """What came of a stream that was begun and cut, and the request's id."""
    received = b""
    async with gateway.http.post(f"{gateway.url}/api/llm/generate/stream", json=body()) as answer:
        assert answer.status == 200
        try:
            async for piece in answer.content.iter_any():
                received += piece
        except aiohttp.ClientPayloadError:
            return received, answer.headers["X-Request-ID"]
    raise AssertionError("the answer ended as if it were whole")


@pytest.fixture
def open_llm(house: House, wire: Wire) -> Callable[..., Any]:
    """A gateway whose model "m" is this vendor's stub, priced."""

    def opened(stub: StubUpstream) -> Any:
        deployment = wire.deployment(stub, pricing=PRICES)
        return house(deployment, plugins={"llm_api": LlmApi}, plugin_llm_api={})

    return opened


@pytest.mark.parametrize("mount", ["/api/llm", "/api/v1/llm"])
async def test_every_vendor_answers_with_its_usage_and_cost(open_llm: Any, wire: Wire, mount: str) -> None:
    async with StubUpstream(wire.text("Grüße 😀")) as stub, open_llm(stub) as gateway:
        asked = body(temperature=0.5, max_tokens=50, stop=["END"])
        status, answer, headers = await gateway.ask(asked, path=f"{mount}/generate")
    assert status == 200
    assert set(answer) == {"id", "model", "choices", "usage", "cost"}
    assert (answer["id"], answer["model"]) == (headers["X-Request-ID"], "m")
    assert answer["choices"][0]["message"]["content"] == "Grüße 😀"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert (answer["usage"], answer["cost"]) == (USAGE, COST)
    sent = json.dumps(stub.requests[0].json)
    assert "0.5" in sent
    assert "END" in sent
    assert "parameters" not in stub.requests[0].json


@pytest.mark.parametrize("mount", ["/api/llm", "/api/v1/llm"])
async def test_every_vendor_streams_and_tells_usage_and_cost_at_the_end(open_llm: Any, wire: Wire, mount: str) -> None:
    async with StubUpstream(wire.stream(["Gr", "üße", " 😀"])) as stub, open_llm(stub) as gateway:
        status, raw, headers = await gateway.ask(body(), path=f"{mount}/generate/stream")
    assert status == 200
    assert wire.is_stream(stub.requests[0])
    *chunks, last, done = events(raw)
    assert done == "[DONE]"
    assert (last["choices"][0]["delta"], last["usage"], last["cost"]) == ({}, USAGE, COST)
    assert {one["id"] for one in [*chunks, last]} == {headers["X-Request-ID"].replace("req_", "stream_")}
    assert all(set(choice) == {"index", "delta", "finish_reason"} for one in chunks for choice in one["choices"])
    assert "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks) == "Grüße 😀"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [one["choices"][0]["finish_reason"] for one in chunks][-1] == "stop"


@pytest.mark.parametrize("streams", [False, True])
async def test_every_vendors_tool_calls_arrive(open_llm: Any, wire: Wire, streams: bool) -> None:
    calls = [("call_1", "get_weather", '{"city": "Paris"}')]
    reply = wire.calls_stream(calls) if streams else wire.calls(calls)
    async with StubUpstream(reply) as stub, open_llm(stub) as gateway:
        _, answer, _ = await gateway.ask(body(tools=[TOOL], stream=streams), path="/api/llm/generate")
    if streams:
        choices = [choice for one in events(answer)[:-2] for choice in one["choices"]]
        made = [call for choice in choices for call in choice["delta"].get("tool_calls") or ()]
    else:
        choices = answer["choices"]
        made = choices[0]["message"]["tool_calls"]
    assert made[0]["function"]["name"] == "get_weather"
    assert json.loads("".join(call["function"].get("arguments") or "" for call in made)) == {"city": "Paris"}
    assert choices[-1]["finish_reason"] == "tool_calls"


async def test_a_vendors_cut_stream_ends_with_the_error_event(open_llm: Any, wire: Wire) -> None:
    pieces = list(wire.stream(["Hel", "lo", " you"]).body)
    last = next(place for place, piece in enumerate(pieces) if b" you" in piece)  # some tell the end with it
    cut = Reply.of_events(pieces[:last], end="cut")
    async with StubUpstream(cut) as stub, open_llm(stub) as gateway:
        received, request_id = await stream_to_the_cut(gateway)
    error = events(received)[-1]["error"]
    assert error["code"] == "MODEL_UNAVAILABLE"
    assert error["request_id"] == request_id
    assert error["details"]["model"] == "m"
    assert error["details"]["reason"].startswith("upstream_")


@pytest.mark.parametrize(
    ("upstream", "status", "code"),
    [(400, 400, "INVALID_REQUEST"), (401, 503, "MODEL_UNAVAILABLE"), (404, 503, "MODEL_UNAVAILABLE"),
     (413, 413, "INVALID_REQUEST"), (429, 429, "RATE_LIMIT_EXCEEDED"), (500, 503, "MODEL_UNAVAILABLE"),
     (503, 503, "MODEL_UNAVAILABLE"), (504, 503, "MODEL_UNAVAILABLE")],
)  # fmt: skip
async def test_a_vendors_error_comes_in_this_shape_without_its_key(
    open_llm: Any, wire: Wire, upstream: int, status: int, code: str
) -> None:
    said = wire.error(upstream, "went wrong, with key upstream-secret-00112233445566778899")
    async with StubUpstream(said) as stub, open_llm(stub) as gateway:
        for path in ("/api/llm/generate", "/api/v1/llm/generate/stream"):
            got, answer, headers = await gateway.ask(body(), path=path)
            assert (got, answer["error"]["code"]) == (status, code)
            assert answer["error"]["request_id"] == headers["X-Request-ID"]
            assert set(answer["error"]["details"]) == {"model", "reason", "retry_after"}
            assert "upstream-secret" not in json.dumps(answer)


async def test_numbers_that_nobody_can_hold_are_the_vendors_fault(house: House, openai_wire: Wire) -> None:
    huge = b',"zz":' + b"9" * 5000 + b"}"
    plain = b'{"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"x"}}]' + huge
    head = b'data: {"id":"c","created":5,"model":"m","choices":[{"index":0,"delta":'
    event = [head + b'{"role":"assistant","content":"x"}}]}\n\n', head + b'{"content":"y"}}]' + huge + b"\n\n"]
    async with StubUpstream(Reply(body=plain), Reply.of_events(event)) as stub:
        deployment = openai_wire.deployment(stub)
        async with house(deployment, plugins={"llm_api": LlmApi}, plugin_llm_api={}) as gateway:
            status, answer, _ = await gateway.ask(body(), path="/api/llm/generate")
            assert (status, answer["error"]["details"]["reason"]) == (503, "upstream_malformed")
            received, _ = await stream_to_the_cut(gateway)
    assert events(received)[-1]["error"]["details"]["reason"] == "upstream_malformed"
