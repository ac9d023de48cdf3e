import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import Group, Pricing, Principal, StartupError, Target
from gatehook.accounts import common_models, covers
from gatehook.catalog import LiveCatalog
from gatehook.names import Names
from gatehook.testing import built


def target(name: str, number: int = 1, **fields: Any) -> Target:
    return Target(**({"key": f"{name}#{number}", "name": name, "vendor": "mock", "model": name} | fields))


def names(*patterns: str) -> Names:
    return Names(dict.fromkeys(patterns, ()))


# --- aliases ---------------------------------------------------------------------------------------------------------


def test_an_alias_answers_with_the_deployments_of_its_model_and_is_listed_last() -> None:
    catalog = LiveCatalog([target("a", 1, aliases=("x",)), target("b"), target("a", 2, aliases=("y", "x"))])
    assert catalog.group("x") is catalog.group("y") is catalog.group("a")
    assert list(catalog.groups()) == ["a", "b", "x", "y"]
    assert [catalog.canonical(name) for name in ("x", "y", "a", "b", "ghost")] == ["a", "a", "a", "b", "ghost"]


def test_a_model_s_own_name_goes_before_an_alias_which_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    catalog = LiveCatalog([target("a"), target("b", aliases=("x",))])
    with caplog.at_level(logging.WARNING):
        catalog.feed("test", [target("c", aliases=("a", "x", "own"))])
        catalog.feed("test", [target("c", aliases=("a", "x", "own")), target("d")])
    assert caplog.messages == [
        "model 'c' cannot have the alias 'a': it is a name of model 'a'",
        "model 'c' cannot have the alias 'x': it is a name of model 'b'",
    ]
    assert [catalog.group(name)[0].name for name in ("a", "x", "own")] == ["a", "b", "c"]


def test_a_clash_within_the_settings_is_told_as_their_fault_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        catalog = LiveCatalog([target("a", aliases=("x",)), target("b", aliases=("x",))])
        assert caplog.messages == []
        catalog.feed("test", [target("c", aliases=("x",))])
    assert caplog.messages == ["model 'c' cannot have the alias 'x': it is a name of model 'a'"]


def test_an_alias_goes_when_a_model_of_that_name_comes() -> None:
    catalog = LiveCatalog([target("a", aliases=("x",))])
    catalog.feed("test", [target("x")])
    assert (catalog.group("x")[0].name, catalog.canonical("x")) == ("x", "x")
    catalog.feed("test", [])
    assert catalog.group("x")[0].name == "a"


# --- wildcards -------------------------------------------------------------------------------------------------------


def test_a_wildcard_serves_what_has_no_entry_of_its_own_under_the_name_that_was_asked() -> None:
    catalog = LiveCatalog(
        [target("o/*", model="v-*", fallbacks=("b",)), target("o/own"), target("o/long/*", model="*")]
    )
    (found,) = catalog.group("o/any")
    assert (found.name, found.key, found.model, found.fallbacks) == ("o/any", "o/*#1", "v-any", ("b",))
    assert catalog.group("o/any") is catalog.group("o/any")
    assert catalog.group("o/own")[0].key == "o/own#1"
    assert [one.model for one in catalog.group("o/long/x/y")] == ["x/y"]
    assert list(catalog.groups()) == ["o/*", "o/own", "o/long/*"]
    assert [catalog.canonical(name) for name in ("o/any", "o/long/x", "o/own")] == ["o/*", "o/long/*", "o/own"]


@pytest.mark.parametrize(
    "name",
    ["o/", "o/*", "o/a b", "o/..", "o/../x", "o/x/./y", "o//x", "o/x/", "o/x?y", "o/x#y", "o/%2e", "o/ä", "o/a\n"],
)
def test_what_vendors_could_misread_is_served_by_no_wildcard(name: str) -> None:
    catalog = LiveCatalog([target("o/*", model="*")])
    assert catalog.group(name) == ()
    assert catalog.canonical(name) == name


def test_a_name_of_any_length_is_served_up_to_256_characters() -> None:
    catalog = LiveCatalog([target("*")])
    assert catalog.group("x" * 256)
    assert not catalog.group("x" * 257)


def test_names_that_clients_make_up_do_not_fill_the_memory() -> None:
    catalog = LiveCatalog([target("*")])
    kept = catalog.group("kept")
    for number in range(3_000):
        assert catalog.group(f"m{number}")[0].name == f"m{number}"
        assert catalog.group("kept") is kept
    assert len(catalog._expansions) == 1_000


PREFIXES = st.text("ab/", max_size=3)


@given(
    st.sets(PREFIXES, max_size=5),
    st.sets(st.text("ab", min_size=1, max_size=3), max_size=3),
    st.text("ab/", max_size=5),
)
def test_names_resolve_as_a_naive_search_says(prefixes: set[str], own: set[str], name: str) -> None:
    known = names(*own, *(prefix + "*" for prefix in prefixes))
    fitting = [prefix for prefix in prefixes if name.startswith(prefix) and all(name[len(prefix) :].split("/"))]
    naive = name if name in own else max((prefix + "*" for prefix in fitting), key=len, default="")
    assert known.find(name) == naive


# --- amendments ------------------------------------------------------------------------------------------------------


def test_amendments_change_what_is_there_and_what_comes_and_each_source_has_one() -> None:
    catalog = LiveCatalog([target("a"), target("o/*", model="*")])
    told: list[int] = []
    catalog.subscribe(lambda: told.append(1))
    catalog.amend("one", lambda found: replace(found, weight=found.weight + 1))
    catalog.amend("two", lambda found: replace(found, weight=found.weight * 10))
    catalog.feed("test", [target("b")])
    assert [catalog.group(name)[0].weight for name in ("a", "b", "o/x")] == [20.0, 20.0, 20.0]
    catalog.amend("one", lambda found: found)
    assert catalog.group("a")[0].weight == 10.0
    assert len(told) == 4
    catalog.amend("one", lambda found: found)  # nothing new: nobody is told
    assert len(told) == 4


def test_an_amendment_that_fails_leaves_all_as_it_was() -> None:
    catalog = LiveCatalog([target("a")])

    def failing(found: Target) -> Target:
        raise RuntimeError(found.key)

    before = catalog.groups()
    with pytest.raises(RuntimeError):
        catalog.amend("test", failing)
    assert catalog.groups() is before
    catalog.feed("test", [target("b")])
    assert catalog.group("b")


# --- settings --------------------------------------------------------------------------------------------------------


def model(name: str, more: str = "", vendor: str = "mock") -> str:
    return f"[[models]]\nname = '{name}'\nvendor = '{vendor}'\n{more}\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (model("a", "aliases = ['b']") + model("b"), "#1 (a) aliases: 'b' is a name of model 'b' already"),
        (
            model("a", "aliases = ['x']") + model("b", "aliases = ['x']"),
            "#2 (b) aliases: 'x' is a name of model 'a' already",
        ),
        (model("a", "aliases = ['a']"), "#1 (a) aliases: must not be the model's own name"),
        (model("a", "aliases = ['x*']"), "#1 (a) aliases: must not hold '*'"),
        (model("a/*", "aliases = ['x']"), "#1 (a/*) aliases: a model whose name ends in '*' has none"),
        (model("a*b"), "#1 (a*b) name: may hold one '*', at its end"),
        (model("a**"), "#1 (a**) name: may hold one '*', at its end"),
        (model("a", "model = 'x*'"), "#1 (a) model: may hold one '*', which stands for the rest of the name"),
        (model("a*", "model = 'x**'"), "#1 (a*) model: may hold one '*', which stands for the rest of the name"),
        (model("a", "fallbacks = ['o/*']") + model("o/*"), "#1 (a) fallbacks: no model is named 'o/*'"),
        (model("a", "fallbacks = ['x']\naliases = ['x']"), "#1 (a) fallbacks: goes round in a circle: a → a"),
        (
            model("a", "fallbacks = ['x']") + model("b", "fallbacks = ['a']\naliases = ['x']"),
            "#1 (a) fallbacks: goes round in a circle: a → b → a",
        ),
        (
            model("a", "fallbacks = ['o/x']") + model("o/*", "fallbacks = ['a']"),
            "#1 (a) fallbacks: goes round in a circle: a → o/* → a",
        ),
        (
            model("a", "weight = 0") + model("a", "weight = 0\nmodel = 'x'"),
            "#1 (a) weight: those of 'a' at priority 1 sum to zero; enabled = false takes one out",
        ),
        (
            model("a", "priority = 2") + model("a", "weight = 0\nmodel = 'x'"),
            "#2 (a) weight: those of 'a' at priority 1 sum to zero",
        ),
        (model("a", "weight = nan"), "#1 (a) weight: "),
        (model("a", "weight = -1"), "#1 (a) weight: input should be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_is_a_fault_at_start_up(text: str, fault: str) -> None:
    with pytest.raises(StartupError) as caught:
        built(text)
    (said,) = caught.value.faults
    assert fault in said


@pytest.mark.parametrize(
    "text",
    [
        model("a", "aliases = ['x']") + model("a", "aliases = ['x']\nmodel = 'other'"),
        model("a", "aliases = ['x']") + model("x", "enabled = false"),
        model("a", "fallbacks = ['x', 'o/any']") + model("b", "aliases = ['x']") + model("o/*"),
        model("o/*", "fallbacks = ['o/mini', 'o/tiny']\nmodel = '*'"),
        model("a", "weight = 0\nmodel = 'x'") + model("a"),
    ],
)
def test_what_can_be_is_no_fault(text: str) -> None:
    assert built(text).catalog.groups()


# --- who may use what ------------------------------------------------------------------------------------------------


def test_patterns_allow_what_begins_as_they_do() -> None:
    ann = Principal("ann", models=frozenset({"a", "o/*"}))
    assert [ann.may_use(name) for name in ("a", "o/x", "o/", "o", "ab", "*")] == [True, True, True, False, False, False]
    assert ann.may_use("alias", "a")
    assert not ann.may_use("alias", "other")
    assert not ann.may_use()


LISTS = st.none() | st.frozensets(
    st.text("ab*", min_size=1, max_size=3).map(lambda text: text[:-1].replace("*", "") + text[-1])
)


@given(LISTS, LISTS, st.text("ab", max_size=4))
def test_two_lists_together_allow_what_both_do(
    some: frozenset[str] | None, others: frozenset[str] | None, name: str
) -> None:
    both = common_models(some, others)
    allowed: Callable[[frozenset[str] | None], bool] = lambda models: models is None or covers(models, name)  # noqa: E731
    assert allowed(both) == (allowed(some) and allowed(others))


# --- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "context_window", "max_tokens"),
    [
        ([], 0, 0),
        ([{"context_window": 100, "max_tokens": 9}], 100, 9),
        ([{"context_window": 100, "max_tokens": 9}, {"context_window": 300, "max_tokens": 7}], 300, 9),
        ([{"context_window": 100, "max_tokens": 9}, {}], 0, 0),
        ([{"max_tokens": 9, "defaults": {"max_tokens": 4}}, {"defaults": {"max_tokens": 5}}], 0, 5),
    ],
)
def test_a_group_knows_what_all_of_its_deployments_tell(
    fields: list[dict[str, Any]], context_window: int, max_tokens: int
) -> None:
    group = Group(target("a", number, **some) for number, some in enumerate(fields))
    assert (group.context_window, group.max_tokens) == (context_window, max_tokens)


def test_a_group_has_the_prices_of_its_first_deployment_with_any() -> None:
    cheap, dear = Pricing(1, 2), Pricing(3, 4)
    assert Group([target("a"), target("a", 2, pricing=dear), target("a", 3, pricing=cheap)]).pricing == dear
    assert Group([target("a")]).pricing is None


@pytest.mark.parametrize("told", [{"capabilities": ("vision",)}, {"context_window": 10}, {"max_tokens": 10}])
def test_a_group_is_fit_for_all_where_none_of_its_deployments_tells_what_it_cannot_do(told: dict[str, Any]) -> None:
    assert Group([target("a"), target("a", 2)]).is_fit_for_all
    assert not Group([target("a"), target("a", 2, **told)]).is_fit_for_all


def test_what_a_group_knows_changes_with_the_catalog() -> None:
    catalog = LiveCatalog([target("o/*", context_window=10, pricing=Pricing(1, 2))])
    assert (catalog.group("o/x").context_window, catalog.group("o/x").pricing) == (10, Pricing(1, 2))
    catalog.amend("test", lambda one: replace(one, context_window=20, pricing=None))
    assert (catalog.group("o/x").context_window, catalog.group("o/x").pricing) == (20, None)
    assert catalog.group("nobody's") == Group()
