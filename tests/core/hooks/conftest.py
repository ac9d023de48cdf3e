"""What the tests of the hooks share: a vendor with a script, a client, an observer, and specimens of plugins."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientSession

from gatehook import (
    Attempt,
    Call,
    Chunk,
    Completion,
    Credential,
    Entry,
    GatewayError,
    Observer,
    Outcome,
    Principal,
    Section,
    StreamBuilder,
    Target,
    ToolCall,
    Usage,
    Verdict,
    completion,
    hookimpl,
)
from gatehook.app import Gateway
from gatehook.testing import serving

Part = Callable[[StreamBuilder], Chunk] | list[Callable[[StreamBuilder], Chunk]] | asyncio.Event | Exception


class Plain(Section):
    """[plugins.specimen]."""


class Plugin:
    """What every specimen shares."""

    Settings = Plain

    def __init__(self, settings: Plain) -> None: ...


def specimen(**hooks: Iterable[Any]) -> type:
    """A plugin class whose hooks return what is given."""

    def implementing(results: Iterable[Any]) -> Callable[..., Any]:
        def implementation(self: Plugin, gateway: Gateway) -> Iterable[Any]:
            return results

        return hookimpl(implementation)

    return type("Specimen", (Plugin,), {hook: implementing(results) for hook, results in hooks.items()})


def say(text: str) -> Part:
    return lambda answer: answer.text(text)


def finish(reason: str = "stop", index: int = 0) -> Part:
    return lambda answer: answer.finish(reason, index)


def spend(prompt: int, completed: int) -> Part:
    return lambda answer: answer.usage(Usage(prompt, completed))


class Vendor:
    """Plays one script over and over: what to stream, and the same joined into one message."""

    name = "specimen"
    operations = frozenset({"chat", "completions", "embeddings"})
    parameters: Mapping[str, Any] = {}

    def __init__(self, *script: Part, message: Mapping[str, Any] | None = None) -> None:
        self.script = script or (say("hel"), say("lo"), finish(), spend(3, 2))
        self.message = message or {"role": "assistant", "content": "hello"}
        self.attempts: list[Attempt] = []
        self.closed = asyncio.Event()
        self.called = asyncio.Event()

    async def complete(self, attempt: Attempt) -> Completion:
        self.attempts.append(attempt)
        self.called.set()
        for part in self.script:
            if isinstance(part, asyncio.Event):
                await part.wait()
            if isinstance(part, Exception):
                raise part
        choice = {"index": 0, "message": self.message, "finish_reason": "stop"}
        return completion(attempt.call, [choice], Usage(3, 2))

    async def stream(self, attempt: Attempt) -> AsyncIterator[Sequence[Chunk]]:
        self.attempts.append(attempt)
        self.called.set()
        answer = StreamBuilder(attempt.call)
        try:
            for part in self.script:
                if isinstance(part, asyncio.Event):
                    await part.wait()
                elif isinstance(part, Exception):
                    raise part
                else:
                    yield [one(answer) for one in (part if isinstance(part, list) else [part])]
        finally:
            self.closed.set()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """The stream's events; "[DONE]" as the word."""
        lines = [line.removeprefix(b"data: ") for line in self.body.split(b"\n\n") if line]
        return ["[DONE]" if line == b"[DONE]" else json.loads(line) for line in lines]

    @property
    def text(self) -> str:
        choices = [choice for event in self.events if event != "[DONE]" for choice in event.get("choices", ())]
        return "".join(choice.get("delta", {}).get("content") or "" for choice in choices)


@dataclass
class Client:
    """Talks to one gateway."""

    url: str
    session: ClientSession

    async def chat(self, headers: Mapping[str, str] | None = None, data: bytes | None = None, **fields: Any) -> Answer:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
        async with self.session.post(
            f"{self.url}/v1/chat/completions",
            data=data or json.dumps(body),
            headers={"Content-Type": "application/json", **(headers or {})},
        ) as response:
            content = b""
            with contextlib.suppress(Exception):  # a stream that was cut: what came before it counts
                async for part in response.content.iter_any():
                    content += part
            return Answer(response.status, response.headers, content)

    async def leave(self, vendor: Vendor, until: bytes = b"", **fields: Any) -> bytes:
        """Ask, read until `until` was read (or the vendor was called), and go away."""
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
        host, port = self.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        text = json.dumps(body).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(text), text))
        got = await reader.readuntil(until) if until else b""
        await vendor.called.wait()
        writer.close()
        await writer.wait_closed()
        return got


@contextlib.asynccontextmanager
async def client(vendor: Vendor | None = None, settings: str = "", /, **plugins: type) -> AsyncIterator[Client]:
    """A gateway with the model "m" at this vendor, and these plugins."""
    classes = plugins | {"vendor_specimen": specimen(register_vendors=[vendor or Vendor()])}
    names = [*classes, "openai_api", "route_models"]
    text = "".join(f"[plugins.{name}]\n" for name in names if f"[plugins.{name}]" not in settings)
    text += settings + '\n[[models]]\nname = "m"\nvendor = "specimen"\nmodel = "upstream-m"\n'
    text += "[failover]\nretries = 0\n" if "[failover]" not in settings else ""
    async with serving(text, plugins=classes) as served, ClientSession() as session:
        yield Client(served.url, session)


@dataclass
class Watching(Observer):
    """Notes every moment of every call."""

    moments: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def started(self, call: Call) -> None:
        self.moments.append(f"started {call.operation} {call.model or '-'}")

    def attempt_failed(self, call: Call, target: Target, error: GatewayError) -> None:
        self.moments.append(f"attempt_failed {target.key} {error.code}")

    def first_token(self, call: Call) -> None:
        self.moments.append("first_token")

    def chunk(self, call: Call, chunk: Chunk) -> None:
        self.moments.append("chunk")

    def finished(self, call: Call, outcome: Outcome) -> None:
        self.moments.append(f"finished {outcome.status} {outcome.http_status} {outcome.code}".rstrip())
        self.outcomes.append(outcome)
        self.over.set()


class Door:
    """Answers as told for each token, and notes what it was asked."""

    def __init__(self, **people: Principal | Exception) -> None:
        self.people = people
        self.asked: list[str] = []

    async def authenticate(self, credential: Credential) -> Principal | None:
        self.asked.append(credential.token)
        known = self.people.get(credential.token)
        if isinstance(known, Exception):
            raise known
        return known


@dataclass
class Gatekeeper:
    """A limiter, and the permit it gives."""

    name: str
    log: list[str]
    refuses: Exception | None = None
    header: str = ""
    permits: bool = True
    settling: asyncio.Event | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    fails: bool = False

    async def admit(self, call: Call) -> "Gatekeeper | None":
        self.log.append(f"admit {self.name} {call.model} {call.principal.id}")
        if self.header:
            call.answer_headers[self.header] = self.name
        if self.refuses is not None:
            raise self.refuses
        return self if self.permits else None

    async def settle(self, outcome: Outcome) -> None:
        if self.settling is not None:
            await self.settling.wait()
        self.log.append(f"settle {self.name}")
        self.outcomes.append(outcome)
        self.settled.set()
        if self.fails:
            raise RuntimeError("the ledger is away")


class PlainKeeper(Gatekeeper):
    """The same without a coroutine, unless it has to wait."""

    waits: bool = False

    def admit(self, call: Call) -> Any:
        admitting = super().admit(call)
        return admitting if self.waits else self._now(admitting)

    def settle(self, outcome: Outcome) -> Any:
        settling = super().settle(outcome)
        return settling if self.waits else self._now(settling)

    def _now(self, coroutine: Any) -> Any:
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("it waits")


def limiters(*keepers: Gatekeeper) -> dict[str, type]:
    return {keeper.name: specimen(register_limiters=[keeper]) for keeper in keepers}


class Guide:
    """A router for some names."""

    def __init__(self, **targets: list[Target] | None) -> None:
        self.targets = targets
        self.asked: list[str] = []

    async def route(self, call: Call) -> Sequence[Target] | None:
        self.asked.append(call.model)
        return self.targets.get(call.model)


def target(key: str, vendor: str = "specimen") -> Target:
    return Target(key=key, name="public", vendor=vendor, model=f"upstream-{key}")


async def watched(
    vendor: Vendor, headers: Mapping[str, str] | None = None, settings: str = "", **fields: Any
) -> tuple[Watching, Answer]:
    """One chat, and what an observer saw of it."""
    watch = Watching()
    door = Door(k=Principal("k"))
    plugins = {"w": specimen(register_observers=[watch]), "door": specimen(register_authenticators=[door])}
    async with client(vendor, settings, **plugins) as ask:
        answer = await ask.chat(headers if headers is not None else {"X-API-Key": "k"}, **fields)
        await watch.over.wait()
    return watch, answer


class Memory:
    """A cache that may be broken."""

    def __init__(self, broken: Exception | None = None) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.broken = broken
        self.keys: list[bytes] = []
        self.stored = asyncio.Event()

    async def get(self, key: bytes, call: Call) -> Entry | None:
        self.keys.append(key)
        if self.broken:
            raise self.broken
        return self.entries.get(key)

    async def put(self, key: bytes, call: Call, entry: Entry) -> None:
        if self.broken:
            raise self.broken
        self.entries[key] = entry
        self.stored.set()


class Policy:
    """Hides tools by name, and judges calls by name or by a word in their arguments."""

    def __init__(self, hides: Iterable[str] = (), **verdicts: str) -> None:
        self.hides = set(hides)
        self.verdicts = verdicts
        self.judged: list[ToolCall] = []
        self.broken: Exception | None = None

    async def offer(self, call: Call, tools: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        return [one for one in tools if (one.get("function") or one.get("custom") or {}).get("name") not in self.hides]

    async def judge(self, call: Call, tool_call: ToolCall) -> Verdict:
        self.judged.append(tool_call)
        if self.broken:
            raise self.broken
        for word, kind in self.verdicts.items():
            if word in tool_call.name or word in tool_call.arguments:
                return Verdict(kind, f"because of {word}")  # type: ignore[arg-type]
        return Verdict("allow")


def policies(*all_: Policy) -> dict[str, type]:
    return {f"p{place}": specimen(register_tool_policies=[one]) for place, one in enumerate(all_)}


@pytest.fixture
def kit() -> SimpleNamespace:
    """All of the above, for tests that cannot import it."""
    return SimpleNamespace(
        Answer=Answer,
        Client=Client,
        Door=Door,
        Gatekeeper=Gatekeeper,
        Guide=Guide,
        Memory=Memory,
        PlainKeeper=PlainKeeper,
        Policy=Policy,
        Vendor=Vendor,
        Watching=Watching,
        client=client,
        finish=finish,
        limiters=limiters,
        policies=policies,
        say=say,
        specimen=specimen,
        spend=spend,
        target=target,
        watched=watched,
    )
