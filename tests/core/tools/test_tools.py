"""The kernel's side of tool policies that ask, or have the model try again: whoever writes such a policy."""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ClientSession

from gatehook import Call, Question, Section, ToolCall, ToolPolicy, Verdict, confirmation_of, hookimpl
from gatehook.testing import serving

SETTINGS = """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.cache]
[plugins.changing]
[[models]]
name = "m"
vendor = "mock"
options = { script = [
    { text = "One.", tool_calls = [{ name = "f", id = "a" }] },
    { text = "Two." },
    { text = "Three.", tool_calls = [{ name = "f", id = "a" }] },
] }
"""
TOOLS = [{"type": "function", "function": {"name": "f"}}]


class Changing:
    """A policy of a third party; its verdict is what the test says."""

    kind: Any = "allow"

    def __init__(self) -> None:
        self.asked: list[Question] = []

    async def offer(self, call: Call, tools: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        return tools

    async def judge(self, call: Call, tool_call: ToolCall) -> Verdict:
        return Verdict(self.kind, "it was wrong")

    async def ask(self, call: Call, question: Question) -> Mapping[str, Any]:
        self.asked.append(question)
        return {"session_id": "of a third party"}


@pytest.fixture
def policy() -> Changing:
    return Changing()


@pytest.fixture
def plugin(policy: Changing) -> type:
    class Plugin:
        class Settings(Section): ...

        def __init__(self, settings: Settings) -> None: ...

        @hookimpl
        def register_tool_policies(self) -> Iterable[ToolPolicy]:
            return [policy]

    return Plugin


async def chat(http: ClientSession, url: str, *, stream: bool) -> tuple[str | None, str, Any]:
    """How the cache marked the answer, what it said, and what it asks."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": TOOLS, "stream": stream}
    async with http.post(f"{url}/v1/chat/completions", json=body) as response:
        raw = await response.read()
        marked = response.headers.get("X-Cache")
    if not stream:
        whole = json.loads(raw)
        return marked, whole["choices"][0]["message"]["content"], confirmation_of(whole)
    events = [json.loads(one.removeprefix("data: ")) for one in raw.decode().split("\n\n")[:-2]]
    said = "".join(choice["delta"].get("content") or "" for one in events for choice in one["choices"])
    return marked, said, next((asked for one in events if (asked := confirmation_of(one))), {})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stored_answer_is_judged_by_the_policy_of_the_moment(
    policy: Changing, plugin: type, stream: bool
) -> None:
    async with serving(SETTINGS, plugins={"changing": plugin}) as at, ClientSession() as http:
        assert await chat(http, at.url, stream=stream) == ("miss", "One.", {})
        assert await chat(http, at.url, stream=stream) == ("hit", "One.", {})
        policy.kind = "confirm"
        marked, said, asked = await chat(http, at.url, stream=stream)
        assert (marked, said, asked["session_id"]) == ("hit", "One.", "of a third party")
        assert [one["id"] for one in asked["pending_tool_calls"]] == ["a"]
        assert policy.asked[0].message["content"] == "One."
        policy.kind = "retry"
        marked, said, asked = await chat(http, at.url, stream=stream)
        assert (marked, said, asked) == ("miss", "Two.", {})
        policy.kind = "allow"  # what was stored is there still, and what was said in a later round is not
        assert await chat(http, at.url, stream=stream) == ("hit", "One.", {})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_policy_that_never_is_content_does_not_go_on_for_ever(
    policy: Changing, plugin: type, stream: bool
) -> None:
    policy.kind = "retry"
    calls = SETTINGS.replace('    { text = "Two." },\n', "")
    async with serving(calls, plugins={"changing": plugin}) as at, ClientSession() as http:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": TOOLS, "stream": stream}
        async with http.post(f"{at.url}/v1/chat/completions", json=body) as response:
            got = b""
            with contextlib.suppress(ClientPayloadError):  # a stream that ends with an error is cut
                async for piece in response.content.iter_any():
                    got += piece
    assert b"is wrong, and the model cannot be told: it was wrong" in got
    assert b'"tool_call_denied"' in got
