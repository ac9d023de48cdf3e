"""Events that differ only in one piece of text, passed on without being decoded one by one.

In a stream of content nearly every event is the last one with another text in one place. Once an event has been read
in full, what stands before and after its text is known; whatever begins and ends with just those bytes and has one
valid JSON string between them says the same about everything else.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import msgspec

from gatehook_plugins.vendor_openai.peek import Event, read_event

__all__ = ["Run", "Template"]

_TEXT = re.compile(rb'"(?:content|arguments|reasoning_content|reasoning|text)"\s*:\s*"((?:[^"\\]|\\.)*)"')
_read_strings = msgspec.json.Decoder(list[str]).decode


class Run(NamedTuple):
    """Events of one form that follow each other: framed for the client, how many have a text, where they end."""

    framed: bytes
    contents: int
    end: int


class Template:
    """What stands around the text: as it comes from the vendor, and as it goes to the client."""

    __slots__ = ("_after", "_before", "_head", "_joint", "_tail")

    def __init__(self, came: tuple[bytes, bytes], goes: tuple[bytes, bytes]) -> None:
        """Each is what stands before and after the text, the empty line at the event's end included."""
        self._before, self._after = came
        self._head, self._tail = goes
        self._joint = self._tail + self._head

    @classmethod
    def learned(cls, block: bytes, sent: bytes, is_ordinary: Callable[[Event], bool]) -> Self | None:
        """The template of an event; None if it is of another form.

        Args:
            block: the event as it came, ``data: {…}``, without its empty line.
            sent: the same, framed for the client.
            is_ordinary: whether an event changes nothing but the text.
        """
        if not block.startswith(b"data: {") or b"\n" in block:
            return None
        for came, went in zip(_TEXT.finditer(block), _TEXT.finditer(sent), strict=False):
            before, after = block[: came.start(1)], block[came.end(1) :]
            try:  # it is the right place if another text there gives an event with just that text
                event = read_event(b"%bx%b" % (before[6:], after))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            if is_ordinary(event) and event.choices and event.choices[0].has_content():
                return cls((before, after + b"\n\n"), (sent[: went.start(1)], sent[went.end(1) :]))
        return None

    def single(self, whole: bytes) -> bytes | None:
        """One event of this form with a text, framed for the client; None if it is anything else."""
        before, after = self._before, self._after
        if not (whole.startswith(before) and whole.endswith(after)):
            return None
        text = whole[len(before) : -len(after)]
        return b"%b%b%b" % (self._head, text, self._tail) if text and _are_strings((text,)) else None

    def run(self, whole: bytes, start: int) -> Run | None:
        """The events of this form from `start` on; None if the first is of another."""
        before, after = self._before, self._after
        skip, rest = len(before), len(after)
        alike, find = whole.startswith, whole.find
        texts: list[bytes] = []
        place = start
        while alike(before, place):
            begin = place + skip
            end = find(after, begin)
            if end < 0:
                break
            texts.append(whole[begin:end])
            place = end + rest
        if not texts:
            return None
        good = _valid(texts)
        if len(good) != len(texts):
            if not good:
                return None
            texts, place = good, start + sum(map(len, good)) + len(good) * (skip + rest)
        framed = b"%b%b%b" % (self._head, self._joint.join(texts), self._tail)
        return Run(framed, len(texts) - texts.count(b""), place)


def _valid(texts: list[bytes]) -> list[bytes]:
    """The first of them, as many as are the inside of a JSON string: nothing else of an event can hide in them."""
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
