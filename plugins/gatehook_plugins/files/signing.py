"""Signs the URLs of files: whoever has one may fetch that file until it expires, and no other."""

import base64
import contextlib
import errno
import hashlib
import hmac
import os
import re
import secrets
import time
from pathlib import Path

from gatehook_plugins.files.names import file_expires

__all__ = ["Signer", "kept_secret"]

_NUMBER = re.compile(r"[1-9][0-9]{0,11}")
_SHORTEST = 32
"""Bytes of a secret."""


class Signer:
    """Makes and checks the query of a file's URL."""

    def __init__(self, secret: bytes) -> None:
        """`secret` is the same in all processes that serve the files."""
        self._key = hashlib.sha256(b"gatehook files\0" + secret).digest()

    def query(self, name: str, lifetime: float) -> str:
        """What follows the "?" of a URL that is good for `lifetime` seconds, and never longer than its file."""
        until = int(time.time() + lifetime)
        expires = min(until, file_expires(name) or until)
        return f"expires={expires}&signature={self._signature(name, str(expires))}"

    def is_valid(self, name: str, expires: str, signature: str) -> bool:
        """Whether this query was made by us for this file, and still holds."""
        told = signature.encode("utf-8", "surrogatepass")
        is_ours = hmac.compare_digest(self._signature(name, expires).encode(), told)
        return is_ours and _NUMBER.fullmatch(expires) is not None and int(expires) > time.time()

    def _signature(self, name: str, expires: str) -> str:
        text = f"{name}:{expires}".encode("utf-8", "surrogatepass")
        return base64.urlsafe_b64encode(hmac.digest(self._key, text, "sha256")).rstrip(b"=").decode()


def kept_secret(file: Path) -> bytes:
    """The secret in `file`; made, for its owner only, if there is none. Several processes may do so at once.

    Raises:
        OSError: it can be neither read nor written, or what it holds is too short.
    """
    with contextlib.suppress(FileNotFoundError):
        return _read(file)
    made = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(secrets.token_hex(32).encode())
            opened.flush()
            os.fsync(opened.fileno())
        with contextlib.suppress(FileExistsError):  # another process was first, and its secret is the one
            os.link(made, file)  # it is there as a whole: other processes never see it half written
    finally:
        made.unlink()
    return _read(file)


def _read(file: Path) -> bytes:
    """The secret in a file. With one that is empty, anybody could sign.

    Raises:
        OSError: it cannot be read, or is too short to be one.
    """
    secret = file.read_bytes()
    if len(secret) < _SHORTEST:
        raise OSError(errno.EINVAL, "holds no secret; delete it, and one is made", str(file))
    return secret
