"""What is configured while the gateway runs: JSON objects by name, all of them kept in memory too."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from sqlalchemy import insert, select, update

from gatehook import Conflict, Database, InvalidRequest
from gatehook_plugins.database.checks import checked_text
from gatehook_plugins.database.engines import AsyncConnection
from gatehook_plugins.database.rows import Rows
from gatehook_plugins.database.tables import LONGEST_CONFIG_NAME, config
from gatehook_plugins.database.trail import Trail, now
from gatehook_plugins.database.vault import Vault

__all__ = ["Config", "Known", "Value", "merged", "require_revision"]

Value: TypeAlias = Mapping[str, Any]
Known: TypeAlias = Mapping[str, tuple[Value, int]]
"""Values and their revisions, by name."""

_NOTHING: Final[tuple[Value, int]] = ({}, 0)
_LONGEST: Final = 1 << 16
"""Characters of one value, as JSON."""


class Config(Rows):
    """See `gatehook.services.Directory`."""

    def __init__(self, database: Database, trail: Trail, vault: Vault) -> None:
        super().__init__(database, trail, vault)
        self._known: dict[str, tuple[Value, int]] = {}

    def config(self, name: str) -> tuple[Value, int]:
        """What is set under `name`, and its revision; ({}, 0) if nothing ever was."""
        return self._known.get(name, _NOTHING)

    async def put_config(
        self, actor: str, name: str, value: Value, *, revision: int | None = None
    ) -> tuple[Value, int]:
        """Set `name` to `value`, in place of what was set; gives the value and its new revision.

        Raises:
            Conflict: it is at another revision. InvalidRequest: an invalid name or value.
            Unavailable: the database is away.
        """
        return await self._change_config(actor, name, lambda old, stored: value, revision)

    async def merge_config(
        self,
        actor: str,
        name: str,
        changes: Value,
        *,
        revision: int | None = None,
        check: Callable[[Value], None] | None = None,
    ) -> tuple[Value, int]:
        """Change what `changes` names, as a JSON merge patch does; `check` is given the merged value, and may raise.

        Raises:
            Conflict, InvalidRequest, Unavailable: as `put_config`.
        """

        def changed(old: Value, stored: Known) -> Value:
            value = merged(old, changes)
            if check is not None:
                check(value)
            return value

        return await self._change_config(actor, name, changed, revision)

    async def _change_config(
        self, actor: str, name: str, change: Callable[[Value, Known], Value], revision: int | None
    ) -> tuple[Value, int]:
        """Set what `change` makes of the old value and of all that is configured; nobody else changes it meanwhile."""
        if not checked_text(name, "name", LONGEST_CONFIG_NAME):
            raise InvalidRequest("name: must not be empty", param="name", code="invalid_value")
        async with self._trail.change(actor, "config.change", name) as line:
            stored = await _all(line.connection)
            old, current = stored.get(name, _NOTHING)
            require_revision(name, current, revision)
            value = _checked(name, change(old, stored))
            row = {"value": value, "revision": line.number, "updated": now()}
            if current:
                await line.connection.execute(update(config).where(config.c.name == name).values(row))
            else:
                await line.connection.execute(insert(config).values(name=name, **row))
            line.detail = {key: value.get(key) for key in {**old, **value} if old.get(key) != value.get(key)}
            line.committed = lambda: self._learn({name: (value, line.number)})
        return value, line.number

    async def read_config(self, *, afresh: bool) -> None:
        """Bring the memory up to date; `afresh` also where that is a step back: a backup may have been restored.

        Raises:
            Unavailable: the database is away; the memory stays as it is.
        """
        async with self._database.reading() as connection:
            stored = await _all(connection)
        if afresh:
            self._known = {}
        self._learn(stored)

    def _learn(self, stored: Known) -> None:
        """Remember these, unless a newer revision is known: changes may be heard of in another order than they came."""
        for name, (value, revision) in stored.items():
            if revision > self.config(name)[1]:
                self._known[name] = (value, revision)


def merged(old: Value, changes: Value) -> dict[str, Any]:
    """`old` with `changes`, as RFC 7396 merges them: objects key by key, None takes out; nothing empty is left."""
    new = {**old}
    for key, value in changes.items():
        if isinstance(value, Mapping):
            within = new.get(key)
            value = merged(within if isinstance(within, Mapping) else {}, value) or None
        if value is None:
            new.pop(key, None)
        else:
            new[key] = value
    return new


def require_revision(name: str, current: int, asked: int | None) -> None:
    """Check that `name` is still at the revision that a change was made of; None for whichever it is at.

    Raises:
        Conflict: somebody has changed it meanwhile.
    """
    if asked is not None and asked != current:
        raise Conflict(
            f"{name}: somebody else has changed it meanwhile, it is at revision {current}; read it again",
            param="revision",
            code="revision_conflict",
        )


async def _all(connection: AsyncConnection) -> dict[str, tuple[Value, int]]:
    rows = await connection.execute(select(config.c.name, config.c.value, config.c.revision))
    return {name: (value, revision) for name, value, revision in rows}


def _checked(name: str, value: Value) -> dict[str, Any]:
    """The value as it will be read again, from JSON; so nobody shares parts of it.

    Raises:
        InvalidRequest: JSON cannot hold it, or it is too long.
    """
    try:
        text = json.dumps({**value}, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequest(f"{name}: is not valid JSON", param=name, code="invalid_value") from None
    if len(text) > _LONGEST:
        raise InvalidRequest(f"{name}: has more than {_LONGEST} characters", param=name, code="invalid_value")
    found: dict[str, Any] = json.loads(text)
    return found
