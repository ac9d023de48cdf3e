"""The vendor "mock" keeps to what the suite can ask of a vendor that has no upstream."""

from collections.abc import Mapping
from typing import Any

from gatehook.testing.conformance import Failure, Said, Script, VendorConformance

CODES = {"context_length": "context_length_exceeded", "content_policy": "content_policy_violation"}


class MockScript(Script):
    """What it says is told by a deployment's options."""

    def plain(self, said: Said) -> Mapping[str, Any]:
        usage = {"prompt_tokens": said.usage.prompt_tokens, "completion_tokens": said.usage.completion_tokens}
        answer: dict[str, Any] = {"usage": usage, "finish_reason": said.finish}
        if said.calls:
            calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in said.calls]
            return answer | {"tool_calls": calls}
        return answer | {"text": "".join(said.text)}

    def stream(self, said: Said) -> Mapping[str, Any]:
        return self.plain(said)

    def failure(self, failure: Failure) -> Mapping[str, Any]:
        told = {"status": failure.status, "message": failure.message, "code": CODES.get(failure.kind)}
        if failure.retry_after is not None:
            told["retry_after"] = failure.retry_after
        return {"fault": {"kind": "status", **{name: value for name, value in told.items() if value is not None}}}

    def failing_stream(self, said: Said, failure: Failure) -> Mapping[str, Any]:
        fault = {"kind": "status", "status": failure.status, "message": failure.message, "after": 2}
        return {"text": "".join(said.text), "fault": fault}


class TestMock(VendorConformance):
    plugin = "vendor_mock"
    label = "mock"
    script = MockScript()
