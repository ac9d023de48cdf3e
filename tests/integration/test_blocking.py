"""Nothing that a request passes through blocks the event loop: each blocking call would raise here."""

import json
from typing import Any

import aiohttp
import pytest
from blockbuster import BlockingError, blockbuster_ctx

from gatehook.testing import Reply, StubUpstream, serving

KEY = "sk-not-a-real-key-0123456789"
COMPLETION = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
}  # fmt: skip
CHUNKS = [
    {"id": "c", "created": 1, "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    for delta, finish in (({"role": "assistant", "content": "hi"}, None), ({}, "stop"))
]
STREAM = b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in CHUNKS) + b"data: [DONE]\n\n"


async def test_no_request_blocks_the_loop() -> None:
    async with StubUpstream(Reply.of_json(COMPLETION), Reply.of_events(STREAM), Reply(status=500)) as stub:
        settings = (
            "[plugins.openai_api]\n[plugins.route_models]\n[plugins.vendor_openai]\n[plugins.vendor_mock]\n"
            f"[plugins.metrics]\n[plugins.health]\n[plugins.auth_keys]\nkeys = ['{KEY}']\n[failover]\nretries = 0\n"
            f"[[models]]\nname = 'm'\nvendor = 'openai'\nbase_url = '{stub.url}'\n"
            "[[models]]\nname = 'mock'\nvendor = 'mock'\n"
        )
        headers = {"Authorization": f"Bearer {KEY}"}
        asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        mock = asked | {"model": "mock"}
        async with serving(settings) as served, aiohttp.ClientSession(served.url, headers=headers) as http:
            statuses = []
            with blockbuster_ctx("gatehook"):
                for body in (asked, asked | {"stream": True}, asked, mock, mock | {"stream": True}, {"model": 1}):
                    async with http.post("/v1/chat/completions", json=body) as answer:
                        await answer.read()
                        statuses.append(answer.status)
                for path in ("/v1/models", "/metrics", "/health", "/openapi.json", "/nowhere"):
                    async with http.get(path) as answer:
                        statuses.append(answer.status)
    assert statuses == [200, 200, 502, 200, 200, 400, 200, 200, 200, 200, 404]


async def test_a_blocking_call_would_be_seen() -> None:
    import time

    with blockbuster_ctx(), pytest.raises(BlockingError):
        time.sleep(0.001)  # noqa: ASYNC251  # the very thing
