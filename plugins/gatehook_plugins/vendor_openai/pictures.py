"""Pictures of OpenAI-compatible servers: they go through as they are, unless a URL was asked for and none came."""

import base64
import binascii
import re
from typing import Any, Final

from gatehook import (
    Attempt,
    Completion,
    FileStore,
    MalformedJSON,
    Picture,
    Usage,
    decode,
    encode,
    pictures_answer,
    sniff,
    wants_urls,
)
from gatehook_plugins.vendor_openai import failure
from gatehook_plugins.vendor_openai.peek import Whole
from gatehook_plugins.vendor_openai.splice import mentions, with_model, without

__all__ = ["picture_answer", "picture_body"]

_GIVES_NO_URLS: Final = re.compile(r"(.*/)?(chat)?gpt-image.*")
"""OpenAI's models that answer base64 only, and refuse to be asked which."""
_ABSURD: Final = 10**15


def picture_body(attempt: Attempt, raw: bytes, files: FileStore | None) -> bytes:
    """The request as this model takes it.

    Raises:
        InvalidRequest: URLs are wanted, and neither the model nor the gateway could give any.
    """
    if _GIVES_NO_URLS.fullmatch(attempt.target.model) and mentions(raw, "response_format"):
        wants_urls(attempt.call, files)
        return without(raw, "response_format")
    return raw


async def picture_answer(attempt: Attempt, raw: bytes, whole: Whole, files: FileStore | None) -> Completion:
    """The answer under its public name; base64 becomes a URL if one was asked for.

    Raises:
        UpstreamError: it is not what the API promises. Unavailable: the store of files is away, or full.
    """
    call, usage = attempt.call, _usage(whole)
    if whole.model not in (None, call.public_name):
        raw = with_model(raw, whole.model, call.public_name)
    if files is None or call.payload.get("response_format") != "url" or not mentions(raw, "b64_json"):
        return Completion(raw=raw, usage=usage)
    try:
        answer = decode(raw)
        pictures = [_picture(entry) for entry in answer["data"]]
    except (MalformedJSON, binascii.Error, TypeError, KeyError, ValueError):
        raise failure.malformed(attempt.target, "the answer holds a picture that is none") from None
    made = await pictures_answer(call, [picture for picture in pictures if picture is not None], files, usage=usage)
    stored = iter(made.data["data"])
    answer["data"] = [
        entry if picture is None else next(stored) for entry, picture in zip(answer["data"], pictures, strict=True)
    ]
    return Completion(raw=encode(answer), usage=usage)


def _picture(entry: dict[str, Any]) -> Picture | None:
    """A picture that came as base64; None for one that has a URL already."""
    if not entry.get("b64_json"):
        return None
    data = base64.b64decode(entry["b64_json"], validate=True)
    return Picture(data, sniff(data[:16]) or "application/octet-stream", entry.get("revised_prompt") or "")


def _usage(whole: Whole) -> Usage:
    """Tokens, of models that are paid by them, and pictures."""
    told = whole.usage if isinstance(whole.usage, dict) else {}
    tokens = [told.get("input_tokens"), told.get("output_tokens")]
    prompt, completion = (one if type(one) is int and 0 <= one < _ABSURD else 0 for one in tokens)
    return Usage(prompt, completion, images=len(whole.data or ()))
