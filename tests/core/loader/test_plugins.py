"""The loader: what it finds, what it refuses and in which words, what it never imports, and in which order it asks."""

import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gatehook import Call, Observer, Permit, Route, Section, ServiceKey, StartupError, hookimpl
from gatehook.app import Gateway
from gatehook.config.settings import load
from gatehook.loader.plugins import hook_names, installed
from gatehook.testing import available, built

Distribution = Callable[..., None]


class Plain(Section):
    """[plugins.specimen]."""


class Plugin:
    """What every specimen shares; harmless by itself."""

    Settings: type[Section] = Plain

    def __init__(self, settings: Section) -> None:
        self.settings = settings


class Open:
    """A limiter of the right shape."""

    async def admit(self, call: Call) -> Permit | None:
        return None


def faults(*classes: type, settings: str = "", **named: type) -> list[str]:
    """What the loader says of plugins that are switched on: `classes` under "specimen", "specimen2" …"""
    plugins = {f"specimen{place or ''}": cls for place, cls in enumerate(classes)} | named
    text = settings + "".join(f"[plugins.{name}]\n" for name in plugins if f"[plugins.{name}]" not in settings)
    with pytest.raises(StartupError) as caught:
        built(text, plugins=plugins)
    return caught.value.faults


def gateway(tmp_path: Path, text: str) -> Gateway:
    """A gateway over what is really installed."""
    file = tmp_path / "settings.toml"
    file.write_text(text, "utf-8")
    return Gateway(load(file, environ={}))


SOUND = """
from gatehook import Section, hookimpl
class Plugin:
    class Settings(Section): "[plugins.x]"
    def __init__(self, settings): pass
"""


# --- what is found -------------------------------------------------------------------------------------------------


def test_a_distribution_s_plugin_is_found_by_its_entry_point(tmp_path: Path, distribution: Distribution) -> None:
    distribution("gatehook-acme", {"acme": "specimen_acme:Plugin"}, specimen_acme=SOUND)
    report = {one.name: one for one in gateway(tmp_path, "[plugins.acme]").plugins.report()}
    assert (report["acme"].distribution, report["acme"].version, report["acme"].enabled) == (
        "gatehook-acme",
        "7.1",
        True,
    )
    assert not report["openai_api"].enabled


def test_installing_does_not_enable(tmp_path: Path, distribution: Distribution) -> None:
    distribution("gatehook-acme", {"acme": "specimen_acme:Plugin"}, specimen_acme=SOUND)
    assert gateway(tmp_path, "").plugins.names == ()


@pytest.mark.parametrize("section", ["", "[plugins.acme]\nenabled = false"])
def test_a_disabled_plugin_is_never_imported(tmp_path: Path, distribution: Distribution, section: str) -> None:
    distribution("gatehook-acme", {"acme": "specimen_bomb:Plugin"}, specimen_bomb="raise SystemExit('imported')")
    built_gateway = gateway(tmp_path, section)
    assert "specimen_bomb" not in sys.modules
    assert [one.hooks for one in built_gateway.plugins.report() if one.name == "acme"] == [()]


def test_first_party_modules_of_disabled_plugins_are_not_imported_either(tmp_path: Path) -> None:
    names = [name for name in sys.modules if name.startswith("gatehook_plugins.metrics")]
    kept = {name: sys.modules.pop(name) for name in names}
    try:
        gateway(tmp_path, "[plugins.metrics]\nenabled = false\n[plugins.route_models]")
        assert "gatehook_plugins.metrics" not in sys.modules
    finally:
        sys.modules.update(kept)


def test_two_distributions_with_one_plugin_name_are_refused_with_both_named(
    tmp_path: Path, distribution: Distribution
) -> None:
    distribution("gatehook-one", {"acme": "specimen_one:Plugin"}, specimen_one=SOUND)
    distribution("gatehook-two", {"acme": "specimen_two:Plugin"}, specimen_two=SOUND)
    with pytest.raises(StartupError) as caught:
        gateway(tmp_path, "")
    assert caught.value.faults == [
        (
            "plugin name 'acme' is taken by both gatehook-one 7.1 (specimen_one:Plugin) and gatehook-two 7.1 "
            "(specimen_two:Plugin); uninstall one, by `pip uninstall`"
        )
    ]


def test_one_distribution_met_twice_is_no_conflict(distribution: Distribution) -> None:
    distribution("gatehook-one", {"acme": "specimen_one:Plugin"}, specimen_one=SOUND)
    distribution("gatehook-one-again", {"acme": "specimen_one:Plugin"}, specimen_one=SOUND)
    assert installed()["acme"].value == "specimen_one:Plugin"


def test_a_section_without_a_plugin_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(StartupError, match=r"\[plugins\.metric\].*no such plugin is installed.*'metrics'"):
        built("[plugins.metric]")


# --- what is refused before anything runs --------------------------------------------------------------------------


def test_an_import_error_names_the_plugin_and_its_distribution(tmp_path: Path, distribution: Distribution) -> None:
    distribution("gatehook-acme", {"acme": "specimen_broken:Plugin"}, specimen_broken="import no_such_module_at_all")
    with pytest.raises(StartupError) as caught:
        gateway(tmp_path, "[plugins.acme]")
    assert caught.value.faults == [
        (
            "plugin 'acme' (gatehook-acme 7.1): cannot be imported: "
            "ModuleNotFoundError(\"No module named 'no_such_module_at_all'\"); `pip install --upgrade gatehook-acme` "
            "brings what it needs, or [plugins.acme] enabled = false switches it off"
        )
    ]


def test_an_entry_point_without_its_object_is_refused(tmp_path: Path, distribution: Distribution) -> None:
    distribution("gatehook-acme", {"acme": "specimen_acme:Missing"}, specimen_acme=SOUND)
    with pytest.raises(StartupError, match=r"plugin 'acme' \(gatehook-acme 7.1\): cannot be imported: .*Missing"):
        gateway(tmp_path, "[plugins.acme]")


def test_an_entry_point_that_is_no_class_is_refused(tmp_path: Path, distribution: Distribution) -> None:
    distribution("gatehook-acme", {"acme": "specimen_acme"}, specimen_acme=SOUND)
    with pytest.raises(
        StartupError, match=r"^plugin 'acme' \(gatehook-acme 7.1\): the entry point must name a class, not <module"
    ):
        gateway(tmp_path, "[plugins.acme]")


def test_a_class_without_settings_is_refused() -> None:
    class NoSettings:
        def __init__(self, settings: Section) -> None: ...

    assert faults(NoSettings) == ["plugin 'specimen': the class needs `Settings`, a subclass of gatehook.Section"]


@pytest.mark.parametrize("wrong", [dict, object(), Plain()])
def test_settings_that_are_no_section_class_are_refused(wrong: Any) -> None:
    class WrongSettings(Plugin):
        Settings = wrong

    assert "needs `Settings`, a subclass of gatehook.Section" in faults(WrongSettings)[0]


def test_a_section_s_faults_are_told_with_the_settings_words() -> None:
    class Strict(Section):
        burst: int

    class Limits(Plugin):
        Settings = Strict

    told = faults(Limits, settings='[plugins.specimen]\nburst = "x"\nbrust = 1\n')
    assert len(told) == 2
    assert "[plugins.specimen] burst" in told[0]
    assert "did you mean 'burst'" in told[1]


def test_an_async_hook_is_refused() -> None:
    class Async(Plugin):
        @hookimpl
        async def register_limiters(self, gateway: Gateway) -> Iterable[Any]:
            return []

    assert faults(Async) == [
        (
            "plugin 'specimen': register_limiters must not be async: hooks run once at "
            "start-up; return objects whose methods are async"
        )
    ]


def test_an_async_generator_hook_is_refused() -> None:
    class Async(Plugin):
        @hookimpl
        async def register_limiters(self, gateway: Gateway) -> AsyncIterator[Any]:
            yield Open()

    assert "register_limiters must not be async" in faults(Async)[0]


@pytest.mark.parametrize("option", ["wrapper", "hookwrapper"])
def test_a_wrapper_is_refused(option: str) -> None:
    def wrapping(self: Plugin, gateway: Gateway) -> Any:
        return (yield)

    mark: Any = hookimpl
    cls = type("Wrapping", (Plugin,), {"register_limiters": mark(**{option: True})(wrapping)})
    assert faults(cls) == ["plugin 'specimen': register_limiters must not be a wrapper"]


@pytest.mark.parametrize("option", ["tryfirst", "trylast"])
def test_an_order_of_the_plugin_s_own_is_refused_because_it_would_be_ignored(option: str) -> None:
    def pushy(self: Plugin, gateway: Gateway) -> Any:
        return []

    mark: Any = hookimpl
    cls = type("Pushy", (Plugin,), {"register_limiters": mark(**{option: True})(pushy)})
    assert faults(cls) == [
        (
            f"plugin 'specimen': register_limiters must not use {option}: "
            "the order is the operator's, by `order` in [plugins.NAME]"
        )
    ]


def test_an_undecorated_hook_name_is_refused() -> None:
    class Forgot(Plugin):
        def register_limiters(self, gateway: Gateway) -> Iterable[Any]:
            return []

    assert faults(Forgot) == ["plugin 'specimen': register_limiters lacks the @hookimpl decorator"]


def test_an_unknown_hook_is_refused_with_the_nearest_word() -> None:
    class Misspelt(Plugin):
        @hookimpl
        def register_limiter(self, gateway: Gateway) -> Iterable[Any]:
            return []

    assert faults(Misspelt) == [
        ("plugin 'specimen': unknown hook 'register_limiter'; did you mean 'register_limiters'?")
    ]


def test_a_hook_under_another_name_is_refused() -> None:
    class Renamed(Plugin):
        @hookimpl(specname="register_limiters")
        def zz(self, gateway: Gateway) -> Iterable[Any]:
            return []

    assert faults(Renamed) == ["plugin 'specimen': unknown hook 'zz'"]


@pytest.mark.parametrize("hook", hook_names())
def test_an_unknown_argument_is_refused_with_those_there_are(hook: str) -> None:
    def greedy(self: Plugin, settings: Any) -> Any:
        return []

    told = faults(type("Greedy", (Plugin,), {hook: hookimpl(greedy)}))
    assert told == [f"plugin 'specimen': {hook} has no argument 'settings'; it may take: gateway"]


def test_an_inherited_hook_is_checked_like_the_class_s_own() -> None:
    class Base(Plugin):
        @hookimpl
        async def register_limiters(self, gateway: Gateway) -> Iterable[Any]:
            return []

    class Derived(Base):
        pass

    assert "register_limiters must not be async" in faults(Derived)[0]


# --- what is refused while it is built -----------------------------------------------------------------------------


def test_an_exception_in_init_names_the_plugin() -> None:
    class Raising(Plugin):
        def __init__(self, settings: Section) -> None:
            raise ValueError("no model file")

    assert faults(Raising) == [
        (
            "plugin 'specimen': cannot be built: ValueError('no model file'); "
            "[plugins.specimen] enabled = false switches it off"
        )
    ]


def test_a_startup_error_in_init_gives_its_words_and_names_the_plugin() -> None:
    class Raising(Plugin):
        def __init__(self, settings: Section) -> None:
            raise StartupError("no model file", "no licence")

    assert faults(Raising) == ["plugin 'specimen': no model file", "plugin 'specimen': no licence"]


def test_an_init_that_takes_no_settings_is_refused() -> None:
    class NoArguments(Plugin):
        def __init__(self) -> None: ...

    assert "cannot be built: TypeError" in faults(NoArguments)[0]


def returning(hook: str, result: object) -> type:
    """A plugin one hook of which returns `result`."""

    def implementation(self: Plugin, gateway: Any = None) -> Any:
        return result

    return type("Returning", (Plugin,), {hook: hookimpl(implementation)})


def test_an_exception_in_a_hook_names_plugin_and_hook() -> None:
    class Raising(Plugin):
        @hookimpl
        def register_limiters(self, gateway: Gateway) -> Iterable[Any]:
            raise KeyError("quota")

    assert faults(Raising) == ["plugin 'specimen', register_limiters: KeyError('quota')"]


def test_an_exception_in_the_middle_of_a_generator_hook_is_told_too() -> None:
    class Raising(Plugin):
        @hookimpl
        def register_limiters(self, gateway: Gateway) -> Iterable[Any]:
            yield Open()
            raise KeyError("quota")

    assert faults(Raising) == ["plugin 'specimen', register_limiters: KeyError('quota')"]


@pytest.mark.parametrize("result", [None, 7, Open()])
def test_a_result_that_is_no_iterable_is_refused(result: object) -> None:
    told = faults(returning("register_limiters", result))
    assert told == [
        (
            f"plugin 'specimen', register_limiters: must return an iterable, not {type(result).__name__}; "
            "return [] for nothing"
        )
    ]


WORDS = {
    "register_authenticators": "str is not a Authenticator, it lacks authenticate",
    "register_caches": "str is not a Cache, it lacks get, put",
    "register_commands": "str is not a Command",
    "register_lifespans": "each result must be callable and give an async context manager",
    "register_limiters": "str is not a Limiter, it lacks admit",
    "register_observers": "str is not a Observer",
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
def test_a_result_of_the_wrong_type_is_refused_telling_what_is_missing(hook: str) -> None:
    assert faults(returning(hook, ["nothing"])) == [f"plugin 'specimen', {hook}: {WORDS[hook]}"]


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
        ("register_routers", ["route"]),
        ("register_vendors", ["complete"]),
        ("register_caches", ["get", "put"]),
        ("register_tool_policies", ["offer", "judge"]),
        ("register_transforms", ["transform"]),
    ],
)
def test_a_sync_method_where_the_protocol_is_async_is_refused(hook: str, methods: Sequence[str]) -> None:
    assert faults(returning(hook, [SyncParts()])) == [
        f"plugin 'specimen', {hook}: SyncParts.{method} must be `async def`" for method in methods
    ]


@pytest.mark.parametrize("hook", ["register_authenticators", "register_limiters"])
def test_what_mostly_waits_for_nothing_may_be_plain(hook: str) -> None:
    part = SyncParts()
    concerns = built("[plugins.specimen]\n", plugins={"specimen": returning(hook, [part])}).pipeline.concerns
    assert part in (*concerns.authenticators, *concerns.limiters)


def test_an_async_observer_is_refused_because_nobody_would_await_it() -> None:
    class Awaiting(Observer):
        async def finished(self, call: Call, outcome: Any) -> None:  # type: ignore[override]
            raise AssertionError("never runs")

    assert faults(returning("register_observers", [Awaiting()])) == [
        "plugin 'specimen', register_observers: Awaiting.finished must not be `async def`"
    ]


def test_a_vendor_s_stream_that_is_a_coroutine_is_refused() -> None:
    class Awaited(SyncParts):
        async def complete(self, attempt: Any) -> None: ...
        async def stream(self, attempt: Any) -> None: ...

    assert faults(returning("register_vendors", [Awaited()])) == [
        "plugin 'specimen', register_vendors: Awaited.stream must not be `async def` without a yield"
    ]


@pytest.mark.parametrize("auth", [None, "", "amdin", 0, True])
def test_a_route_s_auth_is_one_of_three_and_nothing_falsy_opens_it(auth: Any) -> None:
    async def handler(request: Any) -> Any: ...

    assert faults(returning("register_routes", [Route("GET", "/x", handler, auth=auth)])) == [
        f"plugin 'specimen', register_routes: GET /x: auth must be 'user', 'admin' or False, not {auth!r}"
    ]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "v1/x"), ("GET", "/{id"), ("G T", "/x"), ("GET", "/{id:[}"), ("GET", "")]
)
def test_a_route_that_aiohttp_would_refuse_is_a_fault_of_its_plugin(method: str, path: str) -> None:
    async def handler(request: Any) -> Any: ...

    (told,) = faults(returning("register_routes", [Route(method, path, handler)]))
    assert told.startswith(f"plugin 'specimen', register_routes: {method} {path}: ")


def test_an_endpoint_without_a_surface_is_refused() -> None:
    from gatehook import Endpoint

    (told,) = faults(returning("register_routes", [Endpoint("/x", "chat", Open())]))  # type: ignore[arg-type]
    assert told.startswith("plugin 'specimen', register_routes: Open is not a Surface, it lacks name, ")


def test_a_vendor_name_that_settings_could_never_say_is_refused() -> None:
    class Shouting(SyncParts):
        name = "Acme"

        async def complete(self, attempt: Any) -> None: ...

    assert faults(returning("register_vendors", [Shouting()])) == [
        "plugin 'specimen', register_vendors: the vendor name 'Acme' must be lower case; settings are read so"
    ]


# --- all at once, and in order -------------------------------------------------------------------------------------


def test_every_fault_of_every_plugin_is_told_at_once() -> None:
    class First(Plugin):
        @hookimpl
        async def register_limiter(self, gateway: Gateway) -> Iterable[Any]:
            return []

        def register_caches(self, gateway: Gateway) -> Iterable[Any]:
            return []

    class Second(Plugin):
        def __init__(self, settings: Section) -> None:
            raise RuntimeError("second")

    told = faults(First, Second, settings="[plugins.no_such]\n")
    assert len(told) == 4
    assert "[plugins.no_such]" in told[0]
    assert "register_caches lacks" in told[1]
    assert "unknown hook 'register_limiter'" in told[2]
    assert "second" in told[3]


def test_every_fault_of_every_hook_is_told_at_once() -> None:
    told = faults(
        returning("register_limiters", None), returning("register_caches", [1, 2]), returning("register_routers", [3])
    )
    assert [fault.split(":")[0] for fault in told] == [
        "plugin 'specimen', register_limiters",
        "plugin 'specimen2', register_routers",
        "plugin 'specimen1', register_caches",
        "plugin 'specimen1', register_caches",
    ]


def test_missing_services_of_several_plugins_are_told_at_once() -> None:
    class Needs(Plugin):
        requires = (ServiceKey[object]("alpha", provider="alpha_store"),)

    class NeedsOther(Plugin):
        requires = (ServiceKey[object]("beta", provider="beta_store"),)

    assert faults(Needs, NeedsOther) == [
        "plugin 'specimen' needs the service 'alpha', which no enabled plugin offers; enable [plugins.alpha_store]",
        "plugin 'specimen1' needs the service 'beta', which no enabled plugin offers; enable [plugins.beta_store]",
    ]


def test_plugins_are_asked_by_order_and_then_by_name() -> None:
    asked: list[str] = []

    def asking() -> type:
        class Asking(Plugin):
            @hookimpl
            def register_limiters(self, gateway: Gateway) -> Iterable[Any]:
                asked.append(str(type(self.settings).__name__) + str(self.settings.order))
                return [Open()]

        return Asking

    orders = {"delta": 0, "alpha": 5, "charlie": 0, "bravo": -1}
    text = "".join(f"[plugins.{name}]\norder = {order}\n" for name, order in orders.items())
    gateway = built(text, plugins={name: asking() for name in orders})
    assert gateway.plugins.names == ("bravo", "charlie", "delta", "alpha")
    assert [order[-1] for order in asked] == ["1", "0", "0", "5"]
    assert [name for name, _ in gateway.plugins.collect("register_limiters", gateway=gateway)] == [
        *gateway.plugins.names
    ]


def test_a_hook_may_take_fewer_arguments_than_there_are() -> None:
    class Modest(Plugin):
        @hookimpl
        def register_limiters(self) -> Iterable[Any]:
            return [Open()]

    assert len(built("[plugins.modest]", plugins={"modest": Modest}).pipeline.concerns.limiters) == 1


def test_a_hook_s_argument_is_given_even_when_it_has_a_default() -> None:
    seen: list[object] = []

    class Optional(Plugin):
        @hookimpl
        def register_limiters(self, gateway: Gateway | None = None) -> Iterable[Any]:
            seen.append(gateway)
            return []

    gateway = built("[plugins.optional]", plugins={"optional": Optional})
    assert seen == [gateway]


def test_two_gateways_in_one_process_share_no_plugin_instance() -> None:
    class Counting(Plugin):
        @hookimpl
        def register_limiters(self, gateway: Gateway) -> Iterable[Any]:
            return [Open()]

    one, two = (built("[plugins.counting]", plugins={"counting": Counting}) for _ in range(2))
    assert one.pipeline.concerns.limiters[0] is not two.pipeline.concerns.limiters[0]


def test_the_report_tells_the_hooks_of_enabled_plugins_only() -> None:
    report = {one.name: one for one in built("[plugins.health]", plugins={"specimen": Plugin}).plugins.report()}
    assert report["health"].hooks == ("register_routes",)
    assert report["metrics"].hooks == ()
    assert report["specimen"].enabled is False
    assert sorted(report) == sorted(available({"specimen": Plugin}))
