"""Embeddings: BatchEmbedContentsRequest and its response, of the Gemini API, v1beta."""

import base64
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from gatehook import Attempt, Completion, InvalidRequest, Retry, Usage
from gatehook_plugins.vendor_gemini import answer
from gatehook_plugins.vendor_gemini.endpoint import model_path
from gatehook_plugins.vendor_gemini.failure import WireError
from gatehook_plugins.vendor_gemini.options import Options

__all__ = ["Batches"]

_BATCH: Final = 100


class Batches:
    """One call for embeddings: the bodies to send, one after another, and the answers joined in order."""

    def __init__(self, attempt: Attempt, options: Options) -> None:
        """Read the request.

        Raises:
            InvalidRequest: no texts, or a form Gemini does not know.
        """
        payload = attempt.payload
        self._attempt = attempt
        self._task = options.task_type
        self._texts = _texts(payload.get("input"))
        self._dimensions = _dimensions(payload.get("dimensions"))
        self._base64 = _is_base64(payload.get("encoding_format", "float"))
        self._vectors: list[list[float]] = []
        self._counted: int | None = 0

    def bodies(self) -> Iterator[dict[str, Any]]:
        """The requests' bodies, at most 100 texts in each."""
        common: dict[str, Any] = {"model": model_path(self._attempt.target.model)}
        if self._dimensions is not None:
            common["outputDimensionality"] = self._dimensions
        if self._task:
            common["taskType"] = self._task
        for start in range(0, len(self._texts), _BATCH):
            texts = self._texts[start : start + _BATCH]
            yield {"requests": [{**common, "content": {"parts": [{"text": text}]}} for text in texts]}

    def add(self, sent: int, response: Any) -> None:
        """Take the answer to a body that held `sent` texts."""
        body = answer.typed(response, dict, "the answer")
        embeddings = answer.get(body, "embeddings", list, [])
        if len(embeddings) != sent:
            raise WireError(f"unexpected answer: {len(embeddings)} embeddings for {sent} texts")
        self._vectors += [self._vector(answer.typed(one, dict, "an embedding")) for one in embeddings]
        told = answer.usage(body.get("usageMetadata"))
        self._counted = None if told is None or self._counted is None else self._counted + told.prompt_tokens

    def _vector(self, embedding: Mapping[str, Any]) -> list[float]:
        values = answer.typed(embedding.get("values"), list, "values")
        if not values or any(isinstance(one, bool) or not isinstance(one, int | float) for one in values):
            raise WireError("unexpected answer: an embedding is no list of numbers")
        if self._dimensions is not None and len(values) != self._dimensions:
            # A vector of another space is worse than none: it would be stored beside those it cannot be compared with.
            raise WireError(f"{len(values)} dimensions instead of the {self._dimensions} asked for", retry=Retry.NEXT)
        return values

    def joined(self) -> Completion:
        """All answers as one."""
        usage = self._usage()
        data = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _packed(vector) if self._base64 else vector}
                for index, vector in enumerate(self._vectors)
            ],
            "model": self._attempt.call.public_name,
            "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.total_tokens},
        }
        return Completion(data, usage=usage)

    def _usage(self) -> Usage:
        if self._counted is not None:
            return Usage(self._counted)
        # Most embedding models report no usage, and OpenAI's clients insist on one.
        return Usage(sum(max(1, len(text) // 4) for text in self._texts), estimated=True)


def _texts(given: Any) -> Sequence[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise _refused("input", "expected a text or a list of texts")
    if any(isinstance(one, int | list) for one in texts):
        raise _refused("input", "tokens mean nothing to a model with another tokenizer; send text")
    if not all(isinstance(one, str) for one in texts):
        raise _refused("input", "expected a text or a list of texts")
    return texts


def _dimensions(given: Any) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise _refused("dimensions", "expected a whole number above 0")
    return given


def _is_base64(given: Any) -> bool:
    if given not in ("float", "base64"):
        raise _refused("encoding_format", "expected float or base64")
    return bool(given == "base64")


def _packed(vector: Sequence[float]) -> str:
    try:
        packed = struct.pack(f"<{len(vector)}f", *vector)
    except (struct.error, OverflowError):
        raise WireError("unexpected answer: an embedding is not made of 32-bit numbers") from None
    return base64.b64encode(packed).decode("ascii")


def _refused(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {why}", param=param, retry=Retry.NEXT)
