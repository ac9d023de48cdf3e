"""The calls of functions in what a model wrote, found while it writes."""

import json
from json.decoder import JSONDecoder
from typing import Any, Final

from msgspec import Struct

from gatehook_plugins.vendor_gguf.engine.brackets import Brackets
from gatehook_plugins.vendor_gguf.engine.families import Family
from gatehook_plugins.vendor_gguf.engine.text import withheld

__all__ = ["Call", "CallReader"]

_LONGEST_HEAD: Final = 256
"""Characters before the JSON of a call, more than any family writes."""


class Call(Struct):
    """A complete call of a function."""

    name: str
    arguments: str
    """A JSON object, as text."""


class CallReader:
    """Takes a text bit by bit, and parts it into calls and the text around them. What is no call after all is text."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._held = ""
        self._within = False
        """Whether the held text begins with a mark."""
        self._brackets = Brackets()
        """Follows the JSON after the mark."""
        self._closing = False
        """Whether the held text follows a call."""
        self._blank = True
        """Whether there was no text yet, or none since the last call: blanks around calls are not told."""

    def push(self, text: str) -> tuple[str, list[Call]]:
        """What is certain to be text, and the calls that are complete now."""
        self._held += text
        said: list[str] = []
        calls: list[Call] = []
        while self._closed() and self._marked(said) and self._read(said, calls):
            pass
        return "".join(said), calls

    def finish(self) -> str:
        """The text that is still held back, at the end."""
        held, self._held = self._held, ""
        return "" if self._blank and not held.strip() else held

    def _closed(self) -> bool:
        """Skip what closes a call; False if it may still be coming."""
        if self._closing:
            rest = self._held.lstrip()
            close = next((close for close in self._family.closes if rest.startswith(close)), None)
            if close is None and any(each.startswith(rest) for each in self._family.closes):
                return False
            self._held, self._closing = rest if close is None else rest[len(close) :], False
        return True

    def _marked(self, said: list[str]) -> bool:
        """Give out the text before a mark; gives whether there is a mark."""
        if self._within:
            return True
        held, marks = self._held, self._family.marks
        if self._family.first:
            begun = held.lstrip()
            at = len(held) - len(begun) if self._blank and begun.startswith(marks) else -1
            keep = 0 if self._blank and any(mark.startswith(begun) for mark in marks) else len(held)
        else:
            at = min((found for mark in marks if (found := held.find(mark)) >= 0), default=-1)
            keep = len(held) - withheld(held, marks)
        self._within, self._brackets = at >= 0, Brackets()
        keep = at if self._within else keep
        if held[:keep].strip() or not self._blank:
            self._blank = False
            said.append(held[:keep])
            self._held = held[keep:]
        elif self._within:
            self._held = held[keep:]
        return self._within

    def _read(self, said: list[str], calls: list[Call]) -> bool:
        """Read the JSON after a mark; False if it is still coming. What turns out to be no call is text."""
        head = self._family.head.match(self._held)
        payload = self._held[head.end() :] if head else ""
        if head is None or payload[:1] not in ("{", "["):
            return len(self._held) > _LONGEST_HEAD and self._give_up(said)
        try:
            end = self._brackets.end(payload)
            if end is None:
                return False
            found = _calls(_read_json(payload[:end]), head.groupdict().get("name"))
        except (ValueError, RecursionError):
            found = []
        if not found:
            return self._give_up(said)
        calls += found
        self._held, self._within, self._closing, self._blank = payload[end:], False, True, True
        return True

    def _give_up(self, said: list[str]) -> bool:
        """Give out the mark as text, so that it is not looked at again."""
        mark = next(mark for mark in self._family.marks if self._held.startswith(mark))
        said.append(mark)
        self._held, self._within, self._blank = self._held[len(mark) :], False, False
        return True


def _calls(value: Any, name: str | None) -> list[Call]:
    """The calls in a JSON value; [] if it is something else.

    Raises:
        ValueError, RecursionError: its arguments are no JSON.
    """
    if name is not None:
        return [Call(name, _dumps(value))] if isinstance(value, dict) else []
    calls = [_call(each) for each in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call] if all(calls) else []


def _call(value: Any) -> Call | None:
    if not isinstance(value, dict) or not isinstance(name := value.get("name"), str):
        return None
    arguments: Any = next((value[key] for key in ("arguments", "parameters") if key in value), {})
    if isinstance(arguments, str):  # some write JSON in JSON
        arguments = _read_json(arguments)
    return Call(name, _dumps(arguments)) if isinstance(arguments, dict) else None


def _no_constant(name: str) -> None:
    raise ValueError(name)


_read_json: Final = JSONDecoder(strict=False, parse_constant=_no_constant).decode
"""Models write line breaks in strings as they are; NaN is not to be passed on."""


def _dumps(value: dict[str, Any]) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)  # 1e999 is no number either
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which only an escape can tell
        return json.dumps(value, separators=(",", ":"))
    return text
