"""Users: the rows, and every change of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import delete, insert, select, update

from gatehook import Conflict, NotFound, User
from gatehook_plugins.database.checks import changed_user, checked_id, checked_text, is_text, page, plain
from gatehook_plugins.database.engines import AsyncConnection
from gatehook_plugins.database.rows import Rows
from gatehook_plugins.database.tables import api_keys, row_of_user, user_of, users
from gatehook_plugins.database.trail import now

__all__ = ["Users", "no_user", "user_in"]


def no_user(user_id: str) -> NotFound:
    """The error for an id that no user has."""
    return NotFound(f"there is no user {user_id[:128]!r}", param="user_id", code="user_not_found")


class Users(Rows):
    """See `gatehook.services.Directory`."""

    async def users(self, *, after: str = "", limit: int = 100) -> Sequence[User]:
        """Users by id, those after `after`."""
        after = checked_text(after, "after", 128)
        query = select(users).where(users.c.id > after).order_by(users.c.id).limit(page(limit))
        async with self._database.reading() as connection:
            return [user_of(row) for row in await connection.execute(query)]

    async def create_user(self, actor: str, user: User) -> User:
        """Add one.

        Raises:
            Conflict: there is one with this id. InvalidRequest: an invalid id or value.
        """
        fields = {name: getattr(user, name) for name in ("name", "admin", "disabled", "models", "limits", "caps")}
        user_id = checked_id(user.id, "user_id")
        new = changed_user(User(user_id), fields)
        async with self._trail.change(actor, "user.create", user_id) as line:
            if await user_in(line.connection, user_id) is not None:
                raise Conflict(f"there is a user {user_id!r} already", param="user_id", code="user_exists")
            line.detail = _shown(new)
            return await _added(line.connection, new)

    async def change_user(self, actor: str, user_id: str, changes: Mapping[str, Any], *, create: bool = False) -> User:
        """Change fields of `User` (`limits` and `caps` as mappings of theirs, merged); with `create`, add it if new.

        Raises:
            NotFound: there is none. InvalidRequest: an invalid value.
        """
        user_id = checked_id(user_id, "user_id") if create else user_id
        changed_user(User(""), changes)  # what cannot be is refused before anything is locked
        async with self._trail.change(actor, "user.change", user_id) as line:
            old = await user_in(line.connection, user_id)
            if old is None and not create:
                raise no_user(user_id)
            if old is None:
                new = changed_user(User(user_id), changes)
                line.action, line.detail = "user.create", _shown(new)
                return await _added(line.connection, new)
            new = msgspec.structs.replace(changed_user(old, changes), updated=now())
            line.detail = plain(changes)
            await line.connection.execute(update(users).where(users.c.id == user_id).values(row_of_user(new)))
            return new

    async def delete_user(self, actor: str, user_id: str) -> None:
        """Delete a user and its keys; what it used stays in the ledger.

        Raises:
            NotFound: there is none.
        """
        async with self._trail.change(actor, "user.delete", user_id) as line:
            if await user_in(line.connection, user_id) is None:
                raise no_user(user_id)
            gone = await line.connection.execute(delete(api_keys).where(api_keys.c.user_id == user_id))
            await line.connection.execute(delete(users).where(users.c.id == user_id))
            line.detail = {"keys": gone.rowcount}


async def user_in(connection: AsyncConnection, user_id: str) -> User | None:
    """The user, as this transaction sees it."""
    if not is_text(user_id):
        return None
    row = (await connection.execute(select(users).where(users.c.id == user_id))).first()
    return None if row is None else user_of(row)


async def _added(connection: AsyncConnection, user: User) -> User:
    moment = now()
    user = msgspec.structs.replace(user, created=moment, updated=moment)
    await connection.execute(insert(users).values(row_of_user(user)))
    return user


def _shown(user: User) -> dict[str, Any]:
    """The fields of a new user that do not have their defaults, for the audit."""
    default = User(user.id)
    fields = (name for name in user.__struct_fields__ if getattr(user, name) != getattr(default, name))
    return plain({name: getattr(user, name) for name in fields})
