"""Plugins that are refused while they are built, and in which words."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
from aiohttp import web

from gatehook import Attempt, Call, Chunk, Observer, Permit, Route, Section, StartupError, hookimpl
from gatehook.app import Gateway
from gatehook.loader.loading import hook_names
from gatehook.testing import built

Faults = Callable[..., list[str]]


class Plugin:
    """What every specimen shares; harmless by itself."""

    Settings: type[Section] = Section

    def __init__(self, settings: Section) -> None:
        self.settings = settings


class Open:
    """A limiter of the right shape."""

    async def admit(self, call: Call) -> Permit | None:
        return None


def place_of(function: Any, line: int = 1) -> str:
    """How messages name the line of a function that is so many below its first, decorators left out."""
    code = function.__code__
    first = code.co_firstlineno + bool(hasattr(function, "gatehook_impl"))
    return f"{code.co_filename}:{first + line}, in {code.co_qualname}"


def test_an_exception_in_init_names_the_plugin_and_the_place(faults: Faults) -> None:
    class Raising(Plugin):
        def __init__(self, settings: Section) -> None:
            raise ValueError("no model file")

    assert faults(Raising) == [
        (
            f"plugin 'specimen': cannot be built: ValueError('no model file'), at {place_of(Raising.__init__)}; "
            "[plugins.specimen] enabled = false switches it off"
        )
    ]


def test_a_file_that_is_not_there_is_named(faults: Faults) -> None:
    class Opening(Plugin):
        def __init__(self, settings: Section) -> None:
            open("/not/there.toml")  # noqa: PTH123, SIM115

    assert "FileNotFoundError: [Errno 2] No such file or directory: '/not/there.toml', at " in faults(Opening)[0]


def test_a_startup_error_in_init_gives_its_words_and_names_the_plugin(faults: Faults) -> None:
    class Raising(Plugin):
        def __init__(self, settings: Section) -> None:
            raise StartupError("no model file", "no licence")

    assert faults(Raising) == ["plugin 'specimen': no model file", "plugin 'specimen': no licence"]


def test_an_init_that_takes_no_settings_is_refused(faults: Faults) -> None:
    class NoArguments(Plugin):
        def __init__(self) -> None: ...

    assert "cannot be built: TypeError" in faults(NoArguments)[0]


def returning(hook: str, result: object) -> type:
    """A plugin one hook of which returns `result`."""

    def implementation(self: Plugin, gateway: Any = None) -> Any:
        return result

    return type("Returning", (Plugin,), {hook: hookimpl(implementation)})


def test_an_exception_in_a_hook_names_plugin_and_hook(faults: Faults) -> None:
    class Raising(Plugin):
        @hookimpl
        def register_limiters(self, gateway: Gateway) -> Iterable[Any]:
            raise KeyError("quota")

    where = place_of(Raising.register_limiters)
    assert faults(Raising) == [f"plugin 'specimen', register_limiters: KeyError('quota'), at {where}"]


def test_an_exception_in_the_middle_of_a_generator_hook_is_told_too(faults: Faults) -> None:
    class Raising(Plugin):
        @hookimpl
        def register_limiters(self, gateway: Gateway) -> Iterable[Any]:
            yield Open()
            raise KeyError("quota")

    where = place_of(Raising.register_limiters, 2)
    assert faults(Raising) == [f"plugin 'specimen', register_limiters: KeyError('quota'), at {where}"]


@pytest.mark.parametrize("result", [None, 7, Open()])
def test_a_result_that_is_no_iterable_is_refused(result: object, faults: Faults) -> None:
    told = faults(returning("register_limiters", result))
    assert told == [
        (
            f"plugin 'specimen', register_limiters: must return an iterable, not {type(result).__name__}; "
            "return [] for nothing"
        )
    ]


WORDS = {
    "register_authenticators": "str is not an Authenticator, it lacks authenticate",
    "register_caches": "str is not a Cache, it lacks get, put",
    "register_commands": "str is not a Command",
    "register_lifespans": "each result must be callable and give an async context manager",
    "register_limiters": "str is not a Limiter, it lacks admit",
    "register_observers": "str is not an Observer",
    "register_routers": "str is not a Router, it lacks route",
    "register_routes": "str is not a Route or Endpoint",
    "register_services": "each result must be a pair of a ServiceKey and the service",
    "register_tool_policies": "str is not a ToolPolicy, it lacks offer, judge",
    "register_tools": "str is not a Tool, it lacks name, description, parameters, run",
    "register_transforms": "str is not a Transform, it lacks transform",
    "register_vendors": "str is not a Vendor, it lacks name, operations, parameters, complete, stream",
}


def test_every_hook_has_a_case_of_a_wrong_result() -> None:
    assert sorted(WORDS) == sorted(hook_names())


@pytest.mark.parametrize("hook", [hook for hook in WORDS if hook != "register_commands"])
def test_a_result_of_the_wrong_type_is_refused_telling_what_is_missing(hook: str, faults: Faults) -> None:
    assert faults(returning(hook, ["nothing"])) == [f"plugin 'specimen', {hook}: {WORDS[hook]}"]


class Speaker:
    """A vendor of the right shape."""

    name = "specimen"
    operations: Any = frozenset({"chat"})
    parameters: Any = {}  # noqa: RUF012

    async def complete(self, attempt: Attempt) -> Any: ...

    async def stream(self, attempt: Attempt) -> AsyncIterator[Sequence[Chunk]]:
        yield []


@pytest.mark.parametrize("hook", [hook for hook in WORDS if hook not in ("register_commands", "register_lifespans")])
def test_a_class_is_refused_in_place_of_its_object(hook: str, faults: Faults) -> None:
    told = faults(returning(hook, [Speaker]))
    assert told == [f"plugin 'specimen', {hook}: Speaker is a class; return an object of it"]


def test_a_method_that_takes_other_arguments_is_refused(faults: Faults) -> None:
    class Greedy:
        async def get(self, key: bytes, call: Call, *, ttl: int) -> None: ...

        async def put(self, key: bytes) -> None: ...

    missing, much = faults(returning("register_caches", [Greedy()]))
    missing = missing.replace("keyword-only ", "")  # as newer Pythons say it
    assert [missing, much] == [
        "plugin 'specimen', register_caches: Greedy.get must take (key, call): missing a required argument: 'ttl'",
        "plugin 'specimen', register_caches: Greedy.put must take (key, call, entry): too many positional arguments",
    ]


def test_a_method_may_take_more_than_it_is_given_if_it_need_not(faults: Faults) -> None:
    class Generous:
        async def get(self, key: bytes, call: Call, *more: Any, ttl: int = 3) -> None: ...

        put = get

    built("[plugins.specimen]", plugins={"specimen": returning("register_caches", [Generous()])})


@pytest.mark.parametrize(
    ("operations", "parameters", "said"),
    [
        ("chat", {}, "operations must be a set of words, such as frozenset({'chat'})"),
        ({"chat"}, None, "parameters must have a table by operation; {} for none"),
        ({"chat"}, {"chat": ["model"]}, "parameters must have a table by operation; {} for none"),
        (
            {"chat"},
            {"chat": {"model": "model"}},
            "parameters: 'model' of 'chat' must be mapped(), dropped() or refused()",
        ),
    ],
)
def test_a_vendor_whose_tables_are_none_is_refused(operations: Any, parameters: Any, said: str, faults: Faults) -> None:
    vendor = Speaker()
    vendor.operations, vendor.parameters = operations, parameters
    assert faults(returning("register_vendors", [vendor])) == [f"plugin 'specimen', register_vendors: Speaker.{said}"]


async def yielding() -> AsyncIterator[None]:
    yield


async def waiting() -> None: ...


@pytest.mark.parametrize("lifespan", [yielding, waiting])
def test_a_lifespan_without_its_decorator_is_refused(lifespan: Any, faults: Faults) -> None:
    assert faults(returning("register_lifespans", [lifespan])) == [
        (
            f"plugin 'specimen', register_lifespans: {lifespan.__name__} must give an async context manager: "
            "it lacks @contextlib.asynccontextmanager"
        )
    ]


def test_a_route_is_refused_as_a_result_of_another_hook(faults: Faults) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response()

    told = faults(returning("register_caches", [Route("GET", "/specimen", answer)]))
    assert told == ["plugin 'specimen', register_caches: Route is not a Cache, it lacks get, put"]


def test_a_command_of_the_wrong_type_is_refused() -> None:
    gateway = built("[plugins.specimen]", plugins={"specimen": returning("register_commands", ["nothing"])})
    with pytest.raises(StartupError) as caught:
        gateway.plugins.collect("register_commands")
    assert caught.value.faults == [f"plugin 'specimen', register_commands: {WORDS['register_commands']}"]


class SyncParts:
    """Has every method of every protocol, none of them async."""

    name = "sync"
    operations = frozenset({"chat"})
    parameters: Mapping[str, Any] = {}

    def authenticate(self, credential: Any) -> None: ...
    def admit(self, call: Any) -> None: ...
    def route(self, call: Any) -> None: ...
    def complete(self, attempt: Any) -> Any: ...
    def stream(self, attempt: Any) -> Any: ...
    def get(self, key: Any) -> None: ...
    def put(self, key: Any, call: Any, entry: Any) -> None: ...
    def offer(self, call: Any, tools: Any) -> None: ...
    def judge(self, call: Any, tool_call: Any) -> None: ...
    def transform(self, call: Any) -> None: ...


@pytest.mark.parametrize(
    ("hook", "methods"),
    [
        ("register_vendors", ["complete"]),
        ("register_caches", ["get", "put"]),
        ("register_tool_policies", ["offer", "judge"]),
        ("register_transforms", ["transform"]),
    ],
)
def test_a_sync_method_where_the_protocol_is_async_is_refused(
    hook: str, methods: Sequence[str], faults: Faults
) -> None:
    assert faults(returning(hook, [SyncParts()])) == [
        f"plugin 'specimen', {hook}: SyncParts.{method} must be `async def`" for method in methods
    ]


@pytest.mark.parametrize("hook", ["register_authenticators", "register_limiters", "register_routers"])
def test_what_mostly_waits_for_nothing_may_be_plain(hook: str) -> None:
    part = SyncParts()
    concerns = built("[plugins.specimen]\n", plugins={"specimen": returning(hook, [part])}).pipeline.concerns
    assert part in (*concerns.authenticators, *concerns.limiters, *concerns.routers)


def test_an_async_observer_is_refused_because_nobody_would_await_it(faults: Faults) -> None:
    class Awaiting(Observer):
        async def finished(self, call: Call, outcome: Any) -> None:  # type: ignore[override]
            raise AssertionError("never runs")

    assert faults(returning("register_observers", [Awaiting()])) == [
        "plugin 'specimen', register_observers: Awaiting.finished must not be `async def`"
    ]


def test_a_vendor_s_stream_that_is_a_coroutine_is_refused(faults: Faults) -> None:
    class Awaited(SyncParts):
        async def complete(self, attempt: Any) -> None: ...
        async def stream(self, attempt: Any) -> None: ...

    assert faults(returning("register_vendors", [Awaited()])) == [
        "plugin 'specimen', register_vendors: Awaited.stream must not be `async def` without a yield"
    ]


@pytest.mark.parametrize("auth", [None, "", "amdin", 0, True])
def test_a_route_s_auth_is_one_of_three_and_nothing_falsy_opens_it(auth: Any, faults: Faults) -> None:
    async def handler(request: Any) -> Any: ...

    assert faults(returning("register_routes", [Route("GET", "/x", handler, auth=auth)])) == [
        f"plugin 'specimen', register_routes: GET /x: auth must be 'user', 'admin' or False, not {auth!r}"
    ]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "v1/x"), ("GET", "/{id"), ("G T", "/x"), ("GET", "/{id:[}"), ("GET", "")]
)
def test_a_route_that_aiohttp_would_refuse_is_a_fault_of_its_plugin(method: str, path: str, faults: Faults) -> None:
    async def handler(request: Any) -> Any: ...

    (told,) = faults(returning("register_routes", [Route(method, path, handler)]))
    assert told.startswith(f"plugin 'specimen', register_routes: {method} {path}: ")


def test_an_endpoint_without_a_surface_is_refused(faults: Faults) -> None:
    from gatehook import Endpoint

    (told,) = faults(returning("register_routes", [Endpoint("/x", "chat", Open())]))  # type: ignore[arg-type]
    assert told.startswith("plugin 'specimen', register_routes: Open is not a Surface, it lacks name, ")


def test_a_vendor_name_that_settings_could_never_say_is_refused(faults: Faults) -> None:
    class Shouting(SyncParts):
        name = "Acme"

        async def complete(self, attempt: Any) -> None: ...

    assert faults(returning("register_vendors", [Shouting()])) == [
        "plugin 'specimen', register_vendors: the vendor name 'Acme' must be lower case; settings are read so"
    ]


def test_every_fault_of_every_hook_is_told_at_once(faults: Faults) -> None:
    told = faults(
        returning("register_limiters", None), returning("register_caches", [1, 2]), returning("register_routers", [3])
    )
    assert [fault.split(":")[0] for fault in told] == [
        "plugin 'specimen', register_limiters",
        "plugin 'specimen2', register_routers",
        "plugin 'specimen1', register_caches",
        "plugin 'specimen1', register_caches",
    ]
