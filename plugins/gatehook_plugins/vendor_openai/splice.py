"""Changes to JSON text that leave every other byte as it was.

A request or an event is only renamed, mostly, and rebuilding it would lose what a decoder does not keep (the order of
keys, the spelling of numbers). Where the text is not of the simple form that can be changed safely in place, it is
decoded and encoded anew.
"""

import functools
import json
import re
from typing import Any

from gatehook import decode, encode

__all__ = ["has_two_models", "mentions", "with_member", "with_model", "without"]

_MODEL = re.compile(rb'"model"\s*:\s*("(?:[^"\\]|\\.)*")')


def with_model(raw: bytes, old: str | None, new: str) -> bytes:
    """The JSON object `raw`, whose top-level "model" is `old` (None: it has none), with `new` instead."""
    # A quote inside a string is escaped, so `"model"` before a colon is a key; if there is just one, it is the one.
    if old is not None and raw.count(b'"model"') == 1 and not _may_spell(raw):
        plain = _member(old)
        if raw.find(plain) >= 0:
            return raw.replace(plain, _member(new), 1)
        match = _MODEL.search(raw)
        if match is not None and decode(match[1]) == old:
            return raw[: match.start(1)] + encode(new) + raw[match.end(1) :]
    return with_member(raw, "model", new)


@functools.lru_cache(maxsize=1024)
def _member(model: str) -> bytes:
    """``"model":"…"``, as most servers and clients spell it."""
    return b'"model":' + encode(model)


def has_two_models(raw: bytes) -> bool:
    """Whether the JSON object `raw` names its model twice, so that two readers of it may see two models."""
    # The second half is `_may_spell`, whose call would cost as much again: every request is looked at.
    if raw.count(b'"model"') <= 1 and (raw.find(b"\\") < 0 or raw.find(b"\\u006") < 0):
        return False
    members: list[tuple[str, Any]] = json.loads(raw, object_pairs_hook=list)
    return sum(name == "model" for name, _ in members) > 1


def _may_spell(raw: bytes) -> bool:
    r"""Whether a letter of "model" may be spelt as \u006x somewhere: then counting `"model"` proves nothing.

    Mostly there is no backslash, and one byte is found several times faster than a word. (By `find`, since `in` first
    tries its left side as a number, at the cost of an exception.)
    """
    return raw.find(b"\\") >= 0 and raw.find(b"\\u006") >= 0


def mentions(raw: bytes, name: str) -> bool:
    """Whether `name` may be a key in the JSON text `raw`; False is certain."""
    return raw.find(b'"%b"' % name.encode()) >= 0 or raw.find(b"\\u") >= 0  # `in` would first raise an error


def with_member(raw: bytes, name: str, value: Any) -> bytes:
    """The JSON object `raw` with one member set; appended in place if no such name occurs anywhere."""
    if not mentions(raw, name):
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
