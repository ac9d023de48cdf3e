"""Streams by ConverseStream: AWS's binary events."""

import json
from typing import Any

import pytest
from pydantic import SecretStr

from gatehook import GatewayError, InvalidRequest, RateLimited, Retry, UpstreamError, UpstreamTimeout
from gatehook.testing import Replay, ReplayEgress, attempt, splits
from gatehook_bedrock.signing import Signer
from gatehook_bedrock.vendor import Bedrock


def delta(index: int, **of: Any) -> tuple[str, dict[str, Any]]:
    return "contentBlockDelta", {"contentBlockIndex": index, "delta": of, "p": "abc"}


def stop(index: int) -> tuple[str, dict[str, Any]]:
    return "contentBlockStop", {"contentBlockIndex": index}


def use(index: int, id: str, name: str) -> tuple[str, dict[str, Any]]:
    return "contentBlockStart", {"contentBlockIndex": index, "start": {"toolUse": {"toolUseId": id, "name": name}}}


START = ("messageStart", {"role": "assistant"})
END = [
    ("messageStop", {"stopReason": "tool_use"}),
    ("metadata", {"usage": {"inputTokens": 3, "outputTokens": 2}, "metrics": {"latencyMs": 1}}),
]
STREAM = [
    START,
    delta(0, reasoningContent={"text": "hm"}),
    delta(0, reasoningContent={"signature": "sig"}),
    stop(0),
    delta(1, text="Hé"),
    delta(1, text="llo"),
    stop(1),
    use(2, "t1", "add"),
    delta(2, toolUse={"input": '{"a"'}),
    delta(2, toolUse={"input": ":1}"}),
    stop(2),
    use(3, "t2", "now"),
    stop(3),
    ("somethingNew", {}),
    *END,
]


async def test_a_stream_is_the_same_wherever_it_is_cut(streamed: Any, events: Any) -> None:
    for pieces in splits(events(*STREAM)):
        chunks, _ = await streamed(pieces)
        deltas = [choice["delta"] for chunk in chunks for choice in chunk.data["choices"]]
        assert "".join(one.get("reasoning_content", "") for one in deltas) == "hm"
        assert "".join(one.get("content", "") for one in deltas) == "Héllo"
        assert [block for one in deltas for block in one.get("thinking_blocks", ())] == [
            {"type": "thinking", "thinking": "hm", "signature": "sig", "index": 0}
        ]
        arguments = {0: "", 1: ""}
        for one in deltas:
            for call in one.get("tool_calls", ()):
                arguments[call["index"]] += call["function"]["arguments"]
        assert arguments == {0: '{"a":1}', 1: "{}"}
        assert [chunk.data["choices"][0]["finish_reason"] for chunk in chunks if chunk.finished] == ["tool_calls"]
        assert chunks[-1].usage.total_tokens == 5


async def test_what_a_tool_of_bedrock_s_own_does_is_no_call_for_the_client(streamed: Any, events: Any) -> None:
    used = {"toolUseId": "t1", "name": "nova_grounding", "type": "server_tool_use"}
    found = {"toolUseId": "t1", "type": "nova_grounding_result", "status": "success"}
    chunks, one = await streamed(
        [
            events(
                START,
                ("contentBlockStart", {"contentBlockIndex": 0, "start": {"toolUse": used}}),
                delta(0, toolUse={"input": '{"query":"x"}'}),
                stop(0),
                ("contentBlockStart", {"contentBlockIndex": 1, "start": {"toolResult": found}}),
                delta(1, toolResult=[{"text": "y"}]),
                stop(1),
                delta(2, text="It is y."),
                stop(2),
                ("messageStop", {"stopReason": "end_turn"}),
            )
        ]
    )
    choices = [choice for chunk in chunks for choice in chunk.data["choices"]]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "It is y."
    assert not any("tool_calls" in choice["delta"] for choice in choices)
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert one.dropped == ["content.toolUse", "content.toolResult"]


async def test_who_asks_for_one_call_at_a_time_gets_the_first(streamed: Any, events: Any) -> None:
    second = [use(3, "t2", "now"), delta(3, toolUse={"input": "{}"}), stop(3), use(4, "t3", "now"), stop(4)]
    parts = [START, use(2, "t1", "add"), delta(2, toolUse={"input": '{"a":1}'}), stop(2), *second, *END]
    chunks, one = await streamed([events(*parts)], parallel_tool_calls=False)
    deltas = [choice["delta"] for chunk in chunks for choice in chunk.data["choices"]]
    calls = [(call["index"], call["function"]["arguments"]) for told in deltas for call in told.get("tool_calls", ())]
    assert calls == [(0, ""), (0, '{"a":1}')]
    assert one.dropped == ["answer.tool_calls"]


@pytest.mark.parametrize(
    ("kind", "error", "code"),
    [
        ("throttlingException", RateLimited, "rate_limit_exceeded"),
        ("validationException", InvalidRequest, "validationException"),
        ("modelStreamErrorException", UpstreamError, "upstream_error"),
        ("serviceUnavailableException", UpstreamError, "upstream_overloaded"),
        ("internalServerException", UpstreamError, "upstream_error"),
        ("neverHeardOfException", UpstreamError, "upstream_error"),
    ],
)
async def test_an_exception_in_the_stream_keeps_its_meaning(
    streamed: Any, events: Any, kind: str, error: type[GatewayError], code: str
) -> None:
    with pytest.raises(error, match="too bad") as caught:
        await streamed([events(START, (kind, {"message": "too bad"}))])
    assert caught.value.code == code


async def test_an_error_in_the_stream_is_told_without_secrets_and_not_at_any_length(bare: Any) -> None:
    secret = "k" * 30
    said = {":message-type": "error", ":error-code": "InternalError", ":error-message": f"{secret} " + "too bad " * 900}
    one = attempt({"messages": [{"role": "user", "content": "hi"}], "stream": True}, api_key=SecretStr(secret))
    vendor = Bedrock(ReplayEgress(Replay([bare(said)])), Signer(), "us-east-1")
    with pytest.raises(UpstreamError, match="too bad") as caught:
        async for _ in vendor.stream(one):
            pass
    assert secret not in caught.value.message
    assert len(caught.value.message) < 2100


@pytest.mark.parametrize("place", ["prelude", "message", "text"])
async def test_a_damaged_event_is_noticed_after_what_came_before(events: Any, place: str) -> None:
    good, bad = events(START, delta(0, text="Hello")), bytearray(events(delta(0, text="x")))
    bad[{"prelude": 9, "message": -1, "text": -8}[place]] ^= 1
    one = attempt({"messages": [{"role": "user", "content": "hi"}], "stream": True})
    vendor = Bedrock(ReplayEgress(Replay([good + bytes(bad)])), Signer(), "us-east-1")
    batches, stream = [], vendor.stream(one)
    batches.append(await anext(stream))
    assert [chunk.data["choices"][0]["delta"]["content"] for chunk in batches[0]] == ["", "Hello"]
    with pytest.raises(UpstreamError, match="damaged"):
        await anext(stream)


@pytest.mark.parametrize(
    "event",
    [
        ("contentBlockDelta", b"<html>"),
        ("contentBlockDelta", [1]),
        ("contentBlockDelta", {"delta": 7}),
        delta(5, toolUse={"input": "x"}),
        ("messageStop", {}),
        ("messageStop", {"stopReason": "malformed_model_output"}),
    ],
)
async def test_garbage_is_the_vendor_s_failure(streamed: Any, events: Any, event: Any) -> None:
    with pytest.raises(UpstreamError, match="bedrock"):
        await streamed([events(event)])


async def test_an_answer_that_is_no_event_stream_at_all_is_noticed(streamed: Any) -> None:
    with pytest.raises(UpstreamError, match="damaged"):
        await streamed([b"<html><body>A proxy says hello</body></html>"])


@pytest.mark.parametrize(
    ("status", "kind", "error", "code"),
    [
        (429, "ThrottlingException:http://internal.amazon.com/", RateLimited, "rate_limit_exceeded"),
        (400, "ValidationException", InvalidRequest, "ValidationException"),
        (400, "ServiceQuotaExceededException", UpstreamError, "upstream_quota_exceeded"),
        (403, "com.amazon.coral#AccessDeniedException", UpstreamError, "upstream_credential_rejected"),
        (403, "ExpiredTokenException", UpstreamError, "upstream_credential_rejected"),
        (404, "ResourceNotFoundException", UpstreamError, "upstream_model_not_found"),
        (408, "ModelTimeoutException", UpstreamTimeout, "upstream_timeout"),
        (424, "ModelErrorException", UpstreamError, "upstream_error"),
        (424, "", UpstreamError, "upstream_error"),
        (429, "ModelNotReadyException", UpstreamError, "upstream_overloaded"),
    ],
)
async def test_errors_by_status_and_name(status: int, kind: str, error: type[GatewayError], code: str) -> None:
    secret = "k" * 30
    body = json.dumps({"message": f"too bad {secret}"}).encode()
    egress = ReplayEgress(Replay(body, status=status, headers={"x-amzn-ErrorType": kind}))
    one = attempt({"messages": [{"role": "user", "content": "hi"}]}, api_key=SecretStr(secret))
    with pytest.raises(error) as caught:
        await Bedrock(egress, Signer(), "us-east-1").complete(one)
    assert caught.value.code == code
    assert secret not in caught.value.message


@pytest.mark.parametrize(
    "words",
    [
        "The provided model identifier is invalid.",
        "Invocation of model ID x with on-demand throughput isn\u2019t supported. Retry with an inference profile.",
    ],
)
async def test_a_model_that_is_not_to_be_had_is_the_operator_s_concern_and_another_may_do(words: str) -> None:
    body = json.dumps({"message": words}).encode()
    egress = ReplayEgress(Replay(body, status=400, headers={"x-amzn-ErrorType": "ValidationException"}))
    with pytest.raises(UpstreamError, match="bedrock: ") as caught:
        await Bedrock(egress, Signer(), "us-east-1").complete(attempt({"messages": [{"role": "user", "content": "x"}]}))
    assert (caught.value.code, caught.value.retry) == ("upstream_model_not_found", Retry.NEXT)


async def test_text_completions_are_streamed_too(streamed: Any, events: Any) -> None:
    chunks, _ = await streamed([events(START, delta(0, text="Hi"), stop(0), *END)], "completions")
    assert "".join(choice["text"] for chunk in chunks for choice in chunk.data["choices"]) == "Hi"


async def test_what_becomes_of_the_line_after_the_end_does_not_spoil_the_answer(events: Any) -> None:
    whole = events(START, delta(0, text="Hi"), stop(0), END[0])
    replay = Replay(whole, content_type="application/vnd.amazon.eventstream", fails=UpstreamError("bedrock: cut"))
    one = attempt({"messages": [{"role": "user", "content": "hi"}], "stream": True})
    vendor = Bedrock(ReplayEgress(replay), Signer(), "us-east-1")
    chunks = [chunk async for batch in vendor.stream(one) for chunk in batch]
    assert chunks[-1].finished
    assert replay.closed


async def test_a_usage_that_counts_nothing_is_none(streamed: Any, events: Any) -> None:
    chunks, _ = await streamed([events(START, delta(0, text="Hi"), stop(0), END[0], ("metadata", {"usage": {}}))])
    assert [chunk.usage for chunk in chunks if chunk.usage is not None] == []
