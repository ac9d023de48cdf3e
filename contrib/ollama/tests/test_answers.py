"""What comes back from Ollama, whole and in pieces."""

from typing import Any

import pytest

from gatehook import GatewayError, InvalidRequest, UpstreamError
from gatehook.testing import splits

HI = {"messages": [{"role": "user", "content": "hi"}]}
COUNTS = {"done": True, "done_reason": "stop", "prompt_eval_count": 4, "eval_count": 2}


def said(content: str = "", **more: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content, **more}, "done": False}


async def test_a_whole_answer(asked: Any) -> None:
    _, answer, _ = await asked(HI, said("Hello", thinking="hm") | COUNTS)
    (choice,) = answer.data["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hello", "reasoning_content": "hm"}
    assert choice["finish_reason"] == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 2)


async def test_tool_calls_are_told_as_openai_tells_them(asked: Any) -> None:
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    _, answer, _ = await asked(HI, said(tool_calls=[call, call | {"id": "given"}]) | COUNTS)
    (choice,) = answer.data["choices"]
    first, second = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert first["function"] == {"name": "add", "arguments": '{"a":1}'}
    assert first["id"].startswith("call_")
    assert second["id"] == "given"


async def test_who_asks_for_one_call_at_a_time_gets_the_first(asked: Any, streamed: Any, lines: Any) -> None:
    calls = [{"id": name, "function": {"name": "add", "arguments": {}}} for name in ("c1", "c2")]
    single = {**HI, "parallel_tool_calls": False}
    _, answer, one = await asked(single, said(tool_calls=calls) | COUNTS)
    assert [call["id"] for call in answer.data["choices"][0]["message"]["tool_calls"]] == ["c1"]
    assert one.dropped == ["answer.tool_calls"]
    for told in ([said(tool_calls=calls)], [said(tool_calls=[call]) for call in calls]):
        chunks = await streamed([lines(*told, said() | COUNTS)], single)
        deltas = [choice["delta"] for chunk in chunks for choice in chunk.data["choices"]]
        assert [call["id"] for delta in deltas for call in delta.get("tool_calls", ())] == ["c1"]


async def test_an_unknown_reason_is_a_stop_and_told(asked: Any) -> None:
    _, answer, one = await asked(HI, said("a") | COUNTS | {"done_reason": "bored"})
    assert answer.data["choices"][0]["finish_reason"] == "stop"
    assert one.dropped == ["done_reason=bored"]


async def test_log_probabilities(asked: Any, streamed: Any, lines: Any) -> None:
    told = [{"token": "é", "logprob": -0.5, "top_logprobs": [{"token": "e", "logprob": -1.0}]}]
    expected = [
        {
            "token": "é", "logprob": -0.5, "bytes": [195, 169],
            "top_logprobs": [{"token": "e", "logprob": -1.0, "bytes": [101]}],
        }
    ]  # fmt: skip
    request, answer, _ = await asked(
        {**HI, "logprobs": True, "top_logprobs": 1}, said("é") | COUNTS | {"logprobs": told}
    )
    assert (request.json["logprobs"], request.json["top_logprobs"]) == (True, 1)
    assert answer.data["choices"][0]["logprobs"]["content"] == expected
    chunks = await streamed([lines(said("é") | {"logprobs": told}, said() | COUNTS)])
    assert chunks[0].data["choices"][0]["logprobs"]["content"] == expected


async def test_a_stream_is_the_same_wherever_it_is_cut(streamed: Any, lines: Any) -> None:
    call = {"function": {"name": "add", "arguments": {"a": "ü"}}}
    body = lines(said(thinking="hm"), said("Hé"), said("llo"), said(tool_calls=[call]), said() | COUNTS)
    for pieces in splits(body):
        chunks = await streamed(pieces, {"stream_options": {"include_usage": True}})
        deltas = [choice["delta"] for chunk in chunks for choice in chunk.data["choices"]]
        assert deltas[0]["role"] == "assistant"
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm"
        assert "".join(delta.get("content", "") for delta in deltas) == "Héllo"
        (given,) = [one for delta in deltas for one in delta.get("tool_calls", ())]
        assert given["function"] == {"name": "add", "arguments": '{"a":"ü"}'}
        assert [chunk.data["choices"][0]["finish_reason"] for chunk in chunks if chunk.finished] == ["tool_calls"]
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 6


async def test_a_last_line_needs_no_newline(streamed: Any, lines: Any) -> None:
    chunks = await streamed([lines(said("a"), said() | COUNTS)[:-1]])
    assert chunks[-1].usage_only


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ({"error": "model runner has unexpectedly stopped"}, UpstreamError, "unexpectedly stopped"),
        ({"error": "input length exceeds the context window", "status": 400}, InvalidRequest, "context window"),
        ([1], UpstreamError, "not an object"),
        ({"message": 7}, UpstreamError, "no message"),
        ({"message": {"content": 7}}, UpstreamError, "not text"),
        ({"message": {"tool_calls": [{"name": "x"}]}}, UpstreamError, "without a function"),
    ],
)
async def test_what_is_no_answer_is_the_vendor_s_failure(
    asked: Any, streamed: Any, lines: Any, line: Any, kind: type[GatewayError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await streamed([lines(said("a"), line)])
    if isinstance(line, dict):
        with pytest.raises(kind, match=words):
            await asked(HI, line)


async def test_a_line_that_is_no_json_is_told(streamed: Any) -> None:
    with pytest.raises(UpstreamError, match="not JSON"):
        await streamed([b"<html>\n"])


async def test_text_completions(asked: Any) -> None:
    request, answer, _ = await asked({"prompt": "Once"}, said("upon a time") | COUNTS, operation="completions")
    assert request.json["messages"] == [{"role": "user", "content": "Once"}]
    assert answer.data["choices"][0]["text"] == "upon a time"


async def test_a_usage_that_counts_nothing_is_none(asked: Any) -> None:
    reply = {"message": {"role": "assistant", "content": "Hi"}, "done": True, "prompt_eval_count": 0, "eval_count": 0}
    _, answer, _ = await asked({"messages": [{"role": "user", "content": "hi"}]}, reply)
    assert answer.usage is None
