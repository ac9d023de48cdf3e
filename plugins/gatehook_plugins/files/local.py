"""Files in a directory of this machine, which several processes may share.

Each is a folder of its own, ``data/ab/NAME``, that holds `content` and `about.json`: written elsewhere, brought to the
disk, then moved into its place in one step. So whatever is there is whole, and a file that is deleted is gone in one.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import msgspec

from gatehook import FileStore, NotFound, StoredFile, Unavailable
from gatehook_plugins.files.names import is_expired, is_name, new_name
from gatehook_plugins.files.signing import Signer, kept_secret

__all__ = ["LocalFiles"]

log = logging.getLogger("gatehook.files")

_PIECE: Final = 1 << 18
"""Bytes that are read at once."""
_ABANDONED: Final = 3600
"""Seconds after which what is only half written belongs to nobody any more."""


class LocalFiles:
    """Implements `gatehook.FileStore`. Await `open()` before use."""

    def __init__(
        self, folder: Path, *, secret: str, base_url: str, keep: float, url_lifetime: float, max_bytes: int
    ) -> None:
        """Times in seconds.

        Args:
            folder: where the files are; made when opened.
            secret: signs URLs; "" for one that is made and kept in the folder.
            base_url: of the gateway, as clients reach it; "" leaves URLs without it.
            keep: how long files are kept, 0 for ever.
            url_lifetime: how long URLs are good.
            max_bytes: of all files together.
        """
        self._folder = folder
        self._data, self._unfinished = folder / "data", folder / "unfinished"
        self._secret = secret
        self._base_url = base_url
        self._keep = keep
        self._url_lifetime = url_lifetime
        self._max_bytes = max_bytes
        self._used = 0
        """Bytes of all files, as the last sweep saw them, and of those that this process has stored since."""
        self._signer: Signer | None = None

    @property
    def signer(self) -> Signer:
        """Checks URLs."""
        if self._signer is None:
            raise RuntimeError("the file store is not open")
        return self._signer

    async def open(self) -> None:
        """Make what is not there yet, and see how much there is.

        Raises:
            OSError: the folder cannot be used.
        """
        await asyncio.to_thread(self._open)
        await self.sweep()

    def _open(self) -> None:
        for folder in (self._folder, self._data, self._unfinished):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret = self._secret.encode() if self._secret else kept_secret(self._folder / "secret")
        self._signer = Signer(secret)

    async def put(self, data: bytes, *, media_type: str, owner: str, keep: float | None = None) -> StoredFile:
        """Store a file; see `FileStore.put`."""
        if self._used + len(data) > self._max_bytes:
            raise Unavailable("the file store is full ([plugins.files] max_bytes)", code="file_store_full")
        seconds = self._keep if keep is None else keep
        expires = int(time.time() + seconds) + 1 if seconds else None
        name = new_name(expires)
        file = StoredFile(name, owner, media_type, len(data), None if expires is None else expires * 1000)
        self._used += len(data)
        try:
            await asyncio.to_thread(self._write, file, data)
        except OSError as error:
            self._used -= len(data)
            raise _away(error) from error
        return file

    def _write(self, file: StoredFile, data: bytes) -> None:
        unfinished, place = self._unfinished / file.id, self.folder_of(file.id)
        try:
            unfinished.mkdir(mode=0o700)
            _write_safely(unfinished / "content", data)
            _write_safely(unfinished / "about.json", msgspec.json.encode(file))
            _sync(unfinished)
            if not place.parent.is_dir():
                place.parent.mkdir(mode=0o700, exist_ok=True)
                _sync(self._data)
            unfinished.rename(place)
            _sync(place.parent)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise

    async def about(self, file_id: str) -> StoredFile | None:
        """What is known of a file; see `FileStore.about`."""
        if not is_name(file_id) or is_expired(file_id, time.time()):
            return None
        try:
            written = await asyncio.to_thread((self.folder_of(file_id) / "about.json").read_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _away(error) from error
        return msgspec.json.decode(written, type=StoredFile)

    async def read(self, file_id: str) -> AsyncIterator[bytes]:
        """A file's bytes, in pieces; see `FileStore.read`."""
        if await self.about(file_id) is None:
            raise _unknown(file_id)
        try:
            with await asyncio.to_thread(self.content_of(file_id).open, "rb") as opened:
                while piece := await asyncio.to_thread(opened.read, _PIECE):
                    yield piece
        except FileNotFoundError:
            raise _unknown(file_id) from None
        except OSError as error:
            raise _away(error) from error

    async def delete(self, file_id: str) -> None:
        """Delete a file, if it is there; see `FileStore.delete`."""
        if is_name(file_id):
            try:
                removed = await asyncio.to_thread(self._remove, self.folder_of(file_id))
            except OSError as error:
                raise _away(error) from error
            self._used -= removed  # only now: others were counted meanwhile

    def url(self, file_id: str, *, lifetime: float | None = None) -> str:
        """A signed URL; see `FileStore.url`."""
        query = self.signer.query(file_id, self._url_lifetime if lifetime is None else lifetime)
        return f"{self._base_url}/files/{file_id}?{query}"

    def folder_of(self, name: str) -> Path:
        """Where a file of this name is, if it is there. `name` is one, see `is_name`."""
        return self._data / name[-2:] / name

    def content_of(self, name: str) -> Path:
        """The file with its bytes."""
        return self.folder_of(name) / "content"

    async def sweep(self) -> None:
        """Delete what has expired, and what a process that died has left; see how much is left.

        Raises:
            OSError: the folder cannot be read.
        """
        self._used = await asyncio.to_thread(self._sweep)

    def _sweep(self) -> int:
        now, used = time.time(), 0
        for left in _children(self._unfinished):
            with contextlib.suppress(FileNotFoundError):
                if left.stat().st_mtime < now - _ABANDONED:
                    shutil.rmtree(left, ignore_errors=True)
        for shard in _children(self._data):
            for place in _children(shard):
                with contextlib.suppress(FileNotFoundError):
                    if is_name(place.name) and is_expired(place.name, now):
                        self._remove(place)
                    else:
                        used += (place / "content").stat().st_size
        return used

    def _remove(self, place: Path) -> int:
        """Delete a file's folder, in one step for everybody else; gives its bytes."""
        removed = self._unfinished / f"{place.name}.{secrets.token_hex(4)}"
        try:
            size = (place / "content").stat().st_size
            place.rename(removed)
        except FileNotFoundError:  # it is not there, or another process was first
            return 0
        shutil.rmtree(removed, ignore_errors=True)
        return size


def _children(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                yield Path(entry.path)


def _write_safely(file: Path, data: bytes) -> None:
    with file.open("xb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unknown(file_id: str) -> NotFound:
    return NotFound(f"there is no file {file_id[:64]!r}, or it has expired")


def _away(error: OSError) -> Unavailable:
    log.error("the file store fails: %s", error)
    reason = (error.strerror or type(error).__name__).lower()
    return Unavailable(f"the file store fails: {reason}", code="file_store_unavailable")


_implements: type[FileStore] = LocalFiles
