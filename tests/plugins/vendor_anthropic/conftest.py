from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from gatehook import Attempt, Chunk, Completion, GatewayError, Operation, encode
from gatehook.parameters import sift
from gatehook.testing import Replay, ReplayEgress, attempt
from gatehook_plugins.vendor_anthropic.profile import Defaults
from gatehook_plugins.vendor_anthropic.vendor import Anthropic

MESSAGE = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 2},
}


@dataclass
class Run:
    """One call of the vendor: what it sent, what it gave, what it told of losses."""

    body: dict[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    dropped: list[str] = field(default_factory=list)
    completion: Completion | None = None
    chunks: list[Chunk] = field(default_factory=list)
    batches: int = 0
    error: GatewayError | None = None
    closed: bool = False

    @property
    def choice(self) -> dict[str, Any]:
        assert self.completion is not None
        choices: list[dict[str, Any]] = self.completion.data["choices"]
        assert len(choices) == 1
        return choices[0]

    @property
    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = self.choice["message"]
        return message


def sifted(vendor: Anthropic, payload: Mapping[str, Any], operation: Operation, target: Mapping[str, Any]) -> Attempt:
    """The attempt as the kernel makes it: sifted by the vendor's table."""
    one = attempt(payload, operation=operation, **target)
    one.sifted, one.dropped = sift(payload, vendor.parameters[operation], vendor="anthropic", strict=one.target.strict)
    return one


Ask = Callable[..., Any]


@pytest.fixture
def ask() -> Ask:
    """A plain call: what was sent for `payload`, and what the client gets for `answer`."""

    async def run(
        payload: Mapping[str, Any] | None = None,
        answer: Any = None,
        *,
        operation: Operation = "chat",
        defaults: Defaults | None = None,
        forward_user: bool = False,
        replay: Replay | None = None,
        **target: Any,
    ) -> Run:
        replay = replay or Replay(
            answer if isinstance(answer, bytes) else encode(MESSAGE if answer is None else answer)
        )
        egress = ReplayEgress(replay)
        vendor = Anthropic(egress, defaults or Defaults(), forward_user=forward_user)
        whole = {"model": "claude", "messages": [{"role": "user", "content": "Hello"}]} | dict(payload or {})
        if operation == "completions":
            del whole["messages"]
        one = sifted(vendor, whole, operation, target)
        completion = await vendor.complete(one)
        sent = egress.requests[0]
        assert replay.closed
        return Run(sent.json, sent.headers, sent.path, one.dropped, completion)

    return run


@pytest.fixture
def stream() -> Ask:
    """A streamed call of the upstream's `pieces`; an error ends up in the run."""

    async def run(
        pieces: bytes | Sequence[bytes],
        payload: Mapping[str, Any] | None = None,
        *,
        operation: Operation = "chat",
        replay: Replay | None = None,
        **target: Any,
    ) -> Run:
        replay = replay or Replay(pieces, content_type="text/event-stream; charset=utf-8")
        egress = ReplayEgress(replay)
        vendor = Anthropic(egress, Defaults())
        whole = {"model": "claude", "messages": [{"role": "user", "content": "Hello"}], "stream": True} | dict(
            payload or {}
        )
        if operation == "completions":
            del whole["messages"]
        one = sifted(vendor, whole, operation, target)
        result = Run(dropped=one.dropped)
        try:
            async for batch in vendor.stream(one):
                result.batches += 1
                result.chunks += batch
        except GatewayError as error:
            result.error = error
        result.body, result.closed = egress.requests[0].json, replay.closed
        return result

    return run


def assembled(chunks: Iterable[Chunk]) -> dict[str, Any]:
    """What a client makes of a stream."""
    whole: dict[str, Any] = {"content": "", "reasoning": "", "thinking_blocks": [], "tool_calls": [], "finish": None}
    for chunk in chunks:
        if chunk.usage is not None:
            whole["usage"] = chunk.usage
        for choice in chunk.data["choices"]:
            delta = choice["delta"]
            whole["content"] += delta.get("content") or ""
            whole["reasoning"] += delta.get("reasoning_content") or ""
            for block in delta.get("thinking_blocks") or []:
                assert block["index"] == len(whole["thinking_blocks"])
                whole["thinking_blocks"].append({name: block[name] for name in block if name != "index"})
            for call in delta.get("tool_calls") or []:
                if call["index"] == len(whole["tool_calls"]):
                    assert call["type"] == "function"
                    whole["tool_calls"].append({"id": call["id"], **call["function"]})
                else:
                    assert set(call) == {"index", "function"}
                    whole["tool_calls"][call["index"]]["arguments"] += call["function"]["arguments"]
            if choice["finish_reason"]:
                assert whole["finish"] is None, "finished twice"
                assert delta == {}
                whole["finish"] = choice["finish_reason"]
    return whole


@pytest.fixture(name="assembled")
def assembled_fixture() -> Callable[[Iterable[Chunk]], dict[str, Any]]:
    return assembled
