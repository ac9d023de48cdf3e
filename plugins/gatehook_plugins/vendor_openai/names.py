"""Mends names of tool calls: told once and whole. Some servers write them in pieces, or repeat them with each fragment.

Many clients take a call's name from its first fragment, others join whatever comes. So the event that begins a call is
held back until the next one of its choice, which tells whether the name goes on; after that the name is taken out of
the fragments.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gatehook import decode, encode
from gatehook_plugins.vendor_openai.peek import Event, EventChoice

__all__ = ["Names", "tells_calls"]

_Place = tuple[int, int]
"""The index of a choice, and that of a call in it."""

_Passed = tuple[bytes, int]
"""An event as JSON, and how many of its choices have content."""


class _Known:
    """A call as far as it has been told."""

    __slots__ = ("id", "name")

    def __init__(self, call: Mapping[str, Any]) -> None:
        self.id: str = call.get("id") or ""
        self.name: str = call["function"]["name"]


class _Held:
    """An event of one choice that is held back."""

    __slots__ = ("begun", "contents", "grown", "raw")

    def __init__(self, raw: bytes, contents: int, begun: set[_Place]) -> None:
        self.raw = raw
        self.contents = contents
        self.begun = begun
        """The places of the calls that it begins."""
        self.grown = False
        """Whether a later event has added to their names."""


class Names:
    """The names in one stream."""

    __slots__ = ("_known", "held")

    def __init__(self) -> None:
        self.held: dict[int, _Held] = {}
        """Events that are held back, by the index of their choice."""
        self._known: dict[_Place, _Known] = {}

    def passed(self, event: Event, raw: bytes, contents: int) -> list[_Passed]:
        """What goes out now: what was held back until this event, and what is left of it, unless it is held back, too.

        Args:
            event: the next event.
            raw: the same as JSON.
            contents: how many of its choices have content.
        """
        choices = event.choices or []
        if next(_named(choices), None) is None:
            return [*(one for choice in choices for one in self._released(choice.index)), (raw, contents)]
        if len(choices) == 1:
            return self._one(choices[0], raw, contents)
        apart = zip(choices, _apart(raw), strict=True)
        return [one for choice, part in apart for one in self._one(choice, part, int(choice.has_content()))]

    def _one(self, choice: EventChoice, raw: bytes, contents: int) -> list[_Passed]:
        """The same for an event of one choice."""
        named = list(_named([choice]))
        told = [place for place, call in named if self._goes_on(place, call)]
        left = _without_names(raw, told) if told else raw
        if left is None:
            return []
        out = self._released(choice.index)
        whole = choice.finish_reason or any(call["function"].get("arguments") for _, call in named)
        if named and not told and not whole:
            self.held[choice.index] = _Held(raw, contents, {place for place, _ in named})
            return out
        return [*out, (left, contents)]

    def _released(self, choice: int) -> list[_Passed]:
        """What was held back in this choice, now that something else has come."""
        held = self.held.pop(choice, None)
        if held is None:
            return []
        return [(self._with_whole_names(held.raw) if held.grown else held.raw, held.contents)]

    def _goes_on(self, place: _Place, call: Mapping[str, Any]) -> bool:
        """Whether this name repeats one told before, or goes on with one held back; if neither, it goes out."""
        known, given, name = self._known.get(place), call.get("id"), call["function"]["name"]
        held = self.held.get(place[0])
        begun = held is not None and place in held.begun
        if known is None or (given and given != known.id) or not (known.id or begun):
            self._known[place] = _Known(call)
            return False
        if name == known.name:
            return True
        if held is not None and begun:
            known.name += name
            held.grown = True
            return True
        return False

    def _with_whole_names(self, raw: bytes) -> bytes:
        event = decode(raw)
        for place, call in _calls(event["choices"]):
            call["function"]["name"] = self._known[place].name
        return encode(event)


def tells_calls(event: Event) -> bool:
    """Whether the event names a call, or tells its id."""
    for choice in event.choices or ():
        calls = None if choice.delta is None else choice.delta.tool_calls
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict) and call.get("id"):
                return True
    return next(_named(event.choices or ()), None) is not None


def _apart(raw: bytes) -> list[bytes]:
    """An event for each choice of this one; its usage stands in the last."""
    event = decode(raw)
    *firsts, last = event["choices"]
    bare = {name: value for name, value in event.items() if name != "usage"}
    return [*(encode({**bare, "choices": [one]}) for one in firsts), encode({**event, "choices": [last]})]


def _named(choices: Sequence[EventChoice]) -> Iterator[tuple[_Place, Any]]:
    for choice in choices:
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
