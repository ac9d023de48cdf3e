"""Services that plugins offer to others, and lifespans: begun by dependency, left in reverse."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from gatehook import (
    Route,
    Section,
    ServiceKey,
    StartupError,
    hookimpl,
)
from gatehook.app import Gateway
from gatehook.serving.server import running

Ask = Callable[..., Any]
Specimen = Callable[..., type]
Build = Callable[..., Gateway]
Told = Callable[..., list[str]]
Asking = Callable[[Gateway], AbstractAsyncContextManager[Ask]]
MakeRoute = Callable[..., Route]


class Store:
    """A service."""


STORE = ServiceKey[Store]("store", provider="sql_store")


def user_of(key: ServiceKey[Any], seen: list[object], *, requires: bool = True) -> type:
    """A plugin that takes a service when its routes are asked for."""

    class User:
        Settings = Section

        def __init__(self, settings: Section) -> None: ...

        @hookimpl
        def register_routes(self, gateway: Gateway) -> Iterable[Route]:
            seen.append(gateway.services[key])
            return []

    return type("UserOf", (User,), {"requires": (key,) if requires else ()})


@pytest.mark.parametrize("names", [("a_store", "b_user"), ("b_store", "a_user")])
def test_hook_register_services_offers_an_object_to_others_whatever_the_order(
    names: tuple[str, str], specimen: Specimen, build: Build
) -> None:
    store, seen = Store(), list[object]()
    gateway = build(**{names[0]: specimen(register_services=[(STORE, store)]), names[1]: user_of(STORE, seen)})
    assert seen == [store]
    assert STORE in gateway.services


@pytest.mark.parametrize("requires", [True, False])
def test_a_missing_service_is_an_error_that_names_the_plugin_to_enable(requires: bool, told: Told) -> None:
    (fault,) = told(user=user_of(STORE, [], requires=requires))
    assert "plugin 'user'" in fault
    assert "service 'store'" in fault
    assert fault.endswith("enable [plugins.sql_store]")


def test_a_service_offered_twice_is_an_error_naming_both_plugins(specimen: Specimen, told: Told) -> None:
    one, two = (specimen(register_services=[(STORE, Store())]) for _ in range(2))
    assert told(one=one, two=two) == ["service 'store' is offered by both 'one' and 'two'; disable one"]


def test_the_kernel_s_own_catalog_cannot_be_offered_again(specimen: Specimen, told: Told) -> None:
    from gatehook import CATALOG

    (fault,) = told(mine=specimen(register_services=[(CATALOG, object())]))
    assert fault == "service 'catalog' is offered by both 'kernel' and 'mine'; disable one"


def test_plugins_that_require_each_other_in_a_circle_are_refused(specimen: Specimen, told: Told) -> None:
    other = ServiceKey[Store]("other", provider="other")
    one = specimen(requires=(other,), register_services=[(STORE, Store())])
    two = specimen(requires=(STORE,), register_services=[(other, Store())])
    assert told(one=one, two=two) == ["plugins require each other in a circle: one → two → one"]


@pytest.fixture
def spanning(specimen: Specimen) -> Specimen:
    """Makes a plugin whose lifespan notes when it is entered and left; it may fail at either."""

    def made(name: str, log: list[str], fails: str = "", **rest: Any) -> type:

        @contextlib.asynccontextmanager
        async def span() -> AsyncIterator[None]:
            if fails == "entering":
                raise OSError(f"{name} is unreachable")
            log.append(f"+{name}")
            try:
                yield
            finally:
                log.append(f"-{name}")
            if fails == "leaving":
                raise OSError(f"{name} broke")

        return specimen(register_lifespans=[span], **rest)

    return made


async def test_hook_register_lifespans_are_entered_by_dependency_and_left_in_reverse(
    build: Build, spanning: Specimen
) -> None:
    log: list[str] = []
    late = spanning("late", log, register_services=[(STORE, Store())])
    gateway = build(
        "[plugins.z_store]\norder = 9\n",
        a_user=spanning("user", log, requires=(STORE,)),
        b=spanning("b", log),
        z_store=late,
    )
    async with running(gateway):
        assert log == ["+late", "+user", "+b"]
        assert gateway.serving
    assert log == ["+late", "+user", "+b", "-b", "-user", "-late"]
    assert not gateway.serving


async def test_a_lifespan_that_fails_to_begin_names_its_plugin_and_the_others_are_left(
    build: Build, spanning: Specimen
) -> None:
    log: list[str] = []
    gateway = build(a=spanning("a", log), b=spanning("b", log, fails="entering"), c=spanning("c", log))
    with pytest.raises(StartupError) as caught:
        async with running(gateway):
            pytest.fail("it must not serve")
    (fault,) = caught.value.faults
    assert fault.startswith(f"plugin 'b' cannot start: OSError('b is unreachable'), at {__file__}:")
    assert log == ["+a", "-a"]
    with pytest.raises(RuntimeError, match="egress is not open"):
        await gateway.egress.fetch("http://example.com", param="x")


async def test_a_lifespan_s_own_startup_error_keeps_its_words(specimen: Specimen, build: Build) -> None:
    @contextlib.asynccontextmanager
    async def span() -> AsyncIterator[None]:
        raise StartupError("[plugins.b] url: cannot be reached")
        yield

    with pytest.raises(StartupError) as caught:
        async with running(build(b=specimen(register_lifespans=[span]))):
            pytest.fail("it must not serve")
    assert caught.value.faults == ["plugin 'b': [plugins.b] url: cannot be reached"]


async def test_what_is_no_context_manager_is_a_startup_error_too(specimen: Specimen, build: Build) -> None:
    with pytest.raises(StartupError, match=r"plugin 'b' cannot start: .*context manager"):
        async with running(build(b=specimen(register_lifespans=[object]))):
            pytest.fail("it must not serve")


async def test_a_lifespan_that_fails_to_end_does_not_keep_the_others_from_ending(
    build: Build, spanning: Specimen
) -> None:
    log: list[str] = []
    gateway = build(a=spanning("a", log), b=spanning("b", log, fails="leaving"))
    with pytest.raises(OSError, match="b broke"):
        async with running(gateway):
            pass
    assert log == ["+a", "+b", "-b", "-a"]


async def test_lifespans_are_entered_before_the_first_request_and_left_after_the_last(
    build: Build, asking: Asking, route: MakeRoute, spanning: Specimen
) -> None:
    log: list[str] = []
    plugin = spanning("x", log, register_routes=[route("GET", "/log", lambda request: ",".join(log))])
    async with asking(build(x=plugin)) as ask:
        assert (await ask("GET", "/log")).body == b"+x"
    assert log == ["+x", "-x"]
