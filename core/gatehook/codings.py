"""What `Content-Encoding` says, and undoing it: of requests and answers, never more at once than somebody asks for."""

from collections.abc import Sequence
from typing import Final

from aiohttp import ClientPayloadError
from aiohttp.http import HttpProcessingError

__all__ = ["Inflater", "TooLong", "codings", "inflated"]

_PIECE: Final = 65536
"""Bytes that are inflated at once; of a little that becomes very much only as much as its reader takes."""
_KNOWN: Final = frozenset({"br", "deflate", "gzip", "zstd"})
_MOST: Final = 4
"""That are undone of one body, one after the other."""


class TooLong(ValueError):
    """What was inflated is longer than may be."""


def codings(values: Sequence[str], *, undone: bool = False) -> Sequence[str] | None:
    """What is to be undone of a body, the first to be undone first; None if it is not known how.

    Args:
        values: of all headers `Content-Encoding`, in order.
        undone: aiohttp has undone it, where the last of them is one coding that it knows.
    """
    if undone and values and values[-1].lower() in _KNOWN:
        values = values[:-1]
    names = [name.strip().lower() for name in ",".join(values).split(",")]
    named = ["gzip" if name == "x-gzip" else name for name in names if name not in ("", "identity")]
    return named[::-1] if _KNOWN.issuperset(named) and len(named) <= _MOST else None


class Inflater:
    """Undoes the encoding of one body, on aiohttp's decompressors, so that all ways do it alike."""

    def __init__(self, encoding: str) -> None:
        """`encoding` is "br", "deflate", "gzip" or "zstd".

        Raises:
            HttpProcessingError: the package that undoes it is not installed.
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
            raise HttpProcessingError(message=str(error)) from None

    @property
    def more(self) -> bool:
        """Whether there may be more of what it has been given."""
        return self._by.data_available

    def inflate(self, data: bytes) -> bytes:
        """What the body says, at most 64 KiB of it; while there is `more`, call it with b"".

        Args:
            data: compressed, as it comes.

        Raises:
            ClientPayloadError: it is not encoded so.
        """
        if data and not self._begun:
            self._begun = True
            if self._encoding == "deflate" and data[0] & 0xF != 8:  # some send it without its frame
                self._by = self._zlib(encoding="deflate", suppress_deflate_header=True)
        try:
            return self._by.decompress_sync(data, max_length=_PIECE)
        except Exception as error:  # noqa: BLE001 - each of the libraries has its own
            raise ClientPayloadError(f"not {self._encoding}: {error}") from None

    def finish(self) -> None:
        """Nothing more will come.

        Raises:
            ClientPayloadError: the body ends too early.
        """
        if self._encoding == "deflate" and self._begun and isinstance(self._by, self._zlib) and not self._by.eof:
            raise ClientPayloadError("deflate ends too early")


def inflated(data: bytes, encodings: Sequence[str], most: int) -> bytes:
    """A whole body, undone. It computes for a while: call it in a thread.

    Args:
        data: as it came.
        encodings: as `codings` gives them.
        most: bytes, of each step.

    Raises:
        TooLong: it is longer than `most`. ClientPayloadError: it is not encoded so.
        HttpProcessingError: what undoes it is not installed.
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
