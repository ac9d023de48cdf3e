"""Events that differ only in one piece of text, passed on without being decoded one by one.

In a stream of content nearly every event is the last one with another text in one place. Once an event has been read
in full, what stands before and after its text is known; an event that begins and ends with just those bytes and has
one valid JSON string between them says the same about everything else.
"""

import re
from collections.abc import Callable, Sequence
from typing import Self

import msgspec

from gatehook_plugins.vendor_openai.peek import Event, read_event

__all__ = ["Template"]

_TEXT = re.compile(rb'"(?:content|arguments|reasoning_content|reasoning|text)"\s*:\s*"((?:[^"\\]|\\.)*)"')
_read_strings = msgspec.json.Decoder(list[str]).decode


class Template:
    """What stands around the text: as it comes from the vendor, and as it goes to the client."""

    __slots__ = ("_after", "_before", "_head", "_joint", "_tail")

    def __init__(self, before: bytes, after: bytes, head: bytes, tail: bytes) -> None:
        self._before = before
        self._after = after
        self._head = head
        self._tail = tail
        self._joint = tail + head

    @classmethod
    def learned(cls, block: bytes, sent: bytes, is_ordinary: Callable[[Event], bool]) -> Self | None:
        """The template of an event; None if it is of another form.

        Args:
            block: the event as it came, ``data: {…}``.
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
                return cls(before, after, sent[: went.start(1)], sent[went.end(1) :])
        return None

    def alike(self, blocks: Sequence[bytes], place: int) -> int:
        """How many events from `place` on have this form, by their first and last bytes."""
        before, after, end = self._before, self._after, place
        shortest = len(before) + len(after)
        for block in blocks[place:] if place else blocks:
            if not (block.startswith(before) and block.endswith(after) and len(block) >= shortest):
                break
            end += 1
        return end - place

    def filled(self, blocks: Sequence[bytes]) -> tuple[bytes, int] | None:
        """The events framed for the client, and how many have a text; None if one is not valid JSON after all."""
        start, stop = len(self._before), -len(self._after)
        texts = [block[start:stop] for block in blocks]
        try:
            found = _read_strings(b'["%b"]' % b'","'.join(texts))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if len(found) != len(texts):
            return None
        return b"%b%b%b" % (self._head, self._joint.join(texts), self._tail), len(texts) - texts.count(b"")
