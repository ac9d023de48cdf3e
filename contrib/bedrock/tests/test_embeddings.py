"""Embeddings by InvokeModel: Titan's, Nova's and Cohere's."""

import json
from typing import Any

import pytest

from gatehook import InvalidRequest, UpstreamError
from gatehook.testing import Replay, ReplayEgress, attempt
from gatehook_bedrock.signing import Signer
from gatehook_bedrock.vendor import Bedrock


async def test_embeddings_of_titan_and_cohere(asked: Any) -> None:
    replies = [{"embedding": [0.5, 1], "inputTextTokenCount": 4}, {"embedding": [2, 3], "inputTextTokenCount": 5}]
    requests, completion, _ = await asked(
        {"input": ["a", "b"], "dimensions": 2}, *replies, operation="embeddings", model="amazon.titan-embed-text-v2:0"
    )
    assert [request.json for request in requests] == [{"inputText": text, "dimensions": 2} for text in "ab"]
    assert requests[0].path.endswith("/invoke")
    assert [one["embedding"] for one in completion.data["data"]] == [[0.5, 1], [2, 3]]
    assert completion.usage.prompt_tokens == 9
    for reply in ({"embeddings": [[1], [2]]}, {"embeddings": {"float": [[1], [2]]}}):
        requests, completion, _ = await asked(
            {"input": ["a", "b"], "encoding_format": "base64"}, reply, operation="embeddings", model="cohere.embed-v4:0"
        )
        assert requests[0].json["texts"] == ["a", "b"]
        assert completion.data["data"][0]["embedding"] == "AACAPw=="
        assert completion.usage.estimated
    _, completion, _ = await asked(
        {"input": "a"}, {"embedding": [1], "inputTextTokenCount": 0}, operation="embeddings", model="titan-embed"
    )
    assert completion.usage.estimated
    with pytest.raises(UpstreamError):
        await asked({"input": "a"}, {"embeddings": []}, operation="embeddings", model="cohere.embed-v4:0")
    with pytest.raises(InvalidRequest):
        await asked({"input": "a"}, {}, operation="embeddings", model="stability.image")


async def test_nova_takes_one_text_and_is_told_what_it_is_for(asked: Any) -> None:
    replies = [{"embeddings": [{"embeddingType": "TEXT", "embedding": vector}]} for vector in ([0.5, 1], [2, 3])]
    model = "amazon.nova-2-multimodal-embeddings-v1:0"
    payload = {"input": ["a", "b"], "dimensions": 256}
    requests, completion, _ = await asked(payload, *replies, operation="embeddings", model=model)
    assert [request.json for request in requests] == [
        {
            "taskType": "SINGLE_EMBEDDING",
            "singleEmbeddingParams": {
                "embeddingPurpose": "GENERIC_INDEX",
                "embeddingDimension": 256,
                "text": {"truncationMode": "NONE", "value": text},
            },
        }
        for text in "ab"
    ]
    assert [one["embedding"] for one in completion.data["data"]] == [[0.5, 1], [2, 3]]
    payload = {"input": "a", "input_type": "search_query"}
    (request,), _, _ = await asked(payload, replies[0], operation="embeddings", model=model)
    params = request.json["singleEmbeddingParams"]
    assert (params["embeddingPurpose"], "embeddingDimension" in params) == ("GENERIC_RETRIEVAL", False)
    with pytest.raises(InvalidRequest) as caught:
        await asked({"input": "a", "input_type": "fun"}, {}, operation="embeddings", model=model)
    assert caught.value.param == "input_type"
    wrong: list[Any] = [{}, {"embeddings": []}, {"embeddings": [[1]]}, {"embeddings": [{"embedding": "x"}]}]
    for reply in wrong:
        with pytest.raises(UpstreamError):
            await asked({"input": "a"}, reply, operation="embeddings", model=model)


@pytest.mark.parametrize(
    ("told", "counted", "estimated"),
    [(["5", "7"], 12, False), (["5", None], 5 + 25, True), (["x", "-1"], 96 + 25, True)],
)
async def test_tokens_are_counted_as_bedrock_tells_beside_the_answer(
    told: list[str | None], counted: int, estimated: bool
) -> None:
    """97 texts are two requests; one that tells nothing is not free, and what the other tells still counts."""
    egress = ReplayEgress(
        *(
            Replay(
                json.dumps({"embeddings": [[1]] * count}).encode(),
                headers={} if tokens is None else {"X-Amzn-Bedrock-Input-Token-Count": tokens},
            )
            for count, tokens in zip((96, 1), told, strict=True)
        )
    )
    texts = ["a"] * 96 + ["b" * 100]
    one = attempt({"input": texts}, operation="embeddings", vendor="bedrock", model="cohere.embed-english-v3")
    completion = await Bedrock(egress, Signer(), "us-east-1").complete(one)
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.estimated) == (counted, estimated)


async def test_titan_is_not_told_what_a_text_is_for(asked: Any) -> None:
    payload = {"input": "a", "input_type": "search_query"}
    reply = {"embedding": [1], "inputTextTokenCount": 1}
    _, _, one = await asked(payload, reply, operation="embeddings", model="amazon.titan-embed-text-v2:0")
    assert one.dropped == ["input_type"]
