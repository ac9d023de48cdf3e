import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gatehook import Chunk, Operation
from gatehook.testing import Replay, ReplayEgress, attempt
from gatehook_cohere.endpoint import DEFAULT_BASE
from gatehook_cohere.vendor import Cohere


@pytest.fixture
def events() -> Callable[..., bytes]:
    """Values as server-sent events, as Cohere frames them."""

    def framed(*values: dict[str, Any]) -> bytes:
        return b"".join(b"event: %b\ndata: %b\n\n" % (v["type"].encode(), json.dumps(v).encode()) for v in values)

    return framed


@pytest.fixture
def asked() -> Callable[..., Any]:
    """What the vendor sends for a plain request, what it gives, and the attempt with what it tells as lost."""

    async def ask(payload: dict[str, Any], *replies: Any, operation: Operation = "chat", **target: Any) -> Any:
        egress = ReplayEgress(*(Replay(json.dumps(reply).encode()) for reply in replies))
        one = attempt({"model": "m", **payload}, operation=operation, **({"vendor": "cohere"} | target))
        completion = await Cohere(egress, DEFAULT_BASE).complete(one)
        return egress.requests, completion, one

    return ask


@pytest.fixture
def streamed() -> Callable[..., Any]:
    """All chunks of a streamed answer that arrives in these pieces, and the attempt."""

    async def run(pieces: Sequence[bytes], operation: Operation = "chat", **more: Any) -> tuple[list[Chunk], Any]:
        asked = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi", **more}
        one = attempt({"model": "m", "stream": True, **asked}, operation=operation, vendor="cohere")
        vendor = Cohere(ReplayEgress(Replay(pieces, content_type="text/event-stream")), DEFAULT_BASE)
        return [chunk async for batch in vendor.stream(one) for chunk in batch], one

    return run
