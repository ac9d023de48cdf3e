"""`stream_options.include_usage` at vendors that tell nothing of what they used."""

import json
from typing import Any

import aiohttp
import pytest

from gatehook.testing import Reply, StubUpstream, serving

SETTINGS = """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.vendor_openai]
[plugins.cache]
"""
MOCK = SETTINGS + '[[models]]\nname = "m"\nvendor = "mock"\noptions = { text = "a b c", report_usage = false }\n'
MESSAGES = [{"role": "user", "content": "Hello!"}]


async def streamed(url: str, path: str = "chat/completions", **body: Any) -> list[dict[str, Any]]:
    """The events of an answer that has all of them, [DONE] included."""
    body = {"model": "m", "stream": True, **body}
    async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/{path}", json=body) as answer:
        events = (await answer.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


@pytest.mark.parametrize(
    ("path", "prompt"), [("chat/completions", {"messages": MESSAGES}), ("completions", {"prompt": "Hello!"})]
)
async def test_what_is_counted_is_told_in_an_event_of_its_own(path: str, prompt: Any) -> None:
    async with serving(MOCK) as served:
        first, *_, last = await streamed(served.url, path, **prompt, stream_options={"include_usage": True})
    usage = last.pop("usage")
    assert last.pop("choices") == []
    assert last == {name: value for name, value in first.items() if name in last}
    assert {"id", "object", "created", "model"} <= last.keys()
    assert usage["completion_tokens"] == 3
    assert usage["prompt_tokens"] + 3 == usage["total_tokens"] > 3
    assert usage["estimated"] is True


async def test_a_server_that_knows_no_stream_options_is_no_exception() -> None:
    """It says neither an id, nor when it answered: all events have the same all the same."""
    chunks = [{"choices": [{"delta": {"content": "Hi"}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]}]
    body = b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"
    async with StubUpstream(Reply.of_events(body)) as upstream:
        model = f'[[models]]\nname = "m"\nvendor = "openai"\nbase_url = "{upstream.url}"\n'
        async with serving(SETTINGS + model) as served:
            events = await streamed(served.url, messages=MESSAGES, stream_options={"include_usage": True})
    assert [event["choices"] for event in events].index([]) == 2 == len(events) - 1
    assert events[2]["usage"]["completion_tokens"] == 1
    assert len({(event["id"], event["created"], event["model"], event["object"]) for event in events}) == 1


async def test_a_cached_stream_tells_it_again() -> None:
    async with serving(MOCK) as served:
        asked: dict[str, Any] = {"messages": MESSAGES, "stream_options": {"include_usage": True}}
        events = [await streamed(served.url, **asked) for _ in range(2)]
    assert events[0] == events[1]
    assert events[0][-1]["usage"]


@pytest.mark.parametrize("options", [None, {"include_usage": False}])
async def test_who_does_not_ask_is_not_told(options: Any) -> None:
    async with serving(MOCK) as served:
        events = await streamed(served.url, messages=MESSAGES, stream_options=options)
    assert all(event["choices"] and "usage" not in event for event in events)
