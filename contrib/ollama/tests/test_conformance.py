"""The vendor "ollama" keeps to everything the suite asks of a vendor."""

import json
from collections.abc import Mapping
from typing import Any

from gatehook.testing import Reply
from gatehook.testing.conformance import Failure, Said, Script, VendorConformance
from gatehook_ollama import OllamaPlugin

REASONS = {"stop": "stop", "length": "length", "tool_calls": "stop"}
"""Ollama filters nothing, and has no reason of its own for calls of tools."""


def line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def message(**content: Any) -> dict[str, Any]:
    return {
        "model": "upstream-model",
        "created_at": "2026-01-01T00:00:00.123456Z",
        "message": {"role": "assistant", "content": "", **content},
        "done": False,
    }


def calls_of(said: Said) -> list[dict[str, Any]]:
    return [
        {"id": call.id, "function": {"name": call.name, "arguments": json.loads(call.arguments)}} for call in said.calls
    ]


def ending(said: Said) -> dict[str, Any]:
    counts = {"prompt_eval_count": said.usage.prompt_tokens, "eval_count": said.usage.completion_tokens}
    return {"done": True, "done_reason": REASONS[said.finish], "total_duration": 5_000_000, **counts}


class OllamaScript(Script):
    """Ollama's own API, after its reference: lines of JSON."""

    def plain(self, said: Said) -> Reply | None:
        if said.operation == "embeddings":
            vectors = [list(vector) for vector in said.vectors]
            return Reply.of_json({"model": "upstream-model", "embeddings": vectors, "prompt_eval_count": 11})
        if said.finish not in REASONS:
            return None
        more = {"tool_calls": calls_of(said)} if said.calls else {}
        return Reply.of_json(message(content="".join(said.text), **more) | ending(said))

    def stream(self, said: Said) -> Reply | None:
        if said.finish not in REASONS:
            return None
        return lines(*spoken(said), line(message() | ending(said)))

    def failure(self, failure: Failure) -> Reply:
        return Reply.of_json({"error": failure.message}, status=failure.status, headers=failure.headers)

    def failing_stream(self, said: Said, failure: Failure) -> Reply:
        return lines(*spoken(said), line({"error": failure.message}))


def spoken(said: Said) -> list[bytes]:
    calls = (line(message(tool_calls=[call])) for call in calls_of(said))
    return [*(line(message(content=text)) for text in said.text), *calls]


def lines(*body: bytes) -> Reply:
    return Reply(body, content_type="application/x-ndjson")


class TestOllama(VendorConformance):
    plugin = "ollama"
    plugin_class = OllamaPlugin
    script = OllamaScript()
    samples: Mapping[str, Any] = {
        "min_p": 0.05,
        "tool_choice": "none",  # it cannot be made to call one
    }
