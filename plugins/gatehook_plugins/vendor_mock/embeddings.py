"""Embeddings that mean nothing but are always the same: unit vectors made from a hash of the text."""

import base64
import hashlib
import math
import struct
from collections.abc import Mapping
from typing import Any, Final

from gatehook import Call, Completion, InvalidRequest, Usage
from gatehook_plugins.vendor_mock.ask import number, read_input
from gatehook_plugins.vendor_mock.options import Options

__all__ = ["embed", "unit_vector"]

_MAX_DIMENSIONS: Final = 16384


def embed(call: Call, payload: Mapping[str, Any], options: Options) -> Completion:
    """The answer to one request.

    Raises:
        InvalidRequest: a field of a wrong type.
    """
    inputs = read_input(payload.get("input"), "input")
    dimensions = number(payload, "dimensions", most=_MAX_DIMENSIONS) or options.dimensions
    encoding = payload.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise InvalidRequest("encoding_format: expected 'float' or 'base64'", param="encoding_format")
    given = options.usage.prompt_tokens
    used = sum(one.tokens for one in inputs) if given is None else given
    data = {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _encoded(unit_vector(one.identity, dimensions), encoding),
            }
            for index, one in enumerate(inputs)
        ],
        "model": call.public_name,
        "usage": {"prompt_tokens": used, "total_tokens": used} if options.report_usage else None,
    }
    return Completion(data, usage=Usage(prompt_tokens=used) if options.report_usage else None)


def unit_vector(identity: str, dimensions: int) -> bytes:
    """A vector of length 1, as little-endian 32-bit floats."""
    digest = hashlib.shake_256(identity.encode("utf-8", "surrogatepass")).digest(4 * dimensions)
    raw = [value / 2**31 - 1.0 for value in struct.unpack(f"<{dimensions}I", digest)]
    length = math.hypot(*raw) or 1.0
    return struct.pack(f"<{dimensions}f", *(value / length for value in raw))


def _encoded(vector: bytes, encoding: str | None) -> str | list[float]:
    if encoding == "base64":
        return base64.b64encode(vector).decode()
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))
