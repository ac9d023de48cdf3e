"""OpenAI's messages read into turns: what every vendor that translates would otherwise work out for itself.

System and developer messages are taken out in order (or stay, where a vendor takes them), consecutive messages of one
side become one turn, the results of parallel tool calls stand together before the user's words, tool calls and results
are matched, and arguments are parsed. A vendor then only has to map parts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from gatehook.dialect.media import Blob, data_uri, from_base64
from gatehook.dialect.plain import FAILED, notes_of
from gatehook.errors import InvalidRequest, Retry
from gatehook.jsonio import MalformedJSON, decode

__all__ = ["Conversation", "Media", "Part", "Text", "Thinking", "ToolResult", "ToolUse", "Turn", "read_conversation"]

_KNOWN = frozenset(
    [
        "role",
        "content",
        "refusal",
        "tool_calls",
        "tool_call_id",
        "function_call",
        "reasoning_content",
        "thinking_blocks",
        "is_error",
        "parsed",  # by OpenAI's client, which so repeats the content
    ]
)
"""The fields of a message that are read, or say nothing new; any other one with a value is reported as dropped."""

_AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg"}


class Text(Struct, frozen=True):
    """Words. `cache` is a cache_control marker as Anthropic defines it, None if there is none."""

    text: str
    cache: Mapping[str, Any] | None = None


class Media(Struct, frozen=True):
    """An image, document or sound: exactly one of `blob`, `url` and `file_id` is set. `path` names the field.

    `extra` holds the fields of the part beyond OpenAI's.
    """

    kind: Literal["image", "file", "audio"]
    path: str
    blob: Blob | None = None
    url: str = ""
    file_id: str = ""
    filename: str = ""
    detail: str = ""
    cache: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = {}

    @property
    def url_path(self) -> str:
        """Names the field with the URL."""
        return f"{self.path}.{'file_url' if self.kind == 'file' else 'url'}"


class Thinking(Struct, frozen=True):
    """Reasoning of an earlier answer. `signature` proves it to its vendor; `redacted` is the vendor's sealed form."""

    text: str = ""
    signature: str = ""
    redacted: str = ""


class ToolUse(Struct, frozen=True):
    """A tool call of an earlier answer. `extra` holds the call's fields beyond OpenAI's."""

    id: str
    name: str
    arguments: Mapping[str, Any]
    path: str
    extra: Mapping[str, Any] = {}


class ToolResult(Struct, frozen=True):
    """What a tool gave. `name` is the tool's, remembered from the call with this id; `failed`: it gave an error."""

    id: str
    name: str
    parts: Sequence[Text | Media]
    path: str
    failed: bool = False


Part = Text | Media | Thinking | ToolUse | ToolResult


Place = Literal["first", "in_place", "after_user"]


class Turn(Struct):
    """One side's turn; neighbours are always of different sides. A system's has words only."""

    role: Literal["user", "assistant", "system"]
    parts: list[Part]


class Conversation(Struct):
    """System texts in order, and turns."""

    system: list[Text]
    turns: list[Turn]


def read_conversation(
    messages: Sequence[Mapping[str, Any]],
    drop: Callable[[str], None],
    *,
    system: Place = "first",
    tells_failures: bool = False,
    takes_pictures: bool = False,
    takes_notes: bool = False,
) -> Conversation:
    """Read OpenAI messages whose types were checked by the surface.

    Args:
        messages: the request's `messages`.
        drop: called with the path of everything that has no place in turns (a `name`, a moved system message).
        system: where the vendor takes system messages that come after the first turn: before all turns only; as turns
            where they are; or as turns, but only behind the user's, before an answer or the end.
        tells_failures: whether the vendor is told of a tool's failure by `ToolResult.failed`; otherwise words say so.
        takes_pictures: whether the vendor takes back the `images` of earlier answers, as data URIs; behind their words.
        takes_notes: whether the vendor takes what may stand beside a document, `context` and `citations`: its `extra`.

    Raises:
        InvalidRequest: arguments that are no JSON object, calls without results, results without calls, unknown parts.
    """
    takes = {"tells_failures": tells_failures, "takes_pictures": takes_pictures, "takes_notes": takes_notes}
    reader = _Reader(drop, system, **takes)
    for number, message in enumerate(messages):
        reader.read(message, f"messages[{number}]")
    reader.finish()
    return Conversation(reader.system, reader.turns)


class _Reader:
    """Takes messages in their order."""

    def __init__(
        self,
        drop: Callable[[str], None],
        place: Place,
        *,
        tells_failures: bool,
        takes_pictures: bool,
        takes_notes: bool,
    ) -> None:
        self._tells_failures = tells_failures
        self._takes_pictures = takes_pictures
        self._takes_notes = takes_notes
        self.system: list[Text] = []
        self.turns: list[Turn] = []
        self._drop = drop
        self._place = place
        self._waiting: Sequence[Text] = ()
        """System texts that are to stand behind what the user says, or tools give, next."""
        self._unmoved: Sequence[str] = ()
        """Paths of those that nothing was put before so far."""
        self._seen: set[str] = set()
        self._pending: list[tuple[str, ToolUse]] = []
        """The latest answer's calls that have no result so far, each with its id as the client gave it."""

    def read(self, message: Mapping[str, Any], path: str) -> None:
        for name, value in message.items():
            if value and name not in _KNOWN and not (name == "images" and self._shows(message)):
                self._drop(f"{path}.{name}")
        match message["role"]:
            case "system" | "developer":
                self._read_system(message, path)
            case "user":
                self._add("user", self._parts(message.get("content"), f"{path}.content"))
            case "assistant":
                self._read_assistant(message, path)
            case "tool" | "function":
                self._read_result(message, path)
            case role:
                raise _refused(f"{path}.role", f"unknown role {role!r}")

    def finish(self) -> None:
        # A call without a result is as wrong at the very end as in the middle: the model waits for the result.
        self._expect_no_pending("messages")
        if self._waiting:
            self._place_waiting()
        for turn in self.turns:
            if turn.role == "user":
                turn.parts.sort(key=lambda part: not isinstance(part, ToolResult))

    def _read_system(self, message: Mapping[str, Any], path: str) -> None:
        stays = self.turns and self._place != "first"
        if self.turns and not stays:
            self._drop(f"{path}.position")
        texts: list[Text] = [] if stays else self.system
        for part in self._parts(message.get("content"), f"{path}.content"):
            if not isinstance(part, Text):
                raise _refused(f"{path}.content", "a system message can hold text only")
            texts.append(part)
        if stays and (said := [text for text in texts if text.text.strip()]):
            self._waiting = [*self._waiting, *said]
            self._unmoved = [*self._unmoved, path]
            if self._place == "in_place" and not self._pending:
                self._place_waiting()

    def _place_waiting(self) -> None:
        texts, self._waiting, self._unmoved = self._waiting, (), ()
        self._add("system", texts)

    def _read_assistant(self, message: Mapping[str, Any], path: str) -> None:
        self._expect_no_pending(path)
        if self._waiting:
            self._place_waiting()
        if message.get("function_call"):
            raise _refused(f"{path}.function_call", "deprecated by OpenAI; use tool_calls")
        thinking = self._thinking(message, path)
        if message.get("reasoning_content") and not thinking:
            self._drop(f"{path}.reasoning_content")
        parts = [*thinking, *self._parts(message.get("content"), f"{path}.content")]
        if message.get("refusal"):
            parts.append(Text(message["refusal"]))
        if self._shows(message):
            parts += self._parts(message["images"], f"{path}.images")
        calls = [
            self._call(call, f"{path}.tool_calls[{number}]")
            for number, call in enumerate(message.get("tool_calls") or ())
        ]
        self._pending = [
            (given["id"], call) for given, call in zip(message.get("tool_calls") or (), calls, strict=True)
        ]
        self._add("assistant", [*parts, *calls])

    def _shows(self, message: Mapping[str, Any]) -> bool:
        """Whether the pictures beside an answer's words are read."""
        images = message.get("images")
        return self._takes_pictures and message["role"] == "assistant" and _is_shown(images)

    def _call(self, call: Mapping[str, Any], path: str) -> ToolUse:
        if call.get("type", "function") != "function":
            raise _refused(f"{path}.type", f"tool calls of type {call['type']!r} cannot be translated")
        text = call["function"].get("arguments") or "{}"
        where = f"{path}.function.arguments"
        try:
            arguments = decode(text)
        except MalformedJSON as error:
            raise _refused(where, f"not valid JSON (call {call['id']!r}): {error}") from None
        if not isinstance(arguments, dict):
            raise _refused(where, f"expected a JSON object (call {call['id']!r})")
        extra = {key: value for key, value in call.items() if key not in ("id", "type", "function", "index")}
        return ToolUse(self._unique(call["id"]), call["function"]["name"], arguments, path, extra)

    def _unique(self, given: str) -> str:
        """An id that no earlier call has; a result belongs to the latest answer's first open call with its given id."""
        new, count = given, 1
        while new in self._seen:
            count += 1
            new = f"{given}_{count}"
        self._seen.add(new)
        return new

    def _read_result(self, message: Mapping[str, Any], path: str) -> None:
        if message["role"] == "function":
            raise _refused(f"{path}.role", "deprecated by OpenAI; use role 'tool'")
        given = message["tool_call_id"]
        place = next((place for place, (one, _) in enumerate(self._pending) if one == given), None)
        if place is None:
            raise _refused(f"{path}.tool_call_id", f"no tool call {given!r} in the assistant message before it")
        _, call = self._pending.pop(place)
        parts = [
            part for part in self._parts(message.get("content"), f"{path}.content") if isinstance(part, Text | Media)
        ]
        failed = message.get("is_error") is True
        if failed and not self._tells_failures:
            parts = [Text(FAILED), *parts]
        self._add("user", [ToolResult(call.id, call.name, parts, path, failed)])
        if self._waiting and self._place == "in_place" and not self._pending:
            self._place_waiting()

    def _expect_no_pending(self, path: str) -> None:
        if self._pending:
            ids = ", ".join(repr(given) for given, _ in self._pending)
            raise _refused(path, f"no tool message answers the tool calls {ids}")

    def _add(self, role: Literal["user", "assistant", "system"], parts: Sequence[Part]) -> None:
        if self._unmoved and parts:
            for path in self._unmoved:
                self._drop(f"{path}.position")
            self._unmoved = ()
        if role == "user" and not all(isinstance(part, ToolResult) for part in parts):
            self._expect_no_pending("messages")
        if not parts:
            return
        if self.turns and self.turns[-1].role == role:
            self.turns[-1].parts.extend(parts)
        else:
            self.turns.append(Turn(role, list(parts)))

    def _thinking(self, message: Mapping[str, Any], path: str) -> list[Part]:
        """The signed blocks of reasoning that the client has kept; without a signature no vendor takes them back."""
        parts: list[Part] = []
        for number, block in enumerate(message.get("thinking_blocks") or ()):
            if block.get("type") == "redacted_thinking" and block.get("data"):
                parts.append(Thinking(redacted=block["data"]))
            elif block.get("type") != "redacted_thinking" and block.get("signature"):
                parts.append(Thinking(block.get("thinking") or "", block["signature"]))
            else:
                self._drop(f"{path}.thinking_blocks[{number}]")
        return parts

    def _parts(self, content: Any, path: str) -> list[Part]:
        """The parts of one message, without empty text, which vendors refuse."""
        if content is None:
            return []
        if isinstance(content, str):
            return [Text(content)] if content else []
        if not self._takes_notes:
            for number, part in enumerate(content):
                for name in notes_of(part):
                    self._drop(f"{path}[{number}].{name}")
        parts = (_part(part, f"{path}[{number}]") for number, part in enumerate(content))
        return [part for part in parts if not (isinstance(part, Text) and not part.text)]


def _part(part: Mapping[str, Any], path: str) -> Text | Media:
    cache = part.get("cache_control")
    match part.get("type"):
        case "text":
            return Text(part["text"], cache)
        case "refusal":
            return Text(part["refusal"], cache)
        case "image_url":
            extra = {key: value for key, value in part.items() if key not in ("type", "image_url", "cache_control")}
            return _image(part["image_url"], f"{path}.image_url", cache, extra)
        case "input_audio":
            audio = part["input_audio"]
            mime = _AUDIO_TYPES.get(audio["format"], f"audio/{audio['format']}")
            blob = from_base64(audio["data"], mime, param=f"{path}.input_audio.data")
            return Media("audio", path, blob=blob, cache=cache)
        case "file":
            return _file(part["file"], f"{path}.file", cache, notes_of(part))
        case kind:
            raise _refused(f"{path}.type", f"content parts of type {kind!r} cannot be translated")


def _image(image: Any, path: str, cache: Mapping[str, Any] | None, extra: Mapping[str, Any]) -> Media:
    url, detail = (image, "") if isinstance(image, str) else (image["url"], image.get("detail") or "")
    detail = "" if detail == "auto" else detail
    if _is_data(url):
        blob = data_uri(url, param=f"{path}.url")
        return Media("image", path, blob=blob, detail=detail, cache=cache, extra=extra)
    if not url.lower().startswith(("http://", "https://")):
        raise _refused(f"{path}.url", "expected an http, https or data URL")
    return Media("image", path, url=url, detail=detail, cache=cache, extra=extra)


def _is_shown(images: Any) -> bool:
    """Whether these are pictures as answers show them, as data URIs; no surface has looked at them."""
    for one in images if isinstance(images, list) and images else (None,):
        match one:
            case {"type": "image_url", "image_url": {"url": str(url)}} if _is_data(url):
                pass
            case _:
                return False
    return True


def _is_data(url: str) -> bool:
    return url[:5].lower() == "data:"


def _file(file: Mapping[str, Any], path: str, cache: Mapping[str, Any] | None, notes: Mapping[str, Any]) -> Media:
    name = file.get("filename") or ""
    if data := file.get("file_data"):
        where = f"{path}.file_data"
        blob = data_uri(data, param=where) if _is_data(data) else from_base64(data, param=where)
        return Media("file", path, blob=blob, filename=name, cache=cache, extra=notes)
    if file.get("file_id"):
        return Media("file", path, file_id=file["file_id"], filename=name, cache=cache, extra=notes)
    if url := file.get("file_url"):
        if not url.lower().startswith(("http://", "https://")):
            raise _refused(f"{path}.file_url", "expected an http or https URL")
        return Media("file", path, url=url, filename=name, cache=cache, extra=notes)
    raise InvalidRequest(f"{path}: needs file_data or file_id", param=path)


def _refused(path: str, why: str) -> InvalidRequest:
    # Another deployment may take the request as it is: an OpenAI-compatible one gets it untranslated.
    return InvalidRequest(f"{path}: {why}", param=path, retry=Retry.NEXT)
