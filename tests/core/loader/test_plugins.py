"""The loader: what it finds, what it never imports, and in which order it asks."""

import contextlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from gatehook import Call, Observer, Permit, Route, Section, ServiceKey, StartupError, hookimpl
from gatehook.app import Gateway
from gatehook.config.settings import load
from gatehook.loader.loading import installed
from gatehook.testing import available, built

Distribution = Callable[..., None]
Faults = Callable[..., list[str]]
OverInstalled = Callable[[Path, str], Gateway]


class Plugin:
    """What every specimen shares; harmless by itself."""

    Settings: type[Section] = Section

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


def test_a_distribution_s_plugin_is_found_by_its_entry_point(
    tmp_path: Path, distribution: Distribution, gateway: OverInstalled
) -> None:
    distribution("gatehook-acme", {"acme": "specimen_acme:Plugin"}, specimen_acme=SOUND)
    report = {one.name: one for one in gateway(tmp_path, "[plugins.acme]").plugins.report()}
    assert (report["acme"].distribution, report["acme"].version, report["acme"].enabled) == (
        "gatehook-acme",
        "7.1",
        True,
    )
    assert not report["openai_api"].enabled


def test_installing_does_not_enable(tmp_path: Path, distribution: Distribution, gateway: OverInstalled) -> None:
    distribution("gatehook-acme", {"acme": "specimen_acme:Plugin"}, specimen_acme=SOUND)
    assert gateway(tmp_path, "").plugins.names == ()


@pytest.mark.parametrize("section", ["", "[plugins.acme]\nenabled = false"])
def test_a_disabled_plugin_is_never_imported(
    tmp_path: Path, distribution: Distribution, section: str, gateway: OverInstalled
) -> None:
    distribution("gatehook-acme", {"acme": "specimen_bomb:Plugin"}, specimen_bomb="raise SystemExit('imported')")
    built_gateway = gateway(tmp_path, section)
    assert "specimen_bomb" not in sys.modules
    assert [one.hooks for one in built_gateway.plugins.report() if one.name == "acme"] == [()]


def test_first_party_modules_of_disabled_plugins_are_not_imported_either(
    tmp_path: Path, gateway: OverInstalled
) -> None:
    names = [name for name in sys.modules if name.startswith("gatehook_plugins.metrics")]
    kept = {name: sys.modules.pop(name) for name in names}
    try:
        gateway(tmp_path, "[plugins.metrics]\nenabled = false\n[plugins.route_models]")
        assert "gatehook_plugins.metrics" not in sys.modules
    finally:
        sys.modules.update(kept)


def test_two_distributions_with_one_plugin_name_are_refused_with_both_named(
    tmp_path: Path, distribution: Distribution, gateway: OverInstalled
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


def test_every_fault_of_every_plugin_is_told_at_once(faults: Faults) -> None:
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


def all_faults(tmp_path: Path, *classes: type) -> list[str]:
    """Every fault of plugins "specimen", "specimen1" …, as `gatehook check` gathers them."""
    plugins = {f"specimen{place or ''}": cls for place, cls in enumerate(classes)}
    file, gathered = tmp_path / "settings.toml", list[str]()
    file.write_text("".join(f"[plugins.{name}]\n" for name in plugins), "utf-8")
    with contextlib.suppress(StartupError):
        Gateway(load(file, environ={}), available(plugins), gathered=gathered)
    return gathered


def test_missing_services_of_several_plugins_are_told_at_once(faults: Faults) -> None:
    class Needs(Plugin):
        requires = (ServiceKey[object]("alpha", provider="alpha_store"),)

    class NeedsOther(Plugin):
        requires = (ServiceKey[object]("beta", provider="beta_store"),)

    assert faults(Needs, NeedsOther) == [
        "plugin 'specimen' needs the service 'alpha', which no enabled plugin offers; enable [plugins.alpha_store]",
        "plugin 'specimen1' needs the service 'beta', which no enabled plugin offers; enable [plugins.beta_store]",
    ]


def test_a_missing_service_is_told_once_though_the_hooks_of_its_plugin_ask_for_it(tmp_path: Path) -> None:
    """Where all faults are gathered, as for `gatehook check`."""
    alpha, beta = ServiceKey[object]("alpha", provider="alpha_store"), ServiceKey[object]("beta", provider="beta_store")

    class Needs(Plugin):
        requires = (alpha,)

        @hookimpl
        def register_routes(self, gateway: Gateway) -> Iterable[Route]:
            gateway.services[alpha]
            return []

        @hookimpl
        def register_observers(self, gateway: Gateway) -> Iterable[Observer]:
            gateway.services[beta]
            return []

    assert sorted(all_faults(tmp_path, Needs)) == [
        "plugin 'specimen' needs the service 'alpha', which no enabled plugin offers; enable [plugins.alpha_store]",
        (
            "plugin 'specimen', register_observers: service 'beta' is not offered by any plugin; "
            "enable [plugins.beta_store]"
        ),
    ]


def test_who_lacks_a_service_of_a_broken_plugin_is_not_told_to_enable_that(tmp_path: Path) -> None:
    alpha = ServiceKey[object]("alpha", provider="specimen")

    class Offers(Plugin):
        @hookimpl
        def register_services(self) -> Iterable[tuple[ServiceKey[object], object]]:
            raise StartupError("[alpha] url: no address")

    class Needs(Plugin):
        requires = (alpha,)

    class Asks(Plugin):
        @hookimpl
        def register_routes(self, gateway: Gateway) -> Iterable[Route]:
            gateway.services[alpha]
            return []

    class Prefers(Plugin):
        @hookimpl
        def register_routes(self, gateway: Gateway) -> Iterable[Route]:
            assert gateway.services.get(alpha) is None
            return []

    assert all_faults(tmp_path, Offers, Needs, Asks, Prefers) == [
        "plugin 'specimen', register_services: [alpha] url: no address"
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
