"""A deployment's options, read as a type."""

from typing import Any

import pytest
from msgspec import Struct

from gatehook import Misconfigured, Retry, option_faults, read_options
from gatehook.testing import attempt


class Options(Struct, forbid_unknown_fields=True):
    """Those of a vendor."""

    region: str
    headers: dict[str, str] = {}


def test_options_that_fit_are_typed() -> None:
    target = attempt({}, options={"region": "north", "headers": {"a": "b"}}).target
    assert read_options(target, Options) == Options("north", {"a": "b"})
    assert option_faults(target, Options) == []


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, "options: region: required, but missing"),
        ({"region": 1}, "options: region: expected str, got int"),
        ({"region": "a", "header": {}}, "options: header: no such field; did you mean 'headers'?"),
        ({"region": "a", "headers": {"x-secret": ["sesame"]}}, "options: headers[...]: expected str, got array"),
    ],
)
def test_what_does_not_fit_is_told_without_its_value(options: dict[str, Any], fault: str) -> None:
    target = attempt({}, name="mine", options=options).target
    assert option_faults(target, Options) == [fault]
    with pytest.raises(Misconfigured) as caught:
        read_options(target, Options)
    told = (caught.value.message, caught.value.status, caught.value.code, caught.value.retry)
    assert told == (f"model 'mine': {fault}", 500, "misconfigured_model", Retry.NEXT)
