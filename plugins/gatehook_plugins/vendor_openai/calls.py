"""Mends tool calls so that clients can join their fragments: numbered from 0, ids told once, arguments as a text.

Some servers number all calls 0, count from 1, leave gaps or give no index; some repeat a call's id with each fragment,
or make up another one. The official SDKs join all fields of fragments with the same index, ids too, and fail without
an index. Mistral leaves out a call's type, and some servers send no arguments where there are none, which is no JSON.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from gatehook import decode, encode, tool_call_id
from gatehook_plugins.vendor_openai.peek import Event

__all__ = ["Numbers", "mended_calls"]


class _Called(Struct):
    name: str | None = None


class _Call(Struct):
    id: str | int | None = None
    function: _Called | None = None
    custom: _Called | None = None


_Calls = list[_Call]


class Numbers:
    """The calls of one stream."""

    __slots__ = ("_choices",)

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}

    def mended(self, event: Event, raw: bytes) -> bytes:
        """The event with mended fragments of calls, as JSON; `event` is changed in the same way.

        Args:
            event: any event.
            raw: the same as JSON, with the same choices.

        Raises:
            msgspec.ValidationError: its tool calls are no such calls.
        """
        mended: dict[tuple[int, int], Any] = {}
        owed: dict[int, list[Any]] = {}
        for choice in event.choices or ():
            calls = (choice.delta and choice.delta.tool_calls) or []
            msgspec.convert(calls, _Calls)
            for place, call in enumerate(calls):
                new = self._of(choice.index).mended(call)
                if new is not call:
                    calls[place] = mended[choice.index, place] = new
            if choice.finish_reason in ("stop", "tool_calls") and (rest := self._of(choice.index).rest()):
                owed[choice.index] = rest
        if not (mended or owed):
            return raw
        value = decode(raw)
        for choice in value["choices"]:
            index, delta = choice.get("index", 0), choice.get("delta") or {}
            told = [mended.get((index, place), call) for place, call in enumerate(delta.get("tool_calls") or ())]
            if told or index in owed:
                choice["delta"] = {**delta, "tool_calls": [*told, *owed.get(index, ())]}
        return encode(value)

    def _of(self, choice: int) -> "_Choice":
        return self._choices.setdefault(choice, _Choice())


class _Choice:
    """The calls of one choice."""

    __slots__ = ("_bare", "_ids", "_numbers")

    def __init__(self) -> None:
        self._bare: set[int] = set()
        """Those of functions that have no arguments yet."""
        self._ids: list[str] = []
        """The ids of all calls, as the server told them; "" where it told none."""
        self._numbers: dict[int | None, int] = {}
        """By the index that the server gives (None for none), the number of the call that it began last there."""

    def mended(self, call: dict[str, Any]) -> dict[str, Any]:
        """The fragment mended; the same object, if nothing is wrong with it."""
        place = call["index"] if isinstance(call.get("index"), int) else None
        given = _id(call)
        named = bool(_function(call).get("name"))
        number = self._numbers.get(place)
        if number is None and not (given or named):
            return call  # the rest of a call that was never begun
        if number is None or (named and self._is_another(number, place, given)):
            return self._begun(call, place, given)
        if _function(call).get("arguments"):
            self._bare.discard(number)
        if call.get("index") != number:
            call = {**call, "index": number}
        again = {"type"} if call.get("type", "") is None else set()  # with which the official SDK overwrites the first
        if given and (self._ids[number] or place is None):
            again.add("id")
        else:
            self._ids[number] = self._ids[number] or given
        return {name: value for name, value in call.items() if name not in again} if again else call

    def rest(self) -> list[Any]:
        """What is still to be said when the choice ends: that calls have no arguments, in JSON; once."""
        bare = sorted(self._bare)
        self._bare.clear()
        return [{"index": number, "function": {"arguments": "{}"}} for number in bare]

    def _is_another(self, number: int, place: int | None, given: str) -> bool:
        """Whether a name at this place begins another call: by its id, or, without ids and indices, always.

        Servers that give neither send each call in one piece.
        """
        known = self._ids[number]
        return known not in ("", given) if given else not known and place is None

    def _begun(self, call: dict[str, Any], place: int | None, given: str) -> dict[str, Any]:
        number = self._numbers[place] = len(self._ids)
        changes: dict[str, Any] = {} if call.get("index") == number else {"index": number}
        self._ids.append(given)
        if given and given != call["id"]:
            changes["id"] = given
        elif place is None and not given:
            changes["id"] = tool_call_id()
        if (function := call.get("function")) is not None:
            if call.get("type") is None:
                changes["type"] = "function"
            if isinstance(function.get("arguments"), dict | list):
                changes["function"] = {**function, "arguments": encode(function["arguments"]).decode()}
            elif not function.get("arguments"):
                self._bare.add(number)
        return {**call, **changes} if changes else call


def mended_calls(calls: Any) -> Any:
    """The calls of a whole answer, each with an id, a type, and arguments as JSON; the same object, if they are so.

    Raises:
        msgspec.ValidationError: they are no tool calls.
    """
    msgspec.convert(calls, _Calls)
    mended = [_mended(call) for call in calls]
    return calls if all(new is call for new, call in zip(mended, calls, strict=True)) else mended


def _mended(call: dict[str, Any]) -> dict[str, Any]:
    known = _id(call) or tool_call_id()
    changes: dict[str, Any] = {} if known == call.get("id") else {"id": known}
    function = call.get("function")
    if function is not None:
        if call.get("type") is None:
            changes["type"] = "function"
        arguments = function.get("arguments")
        if not (arguments and isinstance(arguments, str)):
            text = encode({} if arguments in (None, "") else arguments).decode()
            changes["function"] = {**function, "arguments": text}
    return {**call, **changes} if changes else call


def _id(call: Mapping[str, Any]) -> str:
    """A call's id as a text; some servers use numbers."""
    given = call.get("id")
    return "" if given is None else str(given)


def _function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is called: a function, or a tool that takes any text."""
    return call.get("function") or call.get("custom") or {}
