"""The response cache: whose answer is whose, how long it lives, and who waits for it."""

from typing import Final, Literal

from gatehook import Cache, Call, Entry, Principal, Scoped
from gatehook_plugins.cache.codec import pack, unpack
from gatehook_plugins.cache.lifetimes import Lifetimes
from gatehook_plugins.cache.sharing import Sharing
from gatehook_plugins.cache.store import Store

__all__ = ["ResponseCache", "Scope"]

Scope = Literal["user", "key", "all"]


class ResponseCache:
    """Exact matches only: the kernel's key stands for everything that changes an answer."""

    def __init__(
        self, store: Store, lifetimes: Lifetimes, scope: Scope, max_entry: int, sharing: Sharing | None
    ) -> None:
        """`max_entry` is the most bytes of an answer that is kept; without `sharing` every call goes its own way."""
        self._store = store
        self._lifetimes = lifetimes
        self._scope: Final = scope
        self._sharing = sharing
        self.max_entry = max_entry

    def scope(self, principal: Principal) -> str:
        """The same text for all who may get each other's answers."""
        if self._scope == "all":
            return "all"
        if self._scope == "user":
            return f"user:{principal.id}"
        return f"key:{len(principal.id)}:{principal.id}:{principal.key_id}"  # its length, or two could read the same

    async def get(self, key: bytes, call: Call) -> Entry | None:
        """The stored answer; with sharing, else that of another call under way, once it is there."""
        if not self._lifetimes.of(call):
            return None
        key = self._lifetimes.key(key, call)
        data = self._store.get(key)
        if data is not None and not isinstance(data, bytes):
            data = await data
        entry = None if data is None else unpack(data)
        if entry is None and self._sharing is not None:
            return await self._sharing.join(key, call)
        return entry

    async def put(self, key: bytes, call: Call, entry: Entry) -> None:
        """Give the answer to those who wait for it, and keep it unless it is too large."""
        if not (seconds := self._lifetimes.of(call)):
            return
        key = self._lifetimes.key(key, call)
        if self._sharing is not None:
            self._sharing.land(key, entry)
        data = pack(entry)
        if len(data) <= self.max_entry:
            self._store.put(key, data, seconds)


_implements: type[Cache] = ResponseCache
_scoped: type[Scoped] = ResponseCache
