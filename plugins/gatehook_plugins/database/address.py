"""From `[database] url` to one of the two databases there can be."""

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from gatehook import SecretStr, StartupError
from gatehook_plugins.database.backend import Backend
from gatehook_plugins.database.sqlite import Sqlite

__all__ = ["backend_of"]

_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+aiosqlite": "sqlite",  # as other programs call it; the driver is our own
    "postgres": "postgresql",
    "postgresql": "postgresql",
    "postgresql+asyncpg": "postgresql",
}


def backend_of(url: SecretStr, folder: Path, *, pool_size: int, timeout: float) -> Backend:
    """The database at `url`; a relative SQLite file is looked for in `folder`. Nothing is opened. Times in seconds.

    Raises:
        StartupError: not the address of a database that can be used; the message does not repeat it.
    """
    try:
        address = make_url(url.get_secret_value())
    except (ArgumentError, ValueError):
        raise _fault("not the address of a database") from None
    match _DRIVERS.get(address.drivername):
        case "sqlite":
            return Sqlite(_file(address, folder), timeout)
        case "postgresql":
            if not address.database:
                raise _fault("names no database")
            from gatehook_plugins.database.postgresql import Postgresql  # not where SQLite is

            return Postgresql(address.set(drivername="postgresql+asyncpg"), pool_size, timeout)
    raise _fault("an unknown kind of database")


def _file(address: URL, folder: Path) -> Path:
    name = address.database or ""
    if not name or name == ":memory:" or name.startswith("file:") or address.host:
        raise _fault("SQLite needs a file, so that what is written there lasts")
    if address.query:
        raise _fault("what follows the '?' is not understood; a file's name cannot hold one")
    return folder / name


def _fault(what: str) -> StartupError:
    return StartupError(
        f"[database] url: {what}; expected sqlite:///FILE or postgresql+asyncpg://USER:PASSWORD@HOST/NAME"
    )
