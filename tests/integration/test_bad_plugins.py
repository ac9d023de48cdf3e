"""Plugins that misbehave while the gateway serves: what clients and operators see of it, and that the others live.

What is refused at start-up is in tests/core/loader.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gatehook import Call, Chunk, Observer, Outcome, Route, Section, Target, Verdict, hookimpl
from gatehook.testing import serving

KERNEL = """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.health]
[plugins.bad]
[failover]
retries = 0
[[models]]
name = "m"
vendor = "mock"
[[models]]
name = "bad"
vendor = "bad"
"""
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TARGET = Target(key="m#1", name="m", vendor="mock", model="m")


def plugin(hook: str, *results: Any) -> type:
    """A plugin whose one hook gives these objects."""

    def registered(self: Any) -> Iterable[Any]:
        return results

    section = type("Settings", (Section,), {"__module__": __name__})
    init = lambda self, settings: None  # noqa: E731
    return type("Bad", (), {"__init__": init, "Settings": section, hook: hookimpl(registered)})


class Heard(logging.Filter):
    """Lets every record pass, and tells of one with these words."""

    def __init__(self, words: str, tell: Callable[[], None]) -> None:
        super().__init__()
        self._words, self._tell = words, tell

    def filter(self, record: logging.LogRecord) -> bool:
        if self._words in record.getMessage():
            self._tell()
        return True


def giving(result: Any) -> Callable[..., Any]:
    """A method that gives `result`, or raises it."""

    async def method(self: Any, *arguments: Any) -> Any:
        if isinstance(result, BaseException):
            raise result
        return result

    return method


def made(name: str, /, **methods: Any) -> Any:
    """An object of a class `name` with these methods."""
    return type(name, (), {"__module__": "gatehook_bad", **methods})()


def vendor(complete: Any = None, stream: Any = None) -> Any:
    async def streaming(self: Any, attempt: Any) -> AsyncIterator[Any]:
        for batch in stream or ():
            if isinstance(batch, BaseException):
                raise batch
            yield batch

    shape = {"name": "bad", "operations": frozenset({"chat"}), "parameters": {}}
    return made("BadVendor", complete=giving(complete), stream=streaming, **shape)


async def ask(served: Any, http: aiohttp.ClientSession, **more: Any) -> tuple[int, str]:
    async with http.post(f"{served.url}/v1/chat/completions", json=CHAT | more) as answer:
        return answer.status, await answer.text()


async def heard(served: Any, http: aiohttp.ClientSession, **more: Any) -> tuple[int, str]:
    """The same, of an answer that may be cut."""
    received = bytearray()
    async with http.post(f"{served.url}/v1/chat/completions", json=CHAT | more) as answer:
        with contextlib.suppress(aiohttp.ClientPayloadError):
            async for data in answer.content.iter_any():
                received += data
    return answer.status, received.decode()


async def said(cls: type, caplog: pytest.LogCaptureFixture, **more: Any) -> tuple[int, str, str]:
    """The answer of a gateway with this plugin, and its log; its other paths answer before and afterwards."""
    async with serving(KERNEL, plugins={"bad": cls}) as served, aiohttp.ClientSession() as http:
        status, text = await ask(served, http, **more)
        async with http.get(f"{served.url}/health") as answer:
            assert answer.status == 200
    log = "\n".join(caplog.handler.format(record) for record in caplog.records if record.levelno >= logging.ERROR)
    assert "gatehook_bad" not in text
    assert "Traceback" not in text
    return status, text, log


# --- wrong types ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [False, True, "alice", 7, {}])
async def test_an_authenticator_that_gives_no_principal_lets_nobody_in(
    caplog: pytest.LogCaptureFixture, given: Any
) -> None:
    bad = plugin("register_authenticators", made("BadAuth", authenticate=giving(given)))
    status, _, log = await said(bad, caplog)
    assert status == 500
    kind = type(given).__name__
    assert f"gatehook_bad.BadAuth.authenticate gave {kind}, not a Principal or None" in log


async def test_a_path_of_a_plugin_s_own_is_not_opened_by_it_either() -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="secret")

    class Bad(plugin("register_authenticators", made("BadAuth", authenticate=giving(False)))):  # type: ignore[misc]
        @hookimpl
        def register_routes(self) -> Iterable[Route]:
            return [Route("GET", "/page", page)]

    async with (
        serving("[plugins.bad]", plugins={"bad": Bad}) as served,
        aiohttp.ClientSession() as http,
        http.get(f"{served.url}/page") as answer,
    ):
        assert answer.status == 500
        assert "secret" not in await answer.text()


@pytest.mark.parametrize("given", [False, True, 7, object()])
async def test_a_limiter_that_gives_no_permit_admits_nobody(caplog: pytest.LogCaptureFixture, given: Any) -> None:
    status, _, log = await said(plugin("register_limiters", made("BadLimiter", admit=giving(given))), caplog)
    assert status == 500
    assert f"gatehook_bad.BadLimiter.admit gave {type(given).__name__}, not a Permit or None" in log


@pytest.mark.parametrize("given", ["m", ["m"], {"m": TARGET}, {TARGET.key}, 7])
async def test_a_router_that_gives_no_targets_is_named(caplog: pytest.LogCaptureFixture, given: Any) -> None:
    status, _, log = await said(plugin("register_routers", made("BadRouter", route=giving(given))), caplog)
    assert status == 500
    assert "gatehook_bad.BadRouter.route gave" in log


@pytest.mark.parametrize("given", ["stored", {"choices": []}, 7])
async def test_a_cache_that_gives_no_entry_is_named_and_the_call_goes_on(
    caplog: pytest.LogCaptureFixture, given: Any
) -> None:
    bad = plugin("register_caches", made("BadCache", get=giving(given), put=giving(None)))
    status, _, log = await said(bad, caplog)
    assert status == 200
    assert f"gatehook_bad.BadCache.get gave {type(given).__name__}, not an Entry or None" in log


@pytest.mark.parametrize("given", [None, {"choices": []}, b"{}"])
async def test_a_vendor_that_gives_no_completion_is_a_502(caplog: pytest.LogCaptureFixture, given: Any) -> None:
    status, text, log = await said(plugin("register_vendors", vendor(complete=given)), caplog, model="bad")
    assert status == 502
    assert "vendor_plugin_error" in text
    assert f"gatehook_bad.BadVendor.complete gave {type(given).__name__}, not a Completion" in log


@pytest.mark.parametrize("batch", [None, "text", b"data", {"choices": []}, Chunk({}), [None], 7])
async def test_a_vendor_that_streams_no_chunks_is_a_502(caplog: pytest.LogCaptureFixture, batch: Any) -> None:
    bad = plugin("register_vendors", vendor(stream=[batch]))
    status, text, log = await said(bad, caplog, model="bad", stream=True)
    assert status == 502
    assert "vendor_plugin_error" in text
    assert "vendor plugin 'bad' failed" in log
    assert "not a sequence of Chunks" in log


@pytest.mark.parametrize("verdict", [None, "allow", True, Verdict("perhaps")])  # type: ignore[arg-type]
async def test_a_policy_that_gives_no_verdict_lets_no_call_out(caplog: pytest.LogCaptureFixture, verdict: Any) -> None:
    async def offer(self: Any, call: Call, tools: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        return tools

    bad = plugin("register_tool_policies", made("BadPolicy", offer=offer, judge=giving(verdict)))
    settings = KERNEL + 'options = { fault = { kind = "status" } }\n[[models]]\nname = "calls"\nvendor = "mock"\n'
    settings += 'options = { tool_calls = [{ name = "delete_all" }] }\n'
    async with serving(settings, plugins={"bad": bad}) as served, aiohttp.ClientSession() as http:
        status, text = await ask(served, http, model="calls")
        assert status == 500
        assert "delete_all" not in text
        assert f"gatehook_bad.BadPolicy.judge gave {type(verdict).__name__}, not a Verdict of: allow, " in caplog.text
        assert (await ask(served, http))[0] == 200


@pytest.mark.parametrize("given", [False, True, "redacted", object()])
async def test_a_transform_that_gives_no_rewriter_lets_no_answer_out(
    caplog: pytest.LogCaptureFixture, given: Any
) -> None:
    status, text, _ = await said(plugin("register_transforms", made("Bad", transform=giving(given))), caplog)
    assert status == 500
    assert "choices" not in text


# --- exceptions ----------------------------------------------------------------------------------------------------

FAULTS = [RuntimeError("out of order"), SystemExit(3), KeyError("x"), asyncio.CancelledError("its own")]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize(
    ("hook", "method"),
    [("register_authenticators", "authenticate"), ("register_limiters", "admit"), ("register_routers", "route")],
)
async def test_a_plugin_that_raises_ends_one_call_and_not_the_process(
    caplog: pytest.LogCaptureFixture, hook: str, method: str, fault: BaseException
) -> None:
    status, text, log = await said(plugin(hook, made("Bad", **{method: giving(fault)})), caplog)
    assert status == 500
    assert "internal error; the gateway's log tells more under req_" in text
    assert "internal error" in log
    assert type(fault).__name__ in log


CALLS = """
[[models]]
name = "calls"
vendor = "mock"
options = { tool_calls = [{ name = "delete_all" }] }
"""
TOOLS = [{"type": "function", "function": {"name": "delete_all", "parameters": {"type": "object"}}}]


class Rewriting:
    """A rewriter that fails with whatever it is given."""

    def __init__(self, fault: BaseException) -> None:
        self._fault = fault

    def completion(self, completion: Any) -> Any:
        raise self._fault

    def chunks(self, batch: Any) -> Any:
        raise self._fault

    def rest(self) -> Any:
        raise self._fault


async def passed(self: Any, call: Call, tools: Any) -> Any:
    """A policy that hides no tool."""
    return tools


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("place", ["transform", "rewriter", "offer", "judge"])
async def test_a_transform_or_a_policy_that_raises_lets_nothing_out(
    caplog: pytest.LogCaptureFixture, place: str, stream: bool, fault: BaseException
) -> None:
    hook, methods = {
        "transform": ("register_transforms", {"transform": giving(fault)}),
        "rewriter": ("register_transforms", {"transform": giving(Rewriting(fault))}),
        "offer": ("register_tool_policies", {"offer": giving(fault), "judge": giving(Verdict("allow"))}),
        "judge": ("register_tool_policies", {"offer": passed, "judge": giving(fault)}),
    }[place]
    bad = plugin(hook, made("Bad", **methods))
    async with serving(KERNEL + CALLS, plugins={"bad": bad}) as served, aiohttp.ClientSession() as http:
        status, text = await heard(served, http, model="calls", stream=stream, tools=TOOLS)
        async with http.get(f"{served.url}/health") as answer:
            assert answer.status == 200
    assert status == 500 or (stream and "[DONE]" not in text), (status, text)
    assert "internal error" in text
    assert '"delete_all"' not in text
    assert type(fault).__name__ in caplog.text


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_vendor_that_raises_is_a_502(
    caplog: pytest.LogCaptureFixture, fault: BaseException, stream: bool
) -> None:
    bad = plugin("register_vendors", vendor(complete=fault, stream=[fault]))
    status, text, log = await said(bad, caplog, model="bad", stream=stream)
    assert status == 502
    assert "out of order" not in text
    assert "vendor plugin 'bad' failed" in log


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
async def test_caches_observers_and_permits_that_raise_are_logged_and_the_call_goes_on(
    caplog: pytest.LogCaptureFixture, fault: BaseException
) -> None:
    class Watching(Observer):
        def started(self, call: Call) -> None:
            raise fault

        def finished(self, call: Call, outcome: Outcome) -> None:
            raise fault

    permit = made("Permit", settle=giving(fault))

    class Bad(plugin("register_caches", made("BadCache", get=giving(fault), put=giving(fault)))):  # type: ignore[misc]
        @hookimpl
        def register_observers(self) -> Iterable[Observer]:
            return [Watching()]

        @hookimpl
        def register_limiters(self) -> Iterable[Any]:
            return [made("BadLimiter", admit=giving(permit))]

    status, _, log = await said(Bad, caplog)
    assert status == 200
    for told in ("reading the cache BadCache", "writing the cache BadCache", "observer Watching.", "permit of Permit"):
        assert told in log


@pytest.mark.parametrize("fault", [*FAULTS, "no response"], ids=repr)
async def test_a_route_that_raises_or_gives_no_response_is_a_500(caplog: pytest.LogCaptureFixture, fault: Any) -> None:
    async def page(request: web.Request) -> Any:
        if isinstance(fault, BaseException):
            raise fault
        return fault

    cls = plugin("register_routes", Route("GET", "/page", page, auth=False))
    settings, statuses = "[plugins.bad]\n[plugins.health]", []
    async with serving(settings, plugins={"bad": cls}) as served, aiohttp.ClientSession(served.url) as http:
        for path in ("/page", "/health"):
            async with http.get(path) as answer:
                statuses.append(answer.status)
    assert statuses == [500, 200]
    assert "GET /page failed" in caplog.text


# --- what never ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "method"),
    [
        ("register_authenticators", "authenticate"),
        ("register_limiters", "admit"),
        ("register_routers", "route"),
        ("register_caches", "get"),
        ("register_transforms", "transform"),
    ],
)
async def test_a_plugin_that_never_answers_is_named_and_holds_up_nobody_else(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, hook: str, method: str
) -> None:
    told, called = asyncio.Event(), asyncio.Event()
    monkeypatch.setattr("gatehook.serving.watchdog._LOOK", 0.05)
    caplog.handler.addFilter(Heard("waiting for", told.set))

    async def never(self: Any, *arguments: Any) -> None:
        called.set()
        if not told.is_set():
            await asyncio.Event().wait()

    methods = {"get": never, "put": giving(None)} if method == "get" else {method: never}
    bad = plugin(hook, made("Bad", **methods))
    bad.__module__ = __name__
    async with serving(KERNEL, plugins={"bad": bad}) as served, aiohttp.ClientSession() as http:
        stuck = asyncio.create_task(ask(served, http))
        await called.wait()
        async with http.get(f"{served.url}/health") as answer:
            assert answer.status == 200
        await told.wait()
        stuck.cancel()
        await asyncio.wait([stuck])
    (line,) = {record.getMessage() for record in caplog.records if "waiting for" in record.getMessage()}
    assert line.startswith("1 call is waiting for more than 0 s: plugin 'bad' is at ")
    assert line.endswith(".<locals>.never")


async def test_a_lifespan_that_never_begins_is_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = asyncio.Event()
    monkeypatch.setattr("gatehook.loader.patience._PATIENCE", 0.02)
    caplog.handler.addFilter(Heard("takes more than", told.set))

    @contextlib.asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        await told.wait()
        told.clear()
        yield
        await told.wait()

    async with serving("[plugins.bad]", plugins={"bad": plugin("register_lifespans", slow)}) as served:
        assert served.gateway.serving
    lines = [record.getMessage() for record in caplog.records]
    assert "plugin 'bad' takes more than 0.02 s to start; the gateway waits for it" in lines
    assert "plugin 'bad' takes more than 0.02 s to stop" in lines


# --- what blocks ---------------------------------------------------------------------------------------------------


def blocking(until: threading.Event) -> None:
    """Stands for `requests.get`, `time.sleep`, and a loop that computes."""
    until.wait(20)


async def test_a_plugin_that_blocks_the_loop_is_named_while_it_does(caplog: pytest.LogCaptureFixture) -> None:
    told = threading.Event()
    caplog.handler.addFilter(Heard("stands still", told.set))

    async def admit(self: Any, call: Call) -> None:
        blocking(told)

    bad = plugin("register_limiters", made("Bad", admit=admit))
    bad.__module__ = __name__
    settings = KERNEL + "[server]\nport = 0\nblocked_warning = 0.05\n"
    async with serving(settings, plugins={"bad": bad}) as served, aiohttp.ClientSession() as http:
        assert (await ask(served, http))[0] == 200
        async with asyncio.timeout(20):
            while "moves again" not in caplog.text:  # noqa: ASYNC110  # a thread of the gateway's tells it
                await asyncio.sleep(0.01)
    assert told.is_set()
    (line,) = [record.getMessage() for record in caplog.records if "stands still" in record.getMessage()]
    assert line.startswith("the event loop stands still for 0.1 s, and every request with it: plugin 'bad' is at ")
    assert line.endswith(", in blocking")
