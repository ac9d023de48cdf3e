"""Removes what ComfyUI writes into PNG files: the whole workflow, and with it the prompt."""

import struct
from typing import Final

__all__ = ["without_metadata"]

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_TEXTS: Final = frozenset({b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME"})


def without_metadata(picture: bytes) -> bytes:
    """A PNG without its texts; anything else, also a damaged PNG, as it is."""
    if not picture.startswith(_SIGNATURE):
        return picture
    kept, place = [_SIGNATURE], len(_SIGNATURE)
    while place + 12 <= len(picture):
        (length,) = struct.unpack_from(">I", picture, place)
        end = place + 12 + length
        if end > len(picture):
            return picture
        if picture[place + 4 : place + 8] not in _TEXTS:
            kept.append(picture[place:end])
        place = end
    return b"".join(kept) if place == len(picture) else picture
