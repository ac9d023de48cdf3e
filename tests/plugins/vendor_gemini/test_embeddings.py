"""Embeddings by Gemini, as OpenAI's."""

import base64
import json
import struct
from typing import Any

import pytest
from openai.types import CreateEmbeddingResponse

from gatehook import Completion, InvalidRequest, Retry, UpstreamError
from gatehook.testing import Recorded, Replay, ReplayEgress, attempt
from gatehook_plugins.vendor_gemini.vendor import Gemini


def reply(*vectors: list[float], **rest: Any) -> Replay:
    return Replay(json.dumps({"embeddings": [{"values": vector} for vector in vectors], **rest}).encode())


async def embed(
    *replays: Replay, options: dict[str, Any] | None = None, **payload: Any
) -> tuple[Completion, list[Recorded]]:
    egress = ReplayEgress(*replays)
    one = attempt(
        {"model": "public", **payload},
        operation="embeddings",
        vendor="gemini",
        model="gemini-embedding-001",
        options=options or {},
    )
    answer = await Gemini(egress).complete(one)
    if payload.get("encoding_format") != "base64":  # the SDK decodes that before it looks
        CreateEmbeddingResponse.model_validate(answer.data, strict=True)
    return answer, egress.requests


async def test_one_text_makes_one_vector() -> None:
    answer, (request,) = await embed(reply([0.5, -1]), input="hello there")
    assert request.path.endswith("/v1beta/models/gemini-embedding-001:batchEmbedContents")
    assert request.json == {
        "requests": [{"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "hello there"}]}}]
    }
    assert answer.data == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -1]}],
        "model": "public",
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }
    assert answer.usage is not None
    assert answer.usage.estimated


async def test_dimensions_and_the_operators_task_type() -> None:
    _, (request,) = await embed(
        reply([1, 2]), input=["a"], dimensions=2, options={"task_type": "RETRIEVAL_QUERY"}, encoding_format="float"
    )
    (sent,) = request.json["requests"]
    assert (sent["outputDimensionality"], sent["taskType"]) == (2, "RETRIEVAL_QUERY")


async def test_base64_is_little_endian_float32() -> None:
    answer, _ = await embed(reply([0.5, -1.25]), input="a", encoding_format="base64")
    packed = base64.b64decode(answer.data["data"][0]["embedding"])
    assert struct.unpack("<2f", packed) == (0.5, -1.25)


async def test_more_than_a_hundred_texts_are_split_and_joined_in_order() -> None:
    texts = [f"text {n}" for n in range(250)]
    vectors = [[float(n)] for n in range(250)]
    answer, requests = await embed(reply(*vectors[:100]), reply(*vectors[100:200]), reply(*vectors[200:]), input=texts)
    sent = [[one["content"]["parts"][0]["text"] for one in request.json["requests"]] for request in requests]
    assert sent == [texts[:100], texts[100:200], texts[200:]]
    assert [(one["index"], one["embedding"]) for one in answer.data["data"]] == list(enumerate(vectors))


async def test_usage_that_is_told_is_believed() -> None:
    told = {"usageMetadata": {"promptTokenCount": 9}}
    texts = ["x"] * 101
    answer, _ = await embed(reply(*[[1.0]] * 100, **told), reply([1.0], **told), input=texts)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.estimated) == (18, False)
    answer, _ = await embed(reply(*[[1.0]] * 100, **told), reply([1.0]), input=texts)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.estimated) == (101, True)


@pytest.mark.parametrize(
    ("payload", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": ["a", 1.5]}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": True}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ],
)
async def test_what_gemini_cannot_embed_is_refused(payload: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await embed(reply([1]), **payload)
    assert (caught.value.param, caught.value.retry) == (param, Retry.NEXT)


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"embeddings": {}},
        {"embeddings": []},
        {"embeddings": [{"values": [1]}, {"values": [1]}]},
        {"embeddings": ["x"]},
        {"embeddings": [{}]},
        {"embeddings": [{"values": []}]},
        {"embeddings": [{"values": ["x"]}]},
        {"embeddings": [{"values": [True]}]},
        {"embeddings": [{"values": [1]}], "usageMetadata": 3},
        {"error": {"message": "no"}},
    ],
)
async def test_an_unexpected_shape_is_an_upstream_error(body: Any) -> None:
    with pytest.raises(UpstreamError, match=r"^gemini: "):
        await embed(Replay(json.dumps(body).encode()), input="a")


async def test_numbers_that_float32_cannot_hold_are_an_upstream_error() -> None:
    with pytest.raises(UpstreamError, match="gemini: "):
        await embed(reply([1e300]), input="a", encoding_format="base64")


async def test_vectors_of_another_size_than_asked_for_are_not_given_out() -> None:
    with pytest.raises(UpstreamError, match="3 dimensions instead of the 2") as caught:
        await embed(reply([1, 2, 3]), input="a", dimensions=2)
    assert caught.value.retry is Retry.NEXT
