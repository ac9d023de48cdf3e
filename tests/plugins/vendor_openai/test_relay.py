"""What goes past the batches; that it is the same to the client, every stream of the other tests shows (`stream`)."""

from collections.abc import Callable
from typing import Any

from gatehook.testing import Replay, ReplayEgress, attempt
from gatehook_plugins.vendor_openai.vendor import OpenAIVendor

Make = Callable[..., Any]


async def test_only_what_adds_a_text_is_relayed(event: Make, sse: Make) -> None:
    said = [
        sse(event({"role": "assistant", "content": ""}), done=False),
        sse(event({"content": "A"}), done=False),
        sse(event({"content": "B"}), done=False),
        sse(event({"content": "C"}), event({"content": ""}), event({"content": "D"}), done=False),
        b": a comment\n\n",
        sse(event({"content": "E"}), b'data: {"id":', done=False),
        b'"chatcmpl-up"}\n\n',
        sse(event({"content": "F"}), event({}, "stop"), done=False),
        sse(event({"content": "late"})),
    ]
    relayed: list[tuple[bytes, int]] = []

    def relay(data: bytes, contents: int) -> bool:
        relayed.append((data, contents))
        return contents == 1

    one = attempt({"model": "public", "stream": True})
    yielded: list[bytes] = []
    async for batch in OpenAIVendor(ReplayEgress(Replay(said, content_type="text/event-stream"))).stream(one):
        one.relay = relay
        yielded.append(b"".join(chunk.data["choices"][0]["delta"].get("content", "").encode() for chunk in batch))
    assert [(data.count(b"data: "), contents) for data, contents in relayed] == [(1, 1), (3, 2)]
    assert b'"content":"B"' in relayed[0][0]
    assert b"".join(yielded) == b"ACDEFlate"
