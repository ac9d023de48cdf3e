"""What breaks: before the first content it is an error, later the stream's last event, and the line is cut."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from gatehook import LEDGER, Call, Observer, Outcome, Section, hookimpl
from gatehook.testing import Reply, StubUpstream
from gatehook_plugins.responses_api.sealing import sealed

OpenApi = Any
Mock = Any
Object = dict[str, Any]


async def broken_off(it: Any, **body: Any) -> bytes:
    """What arrives of a stream whose line is cut."""
    got = bytearray()

    async def read(answer: aiohttp.ClientResponse) -> None:
        async for piece in answer.content.iter_any():
            got.extend(piece)

    request = {"model": "m", "input": "Hi", "stream": True, **body}
    async with it.http.post(f"{it.url}/v1/responses", json=request) as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await read(answer)
    return bytes(got)


FAULTS = {
    "text": 'text = "one two three four", fault = { kind = "cut", after = 3 }',
    "reasoning": 'reasoning = "one two three", text = "four", fault = { kind = "cut", after = 2 }',
    "a call": 'tool_calls = [{ name = "f", arguments = "{}" }], fault = { kind = "cut", after = 1 }',
    "nonsense": 'text = "one two three four", fault = { kind = "malformed", after = 2 }',
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_stream_that_breaks_ends_with_response_failed(
    api: OpenApi, mock: Mock, read_events: Any, fault: str
) -> None:
    tools = [{"type": "function", "name": "f"}]
    async with api(mock(FAULTS[fault])) as it:
        events = read_events(await broken_off(it, tools=tools))
    *_, last = events
    assert last["type"] == "response.failed"
    assert not [one for one in events if one["type"] in ("response.completed", "response.incomplete")]
    response = last["response"]
    assert response["id"] == events[0]["response"]["id"]
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert "mock" in response["error"]["message"]
    assert response["usage"] is None
    item = response["output"][-1]
    assert item["status"] == "incomplete"
    assert not [one for one in events if one["type"] == "response.output_item.done" and one["item"]["id"] == item["id"]]
    said = [one["delta"] for one in events if one["type"].endswith(".delta") and one["item_id"] == item["id"]]
    assert "".join(said) == "".join(
        [item.get("arguments", ""), *(part["text"] for part in (*item.get("content", ()), *item.get("summary", ())))]
    )


async def test_the_sdk_gets_the_failure_and_then_raises(api: OpenApi, mock: Mock) -> None:
    events: list[Any] = []

    async def read(stream: Any) -> None:
        async for event in stream:
            events.append(event)  # noqa: PERF401  # those before the error are wanted

    async with api(mock(FAULTS["text"])) as it:
        stream = await it.sdk.responses.create(model="m", input="Hi", stream=True)
        with pytest.raises(openai.APIError):
            await read(stream)
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.code == "server_error"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"message": "slow down", "type": "rate_limit_error", "code": 429}, "rate_limit_exceeded"),
        ({"message": "prompt is too long", "type": "invalid_request_error", "code": 400}, "invalid_prompt"),
        ({"message": "boom", "type": "server_error", "code": 500}, "server_error"),
    ],
)
async def test_an_error_amid_a_stream_has_a_code_that_clients_know(
    api: OpenApi, read_events: Any, error: Object, code: str
) -> None:
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "up",
             "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]}  # fmt: skip
    body = b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in (chunk, {"error": error}))
    async with StubUpstream(Reply.of_events(body)) as stub:
        model = f'[[models]]\nname = "m"\nvendor = "openai"\nbase_url = "{stub.url}/v1"\n'
        async with api(model) as it:
            events = read_events(await broken_off(it))
    told = events[-1]["response"]["error"]
    assert told["code"] == code
    assert error["message"] in told["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_before_the_first_content_is_an_error_answer(api: OpenApi, mock: Mock, stream: bool) -> None:
    fault = 'fault = { kind = "status", status = 429, retry_after = 7, message = "out of order" }'
    async with api(mock(fault)) as it:
        answer = await it.ask(stream=stream)
    error = answer.error(429)
    assert "out of order" in error["message"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert answer.headers["Retry-After"] == "7"
    assert answer.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"},
                    {"type": "function_call_output", "call_id": "c", "output": ""}]},
         "input[0].tool_calls[0].function.arguments", "not valid JSON"),
        ({"instructions": "x", "input": [{"role": "user", "content": "x"},
                                         {"type": "function_call_output", "call_id": "c", "output": ""}]},
         "input[1].tool_call_id", "'c'"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "none, minimal"),
        ({"top_logprobs": 2}, "logprobs", "log probabilities"),
    ],
)  # fmt: skip
async def test_a_vendors_refusal_names_what_was_sent(api: OpenApi, given: Object, param: str, words: str) -> None:
    model = '[[models]]\nname = "m"\nvendor = "anthropic"\nmodel = "claude"\nbase_url = "http://127.0.0.1:9"\n'
    async with api(model) as it:
        error = (await it.ask(**given)).error(400, param)
    assert words in error["message"]


@pytest.mark.parametrize("length", [1, 100_000], ids=["a short answer", "one that is written in pieces"])
async def test_what_vendor_and_api_leave_out_is_told_together(api: OpenApi, length: int) -> None:
    said = {"content": [{"type": "text", "text": "x" * length}], "stop_reason": "end_turn", "role": "assistant"}
    async with StubUpstream(Reply.of_json(said)) as stub:
        model = f'[[models]]\nname = "m"\nvendor = "anthropic"\nmodel = "claude"\nbase_url = "{stub.url}"\n'
        async with api(model) as it:
            answer = await it.ask(store=True, prompt_cache_key="k")
    assert answer.status == 200
    assert answer.headers.getall("X-Gatehook-Dropped-Params") == ["prompt_cache_key, store"]


async def test_what_is_not_read_deeper_down_is_told(api: OpenApi) -> None:
    done = {"choices": [{"message": {"role": "assistant", "content": "Two."}, "finish_reason": "stop"}]}
    more = {
        "reasoning": {"effort": "low", "context": "all_turns", "summary": None},
        "text": {"format": {"type": "text", "frame": 1}, "tone": "calm"},
        "metadata": {"any": "thing"},
    }
    async with (
        StubUpstream(Reply.of_json(done)) as stub,
        api(f'[[models]]\nname = "m"\nvendor = "openai"\nbase_url = "{stub.url}/v1"\n') as it,
    ):
        answer = await it.ask(**more)
    assert answer.status == 200
    assert answer.headers["X-Gatehook-Dropped-Params"] == "reasoning.context, text.format.frame, text.tone"


async def test_what_one_vendor_has_signed_is_kept_from_another_and_told(api: OpenApi) -> None:
    blocks: list[Object] = [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}]
    thought = {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm."}],
        "encrypted_content": sealed(blocks),
    }
    said = {"type": "message", "role": "assistant", "content": "One."}
    asked = {"type": "message", "role": "user", "content": "And then?"}
    done = {"choices": [{"message": {"role": "assistant", "content": "Two."}, "finish_reason": "stop"}]}
    async with StubUpstream(Reply.of_json(done)) as stub:
        async with api(f'[[models]]\nname = "m"\nvendor = "openai"\nbase_url = "{stub.url}/v1"\n') as it:
            answer = await it.ask(input=[thought, said, asked])
        sent = stub.requests[-1].json["messages"][0]
    assert answer.status == 200
    assert sent == {"role": "assistant", "content": "One.", "reasoning_content": "Hm."}
    assert answer.headers["X-Gatehook-Dropped-Params"] == "thinking_blocks"


class Watcher(Observer):
    """Keeps how calls ended."""

    def __init__(self) -> None:
        self.ended: asyncio.Queue[tuple[str, Outcome]] = asyncio.Queue()

    def finished(self, call: Call, outcome: Outcome) -> None:
        self.ended.put_nowait((call.surface, outcome))


async def test_a_client_that_leaves_ends_the_call_upstream(api: OpenApi) -> None:
    watcher = Watcher()

    class Watching:
        class Settings(Section): ...

        def __init__(self, settings: Settings) -> None: ...

        @hookimpl
        def register_observers(self) -> Iterable[Observer]:
            return [watcher]

    chunk = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]}
    reply = Reply.of_events(b"data: %b\n\n" % json.dumps(chunk).encode(), end="silence")
    async with StubUpstream(reply) as stub:
        model = f'[plugins.watching]\n[[models]]\nname = "m"\nvendor = "openai"\nbase_url = "{stub.url}/v1"\n'
        async with api(model, plugins={"watching": Watching}) as it, asyncio.timeout(20):
            async with await it.sdk.responses.create(model="m", input="Hi", stream=True) as stream:
                async for event in stream:
                    if event.type == "response.output_text.delta":
                        break
            await stub.closed_early.wait()
            surface, outcome = await watcher.ended.get()
    assert (surface, outcome.status, outcome.code) == ("responses", "partial", "client_left")


async def test_the_ledger_has_the_same_tokens_as_the_answer(api: OpenApi, mock: Mock, tmp_path: Path) -> None:
    usage = "prompt_tokens = 100, completion_tokens = 50, cached_tokens = 10, reasoning_tokens = 5"
    settings = f"""
    [database]
    url = "sqlite:///{tmp_path}/a.db"
    secret = "a secret of more than thirty-two letters, for tests"
    [plugins.database]
    [plugins.ledger]
    directory = "{tmp_path}"
    {mock(f'reasoning = "so", text = "a b c", usage = {{ {usage} }}')}
    """
    async with api(settings) as it:
        told = [(await it.ask(stream=stream)).response["usage"] for stream in (False, True)]
        ledger = it.gateway.services[LEDGER]
        await ledger.flush()
        rows = await ledger.rows()
    assert told[0] == told[1]
    assert [(row.surface, row.operation, row.outcome) for row in rows] == [("responses", "chat", "complete")] * 2
    for row in rows:
        assert told[0] == {
            "input_tokens": row.prompt_tokens,
            "input_tokens_details": {"cached_tokens": row.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": row.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": row.reasoning_tokens},
            "total_tokens": row.tokens,
        }
