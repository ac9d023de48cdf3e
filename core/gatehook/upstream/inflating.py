"""Compressed answers, decompressed as they are read: vendors are asked for none, but some send them all the same."""

from aiohttp.http_exceptions import ContentEncodingError
from multidict import MultiMapping

from gatehook.codings import Inflater, NotEncoded, codings
from gatehook.upstream.answer import Line
from gatehook.upstream.http1 import PassOn

__all__ = ["Decoded", "decoded"]


class Decoded:
    """A `Line` whose body is decompressed as it is read."""

    __slots__ = ("_encoding", "_inflater", "_line", "head", "status")

    whole = False
    """Never, so that the body is read piece by piece: what the inflater still holds may become very much."""

    def __init__(self, line: Line, encoding: str) -> None:
        self._line = line
        self._encoding = encoding
        self._inflater: Inflater | None = None
        """Made when the body is read: the status counts also where the body cannot be."""
        self.status = line.status
        self.head = line.head

    def take(self) -> bytes:
        """Nothing: the body is to be had only by `receive`."""
        return b""

    async def receive(self, pass_on: PassOn | None = None) -> bytes:
        """What has arrived of the body, decompressed, waiting for at least one byte; b"" at its end.

        Raises:
            OSError, aiohttp.ClientError, aiohttp.http.HttpProcessingError: the rest will not come, or does not have
                this encoding, or the package for it is not installed.
        """
        try:
            return await self._next()
        except NotEncoded as error:
            raise ContentEncodingError(str(error)) from None

    async def _next(self) -> bytes:
        inflater = self._inflater = self._inflater or Inflater(self._encoding)
        while True:
            if inflater.more and (data := inflater.inflate(b"")):
                return data
            received = await self._line.receive()
            if not received:
                inflater.finish()
                return b""
            if data := inflater.inflate(received):
                return data

    def release(self) -> None:
        """Give the connection back."""
        self._line.release()


def decoded(line: Line, headers: MultiMapping[str]) -> Line:
    """An answer, decompressed if its headers say that it is compressed, in ways that are known."""
    for encoding in codings(headers.getall("Content-Encoding", [])) or ():
        line = Decoded(line, encoding)
    return line
