"""Models as rows: checked like those of the settings, their keys encrypted, and fed into the kernel's catalog."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import Row, delete, insert, select, update

from gatehook import (
    CATALOG,
    LONGEST_MODEL_NAME,
    Conflict,
    Database,
    Gateway,
    InvalidRequest,
    ModelSettings,
    NotFound,
    Target,
    Unavailable,
)
from gatehook_plugins.database.checks import checked_id, is_text
from gatehook_plugins.database.config import require_revision
from gatehook_plugins.database.engines import AsyncConnection
from gatehook_plugins.database.fallbacks import check_fallbacks, nearest
from gatehook_plugins.database.options import REFERENCES, hidden, sealed, unsealed
from gatehook_plugins.database.overrides import Overrides
from gatehook_plugins.database.tables import models
from gatehook_plugins.database.trail import Trail, now
from gatehook_plugins.database.vault import Vault

__all__ = ["Models"]

log: Final = logging.getLogger("gatehook.database")

_SOURCE: Final = "database"
_HIDDEN: Final = frozenset({"api_key", "options"})
"""Not repeated in the audit: they are secret, or may hold what is."""
_LONGEST: Final = 1 << 16
"""Characters of one model's table, as JSON."""


class Models(Overrides):
    """See `gatehook.services.Directory`."""

    def __init__(self, database: Database, trail: Trail, vault: Vault, gateway: Gateway) -> None:
        super().__init__(database, trail, vault, gateway.services[CATALOG])
        self._settings = gateway.settings
        self._feeding = asyncio.Lock()
        self._is_stale = True
        self._told: dict[str, str] = {}
        trail.subscribe(self._changed)

    async def models(self) -> Sequence[Mapping[str, Any]]:
        """The models kept here, each as a [[models]] table plus `id`, without keys: `has_api_key` tells of one."""
        async with self._database.reading() as connection:
            return [_shown(row) for row in await connection.execute(select(models).order_by(models.c.id))]

    async def put_model(
        self, actor: str, model_id: str, table: Mapping[str, Any], *, create: bool, revision: int | None = None
    ) -> Mapping[str, Any]:
        """Add a model (a [[models]] table), or with `create` false change what `table` names of one.

        A value of None takes the key out, so that its default holds.

        Raises:
            Conflict: there is one already, or it is at another revision. NotFound: there is none.
            InvalidRequest: an invalid value.
        """
        if create:  # it is the model's name, unless that is given
            model_id = checked_id(model_id, "model_id", LONGEST_MODEL_NAME, slash=True)
        given = _known(table)
        changes: dict[str, Any] = {"updated": now()}
        if "api_key" in given:
            changes["api_key"] = self._sealed(given.pop("api_key"), model_id)
        if "options" in given:
            given["options"] = sealed(given["options"], self._vault, model_id)
        async with self._trail.change(actor, f"model.{'create' if create else 'change'}", model_id) as line:
            old = await _row(line.connection, model_id)
            if create and old is not None:
                raise Conflict(f"there is a model {model_id!r} already", param="model_id", code="model_exists")
            if not create and old is None:
                raise _no_model(model_id)
            if old is not None:
                require_revision(model_id, old.revision, revision)
            merged = {**(old.settings if old is not None else {}), **given}
            settings = {name: value for name, value in merged.items() if value is not None}
            model = _checked(settings)
            await self._check_fallbacks(line.connection, model_id, model)
            line.detail = {name: "…" if name in _HIDDEN else value for name, value in table.items()}
            changes |= {"settings": settings, "revision": line.number}
            if create:
                await line.connection.execute(insert(models).values(id=model_id, created=changes["updated"], **changes))
            else:
                await line.connection.execute(update(models).where(models.c.id == model_id).values(changes))
            row = await _row(line.connection, model_id)
        await self._take_effect()
        return _shown(row)

    async def delete_model(self, actor: str, model_id: str, *, revision: int | None = None) -> None:
        """Delete a model; where it is a fallback it is passed over.

        Raises:
            NotFound: there is none. Conflict: it is at another revision.
        """
        async with self._trail.change(actor, "model.delete", model_id) as line:
            row = await _row(line.connection, model_id)
            if row is None:
                raise _no_model(model_id)
            require_revision(model_id, row.revision, revision)
            line.detail = {"name": row.settings.get("name")}
            await line.connection.execute(delete(models).where(models.c.id == model_id))
        await self._take_effect()

    async def feed_catalog(self) -> None:
        """Bring the kernel's catalog up to date, if a model has changed since that was done.

        Raises:
            Unavailable: the database is away; the catalog stays as it is.
        """
        async with self._feeding:
            if not self._is_stale:
                return
            self._is_stale = False
            try:
                async with self._database.reading() as connection:
                    rows = (await connection.execute(select(models).order_by(models.c.created, models.c.id))).all()
                self._catalog.feed(_SOURCE, await asyncio.to_thread(self._targets, rows))
            except (Unavailable, asyncio.CancelledError):
                self._is_stale = True
                raise
            except Exception:  # of the catalog or its subscribers; keys shall be good all the same
                log.exception("the models of the database cannot be served")

    def _changed(self, kind: str, id: str) -> None:
        self._is_stale |= kind in ("", "model")

    async def _take_effect(self) -> None:
        """At once, in this process; where that fails, it is tried again soon, and the change is made all the same."""
        with contextlib.suppress(Unavailable):
            await self.feed_catalog()

    def _sealed(self, key: object, model_id: str) -> str | None:
        if key is None or key == "":
            return None
        if not isinstance(key, str) or not key.isprintable() or len(key) > 10_000:
            raise InvalidRequest("api_key: must be a text of one line", param="api_key", code="invalid_value")
        return key if key.startswith(REFERENCES) else self._vault.seal(key, model_id)

    def _targets(self, rows: Iterable[Row[Any]]) -> list[Target]:
        """The deployments of these rows; one that cannot be is logged and left out. Reads files, so it blocks."""
        targets: list[Target] = []
        told: dict[str, str] = {}
        for row in rows:
            try:
                target = self._target(row)
            except Exception as error:  # noqa: BLE001  # whatever is wrong with it, the others are served
                told[row.id] = _first_fault(error)
            else:
                targets += [target] if target is not None else []
        for model_id in told.keys() - {known for known, why in self._told.items() if told.get(known) == why}:
            log.error("the model %r of the database is left out: %s", model_id, told[model_id])
        self._told = told
        return targets

    def _target(self, row: Row[Any]) -> Target | None:
        table = dict(row.settings)
        if row.api_key is not None:
            table["api_key"] = self._key(row)
        if "options" in table:
            table["options"] = self._options(row)
        return self._settings.target(table, _deployment(table["name"], row.id))

    def _key(self, row: Row[Any]) -> str:
        if row.api_key.startswith(REFERENCES):
            return str(row.api_key)
        try:
            return self._vault.unseal(row.api_key, row.id)
        except ValueError as error:
            raise ValueError(f"its api_key {error}") from None

    def _options(self, row: Row[Any]) -> Any:
        try:
            return unsealed(row.settings["options"], self._vault, row.id)
        except ValueError as error:
            raise ValueError(f"a value in its options {error}") from None

    async def _check_fallbacks(self, connection: AsyncConnection, model_id: str, model: ModelSettings) -> None:
        """Check the chain that calls would follow: overrides stand in it in place of what the tables say."""
        rows = await connection.execute(select(models.c.id, models.c.settings).where(models.c.id != model_id))
        after: dict[str, list[str]] = {one.name: [] for one in self._settings.models}

        def follow(name: str, key: str, fallbacks: Iterable[str]) -> None:
            now = self.override_of(name, key).get("fallback_models", fallbacks)
            after.setdefault(name, []).extend(self.aliased(now))

        for target in self._settings.targets:
            follow(target.name, target.key, target.fallbacks)
        for row in rows:
            name = row.settings.get("name", "")
            follow(name, _deployment(name, row.id), row.settings.get("fallbacks") or ())
        follow(model.name, _deployment(model.name, model_id), model.fallbacks)
        catalog = self._catalog
        check_fallbacks(
            "fallbacks", model.name, model.fallbacks, after, lambda name: name in after or bool(catalog.group(name))
        )


def _deployment(name: str, model_id: str) -> str:
    """The key of a row's deployment."""
    return f"{name}#db-{model_id}"


async def _row(connection: AsyncConnection, model_id: str) -> Row[Any] | None:
    if not is_text(model_id, LONGEST_MODEL_NAME):
        return None
    return (await connection.execute(select(models).where(models.c.id == model_id))).first()


def _shown(row: Any) -> Mapping[str, Any]:
    return {"id": row.id, **hidden(row.settings), "has_api_key": row.api_key is not None, "revision": row.revision}


def _known(table: Mapping[str, Any]) -> dict[str, Any]:
    for name in table:
        if name not in ModelSettings.model_fields:
            raise _wrong(str(name)[:80], f"unknown key{nearest(str(name), ModelSettings.model_fields)}")
    if place := _internal(table):
        raise _wrong(place[:80], "unknown key")
    return dict(table)


def _internal(table: Mapping[str, Any]) -> str:
    """A key that pydantic-settings would take for an instruction, such as `_env_file`; "" if there is none."""
    for name, value in table.items():
        if isinstance(value, Mapping) and name != "options":
            for inner in value:
                if str(inner).startswith("_"):
                    return f"{name}.{inner}"
    return ""


def _checked(settings: Mapping[str, Any]) -> ModelSettings:
    try:
        text = json.dumps(settings, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequest("the model is not valid JSON", code="invalid_value") from None
    if len(text) > _LONGEST:
        raise InvalidRequest(f"the model has more than {_LONGEST} characters", code="invalid_value")
    try:
        return ModelSettings(**settings)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise _wrong(place, fault["msg"].removeprefix("Value error, ")) from None


def _first_fault(error: Exception) -> str:
    if isinstance(error, ValidationError):
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
    return str(error) or repr(error)


def _wrong(param: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {what}", param=param, code="invalid_value")


def _no_model(model_id: str) -> NotFound:
    return NotFound(
        f"there is no model {model_id[:LONGEST_MODEL_NAME]!r} in the database", param="model_id", code="model_not_found"
    )
