"""Events that differ only in one piece of text, passed on without being decoded one by one.

In a stream of content nearly every event is the last one with another text in one place. Once an event has been read
in full, what stands before and after its text is known; whatever begins and ends with just those bytes and has one
valid JSON string between them says the same about everything else.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import msgspec

__all__ = ["Run", "Template"]

# The strings that may differ between events. All else is compared byte by byte, so if an event has several of these and
# the wrong one is taken, the next event is just not recognised.
_KEYS = tuple(
    b'"%b":%b"' % (name, space)
    for space in (b"", b" ")
    for name in (b"content", b"arguments", b"reasoning_content", b"reasoning", b"text")
)
_read_string = msgspec.json.Decoder(str).decode
_read_strings = msgspec.json.Decoder(list[str]).decode


class Run(NamedTuple):
    """Successive events of one form: framed for the client, how many of them have a text, and where they end."""

    framed: bytes
    contents: int
    end: int


class Template:
    """What stands around the text: as it comes from the vendor, and as it goes to the client."""

    __slots__ = ("_after", "_before", "_head", "_inside", "_joint", "_tail")

    def __init__(self, came: tuple[bytes, bytes], goes: tuple[bytes, bytes]) -> None:
        """Args: what stands before and after the text, as it came and as it goes out, final empty lines included."""
        self._before, self._after = came
        self._inside = slice(len(self._before), -len(self._after))
        self._head, self._tail = goes
        self._joint = self._tail + self._head

    @classmethod
    def learned(cls, block: bytes, sent: bytes) -> Self | None:
        """The template of an event that only adds a text to a choice; None if it is of another form.

        Args:
            block: the event as it came, ``data: {…}``, without its empty line.
            sent: the same, framed for the client.
        """
        if not block.startswith(b"data: {") or block.find(b"\n") >= 0:
            return None
        for key in _KEYS:
            came, went = _text_after(key, block), _text_after(key, sent)
            if came and went:
                before, after = block[: came[0]], block[came[1] :] + b"\n\n"
                return cls((before, after), (sent[: went[0]], sent[went[1] :]))
        return None

    def single(self, whole: bytes) -> bytes | None:
        """One event of this form with a text, framed for the client; None if it is anything else."""
        before, after = self._before, self._after
        if not (whole.startswith(before) and whole.endswith(after)):
            return None
        text = whole[self._inside]
        try:
            _read_string(b'"%b"' % text)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return b"%b%b%b" % (self._head, text, self._tail) if text else None

    def run(self, whole: bytes, start: int) -> Run | None:
        """The events of this form from `start` on; None if the first is of another."""
        before, after = self._before, self._after
        if not whole.startswith(before, start):
            return None
        parts = whole[start:].split(after)
        end = len(whole) - len(parts.pop())
        texts = [part.removeprefix(before) for part in parts]
        around = len(before) + len(after)
        if sum(map(len, texts)) + len(texts) * around != end - start:  # one had something else before its text
            others = (place for place, part in enumerate(parts) if not part.startswith(before))
            texts = texts[: next(others)]
        valid = _valid(texts)
        if not valid:
            return None
        if len(valid) != len(parts):
            end = start + sum(map(len, valid)) + len(valid) * around
        framed = b"%b%b%b" % (self._head, self._joint.join(valid), self._tail)
        return Run(framed, len(valid) - valid.count(b""), end)


def _text_after(key: bytes, event: bytes) -> tuple[int, int] | None:
    """Where the text after the first such key begins and ends; None if there is none, or an empty one."""
    start = event.find(key) + len(key)
    if start < len(key):
        return None
    end = event.find(b'"', start)
    while end > start and (end - len(event[start:end].rstrip(b"\\")) - start) % 2:  # an escaped quote
        end = event.find(b'"', end + 1)
    return (start, end) if end > start else None


def _valid(texts: list[bytes]) -> list[bytes]:
    """The texts before the first that is not the inside of one JSON string, and might hide other parts of an event."""
    if _are_strings(texts):
        return texts
    good = 0
    while good < len(texts) and _are_strings(texts[good : good + 1]):
        good += 1
    return texts[:good]


def _are_strings(texts: Sequence[bytes]) -> bool:
    try:
        return len(_read_strings(b'["%b"]' % b'","'.join(texts))) == len(texts)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
