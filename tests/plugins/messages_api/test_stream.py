"""Streams: however an answer is cut into chunks, its events are well-formed and come to the plain answer."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import Call, Chunk, Completion, UpstreamError, Usage
from gatehook_plugins.messages_api.answer import message_of
from gatehook_plugins.messages_api.stream import Events

USAGE = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4, cache_write_tokens=1)
Delta = dict[str, Any]


def call() -> Call:
    return Call("chat", "messages", {}, model="m")


def chunk(delta: Delta, finish: str | None = None, **rest: Any) -> Chunk:
    return Chunk({"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **rest})


def events_of(framed: bytes) -> list[Any]:
    *blocks, rest = framed.split(b"\n\n")
    assert rest == b""
    found = [block.split(b"\n") for block in blocks]
    events = [json.loads(data.removeprefix(b"data: ")) for _, data in found]
    assert [name for name, _ in found] == [f"event: {event['type']}".encode() for event in events]
    return events


def streamed(deltas: Iterable[Delta], finish: str = "stop", **last: Any) -> list[Any]:
    """The events of a whole stream."""
    events, asked = Events(), call()
    framed = [events.take(asked, chunk({"role": "assistant", "content": ""}))]
    framed += [events.take(asked, chunk(delta)) for delta in deltas]
    framed += [events.take(asked, chunk({}, finish, **last)), events.end(asked, USAGE)]
    return events_of(b"".join(framed))


FIELDS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
    "input_json_delta": ("tool_use", "partial_json"),
}


def put_together(events: Sequence[Any]) -> dict[str, Any]:
    """The message that events come to, after everything that must hold for their order."""
    first, *middle, delta, last = events
    assert (first["type"], delta["type"], last) == ("message_start", "message_delta", {"type": "message_stop"})
    message: dict[str, Any] = {**first["message"]}
    assert message["content"] == []
    blocks: list[dict[str, Any]] = []
    is_open = False
    for event in middle:
        assert event["index"] == len(blocks) - (event["type"] != "content_block_start"), event
        if event["type"] == "content_block_start":
            assert not is_open
            is_open = True
            blocks.append({**event["content_block"], **({"input": ""} if "input" in event["content_block"] else {})})
        elif event["type"] == "content_block_stop":
            assert is_open
            is_open = False
        else:
            assert is_open
            kind, field = FIELDS[event["delta"]["type"]]
            assert blocks[-1]["type"] == kind
            blocks[-1][field if field != "partial_json" else "input"] += event["delta"][field]
    assert not is_open
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["input"] or "{}")
    return message | {"content": blocks, **delta["delta"], "usage": delta["usage"]}


def plain(message: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    data = {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
    return message_of(call(), Completion(data), USAGE)


def unnamed(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"id": ""}


# --- any chunks ----------------------------------------------------------------------------------------------------


def cut(text: str, places: Sequence[int]) -> list[str]:
    """A text in pieces, some of them perhaps empty."""
    ends = sorted(place % (len(text) + 1) for place in places)
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


PLACES = st.lists(st.integers(0, 50), max_size=4)
VALUES = st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3))
CALLED = st.tuples(st.dictionaries(st.text(max_size=5), VALUES, max_size=3), PLACES)
PIECES = st.tuples(st.text(max_size=30), PLACES).map(lambda given: cut(*given))


def fragments(number: int, arguments: Any, places: Sequence[int]) -> list[Delta]:
    begun = {"index": number, "id": f"call_{number}", "type": "function", "function": {"name": f"tool_{number}"}}
    pieces = cut(json.dumps(arguments), places)
    rest = [{"index": number, "function": {"arguments": piece}} for piece in pieces]
    return [{"tool_calls": [one]} for one in (begun, *rest)]


@given(thoughts=PIECES, texts=PIECES, called=st.lists(CALLED, max_size=3))
def test_an_answer_in_order_comes_to_the_plain_one(thoughts: list[str], texts: list[str], called: Any) -> None:
    deltas: list[Delta] = [{"reasoning_content": piece} for piece in thoughts]
    deltas += [{"content": piece} for piece in texts]
    message: dict[str, Any] = {"content": "".join(texts) or None, "reasoning_content": "".join(thoughts)}
    for number, (arguments, places) in enumerate(called):
        deltas += fragments(number, arguments, places)
        function = {"name": f"tool_{number}", "arguments": json.dumps(arguments)}
        message.setdefault("tool_calls", []).append({"id": f"call_{number}", "function": function})
    finish = "tool_calls" if called else "stop"
    assert unnamed(put_together(streamed(deltas, finish))) == unnamed(plain(message, finish))


@given(data=st.data(), texts=PIECES, called=st.lists(CALLED, min_size=1, max_size=4))
def test_an_answer_in_any_order_loses_nothing(data: st.DataObject, texts: list[str], called: Any) -> None:
    rows = [[{"content": piece} for piece in texts]]
    rows += [fragments(number, arguments, places) for number, (arguments, places) in enumerate(called)]
    deltas: list[Delta] = []
    while rows := [row for row in rows if row]:
        deltas.append(data.draw(st.sampled_from(rows)).pop(0))
    message = put_together(streamed(deltas, "tool_calls"))
    assert "".join(block["text"] for block in message["content"] if block["type"] == "text") == "".join(texts)
    uses = {block["id"]: (block["name"], block["input"]) for block in message["content"] if block["type"] == "tool_use"}
    assert uses == {f"call_{number}": (f"tool_{number}", given) for number, (given, _) in enumerate(called)}


# --- one by one ----------------------------------------------------------------------------------------------------


def test_text_and_calls_are_told_as_they_come() -> None:
    events, asked = Events(), call()
    assert [event["type"] for event in events_of(events.take(asked, chunk({"role": "assistant"})))] == ["message_start"]
    told = events_of(events.take(asked, chunk({"content": "Hi"})))
    assert [event["type"] for event in told] == ["content_block_start", "content_block_delta"]
    first = {"index": 0, "id": "a", "function": {"name": "look", "arguments": '{"a":'}}
    told = events_of(events.take(asked, chunk({"tool_calls": [first]})))
    assert [event["type"] for event in told] == ["content_block_stop", "content_block_start", "content_block_delta"]
    assert told[1]["content_block"] == {"type": "tool_use", "id": "a", "name": "look", "input": {}}
    second = {"index": 1, "id": "b", "function": {"name": "look", "arguments": '{"b":1}'}}
    assert events.take(asked, chunk({"tool_calls": [second]})) == b"", "the first call is not complete"
    told = events_of(events.take(asked, chunk({"tool_calls": [{"index": 0, "function": {"arguments": "2}"}}]})))
    assert [(event["type"], event["index"]) for event in told] == [
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("content_block_start", 2),
        ("content_block_delta", 2),
    ]


def test_a_name_in_pieces_is_told_whole() -> None:
    functions = [{"name": "get_"}, {"name": "weather"}, {"arguments": "{}"}]
    deltas = [{"tool_calls": [{"index": 0, "id": "a", "function": one}]} for one in functions]
    (use,) = put_together(streamed(deltas, "tool_calls"))["content"]
    assert use["name"] == "get_weather"


def test_an_answer_without_content_has_no_blocks() -> None:
    message = put_together(streamed([]))
    assert (message["content"], message["stop_reason"]) == ([], "end_turn")


def test_signed_thoughts_are_signed_where_they_end() -> None:
    signed = {"type": "thinking", "thinking": "Hm. So.", "signature": "sig"}
    sealed = {"type": "redacted_thinking", "data": "x"}
    silent = {"type": "thinking", "thinking": "", "signature": "too"}
    alone = {"type": "thinking", "thinking": "Aha.", "signature": "alone"}
    deltas: list[Delta] = [{"reasoning_content": "Hm. "}, {"reasoning_content": "So."}, {"thinking_blocks": [signed]}]
    deltas += [{"thinking_blocks": [sealed]}, {"thinking_blocks": [silent, alone]}, {"content": "Yes."}]
    message = put_together(streamed(deltas))
    assert message["content"] == [signed, sealed, silent, alone, {"type": "text", "text": "Yes."}]


def test_thoughts_beside_sealed_ones_are_told_too() -> None:
    sealed = {"type": "redacted_thinking", "data": "x"}
    message = plain({"content": "A", "reasoning_content": "Hm.", "thinking_blocks": [sealed]})
    streamed_too = put_together(
        streamed([{"reasoning_content": "Hm."}, {"thinking_blocks": [sealed]}, {"content": "A"}])
    )
    assert message["content"] == streamed_too["content"]
    assert [block["type"] for block in message["content"]] == ["thinking", "redacted_thinking", "text"]


@pytest.mark.parametrize("name", ["", "reasoning_content"])
def test_thoughts_in_parts_are_told_as_mistral_has_them(name: str) -> None:
    """Beside an empty field for thoughts, too."""
    thoughts: list[Delta] = [{"type": "text", "text": "Hm. "}, {"type": "reference", "reference_ids": [1]}]
    parts: list[Delta] = [{"type": "thinking", "thinking": thoughts}, {"type": "thinking", "thinking": "So."}]
    text: Delta = {"type": "text", "text": "Hi"}
    beside: Delta = {name: ""} if name else {}
    content = [{"type": "thinking", "thinking": "Hm. So.", "signature": ""}, text]
    assert plain({"content": [*parts, text], **beside})["content"] == content
    deltas: list[Delta] = [{"content": [parts[0]], **beside}, {"content": [parts[1], text]}]
    assert put_together(streamed(deltas))["content"] == content
    deltas = [{"content": [parts[0]]}, {"content": parts[1:]}, {"content": [text]}]
    assert put_together(streamed(deltas))["content"] == content


@pytest.mark.parametrize("thinking", [None, 7, [None], [{"type": "text", "text": None}], {}])
def test_parts_that_hold_no_thoughts_are_left_out(thinking: Any) -> None:
    content = [{"type": "thinking", "thinking": thinking}, "Hm.", {"type": "text", "text": "A"}]
    assert plain({"content": content})["content"] == [{"type": "text", "text": "A"}]
    assert put_together(streamed([{"content": content}]))["content"] == [{"type": "text", "text": "A"}]


def test_thoughts_that_are_not_signed_yet_are_told_once() -> None:
    """A proxy in front of Anthropic that speaks OpenAI's dialect tells each piece in both forms."""
    pieces = [{"type": "thinking", "thinking": piece, "signature": None} for piece in ("Hm. ", "So.")]
    deltas: list[Delta] = [{"reasoning_content": one["thinking"], "thinking_blocks": [one]} for one in pieces]
    signed = {"type": "thinking", "thinking": "", "signature": "sig"}
    message = put_together(streamed([*deltas, {"thinking_blocks": [signed]}, {"content": "A"}]))
    thought = {"type": "thinking", "thinking": "Hm. So.", "signature": "sig"}
    assert message["content"] == [thought, {"type": "text", "text": "A"}]
    alone = put_together(streamed([{"thinking_blocks": [pieces[0]]}, {"thinking_blocks": [pieces[1]]}]))
    assert alone["content"] == [thought | {"signature": ""}]
    assert plain({"thinking_blocks": [{"type": "thinking", "thinking": "Hm. So."}]})["content"] == alone["content"]


@pytest.mark.parametrize(
    "blocks", [[None], ["Hm."], [{}], [{"type": "other"}], [{"type": "redacted_thinking"}], 7, "x"]
)
def test_what_are_no_thoughts_is_left_out(blocks: Any) -> None:
    assert put_together(streamed([{"thinking_blocks": blocks, "content": "A"}]))["content"] == [
        {"type": "text", "text": "A"}
    ]
    assert plain({"thinking_blocks": blocks, "content": "A"})["content"] == [{"type": "text", "text": "A"}]


def test_why_it_ended_and_what_it_took_are_told_at_the_end() -> None:
    message = put_together(streamed([{"content": "A"}], "length"))
    assert (message["stop_reason"], message["stop_sequence"]) == ("max_tokens", None)
    assert message["usage"] == {
        "input_tokens": 5,
        "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 1},
        "cache_creation_input_tokens": 1,
        "cache_read_input_tokens": 4,
        "output_tokens": 5,
    }


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "function_call"])
def test_an_answer_that_calls_tools_ends_with_them_whatever_its_vendor_says(reason: str) -> None:
    made = {"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}}
    assert put_together(streamed([{"tool_calls": [made]}], reason))["stop_reason"] == "tool_use"
    assert plain({"tool_calls": [made]}, reason)["stop_reason"] == "tool_use"


@pytest.mark.parametrize(("at", "told"), [("END", ("stop_sequence", "END")), (7, ("end_turn", None))])
def test_the_stop_that_an_answer_came_to_is_told_where_its_vendor_tells_it(at: Any, told: Any) -> None:
    data = {"choices": [{"index": 0, "message": {"content": "A"}, "finish_reason": "stop", "stop_reason": at}]}
    message = message_of(call(), Completion(data), USAGE)
    assert (message["stop_reason"], message["stop_sequence"]) == told


def test_a_refusal_is_explained() -> None:
    message = put_together(streamed([{"refusal": "It is "}, {"refusal": "bad."}]))
    assert message["stop_reason"] == "refusal"
    assert message["stop_details"] == {"type": "refusal", "category": None, "explanation": "It is bad."}


def test_a_question_about_tool_calls_stands_beside_the_end() -> None:
    asked: Any = {"status": "require_confirmation", "session_id": "sess_1", "pending_tool_calls": [{"id": "a"}]}
    *_, delta, _ = streamed([{"content": "A"}], **asked)
    assert {name: delta[name] for name in asked} == asked


@pytest.mark.parametrize("arguments", ["{", "[]", "7", '"x"', '{"a":1}{}', "nonsense"])
def test_arguments_that_are_no_object_are_a_failure_of_the_vendor(arguments: str) -> None:
    made = {"index": 0, "id": "a", "function": {"name": "look", "arguments": arguments}}
    with pytest.raises(UpstreamError, match="'look' has arguments that are no JSON object"):
        streamed([{"tool_calls": [made]}], "tool_calls")
    with pytest.raises(UpstreamError, match="'look' has arguments that are no JSON object"):
        plain({"tool_calls": [made]}, "tool_calls")


def test_arguments_after_the_end_of_a_call_are_one_too() -> None:
    whole = {"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}}
    more = {"index": 0, "function": {"arguments": ',"b":1}'}}
    with pytest.raises(UpstreamError, match="no JSON object"):
        streamed([{"tool_calls": [whole]}, {"content": "A"}, {"tool_calls": [more]}], "tool_calls")


def test_a_call_that_was_cut_is_told_as_far_as_it_came_and_left_out_of_a_plain_answer() -> None:
    whole = {"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}}
    half = {"index": 1, "id": "b", "function": {"name": "look", "arguments": '{"at": "th'}}
    *_, said, stop, delta, _ = streamed([{"tool_calls": [whole]}, {"tool_calls": [half]}], "length")
    assert (said["delta"]["partial_json"], stop["type"]) == ('{"at": "th', "content_block_stop")
    assert delta["delta"]["stop_reason"] == "max_tokens"
    message = plain({"tool_calls": [whole, half]}, "length")
    assert [block["id"] for block in message["content"]] == ["a"]
    assert message["stop_reason"] == "max_tokens"


def test_what_gemini_wants_back_with_a_call_goes_with_it() -> None:
    extra = {"google": {"thought_signature": "sig"}}
    made = {"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}, "extra_content": extra}
    (use,) = put_together(streamed([{"tool_calls": [made]}], "tool_calls"))["content"]
    assert use["extra_content"] == extra
    assert plain({"tool_calls": [made]}, "tool_calls")["content"] == [use]


def test_half_a_surrogate_pair_is_passed_on() -> None:
    half = '{"id":"c","choices":[{"index":0,"delta":{"content":"%s"}}]}'
    events, asked = Events(), call()
    framed = [events.take(asked, Chunk(raw=(half % one).encode())) for one in ("\\ud83d", "\\ude00")]
    told = events_of(b"".join(framed))
    assert "".join(event["delta"]["text"] for event in told if "delta" in event) == "\ud83d\ude00"


def test_a_number_that_nobody_can_read_is_the_vendor_s_failure() -> None:
    raw = b'{"choices":[],"x":%b}' % (b"9" * 10_000)
    with pytest.raises(UpstreamError, match="cannot be read"):
        Events().take(call(), Chunk(raw=raw))


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        (USAGE.as_openai(), (5, 4, 1, 5)),
        ({"prompt_tokens": 3, "completion_tokens": None, "prompt_tokens_details": None}, (3, 0, 0, 0)),
        (7, (0, 0, 0, 0)),
        ({"prompt_tokens": "3", "prompt_tokens_details": 7}, (0, 0, 0, 0)),
    ],
)
def test_the_usage_of_an_event_from_a_cache_is_read_from_its_words(told: Any, counts: tuple[int, ...]) -> None:
    events, asked = Events(), call()
    framed = events.take(asked, chunk({"content": "A"})) + events.take(asked, chunk({}, "stop"))
    framed += events.take(asked, Chunk({"choices": [], "usage": told}, usage_only=True)) + events.end(asked, None)
    usage = put_together(events_of(framed))["usage"]
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
    assert tuple(usage[name] for name in names) == counts
