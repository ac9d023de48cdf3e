"""Names of tool calls, told once and whole: some servers write them in pieces, some repeat them with each fragment.

Many clients take a call's name from its first fragment, others join whatever comes. So the event that begins a call is
held back until the next one, which tells whether the name goes on; after that the name is taken out of the fragments.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gatehook import decode, encode
from gatehook_plugins.vendor_openai.peek import Event

__all__ = ["Names", "name_calls"]

_Place = tuple[int, int]
"""A choice's index, and its call's."""


class _Known:
    """A call as far as it has been told."""

    __slots__ = ("id", "name")

    def __init__(self, call: Mapping[str, Any]) -> None:
        self.id: str = call.get("id") or ""
        self.name: str = call["function"]["name"]


class Names:
    """The names in one stream."""

    __slots__ = ("_begun", "_grown", "_known", "contents", "held")

    def __init__(self) -> None:
        self.held = b""
        """The event that waits, as JSON; b"" if none does."""
        self.contents = 0
        """How many choices of it have content."""
        self._known: dict[_Place, _Known] = {}
        self._begun: set[_Place] = set()
        """The calls that the event held back begins."""
        self._grown = False
        """Whether their names have gone on since."""

    def released(self) -> bytes:
        """The event that waited: something else has come."""
        held = self._with_whole_names() if self._grown else self.held
        self.held, self.contents, self._begun, self._grown = b"", 0, set(), False
        return held

    def whole(self, event: Event, raw: bytes) -> bytes | None:
        """The event without what was told before, or goes with what is held back; None if nothing is left of it.

        Args:
            event: with a name, as `name_calls` says.
            raw: it, as JSON.
        """
        told = [place for place, call in _named(event) if self._goes_on(place, call)]
        return _without_names(raw, told) if told else raw

    def begins(self, event: Event, raw: bytes, contents: int) -> bool:
        """Whether the event begins calls whose names may go on; then it is held back."""
        calls = list(_named(event))
        if any(choice.finish_reason for choice in event.choices or ()):
            return False
        if not calls or any(call["function"].get("arguments") for _, call in calls):
            return False
        self.held, self.contents = raw, contents
        self._begun = {place for place, _ in calls}
        return True

    def _goes_on(self, place: _Place, call: Mapping[str, Any]) -> bool:
        """Whether this name is one told before, or goes on with one held back. Whatever else it is, it goes through."""
        known, given, name = self._known.get(place), call.get("id"), call["function"]["name"]
        if known is None or (given and given != known.id) or not (known.id or place in self._begun):
            self._known[place] = _Known(call)
            return False
        if name == known.name:
            return True
        if place in self._begun:
            known.name += name
            self._grown = True
            return True
        return False

    def _with_whole_names(self) -> bytes:
        event = decode(self.held)
        for place, call in _calls(event["choices"]):
            call["function"]["name"] = self._known[place].name
        return encode(event)


def name_calls(event: Event) -> bool:
    """Whether the event names a call."""
    return next(_named(event), None) is not None


def _named(event: Event) -> Iterator[tuple[_Place, Any]]:
    for choice in event.choices or ():
        if choice.delta is not None and isinstance(choice.delta.tool_calls, list):
            yield from _with_name(choice.index, choice.delta.tool_calls)


def _calls(choices: list[dict[str, Any]]) -> Iterator[tuple[_Place, Any]]:
    for choice in choices:
        yield from _with_name(choice.get("index", 0), (choice.get("delta") or {}).get("tool_calls") or [])


def _with_name(choice: int, calls: list[Any]) -> Iterator[tuple[_Place, Any]]:
    for call in calls:
        if isinstance(call, dict) and isinstance(call.get("index"), int) and isinstance(call.get("function"), dict):
            name = call["function"].get("name")
            if isinstance(name, str) and name:
                yield (choice, call["index"]), call


def _without_names(raw: bytes, places: Sequence[_Place]) -> bytes | None:
    event = decode(raw)
    for place, call in list(_calls(event["choices"])):
        if place in places:
            del call["function"]["name"]
    return encode(event) if any(map(_says_more, event["choices"])) else None


def _says_more(choice: Mapping[str, Any]) -> bool:
    """Whether anything is left of a choice whose call had a piece of its name."""
    delta = choice.get("delta") or {}
    rest = any(value for name, value in delta.items() if name not in ("tool_calls", "role"))
    calls = delta.get("tool_calls") or ()
    arguments = any((call.get("function") or {}).get("arguments") or "custom" in call for call in calls)
    return bool(rest or arguments or choice.get("finish_reason"))
