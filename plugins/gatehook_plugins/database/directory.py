"""Users, keys, models, the configuration and their audit in one service."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from gatehook import Change, Credential, Directory, Gateway, Key, StartupError, Unavailable, User
from gatehook_plugins.database.engines import AsyncConnection
from gatehook_plugins.database.feed import Feed
from gatehook_plugins.database.keys import Keys
from gatehook_plugins.database.memory import Memory
from gatehook_plugins.database.models import Models
from gatehook_plugins.database.service import SqlDatabase
from gatehook_plugins.database.tables import facts
from gatehook_plugins.database.trail import EVERYTHING, Trail
from gatehook_plugins.database.users import Users
from gatehook_plugins.database.vault import Vault, made_secret, required_secret

__all__ = ["SqlDirectory"]

log = logging.getLogger("gatehook.database")

_MIGRATIONS = "gatehook_plugins.database.migrations"


class SqlDirectory(Users, Keys, Models):
    """See `gatehook.services.Directory`; changes are in the base classes, what is asked while serving in Memory."""

    def __init__(self, gateway: Gateway, database: SqlDatabase, secret_file: Path | None, grace: float) -> None:
        """`secret_file` keeps a secret where nobody has set one; None if it must be set. `grace` is in seconds.

        Raises:
            StartupError: the secret must be set, but is not; or it is too short.
        """
        super().__init__(database, Trail(database), Vault(), gateway)
        self._secret = required_secret(gateway.settings.database.secret, may_be_made=secret_file is not None)
        self._secret_file = secret_file
        self._memory = Memory(database, self._vault)
        self.recall: Callable[[Credential], tuple[User, Key] | None] = self._memory.recall
        self._trail.subscribe(self._memory.forget)
        self._feed = Feed(self._trail, self._memory, grace, self._catch_up, self._show)

    async def prepare(self) -> None:
        """Bring the tables up to date, and unlock the vault; runs whenever the database was opened, before all else.

        Raises:
            StartupError: the tables are newer than this version, or the secret is another one.
        """
        await self._database.migrate("database", _MIGRATIONS)
        of_secret = facts.c.name == "secret"
        async with self._database.reading() as connection:
            known = (await connection.execute(select(facts.c.value).where(of_secret))).scalar_one()
        check = self._vault.unlock(await self._found_secret(is_new=not known))
        if not known:
            async with self._database.writing() as connection:
                # Another process that starts now may be quicker; then its secret is the one.
                await connection.execute(update(facts).where(of_secret, facts.c.value == "").values(value=check))
                known = (await connection.execute(select(facts.c.value).where(of_secret))).scalar_one()
        if known != check:
            raise StartupError(
                "[database] secret: not the one that the database was first used with: no key in it would be "
                f"recognised, no vendor key could be decrypted; {await asyncio.to_thread(self._remedy)}"
            )

    def _remedy(self) -> str:
        """What to do about a wrong secret. Blocks."""
        if not self._secret:
            return f"restore {self._secret_file} from a backup"
        if self._secret_file is not None and self._secret_file.exists():
            return f"there is one in {self._secret_file}, which is used if none is set"
        return "set the former one"

    async def _found_secret(self, *, is_new: bool) -> str:
        if self._secret or self._secret_file is None:
            return self._secret.get_secret_value()
        return await asyncio.to_thread(made_secret, self._secret_file, create=is_new)

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Answer from memory, and follow what changes.

        Raises:
            StartupError: the database cannot be read to begin with.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._feed.following())
            except Unavailable as error:
                raise StartupError("the database went away while starting; the log tells more") from error
            yield

    async def refresh(self) -> None:
        """See `Directory`."""
        await self._feed.look()

    async def _catch_up(self, changes: Sequence[tuple[str, str]]) -> None:
        """Read the configuration again if it is among what has changed: whoever is told shall find it new.

        Raises:
            Unavailable: the database is away.
        """
        if EVERYTHING not in changes and not any(kind == "config" for kind, _ in changes):
            return
        try:
            await self.read_config(afresh=EVERYTHING in changes)
        except Unavailable:
            raise
        except Exception:  # a value that was damaged by hand; keys and users shall be followed all the same
            log.exception("the configuration in the database cannot be read; what was known of it holds")

    async def _show(self) -> None:
        """Have the catalog show what has changed of models.

        Raises:
            Unavailable: the database is away; the catalog stays as it is.
        """
        await self.feed_catalog()
        self.tell_unused()

    def find(self, token: str) -> Coroutine[Any, Any, tuple[User, Key] | None]:
        """Whose key this is; None if nobody's. Whether they may be used now (expiry, disabled) the caller checks.

        Raises:
            Unavailable: the database cannot be asked, and has not been for longer than an answer may be old.
        """
        return self._memory.find(token)

    async def user(self, user_id: str) -> User | None:
        """One user, from memory if possible.

        Raises:
            Unavailable: as `find`.
        """
        return await self._memory.user(user_id)

    async def audit(self, *, before: int | None = None, limit: int = 100) -> Sequence[Change]:
        """Changes, the newest first."""
        return await self._trail.lines(before, limit)

    async def forget(self, before: int) -> int:
        """Delete a few lines of the audit from before an instant (epoch ms), the oldest first; gives how many.

        Raises:
            Unavailable: the database cannot be written to now.
        """
        return await self._trail.forget(before)

    async def note(self, connection: AsyncConnection, actor: str, action: str, subject: str, detail: Any) -> int:
        """Add a line to the audit, in a transaction of somebody else's change; gives its id."""
        return await self._trail.note(connection, actor, action, subject, detail)

    def subscribe(self, changed: Callable[[str, str], None]) -> None:
        """Call `changed(kind, id)` when something has changed, here or in another process; ("", "") for anything."""
        self._trail.subscribe(changed)


_implements: type[Directory] = SqlDirectory
