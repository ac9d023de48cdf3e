"""The vendor "openai" keeps to everything the suite asks of a vendor."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from gatehook.testing import Reply
from gatehook.testing.conformance import Failure, Said, Script, VendorConformance

CODES = {
    "context_length": "context_length_exceeded",
    "content_policy": "content_policy_violation",
    "credential": "invalid_api_key",
}


def frame(event: Any) -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"


class OpenAIScript(Script):
    """OpenAI's own API, after its reference."""

    def base_url(self, url: str) -> str:
        return f"{url}/v1"

    def plain(self, said: Said) -> Reply:
        usage = usage_of(said)
        if said.operation == "embeddings":
            data = [
                {"object": "embedding", "index": index, "embedding": list(vector)}
                for index, vector in enumerate(said.vectors)
            ]
            return Reply.of_json({"object": "list", "model": "upstream-model", "data": data, "usage": usage})
        choice: dict[str, Any] = {"index": 0, "finish_reason": said.finish, "logprobs": None}
        if said.operation == "completions":
            choice["text"] = "".join(said.text)
        else:
            choice["message"] = {"role": "assistant", "content": "".join(said.text) or None}
            if said.calls:
                choice["message"]["tool_calls"] = [
                    {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                    for call in said.calls
                ]
        return Reply.of_json({**head(said, ""), "choices": [choice], "usage": usage})

    def stream(self, said: Said) -> Reply:
        return Reply.of_events([*self.spoken(said), *ending(said)])

    def spoken(self, said: Said) -> list[bytes]:
        if said.operation == "completions":
            return [piece(said, text=text) for text in said.text]
        events = [piece(said, delta={"role": "assistant", "content": ""})]
        events += [piece(said, delta={"content": text}) for text in said.text]
        for place, call in enumerate(said.calls):
            begun = {"name": call.name, "arguments": ""}
            fragments = [{"index": place, "id": call.id, "type": "function", "function": begun}]
            fragments += [{"index": place, "function": {"arguments": part}} for part in halves(call.arguments)]
            events += [piece(said, delta={"tool_calls": [fragment]}) for fragment in fragments]
        return events

    def failure(self, failure: Failure) -> Reply:
        error = {"message": failure.message, "type": failure.kind, "param": None, "code": CODES.get(failure.kind)}
        return Reply.of_json({"error": error}, status=failure.status, headers=failure.headers)

    def failing_stream(self, said: Said, failure: Failure) -> Reply:
        error = {"error": {"message": failure.message, "type": "server_error", "code": None}}
        return Reply.of_events([*self.spoken(said), frame(error)])


def head(said: Said, suffix: str) -> dict[str, Any]:
    kind = "text_completion" if said.operation == "completions" else f"chat.completion{suffix}"
    return {"id": "chatcmpl-1", "object": kind, "created": 1_700_000_000, "model": "upstream-model"}


def piece(said: Said, finish: str | None = None, **content: Any) -> bytes:
    choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish}
    return frame({**head(said, ".chunk"), "choices": [choice], "usage": None})


def ending(said: Said) -> list[bytes]:
    last: dict[str, Any] = {"text": ""} if said.operation == "completions" else {"delta": {}}
    return [
        piece(said, finish=said.finish, **last),
        frame({**head(said, ".chunk"), "choices": [], "usage": usage_of(said)}),
        b"data: [DONE]\n\n",
    ]


def usage_of(said: Said) -> Mapping[str, int]:
    usage = said.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


class TestOpenAI(VendorConformance):
    plugin = "vendor_openai"
    label = "openai"
    script = OpenAIScript()


class TestOpenAIByAiohttpAlone(TestOpenAI):
    """The same with both short ways closed, the clients' and the vendors'."""

    @pytest.fixture(autouse=True)
    def closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gatehook.serving.lane.available", False)
        monkeypatch.setattr("gatehook.upstream.direct.available", False)
