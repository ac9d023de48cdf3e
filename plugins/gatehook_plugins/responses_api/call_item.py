"""A `function_call` item that grows."""

from collections.abc import Mapping
from typing import Any

from gatehook import encode, tool_call_id
from gatehook_plugins.responses_api.events import Events

__all__ = ["CallItem", "arguments_of"]


class CallItem:
    """A call. It is announced when its name is known as a whole, as some servers send that in pieces, too."""

    def __init__(self, events: Events, suffix: str, index: int) -> None:
        """`suffix` makes its id, `index` is its place in the output."""
        self.given_id = ""
        """The call's id as the vendor gives it; "" while there is none."""
        self.announced = False
        self.item: dict[str, Any] = {
            "id": f"fc_{suffix}",
            "type": "function_call",
            "call_id": "",
            "name": "",
            "arguments": "",
            "status": "in_progress",
        }
        self._events = events
        self._index = index
        self._place = {"item_id": self.item["id"], "output_index": index}
        self._head = b""
        self._pieces: list[str] = []

    def name(self, piece: Mapping[str, Any]) -> None:
        """Take what a piece of the call tells of it beside the arguments."""
        if isinstance(key := piece.get("id"), str) and key:
            self.given_id = self.given_id or key
        if not self.announced and isinstance(name := (piece.get("function") or {}).get("name"), str):
            self.item["name"] += name
        if isinstance(extra := piece.get("extra_content"), dict):  # a proof of Gemini's, which it wants to see again
            self.item["extra_content"] = extra

    def announce(self) -> None:
        """Tell that there is such a call, if that was not told yet."""
        if self.announced:
            return
        self.announced = True
        self.item["call_id"] = self.given_id or tool_call_id()
        self._head = self._events.head("response.function_call_arguments.delta", **self._place)
        self._events.tell("response.output_item.added", output_index=self._index, item=self.item)

    def say(self, fragment: str) -> None:
        """The next piece of its arguments; it has been announced."""
        self._pieces.append(fragment)
        self._events.delta(self._head, fragment)

    def close(self, status: str) -> None:
        """End it; a call without arguments has an empty object, as clients parse what there is."""
        self.announce()
        if status == "completed" and not self._pieces:
            self.say("{}")
        self.item["arguments"] = arguments = "".join(self._pieces)
        self.item["status"] = status
        self._events.tell("response.function_call_arguments.done", **self._place, arguments=arguments)
        self._events.tell("response.output_item.done", output_index=self._index, item=self.item)


def arguments_of(piece: Mapping[str, Any]) -> str:
    """The fragment of arguments in a piece of a call; some servers give an object instead of its text."""
    arguments = (piece.get("function") or {}).get("arguments")
    return arguments if isinstance(arguments, str) else encode(arguments).decode() if arguments else ""
