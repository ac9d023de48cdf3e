"""Answers of servers that do not say why they ended."""

from collections.abc import Callable
from typing import Any

import pytest

from gatehook import UpstreamError
from gatehook.testing import splits

Ask = Callable[..., Any]
Make = Callable[..., Any]

ASKED = {"model": "public", "messages": [{"role": "user", "content": "x"}], "stream": True,
         "stream_options": {"include_usage": True}}  # fmt: skip
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def bare(event: Make) -> dict[str, Any]:
    """The event with the usage alone."""
    return {**event(), "choices": [], "usage": USAGE}


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("alone", [True, False])
async def test_a_stream_that_tells_its_usage_and_done_is_complete(
    stream: Ask, event: Make, sse: Make, asked: bool, alone: bool
) -> None:
    """Snowflake tells the usage in an event of its own, others beside an empty delta."""
    last = bare(event) if alone else {**event({"content": ""}), "usage": USAGE}
    body = sse(event({"role": "assistant", "content": "A"}), event({"content": "B"}), last)
    for pieces in splits(body):
        run = await stream(pieces, ASKED if asked else None)
        choice = run.answer["choices"][0]
        assert (choice["content"], choice["finish"]) == ("AB", "stop")
        assert run.chunks[-1].usage_only == asked
        if asked:
            assert run.chunks[-1].data["usage"] == USAGE


@pytest.mark.parametrize(
    "events",
    [
        ["{text}", "[DONE]"],
        ["{text}", "{usage}"],
        ["{usage}", "{text}", "{text}", "[DONE]"],
        ["{text}", "{usage}", "{text}", "[DONE]"],
        ["{text}", "{usage}", "{usage}", "[DONE]"],
        ["{usage}", "[DONE]"],
        ["{text}", "{second}", "{stop}", "{usage}", "[DONE]"],
    ],
)
async def test_a_stream_that_may_be_cut_is_an_upstream_failure(
    stream: Ask, event: Make, sse: Make, events: list[str]
) -> None:
    text = event({"role": "assistant", "content": "A"})
    second = event({"role": "assistant", "content": "B"}, index=1)
    forms = {"{text}": text, "{second}": second, "{stop}": event({}, "stop"), "{usage}": bare(event)}
    body = sse(*(forms.get(one, one) for one in events), done=False)
    for pieces in splits(body):
        assert isinstance((await stream(pieces, ASKED)).error, UpstreamError)


async def test_calls_and_limits_tell_why_a_stream_ended(stream: Ask, event: Make, sse: Make) -> None:
    calls = event({"role": "assistant", "tool_calls": [{**CALL, "index": 0}]})
    run = await stream(sse(calls, bare(event)), ASKED)
    assert run.answer["choices"][0]["finish"] == "tool_calls"
    said = sse({**event(), "choices": [{"index": 0, "text": "A"}]}, bare(event))
    run = await stream(said, {"model": "public", "prompt": "x", "stream": True}, operation="completions")
    assert (run.answer["choices"][0]["text"], run.answer["choices"][0]["finish"]) == ("A", "stop")


@pytest.mark.parametrize(("most", "told"), [(3, "length"), (4, "stop"), (None, "stop")])
async def test_an_answer_as_long_as_may_be_ended_for_its_length(ask: Ask, most: int | None, told: str) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": ""}
    asked: dict[str, Any] = {"model": "public", "messages": [], "max_tokens": most}
    run = await ask(asked, {"choices": [choice], "usage": USAGE})
    assert run.data["choices"] == [{**choice, "finish_reason": told}]


async def test_an_empty_reason_beside_calls_is_told_as_tool_calls(ask: Ask) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "tool_calls": [CALL]}, "finish_reason": ""}
    run = await ask(answer={"choices": [choice]})
    assert run.data["choices"] == [{**choice, "finish_reason": "tool_calls"}]


@pytest.mark.parametrize("left_out", [{}, {"message": None}])
async def test_a_choice_of_a_chat_has_a_message_also_where_a_filter_held_it_back(
    ask: Ask, left_out: dict[str, Any]
) -> None:
    """Azure leaves it out, and clients look into it."""
    held = {"index": 0, "finish_reason": "content_filter", "content_filter_results": {"hate": {"filtered": True}}}
    run = await ask(answer={"choices": [{**held, **left_out}], "usage": USAGE})
    assert run.data["choices"] == [{**held, "message": {"role": "assistant", "content": None}}]
