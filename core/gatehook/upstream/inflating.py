"""Compressed answers: vendors are asked for none, and some send them all the same."""

from aiohttp import ClientPayloadError
from aiohttp.http import HttpProcessingError

from gatehook.upstream.http1 import Connection, headers_in

__all__ = ["Decoded", "Inflater", "decoded"]

_PIECE = 65536
"""Bytes that are inflated at once; of a little that becomes very much only as much as its reader takes."""
_ENCODINGS = frozenset({"br", "deflate", "gzip", "zstd"})


class Inflater:
    """Undoes one answer's encoding, on aiohttp's decompressors, so that both ways to a vendor do it alike."""

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


class Decoded:
    """An answer on a connection whose body is undone as it is read."""

    __slots__ = ("_connection", "_inflater", "head", "status")

    whole = False
    """It never is before it has been read: what is left in the inflater may be much."""

    def __init__(self, connection: Connection, encoding: str) -> None:
        """Raises HttpProcessingError where what undoes it is not installed."""
        self._connection = connection
        self._inflater = Inflater(encoding)
        self.status = connection.status
        self.head = connection.head

    def take(self) -> bytes:
        """Nothing: there is more to be had only by waiting."""
        return b""

    async def receive(self) -> bytes:
        """What has arrived of the body, undone, at least one byte; b"" at its end.

        Raises:
            OSError, aiohttp.ClientError, aiohttp.http.HttpProcessingError: the rest is lost, or not encoded so.
        """
        while True:
            if self._inflater.more and (data := self._inflater.inflate(b"")):
                return data
            received = await self._connection.receive()
            if not received:
                self._inflater.finish()
                return b""
            if data := self._inflater.inflate(received):
                return data

    def release(self) -> None:
        """Give the connection back."""
        self._connection.release()


def decoded(connection: Connection) -> Connection | Decoded:
    """The answer on a connection, made readable if it says that it is encoded.

    Raises:
        HttpProcessingError: it is encoded in a way that cannot be undone, or its headers are none.
    """
    encoding = headers_in(connection.head).get("Content-Encoding", "").lower()
    return Decoded(connection, encoding) if encoding in _ENCODINGS else connection
