"""What is known of keys and users without asking the database: bounded, and forgotten as soon as it changes.

Keys are looked up by marks: hashes keyed with what is drawn anew at each start. They take half as long as the digests
in the database, and tell as little: not even the time of a look-up does, as nobody outside can compute them.
"""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from hashlib import blake2b
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import select

from gatehook import Credential, Database, Key, Unavailable, User
from gatehook_plugins.database.tables import api_keys, key_of
from gatehook_plugins.database.trail import EVERYTHING
from gatehook_plugins.database.users import user_in
from gatehook_plugins.database.vault import Vault, is_key

__all__ = ["Lru", "Memory"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_MOST: Final = 10_000
"""Entries of each kind: keys, unknown keys, users."""

_ABSENT: Final[Any] = object()


class Lru(Generic[K, V]):
    """So many entries; whichever was not looked at for longest goes first."""

    __slots__ = ("_most", "entries")

    def __init__(self, most: int) -> None:
        self._most = most
        self.entries: OrderedDict[K, V] = OrderedDict()
        """Whoever looks one up here moves it to the end."""

    def get(self, key: K, default: Any = None) -> V | Any:
        """The entry, or `default`."""
        try:
            self.entries.move_to_end(key)
        except KeyError:
            return default
        return self.entries[key]

    def put(self, key: K, value: V) -> None:
        """Add or replace one."""
        self.entries[key] = value
        self.entries.move_to_end(key)
        if len(self.entries) > self._most:
            self.entries.popitem(last=False)

    def drop(self, is_gone: Callable[[K, V], bool]) -> None:
        """Forget some."""
        for key in [key for key, value in self.entries.items() if is_gone(key, value)]:
            del self.entries[key]

    def __len__(self) -> int:
        return len(self.entries)


class Memory:
    """Answers whose a key is, from memory while that can be trusted, otherwise from the database."""

    def __init__(self, database: Database, vault: Vault, most: int = _MOST) -> None:
        self._database = database
        self._vault = vault
        self._mark = blake2b(key=os.urandom(32), digest_size=32)
        """A hash that has taken in its own key only: each mark goes on from a copy."""
        self._keys: Lru[bytes, tuple[User, Key]] = Lru(most)
        """By their marks."""
        self._unknown: Lru[bytes, bool] = Lru(most)
        """Marks of tokens that are nobody's key."""
        self._users: Lru[str, User | None] = Lru(most)
        self._asking: dict[Hashable, asyncio.Task[Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changes = 0
        self._good_until: float | None = None
        """time.monotonic(); None while nobody follows the changes, as in a command: then nothing is remembered."""
        self.is_away = False
        """Whether the database could not be asked the last time."""

    def trust(self, until: float) -> None:
        """Changes have been followed; what is here is good until then (time.monotonic())."""
        self._good_until = until
        self.is_away = False

    async def stop(self) -> None:
        """Forget everything, and remember no more."""
        self._good_until = None
        self.is_away = False
        self.forget(*EVERYTHING)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def forget(self, kind: str, id: str) -> None:
        """Forget what has changed; nothing that was asked before now will be remembered."""
        if kind not in ("", "key", "user"):
            return
        self._changes += 1
        self._asking.clear()
        if not kind:
            self._keys.drop(lambda mark, held: True)
            self._unknown.drop(lambda mark, held: True)
            self._users.drop(lambda user_id, user: True)
        elif kind == "key":
            self._keys.drop(lambda mark, held: held[1].id == id)
        else:
            # Its keys too: a user may be deleted, and another come under the same id.
            self._keys.drop(lambda mark, held: held[1].user_id == id)
            self._users.drop(lambda user_id, user: user_id == id)

    async def find(self, token: str) -> tuple[User, Key] | None:
        """Whose key this is; None if nobody's.

        Raises:
            Unavailable: the database cannot be asked, and has not been for longer than an answer may be old.
        """
        if not is_key(token):
            return None
        mark = self._marked(token)
        found: tuple[User, Key] | None
        if self._is_good():
            if (found := self._keys.get(mark)) is not None:
                return found
            if self._unknown.get(mark):
                return None
        found = await self._shared(mark, lambda: self._find(token, mark))
        return found

    def recall(self, credential: Credential) -> tuple[User, Key] | None:
        """Whose key this is, if that is remembered and can be trusted."""
        until = self._good_until
        if until is None or time.monotonic() > until:
            return None
        mark, known = credential.marks.get(self), self._keys.entries
        if mark is None:
            mark = credential.marks[self] = self._marked(credential.token)
        try:  # as `Lru.get` does: this is asked for each request
            known.move_to_end(mark)
        except KeyError:
            return None
        return known[mark]

    def _marked(self, key: str) -> bytes:
        marking = self._mark.copy()
        marking.update(key.encode("utf-8", "replace"))  # it may be anything
        return marking.digest()

    async def user(self, user_id: str) -> User | None:
        """One user.

        Raises:
            Unavailable: as `find`.
        """
        user: User | None
        if self._is_good() and (user := self._users.get(user_id, _ABSENT)) is not _ABSENT:
            return user
        user = await self._shared(user_id, lambda: self._user(user_id))
        return user

    def _is_good(self) -> bool:
        """Whether what is here may be answered."""
        if self._good_until is None:
            return False
        if time.monotonic() > self._good_until:
            raise _unavailable()
        return True

    async def _shared(self, what: Hashable, ask: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Ask the database, or share the answer with whoever has asked the same already."""
        task = self._asking.get(what)
        if task is None:
            if self.is_away:
                raise _unavailable()  # it would only wait for nothing, and so would all who come with it
            task = self._asking[what] = asyncio.create_task(ask())
            self._tasks.add(task)
            task.add_done_callback(lambda done: self._asked(what, done))
        return await asyncio.shield(task)

    def _asked(self, what: Hashable, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if self._asking.get(what) is task:
            del self._asking[what]
        if not task.cancelled():
            task.exception()  # everybody who waited may have left; then nobody else takes it

    async def _find(self, token: str, mark: bytes) -> tuple[User, Key] | None:
        changes = self._changes
        digest = self._vault.digest(token).hex()
        async with self._database.reading() as connection:
            row = (await connection.execute(select(api_keys).where(api_keys.c.digest == digest))).first()
            key = key_of(row) if row is not None else None
            user = await user_in(connection, key.user_id) if key is not None else None
        found = (user, key) if user is not None and key is not None else None
        if self._may_remember(changes):
            if found is not None:
                self._keys.put(mark, found)
                self._users.put(found[0].id, found[0])
            else:
                self._unknown.put(mark, True)
        return found

    async def _user(self, user_id: str) -> User | None:
        changes = self._changes
        async with self._database.reading() as connection:
            user = await user_in(connection, user_id)
        if self._may_remember(changes):
            self._users.put(user_id, user)
        return user

    def _may_remember(self, changes: int) -> bool:
        """Whether nothing has changed since a question was put; its answer might be from before that."""
        return changes == self._changes and self._good_until is not None


def _unavailable() -> Unavailable:
    message = "the database is not available now; try again in a moment"
    return Unavailable(message, code="database_unavailable", retry_after=1.0)
