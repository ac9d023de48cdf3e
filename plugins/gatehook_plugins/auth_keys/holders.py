"""The directory's keys: who holds one, and whether it may be used now."""

import time
from collections.abc import Awaitable
from typing import Final

from gatehook import AuthenticationFailed, Authenticator, Credential, Directory, Key, Principal, User, common_models

__all__ = ["Holders"]

_REMEMBERED: Final = 10_000


class Holders:
    """Authenticates by the keys of the directory."""

    __slots__ = ("_directory", "_known")

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._known: dict[str, Principal] = {}
        """By the id of the key; good as long as neither the key nor its user has changed."""

    def authenticate(self, credential: Credential) -> Awaitable[Principal | None] | Principal | None:
        """The user whose key this is. None for any other token: another authenticator may know it.

        Raises:
            AuthenticationFailed: the key or its user is disabled, or it has expired. Only its holder is told.
            Unavailable: the database is away, and has been for too long.
        """
        found = self._directory.recall(credential)
        if found is None:
            return self._found(credential.token)
        user, key = found
        known = self._known.get(key.id)
        if known is None or known.key is not key or known.user is not user:
            known = self._admitted(user, key)
        if key.expires is not None:
            _check_expiry(key.expires)
        return known

    async def _found(self, token: str) -> Principal | None:
        """Whose key this is, asked of the directory, which may have to ask the database."""
        found = await self._directory.find(token)
        if found is None:
            return None
        user, key = found
        principal = self._admitted(user, key)
        if key.expires is not None:
            _check_expiry(key.expires)
        return principal

    def _admitted(self, user: User, key: Key) -> Principal:
        """The principal, kept for the next time.

        Raises:
            AuthenticationFailed: the key or its user is disabled.
        """
        if key.disabled:
            raise AuthenticationFailed("this API key is disabled", code="key_disabled")
        if user.disabled:
            raise AuthenticationFailed("the user of this API key is disabled", code="user_disabled")
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        principal = self._known[key.id] = _principal(user, key)
        return principal


def _check_expiry(expires: int) -> None:
    """See that a key may be used still.

    Raises:
        AuthenticationFailed: it may not.
    """
    if expires <= time.time() * 1000:
        raise AuthenticationFailed("this API key has expired", code="key_expired")


def _principal(user: User, key: Key) -> Principal:
    return Principal(
        id=user.id,
        name=user.name,
        admin=user.admin or key.admin,
        models=common_models(user.models, key.models),
        key_id=key.id,
        user=user,
        key=key,
    )


_implements: type[Authenticator] = Holders
