import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gatehook import Attempt, Chunk, Operation
from gatehook.testing import Replay, ReplayEgress, attempt
from gatehook_ollama.options import DEFAULT_BASE
from gatehook_ollama.vendor import Ollama


@pytest.fixture
def lines() -> Callable[..., bytes]:
    """Values as newline-delimited JSON."""
    return lambda *values: b"".join(json.dumps(value).encode() + b"\n" for value in values)


@pytest.fixture
def settings() -> Callable[[str], str]:
    """A gateway's settings with one Ollama at an address."""

    def made(url: str, more: str = "") -> str:
        return f"""
[plugins.openai_api]
[plugins.route_models]
[plugins.ollama]
base_url = "{url}"
[[models]]
name = "m"
vendor = "ollama"
model = "qwen3:8b"
{more}
"""

    return made


@pytest.fixture
def asked() -> Callable[..., Any]:
    """What the vendor sends for a plain request, and what it gives, and what it tells as lost."""

    async def ask(
        payload: dict[str, Any], reply: Any, *, operation: Operation = "chat", **target: Any
    ) -> tuple[Any, Any, Attempt]:
        egress = ReplayEgress(Replay(json.dumps(reply).encode()))
        one = attempt({"model": "m", **payload}, operation=operation, **({"vendor": "ollama"} | target))
        completion = await Ollama(egress, DEFAULT_BASE).complete(one)
        return egress.requests[0], completion, one

    return ask


@pytest.fixture
def streamed() -> Callable[..., Any]:
    """All chunks of a streamed answer that arrives in these pieces."""

    async def run(pieces: Sequence[bytes], payload: dict[str, Any] | None = None, **more: Any) -> list[Chunk]:
        given = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, **(payload or {})}
        vendor = Ollama(ReplayEgress(Replay(pieces, content_type="application/x-ndjson")), DEFAULT_BASE)
        return [chunk async for batch in vendor.stream(attempt(given, vendor="ollama", **more)) for chunk in batch]

    return run
