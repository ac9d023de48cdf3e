"""The vendor "anthropic" keeps to everything the suite asks of a vendor."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from gatehook.testing import Reply
from gatehook.testing.conformance import Failure, Said, Script, VendorConformance

REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}
KINDS = {
    "credential": "authentication_error",
    "permission": "permission_error",
    "model": "not_found_error",
    "timeout": "timeout_error",
    "rate_limit": "rate_limit_error",
    "internal": "api_error",
    "unavailable": "overloaded_error",
    "overloaded": "overloaded_error",
}


def frame(event: Mapping[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def error(failure: Failure) -> dict[str, Any]:
    kind = KINDS.get(failure.kind, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": failure.message}}


class AnthropicScript(Script):
    """The Messages API, after its reference."""

    def plain(self, said: Said) -> Reply:
        content: list[dict[str, Any]] = [{"type": "text", "text": "".join(said.text)}] if said.text else []
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}
            for call in said.calls
        ]
        usage = {"input_tokens": said.usage.prompt_tokens, "output_tokens": said.usage.completion_tokens}
        return Reply.of_json(
            message(content=content, stop_reason=REASONS[said.finish], stop_sequence=None, usage=usage)
        )

    def stream(self, said: Said) -> Reply:
        delta = {"stop_reason": REASONS[said.finish], "stop_sequence": None}
        usage = {"output_tokens": said.usage.completion_tokens}
        ending: list[dict[str, Any]] = [
            {"type": "message_delta", "delta": delta, "usage": usage},
            {"type": "message_stop"},
        ]
        return Reply.of_events([*self.spoken(said), *map(frame, ending)])

    def spoken(self, said: Said) -> list[bytes]:
        usage = {"input_tokens": said.usage.prompt_tokens, "output_tokens": 1}
        start = message(content=[], stop_reason=None, stop_sequence=None, usage=usage)
        blocks: list[tuple[dict[str, Any], list[dict[str, str]]]] = []
        if said.text:
            text_deltas = [{"type": "text_delta", "text": text} for text in said.text]
            blocks.append(({"type": "text", "text": ""}, text_deltas))
        for call in said.calls:
            parts = call.arguments[:9], call.arguments[9:]
            block: dict[str, Any] = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            blocks.append((block, [{"type": "input_json_delta", "partial_json": part} for part in parts]))
        events: list[dict[str, Any]] = [{"type": "message_start", "message": start}, {"type": "ping"}]
        for index, (block, deltas) in enumerate(blocks):
            events += in_block(index, block, deltas)
        return [frame(event) for event in events]

    def failure(self, failure: Failure) -> Reply:
        return Reply.of_json(error(failure), status=failure.status, headers=failure.headers)

    def failing_stream(self, said: Said, failure: Failure) -> Reply:
        return Reply.of_events([*self.spoken(said), frame(error(failure))])


def message(**rest: Any) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "upstream-model", **rest}


def in_block(index: int, block: Mapping[str, Any], deltas: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


class TestAnthropic(VendorConformance):
    plugin = "vendor_anthropic"
    samples: Mapping[str, Any] = {"output_config": {"effort": "low"}, "service_tier": "standard_only"}
    label = "anthropic"
    script = AnthropicScript()
