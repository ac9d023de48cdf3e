"""GGUF files, small and at will, and the programs that run them."""

import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gatehook_plugins.vendor_gguf.messages import Spec
from gatehook_plugins.vendor_gguf.options import EngineOptions

STAND_IN = Path(__file__).with_name("stand_in.py")
TRAINED = Path(__file__).parents[2] / "models" / "tiny-chat.gguf"

USUAL: Mapping[str, Any] = {
    "general.architecture": "llama",
    "general.name": "tiny",
    "general.file_type": 7,
    "llama.context_length": 1024,
    "llama.block_count": 3,
    "llama.embedding_length": 128,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
    "tokenizer.chat_template": "{{ messages }}",
}


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    """A value with its type before it."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    items = list(value)
    if items and isinstance(items[0], str):
        return struct.pack("<IIQ", 9, 8, len(items)) + b"".join(map(_text, items))
    return struct.pack("<IIQ", 9, 4, len(items)) + struct.pack(f"<{len(items)}I", *items)


def header_of(values: Mapping[str, Any]) -> bytes:
    """The beginning of a GGUF file with these values."""
    pairs = b"".join(_text(key) + _value(value) for key, value in values.items())
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(values)) + pairs


@pytest.fixture
def gguf_header() -> Callable[[Mapping[str, Any]], bytes]:
    return header_of


@pytest.fixture
def gguf(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file: a header of the usual values and those given, then what the stand-in is to do, then padding."""

    def write(name: str, values: Mapping[str, Any] | None = None, *, wish: str = "", size: int = 0) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = header_of({**USUAL, **(values or {})})
        data += b"\0" * max(0, size - len(data))
        path.write_bytes(data + (f"\0WISH {wish}".encode() if wish else b""))
        return path

    return write


@pytest.fixture
def stand_in() -> tuple[str, ...]:
    """The command of an engine without a model."""
    return (sys.executable, str(STAND_IN))


@pytest.fixture
def trained() -> Path:
    """A trained model of 660 kB."""
    return TRAINED


@pytest.fixture
def spec_of() -> Callable[..., Spec]:
    """What is wanted of a file, or of none."""

    def make(name: str, path: Path | str = "", *, need: int = 1, **rest: Any) -> Spec:
        options = EngineOptions(str(path), "", name, context=512)
        return Spec(name, options, quantization="", size=1, modified=1, need=need, **rest)

    return make
