"""Changes to JSON text that leave every other byte as it was.

A request or an event is only renamed, mostly, and rebuilding it would lose what a decoder does not keep (the order of
keys, the spelling of numbers). Where the text is not of the simple form that can be changed safely in place, it is
decoded and encoded anew.
"""

import re
from typing import Any

from gatehook import decode, encode

__all__ = ["with_member", "with_model", "without"]

_MODEL = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*")')


def with_model(raw: bytes, old: str, new: str) -> bytes:
    """The JSON object `raw`, whose top-level "model" is `old`, with `new` instead."""
    # A quote inside a string is escaped, so `"model"` before a colon is a key; if there is just one, it is the one.
    # \u006x may spell a letter of "model": then nothing is certain.
    if raw.count(b'"model"') == 1 and b"\\u006" not in raw:
        match = _MODEL.search(raw)
        if match is not None and decode(match[1]) == old:
            return raw[: match.start(1)] + encode(new) + raw[match.end(1) :]
    return with_member(raw, "model", new)


def with_member(raw: bytes, name: str, value: Any) -> bytes:
    """The JSON object `raw` with one member set; appended in place if no such name occurs anywhere."""
    if b'"%b"' % name.encode() not in raw and b"\\u" not in raw:
        text = raw.rstrip()
        if text.endswith(b"}") and not text[:-1].rstrip().endswith(b"{"):
            return b"%b,%b:%b}" % (text[:-1], encode(name), encode(value))
    data = decode(raw)
    data[name] = value
    return encode(data)


def without(raw: bytes, name: str) -> bytes:
    """The JSON object `raw` without one member."""
    data = decode(raw)
    data.pop(name, None)
    return encode(data)
