"""The vendor "bedrock" keeps to everything the suite asks of a vendor."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from gatehook.testing import Reply
from gatehook.testing.conformance import Failure, Said, Script, VendorConformance
from gatehook_bedrock import BedrockPlugin

REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "content_filtered", "tool_calls": "tool_use"}
EXCEPTIONS = {
    "credential": "UnrecognizedClientException",
    "permission": "AccessDeniedException",
    "model": "ResourceNotFoundException",
    "timeout": "ModelTimeoutException",
    "rate_limit": "ThrottlingException",
    "internal": "InternalServerException",
    "unavailable": "ServiceUnavailableException",
    "overloaded": "ModelNotReadyException",
}


def counts(said: Said) -> dict[str, Any]:
    prompt, answer = said.usage.prompt_tokens, said.usage.completion_tokens
    return {"usage": {"inputTokens": prompt, "outputTokens": answer, "totalTokens": prompt + answer}}


def exception(failure: Failure) -> str:
    return EXCEPTIONS.get(failure.kind, "ValidationException")


class BedrockScript(Script):
    """The Converse API, after its reference; `frame` puts an event into AWS's binary form."""

    def __init__(self, frame: Callable[..., bytes]) -> None:
        self.frame = frame

    def plain(self, said: Said) -> Reply:
        if said.operation == "embeddings":
            return Reply.of_json({"embeddings": {"float": [list(vector) for vector in said.vectors]}})
        content: list[dict[str, Any]] = [{"text": "".join(said.text)}] if said.text else []
        content += [
            {"toolUse": {"toolUseId": call.id, "name": call.name, "input": json.loads(call.arguments)}}
            for call in said.calls
        ]
        message = {"role": "assistant", "content": content}
        metrics = {"latencyMs": 1}
        return Reply.of_json(
            {"output": {"message": message}, "stopReason": REASONS[said.finish], "metrics": metrics, **counts(said)}
        )

    def stream(self, said: Said) -> Reply:
        stop = self.frame(("messageStop", {"stopReason": REASONS[said.finish]}))
        metadata = self.frame(("metadata", {**counts(said), "metrics": {"latencyMs": 1}}))
        return binary([*self.spoken(said), stop, metadata])

    def spoken(self, said: Said) -> list[bytes]:
        texts = [in_block(0, text=text) for text in said.text]
        events = [("messageStart", {"role": "assistant"}), *texts]
        if said.text:
            events.append(("contentBlockStop", {"contentBlockIndex": 0}))
        for index, call in enumerate(said.calls, 1):
            use = {"toolUseId": call.id, "name": call.name}
            events.append(("contentBlockStart", {"contentBlockIndex": index, "start": {"toolUse": use}}))
            parts = call.arguments[:9], call.arguments[9:]
            events += [in_block(index, toolUse={"input": part}) for part in parts]
            events.append(("contentBlockStop", {"contentBlockIndex": index}))
        return [self.frame(event) for event in events]

    def failure(self, failure: Failure) -> Reply:
        headers = {**failure.headers, "x-amzn-ErrorType": exception(failure)}
        return Reply.of_json({"message": failure.message}, status=failure.status, headers=headers)

    def failing_stream(self, said: Said, failure: Failure) -> Reply:
        kind = exception(failure)
        told = self.frame((kind[0].lower() + kind[1:], {"message": failure.message}))
        return binary([*self.spoken(said), told])


def in_block(index: int, **delta: Any) -> tuple[str, dict[str, Any]]:
    return "contentBlockDelta", {"contentBlockIndex": index, "delta": delta, "p": "abcdef"}


def binary(body: list[bytes]) -> Reply:
    return Reply(body, content_type="application/vnd.amazon.eventstream")


class TestBedrock(VendorConformance):
    """With a Bedrock API key, which could be shown; what a signature is made with never leaves the machine."""

    plugin = "bedrock"
    plugin_class = BedrockPlugin
    upstream_model = "anthropic.and.cohere.embed"  # taken for Claude in chats, and for Cohere's model in embeddings
    samples: Mapping[str, Any] = {"input_type": "search_query"}

    @pytest.fixture(autouse=True)
    def scripted(self, events: Callable[..., bytes]) -> None:
        self.script = BedrockScript(events)
