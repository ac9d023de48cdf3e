"""Embeddings: the bodies of `POST /v2/embed`, and their answers as one of OpenAI's."""

import base64
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from gatehook import Attempt, Completion, Usage
from gatehook_cohere.answer import usage
from gatehook_cohere.endpoint import Options
from gatehook_cohere.failure import garbled
from gatehook_cohere.request import refused

__all__ = ["Batches"]

_BATCH: Final = 96


class Batches:
    """One call for embeddings: the bodies to send, one after another, and the answers joined in order."""

    def __init__(self, attempt: Attempt, options: Options) -> None:
        """Read the request.

        Raises:
            InvalidRequest: no texts, or a form that Cohere does not know.
        """
        payload = attempt.payload
        texts = payload.get("input")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not texts or not all(isinstance(one, str) for one in texts):
            raise refused("input", "expected a text or a list of texts")
        if payload.get("encoding_format", "float") not in ("float", "base64"):
            raise refused("encoding_format", "expected float or base64")
        self._attempt = attempt
        self._texts: Sequence[str] = texts
        self._common: dict[str, Any] = {
            "model": attempt.target.model,
            "input_type": payload.get("input_type", options.input_type),
            "embedding_types": ["float"],
        }
        if "dimensions" in payload:
            self._common["output_dimension"] = payload["dimensions"]
        if options.truncate is not None:
            self._common["truncate"] = options.truncate
        self._vectors: list[Sequence[float]] = []
        self._used: list[Usage] = []

    def bodies(self) -> Iterator[dict[str, Any]]:
        """The requests' bodies, at most 96 texts in each."""
        for start in range(0, len(self._texts), _BATCH):
            yield self._common | {"texts": self._texts[start : start + _BATCH]}

    def add(self, sent: int, data: Mapping[str, Any]) -> None:
        """Take the answer to a body that held `sent` texts.

        Raises:
            UpstreamError: it does not hold that many embeddings.
        """
        embeddings = data.get("embeddings")
        vectors = embeddings.get("float") if isinstance(embeddings, dict) else None
        if not isinstance(vectors, list) or len(vectors) != sent:
            raise garbled(f"the answer does not hold {sent} embeddings")
        for vector in vectors:
            if not isinstance(vector, list) or not all(type(one) in (int, float) for one in vector):
                raise garbled("an embedding is no list of numbers")
        texts = self._texts[len(self._vectors) : len(self._vectors) + sent]
        # What is not counted there is here: one batch that tells nothing must not be free.
        guess = Usage(sum(max(1, len(text.encode("utf-8", "surrogatepass")) // 4) for text in texts), estimated=True)
        self._used.append(usage(data.get("meta")) or guess)
        self._vectors += vectors

    def joined(self) -> Completion:
        """All answers as one."""
        used = sum(self._used[1:], self._used[0])
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
