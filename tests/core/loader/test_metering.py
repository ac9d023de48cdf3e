"""Measured objects: they do what they did, no more and no less, and what each call cost is told once."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from aiohttp import web

from gatehook import (
    AttemptLimiter,
    Bounded,
    Cache,
    Call,
    ChangeLimiter,
    Endpoint,
    Observer,
    OwnHeaders,
    OwnHeartbeat,
    OwnStatus,
    Prober,
    RateLimited,
    RoundLimiter,
    Route,
    Scoped,
    Surface,
    Vendor,
    hookimpl,
)
from gatehook.awaiting import awaited
from gatehook.loader.loading import hook_names
from gatehook.loader.metering import metered
from gatehook.testing import built


class Book:
    """A meter that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, float, float, bool]] = []

    def add(self, plugin: str, method: str, seconds: float, busy: float, *, failed: bool) -> None:
        self.lines.append((plugin, method, seconds, busy, failed))

    @property
    def methods(self) -> list[tuple[str, bool]]:
        return [(method, failed) for _, method, _, _, failed in self.lines]


CALL = Call("chat", "test", {})


@pytest.fixture
def book() -> Book:
    return Book()


def made(**members: Any) -> Any:
    return type("Made", (), members)()


def asynchronous(body: Callable[[], Any]) -> Any:
    async def method(self: Any, *arguments: Any) -> Any:
        result = body()
        return await result if asyncio.iscoroutine(result) else result

    return method


def raising(error: BaseException) -> Callable[[], Any]:
    def body() -> Any:
        raise error

    return body


# --- what is told --------------------------------------------------------------------------------------------------


async def test_time_that_is_waited_is_not_time_that_is_kept_from_others(book: Book) -> None:
    async def work() -> int:
        time.sleep(0.02)  # noqa: ASYNC251  # keeps the loop
        await asyncio.sleep(0.05)
        return 7

    router = metered(book, "acme", "register_routers", made(route=asynchronous(work)))
    assert await router.route(CALL) == 7
    ((plugin, method, seconds, busy, failed),) = book.lines
    assert (plugin, method, failed) == ("acme", "route", False)
    assert 0.02 <= busy < seconds - 0.045


@pytest.mark.parametrize(
    ("error", "failed"),
    [(RuntimeError("x"), True), (KeyError("x"), True), (RateLimited("x"), False), (asyncio.CancelledError(), True)],
)
async def test_a_refusal_is_no_failure_and_what_is_raised_passes_unchanged(
    book: Book, error: BaseException, failed: bool
) -> None:
    limiter = metered(book, "acme", "register_limiters", made(admit=asynchronous(raising(error))))
    with pytest.raises(type(error)) as caught:
        await awaited(limiter.admit(CALL))
    assert caught.value is error
    assert book.methods == [("admit", failed)]


async def test_a_cancellation_reaches_what_is_measured(book: Book) -> None:
    seen: list[str] = []
    begun = asyncio.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    router = metered(book, "acme", "register_routers", made(route=asynchronous(work)))
    task = asyncio.create_task(router.route(CALL))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled", "cleaned up"]
    assert book.methods == [("route", False)]


async def test_a_time_limit_inside_works(book: Book) -> None:
    async def work() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return "late"
        return "never"

    router = metered(book, "acme", "register_routers", made(route=asynchronous(work)))
    assert await router.route(CALL) == "late"


@pytest.mark.parametrize("again", ["admit_change", "admit_round"])
async def test_what_a_limiter_is_asked_again_is_measured_too(book: Book, again: str) -> None:
    limiter = metered(book, "acme", "register_limiters", made(admit=asynchronous(int), **{again: asynchronous(int)}))
    assert isinstance(limiter, ChangeLimiter) == (again == "admit_change")
    assert isinstance(limiter, RoundLimiter) == (again == "admit_round")
    await getattr(limiter, again)(CALL)
    assert book.methods == [(again, False)]


@pytest.mark.parametrize("admits", ["async", "plain", "plain, and waits"])
@pytest.mark.parametrize("settles", ["async", "plain"])
async def test_what_a_limiter_reserves_is_measured_when_it_is_settled(book: Book, admits: str, settles: str) -> None:
    settled: list[Any] = []

    async def settle(self: Any, outcome: Any) -> None:
        settled.append(outcome)

    permit = made(settle=settle if settles == "async" else lambda self, outcome: settled.append(outcome))
    later = asynchronous(lambda: permit)
    admit = {"async": later, "plain": lambda self, call: permit, "plain, and waits": lambda self, call: later(self)}
    limiter = metered(book, "acme", "register_limiters", made(admit=admit[admits]))
    given = limiter.admit(CALL)
    assert hasattr(given, "settle") == (admits == "plain")
    given = await awaited(given)
    waits = given.settle("outcome")
    assert (waits is None) == (settles == "plain")
    await awaited(waits)
    assert settled == ["outcome"]
    assert book.methods == [("admit", False), ("settle", False)]


@pytest.mark.parametrize("given", [None, False, 7])
async def test_what_is_no_permit_stays_what_it_is(book: Book, given: Any) -> None:
    limiter = metered(book, "acme", "register_limiters", made(admit=asynchronous(lambda: given)))
    assert await awaited(limiter.admit(CALL)) is given


class Streaming:
    name = "acme"
    operations = frozenset({"chat"})
    parameters: Mapping[str, Any] = {}
    prepares = True
    ended = ""

    async def complete(self, attempt: Any) -> Any:
        return "whole"

    async def stream(self, attempt: Any) -> AsyncIterator[Any]:
        try:
            for batch in attempt:
                if isinstance(batch, BaseException):
                    raise batch
                await asyncio.sleep(0)
                yield [batch]
            self.ended = "well"
        except GeneratorExit:
            self.ended = "closed"
            raise
        finally:
            self.ended = self.ended or "broken"


async def test_a_stream_is_one_call_and_ends_as_it_did(book: Book) -> None:
    inner = Streaming()
    vendor = metered(book, "acme", "register_vendors", inner)
    assert [batch async for batch in vendor.stream([1, 2, 3])] == [[1], [2], [3]]
    assert (inner.ended, book.methods) == ("well", [("stream", False)])


async def test_a_stream_that_is_closed_closes_the_inner_one(book: Book) -> None:
    inner = Streaming()
    stream = metered(book, "acme", "register_vendors", inner).stream([1, 2])
    assert await anext(stream) == [1]
    await stream.aclose()
    assert (inner.ended, book.methods) == ("closed", [("stream", False)])


async def test_a_stream_that_breaks_is_a_failure(book: Book) -> None:
    inner = Streaming()
    stream = metered(book, "acme", "register_vendors", inner).stream([1, ValueError("x")])
    assert await anext(stream) == [1]
    with pytest.raises(ValueError, match="x"):
        await anext(stream)
    assert (inner.ended, book.methods) == ("broken", [("stream", True)])


# --- what the objects are ------------------------------------------------------------------------------------------


def test_a_measured_object_can_do_what_it_could_and_no_more(book: Book) -> None:
    plain = metered(book, "acme", "register_vendors", Streaming())
    assert [isinstance(plain, kind) for kind in (Vendor, Prober)] == [True, False]
    assert (plain.name, plain.prepares, hasattr(plain, "check")) == ("acme", True, False)
    assert type(plain).__qualname__ == "Streaming"
    probing = metered(book, "acme", "register_vendors", type("P", (Streaming,), {"probe": asynchronous(int)})())
    assert isinstance(probing, Prober)
    shape = {"get": asynchronous(int), "put": asynchronous(int)}
    assert isinstance(metered(book, "acme", "register_caches", made(**shape)), Cache)
    assert not isinstance(metered(book, "acme", "register_caches", made(**shape)), Scoped | Bounded)
    both = metered(book, "acme", "register_caches", made(**shape, scope=lambda _, who: who, max_entry=9))
    assert [isinstance(both, kind) for kind in (Scoped, Bounded)] == [True, True]
    assert (both.max_entry, both.scope("a")) == (9, "a")
    assert not isinstance(metered(book, "a", "register_limiters", made(admit=asynchronous(int))), AttemptLimiter)


def test_a_value_that_changes_is_read_anew(book: Book) -> None:
    inner = Streaming()
    vendor = metered(book, "acme", "register_vendors", inner)
    inner.prepares = False
    assert vendor.prepares is False


def test_an_observer_overrides_what_it_did(book: Book) -> None:
    class Watching(Observer):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def started(self, call: Call) -> None:
            self.seen.append(call)

    inner = Watching()
    observer = metered(book, "acme", "register_observers", inner)
    assert isinstance(observer, Observer)
    assert type(observer).chunk is Observer.chunk
    assert type(observer).started is not Observer.started
    observer.started(CALL)
    assert (inner.seen, book.methods) == ([CALL], [("started", False)])


async def test_a_surface_and_a_route_are_measured_where_they_stand(book: Book) -> None:
    members = {name: lambda _, *arguments, name=name: name.encode() for name in (
        "parse", "answer", "event", "end", "error", "error_event", "status", "error_headers")}  # fmt: skip
    endpoint = Endpoint("/x", "chat", made(name="acme", canonical=True, heartbeat=b"ping", **members))
    surface = metered(book, "acme", "register_routes", endpoint).surface
    assert all(isinstance(surface, kind) for kind in (Surface, OwnStatus, OwnHeaders, OwnHeartbeat))
    assert (surface.heartbeat, surface.error_headers(CALL)) == (b"ping", b"error_headers")
    assert (surface.canonical, surface.answer(CALL, None)) == (True, b"answer")

    async def page(request: Any) -> web.Response:
        """A page, as /openapi.json calls it."""
        return web.Response(text=request)

    route = metered(book, "acme", "register_routes", Route("GET", "/y", page, auth="admin"))
    assert (await route.handler("hi")).text == "hi"
    assert (route.auth, route.path) == ("admin", "/y")
    assert inspect.getdoc(route.handler) == "A page, as /openapi.json calls it."
    assert book.methods == [("answer", False), ("handler", False)]


NOT_WHILE_SERVING = ("register_services", "register_lifespans", "register_commands")


@pytest.mark.parametrize("hook", [hook for hook in hook_names() if hook != "register_observers"])
def test_what_every_hook_gives_is_measured_unless_it_is_not_for_serving(book: Book, hook: str) -> None:
    result = object()
    is_same = metered(book, "acme", hook, result) is result
    # Of what `register_routes` gives, only a Route and an Endpoint can be measured.
    assert is_same == (hook in (*NOT_WHILE_SERVING, "register_routes"))


def test_without_a_meter_nothing_is_wrapped() -> None:
    class Plain:
        async def route(self, call: Call) -> None: ...

    router = Plain()
    members = {"__init__": lambda self, settings: None, "register_routers": hookimpl(lambda self: [router])}
    from gatehook import Section

    cls = type("Acme", (), {**members, "Settings": type("Settings", (Section,), {"__module__": __name__})})
    text = "[plugins.acme]\n[plugins.metrics]\n"
    assert built(text, plugins={"acme": cls}).pipeline.concerns.routers == (router,)
    (wrapped,) = built(text + "plugin_times = true\n", plugins={"acme": cls}).pipeline.concerns.routers
    assert wrapped is not router
