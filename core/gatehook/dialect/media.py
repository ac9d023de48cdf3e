"""Images, documents and sounds inside messages: data URIs, and the types that their bytes show."""

import base64
import binascii
import re

from msgspec import Struct

from gatehook.errors import InvalidRequest, Retry

__all__ = ["Blob", "data_uri", "from_base64", "sniff"]

MAX_BYTES = 32 << 20
"""Bytes of one inline part, decoded; more than any vendor takes."""

_DATA_URI = re.compile(
    r"data:(?P<mime>[\w.+-]+/[\w.+-]+)?(?P<parameters>(?:;[\w.+-]+=[^;,]*)*)(?P<base64>;base64)?,", re.IGNORECASE
)

_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"ID3", "audio/mpeg"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
)


class Blob(Struct, frozen=True):
    """Bytes in base64, as they travel, and their MIME type."""

    mime: str
    base64: str


def sniff(head: bytes) -> str:
    """The MIME type that the first bytes show, "" if unknown. File names and servers' claims lie; bytes do not."""
    for magic, mime in _MAGIC:
        if head.startswith(magic):
            return mime
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "audio/wav"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "image/heic"
    return ""


def data_uri(uri: str, *, param: str) -> Blob:
    """Read a ``data:`` URI; the type its bytes show wins over the declared one.

    Raises:
        InvalidRequest: not a data URI with base64 data, or too large; names `param`.
    """
    match = _DATA_URI.match(uri)
    if match is None or not match["base64"]:
        raise InvalidRequest(f"{param}: expected a data URI like 'data:image/png;base64,…'", param=param)
    return from_base64(uri[match.end() :], (match["mime"] or "").lower(), param=param)


def from_base64(text: str, declared: str = "", *, param: str) -> Blob:
    """Check base64 text and find its type.

    Args:
        text: the base64 text.
        declared: the MIME type someone claims, used when the bytes do not show one.
        param: the field it came from, for messages.

    Raises:
        InvalidRequest: not base64, empty, too large, or of no known type.
    """
    if len(text) * 3 // 4 > MAX_BYTES:
        raise InvalidRequest(f"{param}: larger than {MAX_BYTES >> 20} MB", param=param, retry=Retry.NEXT)
    try:
        body = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{param}: the data is not valid base64", param=param) from None
    if not body:
        raise InvalidRequest(f"{param}: the data is empty", param=param)
    mime = sniff(body[:16]) or declared
    if not mime:
        raise InvalidRequest(f"{param}: the type of the data is neither declared nor recognisable", param=param)
    return Blob("image/jpeg" if mime == "image/jpg" else mime, text)
