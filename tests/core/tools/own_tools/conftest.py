"""What the tests of the gateway's own tools share: tools that note their runs, and a gateway that offers them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientSession

from gatehook import Call, Observer, Outcome, Section, hookimpl
from gatehook.testing import Reply, Served, StubUpstream, serving

QUERY = {"type": "object", "properties": {"q": {"type": "string", "pattern": "^[a-z ]*$"}}, "required": ["q"]}


@dataclass
class Noting:
    """A tool that notes with what it was run, and does as it is told."""

    name: str = "search"
    does: Callable[[Mapping[str, Any]], Awaitable[str]] | str | BaseException = "found"
    parameters: Mapping[str, Any] = field(default_factory=lambda: QUERY)
    description: str = "Searches."
    runs: list[Mapping[str, Any]] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, call: Call, arguments: Mapping[str, Any]) -> str:
        self.runs.append(arguments)
        self.started.set()
        if isinstance(self.does, str):
            return self.does
        if isinstance(self.does, BaseException):
            raise self.does
        try:
            return await self.does(arguments)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class Watching(Observer):
    """Keeps how calls ended."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.over = asyncio.Event()

    def finished(self, call: Call, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.over.set()


class Plain(Section):
    """[plugins.NAME]."""


def plugin(**hooks: Iterable[Any]) -> type:
    """A plugin whose hooks return what is given."""

    def implementing(results: Iterable[Any]) -> Callable[..., Any]:
        def implementation(self: Any, gateway: Any) -> Iterable[Any]:
            return results

        return hookimpl(implementation)

    def __init__(self: Any, settings: Plain) -> None: ...  # noqa: N807

    members = {hook: implementing(results) for hook, results in hooks.items()}
    return type("Specimen", (), {"Settings": Plain, "__init__": __init__, **members})


def calls(*named: str, text: str | None = None, reason: str = "tool_calls", **arguments: Any) -> Reply:
    """A plain answer that calls these tools, all with the same arguments; ids are call_1, call_2, …"""
    written = json.dumps(arguments or {"q": "tea"})
    wanted = [
        {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": written}}
        for number, name in enumerate(named, 1)
    ]
    return answers({"role": "assistant", "content": text, "tool_calls": wanted}, reason)


def answers(message: Mapping[str, Any] | str, reason: str = "stop", *, spent: tuple[int, int] = (10, 5)) -> Reply:
    """A plain answer."""
    if isinstance(message, str):
        message = {"role": "assistant", "content": message}
    usage = {"prompt_tokens": spent[0], "completion_tokens": spent[1], "total_tokens": sum(spent)}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return Reply.of_json({"id": "x", "object": "chat.completion", "created": 1, "choices": [choice], "usage": usage})


def streams(
    *deltas: Mapping[str, Any] | str, reason: str = "stop", id: str = "x", tells_usage: bool = True, **rest: Any
) -> Reply:
    """A streamed answer, one event in each piece; a delta, or just its text. It ends with its usage."""
    head = {"id": id, "object": "chat.completion.chunk", "created": 1, "model": "up"}
    events: list[Any] = []
    for delta in [{"role": "assistant"}, *deltas]:
        said = {"content": delta} if isinstance(delta, str) else delta
        events.append({**head, "choices": [{"index": 0, "delta": said, "finish_reason": None}]})
    events.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    events += [{**head, "choices": [], "usage": usage}] if tells_usage else []
    return Reply.of_events(
        [b"data: %b\n\n" % json.dumps(one).encode() for one in events] + [b"data: [DONE]\n\n"], **rest
    )


def begins(name: str, index: int = 0, arguments: str = "") -> Mapping[str, Any]:
    """The delta that begins a tool call."""
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"index": index, "id": f"call_{index + 1}", "type": "function", "function": function}]}


def more(arguments: str, index: int = 0) -> Mapping[str, Any]:
    """The delta that goes on with one."""
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}


@dataclass
class Asking:
    """A gateway whose model "m" is at a stub, and a client of it."""

    served: Served
    stub: StubUpstream
    session: ClientSession
    watching: Watching

    async def chat(self, status: int = 200, **fields: Any) -> Any:
        """The answer to one request, decoded."""
        async with self.post(**fields) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json()

    async def stream(self, **fields: Any) -> list[Any]:
        """The events of one stream; "[DONE]" as the word."""
        async with self.post(stream=True, **fields) as answer:
            assert answer.status == 200, await answer.text()
            body = b""
            with contextlib.suppress(Exception):  # a stream that was cut: what came before it counts
                async for part in answer.content.iter_any():
                    body += part
        lines = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line.startswith(b"data: ")]
        return ["[DONE]" if line == b"[DONE]" else json.loads(line) for line in lines]

    def post(self, **fields: Any) -> Any:
        """One request, as aiohttp's context manager."""
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
        return self.session.post(f"{self.served.url}/v1/chat/completions", json=body)

    def sent(self, number: int) -> Any:
        """What the vendor was sent, counted from 0."""
        return self.stub.requests[number].json


@contextlib.asynccontextmanager
async def asking(
    *replies: Reply, tools: Sequence[Any] = (), settings: str = "", options: str = "", **plugins: type
) -> AsyncIterator[Asking]:
    """A gateway with these tools, whose vendor gives these replies."""
    watching = Watching()
    classes = {"own": plugin(register_tools=tools), "watch": plugin(register_observers=[watching]), **plugins}
    names = [*classes, "openai_api", "route_models", "vendor_openai"]
    async with StubUpstream(*replies) as stub, ClientSession() as session:
        text = "".join(f"[plugins.{name}]\n" for name in names) + settings
        text += f'\n[[models]]\nname = "m"\nvendor = "openai"\nbase_url = "{stub.url}"\n{options}\n'
        if "[failover]" not in text:
            text += "[failover]\nretries = 0\n"
        async with serving(text, plugins=classes) as served:
            yield Asking(served, stub, session, watching)


@pytest.fixture
def kit() -> SimpleNamespace:
    """All of the above, for tests that cannot import it."""
    return SimpleNamespace(
        asking=asking,
        calls=calls,
        answers=answers,
        streams=streams,
        begins=begins,
        more=more,
        plugin=plugin,
        Noting=Noting,
    )
