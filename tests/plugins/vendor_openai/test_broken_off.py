"""Events that tell a failure beside a part of the answer, or the usage: both count, and then it fails."""

from collections.abc import Callable
from typing import Any

import pytest

from gatehook import Retry
from gatehook.testing import attempt, splits
from gatehook_plugins.vendor_openai.stream import StreamReader

Ask = Callable[..., Any]
Make = Callable[..., Any]

ASKED = {"model": "public", "messages": [{"role": "user", "content": "x"}], "stream": True,
         "stream_options": {"include_usage": True}}  # fmt: skip
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
BOOM = {"message": "boom", "code": 503}


def broken(event: Make, form: str) -> tuple[dict[str, Any], str]:
    """The last event of a stream, and what its failure says."""
    if form == "beside the choices":
        return {**event({"content": "B"}, "error"), "error": BOOM}, "boom"
    if form in ("in a choice", "in a choice that ends"):
        last = event({"content": "B"}, "stop" if form.endswith("ends") else None)
        last["choices"][0]["error"] = BOOM
        return last, "boom"
    return event({"content": "B"}, form), repr(form)


@pytest.mark.parametrize(
    "form", ["error", "insufficient_system_resource", "in a choice", "in a choice that ends", "beside the choices"]
)
@pytest.mark.parametrize("asked", [True, False])
async def test_what_comes_with_a_failure_reaches_the_client_and_its_usage_counts(
    stream: Ask, event: Make, sse: Make, form: str, asked: bool
) -> None:
    last, says = broken(event, form)
    body = sse(event({"role": "assistant", "content": "A"}), {**last, "usage": USAGE})
    for pieces in splits(body):
        run = await stream(pieces, ASKED if asked else None)
        choices = [choice for chunk in run.chunks for choice in chunk.data["choices"]]
        assert [choice["delta"]["content"] for choice in choices] == ["A", "B"]
        assert not any(choice["finish_reason"] or "error" in choice for choice in choices)
        assert says in run.error.message
        assert not any("error" in chunk.data for chunk in run.chunks)
    one = attempt(ASKED if asked else {**ASKED, "stream_options": None})
    usage = StreamReader(one).read(body).usage
    assert usage is not None
    assert usage.total_tokens == 10


async def test_a_failure_in_the_first_event_brings_nothing_so_that_it_can_be_tried_again(
    stream: Ask, event: Make, sse: Make
) -> None:
    run = await stream(sse({**event({"role": "assistant", "content": "A"}, "error"), "usage": USAGE}))
    assert (run.chunks, run.error.retry) == ([], Retry.SAME)


async def test_a_failure_alone_brings_nothing_and_ends_no_other_choice(stream: Ask, event: Make, sse: Make) -> None:
    first = event({"role": "assistant", "content": "A"})
    run = await stream(sse(first, event({"content": ""}, "error")))
    assert len(run.chunks) == 1
    last = event({"content": "B"}, "error")
    last["choices"].append({**last["choices"][0], "index": 1, "delta": {"content": "C"}, "finish_reason": "stop"})
    run = await stream(sse(first, last))
    assert [choice["delta"]["content"] for choice in run.chunks[-1].data["choices"]] == ["B", "C"]
    assert "broke off" in run.error.message
    assert not any(chunk.finished for chunk in run.chunks)


@pytest.mark.parametrize("error", [BOOM, {"message": "boom", "object": "error"}])
async def test_a_failure_whose_event_cannot_be_passed_on_is_told(
    stream: Ask, event: Make, sse: Make, error: dict[str, Any]
) -> None:
    calls = {"tool_calls": [{"index": 0, "function": 7}], "content": "B"}
    run = await stream(sse(event({"role": "assistant", "content": "A"}), {**event(calls), "error": error}))
    assert "boom" in run.error.message
    run = await stream(sse({**error, "error": error, "usage": USAGE}))
    assert "boom" in run.error.message
