"""The control socket: how a running gateway is spoken to from the same machine, by its own user only.

It is a Unix socket in a folder of that user, named after the settings file's path, so that commands find it: `reload`,
and `chat`, which asks for an address that the settings do not tell. One request per connection: a word and a newline
there, a line of JSON back.
"""

import contextlib
import hashlib
import json
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from gatehook.errors import StartupError

__all__ = ["Asker", "Control", "ask", "control_path", "listening"]

log = logging.getLogger("gatehook")

_PATIENCE: Final = 1.0
"""Seconds for one message: whoever asks runs on this machine, and sends its word at once."""
_WAIT: Final = 120.0
"""Seconds until a reload must have ended, well or badly."""


def control_path(settings: Path) -> Path:
    """The path of the control socket of the gateway with this settings file."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    name = hashlib.sha256(os.fsencode(settings)).hexdigest()[:16]
    return base / f"gatehook-{os.geteuid()}" / f"{name}.sock"


class Asker:
    """Somebody who waits for an answer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def answer(self, **said: Any) -> None:
        """Answer, and hang up."""
        with contextlib.suppress(OSError), self._connection:  # it is gone
            self._connection.settimeout(_PATIENCE)
            self._connection.sendall(json.dumps(said).encode() + b"\n")

    def close(self) -> None:
        """Close the connection in this process only; another process still holds it."""
        self._connection.close()


class Control:
    """The gateway's end."""

    def __init__(self, path: Path) -> None:
        """Listen there.

        Raises:
            OSError: the folder is somebody else's, or another gateway listens there.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = path.parent.lstat()
        if not stat.S_ISDIR(folder.st_mode) or folder.st_uid != os.geteuid() or folder.st_mode & 0o077:
            raise PermissionError(f"{path.parent} can be changed by others")
        self.path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale(path)
            self._sock.bind(str(path))
            self._sock.listen(8)
        except OSError:
            self._sock.close()
            raise

    def fileno(self) -> int:
        """The socket's, for `select.poll`: it is readable when somebody asks."""
        return self._sock.fileno()

    def hear(self) -> tuple[str, Asker] | None:
        """The word that somebody has sent, and who; None if the connection is gone."""
        try:
            connection, _ = self._sock.accept()
        except OSError:
            return None
        try:
            connection.settimeout(_PATIENCE)
            return connection.recv(64).decode("ascii", "replace").strip(), Asker(connection)
        except OSError:
            connection.close()
            return None

    def close(self, *, remove: bool) -> None:
        """Stop listening in this process; with `remove` in all of them, and the socket's file is gone."""
        self._sock.close()
        if remove:
            self.path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    if path.exists():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:  # of a gateway that was killed
                path.unlink()
                return
        raise OSError("another gateway with these settings is running")


@contextlib.contextmanager
def listening(settings: Path) -> Iterator[Control | None]:
    """A control socket while this context is open; None where there cannot be one, and the log says why."""
    try:
        control = Control(control_path(settings))
    except OSError as error:
        log.warning("`gatehook reload` will not reach this process, only SIGHUP will: %s", error)
        yield None
        return
    try:
        yield control
    finally:
        control.close(remove=True)


def ask(path: Path, word: str, settings: str = "these settings") -> dict[str, Any]:
    """Ask the gateway that listens there, which runs with `settings`. Blocks until it has answered.

    Raises:
        StartupError: nobody listens there, or it ended before it answered.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(_WAIT)
            line.connect(str(path))
            line.sendall(word.encode() + b"\n")
            with line.makefile("rb") as answers:
                said: dict[str, Any] = json.loads(answers.readline())
    except (FileNotFoundError, ConnectionRefusedError):
        raise StartupError(f"no gateway is running with {settings}, or another user runs it") from None
    except (OSError, ValueError) as error:
        raise StartupError(f"the running gateway did not answer: {error}") from None
    return said
