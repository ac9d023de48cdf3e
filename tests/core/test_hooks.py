"""What each hook promises about a request, shown end to end: served gateways with specimen plugins on real sockets.

Routes, services, lifespans, vendors and commands are in test_app.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import ClientSession

from gatehook import (
    Attempt,
    AuthenticationFailed,
    Call,
    Chunk,
    Completion,
    Credential,
    Entry,
    GatewayError,
    Observer,
    Outcome,
    Principal,
    RateLimited,
    Retry,
    Section,
    StreamBuilder,
    Target,
    ToolCall,
    UpstreamError,
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


def tool(name: str, arguments: str = "{}", id: str = "call_1", index: int = 0) -> Part:
    return lambda answer: answer.tool_call(id, name, arguments, index)


def more(arguments: str, index: int = 0) -> Part:
    return lambda answer: answer.tool_arguments(arguments, index)


def finish(reason: str = "stop", index: int = 0) -> Part:
    return lambda answer: answer.finish(reason, index)


def spend(prompt: int, completed: int) -> Part:
    return lambda answer: answer.usage(Usage(prompt, completed))


def raw(chunk: dict[str, Any], **flags: Any) -> Part:
    """A chunk as a vendor of the same dialect passes it on."""
    return lambda answer: Chunk({"id": "x", "object": "chat.completion.chunk", **chunk}, **flags)


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


# --- authenticators ------------------------------------------------------------------------------------------------


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


async def test_hook_register_authenticators_none_means_not_mine_and_the_first_that_answers_decides() -> None:
    first, second = Door(ann=Principal("ann")), Door(ann=Principal("other"), bob=Principal("bob"))
    seen: list[str] = []

    class Seeing(Observer):
        def finished(self, call: Call, outcome: Outcome) -> None:
            seen.append(call.principal.id)

    doors = {"a": specimen(register_authenticators=[first]), "b": specimen(register_authenticators=[second])}
    async with client(**doors, see=specimen(register_observers=[Seeing()])) as ask:
        assert (await ask.chat({"X-API-Key": "ann"})).status == 200
        assert (await ask.chat({"X-API-Key": "bob"})).status == 200
    assert seen == ["ann", "bob"]
    assert (first.asked, second.asked) == (["ann", "bob"], ["bob"])


async def test_hook_register_authenticators_are_asked_in_the_operator_s_order() -> None:
    plugins = {
        name: specimen(register_authenticators=[Door(key=Principal(name, models=frozenset({name})))]) for name in "ab"
    }
    async with client(None, "[plugins.a]\norder = 1\n", **plugins) as ask:
        answer = await ask.chat({"X-API-Key": "key"}, model="a")
    assert answer.status == 403  # "b" was asked first, and its principal may only use "b"


async def test_hook_register_authenticators_a_failure_ends_it_at_once() -> None:
    first, second = Door(ann=AuthenticationFailed("revoked last week")), Door(ann=Principal("ann"))
    doors = {"a": specimen(register_authenticators=[first]), "b": specimen(register_authenticators=[second])}
    async with client(**doors) as ask:
        answer = await ask.chat({"X-API-Key": "ann"})
    assert (answer.status, second.asked) == (401, [])
    assert answer.error["message"] == "revoked last week"


@pytest.mark.parametrize(("headers", "says"), [({}, "no API key given"), ({"X-API-Key": "eve"}, "is not valid")])
async def test_hook_register_authenticators_nobody_s_credential_is_a_401_in_the_surface_s_shape(
    headers: dict[str, str], says: str
) -> None:
    vendor = Vendor()
    async with client(vendor, door=specimen(register_authenticators=[Door()])) as ask:
        answer = await ask.chat(headers)
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert says in answer.error["message"]
    assert sorted(answer.error) == ["code", "message", "param", "type"]
    assert (answer.error["type"], answer.error["param"]) == ("authentication_error", None)
    assert answer.error["code"] == "invalid_api_key"
    assert answer.headers["X-Request-ID"].startswith("req_")
    assert vendor.attempts == []


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"Authorization": "Bearer k1"}, "k1"),
        ({"authorization": "bEaReR   k1 "}, "k1"),
        ({"x-api-key": " k1 "}, "k1"),
        ({"Authorization": "Bearer k1", "X-API-Key": "k2"}, "k1"),
        ({"Authorization": "Basic dTpw", "X-API-Key": "k2"}, "k2"),
        ({"Authorization": "Basic dTpw"}, ""),
        ({"Authorization": "Bearer", "X-API-Key": "k2"}, "k2"),
        ({"Authorization": "k1"}, ""),
    ],
)
async def test_a_credential_s_token_is_the_bearer_or_the_api_key(headers: dict[str, str], token: str) -> None:
    door = Door()
    async with client(door=specimen(register_authenticators=[door])) as ask:
        await ask.chat(headers)
    assert door.asked == [token]


async def test_nothing_of_the_body_is_looked_at_before_the_caller_is_known() -> None:
    async with client(door=specimen(register_authenticators=[Door()])) as ask:
        assert (await ask.chat(data=b"{ this is no JSON")).status == 401


async def test_a_principal_s_models_are_all_it_may_use_and_see() -> None:
    door = Door(few=Principal("few", models=frozenset({"other"})), all=Principal("all"))
    async with client(door=specimen(register_authenticators=[door])) as ask:
        refused = await ask.chat({"X-API-Key": "few"})
        assert (await ask.chat({"X-API-Key": "all"})).status == 200
        async with ask.session.get(f"{ask.url}/v1/models", headers={"X-API-Key": "few"}) as response:
            assert (await response.json())["data"] == []
    assert refused.status == 403
    assert refused.error["code"] == "model_not_allowed"


@pytest.mark.parametrize("broken", [RuntimeError("dsn=postgres://secret"), ConnectionRefusedError("secret")])
async def test_an_authenticator_that_breaks_lets_nobody_in_and_tells_no_secret(broken: Exception) -> None:
    vendor, watch = Vendor(), Watching()
    plugins = {"door": specimen(register_authenticators=[Door(ann=broken)]), "w": specimen(register_observers=[watch])}
    async with client(vendor, **plugins) as ask:
        answer = await ask.chat({"X-API-Key": "ann"})
    assert (answer.status, vendor.attempts) == (500, [])
    assert b"secret" not in answer.body
    assert watch.moments[-1] == "finished rejected 500 server_error"


# --- limiters ------------------------------------------------------------------------------------------------------


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


def limiters(*keepers: Gatekeeper) -> dict[str, type]:
    return {keeper.name: specimen(register_limiters=[keeper]) for keeper in keepers}


async def test_hook_register_limiters_all_must_admit_and_are_settled_once_in_reverse() -> None:
    log: list[str] = []
    one, two, three = Gatekeeper("a", log), Gatekeeper("b", log, permits=False), Gatekeeper("c", log)
    async with client(**limiters(one, two, three)) as ask:
        assert (await ask.chat()).status == 200
        await one.settled.wait()
    assert log == ["admit a m anonymous", "admit b m anonymous", "admit c m anonymous", "settle c", "settle a"]
    (outcome,) = one.outcomes
    assert (outcome.status, outcome.http_status, outcome.code) == ("complete", 200, "")
    assert outcome.usage == Usage(3, 2)
    assert outcome.duration > 0
    assert outcome.first_token is None


async def test_hook_register_limiters_a_refusal_is_429_with_retry_after_and_settles_those_before() -> None:
    log: list[str] = []
    refusing = Gatekeeper("b", log, refuses=RateLimited("60 requests a minute", retry_after=1.01))
    one, vendor = Gatekeeper("a", log), Vendor()
    async with client(vendor, **limiters(one, refusing, Gatekeeper("c", log))) as ask:
        answer = await ask.chat(stream=True)
        await one.settled.wait()
    assert (answer.status, answer.headers["Retry-After"]) == (429, "2")
    assert answer.error == {
        "message": "60 requests a minute",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert log == ["admit a m anonymous", "admit b m anonymous", "settle a"]
    (outcome,) = one.outcomes
    assert (outcome.status, outcome.http_status, outcome.code) == ("rejected", 429, "rate_limit_exceeded")
    assert outcome.usage is None
    assert vendor.attempts == []


@pytest.mark.parametrize("broken", [RuntimeError("boom"), ConnectionResetError("redis went away")])
async def test_hook_register_limiters_one_that_breaks_refuses_and_settles_those_before(broken: Exception) -> None:
    one = Gatekeeper("a", [])
    async with client(**limiters(one, Gatekeeper("b", [], refuses=broken))) as ask:
        answer = await ask.chat()
        await one.settled.wait()
    assert answer.status == 500
    assert one.outcomes[0].status == "rejected"


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


@pytest.mark.parametrize("waits", [(), (0,), (1,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("fails", [(), (0,), (1, 2), (0, 1, 2)])
async def test_hook_register_limiters_may_be_plain_and_are_settled_once_in_reverse_all_the_same(
    waits: Sequence[int], fails: Sequence[int]
) -> None:
    log: list[str] = []
    keepers = [PlainKeeper(name, log, fails=place in fails) for place, name in enumerate("abc")]
    for place in waits:
        keepers[place].waits = True
    async with client(**limiters(*keepers)) as ask:
        assert (await ask.chat()).status == 200
        await keepers[0].settled.wait()
    assert log == [*(f"admit {name} m anonymous" for name in "abc"), "settle c", "settle b", "settle a"]
    assert [[outcome.status for outcome in keeper.outcomes] for keeper in keepers] == [["complete"]] * 3


async def test_hook_register_limiters_plain_ones_are_settled_when_a_later_one_refuses() -> None:
    log: list[str] = []
    one, two = PlainKeeper("a", log), PlainKeeper("b", log, refuses=RateLimited("no"))
    async with client(**limiters(one, two)) as ask:
        assert (await ask.chat()).status == 429
    assert log == ["admit a m anonymous", "admit b m anonymous", "settle a"]
    assert [outcome.status for outcome in one.outcomes] == ["rejected"]


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_limiters_lines_are_on_every_answer(stream: bool) -> None:
    class Lines:
        def admit(self, call: Call) -> None:
            call.answer_lines += "X-RateLimit-Limit: 5\r\nX-RateLimit-Remaining: 4\r\n"
            call.answer_headers["X-Other"] = "more"

    async with client(k=specimen(register_limiters=[Lines()])) as ask:
        for answer in (await ask.chat(stream=stream), await ask.chat(model="unknown", stream=stream)):
            told = [answer.headers[name] for name in ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-Other")]
            assert told == ["5", "4", "more"]


async def test_hook_register_limiters_headers_are_on_every_answer() -> None:
    async with client(**limiters(Gatekeeper("a", [], header="X-RateLimit-Limit"))) as ask:
        for answer in (await ask.chat(), await ask.chat(stream=True), await ask.chat(model="unknown")):
            assert answer.headers["X-RateLimit-Limit"] == "a"
    refusing = Gatekeeper("a", [], header="X-RateLimit-Limit", refuses=RateLimited("no"))
    async with client(**limiters(refusing)) as ask:
        assert (await ask.chat()).headers["X-RateLimit-Limit"] == "a"


async def test_hook_register_limiters_a_permit_that_cannot_be_settled_harms_neither_the_call_nor_the_others() -> None:
    one, two = Gatekeeper("a", []), Gatekeeper("b", [], fails=True)
    async with client(**limiters(one, two)) as ask:
        assert (await ask.chat()).status == 200
        await one.settled.wait()
    assert len(two.outcomes) == 1


async def test_hook_register_limiters_are_settled_when_the_client_leaves_a_stream() -> None:
    vendor, one = Vendor(say("hel"), asyncio.Event(), finish()), Gatekeeper("a", [])
    async with client(vendor, **limiters(one)) as ask:
        await ask.leave(vendor, b"hel", stream=True)
        await one.settled.wait()
        await vendor.closed.wait()
    (outcome,) = one.outcomes
    assert (outcome.status, outcome.http_status, outcome.code) == ("partial", 499, "client_left")
    assert outcome.usage is not None
    assert (outcome.usage.completion_tokens, outcome.usage.estimated) == (1, True)
    assert outcome.first_token is not None


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_limiters_are_settled_when_the_client_leaves_before_any_answer(stream: bool) -> None:
    vendor, one = Vendor(asyncio.Event(), say("late"), finish()), Gatekeeper("a", [])
    async with client(vendor, **limiters(one)) as ask:
        await ask.leave(vendor, stream=stream)
        await one.settled.wait()
    assert [(o.status, o.http_status, o.code) for o in one.outcomes] == [("failed", 499, "client_left")]


async def test_hook_register_limiters_a_slow_settlement_is_brought_to_its_end_though_the_client_left() -> None:
    vendor, one, two = Vendor(say("hel"), asyncio.Event()), Gatekeeper("a", []), Gatekeeper("b", [])
    two.settling = asyncio.Event()
    async with client(vendor, **limiters(one, two)) as ask:
        await ask.leave(vendor, b"hel", stream=True)
        await vendor.closed.wait()
        two.settling.set()
        await one.settled.wait()
    assert (len(one.outcomes), len(two.outcomes)) == (1, 1)


async def test_hook_register_limiters_are_settled_before_the_gateway_s_lifespans_end() -> None:
    log: list[str] = []
    one = Gatekeeper("a", log, settling=asyncio.Event())
    vendor = Vendor(say("hel"), asyncio.Event())

    @contextlib.asynccontextmanager
    async def database() -> AsyncIterator[None]:
        yield
        log.append("closed")

    plugins = {"a": specimen(register_limiters=[one], register_lifespans=[database])}
    async with client(vendor, **plugins) as ask:
        await ask.leave(vendor, b"hel", stream=True)
        await vendor.closed.wait()
        assert one.settling is not None
        asyncio.get_running_loop().call_later(0.3, one.settling.set)
    assert log == ["admit a m anonymous", "settle a", "closed"]


class Doorkeeper:
    """A limiter that looks at deployments."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.log: list[str] = []

    async def admit(self, call: Call) -> None:
        self.log.append("admit")

    async def admit_attempt(self, call: Call, target: Target) -> "Slot":
        if target.key in self.refused:
            raise RateLimited(f"{target.key} is full", retry=Retry.NEXT, retry_after=7)
        self.log.append(f"take {target.key}")
        return Slot(self.log, target.key)


class Slot:
    def __init__(self, log: list[str], key: str) -> None:
        self.log, self.key = log, key

    def settle(self, outcome: Outcome) -> None:
        self.log.append(f"settle {self.key} {outcome.status} {outcome.code}".rstrip())


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_limiters_may_send_an_attempt_on_to_the_next_deployment(stream: bool) -> None:
    keeper, vendor = Doorkeeper("one"), Vendor()
    guide = Guide(x=[target("one"), target("two")])
    plugins = {"k": specimen(register_limiters=[keeper]), "r": specimen(register_routers=[guide])}
    async with client(vendor, **plugins) as ask:
        answer = await ask.chat(model="x", stream=stream)
    assert answer.headers["X-Gatehook-Deployment"] == "two"
    assert [attempt.target.key for attempt in vendor.attempts] == ["two"]
    assert keeper.log == ["admit", "take two", "settle two complete"]


async def test_hook_register_limiters_when_every_deployment_is_full_nothing_was_tried() -> None:
    keeper, vendor, watch = Doorkeeper("one", "two"), Vendor(), Watching()
    guide = Guide(x=[target("one"), target("two")])
    plugins = {"k": specimen(register_limiters=[keeper]), "r": specimen(register_routers=[guide])}
    async with client(vendor, **plugins, w=specimen(register_observers=[watch])) as ask:
        answer = await ask.chat(model="x")
    assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
    assert answer.error["message"] == "one is full"
    assert "X-Gatehook-Deployment" not in answer.headers
    assert [outcome.status for outcome in watch.outcomes] == ["rejected"]
    assert vendor.attempts == []


async def test_hook_register_limiters_what_an_attempt_reserved_is_settled_when_it_fails() -> None:
    keeper, vendor = Doorkeeper("three"), Vendor(UpstreamError("out of order", retry=Retry.NEXT))
    guide = Guide(x=[target("one"), target("two"), target("three")])
    plugins = {"k": specimen(register_limiters=[keeper]), "r": specimen(register_routers=[guide])}
    async with client(vendor, **plugins) as ask:
        answer = await ask.chat(model="x")
    assert (answer.status, answer.error["message"]) == (502, "out of order")  # not that the last one was full
    assert keeper.log == [
        "admit",
        "take one",
        "settle one failed upstream_error",
        "take two",
        "settle two failed upstream_error",
    ]


async def test_hook_register_limiters_a_permit_that_never_waits_is_settled_without_a_task() -> None:
    tasks: list[object] = []

    class Immediate:
        async def admit(self, call: Call) -> "Immediate":
            tasks.append(asyncio.current_task())
            return self

        def settle(self, outcome: Outcome) -> None:
            tasks.append(asyncio.current_task())

    async with client(k=specimen(register_limiters=[Immediate()])) as ask:
        assert (await ask.chat()).status == 200
    assert len(tasks) == 2
    assert tasks[0] is tasks[1]


# --- routers -------------------------------------------------------------------------------------------------------


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


async def test_hook_register_routers_the_first_that_knows_the_model_decides() -> None:
    first, second = Guide(x=[target("one")], y=None), Guide(x=[target("two")], y=[target("three")])
    routers = {"a": specimen(register_routers=[first]), "b": specimen(register_routers=[second])}
    async with client(**routers) as ask:
        assert (await ask.chat(model="x")).headers["X-Gatehook-Deployment"] == "one"
        assert (await ask.chat(model="y")).headers["X-Gatehook-Deployment"] == "three"
        assert (await ask.chat(model="m")).headers["X-Gatehook-Deployment"] == "m#1"
    assert (first.asked, second.asked) == (["x", "y", "m"], ["y", "m"])


async def test_hook_register_routers_no_targets_mean_not_mine() -> None:
    async with client(a=specimen(register_routers=[Guide(m=[])])) as ask:
        assert (await ask.chat()).headers["X-Gatehook-Deployment"] == "m#1"


async def test_hook_register_routers_targets_are_tried_in_the_router_s_order() -> None:
    watch = Watching()
    guide = Guide(x=[target("gone", "nobody"), target("there")])
    plugins = {"a": specimen(register_routers=[guide]), "w": specimen(register_observers=[watch])}
    async with client(**plugins) as ask:
        answer = await ask.chat(model="x")
    assert answer.headers["X-Gatehook-Deployment"] == "there"
    assert watch.moments[1] == "attempt_failed gone unknown_vendor"


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_routers_a_model_that_none_knows_is_a_404(stream: bool) -> None:
    async with client(a=specimen(register_routers=[Guide()])) as ask:
        answer = await ask.chat(model="zzz", stream=stream)
    assert answer.status == 404
    assert (answer.error["type"], answer.error["code"], answer.error["param"]) == (
        "not_found_error",
        "model_not_found",
        "model",
    )


async def test_hook_register_routers_one_that_breaks_is_a_500_and_rejected() -> None:
    class Broken:
        async def route(self, call: Call) -> Sequence[Target] | None:
            raise ConnectionError("no catalog")

    watch = Watching()
    plugins = {"a": specimen(register_routers=[Broken()]), "w": specimen(register_observers=[watch])}
    async with client(**plugins) as ask:
        assert (await ask.chat()).status == 500
    assert watch.moments[-1] == "finished rejected 500 server_error"


# --- observers -----------------------------------------------------------------------------------------------------


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


async def test_hook_register_observers_see_each_moment_of_a_plain_call() -> None:
    watch, answer = await watched(Vendor())
    assert watch.moments == ["started chat -", "finished complete 200"]
    assert answer.status == 200
    assert watch.outcomes[0].usage == Usage(3, 2)


async def test_hook_register_observers_see_each_moment_of_a_stream() -> None:
    watch, answer = await watched(Vendor(), stream=True)
    assert watch.moments == ["started chat -", "first_token", "chunk", "chunk", "chunk", "finished complete 200"]
    assert answer.text == "hello"
    (outcome,) = watch.outcomes
    assert outcome.usage == Usage(3, 2)
    assert outcome.first_token is not None
    assert 0 < outcome.first_token <= outcome.duration


async def test_hook_register_observers_see_the_usage_event_only_where_the_client_gets_it() -> None:
    watch, answer = await watched(Vendor(), stream=True, stream_options={"include_usage": True})
    assert watch.moments.count("chunk") == 4
    assert answer.events[-2]["usage"]["total_tokens"] == 5


async def test_hook_register_observers_an_answer_without_content_has_no_first_token() -> None:
    watch, answer = await watched(Vendor(finish()), stream=True)
    assert answer.events[-1] == "[DONE]"
    assert watch.moments == ["started chat -", "chunk", "finished complete 200"]
    assert watch.outcomes[0].first_token is None


@pytest.mark.parametrize(
    ("headers", "fields", "status", "code"),
    [
        ({}, {}, 401, "invalid_api_key"),
        ({"X-API-Key": "k"}, {"messages": 7}, 400, "invalid_request_error"),
        ({"X-API-Key": "k"}, {"data": b"["}, 400, "invalid_request_error"),
        ({"X-API-Key": "k"}, {"model": "zzz"}, 404, "model_not_found"),
    ],
)
async def test_hook_register_observers_finished_once_for_a_call_refused(
    headers: dict[str, str], fields: dict[str, Any], status: int, code: str
) -> None:
    watch, answer = await watched(Vendor(), headers, **fields)
    assert (answer.status, len(watch.outcomes)) == (status, 1)
    assert watch.moments == ["started chat -", f"finished rejected {status} {code}"]
    assert watch.outcomes[0].usage is None


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_observers_finished_once_for_a_call_that_failed(stream: bool) -> None:
    watch, answer = await watched(Vendor(UpstreamError("specimen: broken")), stream=stream)
    assert answer.status == 502
    assert watch.moments == [
        "started chat -",
        "attempt_failed m#1 upstream_error",
        "finished failed 502 upstream_error",
    ]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_vendor_plugin_s_own_exception_is_a_502_that_tells_nothing_of_it(stream: bool) -> None:
    watch, answer = await watched(Vendor(ZeroDivisionError("secret")), stream=stream)
    assert (answer.status, answer.error["code"]) == (502, "vendor_plugin_error")
    assert b"secret" not in answer.body
    assert len(watch.outcomes) == 1


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ((say("hel"), UpstreamError("specimen: cut")), "upstream_error"),
        ((say("hel"),), "upstream_truncated"),
        ((say("hel"), ZeroDivisionError("secret")), "vendor_plugin_error"),
    ],
)
async def test_hook_register_observers_finished_once_for_a_stream_that_was_cut(
    script: tuple[Part, ...], code: str
) -> None:
    watch, answer = await watched(Vendor(*script), stream=True)
    assert answer.status == 200
    assert answer.events[-1]["error"]["code"] == code
    assert b"[DONE]" not in answer.body
    assert b"secret" not in answer.body
    assert watch.moments[-1] == f"finished partial 200 {code}"
    assert len(watch.outcomes) == 1


async def test_hook_register_observers_finished_once_for_a_client_that_left() -> None:
    vendor, watch = Vendor(say("hel"), asyncio.Event()), Watching()
    async with client(vendor, w=specimen(register_observers=[watch])) as ask:
        await ask.leave(vendor, b"hel", stream=True)
        await watch.over.wait()
    assert watch.moments == ["started chat -", "first_token", "chunk", "finished partial 499 client_left"]


async def test_hook_register_observers_exceptions_are_swallowed_and_counted() -> None:
    class Broken(Observer):
        def started(self, call: Call) -> None:
            raise RuntimeError("started")

        def chunk(self, call: Call, chunk: Chunk) -> None:
            raise RuntimeError("chunk")

        def finished(self, call: Call, outcome: Outcome) -> None:
            raise RuntimeError("finished")

    watch = Watching()
    text = "[plugins.broken]\n[plugins.w]\n[plugins.openai_api]\n[plugins.route_models]\n[plugins.vendor_specimen]\n"
    plugins = {
        "broken": specimen(register_observers=[Broken()]),
        "w": specimen(register_observers=[watch]),
        "vendor_specimen": specimen(register_vendors=[Vendor()]),
    }
    model = '[[models]]\nname = "m"\nvendor = "specimen"\n'
    async with serving(text + model, plugins=plugins) as served, ClientSession() as session:
        answer = await Client(served.url, session).chat(stream=True)
        await watch.over.wait()
        assert served.gateway.pipeline.concerns.observers.failures == 5
    assert answer.text == "hello"
    assert watch.moments[-1] == "finished complete 200"


async def test_hook_register_observers_moments_that_nobody_overrides_cost_nothing() -> None:
    class Ends(Observer):
        def finished(self, call: Call, outcome: Outcome) -> None: ...

    text = "[plugins.w]\n[plugins.openai_api]\n"
    async with serving(text, plugins={"w": specimen(register_observers=[Ends()])}) as served:
        assert served.gateway.pipeline.concerns.observers.chunk is None


# --- caches --------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_caches_the_second_answer_is_a_hit_and_the_same(stream: bool) -> None:
    vendor, memory, watch = Vendor(), Memory(), Watching()
    plugins = {"c": specimen(register_caches=[memory]), "w": specimen(register_observers=[watch])}
    async with client(vendor, **plugins) as ask:
        first = await ask.chat(stream=stream)
        await memory.stored.wait()
        second = await ask.chat(stream=stream)
    assert (first.headers["X-Cache"], second.headers["X-Cache"]) == ("miss", "hit")
    assert first.body == second.body
    assert first.headers["Content-Type"] == second.headers["Content-Type"]
    assert second.body.endswith(b"data: [DONE]\n\n") == stream
    assert len(vendor.attempts) == 1
    assert [outcome.status for outcome in watch.outcomes] == ["complete", "cached"]
    assert watch.outcomes[1].usage == Usage()
    assert all(len(key) == 32 for key in memory.keys)


async def test_hook_register_caches_the_first_hit_wins_and_all_are_written() -> None:
    one, two, vendor = Memory(), Memory(), Vendor()
    async with client(vendor, a=specimen(register_caches=[one]), b=specimen(register_caches=[two])) as ask:
        await ask.chat()
        assert len(one.entries) == len(two.entries) == 1
        await ask.chat()
        assert (len(one.keys), len(two.keys)) == (2, 1)
        one.entries.clear()
        assert (await ask.chat()).headers["X-Cache"] == "hit"
    assert len(vendor.attempts) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("broken", [RuntimeError("no"), ConnectionResetError("redis went away"), TimeoutError()])
async def test_hook_register_caches_a_broken_one_never_fails_a_call(stream: bool, broken: Exception) -> None:
    sound, watch = Memory(), Watching()
    caches = {"a": specimen(register_caches=[Memory(broken)]), "b": specimen(register_caches=[sound])}
    async with client(**caches, w=specimen(register_observers=[watch])) as ask:
        assert (await ask.chat(stream=stream)).status == 200
        await sound.stored.wait()
        assert (await ask.chat(stream=stream)).headers["X-Cache"] == "hit"
        await watch.over.wait()
    assert [outcome.code for outcome in watch.outcomes] == ["", ""]


@pytest.mark.parametrize(
    "script",
    [(say("hel"),), (say("hel"), UpstreamError("cut")), (UpstreamError("broken"),), (asyncio.Event(),)],
    ids=["truncated", "cut", "failed", "left"],
)
async def test_hook_register_caches_only_whole_answers_are_stored(script: tuple[Part, ...]) -> None:
    vendor, memory, watch = Vendor(*script), Memory(), Watching()
    plugins = {"c": specimen(register_caches=[memory]), "w": specimen(register_observers=[watch])}
    async with client(vendor, **plugins) as ask:
        if isinstance(script[0], asyncio.Event):
            await ask.leave(vendor, stream=True)
        else:
            await ask.chat(stream=True)
        await watch.over.wait()
    assert memory.entries == {}


async def test_hook_register_caches_keys_differ_by_all_that_changes_the_answer_and_by_nothing_else() -> None:
    memory = Memory()
    door = Door(ann=Principal("ann"), bob=Principal("bob"))
    plugins = {"c": specimen(register_caches=[memory]), "d": specimen(register_authenticators=[door])}
    ann, bob = {"X-API-Key": "ann"}, {"X-API-Key": "bob"}
    second = '[[models]]\nname = "n"\nvendor = "specimen"\n'
    different: list[tuple[Mapping[str, str], dict[str, Any]]] = [
        (ann, {}),
        (bob, {}),
        (ann, {"model": "n"}),
        (ann, {"temperature": 0}),
        (ann, {"temperature": 1}),
        (ann, {"stream": True}),
        (ann, {"stream": True, "stream_options": {"include_usage": True}}),
        (ann, {"messages": [{"role": "user", "content": "ho"}]}),
        (ann, {"unknown": {"a": 1}}),
        (ann, {"unknown": [["a", 1]]}),
        (ann, {"unknown": {}}),
        (ann, {"unknown": []}),
        (ann, {"unknown": None}),
        (ann, {"unknown": "é"}),
    ]
    same = [
        b'{"model":"m","messages":[{"role":"user","content":"hi"}],"unknown":{"a":1,"b":{"c":2,"d":3}}}',
        b'{"unknown": {"b": {"d":3,"c":2}, "a":1},  "messages":[{"content":"hi","role":"user"}], "model":"m"}',
    ]
    async with client(None, second, **plugins) as ask:
        for headers, fields in different:
            assert (await ask.chat(headers, **fields)).status == 200
        assert len(set(memory.keys)) == len(different)
        memory.keys.clear()
        for text in same:
            assert (await ask.chat(ann, data=text)).status == 200
        assert len(set(memory.keys)) == 1


async def test_without_a_cache_no_answer_is_marked() -> None:
    async with client() as ask:
        assert "X-Cache" not in (await ask.chat()).headers


# --- tool policies -------------------------------------------------------------------------------------------------


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


def offered(*names: str) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name}} for name in names]


def called(name: str, arguments: str = "{}") -> Mapping[str, Any]:
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


async def test_hook_register_tool_policies_offer_narrows_what_the_model_sees() -> None:
    vendor = Vendor()
    async with client(vendor, **policies(Policy(hides=["rm"]), Policy(hides=["dd"]))) as ask:
        assert (await ask.chat(tools=offered("ls", "rm", "dd"), tool_choice="auto")).status == 200
        assert (await ask.chat(tools=offered("rm", "dd"), tool_choice="auto", parallel_tool_calls=True)).status == 200
        assert (await ask.chat(tools=offered("ls"))).status == 200
    one, two, three = (attempt.payload for attempt in vendor.attempts)
    assert (one["tools"], one["tool_choice"]) == (offered("ls"), "auto")
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(two)
    assert three["tools"] == offered("ls")


@pytest.mark.parametrize(
    ("hides", "choice"),
    [
        (["rm"], {"type": "function", "function": {"name": "rm"}}),
        (["rm", "ls"], "required"),
    ],
    ids=["by name", "none left"],
)
async def test_hook_register_tool_policies_a_choice_that_cannot_be_made_is_refused(
    hides: list[str], choice: Any
) -> None:
    vendor = Vendor()
    async with client(vendor, **policies(Policy(hides=hides))) as ask:
        answer = await ask.chat(tools=offered("rm", "ls"), tool_choice=choice)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (403, "tool_not_allowed", "tool_choice")
    assert vendor.attempts == []


@pytest.mark.parametrize("choice", [7, {"function": 7}, {"function": None}, {"name": ["rm"]}, [], "rm"])
async def test_hook_register_tool_policies_a_choice_of_no_known_form_is_the_vendor_s_to_refuse(choice: Any) -> None:
    functions = [one["function"] for one in offered("rm", "ls")]
    async with client(**policies(Policy(hides=["rm"]))) as ask:
        answer = await ask.chat(functions=functions, function_call=choice)
    assert answer.status in (200, 403)


async def test_hook_register_tool_policies_offer_may_change_a_tool_s_words() -> None:
    class Wording(Policy):
        async def offer(self, call: Call, tools: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
            return [{**one, "function": {**one["function"], "description": "ask first"}} for one in tools]

    vendor = Vendor()
    async with client(vendor, **policies(Wording())) as ask:
        await ask.chat(tools=offered("ls"))
    assert vendor.attempts[0].payload["tools"][0]["function"]["description"] == "ask first"


async def test_hook_register_tool_policies_the_old_functions_are_tools_too() -> None:
    vendor = Vendor(message={"role": "assistant", "content": None, "function_call": {"name": "rm", "arguments": "{}"}})
    async with client(vendor, **policies(Policy(hides=["dd"], rm="deny"))) as ask:
        answer = await ask.chat(functions=[{"name": "ls"}, {"name": "dd"}])
    assert vendor.attempts[0].payload["functions"] == [{"name": "ls"}]
    assert (answer.status, answer.error["code"]) == (403, "tool_call_denied")


@pytest.mark.parametrize("kind", ["deny", "confirm"])
async def test_hook_register_tool_policies_a_plain_answer_s_call_is_denied(kind: str) -> None:
    vendor, watch = Vendor(message=called("rm", '{"path": "/"}')), Watching()
    memory, policy = Memory(), Policy(rm=kind)
    plugins = policies(Policy(), policy) | {
        "w": specimen(register_observers=[watch]),
        "c": specimen(register_caches=[memory]),
    }
    async with client(vendor, **plugins) as ask:
        answer = await ask.chat(tools=offered("rm"))
    assert answer.status == 403
    assert (answer.error["type"], answer.error["code"]) == ("permission_error", "tool_call_denied")
    assert answer.error["message"].endswith(": because of rm")
    assert ("is denied" in answer.error["message"]) == (kind == "deny")
    assert policy.judged == [ToolCall("call_1", "rm", '{"path": "/"}')]
    assert memory.entries == {}
    assert (watch.outcomes[0].status, watch.outcomes[0].http_status) == ("failed", 403)
    assert watch.outcomes[0].usage == Usage(3, 2)  # the vendor was paid, whatever became of its answer


async def test_hook_register_tool_policies_the_strictest_verdict_wins() -> None:
    vendor = Vendor(message=called("rm"))
    async with client(vendor, **policies(Policy(rm="deny"), Policy(rm="confirm"), Policy(rm="allow"))) as ask:
        assert "is denied" in (await ask.chat()).error["message"]


async def test_hook_register_tool_policies_allowed_calls_and_answers_without_calls_pass() -> None:
    async with client(Vendor(message=called("ls")), **policies(Policy(rm="deny"))) as ask:
        answer = await ask.chat()
    assert answer.json["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "ls"
    odd = Vendor(message={"role": "assistant", "content": None, "tool_calls": None})
    async with client(odd, **policies(Policy(rm="deny"))) as ask:
        assert (await ask.chat()).status == 200


async def test_hook_register_tool_policies_a_custom_tool_s_call_is_judged_by_its_name_and_input() -> None:
    call = {"id": "c", "type": "custom", "custom": {"name": "shell", "input": "rm -rf"}}
    vendor, policy = Vendor(message={"role": "assistant", "content": None, "tool_calls": [call]}), Policy(rm="deny")
    async with client(vendor, **policies(policy)) as ask:
        assert (await ask.chat()).status == 403
    assert policy.judged == [ToolCall("c", "shell", "rm -rf")]


def fragment(name: str, id: str, reason: str | None = None) -> Part:
    """A whole call in one event, without an index, as some servers send it."""
    delta = {"tool_calls": [{"id": id, "function": {"name": name, "arguments": "{}"}}]}
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return raw({"choices": [choice]}, content=True, finished=reason is not None)


OLD = {"index": 0, "delta": {"function_call": {"name": "rm", "arguments": "{}"}}}
LET: Part = say("let me ")
CALLS = finish("tool_calls")
STREAMS: dict[str, tuple[Part, ...]] = {
    "in pieces": (LET, tool("rm", '{"pa'), more('th": "/"}'), CALLS),
    "whole": (LET, tool("rm", '{"path": "/"}'), CALLS),
    "with its end in one batch": (LET, [tool("rm"), CALLS]),  # type: ignore[list-item]
    "with its end in one event": (LET, fragment("rm", "call_1", "tool_calls")),
    "as the old function_call": (LET, raw({"choices": [OLD]}, content=True), finish("function_call")),
    "beside a harmless one": (LET, tool("ls"), tool("rm", id="call_2"), CALLS),
    "without an index beside a harmless one": (LET, fragment("ls", "a"), fragment("rm", "b"), CALLS),
    "in a second choice": (LET, tool("ls"), tool("rm", index=1), CALLS, finish("tool_calls", 1)),
    "in a choice that never ends": (LET, tool("rm", index=1), CALLS),
}


@pytest.mark.parametrize("kind", ["deny", "confirm"])
@pytest.mark.parametrize("script", STREAMS.values(), ids=STREAMS)
async def test_hook_register_tool_policies_a_streamed_call_never_leaves(script: tuple[Part, ...], kind: str) -> None:
    memory, watch = Memory(), Watching()
    plugins = policies(Policy(rm=kind)) | {
        "c": specimen(register_caches=[memory]),
        "w": specimen(register_observers=[watch]),
    }
    async with client(Vendor(*script), **plugins) as ask:
        answer = await ask.chat(stream=True)
        await watch.over.wait()
    *before, last = answer.events
    assert answer.status == 200
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in before) == "let me "
    assert last["error"]["code"] == "tool_call_denied"
    assert b"tool_calls" not in answer.body.replace(b"tool_call_denied", b"")
    assert b'"rm"' not in answer.body
    assert memory.entries == {}
    assert watch.moments[-1] == "finished partial 200 tool_call_denied"


@pytest.mark.parametrize("script", STREAMS.values(), ids=STREAMS)
async def test_hook_register_tool_policies_a_streamed_call_that_is_allowed_arrives_whole(
    script: tuple[Part, ...],
) -> None:
    async def through(**plugins: type) -> list[Any]:
        async with client(Vendor(*script), **plugins) as ask:
            events = (await ask.chat(stream=True)).events
        return [event if event == "[DONE]" else event["choices"] for event in events]

    policy = Policy(dd="deny")
    assert await through(**policies(policy)) == await through()
    assert policy.judged[-1].name == "rm"
    assert all(call.arguments.count("{") == call.arguments.count("}") == 1 for call in policy.judged)
    assert len(policy.judged) == len({call.id + call.name for call in policy.judged})


async def test_hook_register_tool_policies_text_passes_at_once() -> None:
    later = asyncio.Event()
    vendor = Vendor(say("at once"), later, tool("ls"), finish("tool_calls"))
    async with client(vendor, **policies(Policy(rm="deny"))) as ask:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        async with ask.session.post(f"{ask.url}/v1/chat/completions", json=body) as response:
            assert b"at once" in await response.content.readuntil(b"\n\n")
            later.set()
            assert (await response.content.read()).endswith(b"data: [DONE]\n\n")


async def test_hook_register_tool_policies_a_call_of_one_choice_waits_for_that_choice_to_end() -> None:
    """The first choice's end must not let the half of the second's call out, nor have it judged by half."""
    policy = Policy(secret="deny")
    script = (
        say("x"), tool("ls"), tool("ls", '{"a": "', index=1), finish("tool_calls"), more('secret"}', index=1),
        finish("tool_calls", 1),
    )  # fmt: skip
    async with client(Vendor(*script), **policies(policy)) as ask:
        answer = await ask.chat(stream=True, n=2)
    assert answer.events[-1]["error"]["code"] == "tool_call_denied"
    assert [call.arguments for call in policy.judged] == ["{}", '{"a": "secret"}']
    assert b"tool_calls" not in answer.body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("broken", [RuntimeError("secret"), ConnectionError("secret")])
async def test_hook_register_tool_policies_one_that_breaks_lets_no_call_out(stream: bool, broken: Exception) -> None:
    policy, watch = Policy(), Watching()
    policy.broken = broken
    vendor = Vendor(say("let me "), tool("rm"), finish("tool_calls"), message=called("rm"))
    async with client(vendor, **policies(policy), w=specimen(register_observers=[watch])) as ask:
        answer = await ask.chat(stream=stream)
        await watch.over.wait()
    assert b"secret" not in answer.body
    assert b'"rm"' not in answer.body
    assert b"[DONE]" not in answer.body
    assert watch.outcomes[0].status == ("partial" if stream else "failed")
    assert answer.status == (200 if stream else 500)
    assert watch.outcomes[0].code == "server_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_hook_register_tool_policies_judge_cached_answers_too(stream: bool) -> None:
    policy = Policy()
    vendor = Vendor(say("let me "), tool("rm"), finish("tool_calls"), message=called("rm"))
    memory = Memory()
    async with client(vendor, **policies(policy), c=specimen(register_caches=[memory])) as ask:
        assert (await ask.chat(stream=stream)).status == 200
        await memory.stored.wait()
        policy.verdicts["rm"] = "deny"
        answer = await ask.chat(stream=stream)
    assert answer.status == 403
    assert b'"rm"' not in answer.body
