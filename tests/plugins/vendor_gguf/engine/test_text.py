"""What is made of the bytes of tokens: whole characters, and nothing of a stop."""

import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook_plugins.vendor_gguf.engine.brackets import Brackets
from gatehook_plugins.vendor_gguf.engine.calls import CallReader
from gatehook_plugins.vendor_gguf.engine.families import FUNCTION_TAGS, HERMES, LLAMA, MISTRAL, Family, family_of
from gatehook_plugins.vendor_gguf.engine.reasoning import ReasoningReader
from gatehook_plugins.vendor_gguf.engine.text import Withheld


def pieces(raw: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
    return [raw[a:b] for a, b in itertools.pairwise(places)]


cuts = st.lists(st.integers(0, 60))


@given(st.text(alphabet="ab\u00e9\U0001f600", max_size=30), st.lists(st.text("ab\u00e9", min_size=1, max_size=3)), cuts)
def test_a_text_ends_before_its_first_stop_however_it_is_cut(text: str, stops: list[str], cut: list[int]) -> None:
    stream = Withheld(stops)
    said = ""
    for piece in pieces(text.encode(), cut):
        fresh = stream.push(piece)
        fresh.encode()  # whole characters
        said += fresh
        if stream.stopped:
            break
    said += stream.push(b"", last=True)
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    # Of two stops the one that is complete first ends the text: a longer one may have begun before it.
    assert text.startswith(said)
    assert stream.stopped == bool(ends)
    assert not any(stop in said for stop in stops)
    if not ends:
        assert said == text


def test_a_text_that_may_become_a_stop_is_held_back_until_it_is_known() -> None:
    stream = Withheld(["STOP"])
    assert [stream.push(piece) for piece in (b"a ST", b"O", b"ne STOP b")] == ["a ", "", "STOne "]
    assert stream.stopped


@given(st.binary(max_size=40), cuts)
def test_bytes_that_are_no_text_are_replaced_and_hold_nothing_back(raw: bytes, cut: list[int]) -> None:
    stream = Withheld([])
    said = "".join(stream.push(piece) for piece in pieces(raw, cut)) + stream.push(b"", last=True)
    assert said == raw.decode("utf-8", "replace")


ONE = ("weather", '{"city":"Paris"}')
TWO = ("time", '{"zone":"Z","at":{"h":[1]}}')
WRITTEN: list[tuple[Family, str, str, list[tuple[str, str]]]] = [
    (HERMES, '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>', "", [ONE]),
    (
        HERMES,
        (
            'Let me see.\n<tool_call>{"name":"weather","arguments":{"city":"Paris"}}</tool_call>\n'
            '<tool_call>{"name":"time","arguments":{"zone":"Z","at":{"h":[1]}}}</tool_call>\n'
        ),
        "Let me see.\n",
        [ONE, TWO],
    ),
    (HERMES, '<tool_call>{"name":"weather","arguments":"{\\"city\\":\\"Paris\\"}"}', "", [ONE]),  # JSON in JSON, no end
    (HERMES, "a <tool_call> is <b>", "a <tool_call> is <b>", []),
    (HERMES, '<tool_call>{"city": 1}</tool_call>', '<tool_call>{"city": 1}</tool_call>', []),
    (HERMES, '<tool_call>{"name": "weather", "argu', '<tool_call>{"name": "weather", "argu', []),
    (MISTRAL, '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Paris"}}]', "", [ONE]),
    (
        MISTRAL,
        (
            '[TOOL_CALLS] [{"name":"weather","arguments":{"city":"Paris"}},'
            '{"name":"time","arguments":{"zone":"Z","at":{"h":[1]}}}]'
        ),
        "",
        [ONE, TWO],
    ),
    (MISTRAL, '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}', "", [ONE]),
    (LLAMA, '{"name": "weather", "parameters": {"city": "Paris"}}', "", [ONE]),
    (LLAMA, '<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}<|eom_id|>', "", [ONE]),
    (
        LLAMA,
        '{"name":"weather","parameters":{"city":"Paris"}}; {"name":"time","parameters":{"zone":"Z","at":{"h":[1]}}}',
        "",
        [ONE, TWO],
    ),
    (LLAMA, 'Write {"name": "weather", "parameters": {}}', 'Write {"name": "weather", "parameters": {}}', []),
    (LLAMA, '{"a": 1} is JSON', '{"a": 1} is JSON', []),
    (FUNCTION_TAGS, '<function=weather>{"city": "Paris"}</function>', "", [ONE]),
]


@pytest.mark.parametrize(("family", "written", "text", "calls"), WRITTEN)
def test_calls_are_found_wherever_the_text_is_cut(
    family: Family, written: str, text: str, calls: list[tuple[str, str]]
) -> None:
    for size in (1, 2, 3, 7, len(written)):
        reader = CallReader(family)
        said, found = "", []
        for at in range(0, len(written), size):
            more, fresh = reader.push(written[at : at + size])
            said += more
            found += [(call.name, call.arguments) for call in fresh]
        assert (said + reader.finish(), found) == (text, calls)


@given(st.text(alphabet='<tool_cal>{"name": 1}/[TOOL_CALLS]|pyhn;', max_size=60), cuts)
@pytest.mark.parametrize("family", [HERMES, MISTRAL, LLAMA, FUNCTION_TAGS])
def test_no_text_is_lost_or_made_up(family: Family, text: str, cut: list[int]) -> None:
    reader = CallReader(family)
    said, calls = "", 0
    for piece in pieces(text.encode(), cut):
        more, found = reader.push(piece.decode())
        said, calls = said + more, calls + len(found)
    said += reader.finish()
    if not calls:
        assert said.strip() == text.strip()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text('a"\\{[<'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a"\\]}', max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(values) | st.dictionaries(st.text(max_size=3), values), cuts, st.text(max_size=5))
def test_a_json_value_ends_where_the_library_says_however_it_is_cut(value: Any, cut: list[int], rest: str) -> None:
    written = json.dumps(value)
    brackets, come, end = Brackets(), "", None
    for piece in pieces((written + rest).encode(), cut):
        come += piece.decode(errors="ignore")
        end = brackets.end(come)
        assert end in (None, len(written))
        if end is not None:
            return
    assert end == len(written)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
@pytest.mark.parametrize("arguments", ['{"a": %s}', '"{\\"a\\": %s}"'])
def test_a_call_with_what_is_no_number_is_no_call(number: str, arguments: str) -> None:
    text = '<tool_call>{"name": "f", "arguments": ' + arguments.replace("%s", number) + "}</tool_call>"
    reader = CallReader(HERMES)
    said, calls = reader.push(text)
    assert (said + reader.finish(), calls) == (text, [])


def test_a_line_break_in_a_string_of_a_call_is_passed_on_as_json() -> None:
    _, calls = CallReader(HERMES).push('<tool_call>{"name": "f", "arguments": {"a": "1\n2"}}</tool_call>')
    assert [call.arguments for call in calls] == ['{"a":"1\\n2"}']


def test_what_cannot_become_a_call_is_told_at_once() -> None:
    reader = CallReader(HERMES)
    assert reader.push('<tool_call>{"name": <') == ('<tool_call>{"name": ', [])


def test_a_call_is_read_in_time_that_grows_with_its_length() -> None:
    reader = CallReader(HERMES)
    reader.push('<tool_call>{"name": "f", "arguments": {"a": "')
    began = time.process_time()
    for _ in range(20_000):
        reader.push("word ")
    _, calls = reader.push('"}}')
    assert len(calls[0].arguments) > 100_000
    assert time.process_time() - began < 5  # to parse it all again for each piece takes a minute


def test_a_family_is_told_by_the_template() -> None:
    assert family_of("{{ '[TOOL_CALLS]' }}") is MISTRAL
    assert family_of("<tool_call>") is HERMES
    assert family_of("<function=") is FUNCTION_TAGS
    assert family_of("<|python_tag|>") is LLAMA
    assert family_of("{{ messages }}") is HERMES


@given(cuts, st.booleans())
def test_reasoning_is_parted_from_the_answer_however_it_is_cut(cut: list[int], begun: bool) -> None:
    reader = ReasoningReader(("<think>", "</think>"), begun=begun)
    text = ("" if begun else "\n<think>") + "hm </thi, yes</think>\n\nParis <think>"
    parts = [reader.push(piece.decode()) for piece in pieces(text.encode(), cut)] + [reader.finish()]
    assert "".join(part[0] for part in parts) == "hm </thi, yes"
    assert "".join(part[1] for part in parts) == "Paris <think>"


def test_an_answer_without_reasoning_is_all_answer() -> None:
    reader = ReasoningReader(("<think>", "</think>"))
    assert [reader.push("<th"), reader.push("e"), reader.finish()] == [("", ""), ("", "<the"), ("", "")]
    assert ReasoningReader(None).push(" a") == ("", " a")


def test_half_a_character_in_the_arguments_of_a_call_stays_an_escape() -> None:
    from gatehook_plugins.vendor_gguf.engine.calls import _dumps

    assert _dumps({"a": "\udddd é"}) == '{"a":"\\udddd \\u00e9"}'
    assert _dumps({"a": "é"}) == '{"a":"é"}'
