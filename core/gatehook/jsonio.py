r"""JSON in and out: msgspec for speed, the standard library for the rare text that only it can hold.

A lone surrogate (``"\ud83d"`` without its partner) is legal JSON text but no valid Unicode. Streams cut emoji in two
that way, so reading one must not fail and writing one back must give the same escape.
"""

import json
import math
import re
from typing import Any

import msgspec

__all__ = ["MAX_DEPTH", "Document", "MalformedJSON", "check_depth", "decode", "encode"]

MAX_DEPTH = 200
"""How deep a client's body may be nested; far above any real request, far below the interpreter's recursion limit."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class MalformedJSON(ValueError):
    """The bytes are not JSON; the message says what is wrong and where."""


def decode(raw: bytes | str) -> Any:
    """Decode one JSON text.

    Raises:
        MalformedJSON: not JSON, not UTF-8, or nested too deeply to be read.
    """
    try:
        return _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _decode_slowly(raw)


def _decode_slowly(raw: bytes | str) -> Any:
    try:
        # From bytes the standard library would also read UTF-16, UTF-32 and surrogates that UTF-8 forbids.
        text = raw if isinstance(raw, str) else raw.decode("utf-8-sig")
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise MalformedJSON(f"not valid UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise MalformedJSON("nested too deeply") from None
    except MalformedJSON:
        raise
    except ValueError as error:
        raise MalformedJSON(str(error)) from None


def _no_constant(name: str) -> None:
    raise MalformedJSON(f"{name} is not a JSON value")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # it would be written as null
        raise MalformedJSON(f"the number {text[:20]} is too large")
    return number


def encode(value: Any) -> bytes:
    """Encode ``value`` as compact UTF-8 JSON; lone surrogates are written as escapes, NaN and infinities as null."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        try:
            text = json.dumps(value, separators=(",", ":"), allow_nan=False)
        except ValueError:
            value = json.loads(json.dumps(value), parse_constant=lambda name: None)
            text = json.dumps(value, separators=(",", ":"))
        return text.encode()


def check_depth(raw: bytes) -> None:
    """Refuse absurd nesting before anything recursive sees it.

    Raises:
        MalformedJSON: more than `MAX_DEPTH` arrays and objects are open at once.
    """
    # Where brackets are rare, as in text, this is several times faster than `bytes.count`, which looks at each byte.
    if len(raw) - len(raw.replace(b"[", b"").replace(b"{", b"")) <= MAX_DEPTH:
        return
    depth = 0
    for byte in _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS):
        if byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise MalformedJSON(f"nested more than {MAX_DEPTH} levels deep")
        else:
            depth -= 1


class Document:
    """A JSON object held as bytes, as a dict, or as both; whichever is missing is made on first use.

    So bytes can go through untouched when nobody needs to look, and a plugin that does look gets an ordinary dict.
    Treat `data` as read-only; to change it, build a new document.
    """

    __slots__ = ("_data", "_raw")

    def __init__(self, data: dict[str, Any] | None = None, raw: bytes | None = None) -> None:
        if raw is None and data is None:
            raise TypeError("a document needs data, raw bytes, or both")
        self._data = data
        self._raw = raw

    @property
    def data(self) -> dict[str, Any]:
        """The object as a dict."""
        if self._data is None:
            self._data = decode(self._raw or b"")
        return self._data

    @property
    def raw(self) -> bytes:
        """The object as UTF-8 JSON bytes."""
        if self._raw is None:
            self._raw = encode(self._data)
        return self._raw

    def may_have(self, *names: str) -> bool:
        """Whether the object may have a key of one of these (plain ASCII) names; bytes are not decoded to tell."""
        if self._data is not None:
            return any(name in self._data for name in names)
        raw = self._raw or b""
        return any(name.encode() in raw for name in names) or b"\\u00" in raw  # a letter may be escaped

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.raw)} bytes)"
