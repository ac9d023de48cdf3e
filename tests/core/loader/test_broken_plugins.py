"""Broken plugins of third parties: what the operator is told, and which ones the gateway may serve without."""

import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gatehook import Call, Permit, Route, Section, ServiceKey, StartupError, hookimpl
from gatehook.app import Gateway
from gatehook.loader.loading import hook_names
from gatehook.testing import built, serving

Distribution = Callable[..., None]
Faults = Callable[..., list[str]]
OverInstalled = Callable[[Path, str], Gateway]

NOT_FOR_THIS = f"gatehook>={int(version('gatehook').split('.')[0]) + 1}"
GUARDS = (
    "register_authenticators",
    "register_limiters",
    "register_tool_policies",
    "register_transforms",
    "register_services",
)
HARMLESS = (
    "register_caches",
    "register_commands",
    "register_lifespans",
    "register_observers",
    "register_routers",
    "register_routes",
    "register_tools",
    "register_vendors",
)
SKIP = "[plugins.specimen]\non_error = 'skip'\n"


def plugin(**members: Any) -> type:
    """A plugin class with these members."""

    def init(self: Any, settings: Section) -> None: ...

    section = type("Settings", (Section,), {"__module__": __name__})
    return type("Specimen", (), {"__init__": init, "Settings": section, **members})


def refused(cls: type, settings: str) -> list[str]:
    with pytest.raises(StartupError) as caught:
        built(settings, plugins={"specimen": cls})
    return caught.value.faults


def raising(self: Any, gateway: Any = None) -> Any:
    raise RuntimeError("out of order")


RAISED = f"RuntimeError('out of order'), at {__file__}:{raising.__code__.co_firstlineno + 1}, in raising"
UNREACHED = (
    "plugin 'specimen' cannot start: OSError('nobody listens there'), "
    f"at {__file__}:LINE, in Beginning.register_lifespans.<locals>.failing"
)


def without_line(text: str) -> str:
    """A message with the word LINE in place of the number in this file."""
    return re.sub(re.escape(__file__) + r":\d+", f"{__file__}:LINE", text)


# --- what distributions ask for ------------------------------------------------------------------------------------


def test_a_distribution_for_another_version_is_not_even_imported(
    tmp_path: Path, distribution: Distribution, faults_of: Faults
) -> None:
    bomb = "raise AssertionError('imported')"
    distribution("gatehook-acme", {"acme": "specimen_bomb:P"}, requires=NOT_FOR_THIS, specimen_bomb=bomb)
    assert faults_of(tmp_path, "[plugins.acme]") == [
        (
            f"plugin 'acme' (gatehook-acme 7.1): is written for {NOT_FOR_THIS}, and this is {version('gatehook')}: "
            "`pip install --upgrade gatehook gatehook-acme` gets versions that fit"
        )
    ]


@pytest.mark.parametrize(
    "requires",
    [
        "gatehook",
        f"Gatehook=={version('gatehook')}",
        "gatehook>=0.0.1",
        "other>99",
        "what?!",
        f'{NOT_FOR_THIS}; extra == "dev"',
        f'{NOT_FOR_THIS}; python_version < "3"',
    ],
)
def test_what_this_version_fulfils_or_has_nothing_to_do_with_is_no_fault(
    tmp_path: Path, distribution: Distribution, requires: str, gateway: OverInstalled
) -> None:
    source = (
        "from gatehook import Section\nclass P:\n    class Settings(Section): ...\n    def __init__(self, s): ...\n"
    )
    distribution("gatehook-acme", {"acme": "specimen_fits:P"}, requires=requires, specimen_fits=source)
    assert gateway(tmp_path, "[plugins.acme]").plugins.names == ("acme",)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("from gatehook import NoSuchName", "written for another version of Gatehook than"),
        ("import gatehook.no_such_module", "written for another version of Gatehook than"),
        ("import no_such_module_at_all", "`pip install --upgrade gatehook-acme` brings what it needs"),
        ("raise ValueError('x')", "`pip install --upgrade gatehook-acme` may bring a better version"),
        ("import sys; sys.exit(3)", "cannot be imported: SystemExit(3)"),
        ("def (", "cannot be imported: SyntaxError"),
    ],
)
def test_what_cannot_be_imported_is_told_with_what_helps(
    tmp_path: Path, distribution: Distribution, source: str, told: str, faults_of: Faults
) -> None:
    distribution("gatehook-acme", {"acme": "specimen_broken:P"}, specimen_broken=source)
    (fault,) = faults_of(tmp_path, "[plugins.acme]")
    assert fault.startswith("plugin 'acme' (gatehook-acme 7.1): cannot be imported: ")
    assert told in fault
    assert fault.endswith(", or [plugins.acme] enabled = false switches it off")


def test_a_fault_of_a_hook_names_the_distribution(
    tmp_path: Path, distribution: Distribution, faults_of: Faults
) -> None:
    source = (
        "from gatehook import Section, hookimpl\nclass P:\n    class Settings(Section): ...\n"
        "    def __init__(self, s): ...\n    @hookimpl\n    def register_caches(self): return [1 / 0]\n"
    )
    distribution("gatehook-acme", {"acme": "specimen_hook:P"}, specimen_hook=source)
    (fault,) = faults_of(tmp_path, "[plugins.acme]")
    assert fault.startswith("plugin 'acme' (gatehook-acme 7.1), register_caches: ZeroDivisionError('division by zero')")
    assert fault.endswith("/specimen_hook.py:6, in P.register_caches")


@pytest.mark.parametrize(
    ("hook", "result", "told"),
    [
        ("register_vendors", "Vendor()", "vendor 'x' is provided by both 'acme' (gatehook-acme 7.1) and 'specimen'"),
        ("register_routes", "Route('GET', '/x', None)", "GET /x is served by both plugins 'acme' (gatehook-acme 7.1)"),
    ],
)
def test_what_two_plugins_bring_names_the_distribution(
    tmp_path: Path, distribution: Distribution, hook: str, result: str, told: str, faults_of: Faults
) -> None:
    source = (
        "from gatehook import Route, Section, hookimpl\nclass Vendor:\n"
        "    name, operations, parameters = 'x', frozenset(), {}\n"
        "    async def complete(self, attempt): ...\n    async def stream(self, attempt): yield []\n"
        f"class P:\n    Settings = Section\n    def __init__(self, s): ...\n    @hookimpl\n    def {hook}(self): "
        f"return [{result}]\n"
    )
    distribution("gatehook-acme", {"acme": "specimen_twice:P"}, specimen_twice=source)
    distribution("gatehook-specimen", {"specimen": "specimen_again:P"}, specimen_again=source)
    (fault,) = faults_of(tmp_path, "[plugins.acme]\n[plugins.specimen]\n")
    assert fault.startswith(told)
    assert fault.endswith("'specimen' (gatehook-specimen 7.1); disable one")


def test_an_init_that_would_end_the_program_is_a_fault() -> None:
    def leaving(self: Any, settings: Section) -> None:
        raise SystemExit(0)

    assert "cannot be built: SystemExit(0)" in refused(plugin(__init__=leaving), "[plugins.specimen]")[0]


def test_requires_is_a_tuple_of_service_keys() -> None:
    told = refused(plugin(requires=("database",)), "[plugins.specimen]")
    assert told == ["plugin 'specimen': `requires` must be a tuple of ServiceKeys"]


def test_a_hook_that_only_the_instance_has_is_refused() -> None:
    def init(self: Any, settings: Section) -> None:
        self.register_limiters = hookimpl(lambda gateway: [])

    (told,) = refused(plugin(__init__=init), "[plugins.specimen]")
    assert told == "plugin 'specimen': register_limiters: a hook must be a method of the class, not made by __init__"


# --- what may be skipped -------------------------------------------------------------------------------------------


def test_of_every_hook_somebody_has_thought_whether_the_gateway_may_do_without_it() -> None:
    assert sorted((*GUARDS, *HARMLESS)) == sorted(hook_names())


@pytest.mark.parametrize("hook", [hook for hook in HARMLESS if hook != "register_commands"])
def test_a_plugin_whose_hook_raises_is_skipped_if_the_operator_says_so(hook: str) -> None:
    made = built(SKIP, plugins={"specimen": plugin(**{hook: hookimpl(raising)})})
    assert made.plugins.names == ()
    fault = f"plugin 'specimen', {hook}: {RAISED}"
    assert made.plugins.skipped == {"specimen": [fault]}
    assert list(made.faults()) == [f"{fault} ([plugins.specimen] is skipped, as on_error says)"]


def test_without_a_word_of_the_operator_a_broken_plugin_is_fatal() -> None:
    told = refused(plugin(register_caches=hookimpl(raising)), "[plugins.specimen]")
    assert told == [f"plugin 'specimen', register_caches: {RAISED}"]


@pytest.mark.parametrize("hook", GUARDS)
@pytest.mark.parametrize("more", ["", "guards = true\n"])
@pytest.mark.parametrize("broken", ["init", "hook", "undecorated"])
def test_a_plugin_that_guards_is_never_skipped(hook: str, more: str, broken: str) -> None:
    def init(self: Any, settings: Section) -> None:
        raise RuntimeError("out of order")

    cls = plugin(**{hook: raising if broken == "undecorated" else hookimpl(raising)})
    if broken == "init":
        cls.__init__ = init  # type: ignore[misc]
    told = refused(cls, SKIP + more)
    assert len(told) == 2
    assert told[1].startswith("plugin 'specimen': it cannot be skipped: ")
    assert told[1].endswith("guards = true" if more else f"it has {hook}, and the gateway does not serve without that")


@pytest.mark.parametrize("hook", GUARDS)
def test_an_inherited_guard_is_one_too(hook: str) -> None:
    base = plugin(**{hook: hookimpl(lambda self: [])})
    derived = type("Derived", (base,), {"register_caches": hookimpl(raising)})
    assert f"it has {hook}" in refused(derived, SKIP)[1]


def test_a_misspelt_hook_may_have_been_meant_for_a_guard() -> None:
    cls = plugin(register_authenticator=hookimpl(raising))
    told = refused(cls, SKIP)
    assert "unknown hook 'register_authenticator'" in told[0]
    assert "nobody can tell what it does" in told[1]


def test_what_cannot_be_imported_is_skipped_only_by_an_explicit_word(
    tmp_path: Path, distribution: Distribution, gateway: OverInstalled, faults_of: Faults
) -> None:
    distribution("gatehook-acme", {"acme": "specimen_broken:P"}, specimen_broken="raise RuntimeError")
    text = "[plugins.acme]\non_error = 'skip'\n"
    told = faults_of(tmp_path, text)
    assert told[1] == (
        "plugin 'acme' (gatehook-acme 7.1): it cannot be skipped, as nobody can tell what it does: if it brings no "
        "authenticators, limiters, tool policies, transforms or services, say guards = false beside on_error"
    )
    assert list(gateway(tmp_path, text + "guards = false").plugins.skipped) == ["acme"]


@pytest.mark.parametrize("hook", GUARDS)
def test_the_operator_is_held_to_his_word(hook: str) -> None:
    cls = plugin(**{hook: hookimpl(lambda self: [])})
    told = refused(cls, SKIP + "guards = false\n")
    assert told == [f"[plugins.specimen] guards = false, but it has {hook}: take that line out"]


def test_faults_of_its_settings_are_the_operator_s_to_mend_not_a_reason_to_skip() -> None:
    assert refused(plugin(), SKIP + "burst = 3\n") == ["settings.toml: [plugins.specimen] burst: unknown key"]


def test_an_unknown_word_for_on_error_is_a_fault() -> None:
    (told,) = refused(plugin(), "[plugins.specimen]\non_error = 'ignore'\n")
    assert told.startswith("settings.toml: [plugins.specimen] on_error: input should be 'fail' or 'skip'")


def test_a_plugin_is_skipped_whose_service_is_missing_and_those_that_need_none_stay() -> None:
    key: ServiceKey[object] = ServiceKey("alpha", provider="alpha_store")
    made = built(SKIP + "[plugins.health]\n", plugins={"specimen": plugin(requires=(key,))})
    assert made.plugins.names == ("health",)
    assert "enable [plugins.alpha_store]" in made.plugins.skipped["specimen"][0]


def test_what_a_skipped_plugin_brought_by_its_other_hooks_is_left_out_too() -> None:
    class Half:
        async def route(self, call: Call) -> None: ...

    cls = plugin(
        register_routers=hookimpl(lambda self: [Half()]),
        register_routes=hookimpl(raising),
        register_lifespans=hookimpl(lambda self: [pytest.fail]),
    )
    made = built(SKIP, plugins={"specimen": cls})
    assert made.pipeline.concerns.routers == ()


def test_a_wrong_type_is_a_reason_to_skip_and_the_right_ones_beside_it_are_left_out() -> None:
    class Half:
        async def route(self, call: Call) -> None: ...

    made = built(SKIP, plugins={"specimen": plugin(register_routers=hookimpl(lambda self: [Half(), 7]))})
    assert made.pipeline.concerns.routers == ()


# --- lifespans -----------------------------------------------------------------------------------------------------


class Beginning:
    """A plugin with a page, and a lifespan that fails."""

    class Settings(Section): ...

    def __init__(self, settings: Section) -> None: ...

    @hookimpl
    def register_routes(self, gateway: Gateway) -> Iterable[Route]:
        async def page(request: aiohttp.web.Request) -> aiohttp.web.Response:
            return aiohttp.web.Response(text="here")

        return [Route("GET", "/page", page, auth=False)]

    @hookimpl
    def register_lifespans(self) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        @asynccontextmanager
        async def failing() -> AsyncIterator[None]:
            raise OSError("nobody listens there")
            yield

        @asynccontextmanager
        async def second() -> AsyncIterator[None]:
            raise AssertionError("the first has failed")
            yield

        return [failing, second]


async def test_a_plugin_that_cannot_start_is_skipped_and_its_paths_are_gone(caplog: pytest.LogCaptureFixture) -> None:
    settings = SKIP + "[plugins.health]\n"
    async with serving(settings, plugins={"specimen": Beginning}) as served, aiohttp.ClientSession() as http:
        statuses = []
        for path in ("/page", "/health"):
            async with http.get(served.url + path) as answer:
                statuses.append(answer.status)
    assert statuses == [404, 200]
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert without_line(told) == f"{UNREACHED} ([plugins.specimen] is skipped, as on_error says)"


async def test_a_guard_that_cannot_start_is_never_skipped() -> None:
    class Guard(Beginning):
        @hookimpl
        def register_limiters(self) -> Iterable[Any]:
            class Open:
                async def admit(self, call: Call) -> Permit | None:
                    return None

            return [Open()]

    with pytest.raises(StartupError) as caught:
        async with serving(SKIP, plugins={"specimen": Guard}):
            pytest.fail("it serves")
    assert [without_line(fault) for fault in caught.value.faults] == [
        UNREACHED,
        (
            "plugin 'specimen': it cannot be skipped: it has register_limiters, and the gateway does not serve "
            "without that"
        ),
    ]


# --- the report ----------------------------------------------------------------------------------------------------


def test_the_report_tells_what_is_broken_and_what_is_skipped() -> None:
    cls = plugin(register_caches=hookimpl(raising))
    made = built(SKIP, plugins={"specimen": cls})
    states = {one.name: one.state for one in made.plugins.report()}
    assert (states["specimen"], states["health"]) == ("skipped", "off")


@pytest.mark.parametrize(
    ("mine", "asked", "fits"),
    [
        ("0.1.0", ">=0.1,<0.2", True),
        ("0.1.0rc1", ">=0.1,<0.2", True),
        ("0.2.0rc1", ">=0.1,<0.2", False),
        ("0.2.0", ">=0.1,<0.2", False),
        ("1.4.2", ">=1.2,<2", True),
        ("2.0", ">=1.2,<2", False),
    ],
)
def test_a_version_before_its_release_counts_as_the_release(
    monkeypatch: pytest.MonkeyPatch, distribution: Distribution, mine: str, asked: str, fits: bool
) -> None:
    from gatehook.loader import origins
    from gatehook.loader.loading import installed

    distribution("gatehook-acme", {"acme": "specimen_acme:P"}, requires=f"gatehook{asked}")
    monkeypatch.setattr(origins, "own_version", lambda: mine)
    assert (origins.unmet(installed()["acme"]) == "") == fits
