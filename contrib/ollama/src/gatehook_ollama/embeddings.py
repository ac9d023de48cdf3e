"""Embeddings: the body of `/api/embed`, and its answer as OpenAI's."""

import base64
import struct
from collections.abc import Sequence
from typing import Any

from gatehook import Attempt, Completion, UpstreamError, Usage
from gatehook_ollama.options import Options
from gatehook_ollama.request import refused

__all__ = ["embed_body", "embedded"]


def embed_body(attempt: Attempt, options: Options) -> dict[str, Any]:
    """Write the request.

    Raises:
        InvalidRequest: no texts, or a form that Ollama does not know.
    """
    payload = attempt.payload
    texts = payload.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) for one in texts):
        raise refused("input", "expected a text or a list of texts")
    if payload.get("encoding_format", "float") not in ("float", "base64"):
        raise refused("encoding_format", "expected float or base64")
    body: dict[str, Any] = {"model": attempt.target.model, "input": texts}
    if (dimensions := payload.get("dimensions")) is not None:
        body["dimensions"] = dimensions
    if options.truncate is not None:
        body["truncate"] = options.truncate
    runtime = dict(options.runtime)
    if options.num_ctx is not None:
        runtime["num_ctx"] = options.num_ctx
    return body | ({"options": runtime} if runtime else {})


def embedded(attempt: Attempt, data: dict[str, Any], texts: Sequence[str]) -> Completion:
    """OpenAI's answer.

    Args:
        attempt: what was asked.
        data: Ollama's answer.
        texts: that were sent.

    Raises:
        UpstreamError: it does not fit the request.
    """
    vectors = data.get("embeddings")
    if not isinstance(vectors, list) or len(vectors) != len(texts):
        raise UpstreamError(f"ollama: the answer does not hold {len(texts)} embeddings")
    for vector in vectors:
        if not isinstance(vector, list) or not all(type(one) in (int, float) for one in vector):
            raise UpstreamError("ollama: an embedding is no list of numbers")
    told = data.get("prompt_eval_count")
    if type(told) is int and told > 0:
        usage = Usage(told)
    else:  # older servers, and some in front of them, count nothing
        usage = Usage(sum(max(1, len(text.encode("utf-8", "surrogatepass")) // 4) for text in texts), estimated=True)
    packed = attempt.payload.get("encoding_format") == "base64"
    return Completion(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else vector}
                for index, vector in enumerate(vectors)
            ],
            "model": attempt.call.public_name,
            "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens},
        },
        usage=usage,
    )


def _packed(vector: Sequence[float]) -> str:
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
    except (struct.error, OverflowError):
        raise UpstreamError("ollama: an embedding is not made of 32-bit numbers") from None
