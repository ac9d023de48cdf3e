"""A whole gateway on a real socket, in front of stubs that speak each vendor's wire format."""

import asyncio
import contextlib
import functools
import io
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import openai
import pytest

from gatehook import Gateway
from gatehook.testing import Recorded, Reply, StubUpstream, serving

SECRET = "upstream-secret-00112233445566778899"
Call = tuple[str, str, str]
"""A tool call: id, name, arguments as JSON text."""


@dataclass
class House:
    """A serving gateway and clients of it."""

    url: str
    gateway: Gateway
    http: aiohttp.ClientSession
    key: str
    closing: contextlib.AsyncExitStack

    @functools.cached_property
    def openai(self) -> openai.AsyncOpenAI:
        # Made when asked for, and without certificates: loading them takes longer than most tests.
        transport = openai.DefaultAsyncHttpxClient(verify=False)
        client = openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=20, http_client=transport
        )
        self.closing.push_async_callback(client.close)
        return client

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def ask(self, body: Any = None, *, path: str = "/v1/chat/completions", **rest: Any) -> tuple[int, Any, Any]:
        """POST; the status, the body (decoded if it is JSON), and the headers."""
        body = body if body is not None else {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        if not isinstance(body, bytes | bytearray):
            body = json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **rest.pop("headers", {})}
        async with self.http.post(self.url + path, data=io.BytesIO(body), headers=headers, **rest) as answer:
            raw = await answer.read()
            is_json = answer.content_type == "application/json"
            return answer.status, json.loads(raw) if is_json else raw, answer.headers


OpenHouse = Callable[..., AbstractAsyncContextManager[House]]


def toml(value: Any) -> str:
    """One TOML value."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    return json.dumps(value)


def settings_text(models: Iterable[Mapping[str, Any]], tables: Mapping[str, Mapping[str, Any]]) -> str:
    """A settings.toml."""
    lines: list[str] = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {toml(value)}" for key, value in table.items())]
    for model in models:
        lines += ["[[models]]", *(f"{key} = {toml(value)}" for key, value in model.items())]
    return "\n".join(lines) + "\n"


def tables(**changes: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The settings' tables: every vendor on, patience short; a change named plugin_x is for [plugins.x]."""
    known: dict[str, Mapping[str, Any]] = {
        "server": {"port": 0, "shutdown_grace": 2},
        "failover": {"retries": 0, "first_token_timeout": 20, "stall_timeout": 20},
    }
    plugins = (
        "openai_api",
        "route_models",
        "vendor_openai",
        "vendor_anthropic",
        "vendor_gemini",
        "vendor_mock",
        "health",
    )
    known |= {f"plugins.{name}": {} for name in plugins}
    for name, table in changes.items():
        place = name.replace("plugin_", "plugins.", 1) if name.startswith("plugin_") else name
        known[place] = {**known.get(place, {}), **table}
    return known


@pytest.fixture
def house() -> OpenHouse:
    """Opens a gateway with these deployments; at the end nothing of it may be left running."""

    @contextlib.asynccontextmanager
    async def opened(
        *models: Mapping[str, Any], plugins: Mapping[str, type] | None = None, key: str = "any", **changes: Any
    ) -> AsyncIterator[House]:
        before = asyncio.all_tasks()
        text = settings_text(models, tables(**changes))
        async with (
            serving(text, plugins=plugins) as served,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
            contextlib.AsyncExitStack() as closing,
        ):
            yield House(served.url, served.gateway, http, key, closing)
        await settled(lambda: not _left(before))
        assert not _left(before), "tasks are left over"

    return opened


def _left(before: set[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    now = asyncio.all_tasks() - before - {asyncio.current_task()}
    return [task for task in now if "StubUpstream" not in repr(task.get_coro())]


async def settled(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until a condition holds that nobody announces; the caller asserts it."""
    end = asyncio.get_running_loop().time() + seconds
    while not condition() and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110  # sockets close unannounced
        await asyncio.sleep(0.005)


@pytest.fixture(name="settled")
def settled_fixture() -> Callable[..., Any]:
    return settled


@pytest.fixture(name="settings_text")
def settings_fixture() -> Callable[..., str]:
    """The text of a settings.toml: deployments, and changes to the tables."""

    def text(*models: Mapping[str, Any], **changes: Mapping[str, Any]) -> str:
        return settings_text(models, tables(**changes))

    return text


class Wire(Protocol):
    """One vendor's wire format, spoken by a stub."""

    name: str

    def deployment(self, stub: StubUpstream, name: str = "m", **more: Any) -> dict[str, Any]: ...
    def text(self, text: str, *, reasoning: str = "") -> Reply: ...
    def stream(self, pieces: Sequence[str], *, reasoning: Sequence[str] = (), **how: Any) -> Reply: ...
    def calls(self, calls: Sequence[Call], text: str = "") -> Reply: ...
    def calls_stream(self, calls: Sequence[Call], text: str = "") -> Reply: ...
    def error(self, status: int, message: str, **how: Any) -> Reply: ...
    def results(self, request: Recorded) -> list[tuple[str, str]]: ...
    def images(self, request: Recorded) -> list[str]: ...
    def schema(self, request: Recorded) -> Any: ...
    def is_stream(self, request: Recorded) -> bool: ...


def halves(text: str) -> list[str]:
    """A text in two pieces; one if it is too short."""
    middle = len(text) // 2
    return [text[:middle], text[middle:]] if middle else [text]


def data_events(*events: Any, done: bool = False) -> list[bytes]:
    framed = [b"data: " + json.dumps(one, ensure_ascii=False).encode() + b"\n\n" for one in events]
    return [*framed, b"data: [DONE]\n\n"] if done else framed


class OpenAIWire:
    """Chat completions."""

    name = "openai"
    usage: Mapping[str, Any] = {
        "prompt_tokens": 11,
        "completion_tokens": 7,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }

    def deployment(self, stub: StubUpstream, name: str = "m", **more: Any) -> dict[str, Any]:
        own = {"name": name, "vendor": "openai", "model": "up-model", "base_url": stub.url + "/v1", "api_key": SECRET}
        return own | more

    def _plain(self, message: Mapping[str, Any], finish: str) -> Reply:
        choice = {"index": 0, "message": {"role": "assistant", **message}, "logprobs": None, "finish_reason": finish}
        return Reply.of_json({"id": "chatcmpl-up", "object": "chat.completion", "created": 5, "model": "up-model-0613",
                              "choices": [choice], "usage": self.usage, "system_fingerprint": "fp"})  # fmt: skip

    def _events(self, deltas: Iterable[Mapping[str, Any]], finish: str, **how: Any) -> Reply:
        def event(delta: Mapping[str, Any], reason: str | None = None, **rest: Any) -> dict[str, Any]:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
            return {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 5, "model": "up-model-0613",
                    "choices": [choice], "usage": None, **rest}  # fmt: skip

        events = [event({"role": "assistant", "content": ""}), *map(event, deltas), event({}, finish)]
        events.append(event({}, choices=[], usage=self.usage))
        return Reply.of_events(data_events(*events, done=True), **how)

    def text(self, text: str, *, reasoning: str = "") -> Reply:
        return self._plain({"content": text} | ({"reasoning_content": reasoning} if reasoning else {}), "stop")

    def stream(self, pieces: Sequence[str], *, reasoning: Sequence[str] = (), **how: Any) -> Reply:
        deltas = [{"reasoning_content": piece} for piece in reasoning] + [{"content": piece} for piece in pieces]
        return self._events(deltas, "stop", **how)

    def calls(self, calls: Sequence[Call], text: str = "") -> Reply:
        made = [{"id": i, "type": "function", "function": {"name": name, "arguments": args}} for i, name, args in calls]
        return self._plain({"content": text or None, "tool_calls": made}, "tool_calls")

    def calls_stream(self, calls: Sequence[Call], text: str = "") -> Reply:
        deltas: list[dict[str, Any]] = [{"content": text}] if text else []
        for index, (key, name, args) in enumerate(calls):
            first = {"index": index, "id": key, "type": "function", "function": {"name": name, "arguments": ""}}
            deltas.append({"tool_calls": [first]})
            deltas += [{"tool_calls": [{"index": index, "function": {"arguments": part}}]} for part in halves(args)]
        return self._events(deltas, "tool_calls")

    def error(self, status: int, message: str, **how: Any) -> Reply:
        error = {"message": message, "type": "some_error", "param": None, "code": None}
        return Reply.of_json({"error": error}, status=status, **how)

    def results(self, request: Recorded) -> list[tuple[str, str]]:
        return [(one["tool_call_id"], one["content"]) for one in request.json["messages"] if one["role"] == "tool"]

    def images(self, request: Recorded) -> list[str]:
        parts = request.json["messages"][-1]["content"]
        return [part["image_url"]["url"].split(",")[1] for part in parts if part["type"] == "image_url"]

    def schema(self, request: Recorded) -> Any:
        return request.json["response_format"]["json_schema"]["schema"]

    def is_stream(self, request: Recorded) -> bool:
        return request.json.get("stream") is True


class AnthropicWire:
    """The Messages API."""

    name = "anthropic"

    def deployment(self, stub: StubUpstream, name: str = "m", **more: Any) -> dict[str, Any]:
        own = {
            "name": name,
            "vendor": "anthropic",
            "model": "claude-sonnet-4-5",
            "base_url": stub.url,
            "api_key": SECRET,
        }
        return own | more

    def _plain(self, blocks: Sequence[Mapping[str, Any]], stop: str) -> Reply:
        usage = {"input_tokens": 7, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 0, "output_tokens": 7}
        end = {"stop_reason": stop, "stop_sequence": None, "stop_details": None, "usage": usage}
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5"}
        return Reply.of_json({**head, "content": blocks, **end})

    def _events(
        self, blocks: Iterable[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]], stop: str, **how: Any
    ) -> Reply:
        message: Any = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
                   "content": [], "stop_reason": None, "stop_sequence": None,
                   "usage": {"input_tokens": 7, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 0,
                             "output_tokens": 1}}  # fmt: skip
        events: list[dict[str, Any]] = [{"type": "message_start", "message": message}, {"type": "ping"}]
        for index, (block, deltas) in enumerate(blocks):
            events.append({"type": "content_block_start", "index": index, "content_block": block})
            events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
            events.append({"type": "content_block_stop", "index": index})
        delta = {"stop_reason": stop, "stop_sequence": None}
        events += [{"type": "message_delta", "delta": delta, "usage": {"output_tokens": 7}}, {"type": "message_stop"}]
        framed = [f"event: {one['type']}\n".encode() + data_events(one)[0] for one in events]
        return Reply.of_events(framed, **how)

    def text(self, text: str, *, reasoning: str = "") -> Reply:
        thinking = [{"type": "thinking", "thinking": reasoning, "signature": "sig"}] if reasoning else []
        return self._plain([*thinking, {"type": "text", "text": text}], "end_turn")

    def stream(self, pieces: Sequence[str], *, reasoning: Sequence[str] = (), **how: Any) -> Reply:
        thoughts = [{"type": "thinking_delta", "thinking": piece} for piece in reasoning]
        signed = [*thoughts, {"type": "signature_delta", "signature": "sig"}]
        thinking = [({"type": "thinking", "thinking": "", "signature": ""}, signed)] if reasoning else []
        texts = [{"type": "text_delta", "text": piece} for piece in pieces]
        return self._events([*thinking, ({"type": "text", "text": ""}, texts)], "end_turn", **how)

    def calls(self, calls: Sequence[Call], text: str = "") -> Reply:
        uses = [{"type": "tool_use", "id": i, "name": name, "input": json.loads(args)} for i, name, args in calls]
        return self._plain([*([{"type": "text", "text": text}] if text else []), *uses], "tool_use")

    def calls_stream(self, calls: Sequence[Call], text: str = "") -> Reply:
        blocks: list[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]] = []
        if text:
            blocks.append(({"type": "text", "text": ""}, [{"type": "text_delta", "text": text}]))
        for key, name, args in calls:
            parts = [] if args == "{}" else halves(args)  # a call without arguments has no delta at all
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
            blocks.append(({"type": "tool_use", "id": key, "name": name, "input": {}}, deltas))
        return self._events(blocks, "tool_use")

    def error(self, status: int, message: str, **how: Any) -> Reply:
        error = {"type": "some_error", "message": message}
        return Reply.of_json({"type": "error", "error": error, "request_id": "req_x"}, status=status, **how)

    def results(self, request: Recorded) -> list[tuple[str, str]]:
        found = []
        for message in request.json["messages"]:
            for block in message["content"] if isinstance(message["content"], list) else ():
                if block["type"] == "tool_result":
                    content = block["content"]
                    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
                    found.append((block["tool_use_id"], text))
        return found

    def images(self, request: Recorded) -> list[str]:
        parts = request.json["messages"][-1]["content"]
        return [part["source"]["data"] for part in parts if part["type"] == "image"]

    def schema(self, request: Recorded) -> Any:
        return request.json["output_config"]["format"]["schema"]

    def is_stream(self, request: Recorded) -> bool:
        return request.json.get("stream") is True


class GeminiWire:
    """generateContent and streamGenerateContent."""

    name = "gemini"

    def deployment(self, stub: StubUpstream, name: str = "m", **more: Any) -> dict[str, Any]:
        own = {"name": name, "vendor": "gemini", "model": "gemini-2.5-flash", "base_url": stub.url, "api_key": SECRET}
        return own | more

    def _body(self, parts: Sequence[Mapping[str, Any]], finish: str | None, *, usage: bool = True) -> dict[str, Any]:
        candidate: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": parts}}
        if finish:
            candidate["finishReason"] = finish
        counts = {"promptTokenCount": 11, "cachedContentTokenCount": 4, "totalTokenCount": 18}
        counts |= {"candidatesTokenCount": 5, "thoughtsTokenCount": 2}
        body = {"candidates": [candidate], "modelVersion": "gemini-2.5-flash", "responseId": "r"}
        return body | ({"usageMetadata": counts} if usage else {})

    def text(self, text: str, *, reasoning: str = "") -> Reply:
        thought = [{"text": reasoning, "thought": True}] if reasoning else []
        return Reply.of_json(self._body([*thought, {"text": text}], "STOP"))

    def stream(self, pieces: Sequence[str], *, reasoning: Sequence[str] = (), **how: Any) -> Reply:
        parts: list[dict[str, Any]] = [{"text": piece, "thought": True} for piece in reasoning]
        parts += [{"text": piece} for piece in pieces]
        bodies = [self._body([part], None) for part in parts[:-1]] + [self._body(parts[-1:], "STOP")]
        return Reply.of_events(data_events(*bodies), **how)

    @staticmethod
    def _calls(calls: Sequence[Call], text: str) -> list[dict[str, Any]]:
        made = [{"functionCall": {"id": i, "name": name, "args": json.loads(args)}} for i, name, args in calls]
        return [*([{"text": text}] if text else []), *made]

    def calls(self, calls: Sequence[Call], text: str = "") -> Reply:
        return Reply.of_json(self._body(self._calls(calls, text), "STOP"))

    def calls_stream(self, calls: Sequence[Call], text: str = "") -> Reply:
        parts = self._calls(calls, text)
        return Reply.of_events(data_events(*(self._body([part], None) for part in parts), self._body([], "STOP")))

    def error(self, status: int, message: str, **how: Any) -> Reply:
        return Reply.of_json({"error": {"code": status, "message": message, "status": "SOME"}}, status=status, **how)

    def results(self, request: Recorded) -> list[tuple[str, str]]:
        parts = [part for content in request.json["contents"] for part in content["parts"]]
        answers = [part["functionResponse"] for part in parts if "functionResponse" in part]
        return [(one["id"], next(iter(one["response"].values()))) for one in answers]

    def images(self, request: Recorded) -> list[str]:
        parts = request.json["contents"][-1]["parts"]
        return [part["inlineData"]["data"] for part in parts if "inlineData" in part]

    def schema(self, request: Recorded) -> Any:
        return request.json["generationConfig"]["responseJsonSchema"]

    def is_stream(self, request: Recorded) -> bool:
        return ":streamGenerateContent" in request.path


WIRES: Sequence[Wire] = (OpenAIWire(), AnthropicWire(), GeminiWire())


@pytest.fixture
def by_aiohttp_alone(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Closes both short ways, the clients' and the vendors'."""

    def close() -> None:
        monkeypatch.setattr("gatehook.serving.lane.available", False)
        monkeypatch.setattr("gatehook.upstream.direct.available", False)

    return close


@pytest.fixture(params=[*WIRES, None], ids=[*(wire.name for wire in WIRES), "openai-by-aiohttp-alone"])
def wire(request: pytest.FixtureRequest, by_aiohttp_alone: Callable[[], None]) -> Wire:
    """Each vendor in turn; one of them again by aiohttp's ways alone."""
    if request.param is None:
        by_aiohttp_alone()
    found: Wire = request.param or WIRES[0]
    return found


@pytest.fixture
def wires() -> Sequence[Wire]:
    """All vendors."""
    return WIRES


@pytest.fixture
def openai_wire() -> Wire:
    return WIRES[0]
