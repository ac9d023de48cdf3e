"""A `function_call` item that grows; or a `custom_tool_call`, whose input is any text."""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from gatehook import encode, tool_call_id
from gatehook_plugins.responses_api.events import Events
from gatehook_plugins.responses_api.namespaces import Names

__all__ = ["CallItem"]


class _Form(Struct, frozen=True):
    """How calls of one kind are written."""

    kind: str
    """The type of the item."""
    prefix: str
    """What its id begins with."""
    told: str
    """What its events are about."""
    words: str
    """Where it has what the tool is called with: in the item, and in a chat's call."""
    none: str
    """What stands there for a call without any; clients parse arguments."""


_FORMS: Final[Mapping[str, _Form]] = {
    "function": _Form("function_call", "fc", "function_call_arguments", "arguments", "{}"),
    "custom": _Form("custom_tool_call", "ctc", "custom_tool_call_input", "input", ""),
}
"""By the type of a chat's call, which is also where the call has its name."""


class CallItem:
    """A call. It is announced when its name is known as a whole, as some servers send that in pieces, too."""

    def __init__(self, events: Events, suffix: str, index: int, type: str, names: Names) -> None:
        """Begin a call.

        Args:
            events: told of it.
            suffix: makes its id.
            index: its place in the output.
            type: "function" or "custom".
            names: what the names of functions stand for, where they are joined.
        """
        self._names = names
        self._type = type
        self._form = form = _FORMS[type]
        self.given_id = ""
        """The call's id as the vendor gives it; "" while there is none."""
        self.announced = False
        self.item: dict[str, Any] = {
            "id": f"{form.prefix}_{suffix}",
            "type": form.kind,
            "call_id": "",
            "name": "",
            form.words: "",
            "status": "in_progress",
        }
        self._events = events
        self._index = index
        self._place = {"item_id": self.item["id"], "output_index": index}
        self._head = b""
        self._pieces: list[str] = []

    def take(self, piece: Mapping[str, Any]) -> str:
        """Take what a piece of the call tells of it; returns the fragment of arguments in it, to be said."""
        told = piece.get(self._type) or {}
        if isinstance(key := piece.get("id"), str) and key:
            self.given_id = self.given_id or key
        if not self.announced and isinstance(name := told.get("name"), str):
            self.item["name"] += name
        if isinstance(extra := piece.get("extra_content"), dict):  # a proof of Gemini's, which it wants to see again
            self.item["extra_content"] = extra
        given = told.get(self._form.words)
        if isinstance(given, str):
            return given
        return encode(given).decode() if given else ""  # some servers give an object instead of its text

    def announce(self) -> None:
        """Tell that there is such a call, if that was not told yet."""
        if self.announced:
            return
        self.announced = True
        self.item["call_id"] = self.given_id or tool_call_id()
        if self.item["name"] in self._names:
            self.item["namespace"], self.item["name"] = self._names[self.item["name"]]
        self._head = self._events.head(f"response.{self._form.told}.delta", **self._place)
        self._events.tell("response.output_item.added", output_index=self._index, item=self.item)

    def say(self, fragment: str) -> None:
        """The next piece of its arguments; it has been announced."""
        self._pieces.append(fragment)
        self._events.delta(self._head, fragment)

    def close(self, status: str) -> None:
        """End it."""
        self.announce()
        if status == "completed" and not self._pieces and self._form.none:
            self.say(self._form.none)
        words = self._form.words
        self.item[words] = whole = "".join(self._pieces)
        self.item["status"] = status
        self._events.tell(f"response.{self._form.told}.done", **self._place, **{words: whole})
        self._events.tell("response.output_item.done", output_index=self._index, item=self.item)
