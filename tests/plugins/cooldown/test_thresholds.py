"""What an administrator sets at run time, sound or not."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from gatehook_plugins.cooldown.condition import Rules
from gatehook_plugins.cooldown.thresholds import Thresholds


class Stored:
    """A directory that holds what a test puts there."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = {}
        self.changed: list[Callable[[str, str], None]] = []

    def config(self, name: str) -> tuple[dict[str, Any], int]:
        return (self.value, 1) if name == "load-balancing" else ({}, 0)

    def subscribe(self, changed: Callable[[str, str], None]) -> None:
        self.changed.append(changed)

    def put(self, **value: Any) -> None:
        self.value = value
        for changed in self.changed:
            changed("config", "load-balancing")


def test_what_is_stored_holds_until_it_is_taken_back() -> None:
    thresholds, stored, told = Thresholds(Rules(3, 2, 30, 300), 0), Stored(), []
    thresholds.subscribe(lambda: told.append(thresholds.health_check_interval))
    thresholds.follow(stored)  # type: ignore[arg-type]
    stored.put(failure_threshold=5, health_check_interval=0.5)
    assert thresholds.rules == Rules(5, 2, 30, 300)
    assert told == [0.5]
    stored.put(failure_threshold=5, health_check_interval=0.5, strategy="random")
    assert told == [0.5], "nothing of ours has changed"
    stored.put()
    assert (thresholds.rules, told) == (Rules(3, 2, 30, 300), [0.5, 0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("failure_threshold", 0),
        ("failure_threshold", -1),
        ("recovery_threshold", True),
        ("recovery_threshold", "2"),
        ("failure_threshold", 10**400),
        ("health_check_interval", -0.1),
        ("health_check_interval", float("nan")),
        ("health_check_interval", float("inf")),
    ],
)
def test_what_cannot_be_is_passed_over_by_name_once_and_the_rest_holds(
    name: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    thresholds, stored = Thresholds(Rules(3, 2, 30, 300), 7), Stored()
    thresholds.follow(stored)  # type: ignore[arg-type]
    sound = {"failure_threshold": 4} if name != "failure_threshold" else {"recovery_threshold": 4}
    with caplog.at_level(logging.ERROR, "gatehook.cooldown"):
        stored.put(**{name: value}, **sound)
        stored.put(**{name: value}, **sound)
    assert len(caplog.records) == 1
    assert f"{name} " in caplog.text
    assert thresholds.rules in (Rules(4, 2, 30, 300), Rules(3, 4, 30, 300))
    assert thresholds.health_check_interval == 7
