"""The journal's lines: a checksum, what it is, and the thing itself as JSON. Each tells whether it is whole."""

import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from zlib import crc32

import msgspec
from msgspec import Struct

from gatehook import UsageRow

__all__ = ["Damage", "Intent", "Record", "line", "parse", "records"]


class Intent(Struct, frozen=True):
    """A request that is about to be made. All that is known if the process dies before it ends."""

    request_id: str
    at: int
    """Epoch milliseconds."""
    user_id: str
    key_id: str
    operation: str
    surface: str
    model: str
    prompt_tokens: int
    """As estimated."""
    input_cost: int | None
    """Of those, in nano-dollars; None where no price is known."""


class Damage(Struct, frozen=True):
    """A line that does not say what was written, and the byte where it begins."""

    offset: int


Record = Intent | UsageRow | Damage

_encode = msgspec.json.Encoder().encode
_intent = msgspec.json.Decoder(Intent)
_row = msgspec.json.Decoder(UsageRow)


def line(value: Intent | UsageRow) -> bytes:
    """One line, with its end."""
    body = (b"i" if type(value) is Intent else b"r") + _encode(value)
    return b"%08x%b\n" % (crc32(body), body)


def parse(text: bytes) -> Intent | UsageRow:
    """What a line says, given without its end.

    Raises:
        ValueError: it was not written so.
    """
    body = text[8:]
    if text[:8] != b"%08x" % crc32(body):
        raise ValueError("the checksum does not match")
    kind, value = body[:1], body[1:]
    if kind == b"i":
        return _intent.decode(value)
    if kind == b"r":
        return _row.decode(value)
    raise ValueError("of a kind that is not known here")


def records(file: Path, offset: int = 0) -> Iterator[tuple[Record, int]]:
    """Every line from byte `offset` on, each with the offset after it. An unfinished last line is left out.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as opened:
        opened.seek(offset, os.SEEK_SET)
        yield from _records(opened, offset)


def _records(opened: BufferedReader, offset: int) -> Iterator[tuple[Record, int]]:
    for text in opened:
        if not text.endswith(b"\n"):
            return
        after = offset + len(text)
        try:
            yield parse(text[:-1]), after
        except (ValueError, msgspec.MsgspecError):
            yield Damage(offset), after
        offset = after
