"""Rankings and embeddings, through a whole gateway and alone."""

from typing import Any

import pytest
from aiohttp import ClientSession

from gatehook import InvalidRequest, UpstreamError, Usage
from gatehook.testing import Reply, StubUpstream, serving
from gatehook_cohere import CoherePlugin
from gatehook_cohere.answer import usage

PLUGINS = {"cohere": CoherePlugin}
SETTINGS = """
[plugins.cohere]
base_url = "{url}"
[plugins.route_models]
[plugins.cache]
[plugins.rate_limit]
tokens_per_minute = 100
[[models]]
name = "ranker"
vendor = "cohere"
model = "rerank-v3.5"
"""
RANKED = {
    "id": "x",
    "results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}],
    "meta": {"billed_units": {"search_units": 1}},
}
ASK = {"model": "ranker", "query": "capital of France", "documents": ["Berlin", {"text": "Paris"}]}


def made(url: str) -> str:
    return SETTINGS.format(url=url)


async def post(url: str, body: Any, path: str = "/v1/rerank") -> tuple[int, Any, Any]:
    async with ClientSession() as session, session.post(url + path, json=body) as answer:
        return answer.status, await answer.json(), answer.headers


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
async def test_a_ranking_goes_through_the_whole_pipeline(path: str) -> None:
    async with StubUpstream(Reply.of_json(RANKED)) as stub, serving(made(stub.url), plugins=PLUGINS) as served:
        asked = ASK | {"top_n": 2, "return_documents": True}
        status, data, headers = await post(served.url, asked, path)
        assert status == 200, data
        _, _, again = await post(served.url, asked, path)
        assert again["X-Cache"] == "hit"
    assert data["results"] == [
        {"index": 1, "relevance_score": 0.9, "document": {"text": "Paris"}},
        {"index": 0, "relevance_score": 0.1, "document": {"text": "Berlin"}},
    ]
    assert data["model"] == "ranker"
    assert data["meta"] == {"billed_units": {"search_units": 1}}
    assert headers["X-Gatehook-Deployment"] == "ranker#1"
    (request,) = stub.requests
    assert request.path == "/v2/rerank"
    assert request.json == {
        "model": "rerank-v3.5", "query": "capital of France", "documents": ["Berlin", "Paris"], "top_n": 2,
    }  # fmt: skip


async def test_limits_hold_for_rankings_and_reserve_nothing_for_an_answer() -> None:
    async with StubUpstream(Reply.of_json(RANKED)) as stub, serving(made(stub.url), plugins=PLUGINS) as served:
        assert (await post(served.url, ASK))[0] == 200  # 500 expected tokens of an answer would be over the limit
        status, data, _ = await post(served.url, ASK | {"query": "x" * 4000})
    assert status == 429
    assert data["message"] == data["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "ranker", "query": "q"}, "documents"),
        (ASK | {"documents": []}, "documents"),
        (ASK | {"documents": [{"title": "no text"}]}, "documents[0].text"),
        (ASK | {"documents": [7]}, "documents[0]"),
        (ASK | {"top_n": 0}, "top_n"),
        ({"query": "q", "documents": ["a"]}, "model"),
        ([], None),
    ],
)
async def test_bad_requests_name_the_field(body: Any, param: str | None) -> None:
    settings = made("http://127.0.0.1:1")
    async with serving(settings, plugins=PLUGINS) as served:
        status, data, _ = await post(served.url, body)
    assert status == 400
    assert data["error"]["param"] == param


async def test_a_model_that_cannot_rank_says_so() -> None:
    settings = made("").replace('vendor = "cohere"', 'vendor = "mock"') + "[plugins.vendor_mock]"
    async with serving(settings, plugins=PLUGINS) as served:
        status, data, _ = await post(served.url, ASK)
    assert (status, data["error"]["code"]) == (400, "unsupported_operation")


async def test_the_surface_can_be_left_out() -> None:
    async with serving("[plugins.cohere]\nrerank = false", plugins=PLUGINS) as served:
        assert (await post(served.url, ASK))[0] == 404


@pytest.mark.parametrize(
    "results",
    [None, [{"index": 2, "relevance_score": 1}], [{"index": 0}], [{"index": True, "relevance_score": 1}], [7]],
)
async def test_a_ranking_that_does_not_fit_is_the_vendor_s_failure(asked: Any, results: Any) -> None:
    with pytest.raises(UpstreamError):
        await asked(ASK, {"results": results}, operation="rerank")


async def test_tokens_are_told_where_cohere_tells_them_else_estimated(asked: Any) -> None:
    _, answer, _ = await asked(ASK, RANKED | {"meta": {"tokens": {"input_tokens": 40.0}}}, operation="rerank")
    assert (answer.usage.prompt_tokens, answer.usage.estimated) == (40, False)
    _, answer, _ = await asked(ASK, RANKED, operation="rerank")
    assert answer.usage.estimated
    assert answer.data["usage"]["total_tokens"] == answer.usage.total_tokens == (6 + 5 + 2 * 17 + 3) // 4


async def test_embeddings_are_asked_for_in_batches_and_joined_in_order(asked: Any) -> None:
    texts = [str(number) for number in range(100)]
    replies = [
        {"embeddings": {"float": [[float(one)] for one in part]}, "meta": {"billed_units": {"input_tokens": 5.0}}}
        for part in (texts[:96], texts[96:])
    ]
    requests, answer, _ = await asked(
        {"input": texts, "dimensions": 1, "input_type": "search_query"}, *replies, operation="embeddings"
    )
    assert [len(request.json["texts"]) for request in requests] == [96, 4]
    assert requests[0].json["input_type"] == "search_query"
    assert requests[0].json["output_dimension"] == 1
    assert [one["embedding"] for one in answer.data["data"]] == [[float(one)] for one in texts]
    assert answer.usage.prompt_tokens == 10
    assert answer.data["usage"] == {"prompt_tokens": 10, "total_tokens": 10}
    _, answer, _ = await asked(
        {"input": "a", "encoding_format": "base64"}, {"embeddings": {"float": [[1]]}}, operation="embeddings"
    )
    assert answer.data["data"][0]["embedding"] == "AACAPw=="
    assert answer.usage == Usage(1, estimated=True)
    with pytest.raises(UpstreamError):
        await asked({"input": "a"}, {"embeddings": {"float": [["x"]]}}, operation="embeddings")
    with pytest.raises(InvalidRequest):
        await asked({"input": [[1]]}, replies[0], operation="embeddings")


async def test_a_batch_whose_tokens_nobody_counted_is_not_free(asked: Any) -> None:
    texts = ["12345678"] * 100
    vectors = {"embeddings": {"float": [[1.0]] * 96}, "meta": {"billed_units": {"input_tokens": 5.0}}}
    _, answer, _ = await asked(
        {"input": texts}, vectors, {"embeddings": {"float": [[1.0]] * 4}}, operation="embeddings"
    )
    assert answer.usage == Usage(5 + 4 * 2, estimated=True)


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({"tokens": {"input_tokens": None}, "billed_units": {"input_tokens": 3.0, "output_tokens": 2.0}}, Usage(3, 2)),
        ({"tokens": {"input_tokens": 0, "output_tokens": 0}}, None),
        ({}, None),
    ],
)
def test_a_usage_that_counts_nothing_is_none(told: dict[str, Any], found: Usage | None) -> None:
    assert usage(told) == found
