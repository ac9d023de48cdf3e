"""Files, for parts of answers that are too large for a row or a message; clients get them by signed, expiring URLs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from msgspec import Struct

from gatehook.services.registry import ServiceKey

__all__ = ["FILES", "FileStore", "StoredFile"]


class StoredFile(Struct, frozen=True):
    """One file: `size` in bytes, `expires` in epoch milliseconds (None: it is kept until it is deleted)."""

    id: str
    owner: str
    media_type: str
    size: int
    expires: int | None = None


class FileStore(Protocol):
    """Keeps files: in a local directory, or wherever a plugin keeps them."""

    async def put(self, data: bytes, *, media_type: str, owner: str, keep: float | None = None) -> StoredFile:
        """Store a file for `keep` seconds (None: as the store's settings say); when this returns, it is durable.

        Raises:
            Unavailable: the store is away, or full.
        """
        ...

    async def about(self, file_id: str) -> StoredFile | None:
        """What is known of a file; None if there is none."""
        ...

    def read(self, file_id: str) -> AsyncIterator[bytes]:
        """A file's bytes, in pieces.

        Raises:
            NotFound: there is none. Unavailable: the store is away.
        """
        ...

    async def delete(self, file_id: str) -> None:
        """Delete a file, if it is there."""
        ...

    def url(self, file_id: str, *, lifetime: float | None = None) -> str:
        """A URL by which anybody may fetch it without a key, for `lifetime` seconds (None: as the settings say)."""
        ...


FILES: ServiceKey[FileStore] = ServiceKey("files", provider="files")
