"""Client keys: the rows, and every change of them."""

import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import delete, insert, select, update

from gatehook import InvalidRequest, Key, Limits, NotFound
from gatehook_plugins.database.checks import changed_key, checked_text, is_text, page, plain
from gatehook_plugins.database.engines import AsyncConnection
from gatehook_plugins.database.rows import Rows
from gatehook_plugins.database.tables import api_keys, key_of, row_of_key
from gatehook_plugins.database.trail import now
from gatehook_plugins.database.users import no_user, user_in
from gatehook_plugins.database.vault import new_key

__all__ = ["Keys"]

_SHOWN: Final = 8
"""Characters of a key that are kept in clear, for people to recognise it by."""

_LONGEST_OVERLAP: Final = 366 * 24 * 3600
"""Seconds."""


class Keys(Rows):
    """See `gatehook.services.Directory`."""

    async def keys(self, user_id: str | None = None, *, after: str = "", limit: int = 100) -> Sequence[Key]:
        """Keys by id, of one user or of all."""
        after = checked_text(after, "after", 128)
        query = select(api_keys).where(api_keys.c.id > after).order_by(api_keys.c.id).limit(page(limit))
        if user_id is not None:
            if not is_text(user_id):
                return []
            query = query.where(api_keys.c.user_id == user_id)
        async with self._database.reading() as connection:
            return [key_of(row) for row in await connection.execute(query)]

    async def create_key(
        self,
        actor: str,
        user_id: str,
        *,
        name: str = "",
        admin: bool = False,
        models: frozenset[str] | None = None,
        limits: Limits | None = None,
        expires: int | None = None,
    ) -> tuple[Key, str]:
        """A new key, and its text, which nothing keeps.

        Raises:
            NotFound: there is no such user. InvalidRequest: an invalid value.
        """
        asked = {"name": name, "admin": admin, "models": models, "limits": limits or Limits(), "expires": expires}
        default = Key(_new_id(), user_id, "")
        key = changed_key(default, asked)
        if key.expires is not None and key.expires <= now():
            raise InvalidRequest("expires: must be in the future", param="expires", code="invalid_value")
        async with self._trail.change(actor, "key.create", key.id) as line:
            if await user_in(line.connection, user_id) is None:
                raise no_user(user_id)
            differing = {field: value for field, value in asked.items() if value != getattr(default, field)}
            line.detail = plain({"user_id": user_id, **differing})
            return await self._added(line.connection, key)

    async def change_key(self, actor: str, key_id: str, changes: Mapping[str, Any]) -> Key:
        """Change fields of `Key` (name, admin, disabled, models, limits, expires).

        Raises:
            NotFound: there is none. InvalidRequest: an invalid value.
        """
        changed_key(Key("", "", ""), changes)  # what cannot be is refused before anything is locked
        async with self._trail.change(actor, "key.change", key_id) as line:
            key = changed_key(await _key_in(line.connection, key_id), changes)
            line.detail = plain({"user_id": key.user_id, **changes})
            await line.connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(row_of_key(key)))
            return key

    async def rotate_key(self, actor: str, key_id: str, *, overlap: float) -> tuple[Key, str]:
        """A new key like this one, also in when it expires; the old one expires after `overlap` seconds, if not sooner.

        Raises:
            NotFound: there is none, or it is revoked or expired. InvalidRequest: an invalid overlap.
        """
        if not (math.isfinite(overlap) and 0 <= overlap <= _LONGEST_OVERLAP):
            raise InvalidRequest(
                f"overlap: must be from 0 to {_LONGEST_OVERLAP} seconds", param="overlap", code="invalid_value"
            )
        async with self._trail.change(actor, "key.rotate", key_id) as line:
            old = await _key_in(line.connection, key_id)
            moment = now()
            if old.expires is not None and old.expires <= moment:
                raise NotFound(f"the key {key_id!r} has expired", param="key_id", code="key_expired")
            end = moment + int(overlap * 1000)
            end = end if old.expires is None else min(end, old.expires)
            new, text = await self._added(line.connection, msgspec.structs.replace(old, id=_new_id()))
            await line.connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(expires=end))
            line.detail = {"user_id": old.user_id, "new": new.id, "expires": end}
            return new, text

    async def revoke_key(self, actor: str, key_id: str) -> None:
        """Delete a key; within a second no process accepts it.

        Raises:
            NotFound: there is none.
        """
        async with self._trail.change(actor, "key.revoke", key_id) as line:
            key = await _key_in(line.connection, key_id)
            line.detail = {"user_id": key.user_id, "prefix": key.prefix, "name": key.name}
            await line.connection.execute(delete(api_keys).where(api_keys.c.id == key_id))

    async def _added(self, connection: AsyncConnection, key: Key) -> tuple[Key, str]:
        text = new_key()
        key = msgspec.structs.replace(key, prefix=text[:_SHOWN], created=now())
        row = row_of_key(key) | {"digest": self._vault.digest(text).hex()}
        await connection.execute(insert(api_keys).values(row))
        return key, text


def _new_id() -> str:
    return f"key_{secrets.token_hex(8)}"


async def _key_in(connection: AsyncConnection, key_id: str) -> Key:
    row = None
    if is_text(key_id):
        row = (await connection.execute(select(api_keys).where(api_keys.c.id == key_id))).first()
    if row is None:
        raise NotFound(f"there is no key {key_id[:64]!r}", param="key_id", code="key_not_found")
    return key_of(row)
