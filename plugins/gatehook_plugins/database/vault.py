"""The server's secret: what client keys are hashed with, and vendor keys encrypted.

A client key has 256 random bits, so it cannot be guessed, and one fast HMAC will do. The pepper makes the digests
worthless to who steals the database alone.
"""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gatehook import SecretStr, StartupError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["KEY_LENGTH", "KEY_PREFIX", "Vault", "is_key", "made_secret", "new_key", "required_secret"]

KEY_PREFIX: Final = "gh-"
KEY_LENGTH: Final = len(KEY_PREFIX) + 43
_MIN_SECRET: Final = 16

_LOCKED: Final = "the database is not open: use it within opened()"


def new_key() -> str:
    """The text of a new client key."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def is_key(token: str) -> bool:
    """Whether this could be one of ours; anything else is not worth a look-up."""
    return len(token) == KEY_LENGTH and token.startswith(KEY_PREFIX) and token.isascii()


class Vault:
    """Everything that is derived from the secret, once it is known; the secret itself is not kept."""

    __slots__ = ("_inner", "_outer", "_sealing")

    def __init__(self) -> None:
        # An HMAC is two hashes, of which each begins with the secret (RFC 2104); kept begun.
        self._inner = self._outer = hashlib.sha256()
        self._sealing = b""

    def unlock(self, secret: str) -> str:
        """Begin to use `secret`, any text. Gives a value to recognise it by, which tells nothing else of it."""
        block = _derived(secret, "client keys").ljust(hashlib.sha256().block_size, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))
        self._sealing = _derived(secret, "vendor keys")
        return _derived(secret, "check").hex()

    def digest(self, token: str) -> bytes:
        """What is stored of a client key: its HMAC-SHA256."""
        if not self._sealing:
            raise RuntimeError(_LOCKED)
        inner, outer = self._inner.copy(), self._outer.copy()  # half of what the `hmac` module takes for it
        inner.update(token.encode())
        outer.update(inner.digest())
        return outer.digest()

    def seal(self, text: str, owner: str) -> str:
        """`text` encrypted, in base64; only the same `owner` can open it."""
        cipher, nonce = self._cipher(), os.urandom(12)
        return base64.b64encode(nonce + cipher.encrypt(nonce, text.encode(), owner.encode())).decode()

    def unseal(self, sealed: str, owner: str) -> str:
        """What `seal` was given.

        Raises:
            ValueError: it was sealed with another secret or for another owner, or is damaged.
        """
        cipher = self._cipher()
        from cryptography.exceptions import InvalidTag

        try:
            raw = base64.b64decode(sealed, validate=True)
            return cipher.decrypt(raw[:12], raw[12:], owner.encode()).decode()
        except (InvalidTag, ValueError):
            raise ValueError("cannot be decrypted") from None

    def _cipher(self) -> "AESGCM":
        if not self._sealing:
            raise RuntimeError(_LOCKED)
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # where no vendor key is kept, it is not loaded

        return AESGCM(self._sealing)

    def __repr__(self) -> str:
        return "Vault(…)"


def _derived(secret: str, purpose: str) -> bytes:
    """32 bytes by HKDF with SHA-256 (RFC 5869): exactly one block, so its expansion is one HMAC."""
    extracted = hmac.digest(b"gatehook", secret.encode(), "sha256")
    return hmac.digest(extracted, purpose.encode() + b"\x01", "sha256")


def required_secret(secret: SecretStr, *, may_be_made: bool) -> SecretStr:
    """The secret of the settings, which may be empty where one can be made.

    Raises:
        StartupError: it is missing, or too short.
    """
    advice = "openssl rand -hex 32"
    if not secret and not may_be_made:
        raise StartupError(
            '[database] secret: PostgreSQL needs one, the same for all nodes; set secret = "env:GATEWAY_SECRET", '
            f"made with: {advice}"
        )
    if secret and len(secret) < _MIN_SECRET:
        raise StartupError(f"[database] secret: must have at least {_MIN_SECRET} characters; make it with: {advice}")
    return secret


def made_secret(file: Path, *, create: bool) -> str:
    """The secret kept in `file`, made there first if there is none. Blocks.

    Raises:
        StartupError: it cannot be read or made, or (without `create`) is not there.
    """
    try:
        if create and not file.exists():
            _make(file)
        secret = file.read_text("ascii").strip()
    except FileNotFoundError:
        raise StartupError(
            f"[database] secret: {file} is gone, and with it what the keys in the database were hashed with; "
            "restore it from a backup"
        ) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it holds something else"
        raise StartupError(f"[database] secret: {file} cannot be used: {why}") from None
    if len(secret) < _MIN_SECRET:
        raise StartupError(f"[database] secret: {file} is damaged; restore it from a backup")
    return secret


def _make(file: Path) -> None:
    """Write a new secret, whole or not at all; if another process is quicker, its secret stays."""
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as text:
            text.write(secrets.token_hex(32) + "\n")
            text.flush()
            os.fsync(text.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)  # a link never replaces what is there
    finally:
        draft.unlink()
