"""Headers are read as they are, and what is no header is told so, whatever it is."""

import contextlib
import os
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


@settings(max_examples=200)
@given(st.data())
def test_no_header_hangs_or_fails_in_another_way(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("h") / "m.gguf"
    length = st.sampled_from([0, 1, 8, 2**20, 2**32, 2**40, 2**63, 2**64 - 1]).map(
        lambda one: one.to_bytes(8, "little")
    )
    kind = st.integers(0, 13).map(lambda one: one.to_bytes(4, "little"))
    pieces = st.lists(st.one_of(length, kind, st.binary(max_size=12)), max_size=12).map(b"".join)
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(8) + data.draw(length) + data.draw(pieces))
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
