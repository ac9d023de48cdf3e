"""Whether the tables that were made at the start are still there: somebody may replace a database while it is used."""

import logging
import re
from collections.abc import Sequence
from typing import Final

from sqlalchemy import inspect
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from gatehook_plugins.database.engines import AsyncConnection
from gatehook_plugins.database.revisions import version_table

__all__ = ["Presence"]

log: Final = logging.getLogger("gatehook.database")

_NO_TABLE: Final = re.compile(r"no such table|relation \"[^\"]*\" does not exist")
"""The messages of SQLite, and of PostgreSQL."""


class Presence:
    """Looks for the tables of all plugins. It logs when tables go missing, when that changes, and when all are back."""

    def __init__(self, where: str) -> None:
        """`where` names the database."""
        self._name = f"the database ({where})"
        self._made: list[str] = []
        self.gone: Sequence[str] = ()
        """The plugins whose tables were missing at the last look."""

    def made(self, name: str) -> None:
        """Note that the tables of a plugin were made."""
        if name not in self._made:
            self._made.append(name)

    @staticmethod
    def is_doubtful(error: Exception) -> bool:
        """Whether an error may mean that the database was replaced: a table is missing."""
        return isinstance(error, DBAPIError) and _NO_TABLE.search(str(error.orig)) is not None

    async def look(self, connection: AsyncConnection) -> bool:
        """Whether the tables of all plugins are there."""
        gone = await connection.run_sync(self._missing)
        if gone and gone != self.gone:
            log.error(
                "%s has been replaced: the tables of %s are gone; put it back as it was, or restart the gateway, "
                "which makes them anew",
                self._name,
                ", ".join(gone),
            )
        elif self.gone and not gone:
            log.warning("%s has all its tables again", self._name)
        self.gone = gone
        return not gone

    def _missing(self, connection: Connection) -> Sequence[str]:
        there = inspect(connection)
        return [name for name in self._made if not there.has_table(version_table(name))]
