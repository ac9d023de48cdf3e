"""The conditions of all deployments, in memory or shared by the workers of one machine."""

import contextlib
import fcntl
import logging
import mmap
import time
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from gatehook_plugins.cooldown.condition import SOUND, Condition

__all__ = ["Book", "Step"]

log: Final = logging.getLogger("gatehook.cooldown")

Step: TypeAlias = Callable[[Condition], Condition]
"""From one condition to the next; the same one if nothing changes."""

_WORD: Final = 8
"""Bytes."""
_PATIENCE: Final = 1.0
"""Seconds that the lock is waited for; it is held for less than a thousandth of one."""
_PAUSE: Final = 50e-6
"""Seconds between two tries."""
_ALONE: Final = 60.0
"""Seconds that a worker goes on by itself where the file has failed, before it tries it again."""

_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[dict[str, Condition]] = msgspec.msgpack.Decoder(dict[str, Condition])


class Book:
    """The conditions of deployments, by their keys; deployments of which nothing was ever learnt are not in it.

    It is this process's own, unless it is `shared`. Looking something up takes no lock and no system call.
    """

    def __init__(self) -> None:
        self._conditions: dict[str, Condition] = {}
        self._file: _SharedFile | None = None
        self._failed: _SharedFile | None = None
        """The file while this worker goes on alone, until `_alone_until` (seconds, monotonic)."""
        self._alone_until = 0.0

    @contextlib.contextmanager
    def shared(self, folder: Path) -> Iterator[None]:
        """Share the book, while this is open, with every process that has the same folder."""
        with contextlib.closing(_SharedFile(folder)) as self._file:
            try:
                yield
            finally:
                self._file = self._failed = None

    def get(self, key: str) -> Condition | None:
        """How this deployment does."""
        return self.all().get(key)

    def all(self) -> Mapping[str, Condition]:
        """How all do."""
        if self._failed is not None:
            self._try_again()
        if self._file is not None and self._file.is_news:
            with self._or_alone(self._file):
                self._conditions = self._file.reread()
        return self._conditions

    def change(self, key: str, step: Step) -> tuple[Condition, Condition]:
        """Take one step of a deployment, while nobody else takes one; gives its conditions before and after."""
        with self._latest():
            before = self._conditions.get(key, SOUND)
            after = step(before)
            if after is not before:
                self._put({**self._conditions, key: after})  # others may be walking through the old ones
        return before, after

    def keep(self, keys: set[str]) -> None:
        """Forget all other deployments."""
        if self.all().keys() - keys:
            with self._latest():
                self._put({key: condition for key, condition in self._conditions.items() if key in keys})

    @contextlib.contextmanager
    def _latest(self) -> Iterator[None]:
        """Hold the lock, and know everything that others have changed before."""
        if self._failed is not None:
            self._try_again()
        with contextlib.ExitStack() as stack:
            if self._file is not None:
                with self._or_alone(self._file):
                    stack.enter_context(self._file.locked())
                    self._conditions = self._file.reread()
            yield

    def _put(self, conditions: dict[str, Condition]) -> None:
        self._conditions = conditions
        if self._file is not None:
            with self._or_alone(self._file):
                self._file.write(conditions)

    @contextlib.contextmanager
    def _or_alone(self, file: "_SharedFile") -> Iterator[None]:
        """Go on with what is known here if the file fails: no request may fail for it."""
        try:
            yield
        except OSError as error:
            self._file, self._failed, self._alone_until = None, file, time.monotonic() + _ALONE
            log.warning(
                "what is known of deployments cannot be shared with the other workers (%s); this worker goes on by "
                "what it learns itself, and tries again in %d s",
                error,
                _ALONE,
            )

    def _try_again(self) -> None:
        """After a while alone, share again: of each deployment what was learnt last, here or by the others."""
        if (file := self._failed) is None or time.monotonic() < self._alone_until:
            return
        self._failed = None
        with self._or_alone(file):
            with file.locked():
                theirs = file.reread()
                newer = {
                    key: mine for key, mine in self._conditions.items() if mine.checked > theirs.get(key, SOUND).checked
                }
                file.write({**theirs, **newer})  # also if nothing is newer: it may be read, and not written
            self._conditions = {**theirs, **newer}
            self._file = file


class _SharedFile:
    """A file of conditions, always replaced as a whole, and beside it, mapped into memory, the number of its version.

    A process that is killed at any moment leaves the old file or the new one, and the lock free.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "cooldown"
        self._lock = FileIO(folder / "cooldown.version", "a+")
        self._patience = _PATIENCE
        """Seconds to wait for the lock; 0 after waiting in vain, until it was free again."""
        with self.locked():
            if not self._path.exists():
                self._lock.truncate(_WORD)
                self._replace({})
        self._versions = memoryview(mmap.mmap(self._lock.fileno(), _WORD)).cast("Q")
        self._seen = -1

    @property
    def is_news(self) -> bool:
        """Whether it was written since it was read."""
        return self._versions[0] != self._seen

    def reread(self) -> dict[str, Condition]:
        """What it says now, also if whoever wrote it last was killed before it could change the version."""
        self._seen = self._versions[0]  # looked at first: what is written meanwhile is read once more
        return _decoder.decode(self._path.read_bytes())

    def write(self, conditions: dict[str, Condition]) -> None:
        """Replace what it says. To be called while it is `locked`."""
        self._replace(conditions)
        self._versions[0] += 1
        self._seen = self._versions[0]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep everybody else from writing meanwhile.

        Raises:
            TimeoutError: somebody else holds the lock for too long: that process is stopped.
        """
        until = time.monotonic() + self._patience
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    self._patience = 0.0
                    raise TimeoutError("another worker holds the lock and does not go on") from None
                time.sleep(_PAUSE)
        self._patience = _PATIENCE
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """Use it no more."""
        self._lock.close()

    def _replace(self, conditions: dict[str, Condition]) -> None:
        beside = self._path.with_suffix(".new")
        beside.write_bytes(_encode(conditions))
        beside.replace(self._path)
