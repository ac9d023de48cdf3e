"""Ranking: the body of `POST /v2/rerank`, and its answer in the shape that Cohere's and Jina's clients read."""

from collections.abc import Mapping
from typing import Any, Final

from gatehook import Attempt, Completion, Usage
from gatehook_cohere.answer import usage
from gatehook_cohere.failure import garbled

__all__ = ["ranked", "rerank_body"]

_BYTES_PER_TOKEN: Final = 4


def rerank_body(attempt: Attempt) -> dict[str, Any]:
    """Write the request. Cohere's answer names documents by their index, so their texts are not requested back."""
    payload = attempt.payload
    body = {"model": attempt.target.model, "query": payload["query"], "documents": _texts(payload)}
    return body | {name: payload[name] for name in ("top_n", "max_tokens_per_doc") if name in payload}


def ranked(attempt: Attempt, data: Mapping[str, Any]) -> Completion:
    """The answer: `results`, best first, with `index`, `relevance_score` and, if it is asked for, the `document`.

    Cohere bills searches and seldom tells tokens; then they are estimated from the texts.

    Raises:
        UpstreamError: it does not fit the request.
    """
    texts = _texts(attempt.payload)
    results = data.get("results")
    if not isinstance(results, list):
        raise garbled("the answer holds no results")
    found = [_result(one, len(texts)) for one in results]
    if attempt.payload.get("return_documents"):
        found = [one | {"document": {"text": texts[one["index"]]}} for one in found]
    meta = data.get("meta")
    used = usage(meta) or _estimated(attempt.payload["query"], texts)
    answer = {
        "id": "rerank-" + attempt.call.id.removeprefix("req_"),
        "model": attempt.call.public_name,
        "results": found,
        "usage": {"prompt_tokens": used.prompt_tokens, "total_tokens": used.total_tokens},
        "meta": {"billed_units": (meta.get("billed_units") if isinstance(meta, dict) else None) or {}},
    }
    return Completion(answer, usage=used)


def _texts(payload: Mapping[str, Any]) -> list[str]:
    return [one if isinstance(one, str) else one["text"] for one in payload["documents"]]


def _result(one: Any, count: int) -> dict[str, Any]:
    index, score = (one.get("index"), one.get("relevance_score")) if isinstance(one, dict) else (None, None)
    if type(index) is not int or not 0 <= index < count or type(score) not in (int, float):
        raise garbled("a result names no document, or no score")
    return {"index": index, "relevance_score": score}


def _estimated(query: str, texts: list[str]) -> Usage:
    size = sum(
        len(text.encode("utf-8", "surrogatepass")) + len(query.encode("utf-8", "surrogatepass")) for text in texts
    )
    return Usage(-(-size // _BYTES_PER_TOKEN), estimated=True)
