"""Whether the tables of a plugin are at its newest revision, found out without alembic, which takes long to load.

Nearly every start finds them there. Whatever is not plain from the files and one table is left to alembic.
"""

import re
from importlib import import_module
from pathlib import Path
from typing import Final

from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection

__all__ = ["current_revision", "head_revision", "version_table"]

_SAID: Final = re.compile(r"""^(down_)?revision\b[^=\n]*=\s*(?:None|["']([^"']+)["'])\s*(?:#.*)?$""", re.MULTILINE)


def version_table(name: str) -> str:
    """Where alembic keeps how far the tables of plugin `name` have gone."""
    return f"alembic_version_{name}"


def head_revision(package: str) -> str | None:
    """The revision that those in `package`.versions lead to; None if that is not plain from their texts. Blocks."""
    folder = Path(next(iter(import_module(package).__path__)), "versions")
    revisions: set[str] = set()
    followed: set[str] = set()
    for file in folder.glob("*.py"):
        if file.name == "__init__.py":
            continue
        said = {bool(down): revision for down, revision in _SAID.findall(file.read_text("utf-8"))}
        if said.keys() != {False, True}:
            return None
        revisions.add(said[False])
        followed.add(said[True])
    ends = revisions - followed
    return ends.pop() if len(ends) == 1 else None


def current_revision(connection: Connection, name: str) -> str | None:
    """The revision that the tables of plugin `name` are at; None if there are none, or that is not plain."""
    table = version_table(name)
    if not inspect(connection).has_table(table):
        return None
    found = connection.execute(text(f'SELECT version_num FROM "{table}"')).scalars().all()  # noqa: S608  # no client's
    return found[0] if len(found) == 1 else None
