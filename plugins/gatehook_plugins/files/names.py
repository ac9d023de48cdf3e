"""Names of files: they begin with the second in which the file expires, so nothing has to be opened to find old ones.

Files sorted by name are sorted by when they expire. What follows is random: nobody guesses a name.
"""

import re
import secrets

__all__ = ["extension", "file_expires", "is_expired", "is_name", "new_name"]

_NAME = re.compile(r"[0-9a-f]{10}-[0-9a-f]{32}")
_NEVER = "f" * 10

_EXTENSIONS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "application/json": ".json",
    "text/plain": ".txt",
}


def new_name(expires: int | None) -> str:
    """A name for a file that expires in this epoch second; None for never."""
    head = _NEVER if expires is None else f"{expires:010x}"
    return f"{head}-{secrets.token_hex(16)}"


def is_name(text: str) -> bool:
    """Whether it can be the name of a file. Only then may it become a part of a path."""
    return _NAME.fullmatch(text) is not None


def file_expires(name: str) -> int | None:
    """The epoch second in which the file of this name expires; None for never."""
    head = name[:10]
    return None if head == _NEVER else int(head, 16)


def is_expired(name: str, now: float) -> bool:
    """Whether the file of this name has expired at `now`, in epoch seconds."""
    expires = file_expires(name)
    return expires is not None and expires <= now


def extension(media_type: str) -> str:
    """What the name of a downloaded file ends in."""
    return _EXTENSIONS.get(media_type, ".bin")
