import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from gatehook import Attempt, Call, Chunk, Completion, Document, GatewayError, Operation, SecretStr, Target, encode
from gatehook.testing import Recorded, Replay, ReplayEgress
from gatehook_plugins.vendor_openai.stream import chunks_of
from gatehook_plugins.vendor_openai.vendor import OpenAIVendor

KEY = "vendor-secret-0123456789abcdef"
_MADE_UP = re.compile(rb'(?<="created":)\d+|(?<="call_)[0-9a-f]{24}(?=")')
HELLO: Mapping[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}


@dataclass
class Run:
    """One call of the vendor: what it sent and what it gave."""

    sent: Recorded
    completion: Completion | None = None
    chunks: list[Chunk] = field(default_factory=list)
    error: GatewayError | None = None
    closed: bool = False

    @property
    def told(self) -> tuple[list[bytes], str | None]:
        """The events as the client gets them, but for what the gateway makes up; and what has gone wrong after them."""
        events = [_MADE_UP.sub(b"", chunk.raw or b"") for chunk in self.chunks]
        return events, None if self.error is None else self.error.message

    @property
    def data(self) -> dict[str, Any]:
        assert self.completion is not None, self.error
        return self.completion.data

    @property
    def answer(self) -> dict[str, Any]:
        assert self.error is None, self.error.message
        return assembled(self.chunks)


def made(
    payload: Mapping[str, Any] | bytes, operation: Operation, model: str, *, stream: bool, **target: Any
) -> Attempt:
    """The attempt for a request whose bytes are given, or made from `payload`."""
    body = payload if isinstance(payload, bytes) else encode(dict(payload))
    data = json.loads(body, parse_int=str)
    call = Call(operation=operation, surface="openai", headers={})
    call.body = Document(raw=body)
    call.model = data["model"]
    call.stream = stream
    call.max_tokens = int(data.get("max_tokens") or 0) or None
    call.include_usage = (data.get("stream_options") or {}).get("include_usage") is True
    fields: dict[str, Any] = {
        "key": "public#1",
        "name": call.model,
        "vendor": "openai",
        "model": model,
        "base_url": "http://vendor.test/v1",
        "api_key": SecretStr(KEY),
    }
    return Attempt(call, Target(**(fields | target)))


Ask = Callable[..., Any]


@pytest.fixture
def ask() -> Ask:
    """A plain call; an error ends up in the run."""

    async def run(
        payload: Mapping[str, Any] | bytes | None = None,
        answer: Any = None,
        *,
        operation: Operation = "chat",
        model: str = "upstream-model",
        replay: Replay | None = None,
        **target: Any,
    ) -> Run:
        if payload is None:
            payload = {"model": "public", **HELLO}
        if answer is None:
            answer = {"id": "x", "object": "chat.completion", "created": 1, "model": model, "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
            ]}  # fmt: skip
        replay = replay or Replay(answer if isinstance(answer, bytes) else encode(answer))
        egress = ReplayEgress(replay)
        one = made(payload, operation, model, stream=False, **target)
        completion = error = None
        try:
            completion = await OpenAIVendor(egress).complete(one)
        except GatewayError as raised:
            error = raised
        assert replay.closed or not egress.requests
        return Run(_first(egress), completion, error=error, closed=True)

    return run


@pytest.fixture
def stream() -> Ask:
    """A streamed call of the upstream's pieces; an error ends up in the run."""

    async def run(
        pieces: bytes | Sequence[bytes] = b"",
        payload: Mapping[str, Any] | bytes | None = None,
        *,
        operation: Operation = "chat",
        model: str = "upstream-model",
        replay: Replay | None = None,
        **target: Any,
    ) -> Run:
        if payload is None:
            payload = {"model": "public", "stream": True, **HELLO}
        one = made(payload, operation, model, stream=True, **target)
        if replay is not None:
            return await streamed(one, replay)
        said = [pieces] if isinstance(pieces, bytes) else pieces
        plain = await streamed(one, Replay(said, content_type="text/event-stream"))
        for takes in (itertools.repeat(True), itertools.cycle([False, True])):
            relayed = await streamed(
                Attempt(one.call, one.target), Replay(said, content_type="text/event-stream"), takes
            )
            assert relayed.told == plain.told
        return plain

    return run


async def streamed(one: Attempt, replay: Replay, takes: Iterator[bool] | None = None) -> Run:
    """A streamed call; with `takes`, to a client that is written to past the batches where it is true."""
    chunks: list[Chunk] = []

    def relay(data: bytes, contents: int) -> bool:
        taken = takes is not None and next(takes)
        if taken:
            events = chunks_of(data)
            assert sum(chunk.content for chunk in events) == contents
            assert not any(chunk.finished or chunk.usage for chunk in events)
            chunks.extend(events)
        return taken

    error = None
    egress = ReplayEgress(replay)
    try:
        async for batch in OpenAIVendor(egress).stream(one):
            chunks += batch
            if takes is not None and any(chunk.content for chunk in batch):
                one.relay = relay  # the kernel waits for the first content, too
    except GatewayError as raised:
        error = raised
    return Run(_first(egress), chunks=chunks, error=error, closed=replay.closed)


def _first(egress: ReplayEgress) -> Recorded:
    return egress.requests[0] if egress.requests else Recorded("", "", {}, b"")


def assembled(chunks: Iterable[Chunk]) -> dict[str, Any]:
    """What a client makes of a stream, with the invariants that clients rely on checked."""
    choices: dict[int, dict[str, Any]] = {}
    usage = None
    heads = set()
    for chunk in chunks:
        data = json.loads(chunk.raw)
        assert data["model"] == "public", data
        heads.add((data["id"], data["created"]))
        if chunk.usage is not None:
            usage = chunk.usage
        for choice in data["choices"]:
            whole = choices.setdefault(choice.get("index", 0), {"finish": None, "tools": {}, "roles": 0})
            assert whole["finish"] is None, "something came after the finish"
            _add(whole, choice)
        assert chunk.finished == any(choice.get("finish_reason") for choice in data["choices"])
        assert chunk.usage_only == (bool(data.get("usage")) and not data["choices"])
    assert len(heads) == 1, f"more than one id or created: {heads}"
    return {"choices": choices, "usage": usage, "content": sum(chunk.content for chunk in chunks)}


def _add(whole: dict[str, Any], choice: dict[str, Any]) -> None:
    whole["text"] = whole.get("text", "") + (choice.get("text") or "")
    whole["logprobs"] = whole.get("logprobs", []) + ((choice.get("logprobs") or {}).get("content") or [])
    delta = choice.get("delta") or {}
    for key, value in delta.items():
        if key == "role":
            whole["roles"] += 1
        elif key == "tool_calls":
            for call in value or ():
                tool = whole["tools"].setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
                assert not (tool["name"] and (call.get("function") or {}).get("name")), "named more than once"
                tool["id"] += call.get("id") or ""
                for part in ("name", "arguments"):
                    tool[part] += (call.get("function") or {}).get(part) or ""
        elif isinstance(value, str):
            whole[key] = whole.get(key, "") + value
    whole["finish"] = choice.get("finish_reason") or None


def _sse(*events: Any, end: bytes = b"\n\n", done: bool = True) -> bytes:
    """Events framed: bytes go as they are, text as an event's data, all else as JSON."""
    framed = b""
    for event in events:
        if isinstance(event, bytes):
            framed += event
        else:
            text = event if isinstance(event, str) else json.dumps(event, separators=(",", ":"))
            framed += b"data: " + text.encode() + end
    return framed + (b"data: [DONE]" + end if done else b"")


@pytest.fixture
def sse() -> Callable[..., bytes]:
    return _sse


def _event(delta: Mapping[str, Any] | None = None, finish: str | None = None, **rest: Any) -> dict[str, Any]:
    """One chunk as OpenAI writes it."""
    choice = {"index": rest.pop("index", 0), "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    return {
        "id": "chatcmpl-up",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "upstream-model",
        "system_fingerprint": "fp_1",
        "choices": [choice],
        **rest,
    }


@pytest.fixture
def event() -> Callable[..., dict[str, Any]]:
    return _event
