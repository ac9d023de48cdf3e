"""Headers are read as they are, and what is no header is told so, whatever it is."""

import contextlib
import ctypes
import os
import re
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatehook_plugins.vendor_gguf import estimate
from gatehook_plugins.vendor_gguf.estimate import context_of, need
from gatehook_plugins.vendor_gguf.header import BadFile, Headers, read_header, shards
from gatehook_plugins.vendor_gguf.options import EngineOptions
from gatehook_plugins.vendor_gguf.tensors import _BLOCKS

Write = Callable[..., Path]
Head = Callable[[Mapping[str, Any]], bytes]


def test_a_trained_model_tells_what_it_is(trained: Path) -> None:
    header = read_header(trained)
    assert (header.name, header.architecture, header.quantization) == ("tiny-chat", "llama", "Q8_0")
    assert (header.context_length, header.layers, header.width, header.vocabulary) == (1024, 3, 128, 358)
    assert header.cells == 3 * 2 * (32 + 32)
    assert header.size == trained.stat().st_size
    assert "add_generation_prompt" in header.template
    assert not header.embeds


def test_layers_may_differ_in_their_heads(gguf: Write) -> None:
    values = {"llama.attention.head_count": [4, 4, 8], "llama.attention.head_count_kv": [1, 2, 3]}
    assert read_header(gguf("m.gguf", values)).cells == 6 * (16 + 16)


def test_the_lengths_of_keys_and_values_count_where_they_are_told(gguf: Write) -> None:
    values = {"llama.attention.key_length": 10, "llama.attention.value_length": 20}
    assert read_header(gguf("m.gguf", values)).cells == 3 * 2 * 30


def test_a_model_with_a_pooling_makes_embeddings(gguf: Write) -> None:
    header = read_header(gguf("m.gguf", {"llama.pooling_type": 2}))
    assert (header.embeds, header.pooling) == (True, "cls")


def test_what_is_not_told_is_nothing(tmp_path: Path, gguf_header: Head) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_header({"general.architecture": "new"}))
    header = read_header(path)
    assert (header.name, header.quantization, header.context_length, header.cells) == ("", "", 0, 0)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is no GGUF file"),
        (b"PK\x03\x04 a zip", "is no GGUF file"),
        (b"GGUF\x01\x00\x00\x00" + bytes(16), "has the GGUF version 1"),
        (b"GGUF\x00\x00\x00\x03" + bytes(16), "has the GGUF version 50331648"),  # the other byte order
        (b"GGUF\x03\x00\x00\x00" + bytes(8) + b"\xff" * 8, "which is not credible"),
        (b"GGUF\x03\x00\x00\x00" + bytes(16), "does not say what architecture"),
    ],
)
def test_what_is_no_header_is_told_so(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(BadFile, match=what):
        read_header(path)


def test_every_truncation_ends_in_words(tmp_path: Path, trained: Path, gguf: Write) -> None:
    whole = gguf("m.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(BadFile):
            read_header(path)


def test_a_file_that_was_cut_in_its_tensors_says_so(tmp_path: Path, trained: Path) -> None:
    whole = trained.read_bytes()
    assert read_header(trained).fault == ""
    path = tmp_path / "cut.gguf"
    for length in (len(whole) - 1, len(whole) // 2):
        path.write_bytes(whole[:length])
        assert (
            read_header(path).fault
            == f"has {length} bytes of at least {len(whole)}: it was cut, or is still being copied"
        )
    path.write_bytes(whole[: whole.index(b"token_embd.weight") + 4])
    assert read_header(path).fault == "ends in the middle of its header"
    path.write_bytes(whole + b"more")
    assert read_header(path).fault == ""


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [
        (struct.pack("<IQQIQ", 2, 64, 3, 8, 0), ""),  # 6 blocks of Q8_0, 204 bytes
        (struct.pack("<IQQIQ", 2, 64, 3, 8, 96), ""),
        (struct.pack("<IQQIQ", 2, 64, 3, 8, 97), r"has \d+ bytes of at least \d+: it was cut"),
        (struct.pack("<IQIQ", 1, 2**64 - 1, 0, 2**64 - 1), r"has \d+ bytes of at least \d+: it was cut"),
        (struct.pack("<IQIQ", 1, 1000, 99, 0), ""),  # of a type that nobody knows yet
        (struct.pack("<IQIQ", 1, 1000, 99, 300), "it was cut"),
        (struct.pack("<I", 5), "has a tensor of 5 dimensions"),
    ],
)
def test_a_file_is_as_long_as_its_tensors_say(tmp_path: Path, gguf_header: Head, tensor: bytes, fault: str) -> None:
    head = bytearray(gguf_header({"general.architecture": "new", "general.alignment": 64}))
    head[8:16] = struct.pack("<Q", 1)
    head += struct.pack("<Q", 1) + b"t" + tensor
    path = tmp_path / "m.gguf"
    path.write_bytes(head + bytes(-len(head) % 64) + bytes(300))
    assert re.search(fault, read_header(path).fault) if fault else read_header(path).fault == ""


def test_tensors_take_what_the_library_says() -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    library = ctypes.CDLL(str(next(Path(llama_cpp.__file__).parent.glob("lib/libggml-base.*"))))
    library.ggml_blck_size.restype, library.ggml_type_size.restype = ctypes.c_int64, ctypes.c_size_t
    for kind, (numbers, size) in _BLOCKS.items():
        if told := library.ggml_blck_size(kind):  # else it is of a newer library
            assert (kind, numbers, size) == (kind, told, library.ggml_type_size(kind))


@settings(max_examples=200)
@given(st.data())
def test_no_header_hangs_or_fails_in_another_way(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("h") / "m.gguf"
    length = st.sampled_from([0, 1, 8, 2**20, 2**32, 2**40, 2**63, 2**64 - 1]).map(
        lambda one: one.to_bytes(8, "little")
    )
    kind = st.integers(0, 13).map(lambda one: one.to_bytes(4, "little"))
    pieces = st.lists(st.one_of(length, kind, st.binary(max_size=12)), max_size=12).map(b"".join)
    tensors = st.sampled_from([0, 1, 2**16]).map(lambda one: one.to_bytes(8, "little"))
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + data.draw(tensors) + data.draw(length) + data.draw(pieces))
    begun = time.process_time()
    with contextlib.suppress(BadFile):
        assert read_header(path).architecture
    assert time.process_time() - begun < 1
    path.unlink()


def test_parts_are_one_model_and_all_of_them_must_be_there(gguf: Write) -> None:
    first = gguf("m-00001-of-00002.gguf")
    with pytest.raises(BadFile, match=r"m-00002-of-00002\.gguf is missing"):
        shards(first)
    second = gguf("m-00002-of-00002.gguf", size=5000)
    assert shards(first) == [first, second]
    assert read_header(first).size == first.stat().st_size + 5000


def test_a_part_that_is_still_being_copied_is_told_until_it_is_whole(gguf: Write) -> None:
    headers, first = Headers(), gguf("m-00001-of-00002.gguf")
    second = gguf("m-00002-of-00002.gguf")
    whole = second.read_bytes()
    second.write_bytes(whole[:-9])
    assert headers.of(first).fault == (
        "has a part that cannot be used: m-00002-of-00002.gguf ends in the middle of its header"
    )
    second.write_bytes(whole)
    assert headers.of(first).fault == ""


def test_a_header_is_read_again_only_when_its_file_has_changed(gguf: Write) -> None:
    headers = Headers()
    path = gguf("m.gguf", {"general.name": "one"})
    before = headers.of(path)
    assert headers.of(path) is before
    gguf("m.gguf", {"general.name": "another"})
    assert headers.of(path).name == "another"
    path.write_bytes(b"nonsense")
    with pytest.raises(BadFile, match="is no GGUF file"):
        headers.of(path)
    path.unlink()
    with pytest.raises(BadFile, match="No such file"):
        headers.of(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_told_so(gguf: Write) -> None:
    path = gguf("m.gguf")
    path.chmod(0)
    with pytest.raises(BadFile, match="Permission denied"):
        Headers().of(path)


# --- the estimate


def test_a_model_needs_its_file_its_cache_and_room_to_compute(trained: Path) -> None:
    header = read_header(trained)
    small = need(header, EngineOptions("", "", "", context=512, slots=1))
    large = need(header, EngineOptions("", "", "", context=1024, slots=4))
    assert large - small == (4096 - 512) * header.cells * 2
    assert small > header.size


def test_a_context_that_nobody_names_is_the_model_s_within_bounds(gguf: Write) -> None:
    assert context_of(read_header(gguf("a.gguf")), 0) == 1024
    assert context_of(read_header(gguf("b.gguf", {"llama.context_length": 131072})), 0) == 8192
    assert context_of(read_header(gguf("c.gguf", {"llama.context_length": 131072})), 65536) == 65536


def test_the_memory_of_a_container_counts_as_the_machine_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(estimate, "_CGROUPS", (str(tmp_path / "none"), str(limit)))
    limit.write_text("max\n")
    whole = estimate.machine_memory()
    limit.write_text(f"{whole // 2}\n")
    assert estimate.machine_memory() == whole // 2
    limit.write_text(f"{whole * 2}\n")
    assert estimate.machine_memory() == whole
