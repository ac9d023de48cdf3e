"""Every value of an answer replaced, one at a time, by values of other types: only gateway errors may come of it."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from gatehook import GatewayError
from gatehook.testing import Replay, ReplayEgress, attempt
from gatehook_plugins.vendor_gemini.vendor import Gemini

JUNK: list[Any] = [None, True, -1, 1.5, 10**30, "", "x", [], [None], ["x"], {}, {"x": 1}]

ANSWER = {
    "candidates": [
        {
            "index": 0,
            "content": {
                "role": "model",
                "parts": [
                    {"text": "Hm", "thought": True, "thoughtSignature": "YQ=="},
                    {"text": "a"},
                    {"functionCall": {"name": "f", "args": {"x": 1}, "id": "fc"}},
                ],
            },
            "logprobsResult": {
                "chosenCandidates": [{"token": "a", "logProbability": -1}],
                "topCandidates": [{"candidates": [{"token": "a", "logProbability": -1}]}],
            },
            "finishReason": "STOP",
        }
    ],
    "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "thoughtsTokenCount": 1},
}
BLOCKED = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {}}
FAILURE = {
    "error": {
        "code": 429,
        "message": "no",
        "status": "RESOURCE_EXHAUSTED",
        "details": [{"reason": "R", "retryDelay": "1s", "violations": [{"quotaId": "PerDay"}]}],
    }
}
EMBEDDINGS = {"embeddings": [{"values": [0.5, 1]}], "usageMetadata": {"promptTokenCount": 1}}


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    yield ()
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        for place in places(one):
            yield (key, *place)


def spoiled(whole: Any) -> Iterator[bytes]:
    for place in places(whole):
        for junk in JUNK:
            if not place:
                yield json.dumps(junk).encode()
                continue
            made = copy.deepcopy(whole)
            holder = made
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = junk
            yield json.dumps(made).encode()


async def only_gateway_errors(raw: bytes, kind: str, status: int) -> None:
    if kind == "stream":
        egress = ReplayEgress(Replay(b"data: " + raw + b"\n\n", content_type="text/event-stream", status=status))
    else:
        egress = ReplayEgress(Replay(raw, status=status))
    vendor = Gemini(egress)
    if kind == "embeddings":
        one = attempt({"input": "a", "encoding_format": "base64"}, operation="embeddings", vendor="gemini")
    else:
        one = attempt({"messages": [{"role": "user", "content": "a"}]}, vendor="gemini")
    try:
        if kind == "stream":
            chunks = [chunk async for batch in vendor.stream(one) for chunk in batch]
            assert sum(chunk.finished for chunk in chunks) == 1
        else:
            assert (await vendor.complete(one)).raw
    except GatewayError as error:
        assert error.message.startswith("gemini: ")  # noqa: PT017  # most answers are still good; errors must be named


@pytest.mark.parametrize(
    ("whole", "kind", "status"),
    [
        (ANSWER, "plain", 200),
        (ANSWER, "stream", 200),
        (BLOCKED, "plain", 200),
        (BLOCKED, "stream", 200),
        (FAILURE, "plain", 429),
        (FAILURE, "plain", 400),
        (FAILURE, "plain", 200),
        (FAILURE, "stream", 429),
        (FAILURE, "stream", 200),
        (EMBEDDINGS, "embeddings", 200),
    ],
)
async def test_junk_anywhere_in_an_answer_is_survived(whole: Any, kind: str, status: int) -> None:
    for raw in spoiled(whole):
        await only_gateway_errors(raw, kind, status)
