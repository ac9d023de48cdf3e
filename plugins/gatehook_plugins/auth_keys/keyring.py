"""Keys as they are kept in memory: keyed digests only.

A memory dump, a debugger or a stray log line shows no key, and, as the pepper is drawn anew by every process, digests
seen in one process are of no use in another. Nor does the time of a look-up tell anything: it depends on a digest that
nobody outside can compute.
"""

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pydantic import SecretStr

from gatehook import Authenticator, Credential, Principal

__all__ = ["MIN_LENGTH", "Keyring", "repeated", "sound"]

MIN_LENGTH: Final = 16
"""Shorter keys can be guessed."""


def sound(key: SecretStr) -> SecretStr:
    """The key itself, if it may be used as one.

    Raises:
        ValueError: it may not; the message does not repeat it.
    """
    text = key.get_secret_value()
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError(
            "must not contain spaces, control characters or letters outside ASCII; clients cannot send them"
        )
    if len(text) < MIN_LENGTH:
        raise ValueError(f"must have at least {MIN_LENGTH} characters; make a key with: openssl rand -hex 32")
    return key


def repeated(fields: Mapping[str, Sequence[SecretStr]]) -> str:
    """Which key is written twice, told by its places; "" if none is."""
    places: dict[str, str] = {}
    for field, keys in fields.items():
        for number, key in enumerate(keys):
            place = f"{field}[{number}]"
            first = places.setdefault(key.get_secret_value(), place)
            if first != place:
                return f"{place} is the same key as {first}"
    return ""


class Keyring:
    """Authenticates by the keys of the settings."""

    __slots__ = ("_begun", "_owners")

    def __init__(self, keys: Iterable[SecretStr], admin_keys: Iterable[SecretStr]) -> None:
        self._begun = hashlib.blake2b(key=os.urandom(32), digest_size=32)
        """A hash that has taken in its own key only: to go on from a copy takes less than to begin anew."""
        self._owners: dict[bytes, tuple[bytes, Principal]] = {}
        for key in keys:
            self._add(key.get_secret_value(), admin=False)
        for key in admin_keys:
            self._add(key.get_secret_value(), admin=True)

    def _add(self, key: str, *, admin: bool) -> None:
        digest = self._digest(key)
        # Stable over restarts, so that limits and logs can name a key; it does not tell the key.
        name = f"key-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        self._owners[digest] = (digest, Principal(id=name, admin=admin, key_id=name))

    def __bool__(self) -> bool:
        """Whether there are any keys."""
        return bool(self._owners)

    def _digest(self, key: str) -> bytes:
        # A header that is not UTF-8 arrives with its bytes as lone surrogates; that is a wrong key, not a failure.
        digest = self._begun.copy()
        digest.update(key.encode("utf-8", "surrogatepass"))
        return digest.digest()

    def authenticate(self, credential: Credential) -> Principal | None:
        """The owner of the key. None for any other token: another authenticator may know it."""
        digest = credential.marks.get(self)
        if digest is None:
            digest = credential.marks[self] = self._digest(credential.token)
        found = self._owners.get(digest)
        if found is not None and hmac.compare_digest(digest, found[0]):
            return found[1]
        return None


_implements: type[Authenticator] = Keyring
