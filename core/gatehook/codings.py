"""`Content-Encoding` of requests and answers: what it says, and decompressing within bounds."""

import contextlib
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from aiohttp.http_exceptions import ContentEncodingError

if TYPE_CHECKING:
    from aiohttp.compression_utils import ZLibDecompressor

__all__ = ["Inflater", "NotEncoded", "TooLong", "codings", "inflated"]

_PIECE: Final = 65536
"""Bytes that are inflated at once: of a decompression bomb, only as much as its reader takes."""
_KNOWN: Final = frozenset({"br", "deflate", "gzip", "zstd"})
_EMPTY: Final = zlib.compressobj(wbits=31).flush()
"""A gzip member of nothing."""
_MOST: Final = 4
"""Encodings of one body, on top of each other."""


class NotEncoded(ValueError):
    """A body does not have the encoding that it claims, or ends too early."""


class TooLong(ValueError):
    """The inflated body is longer than it may be."""


def codings(values: Sequence[str]) -> Sequence[str] | None:
    """The encodings that have to be undone, in the order of undoing; None if one of them is not known.

    Args:
        values: those of all `Content-Encoding` headers, in order.
    """
    names = [name.strip().lower() for name in ",".join(values).split(",")]
    named = ["gzip" if name == "x-gzip" else name for name in names if name not in ("", "identity")]
    return named[::-1] if _KNOWN.issuperset(named) and len(named) <= _MOST else None


class Inflater:
    """Decompresses one body, by aiohttp's decompressors, so that requests and answers on all ways are treated alike."""

    def __init__(self, encoding: str) -> None:
        """`encoding` is "br", "deflate", "gzip" or "zstd".

        Raises:
            ContentEncodingError: the package for this encoding is not installed.
        """
        from aiohttp import compression_utils as undone

        self._encoding = encoding
        self._begun = False
        self._zlib = undone.ZLibDecompressor
        try:
            if encoding == "br":
                self._by: undone.DecompressionBaseHandler = undone.BrotliDecompressor()
            elif encoding == "zstd":
                self._by = undone.ZSTDDecompressor()
            else:
                self._by = undone.ZLibDecompressor(encoding=encoding)
        except RuntimeError as error:
            raise ContentEncodingError(str(error)) from None

    @property
    def more(self) -> bool:
        """Whether what it was given may yield more."""
        return self._by.data_available

    def inflate(self, data: bytes) -> bytes:
        """The next part of the body, at most 64 KiB; while there is `more`, to be called with b"".

        Args:
            data: compressed bytes, as they arrive.

        Raises:
            NotEncoded: the body does not have this encoding.
        """
        if data and not self._begun:
            self._begun = True
            if self._encoding == "deflate" and data[0] & 0xF != 8:  # some send raw deflate, without the zlib header
                self._by = self._zlib(encoding="deflate", suppress_deflate_header=True)
        try:
            return self._by.decompress_sync(data, max_length=_PIECE)
        except Exception as error:  # noqa: BLE001 - each of the libraries has its own
            raise NotEncoded(f"not {self._encoding}: {error}") from None

    def finish(self) -> None:
        """Check, when nothing more will come, that the body is complete.

        Raises:
            NotEncoded: it ends too early.
        """
        if self._begun and isinstance(self._by, self._zlib) and not self._has_ended(self._by):
            raise NotEncoded(f"{self._encoding} ends too early")

    def _has_ended(self, by: "ZLibDecompressor") -> bool:
        if self._encoding == "deflate":
            return by.eof
        # Where a gzip member ends, aiohttp makes another decompressor at once for one that may follow. Only such a
        # fresh one gets to the end of an empty member.
        if (left := getattr(by, "_decompressor", None)) is None:
            return True  # another aiohttp, which does not let that be seen
        with contextlib.suppress(zlib.error):
            left.decompress(_EMPTY)
        return bool(left.eof)


def inflated(data: bytes, encodings: Sequence[str], most: int) -> bytes:
    """A whole body, decompressed. That takes computing time: call it in a thread.

    Args:
        data: the body as it arrived.
        encodings: as `codings` gives them.
        most: bytes that the body may have after each step.

    Raises:
        TooLong: it has more than `most`. NotEncoded: it does not have these encodings.
        ContentEncodingError: the package for an encoding is not installed.
    """
    for encoding in encodings:
        data = _inflated(data, Inflater(encoding), most)
    return data


def _inflated(data: bytes, inflater: Inflater, most: int) -> bytes:
    body = bytearray(inflater.inflate(data))
    while len(body) <= most and inflater.more:
        body += inflater.inflate(b"")
    if len(body) > most:
        raise TooLong
    inflater.finish()
    return bytes(body)
