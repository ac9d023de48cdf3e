"""Services: typed keys, one provider each, and messages that say what to enable or disable."""

import pytest

from gatehook.catalog import LiveCatalog
from gatehook.errors import StartupError
from gatehook.model import Target
from gatehook.services import CATALOG, Catalog, ServiceKey, Services

NUMBERS: ServiceKey[list[int]] = ServiceKey("numbers", provider="counting")


def target(name: str, number: int) -> Target:
    return Target(f"{name}#{number}", name, "v", "u")


def test_what_is_offered_is_found_under_its_key() -> None:
    services = Services()
    offered = [1, 2]
    services.provide(NUMBERS, offered, "counting")
    assert NUMBERS in services
    assert services[NUMBERS] is offered


def test_an_empty_service_is_a_service() -> None:
    services = Services()
    services.provide(NUMBERS, [], "counting")
    assert NUMBERS in services
    assert services[NUMBERS] == []


def test_a_second_provider_is_a_fault_that_names_both() -> None:
    services = Services()
    services.provide(NUMBERS, [1], "counting")
    with pytest.raises(
        StartupError, match=r"^service 'numbers' is offered by both 'counting' and 'abacus'; disable one$"
    ):
        services.provide(NUMBERS, [2], "abacus")
    assert services[NUMBERS] == [1]


def test_a_missing_service_is_a_fault_that_names_the_plugin_to_enable() -> None:
    services = Services()
    assert NUMBERS not in services
    with pytest.raises(
        StartupError, match=r"^service 'numbers' is not offered by any plugin; enable \[plugins.counting\]$"
    ):
        _ = services[NUMBERS]


def test_a_key_is_its_name_wherever_it_was_made() -> None:
    services = Services()
    services.provide(NUMBERS, [1], "counting")
    assert services[ServiceKey[list[int]]("numbers", provider="someone else")] == [1]
    assert hash(NUMBERS) == hash(ServiceKey[list[int]]("numbers", provider="counting"))


def test_the_catalog_groups_deployments_by_public_name_in_the_settings_order() -> None:
    targets = [target("b", 1), target("a", 1), target("b", 2)]
    catalog = LiveCatalog(targets)
    assert list(catalog.groups()) == ["b", "a"]
    assert catalog.group("b") == (targets[0], targets[2])
    assert catalog.group("a") == (targets[1],)


def test_the_catalog_gives_nothing_for_a_name_it_does_not_know() -> None:
    catalog = LiveCatalog([target("a", 1)])
    assert [catalog.group(name) for name in ("A", "", "a#1", "b")] == [()] * 4
    assert LiveCatalog([]).groups() == {}


def test_the_catalog_is_a_service() -> None:
    catalog: Catalog = LiveCatalog([target("a", 1)])
    services = Services()
    services.provide(CATALOG, catalog, "kernel")
    assert services[CATALOG].group("a")


def test_what_a_source_feeds_joins_the_groups_and_replaces_only_what_it_fed_before() -> None:
    catalog = LiveCatalog([target("a", 1)])
    seen: list[list[str]] = []
    catalog.subscribe(lambda: seen.append(list(catalog.groups())))
    catalog.feed("one", [target("a", 2), target("b", 1)])
    catalog.feed("two", [target("c", 1)])
    catalog.feed("one", [target("d", 1)])
    catalog.feed("one", [target("d", 1)])  # nothing new: nobody is told
    assert seen == [["a", "b"], ["a", "b", "c"], ["a", "d", "c"]]
    assert catalog.group("a") == (target("a", 1),)
    assert catalog.group("b") == ()


def test_a_service_may_be_asked_for_without_being_needed() -> None:
    services = Services()
    assert services.get(NUMBERS) is None
    services.provide(NUMBERS, [], "counting")
    assert services.get(NUMBERS) == []
