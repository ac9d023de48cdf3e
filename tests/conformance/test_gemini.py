"""The vendor "gemini" keeps to everything the suite asks of a vendor."""

import json
from collections.abc import Mapping
from typing import Any

from gatehook.testing import Reply
from gatehook.testing.conformance import Failure, Said, Script, VendorConformance

REASONS = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY", "tool_calls": "STOP"}
STATUS = {
    "credential": "UNAUTHENTICATED",
    "permission": "PERMISSION_DENIED",
    "model": "NOT_FOUND",
    "timeout": "DEADLINE_EXCEEDED",
    "rate_limit": "RESOURCE_EXHAUSTED",
    "internal": "INTERNAL",
    "unavailable": "UNAVAILABLE",
    "overloaded": "UNAVAILABLE",
}


def frame(event: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(event, ensure_ascii=False)}\r\n\r\n".encode()


def event(*parts: Mapping[str, Any], **candidate: Any) -> dict[str, Any]:
    content = {"role": "model", "parts": list(parts)}
    return {"candidates": [{"content": content, "index": 0, **candidate}], "modelVersion": "upstream-model"}


def counted(said: Said) -> dict[str, Any]:
    prompt, answer = said.usage.prompt_tokens, said.usage.completion_tokens
    counts = {"promptTokenCount": prompt, "candidatesTokenCount": answer, "totalTokenCount": prompt + answer}
    return {"usageMetadata": counts}


def parts_of(said: Said) -> list[dict[str, Any]]:
    calls = [{"functionCall": {"name": call.name, "args": json.loads(call.arguments)}} for call in said.calls]
    return [*({"text": text} for text in said.text), *calls]


def error(failure: Failure) -> dict[str, Any]:
    status = STATUS.get(failure.kind, "INVALID_ARGUMENT")
    return {"error": {"code": failure.status, "message": failure.message, "status": status}}


class GeminiScript(Script):
    """The Gemini API, after its reference."""

    def plain(self, said: Said) -> Reply:
        if said.operation == "embeddings":
            return Reply.of_json({"embeddings": [{"values": list(vector)} for vector in said.vectors]})
        return Reply.of_json({**event(*parts_of(said), finishReason=REASONS[said.finish]), **counted(said)})

    def stream(self, said: Said) -> Reply:
        last = {**event({"text": ""}, finishReason=REASONS[said.finish]), **counted(said)}
        return Reply.of_events([*(frame(event(part)) for part in parts_of(said)), frame(last)])

    def failure(self, failure: Failure) -> Reply:
        return Reply.of_json(error(failure), status=failure.status, headers=failure.headers)

    def failing_stream(self, said: Said, failure: Failure) -> Reply:
        return Reply.of_events([*(frame(event(part)) for part in parts_of(said)), frame(error(failure))])


class TestGemini(VendorConformance):
    plugin = "vendor_gemini"
    samples: Mapping[str, Any] = {"output_config": {"effort": "low"}}
    unseen: Mapping[str, str] = {"output_config": "it is dropped, unless reasoning_effort says the same"}
    label = "gemini"
    script = GeminiScript()
    upstream_model = "gemini-2.5-flash"  # one whose way of thinking is known
