"""The journal's lines: a checksum, then a JSON list of a record's tag and its fields. So a torn line is recognised."""

import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Final
from zlib import adler32

import msgspec
from msgspec import Struct

from gatehook import UsageRow

__all__ = ["LINE", "Damage", "Intent", "Record", "Row", "encode", "line", "parse", "records"]


class Intent(Struct, frozen=True, array_like=True, tag="i", gc=False):
    """A request that is about to be made: all that is known of it, should the process die before it ends."""

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
    input_price: int | None
    """Nano-dollars for 1,000 tokens of the prompt; None where no price is known."""


class Row(UsageRow, frozen=True, array_like=True, tag="r", gc=False):
    """A row of the ledger as the journal writes it: in the order of its fields, without their names."""


class Damage(Struct, frozen=True):
    """A line whose checksum or content is wrong."""

    offset: int
    """The byte where it begins."""


Record = Intent | Row | Damage

encode = msgspec.json.Encoder().encode
"""Makes the body of a line."""
LINE: Final = b"%x%b\n"
"""Adler-32 of a body in hex, and the body, which begins with "[". CRC-32 takes longer here, as it needs tables."""
_decoder: msgspec.json.Decoder[Intent | Row] = msgspec.json.Decoder(Intent | Row)


def line(value: Intent | Row) -> bytes:
    """One line, with its end."""
    body = encode(value)
    return LINE % (adler32(body), body)


def parse(text: bytes) -> Intent | Row:
    """What a line says, given without its end.

    Raises:
        ValueError: the line is damaged.
    """
    begin = text.find(b"[")
    body = text[begin:]
    if text[:begin] != b"%x" % adler32(body):
        raise ValueError("the checksum does not match")
    return _decoder.decode(body)


def records(file: Path, offset: int = 0) -> Iterator[tuple[Record, int]]:
    """Every line from byte `offset` on, each with the offset after it.

    A last line that was not written to its end is left out: it has none, or holds zeros that nothing was written over.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as opened:
        opened.seek(offset, os.SEEK_SET)
        yield from _records(opened, offset)


def _records(opened: BufferedReader, offset: int) -> Iterator[tuple[Record, int]]:
    torn: tuple[Damage, int] | None = None
    for text in opened:
        if not text.endswith(b"\n"):
            return
        if torn:
            yield torn  # not the last line, so not what was being written when the process died
            torn = None
        after = offset + len(text)
        try:
            yield parse(text[:-1]), after
        except (ValueError, msgspec.MsgspecError):
            if b"\0" in text:
                torn = Damage(offset), after
            else:
                yield Damage(offset), after
        offset = after
