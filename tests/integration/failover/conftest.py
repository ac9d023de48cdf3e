"""Who is told of failures, and streams that break off."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from gatehook import Call, Observer, Outcome, Section, Target, hookimpl
from gatehook.testing import Reply

House = Callable[..., Any]


class Watcher(Observer):
    """Keeps what observers are told."""

    def __init__(self) -> None:
        self.failed: list[tuple[str, str | None]] = []
        self.outcomes: list[Outcome] = []

    def attempt_failed(self, call: Call, target: Target, error: Any) -> None:
        self.failed.append((target.key, error.code))

    def finished(self, call: Call, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
def watched(house: House, watcher: Watcher) -> House:
    """A house whose every call is watched."""

    class Watch:
        Settings = Section

        def __init__(self, settings: Section) -> None:
            pass

        @hookimpl
        def register_observers(self) -> list[Observer]:
            return [watcher]

    def opened(*models: Any, **changes: Any) -> Any:
        return house(*models, plugins={"watch": Watch}, plugin_watch={}, **changes)

    return opened


def content(events: bytes) -> str:
    """The text in a stream of OpenAI's dialect."""
    found = ""
    for event in events.decode().split("\n\n"):
        if event.startswith("data: {") and (choices := json.loads(event[6:]).get("choices")):
            found += choices[0]["delta"].get("content") or ""
    return found


@pytest.fixture(name="content")
def content_fixture() -> Callable[[bytes], str]:
    """Joins the text in a stream of OpenAI's dialect."""
    return content


def half_of(reply: Reply, until: bytes, **how: Any) -> Reply:
    """The reply's events up to and including the first with `until` in it."""
    pieces = list(reply.body)
    last = next(number for number, piece in enumerate(pieces) if until in piece)  # type: ignore[operator]
    return Reply.of_events(pieces[: last + 1], **how)  # type: ignore[arg-type]


@pytest.fixture(name="half_of")
def half_fixture() -> Callable[..., Reply]:
    """Breaks a reply off after the first event with a text in it."""
    return half_of
