"""Embeddings by InvokeModel: each maker's body and answer, as one answer of OpenAI's."""

import base64
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from gatehook import Attempt, Completion, Usage
from gatehook_bedrock.blocks import refused
from gatehook_bedrock.failure import garbled

__all__ = ["Batches"]

_BATCH: Final = 96
"""Texts that Cohere's models take at once; Amazon's take one."""
_MAKERS: Final = {"titan-embed": "titan", "cohere.embed": "cohere", "amazon.nova-2-multimodal-embed": "nova"}
"""What a model's name holds, and whose body it takes."""
_PURPOSES: Final = {
    "search_document": "GENERIC_INDEX", "search_query": "GENERIC_RETRIEVAL",
    "classification": "CLASSIFICATION", "clustering": "CLUSTERING",
}  # fmt: skip
"""Cohere's input_type in Nova's words."""
_COUNT: Final = "X-Amzn-Bedrock-Input-Token-Count"


class Batches:
    """One call for embeddings: the bodies to send, one after another, and the answers joined in order."""

    def __init__(self, attempt: Attempt) -> None:
        """Read the request.

        Raises:
            InvalidRequest: there are no texts, or the model's format of requests is not known.
        """
        payload, model = attempt.payload, attempt.target.model
        texts = payload.get("input")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not texts or not all(isinstance(one, str) for one in texts):
            raise refused("input", "expected a text or a list of texts")
        if payload.get("encoding_format", "float") not in ("float", "base64"):
            raise refused("encoding_format", "expected float or base64")
        self._maker = next((maker for sign, maker in _MAKERS.items() if sign in model), "")
        if not self._maker:
            raise refused("model", "only Amazon's Titan and Nova, and Cohere's models for embeddings can be translated")
        self._attempt = attempt
        self._texts: Sequence[str] = texts
        self._vectors: list[Sequence[float]] = []
        self._used: list[Usage] = []

    def bodies(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number of texts in each body, and the body.

        Raises:
            InvalidRequest: an `input_type` that Nova does not know.
        """
        if self._maker == "cohere":
            yield from self._of_cohere()
            return
        write = self._of_titan() if self._maker == "titan" else self._of_nova()
        yield from ((1, write(text)) for text in self._texts)

    def _of_cohere(self) -> Iterator[tuple[int, dict[str, Any]]]:
        kind = self._attempt.payload.get("input_type", "search_document")
        more = {"input_type": kind, "embedding_types": ["float"], **self._dimensions("output_dimension")}
        for start in range(0, len(self._texts), _BATCH):
            texts = self._texts[start : start + _BATCH]
            yield len(texts), {"texts": texts} | more

    def _of_titan(self) -> Callable[[str], dict[str, Any]]:
        if "input_type" in self._attempt.payload:
            self._attempt.drop("input_type")
        more = self._dimensions("dimensions")
        return lambda text: {"inputText": text} | more

    def _of_nova(self) -> Callable[[str], dict[str, Any]]:
        kind = self._attempt.payload.get("input_type", "search_document")
        if kind not in _PURPOSES:
            raise refused("input_type", f"expected one of {', '.join(_PURPOSES)}")
        more = {"embeddingPurpose": _PURPOSES[kind], **self._dimensions("embeddingDimension")}

        def write(text: str) -> dict[str, Any]:
            params = {"text": {"truncationMode": "NONE", "value": text}} | more
            return {"taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": params}

        return write

    def _dimensions(self, name: str) -> dict[str, Any]:
        dimensions = self._attempt.payload.get("dimensions")
        return {} if dimensions is None else {name: dimensions}

    def add(self, sent: int, data: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """Take the answer to a body that held `sent` texts.

        Raises:
            UpstreamError: it does not hold that many embeddings.
        """
        vectors = self._found(data)
        if not isinstance(vectors, list) or len(vectors) != sent:
            raise garbled(f"the answer does not hold {sent} embeddings")
        for vector in vectors:
            if not isinstance(vector, list) or not all(type(one) in (int, float) for one in vector):
                raise garbled("an embedding is no list of numbers")
        texts = self._texts[len(self._vectors) : len(self._vectors) + sent]
        self._used.append(_usage(data, headers, texts))
        self._vectors += vectors

    def _found(self, data: Mapping[str, Any]) -> Any:
        if self._maker == "titan":
            return [data.get("embedding")]
        found = data.get("embeddings")
        if self._maker == "nova" and isinstance(found, list):
            return [one.get("embedding") if isinstance(one, dict) else None for one in found]
        return found.get("float") if isinstance(found, dict) else found

    def joined(self) -> Completion:
        """All answers as one; tokens are estimated where the model does not count them."""
        used = sum(self._used[1:], self._used[0])
        packed = self._attempt.payload.get("encoding_format") == "base64"
        found = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if packed else vector}
            for index, vector in enumerate(self._vectors)
        ]
        told = {"prompt_tokens": used.prompt_tokens, "total_tokens": used.prompt_tokens}
        data = {"object": "list", "data": found, "model": self._attempt.call.public_name, "usage": told}
        return Completion(data, usage=used)


def _usage(data: Mapping[str, Any], headers: Mapping[str, str], texts: Sequence[str]) -> Usage:
    """What one answer took: as the model tells in it, or Bedrock beside it; where neither does, the gateway guesses."""
    told = data.get("inputTextTokenCount")
    beside = headers.get(_COUNT, "")
    count = told if type(told) is int else int(beside) if beside.isdecimal() and len(beside) < 12 else 0
    return Usage(count) if count > 0 else Usage(sum(max(1, len(text) // 4) for text in texts), estimated=True)


def _packed(vector: Sequence[float]) -> str:
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
    except (struct.error, OverflowError):
        raise garbled("an embedding is not made of 32-bit numbers") from None
