"""Canonical answers: the invariants of OpenAI's streams that every translating vendor gets for nothing."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gatehook.accounts import Usage
from gatehook.dialect.canonical import StreamBuilder, completion, tool_call_id
from gatehook.model import Call, Chunk


def call(*, include_usage: bool = False) -> Call:
    return Call("chat", "test", {}, model="public", include_usage=include_usage)


def choice(chunk: Chunk) -> dict[str, Any]:
    [one] = chunk.data["choices"]
    assert isinstance(one, dict)
    return one


def delta(chunk: Chunk) -> dict[str, Any]:
    found: dict[str, Any] = choice(chunk)["delta"]
    return found


def test_the_role_comes_with_the_first_delta_of_each_choice_and_once_only() -> None:
    build = StreamBuilder(call())
    assert [delta(build.text(text, index)) for text, index in (("a", 0), ("b", 0), ("c", 1), ("d", 0), ("e", 1))] == [
        {"role": "assistant", "content": "a"},
        {"content": "b"},
        {"role": "assistant", "content": "c"},
        {"content": "d"},
        {"content": "e"},
    ]


@given(
    text=st.text(st.characters(), min_size=1),
    model=st.one_of(st.text(max_size=20), st.just('"content":""'), st.just('content":""')),
    index=st.integers(0, 3),
    include_usage=st.booleans(),
)
@example(text="\ud800", model="\x7f", index=0, include_usage=False)
def test_a_text_is_written_byte_by_byte_as_any_delta_is(text: str, model: str, index: int, include_usage: bool) -> None:
    build = StreamBuilder(Call("chat", "test", {}, model=model, include_usage=include_usage))
    build.open(index)
    short, long = build.text(text, index), build.delta({"content": text}, index)
    assert short.data == long.data
    assert build.text(text, index).raw == short.raw
    if not any("\ud800" <= letter <= "\udfff" for letter in text):  # else all that is not ASCII is escaped, too
        assert short.raw == long.raw
    assert (short.content, short.finished, short.usage) == (long.content, long.finished, long.usage)


def test_an_empty_text_is_no_content_and_log_probabilities_go_with_theirs() -> None:
    build = StreamBuilder(call())
    build.open()
    assert (delta(build.text("")), build.text("").content) == ({"content": ""}, False)
    assert choice(build.text("a", logprobs={"content": []}))["logprobs"] == {"content": []}


def test_whatever_comes_first_carries_the_role() -> None:
    for first in (
        StreamBuilder(call()).open(),
        StreamBuilder(call()).reasoning("hm"),
        StreamBuilder(call()).tool_call("id", "f"),
        StreamBuilder(call()).finish("stop"),
        StreamBuilder(call()).delta({"refusal": "no"}),
    ):
        assert delta(first)["role"] == "assistant"


def test_an_announced_answer_opens_with_an_empty_delta_that_is_no_content() -> None:
    build = StreamBuilder(call())
    opened = build.open()
    assert (delta(opened), opened.content, opened.finished) == ({"role": "assistant", "content": ""}, False, False)
    assert delta(build.text("a")) == {"content": "a"}


def test_only_what_somebody_waits_for_is_content() -> None:
    build = StreamBuilder(call())
    assert build.text("a").content
    assert build.reasoning("hm").content
    assert build.tool_call("id", "f").content
    assert build.tool_arguments("").content
    assert build.delta({"refusal": "no"}).content
    assert not build.text("").content
    assert not build.reasoning("").content
    assert not build.finish("stop").content
    assert not build.usage(Usage()).content


def test_tool_calls_are_numbered_from_zero_in_each_choice() -> None:
    build = StreamBuilder(call())
    build.text("let me see")
    begun = [
        build.tool_call("a", "look", index=0),
        build.tool_call("b", "find", "{}", index=1),
        build.tool_call("c", "look", index=0),
    ]
    assert [(choice(one)["index"], delta(one)["tool_calls"]) for one in begun] == [
        (0, [{"index": 0, "id": "a", "type": "function", "function": {"name": "look", "arguments": ""}}]),
        (1, [{"index": 0, "id": "b", "type": "function", "function": {"name": "find", "arguments": "{}"}}]),
        (0, [{"index": 1, "id": "c", "type": "function", "function": {"name": "look", "arguments": ""}}]),
    ]


def test_the_objects_of_other_lists_are_numbered_over_all_deltas_of_a_choice() -> None:
    build = StreamBuilder(call())
    made = [
        build.delta({"images": [{"a": 1}, {"a": 2}], "thinking_blocks": [{"b": 1}]}),
        build.delta({"images": [{"a": 3}]}, 1),
        build.delta({"images": [{"a": 4}], "names": ["x"], "none": []}),
    ]
    assert [{name: value for name, value in delta(one).items() if name != "role"} for one in made] == [
        {"images": [{"a": 1, "index": 0}, {"a": 2, "index": 1}], "thinking_blocks": [{"b": 1, "index": 0}]},
        {"images": [{"a": 3, "index": 0}]},
        {"images": [{"a": 4, "index": 2}], "names": ["x"], "none": []},
    ]


def test_the_official_client_puts_lists_together_that_come_in_several_deltas() -> None:
    build, state = StreamBuilder(call()), ChatCompletionStreamState()
    deltas: list[dict[str, Any]] = [{"images": [{"n": "a"}]}, {"content": "x"}, {"images": [{"n": "b"}, {"n": "c"}]}]
    for chunk in [*map(build.delta, [*deltas, {"images": [{"n": "d"}]}]), build.finish("stop")]:
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk.data))
    (answer,) = state.get_final_completion().model_dump()["choices"]
    assert [one["n"] for one in answer["message"]["images"]] == ["a", "b", "c", "d"]


def test_fragments_go_to_the_call_begun_last_and_repeat_neither_id_nor_name() -> None:
    build = StreamBuilder(call())
    build.tool_call("a", "look")
    build.tool_call("b", "find")
    assert delta(build.tool_arguments('{"x"')) == {"tool_calls": [{"index": 1, "function": {"arguments": '{"x"'}}]}


def test_a_fragment_without_a_call_is_the_vendor_plugins_mistake() -> None:
    with pytest.raises(KeyError):
        StreamBuilder(call()).tool_arguments("{}")


def test_a_calls_own_extras_go_along() -> None:
    begun = StreamBuilder(call()).tool_call("a", "f", extra={"extra_content": {"google": {"thought_signature": "s"}}})
    assert delta(begun)["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "s"}}


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "tool_calls"])
def test_the_finish_comes_with_an_empty_delta(reason: str) -> None:
    build = StreamBuilder(call())
    build.text("a")
    finish = build.finish(reason)
    assert choice(finish) == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason}
    assert finish.finished


def test_the_stop_that_it_came_to_is_told_where_it_is_known() -> None:
    finish = StreamBuilder(call()).finish("stop", at="END")
    assert choice(finish)["stop_reason"] == "END"


def test_a_choice_with_tool_calls_that_stopped_is_reported_as_tool_calls() -> None:
    build = StreamBuilder(call())
    build.tool_call("a", "f", index=1)
    assert [choice(build.finish("stop", index))["finish_reason"] for index in (0, 1)] == ["stop", "tool_calls"]
    assert (build.has_tool_calls(0), build.has_tool_calls(1)) == (False, True)


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_a_choice_with_tool_calls_that_was_cut_short_is_not_called_complete(reason: str) -> None:
    build = StreamBuilder(call())
    build.tool_call("a", "f")
    assert choice(build.finish(reason))["finish_reason"] == reason


def test_the_usage_event_has_no_choices_and_says_that_it_is_extra() -> None:
    usage = Usage(7, 3, cached_tokens=2, reasoning_tokens=1)
    chunk = StreamBuilder(call(include_usage=True)).usage(usage)
    assert chunk.data["choices"] == []
    assert chunk.data["usage"] == usage.as_openai()
    assert (chunk.usage, chunk.usage_only, chunk.finished) == (usage, True, False)


def test_the_other_events_tell_a_null_usage_to_who_asked_and_none_to_others() -> None:
    asked, others = StreamBuilder(call(include_usage=True)), StreamBuilder(call())
    assert all(chunk.data["usage"] is None for chunk in (asked.open(), asked.text("a"), asked.finish("stop")))
    assert all("usage" not in chunk.data for chunk in (others.open(), others.text("a"), others.finish("stop")))


def test_logprobs_go_along_with_their_text() -> None:
    logprobs = {"content": [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}]}
    assert choice(StreamBuilder(call()).text("a", logprobs=logprobs))["logprobs"] == logprobs


@given(
    st.lists(
        st.tuples(st.sampled_from(["text", "reasoning", "tool", "arguments", "open"]), st.integers(0, 2)), max_size=9
    ),
    st.booleans(),
)
def test_any_stream_keeps_openais_invariants(steps: list[tuple[str, int]], include_usage: bool) -> None:
    one = call(include_usage=include_usage)
    build = StreamBuilder(one)
    chunks: list[Chunk] = []
    for kind, index in steps:
        match kind:
            case "text":
                chunks.append(build.text("t", index))
            case "reasoning":
                chunks.append(build.reasoning("r", index))
            case "tool":
                chunks.append(build.tool_call(tool_call_id(), "f", index=index))
            case "arguments" if build.has_tool_calls(index):
                chunks.append(build.tool_arguments("{}", index))
            case _:
                chunks.append(build.open(index))
    chunks += [build.finish("stop", index) for index in {index for _, index in steps}]
    chunks.append(build.usage(Usage(1, 2)))

    parsed = [ChatCompletionChunk.model_validate(chunk.data, strict=True) for chunk in chunks]
    assert {(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in parsed} == {
        (f"chatcmpl-{one.id.removeprefix('req_')}", parsed[0].created, "public", "chat.completion.chunk")
    }
    for index in {index for _, index in steps}:
        mine = [choice for chunk in parsed for choice in chunk.choices if choice.index == index]
        assert [choice.delta.role for choice in mine] == ["assistant", *[None] * (len(mine) - 1)]
        assert [choice.finish_reason is not None for choice in mine] == [*[False] * (len(mine) - 1), True]
        begun = [tool.index for choice in mine for tool in choice.delta.tool_calls or () if tool.id]
        assert begun == list(range(len(begun)))
        assert mine[-1].finish_reason == ("tool_calls" if begun else "stop")


def test_a_whole_answer() -> None:
    one = call()
    usage = Usage(3, 4)
    message = {"role": "assistant", "content": "hi", "refusal": None}
    answer = completion(one, ({"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"},), usage)
    parsed = ChatCompletion.model_validate(answer.data, strict=True)
    assert (parsed.id, parsed.model) == (f"chatcmpl-{one.id.removeprefix('req_')}", "public")
    assert parsed.usage is not None
    assert parsed.usage.total_tokens == 7
    assert answer.usage is usage


def test_a_whole_answer_without_usage_invents_none() -> None:
    answer = completion(call(), [], None, extra={"service_tier": "default"})
    assert (answer.data["usage"], answer.usage, answer.data["service_tier"]) == (None, None, "default")


def test_made_up_tool_call_ids_are_unique_and_of_a_form_every_vendor_takes() -> None:
    made = {tool_call_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(one.startswith("call_") and one.removeprefix("call_").isalnum() and len(one) <= 40 for one in made)
