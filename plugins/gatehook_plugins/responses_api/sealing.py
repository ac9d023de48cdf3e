"""Reasoning that its vendor has signed, on its way through the client and back: `encrypted_content` of an item.

It is the canonical `thinking_blocks`, written so that clients keep it as a whole; it hides nothing, as the blocks are
their vendor's proof, and of no use to anybody else.
"""

import base64
import binascii
from typing import Any, Final

import msgspec

from gatehook import encode
from gatehook.chats import ThinkingBlock

__all__ = ["sealed", "unsealed"]

_MARK: Final = "gatehook1."
"""What ours begin with, as a vendor's own may be among those that come back."""


def sealed(blocks: list[dict[str, Any]]) -> str:
    """The blocks as one text, without the numbers that they have in a stream."""
    bare = [{name: value for name, value in block.items() if name != "index"} for block in blocks]
    return _MARK + base64.b64encode(encode(bare)).decode()


def unsealed(text: str) -> list[dict[str, Any]] | None:
    """The blocks in a text; None if it is not one of ours, or not as it was."""
    if not text.startswith(_MARK):
        return None
    try:
        raw = base64.b64decode(text.removeprefix(_MARK), validate=True)
        msgspec.json.decode(raw, type=list[ThinkingBlock])
        blocks: list[dict[str, Any]] = msgspec.json.decode(raw)
    except (binascii.Error, ValueError, RecursionError):  # msgspec's errors and Unicode's are ValueErrors
        return None
    return blocks
