"""The header of a GGUF file, read without the library, the weights or the vocabulary.

The reader trusts nothing: each length is compared with the rest of the file and with limits, so that a hostile file
costs a moment only and ends in a `BadFile`.
"""

import os
import re
import stat
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from msgspec import Struct

from gatehook_plugins.vendor_gguf.tensors import tensor_size

__all__ = ["BadFile", "Header", "Headers", "read_header", "shards"]

_CODES: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SCALARS: Final = {kind: struct.Struct("<" + code) for kind, code in _CODES.items()}
_STRING: Final = 8
_ARRAY: Final = 9
_U32, _U64 = _SCALARS[4], _SCALARS[10]

_MOST_KEYS: Final = 65_536
_LONGEST_KEY: Final = 65_535
_LONGEST_TEXT: Final = 1 << 20
"""The most bytes of a text that is kept; longer ones are skipped. Chat templates have some ten thousand bytes."""
_MOST_KEPT: Final = 512
"""The most items of an array that is kept: numbers by layer are, the vocabulary is skipped."""
_MOST_ITEMS: Final = 4_000_000
"""The most texts in all arrays together: the largest vocabularies have 256,000, twice that with their merges."""

_MOST_TENSORS: Final = 1 << 16
_MOST_DIMENSIONS: Final = 4
_ALIGNMENT: Final = 32
"""The alignment of tensors in bytes, where the file names none."""

_QUANTIZATIONS: Final[Mapping[int, str]] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip
"""llama.cpp's file types, but for those that it no longer reads."""

_POOLINGS: Final = ("", "mean", "cls", "last", "rank")

_SHARD: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


class BadFile(ValueError):
    """The file is no GGUF file, or not all of one; the message continues a sentence after the file's name."""


class Header(Struct, frozen=True):
    """What a GGUF file says of its model. What it does not say is "" or 0."""

    name: str
    architecture: str
    quantization: str
    context_length: int
    """Tokens of context that the model was trained for."""
    template: str
    """The chat template, in Jinja."""
    pooling: str
    """How an embedding model makes one vector of many: mean, cls, last, rank; "" for a model that writes text."""
    layers: int
    width: int
    """The length of an embedding."""
    cells: int
    """Numbers that the key-value cache keeps for each token."""
    vocabulary: int
    size: int
    """Bytes of the file, or of all its parts."""
    fault: str = ""
    """Why the file cannot be loaded though its header is whole: it was cut, or is still being copied."""

    @property
    def embeds(self) -> bool:
        """Whether the model makes embeddings, and writes no text."""
        return bool(self.pooling)


def read_header(path: Path) -> Header:
    """Read the header of a file. Of a model in parts, the first part's header; all parts are checked, and sizes added.

    Raises:
        BadFile: it is no GGUF file, or not all of one. OSError: it cannot be read.
    """
    files = shards(path)
    values, fault = _looked_into(files[0])
    faults = [fault, *map(_fault_of_part, files[1:])]
    return _described(values, sum(one.stat().st_size for one in files), next(filter(None, faults), ""))


def _looked_into(path: Path) -> tuple[Mapping[str, Any], str]:
    """The values of one file, and what is wrong with its tensors, "" if nothing is."""
    with path.open("rb") as file:
        reader = _Reader(file)
        values = reader.values()
        return values, reader.fault(_count(values.get("general.alignment")) or _ALIGNMENT)


def _fault_of_part(path: Path) -> str:
    try:
        fault = _looked_into(path)[1]
    except BadFile as error:
        fault = str(error)
    return fault and f"has a part that cannot be used: {path.name} {fault}"


def shards(path: Path) -> Sequence[Path]:
    """The files of a model, in order: `path` alone, or all of NAME-00001-of-0000N.gguf.

    Raises:
        BadFile: one is missing.
    """
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count <= 999:
        raise BadFile(f"{path.name}: there is no such part")
    ending = path.suffix
    files = [path.with_name(f"{match['stem']}-{number:05}-of-{count:05}{ending}") for number in range(1, count + 1)]
    for file in files:
        if not file.is_file():
            raise BadFile(f"{file.name} is missing, one of its {count} parts")
    return files


_Stamp = tuple[tuple[int, int], ...]
"""The sizes of all parts in bytes, and when they were changed, in nanoseconds."""


class Headers:
    """A cache of headers: each is read again only when its file has changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[_Stamp, Header | str]] = {}

    def of(self, path: Path) -> Header:
        """The header of a file.

        Raises:
            BadFile: as for `read_header`, or the file cannot be read.
        """
        try:
            stamp = _stamp_of(path)
            known = self._known.get(path)
            if known is None or known[0] != stamp:
                known = self._known[path] = (stamp, _read(path))
        except OSError as error:
            raise BadFile(f"cannot be read: {error.strerror or type(error).__name__}") from None
        if isinstance(known[1], str):
            raise BadFile(known[1])
        return known[1]


def _stamp_of(path: Path) -> _Stamp:
    """What changes when a file does.

    Raises:
        BadFile: its name is no UTF-8, or it is no regular file. OSError: it cannot be looked at.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise BadFile("has a name that is no UTF-8; rename it") from None
    files = [file.stat() for file in shards(path)]
    if not all(stat.S_ISREG(told.st_mode) for told in files):
        raise BadFile("is no regular file")
    return tuple((told.st_size, told.st_mtime_ns) for told in files)


def _read(path: Path) -> Header | str:
    """The header, or what is wrong with the file, so that this is cached too."""
    try:
        return read_header(path)
    except BadFile as error:
        return str(error)


class _Reader:
    """Reads the key-value pairs at the beginning of a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._items = 0
        self._tensors = 0

    def values(self) -> Mapping[str, Any]:
        """All values by key; of a long array only its length (`_Skipped`).

        Raises:
            BadFile: it is no GGUF file, or ends too soon.
        """
        if self._file.read(4) != b"GGUF":
            raise BadFile("is no GGUF file")
        version = self._number(_U32)
        if version not in (2, 3):
            raise BadFile(f"has the GGUF version {version}; 2 and 3 can be read")
        self._tensors = self._number(_U64)
        count = self._number(_U64)
        if count > _MOST_KEYS:
            raise BadFile(f"says that it has {count} keys, which is not credible")
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self._text(_LONGEST_KEY)
            if key is None:
                raise BadFile("has a key of absurd length")
            found[key] = self._value(self._number(_U32))
        return found

    def fault(self, alignment: int) -> str:
        """What is wrong with the tensors, "" if each is there to its end. Call it after `values`."""
        try:
            end = self._end_of_tensors(alignment)
        except BadFile as error:
            return str(error)
        if end <= self._size:
            return ""
        return f"has {self._size} bytes of at least {end}: it was cut, or is still being copied"

    def _end_of_tensors(self, alignment: int) -> int:
        if self._tensors > _MOST_TENSORS:
            raise BadFile(f"says that it has {self._tensors} tensors, which is not credible")
        last = 0
        for _ in range(self._tensors):
            self._skip(self._number(_U64))  # its name
            if (count := self._number(_U32)) > _MOST_DIMENSIONS:
                raise BadFile(f"has a tensor of {count} dimensions")
            dimensions = [self._number(_U64) for _ in range(count)]
            size = tensor_size(self._number(_U32), dimensions)
            last = max(last, self._number(_U64) + size)
        return -(-self._file.tell() // alignment) * alignment + last if last else 0

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text(_LONGEST_TEXT)
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise BadFile(f"has a value of the unknown type {kind}")
        return self._number(_SCALARS[kind])

    def _array(self) -> Any:
        kind, length = self._number(_U32), self._number(_U64)
        if kind in _SCALARS:
            if length <= _MOST_KEPT:
                return [self._number(_SCALARS[kind]) for _ in range(length)]
            self._skip(length * _SCALARS[kind].size)
        elif kind == _STRING:
            self._items += length
            if self._items > _MOST_ITEMS:
                raise BadFile("has arrays of absurd length")
            for _ in range(length):
                self._skip(self._number(_U64))
        else:
            raise BadFile("has an array of a type that cannot be read")
        return _Skipped(length)

    def _text(self, longest: int) -> str | None:
        """A text; None for one that is too long to be kept."""
        length = self._number(_U64)
        if length > longest:
            self._skip(length)
            return None
        data = self._file.read(length)
        if len(data) < length:
            raise BadFile("ends in the middle of its header")
        return data.decode("utf-8", "replace")

    def _number(self, shape: struct.Struct) -> Any:
        data = self._file.read(shape.size)
        if len(data) < shape.size:
            raise BadFile("ends in the middle of its header")
        return shape.unpack(data)[0]

    def _skip(self, count: int) -> None:
        if count > self._size or self._file.seek(count, os.SEEK_CUR) > self._size:
            raise BadFile("ends in the middle of its header")


class _Skipped(Struct, frozen=True):
    """An array that was skipped."""

    length: int


def _described(values: Mapping[str, Any], size: int, fault: str) -> Header:
    architecture = _text(values, "general.architecture")
    if not architecture:
        raise BadFile("does not say what architecture it has (general.architecture)")

    def number(name: str) -> int:
        return _count(values.get(f"{architecture}.{name}"))

    tokens = values.get("tokenizer.ggml.tokens")
    pooling = number("pooling_type")
    return Header(
        name=_text(values, "general.name"),
        architecture=architecture,
        quantization=_QUANTIZATIONS.get(_count(values.get("general.file_type"), missing=-1), ""),
        context_length=number("context_length"),
        template=_text(values, "tokenizer.chat_template"),
        pooling=_POOLINGS[pooling] if pooling < len(_POOLINGS) else "mean",
        layers=number("block_count"),
        width=number("embedding_length"),
        cells=_cells(values, architecture),
        vocabulary=tokens.length if isinstance(tokens, _Skipped) else len(tokens) if isinstance(tokens, list) else 0,
        size=size,
        fault=fault,
    )


def _cells(values: Mapping[str, Any], architecture: str) -> int:
    """The numbers that the key-value cache keeps for a token, over all layers: they may differ in their heads."""

    def value(name: str) -> Any:
        return values.get(f"{architecture}.{name}")

    layers, heads = _count(value("block_count")), value("attention.head_count")
    most = max((_count(one) for one in heads), default=0) if isinstance(heads, list) else _count(heads)
    by_layer = value("attention.head_count_kv")
    if by_layer is None:
        by_layer = heads
    total = sum(map(_count, by_layer)) if isinstance(by_layer, list) else layers * _count(by_layer)
    usual = _count(value("embedding_length")) // most if most else 0
    length = _count(value("attention.key_length"), usual) + _count(value("attention.value_length"), usual)
    return total * length


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) else ""


def _count(value: Any, missing: int = 0) -> int:
    """The value if it is a whole number below 2**32; `missing` for anything else."""
    return value if isinstance(value, int) and 0 <= value < 1 << 32 else missing
