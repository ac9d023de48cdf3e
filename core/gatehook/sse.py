"""Server-sent events: bytes in, events out; and the writer.

After the WHATWG HTML standard, section 9.2: lines end in LF, CRLF or CR, an empty line ends an event, several `data`
lines join with LF, comments and unknown fields are skipped. One departure: an event that the end of the stream leaves
unterminated is given by `Reader.end()` instead of being dropped, because several vendors omit the last empty line; its
JSON then tells whether it was whole.
"""

__all__ = ["COMMENT", "DONE", "Event", "EventTooLarge", "Reader", "events", "frame"]

Event = tuple[bytes, bytes]
"""The event's name (b"" if none) and its data."""

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"
"""A sign of life, which readers of events skip."""

_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """One event is larger than the reader's limit."""


class Reader:
    """An incremental reader: feed it whatever arrived, borders may fall anywhere, also inside UTF-8 or CRLF."""

    __slots__ = ("_at_start", "_held", "_limit", "_size", "_skip_lf", "parts")

    def __init__(self, limit: int = 32 << 20) -> None:
        """`limit` is the most bytes one event may have."""
        self._limit = limit
        self.parts: list[bytes] = []
        """What has come of an event that is not complete."""
        self._size = 0
        self._skip_lf = False
        self._at_start = True
        self._held = b""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes, in order.

        Raises:
            EventTooLarge: the event being read is over the limit.
        """
        whole = self.take(data)
        return events(whole) if whole else []

    def take(self, data: bytes) -> bytes:
        """The text of the events that `data` completes, with LF line ends, its last line empty; b"" if none.

        Raises:
            EventTooLarge: the event being read is over the limit.
        """
        plain = not (self.parts or self._at_start or self._skip_lf) and len(data) <= self._limit
        if plain and data.endswith(b"\n\n") and data.find(b"\r") < 0:  # `in` would first raise an error, and swallow it
            return data  # whole events and nothing else, as from most vendors most of the time
        if self._at_start:
            data = self._strip_bom(data)
        if self._skip_lf or data.find(b"\r") >= 0:
            data = self._with_lf(data)
        if not data:
            return b""
        parts = self.parts
        if data.find(b"\n\n") < 0 and not (parts and data[0] == 0x0A and parts[-1][-1] == 0x0A):
            self._size += len(data)
            if self._size > self._limit:
                raise self._too_large()
            parts.append(data)
            return b""
        if parts:
            parts.append(data)
            data = b"".join(parts)
        if len(data) > self._limit and max(map(len, data.split(b"\n\n"))) > self._limit:
            raise self._too_large()
        end = data.rfind(b"\n\n") + 2
        rest = data[end:]
        self.parts = [rest] if rest else []
        self._size = len(rest)
        return data[:end]

    def end(self) -> list[Event]:
        """What the end of the stream left unterminated: at most one event."""
        return events(self.rest())

    def rest(self) -> bytes:
        """The text of that event, ended as `take` would; b"" if nothing was left."""
        rest, self.parts = b"".join(self.parts), []
        return rest.rstrip(b"\n") + b"\n\n" if rest else b""

    def _too_large(self) -> EventTooLarge:
        return EventTooLarge(f"a stream event is larger than {self._limit} bytes")

    def _strip_bom(self, data: bytes) -> bytes:
        data = self._held + data
        if len(data) < 3 and _BOM.startswith(data):
            self._held = data
            return b""
        self._at_start = False
        self._held = b""
        return data[3:] if data.startswith(_BOM) else data

    def _with_lf(self, data: bytes) -> bytes:
        # CR ends a line at once: waiting to see whether LF follows would hold the event back. An LF that comes first
        # in the next read belongs to the CR before it.
        if not data:
            return data
        if self._skip_lf and data[0] == 0x0A:
            data = data[1:]
        self._skip_lf = data[-1:] == b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def events(whole: bytes) -> list[Event]:
    """The events in a text with LF line ends, such as `Reader.take` gives."""
    found: list[Event] = []
    for block in whole.split(b"\n\n"):
        name, data = b"", block
        if block.startswith(b"event: "):
            first, _, data = block.partition(b"\n")
            name = first[7:]
        if data.startswith(b"data: ") and data.find(b"\n", 6) < 0:
            found.append((name, data[6:]))
        elif block:
            _parse(block, found)
    return found


def _parse(block: bytes, found: list[Event]) -> None:
    name = b""
    lines: list[bytes] = []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            lines.append(value)
        elif field == b"event":
            name = value
    if lines:
        found.append((name, lines[0] if len(lines) == 1 else b"\n".join(lines)))


def frame(data: bytes, name: str = "") -> bytes:
    """One event, framed. `data` may hold newlines; each becomes a data line of its own."""
    if data.find(b"\n") >= 0 or data.find(b"\r") >= 0:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    if name:
        return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
    return b"data: %b\n\n" % data
