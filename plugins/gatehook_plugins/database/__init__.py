"""Keeps users, keys, models and what is configured at run time, in SQLite or PostgreSQL; and lends the database."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from pydantic import Field

from gatehook import CATALOG, DATABASE, DIRECTORY, Command, Section, ServiceKey, Trimmer, hookimpl
from gatehook_plugins.database.address import backend_of
from gatehook_plugins.database.directory import SqlDirectory
from gatehook_plugins.database.service import SqlDatabase
from gatehook_plugins.database.sqlite import Sqlite

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["DatabasePlugin"]


class DatabasePlugin:
    """Offers DATABASE and DIRECTORY, feeds the catalog, and adds `gatehook keys` and `gatehook users`."""

    class Settings(Section):
        """[plugins.database]; where it is, is said in [database]."""

        grace: float = Field(
            default=60.0,
            ge=0,
            allow_inf_nan=False,
            description="seconds for which keys in memory are accepted while the database is away",
        )
        audit_days: int = Field(
            default=0, ge=0, le=36_500, description="days after which lines of the audit are deleted; 0 for never"
        )

    requires = (CATALOG,)

    def __init__(self, settings: Settings) -> None:
        self._grace = settings.grace
        self._audit_days = settings.audit_days
        self._lifespans: list[Callable[[], AbstractAsyncContextManager[None]]] = []

    @hookimpl
    def register_services(self, gateway: Gateway) -> Iterable[tuple[ServiceKey[Any], object]]:
        """The database, and the directory in it.

        Raises:
            StartupError: [database] url is not the address of one, or asyncpg is not installed.
        """
        asked = gateway.settings.database
        backend = backend_of(asked.url, gateway.settings.path.parent, pool_size=asked.pool_size, timeout=asked.timeout)
        secret_file = backend.file.with_name(backend.file.name + ".secret") if isinstance(backend, Sqlite) else None
        database = SqlDatabase(backend, asked.timeout)
        directory = SqlDirectory(gateway, database, secret_file, self._grace)
        database.before_use(directory.prepare)

        @contextlib.asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            async with database.opened(), directory.following():
                yield

        trimmer = Trimmer("lines of the audit", self._audit_days, directory.forget)
        self._lifespans = [lifespan, *([trimmer.lifespan] if self._audit_days else [])]
        return [(DATABASE, database), (DIRECTORY, directory)]

    @hookimpl
    def register_lifespans(self) -> Iterable[Callable[[], AbstractAsyncContextManager[None]]]:
        """Open while serving, and followed; old lines of the audit leave."""
        return self._lifespans

    @hookimpl
    def register_commands(self, gateway: Gateway) -> Iterable[Command]:
        """`gatehook keys` and `gatehook users`."""
        from gatehook_plugins.database.commands import KeysCommand, UsersCommand  # a gateway that serves asks for none

        database, directory = gateway.services[DATABASE], gateway.services[DIRECTORY]
        return [
            Command(
                "keys",
                "Make, list, rotate and revoke keys of users.",
                KeysCommand(database, directory, gateway.catalog),
            ),
            Command(
                "users",
                "List, make and change users and their limits.",
                UsersCommand(database, directory, gateway.catalog),
            ),
        ]
