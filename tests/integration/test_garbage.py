"""What a call leaves behind: nothing for the garbage collector, which comes late, and takes its time then."""

import contextlib
import gc
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from aiohttp import ClientSession

from gatehook import Call
from gatehook.testing import Reply, StubUpstream, serving

SAID = [{"role": "user", "content": "Hi"}]
PATHS: dict[str, Any] = {
    "/v1/chat/completions": {"messages": SAID},
    "/v1/messages": {"messages": SAID, "max_tokens": 9},
    "/v1/responses": {"input": "Hi"},
    "/v1/completions": {"prompt": "Hi"},
}
CHAT = {"id": "c", "object": "chat.completion", "created": 1, "model": "up"}
MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "up", "stop_sequence": None}
COUNTS = {"input_tokens": 1, "output_tokens": 1}
PARTS = {
    "candidates": [{"content": {"parts": [{"text": "Yes."}], "role": "model"}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2},
}


def events(*told: Any) -> Reply:
    framed = (b"event: %b\ndata: %b\n\n" % (one.get("type", "").encode(), json.dumps(one).encode()) for one in told)
    return Reply.of_events(b"".join(framed))


def openai(*, stream: bool) -> Reply:
    if not stream:
        choice = {"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}
        return Reply.of_json({**CHAT, "choices": [choice]})
    said = [{"index": 0, "delta": {"content": "Yes"}, "finish_reason": None} for _ in range(3)]
    choices = [*said, {"index": 0, "delta": {}, "finish_reason": "stop"}]
    return events(*({**CHAT, "object": "chat.completion.chunk", "choices": [choice]} for choice in choices))


def anthropic(*, stream: bool) -> Reply:
    text = {"type": "text", "text": "Yes."}
    if not stream:
        return Reply.of_json({**MESSAGE, "content": [text], "stop_reason": "end_turn", "usage": COUNTS})
    return events(
        {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None, "usage": COUNTS}},
        {"type": "content_block_start", "index": 0, "content_block": {**text, "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Yes."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": COUNTS},
        {"type": "message_stop"},
    )


def gemini(*, stream: bool) -> Reply:
    return events(PARTS) if stream else Reply.of_json(PARTS)


def failing(*, stream: bool) -> Reply:
    return Reply.of_json({"error": {"message": "out of order", "type": "server_error"}}, status=500)


@pytest.fixture
def front() -> Callable[..., AbstractAsyncContextManager[str]]:
    """`async with front("openai", reply) as url`: a gateway in front of this vendor, whose model is "m"."""

    @contextlib.asynccontextmanager
    async def opened(vendor: str, reply: Reply) -> AsyncIterator[str]:
        plugins = ("openai_api", "messages_api", "responses_api", "route_models", f"vendor_{vendor}")
        async with StubUpstream(reply) as stub:
            base = stub.url + ("/v1" if vendor == "openai" else "")
            model = (
                f'[[models]]\nname = "m"\nvendor = "{vendor}"\nbase_url = "{base}"\napi_key = "up-0123456789abcdef"\n'
            )
            switches = "".join(f"[plugins.{name}]\n" for name in plugins)
            async with serving(f"[server]\nport = 0\n[failover]\nretries = 0\n{switches}{model}") as served:
                yield served.url

    return opened


@contextlib.contextmanager
def collected() -> Iterator[list[Any]]:
    """The calls that only the garbage collector could remove, once the block has ended."""
    found: list[Any] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += [one for one in gc.garbage if isinstance(one, Call)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("answers", [openai, anthropic, gemini, failing])
async def test_a_call_is_gone_when_it_has_ended(
    front: Callable[..., AbstractAsyncContextManager[str]], answers: Callable[..., Reply], path: str, stream: bool
) -> None:
    vendor = "openai" if answers is failing else answers.__name__
    body = {"model": "m", "stream": stream, **PATHS[path]}
    async with front(vendor, answers(stream=stream)) as url, ClientSession(url) as session:

        async def ask() -> None:
            async with session.post(path, json=body) as answer:
                assert answer.status == (502 if answers is failing else 200)
                await answer.read()

        await ask()
        with collected() as left:
            for _ in range(3):
                await ask()
        assert left == []
