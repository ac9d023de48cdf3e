"""Masked words in calls that somebody has to confirm: people see and run the client's words, the vendor never does."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from gatehook import Section, hookimpl
from gatehook.testing import Reply, StubUpstream, serving
from gatehook_guard import GuardPlugin

MAIL = "ann@example.org"
CALL = {
    "index": 0,
    "id": "call_1",
    "type": "function",
    "function": {"name": "post", "arguments": '{"to": "[EMAIL_1]"}'},
}
HEAD: dict[str, Any] = {"id": "x", "created": 1, "model": "m"}
SETTINGS = """
[database]
url = "sqlite:///{folder}/a.db"
[plugins.database]
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_openai]
[plugins.guard]
[plugins.tool_policy]
rules = [{{ tool = "post", verdict = "confirm" }}]
{more}
[[models]]
name = "m"
vendor = "openai"
base_url = "{url}/v1"
"""


def answer(**message: Any) -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return Reply.of_json({**HEAD, "object": "chat.completion", "choices": [choice]})


def stream(*deltas: dict[str, Any]) -> Reply:
    choices: list[Any] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    events = [json.dumps({**HEAD, "object": "chat.completion.chunk", "choices": [choice]}) for choice in choices]
    return Reply.of_events([f"data: {event}\n\n".encode() for event in (*events, "[DONE]")])


class Post:
    """A tool of the gateway's own."""

    name, description = "post", "Sends a message."

    def __init__(self) -> None:
        self.parameters = {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}
        self.sent: list[Any] = []

    async def run(self, call: Any, arguments: Any) -> str:
        self.sent.append(dict(arguments))
        return f"sent to {MAIL}"


@asynccontextmanager
async def gateway(folder: Path, *replies: Reply, post: Post | None = None) -> AsyncIterator[Any]:
    """Asks a gateway (a path, a body), and gives the answer's objects; and the vendor."""

    class Own:
        class Settings(Section):
            """[plugins.own]."""

        def __init__(self, settings: Settings) -> None: ...

        @hookimpl
        def register_tools(self, gateway: Any) -> Any:
            return [post]

    async with StubUpstream(*replies) as stub, ClientSession() as session:
        settings = SETTINGS.format(folder=folder, url=stub.url, more="[plugins.own]" if post else "")
        async with serving(settings, plugins={"guard": GuardPlugin, **({"own": Own} if post else {})}) as served:

            async def ask(path: str, body: Any) -> list[Any]:
                async with session.post(served.url + path, json=body) as got:
                    text = await got.text()
                    assert got.status == 200, text
                if not body["stream"]:
                    return [json.loads(text)]
                return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]

            yield ask, stub


def asked(streams: bool, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": f"Write to {MAIL}"}], "stream": streams, **more}


def question(events: list[Any]) -> Any:
    return next(event for event in events if "session_id" in event)


def said(events: list[Any]) -> str:
    parts = [choice.get("delta") or choice.get("message") or {} for event in events for choice in event["choices"]]
    return "".join(part.get("content") or "" for part in parts)


@pytest.mark.parametrize("streams", [False, True])
async def test_a_confirmed_tool_of_the_gateway_gets_the_client_s_words_and_the_vendor_none(
    streams: bool, tmp_path: Path
) -> None:
    post = Post()
    calls = {"content": "To [EMAIL_1].", "tool_calls": [CALL]}
    end = {"content": "Told [EMAIL_1]."}
    replies = [stream(calls), stream(end)] if streams else [answer(**calls), answer(**end)]
    async with gateway(tmp_path, *replies, post=post) as (ask, stub):
        first = await ask("/v1/chat/completions", asked(streams))
        pending = question(first)
        assert said(first) == f"To {MAIL}."
        assert json.loads(pending["pending_tool_calls"][0]["function"]["arguments"]) == {"to": MAIL}
        assert post.sent == []
        confirmed = {"session_id": pending["session_id"], "approved_ids": ["call_1"], "stream": streams}
        last = await ask("/v1/tools/confirm", confirmed)
        assert said(last) == f"Told {MAIL}."
        assert post.sent == [{"to": MAIL}]
        for request in stub.requests:
            assert MAIL not in request.body.decode()


@pytest.mark.parametrize("streams", [False, True])
async def test_a_confirmed_tool_of_the_client_gets_its_own_words_back(streams: bool, tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "post", "parameters": {"type": "object"}}}
    calls = {"content": None, "tool_calls": [CALL]}
    async with gateway(tmp_path, stream(calls) if streams else answer(**calls)) as (ask, stub):
        pending = question(await ask("/v1/chat/completions", asked(streams, tools=[tool])))
        assert json.loads(pending["pending_tool_calls"][0]["function"]["arguments"]) == {"to": MAIL}
        confirmed = {"session_id": pending["session_id"], "approved_ids": ["call_1"], "stream": streams}
        (choice,) = [one for event in await ask("/v1/tools/confirm", confirmed) for one in event["choices"]][:1]
        (made,) = (choice.get("delta") or choice["message"])["tool_calls"]
        assert json.loads(made["function"]["arguments"]) == {"to": MAIL}
        assert len(stub.requests) == 1
        assert MAIL not in stub.requests[0].body.decode()
