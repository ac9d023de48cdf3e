"""A vendor's parameter table: mapped, dropped with a signal, or refused; never lost in silence."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook.errors import InvalidRequest, Retry
from gatehook.parameters import Parameter, dropped, mapped, refused, sift

TABLE = {
    "model": mapped("itself"),
    "stop": mapped("stop_sequences"),
    "seed": dropped("answers cannot be repeated"),
    "logprobs": dropped("none are given", unless=(False,)),
    "user": dropped("not told", unless=("", None)),
    "n": refused("one answer only", unless=(1,)),
    "logit_bias": refused("tokens differ", unless=({},)),
    "modalities": refused("text only", unless=(["text"], [])),
}


def sifted(payload: dict[str, Any], *, strict: bool = False) -> tuple[dict[str, Any], list[str]]:
    return sift(payload, TABLE, vendor="acme", strict=strict)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", [*TABLE, "unheard_of"])
def test_null_is_the_same_as_absent(name: str, strict: bool) -> None:
    assert sifted({name: None}, strict=strict) == ({}, [])


@pytest.mark.parametrize("value", [0, 0.0, False, "", [], {}, "text", 1, [None], {"a": None}])
def test_every_value_but_null_is_a_value(value: Any) -> None:
    kept, lost = sifted({"stop": value})
    assert kept == {"stop": value}
    assert type(kept["stop"]) is type(value)
    assert lost == []
    assert sifted({"seed": value}) == ({}, ["seed"])


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("name", "value"),
    [("n", 1), ("logprobs", False), ("user", ""), ("logit_bias", {}), ("modalities", ["text"]), ("modalities", [])],
)
def test_a_value_that_asks_for_nothing_is_left_out_without_a_word(name: str, value: Any, strict: bool) -> None:
    assert sifted({name: value}, strict=strict) == ({}, [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", True),
        ("n", 1.0),
        ("n", "1"),
        ("n", 2),
        ("n", 0),
        ("n", False),
        ("logit_bias", []),
        ("logit_bias", {"1": 1}),
        ("modalities", ("text",)),
        ("modalities", ["text", "audio"]),
    ],
)
def test_a_value_of_another_type_is_not_harmless_though_it_is_equal(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest):
        sifted({name: value})


@pytest.mark.parametrize("value", [0, 0.0, "", None, [], True])
def test_only_false_itself_is_no_wish_for_logprobs(value: Any) -> None:
    assert sifted({"logprobs": value})[1] == ([] if value is None else ["logprobs"])


def test_a_refusal_names_the_parameter_the_vendor_and_the_reason_and_leaves_other_deployments_a_chance() -> None:
    with pytest.raises(InvalidRequest) as caught:
        sifted({"model": "m", "n": 2})
    error = caught.value
    assert error.message == "n: not supported by vendor 'acme': one answer only"
    assert (error.param, error.code, error.status, error.retry) == ("n", "unsupported_parameter", 400, Retry.NEXT)


@pytest.mark.parametrize(("name", "value"), [("seed", 0), ("logprobs", True), ("unheard_of", False), ("n", 2)])
def test_strict_turns_every_drop_into_a_refusal(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sifted({name: value}, strict=True)
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


def test_unknown_names_are_dropped_and_told() -> None:
    assert sifted({"model": "m", "x_new": {"deep": 1}, "seed": 1, "": 1}) == ({"model": "m"}, ["x_new", "seed", ""])


def test_a_table_may_tell_what_is_harmless_by_itself() -> None:
    table = {"temperature": Parameter("dropped", "fixed", harmless=lambda value: value in (1, 1.0))}
    assert sift({"temperature": 1.0}, table, vendor="v") == ({}, [])
    assert sift({"temperature": 0}, table, vendor="v") == ({}, ["temperature"])


@given(st.dictionaries(st.sampled_from([*TABLE, "x", "y"]), st.none() | st.integers(0, 2) | st.text(max_size=1)))
def test_every_parameter_is_kept_told_refused_or_asks_for_nothing(payload: dict[str, Any]) -> None:
    before = dict(payload)
    wishes = [name for name, value in payload.items() if value is not None]
    if any(
        TABLE[name].disposition == "refused" and not TABLE[name].harmless(payload[name])
        for name in wishes
        if name in TABLE
    ):
        with pytest.raises(InvalidRequest) as caught:
            sifted(payload)
        assert caught.value.param in wishes
        assert payload == before
        return
    kept, lost = sifted(payload)
    assert payload == before
    assert kept.keys().isdisjoint(lost)
    assert len(lost) == len(set(lost))
    for name, value in payload.items():
        rule = TABLE.get(name)
        silent = value is None or (rule is not None and rule.disposition != "mapped" and rule.harmless(value))
        assert (name in kept or name in lost) != silent
        if name in kept:
            assert kept[name] == value
