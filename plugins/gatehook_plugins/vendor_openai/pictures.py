"""Pictures of OpenAI-compatible servers: they go through as they are, but in the form that was asked for.

Servers give URLs that are gone after an hour or so. Where files are kept, such a picture is fetched and kept too, and
the gateway's own URL stands in; where base64 was asked for and a URL came, it is fetched as well. It has been paid for:
if that cannot be done, the client gets the server's URL.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from gatehook import (
    Attempt,
    Completion,
    Egress,
    FileStore,
    MalformedJSON,
    Picture,
    Unavailable,
    Usage,
    decode,
    encode,
    picture_url,
    sniff,
    wants_urls,
)
from gatehook_plugins.vendor_openai import failure
from gatehook_plugins.vendor_openai.fetching import fetched
from gatehook_plugins.vendor_openai.peek import Whole
from gatehook_plugins.vendor_openai.splice import mentions, with_model, without

__all__ = ["PictureReader", "picture_body"]

_GIVES_NO_URLS: Final = re.compile(r"(.*/)?(chat)?gpt-image.*")
"""OpenAI's models that answer base64 only, and refuse a request with `response_format`."""
_ABSURD: Final = 10**15
_NOTHING: Final = (b"null", b'""', b"{}")


class _Entry(Struct):
    """One entry of the answer's list; its fields are not decoded."""

    url: Raw | UnsetType = UNSET
    b64_json: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


_read_entry: Final = msgspec.json.Decoder(_Entry).decode


def picture_body(attempt: Attempt, raw: bytes, files: FileStore | None) -> bytes:
    """The request as this model takes it.

    Raises:
        InvalidRequest: URLs are wanted, and neither the model nor the gateway could give any.
    """
    if _GIVES_NO_URLS.fullmatch(attempt.target.model) and mentions(raw, "response_format"):
        wants_urls(attempt.call, files)
        return without(raw, "response_format")
    return raw


class PictureReader:
    """Reads the answer to one attempt."""

    def __init__(self, attempt: Attempt, egress: Egress, files: FileStore | None) -> None:
        """`egress` fetches what comes by URL, `files` keeps it, if there is a store."""
        self._attempt = attempt
        self._egress = egress
        self._files = files
        self._wanted = attempt.call.payload.get("response_format")

    async def answer(self, raw: bytes, whole: Whole) -> Completion:
        """The answer under the model's public name, with each picture in the form that was asked for.

        Raises:
            UpstreamError: it is not what the API promises. Unavailable: the store of files is away, or full.
        """
        call, usage = self._attempt.call, _usage(whole)
        if not usage.images:
            raise failure.malformed(self._attempt.target, "the answer has no picture")
        if whole.model not in (None, call.public_name):
            raw = with_model(raw, whole.model, call.public_name)
        if not self._concerns(raw):
            return Completion(raw=raw, usage=usage)
        try:
            answer = decode(raw)
            given = [(entry, _given(entry)) for entry in answer["data"]]
        except (MalformedJSON, binascii.Error, TypeError, KeyError, ValueError, AttributeError):
            raise failure.malformed(self._attempt.target, "the answer holds a picture that cannot be read") from None
        pictures = await asyncio.gather(*(self._picture(entry, picture) for entry, picture in given))
        answer["data"] = [await self._entry(entry, one) for (entry, _), one in zip(given, pictures, strict=True)]
        return Completion(raw=encode(answer), usage=usage)

    def _concerns(self, raw: bytes) -> bool:
        """Whether there may be a picture in another form than the client shall get."""
        if self._wanted == "b64_json":
            return mentions(raw, "url")
        return self._files is not None and (mentions(raw, "url") or self._wanted == "url")

    async def _picture(self, entry: Mapping[str, Any], given: Picture | None) -> Picture | None:
        """The picture to be put into another form: as given in base64, or fetched; None if the entry stays as it is."""
        if given is not None:
            return given if self._wanted == "url" and self._files is not None else None
        return await fetched(self._egress, self._attempt.target, entry["url"]) if entry.get("url") else None

    async def _entry(self, entry: dict[str, Any], picture: Picture | None) -> dict[str, Any]:
        """One entry of the list as the client shall get it.

        Raises:
            Unavailable: a URL is wanted, the server gave none, and the file store does not take the picture.
        """
        if picture is not None:
            others = {name: value for name, value in entry.items() if name not in ("url", "b64_json")}
            if self._wanted == "b64_json" or self._files is None:
                return {**others, "b64_json": base64.b64encode(picture.data).decode()}
            try:
                return {**others, "url": await picture_url(self._attempt.call, picture, self._files)}
            except Unavailable:
                if not entry.get("url"):
                    raise
        elif self._wanted == "b64_json" and not entry.get("b64_json"):
            self._attempt.note("response_format")
        return entry


def _given(entry: Mapping[str, Any]) -> Picture | None:
    """The picture of an entry that holds base64; None for one that has a URL, or was not made."""
    if not entry.get("b64_json"):
        return None
    written = "".join(entry["b64_json"].rpartition(";base64,")[2].split())  # some write it as a URL, or in lines
    data = base64.b64decode(written, validate=True)
    return Picture(data, sniff(data[:16]) or "application/octet-stream", entry.get("revised_prompt") or "")


def _usage(whole: Whole) -> Usage:
    """Tokens, of models that are paid by them, and how many pictures were made, which may be fewer than asked for."""
    told = whole.usage if isinstance(whole.usage, dict) else {}
    tokens = [told.get("input_tokens"), told.get("output_tokens")]
    prompt, completion = (one if type(one) is int and 0 <= one < _ABSURD else 0 for one in tokens)
    return Usage(prompt, completion, images=sum(map(_is_made, whole.data or ())))


def _is_made(raw: Raw) -> bool:
    """Whether an entry is a picture: it holds one, or at least no error."""
    try:
        entry = _read_entry(raw)
    except msgspec.MsgspecError:
        return False
    forms = [form for form in (entry.url, entry.b64_json) if form is not UNSET]
    if forms:
        return any(bytes(form) not in _NOTHING for form in forms)
    return entry.error is UNSET and bytes(raw).replace(b" ", b"") not in _NOTHING
