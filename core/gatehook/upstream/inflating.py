"""Compressed answers: vendors are asked for none, and some send them all the same."""

from multidict import MultiMapping

from gatehook.codings import Inflater, codings
from gatehook.upstream.answer import Line

__all__ = ["Decoded", "decoded"]


class Decoded:
    """A `Line` whose body is undone as it is read."""

    __slots__ = ("_inflater", "_line", "head", "status")

    whole = False
    """It never is before it has been read: what is left in the inflater may be much."""

    def __init__(self, line: Line, encoding: str) -> None:
        """Raises HttpProcessingError where what undoes it is not installed."""
        self._line = line
        self._inflater = Inflater(encoding)
        self.status = line.status
        self.head = line.head

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
            received = await self._line.receive()
            if not received:
                self._inflater.finish()
                return b""
            if data := self._inflater.inflate(received):
                return data

    def release(self) -> None:
        """Give the connection back."""
        self._line.release()


def decoded(line: Line, headers: MultiMapping[str], *, undone: bool = False) -> Line:
    """An answer, made readable if it says that it is encoded, and in a way that is known.

    Args:
        line: that it comes on.
        headers: its own.
        undone: aiohttp has done it, as far as it does.

    Raises:
        HttpProcessingError: what undoes it is not installed.
    """
    for encoding in codings(headers.getall("Content-Encoding", []), undone=undone) or ():
        line = Decoded(line, encoding)
    return line
