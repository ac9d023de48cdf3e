"""JSON in and out: what only the slow path can hold, what is no JSON at all, and nesting."""

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook.jsonio import MAX_DEPTH, Document, MalformedJSON, check_depth, decode, encode

TEXT = st.text(st.characters(exclude_categories=[]), max_size=12)  # lone surrogates included
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUE)
def test_whatever_is_encoded_decodes_to_the_same(value: Any) -> None:
    raw = encode(value)
    raw.decode("utf-8")
    assert decode(raw) == value


@given(VALUE, st.booleans())
def test_what_the_standard_library_writes_is_read(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert decode(text) == value
    if ascii_only:
        assert decode(text.encode()) == value


@pytest.mark.parametrize("escape", [r"\ud83d", r"\ude00", r"\ud83d \ude00", r"\ude00\ud83d"])
def test_lone_surrogates_survive_both_ways(escape: str) -> None:
    raw = b'{"content":"%b","n":1}' % escape.encode()
    assert encode(decode(raw)) == raw
    assert encode({escape: 1}) == encode(decode(encode({escape: 1})))


def test_text_that_holds_a_lone_surrogate_itself_is_read() -> None:
    # The arguments of a tool call are JSON in a JSON string: once unescaped outside, the surrogate stands bare inside.
    assert decode('{"s":"\ud83d"}') == {"s": "\ud83d"}
    with pytest.raises(MalformedJSON):
        decode("\ud83d")


def test_a_surrogate_pair_in_two_deltas_makes_one_character_of_the_joined_text() -> None:
    first, second = decode(rb'"\ud83d"'), decode(rb'"\ude00"')
    assert decode(encode(first + second)) == "😀"


@pytest.mark.parametrize("number", [2**53 + 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**40])
def test_integers_of_any_size_survive(number: int) -> None:
    raw = b'{"seed":%d}' % number
    assert decode(raw) == {"seed": number}
    assert encode({"seed": number}) == raw
    assert encode({"seed": number, "text": "\ud83d"}) == b'{"seed":%d,"text":"\\ud83d"}' % number


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{",
        b"[1,]",
        b"{'a':1}",
        b"{}{}",
        b"nul",
        b'"\x01"',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b'{"text":"\\ud83d","n":NaN}',
        b"1" * 5000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda raw: raw[:12].decode("latin-1"),
)
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedJSON) as refusal:
        decode(raw)
    assert 0 < len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":"\xff"}',
        b'"\xed\xa0\xbd"',  # a surrogate as bytes: CESU-8, not UTF-8
        b'{"a":"\xc3',
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-16-le"),
        '{"a":1}'.encode("utf-32"),
    ],
)
def test_bytes_that_are_not_utf_8_are_refused(raw: bytes) -> None:
    with pytest.raises(MalformedJSON):
        decode(raw)


@pytest.mark.parametrize("raw", [b"1e999", b'{"temperature":-1e400}', b'["\\ud83d",1e999]'])
def test_a_number_too_large_for_a_float_is_refused_and_not_made_null(raw: bytes) -> None:
    with pytest.raises(MalformedJSON, match="too large"):
        decode(raw)


def test_a_byte_order_mark_does_no_harm() -> None:
    assert decode(b'\xef\xbb\xbf{"a":1}') == {"a": 1}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("text", ["plain", "\ud83d"])
def test_what_is_written_is_always_json(number: float, text: str) -> None:
    def no_constant(name: str) -> None:
        raise AssertionError(name)

    assert json.loads(encode({"n": [number], "text": text}), parse_constant=no_constant) == {"n": [None], "text": text}


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_allowed_up_to_the_limit_and_no_further(opening: bytes, closing: bytes) -> None:
    check_depth(opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH)
    with pytest.raises(MalformedJSON, match="more than 200 levels"):
        check_depth(opening * (MAX_DEPTH + 1) + b"1" + closing * (MAX_DEPTH + 1))
    with pytest.raises(MalformedJSON, match="more than 200 levels"):
        check_depth(opening * 100_000)


def test_arrays_and_objects_in_turns_count_both() -> None:
    check_depth(b'[{"a":' * (MAX_DEPTH // 2) + b"1" + b"}]" * (MAX_DEPTH // 2))
    with pytest.raises(MalformedJSON, match="more than 200 levels"):
        check_depth(b'[{"a":' * (MAX_DEPTH // 2) + b"[1]" + b"}]" * (MAX_DEPTH // 2))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1000,
        "{" * 1000 + "}" * 3,
        '\\"' + "[" * 1000,
        "\\\\",
        '\\\\\\"' + "{" * 1000,
        '"]' * 500,
    ],
)
def test_brackets_inside_strings_do_not_count(text: str) -> None:
    body = json.dumps({"a": text, text: ["x", {"[": text}]}).encode()
    check_depth(body)
    check_depth(b"[" * (MAX_DEPTH - 3) + body + b"]" * (MAX_DEPTH - 3))
    with pytest.raises(MalformedJSON):
        check_depth(b"[" * (MAX_DEPTH - 2) + body + b"]" * (MAX_DEPTH - 2))


def test_a_string_that_ends_in_a_backslash_does_not_hide_what_follows() -> None:
    deep = b"[" * (MAX_DEPTH + 1)
    with pytest.raises(MalformedJSON):
        check_depth(rb'["\\",' + deep)
    check_depth(rb'["\",' + deep)  # never closed: the parser refuses it, as a string


@given(VALUE, st.integers(1, 8))
def test_the_depth_check_agrees_with_the_depth_of_the_value(value: Any, limit: int) -> None:
    def depth(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth, inner), default=0) if isinstance(value, dict | list) else 0

    room = MAX_DEPTH - limit
    body = b"[" * room + encode(value) + b"]" * room
    if depth(value) <= limit:
        check_depth(body)
    else:
        with pytest.raises(MalformedJSON):
            check_depth(body)


def test_many_brackets_side_by_side_are_no_depth() -> None:
    check_depth(b"[" + b"[],{}," * 10_000 + b"1]")


def test_checking_the_depth_of_a_long_text_takes_milliseconds() -> None:
    # It runs on the event loop, for every body: a loop over 8 MB of bytes would stop all other calls for 0.3 s.
    body = json.dumps({"messages": [{"role": "user", "content": 'def f(x): return x[0] "\\"\n' * 300_000}]}).encode()
    start = time.process_time()
    check_depth(body)
    assert time.process_time() - start < 0.15


def test_a_document_decodes_and_encodes_only_when_asked() -> None:
    document = Document(raw=b"{not json")
    assert document.raw == b"{not json"
    with pytest.raises(MalformedJSON):
        _ = document.data

    unwritable = Document({"a": object()})
    assert list(unwritable.data) == ["a"]
    with pytest.raises(TypeError):
        _ = unwritable.raw


def test_a_document_does_its_work_once() -> None:
    document = Document(raw=b'{"a": 1}')
    assert document.data == {"a": 1}
    assert document.data is document.data
    assert document.raw == b'{"a": 1}'  # as it came, space and all

    document = Document({"a": 1})
    assert document.raw == b'{"a":1}'
    assert document.raw is document.raw


def test_a_document_with_both_trusts_both() -> None:
    document = Document({"a": 1}, b'{"a":1,"unknown":2}')
    assert (document.data, document.raw) == ({"a": 1}, b'{"a":1,"unknown":2}')


def test_an_empty_document_is_a_document_and_none_is_not() -> None:
    assert Document({}).raw == b"{}"
    with pytest.raises(TypeError, match="needs data"):
        Document()


def test_a_documents_repr_does_not_show_what_people_say() -> None:
    assert repr(Document({"content": "s3cret"})) == "Document(20 bytes)"
