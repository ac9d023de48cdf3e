"""Plugin classes that are refused before anything of them runs, and in which words."""

from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from gatehook import Call, Permit, Section, StartupError, hookimpl
from gatehook.app import Gateway
from gatehook.loader.loading import hook_names

Distribution = Callable[..., None]
Faults = Callable[..., list[str]]
OverInstalled = Callable[[Path, str], Gateway]


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


SOUND = """
from gatehook import Section, hookimpl
class Plugin:
    class Settings(Section): "[plugins.x]"
    def __init__(self, settings): pass
"""


def test_an_import_error_names_the_plugin_and_its_distribution(
    tmp_path: Path, distribution: Distribution, gateway: OverInstalled
) -> None:
    distribution("gatehook-acme", {"acme": "specimen_broken:Plugin"}, specimen_broken="import no_such_module_at_all")
    with pytest.raises(StartupError) as caught:
        gateway(tmp_path, "[plugins.acme]")
    (fault,) = caught.value.faults
    told, _, where = fault.partition(", at ")
    assert told == (
        "plugin 'acme' (gatehook-acme 7.1): cannot be imported: "
        "ModuleNotFoundError(\"No module named 'no_such_module_at_all'\")"
    )
    assert where.endswith(
        "/specimen_broken.py:1, in <module>; `pip install --upgrade gatehook-acme` brings what it needs, or "
        "[plugins.acme] enabled = false switches it off"
    )


def test_an_entry_point_without_its_object_is_refused(
    tmp_path: Path, distribution: Distribution, gateway: OverInstalled
) -> None:
    distribution("gatehook-acme", {"acme": "specimen_acme:Missing"}, specimen_acme=SOUND)
    with pytest.raises(StartupError, match=r"plugin 'acme' \(gatehook-acme 7.1\): cannot be imported: .*Missing"):
        gateway(tmp_path, "[plugins.acme]")


def test_an_entry_point_that_is_no_class_is_refused(
    tmp_path: Path, distribution: Distribution, gateway: OverInstalled
) -> None:
    distribution("gatehook-acme", {"acme": "specimen_acme"}, specimen_acme=SOUND)
    with pytest.raises(
        StartupError, match=r"^plugin 'acme' \(gatehook-acme 7.1\): the entry point must name a class, not <module"
    ):
        gateway(tmp_path, "[plugins.acme]")


def test_a_class_without_settings_is_refused(faults: Faults) -> None:
    class NoSettings:
        def __init__(self, settings: Section) -> None: ...

    assert faults(NoSettings) == ["plugin 'specimen': the class needs `Settings`, a subclass of gatehook.Section"]


@pytest.mark.parametrize("wrong", [dict, object(), Plain()])
def test_settings_that_are_no_section_class_are_refused(wrong: Any, faults: Faults) -> None:
    class WrongSettings(Plugin):
        Settings = wrong

    assert "needs `Settings`, a subclass of gatehook.Section" in faults(WrongSettings)[0]


def test_a_section_s_faults_are_told_with_the_settings_words(faults: Faults) -> None:
    class Strict(Section):
        burst: int

    class Limits(Plugin):
        Settings = Strict

    told = faults(Limits, settings='[plugins.specimen]\nburst = "x"\nbrust = 1\n')
    assert len(told) == 2
    assert "[plugins.specimen] burst" in told[0]
    assert "did you mean 'burst'" in told[1]


def test_an_async_hook_is_refused(faults: Faults) -> None:
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


def test_an_async_generator_hook_is_refused(faults: Faults) -> None:
    class Async(Plugin):
        @hookimpl
        async def register_limiters(self, gateway: Gateway) -> AsyncIterator[Any]:
            yield Open()

    assert "register_limiters must not be async" in faults(Async)[0]


@pytest.mark.parametrize("option", ["wrapper", "hookwrapper"])
def test_a_wrapper_is_refused(option: str, faults: Faults) -> None:
    def wrapping(self: Plugin, gateway: Gateway) -> Any:
        return (yield)

    mark: Any = hookimpl
    cls = type("Wrapping", (Plugin,), {"register_limiters": mark(**{option: True})(wrapping)})
    assert faults(cls) == ["plugin 'specimen': register_limiters must not be a wrapper"]


@pytest.mark.parametrize("option", ["tryfirst", "trylast"])
def test_an_order_of_the_plugin_s_own_is_refused_because_it_would_be_ignored(option: str, faults: Faults) -> None:
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


def test_an_undecorated_hook_name_is_refused(faults: Faults) -> None:
    class Forgot(Plugin):
        def register_limiters(self, gateway: Gateway) -> Iterable[Any]:
            return []

    assert faults(Forgot) == ["plugin 'specimen': register_limiters lacks the @hookimpl decorator"]


def test_an_unknown_hook_is_refused_with_the_nearest_word(faults: Faults) -> None:
    class Misspelt(Plugin):
        @hookimpl
        def register_limiter(self, gateway: Gateway) -> Iterable[Any]:
            return []

    assert faults(Misspelt) == [
        ("plugin 'specimen': unknown hook 'register_limiter'; did you mean 'register_limiters'?")
    ]


def test_a_hook_under_another_name_is_refused(faults: Faults) -> None:
    class Renamed(Plugin):
        @hookimpl(specname="register_limiters")
        def zz(self, gateway: Gateway) -> Iterable[Any]:
            return []

    assert faults(Renamed) == ["plugin 'specimen': unknown hook 'zz'"]


@pytest.mark.parametrize("hook", hook_names())
def test_an_unknown_argument_is_refused_with_those_there_are(hook: str, faults: Faults) -> None:
    def greedy(self: Plugin, settings: Any) -> Any:
        return []

    told = faults(type("Greedy", (Plugin,), {hook: hookimpl(greedy)}))
    assert told == [f"plugin 'specimen': {hook} has no argument 'settings'; it may take: gateway"]


def test_an_inherited_hook_is_checked_like_the_class_s_own(faults: Faults) -> None:
    class Base(Plugin):
        @hookimpl
        async def register_limiters(self, gateway: Gateway) -> Iterable[Any]:
            return []

    class Derived(Base):
        pass

    assert "register_limiters must not be async" in faults(Derived)[0]
