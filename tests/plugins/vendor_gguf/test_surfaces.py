"""A real local model, as `make run-local` serves it: through OpenAI's SDK, the generation API, and what tells of it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall

from gatehook.testing import serving
from gatehook_plugins.vendor_gguf.vendor import INSTALL, is_installed

pytestmark = pytest.mark.skipif(not is_installed(), reason=INSTALL)

ROOT = Path(__file__).parents[3]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
HELLO: Any = [{"role": "user", "content": "Hello!"}]


@dataclass
class Local:
    """The gateway of `make run-local`, and clients of it."""

    url: str
    http: aiohttp.ClientSession
    sdk: openai.AsyncOpenAI

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self.http.request(method, self.url + path, json=body) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def local(trained: Path) -> AsyncIterator[Local]:
    makefile = (ROOT / "Makefile").read_text()
    found = dict(re.findall(r"GATEHOOK_PLUGINS__VENDOR_GGUF__(\w+)=(\S+)", makefile))
    assert found == {"ENABLED": "true", "MODELS_DIR": "tests/models"}
    assert (ROOT / found["MODELS_DIR"] / trained.name).is_file()
    settings = (ROOT / "settings.toml").read_text().replace("port = 8080", "port = 0")
    start = settings.index("enabled = false", settings.index("[plugins.vendor_gguf]"))
    settings = f"{settings[:start]}enabled = true{settings[start + len('enabled = false') :]}"
    settings = settings.replace('models_dir = ""', f'models_dir = "{ROOT / found["MODELS_DIR"]}"')
    transport = openai.DefaultAsyncHttpxClient(verify=False)
    async with serving(settings) as served, aiohttp.ClientSession() as http:
        sdk = openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0, http_client=transport)
        async with sdk:
            yield Local(served.url, http, sdk)


async def test_it_answers_streams_and_calls_a_tool_through_openais_sdk(local: Local) -> None:
    answer = await local.sdk.chat.completions.create(model="tiny-chat", messages=HELLO, temperature=0)
    said = answer.choices[0].message.content
    assert said == "Hello! How can I help you today?"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 5
    pieces = []
    async for chunk in await local.sdk.chat.completions.create(
        model="tiny-chat", messages=HELLO, temperature=0, stream=True, stream_options={"include_usage": True}
    ):
        pieces += [choice.delta.content or "" for choice in chunk.choices]
    assert "".join(pieces) == said
    assert chunk.usage is not None
    called = await local.sdk.chat.completions.create(
        model="tiny-chat", messages=HELLO, temperature=0, tools=[WEATHER], tool_choice="required"
    )
    calls = called.choices[0].message.tool_calls
    assert calls is not None
    (call,) = calls
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    assert called.choices[0].finish_reason == "tool_calls"


async def test_an_answer_has_every_field_of_openais(local: Local) -> None:
    asked = {"model": "tiny-chat", "messages": HELLO, "max_tokens": 2}
    status, answer = await local.ask("POST", "/v1/chat/completions", asked)
    assert (status, answer["object"], answer["model"]) == (200, "chat.completion", "tiny-chat")
    assert {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"} == set(answer)
    assert answer["id"].startswith("chatcmpl-")
    assert answer["system_fingerprint"] is None  # nobody knows one


async def test_a_streamed_tool_call_is_the_plain_one_in_pieces(local: Local) -> None:
    name, arguments, reason = "", "", None
    async for chunk in await local.sdk.chat.completions.create(
        model="tiny-chat", messages=HELLO, temperature=0, tools=[WEATHER], tool_choice="required", stream=True
    ):
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            for call in choice.delta.tool_calls or ():
                assert call.function is not None
                name += call.function.name or ""
                arguments += call.function.arguments or ""
    assert name == "get_weather"
    assert json.loads(arguments)["city"] in ("Paris", "Rome")
    assert reason == "tool_calls"


async def test_an_answer_keeps_to_its_json_schema(local: Local) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    answer = await local.sdk.chat.completions.create(
        model="tiny-chat",
        messages=HELLO,
        seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}},
    )
    assert isinstance(json.loads(answer.choices[0].message.content or "")["n"], int)


async def test_the_same_seed_says_the_same(local: Local) -> None:
    async def ask(seed: int) -> str | None:
        answer = await local.sdk.chat.completions.create(
            model="tiny-chat",
            messages=HELLO,
            temperature=2,
            top_p=1,
            seed=seed,
            max_tokens=30,
            extra_body={"min_p": 0, "top_k": 0},
        )
        return answer.choices[0].message.content

    first, again, *others = await asyncio.gather(*(ask(seed) for seed in (7, 7, 8, 9, 10)))
    assert first == again
    assert len({first, *others}) > 1


async def test_what_tells_of_models_tells_the_truth(local: Local) -> None:
    _, listed = await local.ask("GET", "/v1/models")
    (tiny,) = (model for model in listed["data"] if model["id"] == "tiny-chat")
    assert tiny["meta"] == {
        "architecture": "llama",
        "quantization": "Q8_0",
        "quantizations": ["Q8_0"],
        "size": 659680,
        "context_length": 1024,
        "loaded": False,
    }
    assert (await local.ask("GET", "/v1/models/tiny-chat"))[1] == tiny
    status, told = await local.ask("POST", "/api/v1/models/tiny-chat/load", {"quantization": "q8_0"})
    assert (status, told["loaded"], told["size"]) == (200, True, "644.2KB")
    assert (await local.ask("GET", "/v1/models/tiny-chat"))[1]["meta"]["loaded"] is True
    _, system = await local.ask("GET", "/v1/system/status")
    (tiny,) = (model for model in system["models"] if model["name"] == "tiny-chat")
    assert (tiny["engine_type"], tiny["status"]) == ("gguf", "loaded")
    assert (await local.ask("GET", "/health"))[1]["engines"] == {"gguf": {"status": "ready", "loaded_models": 1}}
    status, told = await local.ask(
        "POST", "/api/v1/generate", {"prompt": "Hello!", "model": "tiny-chat", "temperature": 0}
    )
    assert (status, told["text"]) == (200, "Hello! How can I help you today?")
    status, told = await local.ask("POST", "/api/v1/models/tiny-chat/unload")
    assert (status, told["loaded"]) == (200, False)


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"messages": [{"role": "user", "content": "a" * 2000}]}, "messages", "context_length_exceeded"),
        ({"max_tokens": 0}, "max_tokens", None),
        ({"max_tokens": -1}, "max_tokens", None),
        ({"temperature": 50}, "temperature", None),
        ({"top_p": -1}, "top_p", None),
        ({"logit_bias": {"999999999": 1}}, "logit_bias", None),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}}},
            "response_format",
            None,
        ),
    ],
)
async def test_bad_input_is_a_400_that_names_the_field(local: Local, change: Any, param: str, code: str | None) -> None:
    body = {"model": "tiny-chat", "messages": HELLO, **change}
    status, told = await local.ask("POST", "/v1/chat/completions", body)
    assert status == 400, told
    assert told["error"]["param"].startswith(param)
    assert code in (None, told["error"]["code"])
    if code == "context_length_exceeded":
        assert "1024" in told["error"]["message"]
        assert "2004" in told["error"]["message"]


async def test_an_unknown_quantization_and_a_path_of_the_api_are_refused(local: Local) -> None:
    status, told = await local.ask("POST", "/api/v1/models/tiny-chat/load", {"quantization": "q3_k"})
    assert (status, told["error"]["code"], told["error"]["details"]["param"]) == (
        400,
        "INVALID_REQUEST",
        "quantization",
    )
    status, told = await local.ask("POST", "/api/v1/models/..%2f..%2fetc%2fpasswd/load")
    assert (status, told["error"]["code"]) == (404, "MODEL_NOT_FOUND")
