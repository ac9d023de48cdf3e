"""The pictures of the vendors "openai" and "mock" keep to everything the suite asks of them."""

import base64
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gatehook.testing import Recorded, Reply
from gatehook.testing.conformance import Failure, Fate, ImageServer, ImageVendorConformance, PostedImages
from gatehook.testing.conformance.images import Plan

CODES = {
    "context_length": "context_length_exceeded",
    "content_policy": "content_policy_violation",
    "credential": "invalid_api_key",
}


class OpenAIImages(PostedImages):
    """POST /v1/images/generations of gpt-image, after OpenAI's reference: base64 only, and no word of it."""

    def read(self, request: Recorded) -> tuple[str, int, str]:
        asked = request.json
        assert "response_format" not in asked, "refused by this model: unknown parameter"
        size = asked.get("size", "auto")
        return asked["prompt"], asked.get("n", 1), "" if size == "auto" else size

    def answer(self, pictures: Sequence[bytes]) -> Reply:
        data = [{"b64_json": base64.b64encode(picture).decode()} for picture in pictures]
        usage = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
        return Reply.of_json({"created": 1_700_000_000, "data": data, "usage": usage})

    def failure(self, failure: Failure) -> Reply:
        error = {"message": failure.message, "type": failure.kind, "param": None, "code": CODES.get(failure.kind)}
        return Reply.of_json({"error": error}, status=failure.status, headers=failure.headers)


class TestOpenAIImages(ImageVendorConformance):
    plugin = "vendor_openai"
    label = "openai"
    upstream_model = "gpt-image-1"
    server = OpenAIImages


class TestOpenAIImagesByAiohttpAlone(TestOpenAIImages):
    """The same with both short ways closed, the clients' and the vendors'."""

    @pytest.fixture(autouse=True)
    def closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gatehook.serving.lane.available", False)
        monkeypatch.setattr("gatehook.upstream.direct.available", False)


class MockImages(ImageServer):
    """Nobody: the vendor makes its pictures itself, and fails as its options say."""

    plays = frozenset[Fate]({"made", "refused", "failed"})

    def serving(self) -> Any:
        self.url = "http://127.0.0.1:9"
        return contextlib.AsyncExitStack()

    def options(self) -> Mapping[str, Any]:
        match self.plan:
            case Plan(_, Failure() as failure):
                told = {"status": failure.status, "message": failure.message, "code": CODES.get(failure.kind)}
                told["retry_after"] = failure.retry_after
                return {"fault": {"kind": "status", **{name: one for name, one in told.items() if one is not None}}}
        return {}


class TestMockImages(ImageVendorConformance):
    plugin = "vendor_mock"
    label = "mock"
    server = MockImages
