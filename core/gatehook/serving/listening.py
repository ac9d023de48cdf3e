"""The socket that clients connect to: TCP, or a Unix socket and its file."""

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from gatehook.config.sections import ServerSettings
from gatehook.errors import StartupError

__all__ = ["SocketFile", "address", "file_of", "listen", "remove_file"]

SocketFile = tuple[int, int]
"""What tells a Unix socket's file from one that another server has put in its place: device and inode."""

_HINTS: Final = {
    errno.EADDRINUSE: (
        "port",
        "is another server running there? Set another port, or GATEHOOK_SERVER__PORT",
    ),
    errno.EADDRNOTAVAIL: ("host", "this machine has no such address; '127.0.0.1' is itself, '0.0.0.0' all it has"),
    errno.EACCES: ("port", "below 1024 a port needs a privilege; set a higher one, or GATEHOOK_SERVER__PORT"),
}
"""Which setting an error of bind() is about, and what to do."""
_LONGEST: Final = 107
"""Bytes of a Unix socket's path on Linux."""


def listen(settings: ServerSettings) -> socket.socket:
    """A socket that is bound, but not yet listened on.

    Raises:
        StartupError: the address cannot be used; says which setting is wrong, and what to do.
    """
    return _listen_unix(settings.uds) if settings.uds else _listen_tcp(settings.host, settings.port)


def _listen_tcp(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartupError(f"[server] host: cannot listen on {host!r}: {error.strerror or error}") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        key, hint = _HINTS.get(error.errno or 0, ("port", "set another port, or GATEHOOK_SERVER__PORT"))
        raise StartupError(
            f"[server] {key}: cannot listen on {host}:{port}: {error.strerror or error}; {hint}"
        ) from None
    return sock


def _listen_unix(path: str) -> socket.socket:
    file = Path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if file.exists():
            _remove_stale(file)
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise StartupError(f"[server] uds: cannot listen on {path!r}: {error.strerror or error}{_hint(file)}") from None
    except StartupError:
        sock.close()
        raise
    return sock


def _hint(file: Path) -> str:
    """The end of a message about a Unix socket that cannot be made: what to do, if the reason is known."""
    if len(os.fsencode(file)) > _LONGEST:
        return f"; it may have {_LONGEST} bytes, and has {len(os.fsencode(file))}"
    return "" if file.parent.is_dir() else f"; make the folder {str(file.parent)!r} first"


def _remove_stale(file: Path) -> None:
    """Remove the socket that a killed server has left; never one that is in use, nor a file of another kind."""
    if not stat.S_ISSOCK(file.stat().st_mode):
        raise StartupError(f"[server] uds: {str(file)!r} exists and is not a socket; remove it or name another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(file))
        except OSError:
            file.unlink()
            return
    raise StartupError(f"[server] uds: another server is listening on {str(file)!r}; stop it, or name another path")


def address(settings: ServerSettings, sock: socket.socket) -> str:
    """The address of a listening socket: ``http://HOST:PORT`` or ``unix:PATH``."""
    if settings.uds:
        return f"unix:{settings.uds}"
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def file_of(settings: ServerSettings) -> SocketFile | None:
    """The file at the Unix socket's path; None if there is none, and for TCP.

    A socket whose file was removed, or replaced by another server's, is open, but clients do not find it.
    """
    try:
        found = os.stat(settings.uds)  # noqa: PTH116  # a Path of "" would be the working directory
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remove_file(settings: ServerSettings, file: SocketFile | None) -> None:
    """Remove the Unix socket's file, unless there is another than `file`; only while the socket is open.

    Later another server's may have the same inode.
    """
    if file is not None and file_of(settings) == file:
        Path(settings.uds).unlink(missing_ok=True)
