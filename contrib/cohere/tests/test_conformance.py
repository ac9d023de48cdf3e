"""The vendor "cohere" keeps to everything the suite asks of a vendor."""

import json
from collections.abc import Mapping
from typing import Any

from gatehook.testing import Reply
from gatehook.testing.conformance import Failure, Said, Script, VendorConformance
from gatehook_cohere import CoherePlugin

REASONS = {"stop": "COMPLETE", "length": "MAX_TOKENS", "tool_calls": "TOOL_CALL"}
"""Cohere filters nothing that it tells of."""


def frame(event: Mapping[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def counts(said: Said) -> dict[str, Any]:
    told = {"input_tokens": float(said.usage.prompt_tokens), "output_tokens": float(said.usage.completion_tokens)}
    return {"billed_units": {"input_tokens": 1.0, "output_tokens": 1.0}, "tokens": told}


class CohereScript(Script):
    """Cohere's API, version 2, after its reference."""

    def plain(self, said: Said) -> Reply | None:
        if said.operation == "embeddings":
            vectors = {"float": [list(vector) for vector in said.vectors]}
            return Reply.of_json({"id": "e-1", "embeddings": vectors, "meta": {"billed_units": {"input_tokens": 11}}})
        if said.finish not in REASONS:
            return None
        message: dict[str, Any] = {"role": "assistant"}
        if said.text:
            message["content"] = [{"type": "text", "text": "".join(said.text)}]
        if said.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in said.calls
            ]
        return Reply.of_json(
            {"id": "c-1", "message": message, "finish_reason": REASONS[said.finish], "usage": counts(said)}
        )

    def stream(self, said: Said) -> Reply | None:
        if said.finish not in REASONS:
            return None
        ending = {"finish_reason": REASONS[said.finish], "usage": counts(said)}
        return Reply.of_events([*spoken(said), frame({"type": "message-end", "delta": ending})])

    def failure(self, failure: Failure) -> Reply:
        told = {"id": "x-1", "message": failure.message}
        return Reply.of_json(told, status=failure.status, headers=failure.headers)

    def failing_stream(self, said: Said, failure: Failure) -> Reply:
        ending = {"finish_reason": "ERROR", "error": failure.message}
        return Reply.of_events([*spoken(said), frame({"type": "message-end", "delta": ending})])


def spoken(said: Said) -> list[bytes]:
    events: list[dict[str, Any]] = [event("message-start", role="assistant", content=[], tool_plan="", tool_calls=[])]
    if said.text:
        events.append(event("content-start", 0, content={"type": "text", "text": ""}))
        events += [event("content-delta", 0, content={"text": text}) for text in said.text]
        events.append({"type": "content-end", "index": 0})
    for place, call in enumerate(said.calls):
        begun = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        events.append(event("tool-call-start", place, tool_calls=begun))
        for part in (call.arguments[:9], call.arguments[9:]):
            events.append(event("tool-call-delta", place, tool_calls={"function": {"arguments": part}}))
        events.append({"type": "tool-call-end", "index": place})
    return [frame(one) for one in events]


def event(kind: str, index: int | None = None, **message: Any) -> dict[str, Any]:
    place = {"id": "c-1"} if index is None else {"index": index}
    return {**place, "type": kind, "delta": {"message": message}}


class TestCohere(VendorConformance):
    plugin = "cohere"
    plugin_class = CoherePlugin
    script = CohereScript()
    samples: Mapping[str, Any] = {
        "documents": ["Bern is the capital of Switzerland."],
        "input_type": "search_query",
    }
