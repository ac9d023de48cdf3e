"""Turns as Gemini's `contents`: Content and Part objects of the Gemini API, v1beta."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from gatehook import Conversation, MalformedJSON, Media, Part, Text, Thinking, ToolResult, ToolUse, Turn, decode
from gatehook_plugins.vendor_gemini.history import google_extra, signature_of
from gatehook_plugins.vendor_gemini.media import MediaWriter

__all__ = ["ContentsWriter"]

_SKIP_VALIDATION: Final = "skip_thought_signature_validator"
"""Google's documented stand-in for the signature of a call that no Gemini model made (after a fallback, say)."""


class ContentsWriter:
    """Writes one conversation. `third` says that the model is of the third generation or later."""

    def __init__(self, media: MediaWriter, drop: Callable[[str], None], *, third: bool, function_ids: bool) -> None:
        self._media = media
        self._drop = drop
        self._third = third
        self._function_ids = function_ids
        self._given: dict[str, str] = {}

    def system(self, conversation: Conversation) -> dict[str, Any] | None:
        """The systemInstruction, None if there is none."""
        parts = [self._text(text) for text in conversation.system]
        return {"parts": parts} if parts else None

    def contents(self, conversation: Conversation) -> list[dict[str, Any]]:
        """All turns."""
        return [self._turn(turn) for turn in conversation.turns]

    def _turn(self, turn: Turn) -> dict[str, Any]:
        if turn.role == "assistant":
            return {"role": "model", "parts": self._model(turn.parts)}
        parts: list[dict[str, Any]] = []
        loose: list[dict[str, Any]] = []
        for part in turn.parts:
            if isinstance(part, ToolResult):
                parts.append(self._result(part, loose))
            else:
                parts += loose
                loose.clear()
                parts += self._user(part)
        return {"role": "user", "parts": parts + loose}

    def _user(self, part: Part) -> Iterable[dict[str, Any]]:
        if isinstance(part, Text):
            yield self._text(part)
        elif isinstance(part, Media):
            yield self._medium(part)

    def _model(self, given: Sequence[Part]) -> list[dict[str, Any]]:
        """A model's parts. A signature goes on the text after it, or on an empty one where there is none."""
        parts: list[dict[str, Any]] = []
        held = ""
        called = False
        for part in given:
            if isinstance(part, Text):
                text = self._text(part)
                if held:
                    text["thoughtSignature"] = held
                    held = ""
                parts.append(text)
                continue
            if held:
                parts.append({"text": "", "thoughtSignature": held})
                held = ""
            if isinstance(part, Thinking):
                held = part.signature
            elif isinstance(part, ToolUse):
                parts.append(self._call(part, first=not called))
                called = True
            elif isinstance(part, Media):
                parts.append(self._shown(part))
        if held:
            parts.append({"text": "", "thoughtSignature": held})
        return parts

    def _call(self, call: ToolUse, *, first: bool) -> dict[str, Any]:
        function: dict[str, Any] = {"name": call.name, "args": call.arguments}
        if given := self._vendor_id(call):
            self._given[call.id] = function["id"] = given
        part: dict[str, Any] = {"functionCall": function}
        signature = signature_of(call.extra)
        if signature:
            part["thoughtSignature"] = signature
        elif first and self._third:
            # Only the first of parallel calls is ever signed, and only that one is checked.
            part["thoughtSignature"] = _SKIP_VALIDATION
        return part

    def _vendor_id(self, call: ToolUse) -> str:
        """The id, if Gemini gave it: endpoints that know no ids refuse one, so ids made elsewhere are not sent."""
        given = google_extra(call.extra).get("function_call_id")
        return given if self._function_ids and isinstance(given, str) else ""

    def _result(self, result: ToolResult, loose: list[dict[str, Any]]) -> dict[str, Any]:
        """One functionResponse. Media go inside it since Gemini 3, before that into `loose`, behind all results."""
        for part in result.parts:
            self._cache(part)
        text = "".join(part.text for part in result.parts if isinstance(part, Text))
        response: dict[str, Any] = {"name": result.name, "response": _response(text)}
        if given := self._given.get(result.id):
            response["id"] = given
        media = [self._media.part(part) for part in result.parts if isinstance(part, Media)]
        if media and self._third:
            response["parts"] = media
        else:
            loose += media
        return {"functionResponse": response}

    def _text(self, text: Text) -> dict[str, Any]:
        self._cache(text)
        return {"text": text.text}

    def _medium(self, media: Media) -> dict[str, Any]:
        self._cache(media)
        return self._media.part(media)

    def _shown(self, media: Media) -> dict[str, Any]:
        """A picture of the model's own, with its signature."""
        part = self._medium(media)
        if signature := signature_of(media.extra):
            part["thoughtSignature"] = signature
        return part

    def _cache(self, part: Text | Media) -> None:
        if part.cache is not None:
            self._drop("cache_control")


def _response(text: str) -> Mapping[str, Any]:
    """A result as the object Gemini wants: a JSON object as it is, anything else under "result"."""
    if text.lstrip().startswith("{"):
        try:
            value = decode(text)
        except MalformedJSON:
            value = None
        if isinstance(value, dict):
            return value
    return {"result": text}
