"""A plugin holds one value of the configuration: the newest, with what is unsound in it told once."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from gatehook import HeldConfig

log = logging.getLogger("gatehook.test")


class Directory:
    """Two values, and who wants to know of them."""

    def __init__(self) -> None:
        self.values: dict[str, Mapping[str, Any]] = {}
        self.changed: list[Callable[[str, str], None]] = []

    def config(self, name: str) -> tuple[Mapping[str, Any], int]:
        return self.values.get(name, {}), 1

    def subscribe(self, changed: Callable[[str, str], None]) -> None:
        self.changed.append(changed)

    def set(self, name: str, **value: Any) -> None:
        self.values[name] = value
        for changed in self.changed:
            changed("config", name)


class Size(HeldConfig):
    """A number, 1 where none is set."""

    def __init__(self) -> None:
        super().__init__("size", log)
        self.number = 1
        self.held = 0

    def hold(self, value: Mapping[str, Any]) -> None:
        self.held += 1
        number = value.get("number", 1)
        is_sound = isinstance(number, int)
        self.pass_over([] if is_sound else [f"number {number!r}"])
        if is_sound and number != self.number:
            self.number = number
            self.tell()


def followed() -> tuple[Size, Any, list[int]]:
    size, directory, told = Size(), Directory(), list[int]()
    size.subscribe(lambda: told.append(size.number))
    held: Any = directory
    size.follow(held)
    return size, directory, told


def test_what_is_set_holds_at_once_and_who_has_subscribed_is_told() -> None:
    size, directory, told = followed()
    assert (size.number, size.held) == (1, 1)
    directory.set("size", number=2)
    directory.set("size", number=2)
    directory.set("size")
    assert (size.number, told) == (1, [2, 1])


def test_other_values_are_no_concern_of_it_and_everything_is() -> None:
    size, directory, _ = followed()
    directory.set("colour", number=3)
    assert size.held == 1
    directory.values["size"] = {"number": 4}
    directory.changed[0]("", "")
    assert (size.number, size.held) == (4, 2)


def test_what_is_unsound_is_told_once_and_again_when_it_comes_back(caplog: Any) -> None:
    size, directory, told = followed()
    for _ in range(2):
        directory.set("size", number="much")
    assert caplog.text.count("of size, as it is configured, this is passed over: number 'much'") == 1
    directory.set("size", number=2)
    directory.set("size", number="much")
    assert caplog.text.count("passed over") == 2
    assert (size.number, told) == (2, [2])
