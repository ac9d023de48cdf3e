"""Embeddings by InvokeModel: each maker's body and answer, as one answer of OpenAI's."""

import base64
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from gatehook import Attempt, Completion, Usage
from gatehook_bedrock.blocks import refused
from gatehook_bedrock.trouble import garbled

__all__ = ["Batches"]

_BATCH: Final = 96
"""Texts that Cohere's models take at once; Amazon's take one."""


class Batches:
    """One call for embeddings: the bodies to send, one after another, and the answers joined in order."""

    def __init__(self, attempt: Attempt) -> None:
        """Read the request.

        Raises:
            InvalidRequest: no texts, or a model whose body nobody knows.
        """
        payload, model = attempt.payload, attempt.target.model
        texts = payload.get("input")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not texts or not all(isinstance(one, str) for one in texts):
            raise refused("input", "expected a text or a list of texts")
        if payload.get("encoding_format", "float") not in ("float", "base64"):
            raise refused("encoding_format", "expected float or base64")
        self._titan = "titan-embed" in model
        if not self._titan and "cohere.embed" not in model:
            raise refused("model", "only Amazon Titan's and Cohere's models for embeddings can be translated")
        self._attempt = attempt
        self._texts: Sequence[str] = texts
        self._vectors: list[Sequence[float]] = []
        self._counted = 0

    def bodies(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """How many texts are in each body, and the body."""
        dimensions = self._attempt.payload.get("dimensions")
        if self._titan:
            more = {} if dimensions is None else {"dimensions": dimensions}
            yield from ((1, {"inputText": text} | more) for text in self._texts)
            return
        kind = self._attempt.payload.get("input_type", "search_document")
        more = {"input_type": kind, "embedding_types": ["float"]}
        more |= {} if dimensions is None else {"output_dimension": dimensions}
        for start in range(0, len(self._texts), _BATCH):
            texts = self._texts[start : start + _BATCH]
            yield len(texts), {"texts": texts} | more

    def add(self, sent: int, data: Mapping[str, Any]) -> None:
        """Take the answer to a body that held `sent` texts.

        Raises:
            UpstreamError: it does not fit.
        """
        found = data.get("embeddings")
        vectors = [data.get("embedding")] if self._titan else found.get("float") if isinstance(found, dict) else found
        if not isinstance(vectors, list) or len(vectors) != sent:
            raise garbled(f"the answer does not hold {sent} embeddings")
        for vector in vectors:
            if not isinstance(vector, list) or not all(type(one) in (int, float) for one in vector):
                raise garbled("an embedding is no list of numbers")
        self._vectors += vectors
        if type(count := data.get("inputTextTokenCount")) is int:
            self._counted += max(0, count)

    def joined(self) -> Completion:
        """All answers as one; where the model counts nothing, the gateway does."""
        used = Usage(self._counted)
        if not self._counted:
            used = Usage(sum(max(1, len(text) // 4) for text in self._texts), estimated=True)
        packed = self._attempt.payload.get("encoding_format") == "base64"
        found = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else vector}
            for index, vector in enumerate(self._vectors)
        ]
        told = {"prompt_tokens": used.prompt_tokens, "total_tokens": used.prompt_tokens}
        data = {"object": "list", "data": found, "model": self._attempt.call.public_name, "usage": told}
        return Completion(data, usage=used)


def _packed(vector: Sequence[float]) -> str:
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
    except (struct.error, OverflowError):
        raise garbled("an embedding is not made of 32-bit numbers") from None
